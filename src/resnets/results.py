"""What a finished run leaves: the model file, the scores of that very file, the page.

Enters: a `Job` and its run folder with the best weights. Leaves: a `TrainingResult`. scores.json
is written last: where it is missing, the run can go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.evaluation.evaluator import Mistakes, score, unreadable_notice
from resnets.evaluation.metrics import Scores
from resnets.inference.model_file import ModelFile, read_model, save_model
from resnets.report.page import (
    Mistake,
    ReportRecord,
    TrainingRecord,
    missing_charts,
    write_report,
)
from resnets.training.checkpoint import MODEL_FILE, RunFolder
from resnets.training.job import Job

SAMPLES_SHOWN = 32
OF_THE_MACHINE = (
    "threads",
    "tune",
    "workers",
    "cache_mb",
    "compile",
    "weights",
    "checkpoint_every",
)
"""recipe fields that stay out of the model file: they say where it was made, not what it is"""


@dataclass(frozen=True)
class TrainingResult:
    """What `train` leaves behind."""

    folder: Path
    scores: Scores | None
    """None when the run was interrupted, or its model file could not be written"""
    part: str
    """the images that were scored: "test", or "validation" where there are no test images"""
    caution: str | None = None
    """what must be said wherever the scores are"""
    signal: int | None = None
    """number of the signal that interrupted the run"""
    unsaved: str | None = None
    """why not everything could be written at the end"""

    @property
    def model(self) -> Path:
        """The model file."""
        return self.folder / MODEL_FILE


def finish(
    job: Job,
    folder: RunFolder,
    *,
    notices: Sequence[str],
    cautions: Sequence[str],
    tell: Callable[[str], None],
) -> TrainingResult:
    """Model file, final scores of that very file, page and pictures.

    `notices` stand on the page, and `cautions` wherever the scores do; `tell` hears a new notice.
    """
    part, images = job.splits.scored
    caution = "; ".join(cautions) or None
    path, scores = folder.path / MODEL_FILE, None
    mistakes = Mistakes(images, job.classes, job.preprocess)
    try:
        save_model(path, _contents(job, folder, scores=None))
        scores = score(
            read_model(path),
            images,
            device=job.device,
            workers=job.recipe.workers or 0,
            callback=mistakes,
            cache_mb=job.recipe.cache_mb,
        )
        for text in [*unreadable_notice(scores, images), *missing_charts()]:
            notices = [*notices, text]
            tell(text)
        record = scores.to_dict() | {"part": part, "validate_on": job.recipe.validate_on}
        record |= {"cautions": list(cautions)} if cautions else {}
        save_model(path, _contents(job, folder, scores=record))
        page = _report(job, folder, scores, part, notices=notices, cautions=cautions)
        shown = [Mistake(**row) for row in mistakes.worst()]
        write_report(folder.path, replace(page, mistakes=shown))
        folder.write_json("scores.json", record)
    except OSError as error:
        return TrainingResult(folder.path, scores, part, caution, unsaved=str(error))
    return TrainingResult(folder.path, scores, part, caution)


def _contents(job: Job, folder: RunFolder, *, scores: dict[str, Any] | None) -> ModelFile:
    recipe = {k: v for k, v in asdict(job.recipe).items() if k not in OF_THE_MACHINE}
    stored = folder.read_json("data.json")
    return ModelFile(
        config=job.new_model_config(),
        preprocess=job.preprocess,
        classes=job.classes,
        scores=scores,
        recipe=json.loads(json.dumps(recipe)),
        data={key: stored[key] for key in ("name", "fingerprint", "sizes")},
        weights=folder.load_best().tensors,
    )


def _samples(job: Job) -> list[tuple[NDArray[np.uint8], str]]:
    """Training images as the network sees them: augmented, back in colours."""
    batch = next(iter(job.stream.batches(0, 1)))
    mean = torch.tensor(job.preprocess.mean, device=job.device).view(1, -1, 1, 1)
    std = torch.tensor(job.preprocess.std, device=job.device).view(1, -1, 1, 1)
    colours = ((batch.images * std + mean) * 255).round().clamp(0, 255).byte()
    targets = batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(1)
    pixels = colours.permute(0, 2, 3, 1).cpu().numpy()
    labels = [job.classes[int(target)] for target in targets]
    return list(zip(pixels, labels, strict=True))[:SAMPLES_SHOWN]


def _report(
    job: Job,
    folder: RunFolder,
    scores: Scores,
    part: str,
    *,
    notices: Sequence[str],
    cautions: Sequence[str],
) -> ReportRecord:
    """Gather what the report page shows."""
    recipe: Any = job.recipe  # resolved: none of these fields is None
    training = TrainingRecord(
        split_sizes=job.splits.sizes(),
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        best_step=folder.load_best().scalars["step"],
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    return ReportRecord(
        model=recipe.model,
        image_size=recipe.size,
        data=folder.read_json("data.json")["name"],
        split=part,
        scores=scores.to_dict(),
        model_file=MODEL_FILE,
        training=training,
        history=folder.history(),
        samples=_samples(job),
        notices=notices,
        cautions=cautions,
    )
