"""The shares of planted durations, and for each planted fault the remedy that names its flag."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnets.training.autotune import Advice
from resnets.training.profiler import STEPS, Clock, ProfileContext, Profiler
from resnets.training.recipe import Recipe
from resnets.training.run_dir import RunDir
from tiny_runs import recipe_of, run, start

RECIPE = Recipe().override(steps=1000, batch_size=32, size=64, workers=0, evaluate_every=1.0)
SOUND = ProfileContext(RECIPE, num_train=3200, num_val=320, cores=4, streamed=False)
STEP = {"copy": 0.01, "forward": 0.03, "backward": 0.05, "optimizer": 0.01}


def record_of(
    context: ProfileContext = SOUND,
    *,
    waited: float = 0.0,
    evaluation: float = 0.0,
    every: int = 10,
    first: float = 1.0,
    **phases: float,
) -> dict[str, Any]:
    """What is said after 50 steps of these durations; the first one takes `first` times as long."""
    now = 0.0
    profiler = Profiler(context, clock=Clock(lambda: now, lambda begin, end: end - begin))
    for step in range(1, STEPS + 1):
        for phase, seconds in (STEP | phases).items():
            before = waited if phase == "copy" else 0.0
            now += (seconds + before) * (first if step == 1 else 1.0)
            profiler.mark(phase, waited=before)
        if evaluation and step % every == 0:
            now += evaluation
            profiler.mark("evaluation")
        record = profiler.step()
        assert (record is None) == (step < STEPS)
    assert record is not None
    assert profiler.step() is None
    return record


def test_shares_are_those_of_the_durations() -> None:
    shares = record_of(replace(SOUND, num_val=0), waited=0.1)["shares"]
    expected = {
        "data wait": 0.5,
        "copy": 0.05,
        "forward": 0.15,
        "backward": 0.25,
        "optimizer": 0.05,
        "evaluation": 0.0,
        "other": 0.0,
    }
    assert shares == pytest.approx(expected)
    assert sum(shares.values()) == pytest.approx(1.0)


def test_the_first_steps_do_not_count() -> None:
    assert record_of(first=1000.0)["shares"] == pytest.approx(record_of()["shares"])


def test_a_sound_run_has_no_remedy() -> None:
    record = record_of()
    assert (record["bottleneck"], record["remedy"]) == ("backward", "")
    assert "backward 49%" in record["text"]
    assert "no flag would save" in record["text"]


@pytest.mark.parametrize(
    ("workers", "waited", "remedy"),
    [
        (0, 0.05, "--workers 1"),  # decoding takes half as long as the rest of the step
        (0, 0.25, "--workers 3"),
        (0, 9.0, "--workers 4"),  # no more than there are cores
        (2, 0.1, "--workers 4"),  # two keep half the pace
        (4, 0.1, "--cache-mb 59"),  # 3,200 x 3 x 64 x 64 bytes, and a margin to crop
    ],
)
def test_waiting_for_decoding(workers: int, waited: float, remedy: str) -> None:
    context = replace(SOUND, streamed=True, recipe=RECIPE.override(workers=workers))
    record = record_of(context, waited=waited)
    assert (record["bottleneck"], record["remedy"]) == ("data wait", remedy)
    assert remedy in record["text"]


def test_evaluating_too_often() -> None:
    record = record_of(evaluation=0.9, every=9)  # half of the time
    assert (record["bottleneck"], record["remedy"]) == ("evaluation", "--evaluate-every 19")
    assert record_of(evaluation=0.9 / 19, every=9)["remedy"] == ""


def test_the_cache_that_is_advised_holds_all_images() -> None:
    """At 30 pixels a canvas is 38 a side, not 37.5: 200,000 of them in colour take 826.3 MiB."""
    recipe = RECIPE.override(workers=4, size=30)
    context = replace(SOUND, streamed=True, recipe=recipe, num_train=200_000, num_val=0)
    assert record_of(context, waited=0.1)["remedy"] == "--cache-mb 827"


def test_validations_to_come_are_foreseen() -> None:
    context = replace(SOUND, num_val=32_000)  # ten times the training images, after each epoch
    record = record_of(context)
    assert record["shares"]["evaluation"] == pytest.approx(0.3 / 0.4)  # by forward passes
    assert record["bottleneck"] == "evaluation"
    once = replace(context, recipe=RECIPE.override(steps=100))  # nothing but the one at the end
    assert record_of(once)["shares"]["evaluation"] == 0.0


@pytest.mark.parametrize(
    "advice",
    [
        Advice("threads", 1, 0.2),
        Advice("precision", "fp32", 0.5),
        Advice("memory_format", "channels_last", 0.7),
        Advice("batch_size", 128, 0.3),
        Advice("grad_accum_steps", 4, 0.8),
    ],
    ids=lambda advice: advice.name,
)
def test_what_the_probe_advised(advice: Advice) -> None:
    slight = Advice("precision", "bf16", 0.89)
    record = record_of(replace(SOUND, advice=(slight, advice)))
    assert record["remedy"] == advice.flag
    assert record["bottleneck"] == advice.name.replace("_", " ")


def test_the_largest_saving_is_named() -> None:
    context = replace(SOUND, streamed=True, advice=(Advice("threads", 1, 0.5),))
    assert record_of(context, waited=0.02)["remedy"] == "--threads 1"
    assert record_of(context, waited=0.5)["bottleneck"] == "data wait"


def test_a_run_says_it_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    recipe = recipe_of(steps=STEPS + 5)
    state, folder = start(recipe), RunDir(tmp_path)
    assert run(state, recipe, folder)
    (record,) = [record for record in folder.history() if record["kind"] == "shares"]
    assert (record["step"], set(record["shares"])) == (
        STEPS,
        {
            "data wait",
            "copy",
            "forward",
            "backward",
            "optimizer",
            "evaluation",
            "other",
        },
    )
    assert record["shares"]["forward"] > 0 < record["shares"]["evaluation"]
    assert sum(record["shares"].values()) == pytest.approx(1.0)
    folder.forget_after(STEPS, validated=STEPS)  # a run that goes on has said it before
    assert record in folder.history()
