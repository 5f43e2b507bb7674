"""`resnets study` as a whole, tiny: every part in its order, none of them twice."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from resnets.study import everything
from resnets.study.everything import study_everything
from resnets.study.probes import ablation as lesions
from resnets.study.probes import loss_landscape as landscape
from resnets.study.probes import probe_suite as inside
from resnets.study.probes import replay
from resnets.study.propagation.sweep import measure_init
from resnets.study.tables import read_table
from resnets.study.twins.study_config import Plan
from resnets.study.twins.trial import run
from tiny_study import STEPS, Inline, tiny_plan, write_images


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return tiny_plan(write_images(tmp_path / "rows.npz"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less depth and fewer points, so that everything together takes seconds."""
    atlas = partial(measure_init, depths=(2, 6), widths=(8,), draws=2)
    for room, name, value in (
        (everything, "measure_init", atlas), (landscape, "DIRECTIONS", 2), (landscape, "STEPS", 3),
        (lesions, "DRAWS", 1), (inside, "IMAGES", 64),
    ):  # fmt: skip
        monkeypatch.setattr(room, name, value)


@pytest.mark.usefixtures("small")
def test_all_parts_are_done_once(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, told = Inline(), list[str]()

    def study() -> Path:
        return study_everything(
            plan, tmp_path / "study", executor=lambda: nullcontext(executor), device="cpu",
            tell=told.append,
        )  # fmt: skip

    page = study()
    assert page == tmp_path / "study" / "study.html"
    assert {"figure-degradation", "figure-paths"} <= set(
        re.findall(r"figure-\w+", page.read_text())
    )
    data = page.parent / "data"
    for family in ("plain", "residual"):
        gradients = read_table(data / f"probe_gradients_{family}-14.csv")
        assert {row.get("step") for row in gradients} == {None, 0, 1, 10, STEPS}
        last = [row["value"] for row in gradients if row.get("step") == STEPS]
        assert last == [row["value"] for row in gradients if row.get("step") is None]
    runs, calls = (data / "runs.jsonl").read_bytes(), executor.calls
    told.clear()
    # Drawn once is enough.
    monkeypatch.setattr(everything, "write_study_report", lambda folder: page)
    assert study() == page
    assert executor.calls == calls and (data / "runs.jsonl").read_bytes() == runs
    parts = [line for line in told if line.startswith("part ")]
    again = [line for line in parts if not line.endswith("done before")]
    assert len(parts) == 8 and len(again) == 1 and "train" in again[0]


def test_the_first_networks_are_those_of_the_run(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done again to the last step, the weights are those that the run left, to the last bit."""
    job = replace(plan.counted(("residual", 8), 0.1, 0), keeps_weights=True)
    kept = run(job).weights
    assert kept is not None
    monkeypatch.setattr(replay, "STEPS", (0, STEPS))
    networks = dict(replay.networks_of_job(job))
    assert sorted(networks) == [0, STEPS]
    for name, tensor in networks[STEPS].state_dict().items():
        assert torch.equal(tensor, torch.from_numpy(kept[name])), name
    assert not torch.equal(networks[0].fc.weight, networks[STEPS].fc.weight)
