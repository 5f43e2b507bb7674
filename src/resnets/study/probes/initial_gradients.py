"""Measure gradients of a study's own networks at step 0, beside the error that they train to.

The sweep of `propagation/` has batches of 16; here batch norm is over the run's own first batch.

Shapes: N images, C H W; x_l is the output of block l of L, x_0 that of the stem, g_l its gradient.
"""

import math
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor

from resnets.study.probes.adapters import take_apart
from resnets.study.probes.residual_chain import Chain, batch_statistics, finite
from resnets.study.propagation.stability import NEIGHBOURS, backward_verdict
from resnets.study.statistics import spearman
from resnets.study.tables import Row, Tables, select
from resnets.study.twins.study_config import Cell, StudyConfig, TwinJob
from resnets.study.twins.trial import dataset_of, prepared

SPAN, COSINE = "log10_gradient_span", "gradient_cosine"
FEWEST_CELLS = 5  # of a depth that a rank correlation of its own is given for


def initial_gradient_rows(config: StudyConfig, tables: Tables) -> Iterator[Row]:
    """Yield `initial_gradients.csv`, once the study's networks have been trained.

    Metrics of a cell, with the network of its first seed:
        log10_gradient       log10 of |g_l| / |g_L|; `unit` is l
        log10_gradient_span  the same at l = 0
        gradient_cosine      mean cosine of g_0 at an image and at a neighbour of cosine 0.99
        verdict_backward     explodes, vanishes, shatters or healthy, by the thresholds of the sweep
        trained_error        mean training error of the runs that did not diverge
    Then `chance_error`, and Spearman's rank correlation over the cells (x of them) of |span| and of
    1 - cosine with the trained error, where a cell whose runs all diverged has chance error.
    """
    chance = dataset_of(config.setup).chance
    counted = select(tables.table("train"), study="train", metric="train_error")
    points: dict[Cell, tuple[float, float, float]] = {}
    for cell, seeds in sorted(config.cells(), key=lambda item: item[0]):
        about: Row = {"study": "init-training", "family": cell[0], "depth": cell[1]}
        job = config.counted(cell, config.rates[0], seeds[0])
        logs, cosine = _measure(job)
        own = about | {"seed": job.seed}
        for block, value in enumerate(logs):
            yield own | {"metric": "log10_gradient", "unit": block} | finite(value)
        yield own | {"metric": SPAN} | finite(logs[0])
        yield own | {"metric": COSINE, "x": NEIGHBOURS} | finite(cosine)
        yield own | {"metric": "verdict_backward", "status": backward_verdict(logs[0], cosine)}
        runs = select(counted, family=cell[0], depth=cell[1])
        errors = [run["value"] for run in runs if "value" in run]
        error = statistics.fmean(errors) if errors else None
        row = about | {"metric": "trained_error"} | ({} if error is None else {"value": error})
        lost = len(runs) - len(errors)
        yield row | ({"status": f"{lost} of {len(runs)} diverged"} if lost else {})
        if math.isfinite(logs[0]) and math.isfinite(cosine):
            points[cell] = abs(logs[0]), 1 - cosine, chance if error is None else error
    yield {"study": "init-training", "metric": "chance_error", "value": chance}
    yield from _correlations(points)


def _measure(job: TwinJob) -> tuple[list[float], float]:
    """log10 of |g_l| / |g_L| for l = 0 ... L, and the cosine of g_0 with a neighbour's."""
    with prepared(job) as (state, stream):
        images = next(iter(stream.batches(0, 1))).images
        chain = take_apart(state.model)
        generator = torch.Generator().manual_seed(job.seed)
        noise = torch.randn(images.shape, generator=generator).to(images)
        sizes = [x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for x in (images, noise)]
        apart = noise * (sizes[0] / sizes[1]) * (1 - NEIGHBOURS**2) ** 0.5
        gradients = _gradients(chain, images)
        (near, *_) = _gradients(chain, NEIGHBOURS * images + apart)
    norms = [float(g.double().norm()) for g in gradients]
    logs = [math.log10(norm / norms[-1]) if norm else -math.inf for norm in norms]
    own, other = (g.double().flatten(1) for g in (gradients[0], near))
    return logs, float(torch.cosine_similarity(own, other).mean())


def _gradients(chain: Chain, images: Tensor) -> tuple[Tensor, ...]:
    """Gradients at x_0 ... x_L of a random direction with a random sign an image.

    Not of the loss: a classifier that starts at zero, as Fixup's does, sends no gradient back.
    """
    with batch_statistics(chain.network), torch.enable_grad():
        xs = chain.onward(chain.stem(images).detach().requires_grad_())
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(xs[-1].shape[1:], generator=generator)
        signs = torch.randint(2, (len(images), 1, 1, 1), generator=generator) * 2 - 1
        return torch.autograd.grad(xs[-1], xs, (signs * direction).to(images))


def _correlations(points: dict[Cell, tuple[float, float, float]]) -> Iterator[Row]:
    """Rank correlations over all cells, and over those of each depth with enough of them."""
    depths = sorted({depth for _, depth in points})
    for depth in (None, *depths):
        chosen = [point for cell, point in points.items() if depth in (None, cell[1])]
        if depth is not None and len(chosen) < FEWEST_CELLS:
            continue
        for place, name in enumerate((SPAN, COSINE)):
            found = spearman([point[place] for point in chosen], [point[2] for point in chosen])
            if found is not None:
                about = {"study": "init-training", "depth": depth, "x": len(chosen)}
                yield about | {"metric": f"spearman_{name}", "value": found}
