"""Run folders and model files whose JSON is damaged or edited."""

from pathlib import Path

from fault_harness import Fault, interrupted_run


def _deep_config(folder: Path) -> list[str]:
    run = interrupted_run(folder)
    (run / "config.json").write_text("[" * 100_000)
    return ["train", "--resume", str(run)]


FAULTS = [
    Fault("run-folder/config-nested-deep", _deep_config, r"config\.json", catalogue="T15"),
]
