"""Fix what a study does before its first run: presets as frozen rows.

The primary test: training error of plain minus residual at the deepest depth, one-sided sign-flip
over the seeds, no correction (one test). Everything else is secondary and labelled so. Degradation
is judged on *training* error, in evaluation over all training images after the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from resnets.study.twins.variants import STRENGTHS
from resnets.training.recipe import Recipe
from resnets.training.recipes import named_recipe

Purpose = Literal["tune", "count", "budget"]
Cell = tuple[str, int]  # family and depth
TWINS = ("plain", "residual")
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
class Budgets:
    """Lengths of training, in steps, after which the twins of one depth are compared."""

    depth: int
    steps: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class SweepConfig:
    """Depths and widths of the sweep of networks at initialisation, and its draws of weights."""

    depths: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000, 10000)
    widths: tuple[int, ...] = (64, 128)
    draws: int = 5
    conv_depth: int = 1000  # the deepest network of convolutions


@dataclass(frozen=True)
class ProbeConfig:
    """How much a probe of a trained network measures."""

    images: int = 500  # a measurement that passes through the network often takes the first ones
    gradient_images: int = 128
    ablation_images: int = 200
    landscape_images: int = 64
    draws: int = 5  # random sets of blocks for each number removed
    directions: int = 10  # of the loss landscape
    points: int = 11  # from -1 to 1 along a direction; odd, so that 0 is one of them
    replay_steps: tuple[int, ...] = (0, 1, 10, 100)  # whose gradients are measured
    seed: int = 0
    threads: int | None = None  # of each probe of a study, which then run side by side


SWEEP, PROBE = SweepConfig(), ProbeConfig()


@dataclass(frozen=True)
class TwinJob:
    """One run of training: all that decides its row."""

    setup: Setup
    family: str
    depth: int
    rate: float  # peak learning rate
    seed: int
    purpose: Purpose
    steps: int
    keeps_weights: bool = False

    @property
    def cell(self) -> Cell:
        return self.family, self.depth

    @property
    def key(self) -> tuple[Purpose, str, int, float, int, int]:
        """What distinguishes the runs of a study."""
        return self.purpose, self.family, self.depth, self.rate, self.seed, self.steps

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe: shares of warm-up and decay are equal at any length."""
        recipe = self.setup.recipe
        return recipe.override(learning_rate=self.rate, seed=self.seed, steps=self.steps)

    @property
    def cost(self) -> float:
        """Layers times steps, to which the time of a run is about proportional."""
        return self.depth * float(self.steps)


