"""A whole study, tiny: every part in its order, none of them twice; gradients at step 0."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from resnets.study import pipeline
from resnets.study.pipeline import Pipeline
from resnets.study.probes.initial_gradients import initial_gradient_rows
from resnets.study.probes.probe_suite import Prober, networks_of_job
from resnets.study.tables import Row, Tables, one, probe_path, read_table, select, write_table
from resnets.study.twins.study_config import Group, StudyConfig
from resnets.study.twins.trial import new_network, run_trial
from tiny_evidence import degrading, write_probes, write_training
from tiny_evidence import plan as minutes
from tiny_study import STEPS, Inline, tiny_plan, write_images


@pytest.fixture
def plan(tmp_path: Path) -> StudyConfig:
    return tiny_plan(write_images(tmp_path / "rows.npz"))


@pytest.mark.slow
def test_all_parts_are_done_once(
    plan: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, lines = Inline(), list[str]()
    study = Pipeline(
        plan, tmp_path / "study", lambda: nullcontext(executor), device="cpu", log=lines.append
    )
    page = study.run()
    assert page == tmp_path / "study" / "study.html" and page.exists()
    data = page.parent / "data"
    for family in ("plain", "residual"):
        gradients = read_table(data / f"probe_gradients_{family}-14.csv")
        assert {row.get("step") for row in gradients} == {None, 0, 1, 10, STEPS}
        last = [row["value"] for row in gradients if row.get("step") == STEPS]
        assert last == [row["value"] for row in gradients if row.get("step") is None]
    runs, calls = (data / "runs.jsonl").read_bytes(), executor.calls
    lines.clear()
    # Drawn once is enough.
    monkeypatch.setattr(pipeline, "write_study_report", lambda folder: page)
    assert study.run() == page
    assert executor.calls == calls and (data / "runs.jsonl").read_bytes() == runs
    parts = [line for line in lines if line.startswith("part ")]
    again = [line for line in parts if not line.endswith("exists already")]
    assert len(parts) == 9 and len(again) == 1 and "training" in again[0]


def test_study_alone_does_what_is_missing_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def train(*arguments: Any, **named: Any) -> None:
        done.append("train")
        write_training(tmp_path, degrading)
        (tmp_path / "models").mkdir(exist_ok=True)
        for name in ("residual-56", "residual-8", "plain-8"):
            (tmp_path / "models" / f"{name}.safetensors").touch()

    class Recorder(Prober):
        def probe(self, model: Path, **named: Any) -> list[Path]:
            done.append(model.stem)
            write_probes(self.out)
            return []

        def compare(self, model: Path, against: Path) -> Path:
            done.append(f"{model.stem} against {against.stem}")
            path = probe_path(self.out, "across", done[-1].replace(" ", "-"))
            write_table(path, [])
            return path

    def init(out: Path, **named: Any) -> None:
        done.append("init")
        (out / "data").mkdir(parents=True)
        write_table(out / "data" / "init_theory.csv", [])

    def initial(*arguments: Any) -> list[Row]:
        done.append("step 0")
        return []

    kept = SimpleNamespace(recipe={"learning_rate": 0.1})
    monkeypatch.setattr(pipeline, "read_model", lambda path: kept)
    monkeypatch.setattr(pipeline, "measure_init", init)
    monkeypatch.setattr(pipeline, "train_twins", train)
    monkeypatch.setattr(pipeline, "summary_lines", lambda summary: [])
    monkeypatch.setattr(pipeline, "Prober", Recorder)
    monkeypatch.setattr(pipeline, "write_study_report", lambda folder: folder / "study.html")
    monkeypatch.setattr(pipeline, "initial_gradient_rows", initial)
    lines: list[str] = []
    for _ in range(2):
        page = Pipeline(minutes(), tmp_path, nullcontext, device="cpu", log=lines.append).run()
    assert page == tmp_path / "study.html"
    measured = ["step 0", "residual-56", "residual-8 against plain-8"]
    assert done == ["init", "train", *measured, "train"]  # nothing is measured twice
    assert "plain-56.safetensors is missing" in " ".join(lines)


def test_the_first_networks_are_those_of_the_run(plan: StudyConfig) -> None:
    """Repeated to the last step, the weights are those of the run, to the last bit."""
    job = replace(plan.counted(("residual", 8), 0.1, 0), keeps_weights=True)
    kept = run_trial(job).weights
    assert kept is not None
    networks = dict(networks_of_job(job, (0, STEPS)))
    assert sorted(networks) == [0, STEPS]
    for name, tensor in networks[STEPS].state_dict().items():
        assert torch.equal(tensor, torch.from_numpy(kept[name])), name
    assert not torch.equal(networks[0].fc.weight, networks[STEPS].fc.weight)


def trained(errors: dict[str, float | None]) -> Tables:
    """The table of training of 14 layers; None: the one run diverged."""
    rows = []
    for family, error in errors.items():
        row: Row = {"study": "train", "family": family, "depth": 14, "seed": 0}
        row |= {"metric": "train_error"}
        rows.append(row | ({"status": "diverged"} if error is None else {"value": error}))
    return Tables(Path(), {"train": rows}, {})


def test_gradients_at_step_0_are_those_of_the_studys_networks(plan: StudyConfig) -> None:
    """Families that start as identities keep the gradient; the order by error is a rank."""
    families = ("plain", "residual", "skipinit", "fixup", "scaled", "halved")
    plan = replace(
        plan, groups=(Group(("plain", "residual"), (14,), (0,)), Group(families, (14,), (0,)))
    )
    errors = dict(zip(families, (None, 0.5, 0.1, 0.2, 0.3, 0.4), strict=True))
    rows = list(initial_gradient_rows(plan, trained(errors)))
    for family in ("skipinit", "fixup"):
        logs = select(rows, family=family, metric="log10_gradient")
        assert [row["unit"] for row in logs] == list(range(7))
        assert logs[-1]["value"] == 0
        (word,) = select(rows, family=family, metric="verdict_backward")
        assert word["status"] == "healthy"
    span = one(rows, family="plain", metric="log10_gradient_span")
    assert span is not None and span == one(rows, family="plain", metric="log10_gradient", unit=0)
    (row,) = select(rows, family="plain", metric="trained_error")
    assert row["status"] == "1 of 1 diverged" and "value" not in row
    assert one(rows, family="residual", metric="trained_error") == 0.5
    assert one(rows, metric="chance_error") == pytest.approx(2 / 3)
    for depth in (None, 14):
        found = one(rows, metric="spearman_log10_gradient_span", depth=depth, x=6)
        assert found is not None and -1 <= found <= 1


def test_the_gradient_is_autograds_in_training_mode(plan: StudyConfig) -> None:
    """At the training batch: the ratio of two norms, from the network itself."""
    from resnets.study.probes import initial_gradients as module
    from resnets.study.twins.trial import prepared

    job = plan.counted(("plain", 14), 0.1, 0)
    logs, cosine = module._measure(job)
    with prepared(job) as (_, stream):
        images = next(iter(stream.batches(0, 1))).images
    network = new_network(job).train()
    kept: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    blocks = [b for name in network.stage_names for b in network.get_submodule(name).children()]
    for layer in (network.maxpool, *blocks):
        layer.register_forward_hook(keep)
    network(images)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(kept[-1].shape[1:], generator=generator)
    signs = torch.randint(2, (len(images), 1, 1, 1), generator=generator) * 2 - 1
    kept[-1].backward(signs * direction)  # type: ignore[no-untyped-call]
    norms = [float(x.grad.norm()) for x in kept if x.grad is not None]
    assert logs == pytest.approx([math.log10(norm / norms[-1]) for norm in norms], abs=1e-4)
    assert -1 <= cosine <= 1
