"""Files of a study, claims and recipes that are damaged or written by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_harness import Fault

HEADER = "study,family,depth,width,unit,seed,draw,lr,step,x,metric,value,status\n"
ROW = "train,plain,20,,,0,,0.1,,,test_error,0.1,\n"
CLAIM = """
[[claim]]
name = "first"
sentence = "a number is positive"
table = "numbers"
metric = "test_error"
above = 0.0
expected = "supported"
"""


def study(folder: Path) -> Path:
    """Write the tables and the plan of a study that was trained."""
    from tiny_evidence import degrading, write_training

    write_training(folder / "study", degrading)
    return folder / "study"


def table(content: str | bytes) -> Callable[[Path], list[str]]:
    """Judge claims by a study with one table of this content."""

    def make(folder: Path) -> list[str]:
        path = folder / "study" / "data" / "numbers.csv"
        path.parent.mkdir(parents=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ["study", "check", str(folder / "study")]

    return make


def trained(column: str, verb: str, *, blank: bool = False) -> Callable[[Path], list[str]]:
    """Read a study whose table of runs lacks a column, or its cells."""

    def make(folder: Path) -> list[str]:
        import csv

        place = study(folder)
        path = place / "data" / "train.csv"
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if blank or name != column]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | {column: ""} for row in rows)
        return ["study", verb, str(place)] if verb == "check" else ["study", verb, "--out", place]

    return make


def plan(change: str | Callable[[dict[str, Any]], Any], verb: str = "report") -> Any:
    """Report a study whose plan has this text, or was changed."""

    def make(folder: Path) -> list[str]:
        place = study(folder)
        path = place / "data" / "plan.json"
        if isinstance(change, str):
            path.write_text(change)
        else:
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        return ["study", verb, str(place)] if verb == "check" else ["study", verb, "--out", place]

    return make


def claims(text: str) -> Callable[[Path], list[str]]:
    """Judge claims of this text."""

    def make(folder: Path) -> list[str]:
        words = table(HEADER + ROW)(folder)
        (folder / "claims.toml").write_text(text)
        return [*words, "--claims", str(folder / "claims.toml")]

    return make


def claim(old: str, new: str) -> Callable[[Path], list[str]]:
    assert old in CLAIM
    return claims(CLAIM.replace(old, new))


def recipe(text: str | bytes) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        path = folder / "recipe.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return ["train", "fashion-mini", "--recipe-file", str(path), "--out", str(folder / "run")]

    return make


def store(name: str, content: str | bytes) -> Callable[[Path], Callable[[], None]]:
    """Open the folder of a study's runs, one of whose files has this content."""

    def make(folder: Path) -> Callable[[], None]:
        from resnets.study.twins.run_store import RunStore
        from resnets.study.twins.study_config import PRESETS

        data = folder / "study" / "data"
        data.mkdir(parents=True)
        (data / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return lambda: RunStore(folder / "study", PRESETS["quick"]) and None

    return make


def _run_line(**changes: Any) -> str:
    from tiny_evidence import run

    return json.dumps(run("count", "plain", 20, 0.1, 0, 0.5) | changes) + "\n"


NO_TABLE = r"numbers\.csv: is not a table of a study"
TABLES = {
    "empty": ("", f"{NO_TABLE}.*first line"),
    "other-columns": ("a,b\n1,2\n", f"{NO_TABLE}.*unknown column 'a'"),
    "column-twice": (HEADER.replace("x,", "step,"), f"{NO_TABLE}.*each once"),
    "byte-order-mark": ("\ufeff" + HEADER.replace("unit", "a"), f"{NO_TABLE}.*unknown column 'a'"),
    "no-metric-column": ("study,value\ntrain,1\n", f"{NO_TABLE}.*first line"),
    "no-metric": (HEADER + ROW.replace("test_error", ""), "line 2 names no metric"),
    "more-cells": (HEADER + "1," + ROW, "line 2 has 14 cells, not 13"),
    "fewer-cells": (HEADER + "train,plain\n", "line 2 has 2 cells"),
    "torn": (HEADER + ROW + ROW[:20], "line 3 has . cells"),
    "a-word": (HEADER + ROW.replace("0.1,\n", "much,\n"), "line 2: could not convert"),
    "a-fraction": (HEADER + ROW.replace(",20,", ",20.5,"), "line 2: invalid literal for int"),
    "nan": (HEADER + ROW.replace("0.1,\n", "nan,\n"), "value = nan is not finite"),
    "infinite": (HEADER + ROW.replace("0.1,\n", "1e999,\n"), "value = 1e999 is not finite"),
    "digits": (HEADER + ROW.replace(",20,", f",{'7' * 5000},"), r"depth = '7+'?\.\.\. is not"),
    "arabic-digits": (HEADER + ROW.replace(",20,", ",\u0662\u0660,"), "is not a number"),
    "not-utf-8": ((HEADER + ROW).encode() + b"\xff\xfe", NO_TABLE),
    "nul": (HEADER + "\0" * 100, NO_TABLE),
    "quote-open": (HEADER + '"' + ROW, NO_TABLE),
    "long-cell": (HEADER + "a" * 200_000 + ROW, f"{NO_TABLE}.*field larger"),
}
PLANS: dict[str, tuple[str | Callable[[dict[str, Any]], Any], str]] = {
    "list": ("[]", r"Expected `object`"),
    "torn": ("{", "not valid JSON"),
    "empty": ("", "not valid JSON"),
    "no-keys": ("{}", "missing required field"),
    "deep": ("[" * 100_000, "nested more than"),
    "no-depths": (lambda p: [g.pop("depths") for g in p["groups"]], "depths"),
    "no-groups": (lambda p: p.update(groups=[]), "groups"),
    "depths-empty": (lambda p: p["groups"][0].update(depths=[]), "depths"),
    "depths-text": (lambda p: p["groups"][0].update(depths="abc"), "depths"),
    "no-setup": (lambda p: p.pop("setup"), "setup"),
    "no-recipe": (lambda p: p["setup"].pop("recipe"), "recipe"),
    "rates-text": (lambda p: p.update(rates="fast"), "rates"),
}
CLAIMS = {
    "empty": ("", "must hold"),
    "no-toml": ("claim = ", "not readable as TOML"),
    "deep": ("claim = " + "[" * 50_000, "nested more than"),
    "dotted": ("[[" + "a." * 50_000 + "a]]", "nested more than"),
    "digits": ("claim = 1" + "0" * 5000, "not readable as TOML"),
    "numbers": ("claim = [1, 2]", "claim 1: "),
    "texts": ("claim = ['abc']", "claim 1: "),
    "large": ("#" * 2**21, "has more than"),
}
CLAIM_EDITS = {
    "above-text": ("above = 0.0", "above = 'x'", "Expected `float"),
    "above-nan": ("above = 0.0", "above = nan", "must be finite"),
    "above-infinite": ("above = 0.0", "above = inf", "must be finite"),
    "above-true": ("above = 0.0", "above = true", "Expected `float"),
    "between-three": ("above = 0.0", "between = [1, 2, 3]", "between"),
    "table-a-list": ('table = "numbers"', "table = [1]", "Expected `str`.*table"),
    "metric-a-date": ('metric = "test_error"', "metric = 2020-01-01", "metric"),
    "where-a-list": ("above", "where = [1]\nabove", "where"),
    "where-list-inside": ("above", "where = {depth = [1]}\nabove", "where"),
    "where-text": ("above", "where = {depth = 'deep'}\nabove", "column depth is a number"),
    "where-number": ("above", "where = {family = 5}\nabove", "column family is a text"),
    "where-largest-text": ("above", "where = {family = 'max'}\nabove", "has no max"),
    "minus-text": ("above", "minus = 'x'\nabove", "minus"),
    "minus-foreign": ("above", "minus = {colour = 1}\nabove", "colour"),
    "unknown-key": ("above", "colour = 1\nabove", "unknown key 'colour'"),
    "expected": ('"supported"', '"true"', "unknown expected verdict"),
    "no-table": ('table = "numbers"\n', "", "it has no 'table'"),
}
RECIPES: dict[str, tuple[str | bytes, str]] = {
    "deep": ("epochs = " + "[" * 50_000, "nested more than"),
    "digits": ("epochs = 1" + "0" * 5000, "not readable as TOML"),
    "long-number": ("epochs = 1" + "0" * 400, "must be between"),
    "text": ("epochs = 'ten'", "--epochs 'ten': expected"),
    "table": ("[epochs]\na = 1", "--epochs .*: expected"),
    "list": ("seed = [1, 2]", "--seed .*: expected"),
    "date": ("seed = 2020-01-01", "--seed .*: expected"),
    "nan": ("learning_rate = nan", "finite"),
    "true": ("epochs = true", "--epochs True: expected"),
    "milestones": ("milestones = ['a']", "--milestones"),
    "milestones-tables": ("milestones = [{a = 1}]", "--milestones"),
    "recipe-list": ("recipe = [1]", "recipe"),
    "unknown": ("colour = 1", "unknown recipe field 'colour'"),
    "utf-16": (b"\xff\xfee\0", "not readable as TOML"),
    "large": ("#" * 2**21, "has more than"),
    "dotted": ("a" + ".a" * 100_000 + " = 1", "nested more than"),
    "dotted-quoted": ("'a'" + " . 'a'" * 30_000 + " = 1", "nested more than"),
}
RUNS: dict[str, tuple[str | bytes, str]] = {
    "deep": ("[" * 100_000 + "\n", "line 1 is nested"),
    "number": ("5\n", "line 1 is not valid"),
    "no-keys": ("{}\n", "line 1 is not valid: .*missing"),
    "bytes": (b"\xff\xfe\n", "line 1 is not valid JSON"),
    "damaged-middle": ("{}x\n{}\n", "line 1 is not valid JSON"),
    "curve": ('{"curve": 5}\n', "line 1 is not valid"),
}

FAULTS = [
    *(
        Fault(
            f"study-table/{verb}-lacks-{column}{'-cells' if blank else ''}",
            trained(column, verb, blank=blank),
            rf"train\.csv: is not a table of a study.*({column}|first line)",
        )
        for column in ("study", "seed")
        for verb, blank in (("check", False), ("check", True))
    ),
    *(
        Fault(f"study-table/{name}", table(content), message, cpu_seconds=3.0)
        for name, (content, message) in TABLES.items()
    ),
    *(
        Fault(f"study-plan/{name}", plan(change), rf"plan\.json.*{message}")
        for name, (change, message) in PLANS.items()
    ),
    Fault("study-plan/check", plan("[]", "check"), r"plan\.json"),
    *(
        Fault(f"claims/{name}", claims(text), rf"claims\.toml: .*{message}", cpu_seconds=3.0)
        for name, (text, message) in CLAIMS.items()
    ),
    *(
        Fault(f"claims/{name}", claim(old, new), rf"claims\.toml: claim first: .*{message}")
        for name, (old, new, message) in CLAIM_EDITS.items()
    ),
    *(
        Fault(f"recipe-file/{name}", recipe(text), message, cpu_seconds=3.0)
        for name, (text, message) in RECIPES.items()
    ),
    *(
        Fault(f"study-runs/{name}", store("runs.jsonl", content), rf"runs\.jsonl: {message}")
        for name, (content, message) in RUNS.items()
    ),
    Fault(
        "study-runs/metric-a-text",
        lambda folder: store("runs.jsonl", _run_line(test_error="low"))(folder),
        r"runs\.jsonl: line 1 is not valid: Expected `float`",
    ),
    Fault(
        "study-runs/fifo",
        lambda folder: _fifo(folder),
        r"runs\.jsonl: cannot be read \(it is a pipe",
    ),
]


def _fifo(folder: Path) -> Callable[[], None]:
    import os

    opened = store("runs.jsonl", "")(folder)
    path = folder / "study" / "data" / "runs.jsonl"
    path.unlink()
    os.mkfifo(path)
    return opened
