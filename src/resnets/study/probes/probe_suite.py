"""All measurements inside a trained network, in the order from cheap to dear.

Enters: a network with residual units, images and targets. Leaves: named tables, a row a number.
What each measures stands in its own room: `responses.py`, `use.py`, `lesions.py`, `paths.py`,
`similarity.py`, `landscape.py`. Same network, same images, same rows: draws are seeded.

Shapes: N images, C H W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnets.errors import UserError
from resnets.study.probes.ablation import intact, remove_each, remove_several
from resnets.study.probes.activation_stats import gradient_profile, layer_responses
from resnets.study.probes.adapters import take_apart
from resnets.study.probes.block_stats import branch_use, linear_probes, logit_lens
from resnets.study.probes.cka import cka_rows
from resnets.study.probes.loss_landscape import loss_lines
from resnets.study.probes.path_gradients import path_rows
from resnets.study.probes.residual_chain import Chain
from resnets.study.tables import Row

IMAGES = 500
"""that a probe sees; a measurement that passes through the network often takes the first ones"""
GRADIENT_IMAGES, LESION_IMAGES, LANDSCAPE_IMAGES = 128, 200, 64
LEAST_IMAGES = 4  # of which the estimate of similarity divides by N - 3
MEMORY = 2**29
"""bytes that the outputs of all units may take together; large images are fewer"""
SEED = 0

Say = Callable[[str], None]
Tables = dict[str, list[Row]]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, and images as it takes them."""

    network: nn.Module
    images: Tensor


def probe(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    by_step: Iterable[tuple[int, nn.Module]] = (),
    say: Say = lambda text: None,
) -> Tables:
    """Every table of a network of ours, torchvision's or timm's; it is left in evaluation mode.

    `images` N C H W are normalised as the network takes them, `targets` N class indices, both in
    random order. `by_step` are networks of the same run with their steps, for the gradient profile;
    rows without a step are about `network` itself. Raises UserError for a network that cannot be
    taken apart, and for too few images.
    """
    chain = take_apart(network)
    count = _fitting(chain, images)
    images, targets = images[:count], targets[:count]
    _check(chain, images[:LEAST_IMAGES])
    title = f"{len(chain.units)} units, {chain.depth} layers, {count} images"

    def first(most: int) -> tuple[Tensor, Tensor]:
        return images[:most], targets[:most]

    tables: Tables = {}
    say(f"{title}: responses and gradients")
    tables["responses"] = layer_responses(chain, images)
    gradients = gradient_profile(chain, *first(GRADIENT_IMAGES))
    for step, young in by_step:
        say(f"gradients at step {step}")
        rows = gradient_profile(take_apart(young), *first(GRADIENT_IMAGES))
        gradients += [{**row, "step": step} for row in rows]
    tables["gradients"] = gradients
    say("use of the units, logit lens, linear probes")
    tables["use"] = [
        *branch_use(chain, *first(GRADIENT_IMAGES)),
        *logit_lens(chain, images, targets),
        *linear_probes(chain, images, targets),
    ]
    say("similarity of the layers")
    tables["similarity"] = cka_rows(chain, images, chain, images, metric="cka")
    say(f"paths: all 2^{len(chain.units)} of them")
    tables["paths"] = path_rows(chain, images, targets)
    say("lesions")
    tables["lesions"] = [
        *intact(chain, *first(LESION_IMAGES)),
        *remove_each(chain, *first(LESION_IMAGES)),
        *remove_several(chain, *first(LESION_IMAGES), seed=SEED),
    ]
    say("loss along random directions")
    tables["landscape"] = loss_lines(chain, *first(LANDSCAPE_IMAGES), seed=SEED)
    return {name: _signed(rows, chain) for name, rows in tables.items()}


def compare(first: Subject, second: Subject) -> list[Row]:
    """Similarity of every layer of one network with every layer of another, on the same images.

    The rows are the first's: `unit` is its layer, x the second's. Raises UserError as `probe` does.
    """
    chain, other = take_apart(first.network), take_apart(second.network)
    count = min(_fitting(chain, first.images), _fitting(other, second.images))
    _check(chain, first.images[:LEAST_IMAGES])
    _check(other, second.images[:LEAST_IMAGES])
    images, others = first.images[:count], second.images[:count]
    return _signed(cka_rows(chain, images, other, others, metric="cka_across"), chain)


def family(chain: Chain) -> str:
    """What its units are: plain, residual, or residual with nothing after the sum."""
    if chain.plain:
        return "plain"
    nothing = all(isinstance(unit.merge, nn.Identity) for unit in chain.units)
    return "pre-activation" if nothing else "residual"


def _signed(rows: Iterable[Row], chain: Chain) -> list[Row]:
    """The rows with the network that they are about."""
    about: Row = {"study": "probe", "family": family(chain), "depth": chain.depth}
    return [{**about, **row} for row in rows]


def _fitting(chain: Chain, images: Tensor) -> int:
    """How many images the measurements take."""
    if len(images) < LEAST_IMAGES:
        raise UserError(f"{len(images)} images: a probe needs at least {LEAST_IMAGES}")
    with torch.no_grad():
        each = sum(x.numel() * x.element_size() for x in chain.stream(images[:1]))
    return max(LEAST_IMAGES, min(IMAGES, len(images), MEMORY // each))


def _check(chain: Chain, images: Tensor) -> None:
    """The chain must answer as the network does: else every number would be about another one."""
    with torch.no_grad():
        expected, found = chain.network(images), chain(images)
    if not torch.isfinite(expected).all():
        raise UserError("the network's answers are not finite: there is nothing to measure")
    if not torch.equal(expected, found):
        raise UserError(
            f"{type(chain.network).__name__}: its stem, units and head do not give its answers, "
            "so it does more than is known here; give a plain ResNet"
        )