@dataclass(frozen=True)
class StudyConfig:
    """A whole study; the first group holds the twins."""

    name: str
    setup: Setup
    groups: tuple[Group, ...]
    rates: tuple[float, ...]  # tried in every cell, a factor apart; one alone is not tuned
    factor: float  # between neighbours, and beyond an edge
    reserve: int  # rates that a cell may try beyond the edges
    tuning_seed: int  # none of the counted
    budgets: Budgets | None = None
    sweep: SweepConfig = SWEEP
    probe: ProbeConfig = PROBE

    @property
    def twins(self) -> Group:
        return self.groups[0]

    @property
    def steps(self) -> int:
        """Steps of a run that counts."""
        assert self.setup.recipe.schedule.steps is not None
        return self.setup.recipe.schedule.steps

    @property
    def shallowest(self) -> Cell:
        """The plain network that must learn, or the study shows nothing."""
        return "plain", min(self.twins.depths)

    @property
    def deepest(self) -> int:
        """The depth of the primary test."""
        return max(self.twins.depths)

    def cells(self) -> Iterator[tuple[Cell, tuple[int, ...]]]:
        """Yield every cell with its seeds, the deepest first: the longest runs start first."""
        found: dict[Cell, tuple[int, ...]] = {}
        for group in self.groups:
            for depth in group.depths:
                for family in group.families:
                    found.setdefault((family, depth), group.seeds)
        yield from sorted(found.items(), key=lambda item: -item[0][1])

    def tuning(self, cell: Cell, rate: float) -> TwinJob:
        """Return the run that judges one learning rate for a cell, at half the steps."""
        steps = max(1, self.steps // 2)
        return TwinJob(self.setup, *cell, rate, self.tuning_seed, "tune", steps)

    def counted(self, cell: Cell, rate: float, seed: int) -> TwinJob:
        """Return a run that counts. The weights of one pair are kept at both ends of depth."""
        family, depth = cell
        ends = min(self.twins.depths), self.deepest
        keeps = family in TWINS and depth in ends and seed == self.twins.seeds[0]
        return TwinJob(self.setup, *cell, rate, seed, "count", self.steps, keeps_weights=keeps)

    def trials(self, cell: Cell, rate: float) -> Iterator[TwinJob]:
        """Yield every run that a cell needs once its rate is chosen, those of budgets last.

        Budgets use the rate of the runs that count; these serve as one of the budgets.
        """
        for seed in dict(self.cells())[cell]:
            yield self.counted(cell, rate, seed)
        if self.budgets is not None and cell[0] in TWINS and cell[1] == self.budgets.depth:
            for steps in self.budgets.steps:
                if steps != self.steps:
                    for seed in self.budgets.seeds:
                        yield TwinJob(self.setup, *cell, rate, seed, "budget", steps)


# Half of Fashion-MNIST's side, five passes over 10,000 images, no augmentation.
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
        warmup=0.125,  # 50 of 400 steps, then a linear decay to 0
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

# He 2015, section 4.2: 64,000 steps of 128 images.
CIFAR = Setup(
    data="cifar10",
    side=32,
    widths=(16, 32, 64),
    # Differs from the paper: every depth is warmed up over its first 400 steps, linearly, where
    # the paper trains the deepest at 0.01 for about as many; and see the recipe's own differences.
    recipe=Recipe()
    .override(**named_recipe("he2015"))
    .override(model=None, warmup=0.00625, precision="fp32", memory_format="channels_last"),
    held_out=0.1,
)

# Seeds; the sign-flip of five can reach p = 0.031, of four only 0.063.
SIX, FIVE, THREE = tuple(range(6)), tuple(range(5)), tuple(range(3))

MINUTES = StudyConfig(
    name="minutes",
    setup=SMALL,
    groups=(Group(TWINS, (8, 20, 56), SIX),),
    rates=(0.03, 0.1, 0.3),
    factor=3.0,
    reserve=2,
    tuning_seed=1000,
)

PRESETS: dict[str, StudyConfig] = {
    config.name: config
    for config in (
        replace(
            MINUTES,
            name="quick",
            setup=replace(SMALL, recipe=SMALL.recipe.override(steps=150)),
            groups=(Group(TWINS, (8, 32), THREE),),
            rates=(0.1,),
            reserve=0,
            sweep=SweepConfig((10, 30, 100, 300, 1000), (64,), conv_depth=100),
            probe=ProbeConfig(
                images=200, ablation_images=100, directions=3, replay_steps=(0, 1, 10), threads=1
            ),
        ),
        MINUTES,
        replace(
            MINUTES,
            name="hour",
            groups=(
                Group(TWINS, (8, 20, 32, 56, 110), SIX),
                Group(("preact", "skipinit", "fixup", "scaled", "dirac"), (8, 56, 110), THREE),
                Group(("halved", "gate", "conv", "dropout"), (56,), THREE),
                Group(tuple(f"strength-{strength}" for strength in STRENGTHS), (56,), THREE),
            ),
            budgets=Budgets(56, (100, 200, 400, 800, 1600), THREE),
        ),
        replace(
            MINUTES,
            name="cifar",
            setup=CIFAR,
            groups=(Group(TWINS, (20, 32, 44, 56, 110), FIVE),),
            rates=(0.1,),  # the paper's, for all
            reserve=0,
        ),
    )
}
