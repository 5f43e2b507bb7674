"""The figure of gradients during training."""

from __future__ import annotations

from resnets.study.report.evidence import Row

from resnets.study.report.gradients import gradients as profiles_of


def profiles(*stems: float) -> list[Row]:
    """Gradients of one network whose stem has so many times the last unit's, step after step."""
    return [
        {"study": "probe", "family": "plain", "depth": 56, "metric": "gradient_x", "unit": unit,
         "value": factor ** (1 - unit / 4)} | ({} if step is None else {"step": step})
        for step, factor in zip((0, 1, 400, None), (*stems, 9.0), strict=False)
        for unit in range(5)
    ]  # fmt: skip


def test_gradients_are_compared_before_and_after_training() -> None:
    exhibit = profiles_of({"plain-56": profiles(1000, 30, 0.5)}, (), "command")
    assert exhibit is not None
    assert exhibit.sentence == (
        "In plain-56 the gradient at the stem is 1,000 times that at the last unit before "
        "training and 0.5 times after step 400: training evens it out."
    )
    (panel,) = exhibit.panels
    assert [row["series"] for row in panel.data["rows"][::5]] == ["step 0", "step 1", "step 400"]
    assert profiles_of({"plain-56": profiles()}, (), "command") is None, "no steps, nothing to see"
