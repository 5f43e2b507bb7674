"""What a study of training will do, written down before its first run: presets as frozen rows.

Enters: the name of a preset. Leaves: a `Plan`, and from it the `Job`s, each the frozen description
of one run. What a study decides is decided here: networks, budget, seeds, how the learning rate is
chosen, the one primary test and what counts as supported. A folder keeps the plan it began with.

The primary test: training error of plain minus residual at the deepest depth, one-sided sign-flip
over the seeds, no correction (one test). Everything else is secondary and labelled so. Degradation
is judged on *training* error, in evaluation over all training images after the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from resnets.study.cells import STRENGTHS
from resnets.training.recipe import Recipe
from resnets.training.recipes import he2015

Purpose = Literal["tune", "count"]
Cell = tuple[str, int]
"""family and depth"""
TWINS = ("plain", "residual")
SIGNIFICANT = 0.05
CURVE_POINTS = 40


@dataclass(frozen=True)
class Setup:
    """What all runs of a study share."""

    data: str
    side: int  # of the input, in pixels
    widths: tuple[int, ...]  # of the three stages
    recipe: Recipe  # all but the learning rate and the seed
    held_out: float  # share of the training images on which learning rates are compared
    device: str = "cpu"


@dataclass(frozen=True)
class Group:
    """Families times depths, each trained with every one of the seeds."""

    families: tuple[str, ...]
    depths: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """One run: all that decides its row."""

    setup: Setup
    family: str
    depth: int
    rate: float  # peak learning rate
    seed: int
    purpose: Purpose
    keeps_weights: bool

    @property
    def cell(self) -> Cell:
        return self.family, self.depth

    @property
    def key(self) -> tuple[Purpose, str, int, float, int]:
        """What tells one run of a study from another."""
        return self.purpose, self.family, self.depth, self.rate, self.seed

    @property
    def recipe(self) -> Recipe:
        """Tuning takes half of the steps, with the same shares of warm-up and fall."""
        steps = self.setup.recipe.schedule.steps
        assert steps is not None
        steps = max(1, steps // 2) if self.purpose == "tune" else steps
        return self.setup.recipe.override(learning_rate=self.rate, seed=self.seed, steps=steps)

    @property
    def cost(self) -> float:
        """In layers times steps, to which the time of a run is about proportional."""
        return self.depth * float(self.recipe.schedule.steps or 0)


@dataclass(frozen=True)
class Plan:
    """A whole study of training; the first group holds the twins."""

    name: str
    setup: Setup
    groups: tuple[Group, ...]
    rates: tuple[float, ...]  # tried in every cell, a factor apart; one alone is not tuned
    factor: float  # between neighbours, and beyond an edge
    reserve: int  # rates that a cell may try beyond the edges
    tuning_seed: int  # none of the counted

    @property
    def twins(self) -> Group:
        return self.groups[0]

    @property
    def shallowest(self) -> Cell:
        """The plain network that must learn, or the budget shows nothing."""
        return "plain", min(self.twins.depths)

    @property
    def deepest(self) -> int:
        """Where the primary test is made."""
        return max(self.twins.depths)

    def cells(self) -> Iterator[tuple[Cell, tuple[int, ...]]]:
        """Every cell with its seeds, the deepest first: the longest runs are begun first."""
        found: dict[Cell, tuple[int, ...]] = {}
        for group in self.groups:
            for depth in group.depths:
                for family in group.families:
                    found.setdefault((family, depth), group.seeds)
        yield from sorted(found.items(), key=lambda item: -item[0][1])

    def tuning(self, cell: Cell, rate: float) -> Job:
        """The run that judges one learning rate for a cell."""
        return Job(self.setup, *cell, rate, self.tuning_seed, "tune", keeps_weights=False)

    def counted(self, cell: Cell, rate: float, seed: int) -> Job:
        """A run that counts. The weights of one pair are kept at both ends of depth."""
        family, depth = cell
        ends = min(self.twins.depths), self.deepest
        keeps = family in TWINS and depth in ends and seed == self.twins.seeds[0]
        return Job(self.setup, *cell, rate, seed, "count", keeps_weights=keeps)


SMALL = Setup(
    data="fashion-mini",
    side=14,
    widths=(8, 16, 32),
    recipe=Recipe().override(
        steps=400,
        batch_size=128,
        optimizer="sgd",
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,
        schedule="one_cycle",
        warmup=0.125,  # 50 of 400 steps, then a linear fall to 0
        label_smoothing=0.0,
        crop="none",
        flip="none",
        auto_augment="none",
        precision="fp32",
        memory_format="channels_last",
        threads=1,
    ),
    held_out=0.1,
)
"""Half of Fashion-MNIST's side, five passes over 10,000 images, no augmentation."""

CIFAR = Setup(
    data="cifar10",
    side=32,
    widths=(16, 32, 64),
    # Differs from the paper: every depth is warmed up over its first 400 steps, linearly, where
    # the paper trains the deepest at 0.01 for about as many; and see the recipe's own differences.
    recipe=Recipe()
    .override(**he2015())
    .override(model=None, warmup=0.00625, precision="fp32", memory_format="channels_last"),
    held_out=0.1,
)
"""He 2015, section 4.2: 64,000 steps of 128 images."""

SIX, FIVE, THREE = tuple(range(6)), tuple(range(5)), tuple(range(3))
"""seeds; the sign-flip of five can reach p = 0.031, of four only 0.063"""

PRESETS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan(
            name="minutes",
            setup=SMALL,
            groups=(Group(TWINS, (8, 20, 56), SIX),),
            rates=(0.03, 0.1, 0.3),
            factor=3.0,
            reserve=2,
            tuning_seed=1000,
        ),
        Plan(
            name="hour",
            setup=SMALL,
            groups=(
                Group(TWINS, (8, 20, 32, 56, 110), SIX),
                Group(("preact", "skipinit", "fixup", "scaled", "dirac"), (8, 56, 110), THREE),
                Group(("halved", "gate", "conv", "dropout"), (56,), THREE),
                Group(tuple(f"strength-{strength}" for strength in STRENGTHS), (56,), THREE),
            ),
            rates=(0.03, 0.1, 0.3),
            factor=3.0,
            reserve=2,
            tuning_seed=1000,
        ),
        Plan(
            name="cifar",
            setup=CIFAR,
            groups=(Group(TWINS, (20, 32, 44, 56, 110), FIVE),),
            rates=(0.1,),  # the paper's, for all
            factor=3.0,
            reserve=0,
            tuning_seed=1000,
        ),
    )
}
