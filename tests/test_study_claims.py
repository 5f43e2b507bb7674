"""Claims: verdicts follow the numbers, exit codes the verdicts, and a bad file is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resnets.cli.main import main
from resnets.errors import UserError
from resnets.study.claims import STORED, read_claims
from resnets.study.tables import Tables, read_table, write_table
from resnets.study.verdicts import judge_all
from tiny_evidence import degrading, turned_round, write_init, write_probes, write_training

Errors = Callable[[str, int, int], float]
OVER_SEEDS = ("shortcuts", "plain-degrades", "residual-gains")
MINIMAL = """
[[claim]]
name = "first"
sentence = "a number is positive"
table = "numbers"
metric = "number"
above = 0.0
expected = "supported"
"""


def verdicts(folder: Path, claims: Path = STORED) -> dict[str, str]:
    judged = judge_all(read_claims(claims), Tables.read(folder))
    return {found.claim.name: found.verdict for found in judged}


def numbers(folder: Path, values: list[float], **columns: object) -> Path:
    """A table of draws."""
    rows = [{"metric": "number", "draw": k, "value": v, **columns} for k, v in enumerate(values)]
    write_table(folder / "data" / "numbers.csv", rows)
    return folder


def claims_of(folder: Path, text: str = MINIMAL) -> Path:
    path = folder / "claims.toml"
    path.write_text(text, encoding="utf-8")
    return path


def check(folder: Path, claims: Path | None = None) -> int:
    return main(["study", "check", str(folder), *(["--claims", str(claims)] if claims else [])])


def test_what_the_paper_found_is_supported(tmp_path: Path) -> None:
    write_training(tmp_path, degrading)
    write_probes(tmp_path)
    found = verdicts(tmp_path)
    for name in ("shortcuts", "plain-degrades", "residual-gains", "short-paths", "paths-sum"):
        assert found[name] == "supported", name
    for name in ("residual-survives", "plain-breaks", "refinement", "weak-responses"):
        assert found[name] == "supported", name
    assert found["plain-norm-explodes"] == "not measured"


def test_the_opposite_is_contradicted(tmp_path: Path) -> None:
    write_training(tmp_path, turned_round)
    found = verdicts(tmp_path)
    assert {found[name] for name in OVER_SEEDS} == {"contradicted"}


def test_another_network_in_the_folder_changes_no_stored_claim(tmp_path: Path) -> None:
    write_training(tmp_path, degrading)
    write_probes(tmp_path)
    before = verdicts(tmp_path)
    for path in (tmp_path / "data").glob("probe_*_residual-56.csv"):
        worse = [
            row | {"value": 0.9 + row["value"], "depth": depth}
            for row in read_table(path) for depth in (56, 110)
        ]  # fmt: skip
        write_table(path.with_name(path.name.replace("residual-56", "mine")), worse)
    assert verdicts(tmp_path) == before
    text = MINIMAL.replace("numbers", "probe_use").replace('"number"', '"branch_ratio"')
    text = text.replace("0.0", "0.5")  # a claim of one's own may pool
    assert verdicts(tmp_path, claims_of(tmp_path, text)) == {"first": "supported"}


@pytest.mark.parametrize(
    ("family", "claim"), [("plain", "plain-breaks"), ("residual", "residual-survives")]
)
def test_lesions_of_a_network_at_chance_decide_nothing(
    tmp_path: Path, family: str, claim: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_training(tmp_path, degrading)
    write_probes(tmp_path)
    path = tmp_path / "data" / f"probe_lesions_{family}-56.csv"
    at_chance = [row | {"value": 0.9} if "error" in row["metric"] else row
                 for row in read_table(path)]  # fmt: skip
    write_table(path, at_chance)
    assert verdicts(tmp_path)[claim] == "inconclusive"
    check(tmp_path)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if f"  {claim}  " in line)
    assert "; the whole network has 90.0% error, so its ablations show little" in line


def test_few_seeds_decide_nothing(tmp_path: Path) -> None:
    lost = lambda family, depth, seed: degrading(family, depth, seed) if seed < 2 else None  # noqa: E731
    write_training(tmp_path, lost)
    assert verdicts(tmp_path)["shortcuts"] == "inconclusive"


@pytest.mark.parametrize("errors", [degrading, turned_round])
def test_three_seeds_are_too_few_for_a_verdict(tmp_path: Path, errors: Errors) -> None:
    write_training(tmp_path, lambda f, d, s: errors(f, d, s) if s < 3 else None)
    found = verdicts(tmp_path)  # intervals are clear of zero, but p is 1/8 at best
    assert {found[name] for name in OVER_SEEDS} == {"inconclusive"}


def test_a_claim_of_ones_own_over_seeds_takes_the_exact_test_too(tmp_path: Path) -> None:
    write_training(tmp_path, degrading)
    path = tmp_path / "data" / "train.csv"
    text = MINIMAL.replace("numbers", "train").replace('"number"', '"train_error"')
    text += 'where = { study = "train", family = "plain", depth = 56 }\n'
    assert verdicts(tmp_path, claims_of(tmp_path, text)) == {"first": "supported"}
    write_table(path, [row for row in read_table(path) if row["seed"] < 4])
    (judged,) = judge_all(read_claims(claims_of(tmp_path, text)), Tables.read(tmp_path))
    assert judged.effect is not None and judged.effect.ends is not None
    assert judged.effect.ends[0] > 0.5 and judged.p == 1 / 16  # the interval alone is too bold
    assert judged.verdict == "inconclusive"


def test_growth_is_compared_with_theory(tmp_path: Path) -> None:
    write_init(tmp_path)
    found = verdicts(tmp_path)
    assert found["plain-norm-explodes"] == found["shortcut-alone-explodes"] == "supported"
    write_init(tmp_path, {"plain": 0.0, "plain-bn": -0.2, "residual": 0.0, "scaled": 0.0})
    assert verdicts(tmp_path)["plain-norm-explodes"] == "contradicted"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([2.0, 2.1, 1.9, 2.0], "supported"),
        ([-2.0, -2.1, -1.9, -2.0], "contradicted"),
        ([1.0, 2.0, 3.0], "inconclusive"),  # a range is no interval
        ([-1.0, 1.0, 2.0, -2.0], "inconclusive"),
        ([1.0, 2.0], "inconclusive"),  # too few for an interval
        ([1.0], "supported"),  # one measurement, exact
    ],
)
def test_the_interval_decides(tmp_path: Path, values: list[float], verdict: str) -> None:
    assert verdicts(numbers(tmp_path, values), claims_of(tmp_path)) == {"first": verdict}


def test_the_largest_depth_is_found(tmp_path: Path) -> None:
    rows = [{"metric": "number", "depth": depth, "value": 20.0 - depth} for depth in (8, 56)]
    write_table(tmp_path / "data" / "numbers.csv", rows)
    text = MINIMAL + 'where = { depth = "max" }\n'
    assert verdicts(tmp_path, claims_of(tmp_path, text)) == {"first": "contradicted"}


def test_the_second_number_is_at_the_depth_of_the_first(tmp_path: Path) -> None:
    """Residual networks of 56 layers are missing: those of 20 do not stand in for them."""
    write_training(tmp_path, degrading)
    path = tmp_path / "data" / "train.csv"
    rows = [row for row in read_table(path) if (row["family"], row["depth"]) != ("residual", 56)]
    write_table(path, rows)
    assert verdicts(tmp_path)["shortcuts"] == "not measured"


def test_numbers_are_paired_by_draw_and_unit(tmp_path: Path) -> None:
    rows = [
        {"metric": metric, "unit": unit, "value": 10.0 * unit + shift}
        for metric, shift in (("number", 1.0), ("other", 0.0)) for unit in range(4)
    ]  # fmt: skip
    write_table(tmp_path / "data" / "numbers.csv", rows)
    text = MINIMAL + 'minus = { metric = "other" }\n'
    (judged,) = judge_all(read_claims(claims_of(tmp_path, text)), Tables.read(tmp_path))
    assert judged.effect is not None
    assert (judged.effect.low, judged.effect.value, judged.effect.high) == (1.0, 1.0, 1.0)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claims = claims_of(tmp_path)
    assert check(numbers(tmp_path, [1.9, 2.0, 2.0, 2.1]), claims) == 0
    assert capsys.readouterr().out.startswith("holds  first  supported: 2 [")
    assert check(numbers(tmp_path, [-1.9, -2.0, -2.0, -2.1]), claims) == 1
    out = capsys.readouterr().out
    assert out.startswith("fails  first  contradicted (expected: supported): -2 [")
    assert out.count("\n") == 1
    (tmp_path / "data" / "numbers.csv").rename(tmp_path / "data" / "others.csv")
    assert check(tmp_path, claims) == 1
    assert capsys.readouterr().out == "fails  first  not measured (expected: supported)\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("claim = ", "not readable as TOML"),
        ("", "must hold [[claim]] entries"),
        ("[[claim]]\nname = 'x'\n", "claim x: it has no 'expected'"),
        (MINIMAL + "sentense = 'x'\n", "unknown key 'sentense'; did you mean 'sentence'?"),
        (MINIMAL + "below = 1.0\n", "it needs one of above, below, between"),
        (MINIMAL + "where = { dept = 3 }\n", "unknown column 'dept'; did you mean 'depth'?"),
        (MINIMAL.replace("supported", "true"), "unknown expected verdict 'true'"),
        (MINIMAL.replace("0.0", "'x'"), "Expected `float | null`, got `str`"),
        (MINIMAL + "minus = 3\n", "claim first: "),
        (MINIMAL.replace("numbers", "summary"), "use table train, whose rows are those of seeds"),
    ],
)
def test_a_bad_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    assert check(numbers(tmp_path, [1.0]), claims_of(tmp_path, text)) == 2
    err = capsys.readouterr().err
    assert reason in err and err.count("\n") == 1


def test_a_folder_without_tables_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path) == 2
    err = capsys.readouterr().err
    assert "holds no tables of a study" in err and err.count("\n") == 1


def test_every_stored_claim_says_what_it_is() -> None:
    claims = read_claims(STORED)
    assert len({claim.name for claim in claims}) == len(claims) >= 12
    for claim in claims:
        assert claim.sentence and claim.test and claim.published and claim.comparable, claim.name


def test_a_claims_file_that_is_not_there(tmp_path: Path) -> None:
    assert check(numbers(tmp_path, [1.0]), tmp_path / "none.toml") == 2
    with pytest.raises(UserError):
        Tables.read(tmp_path / "nowhere")
