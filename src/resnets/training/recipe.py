"""Provide the configuration of a training run: frozen, validated groups of fields.

The command line's flags, the saved configuration and the Python keywords are generated from these
classes; their names are flat, as in `--learning-rate`. `None` and "auto" are chosen from the data
and the measured speed before step 0. This module imports neither torch nor numpy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from math import inf
from typing import Annotated, Any, Literal, get_type_hints

from resnets.config_fields import Chosen, FieldInfo, Flag, Range, Rule, fields_of, validate
from resnets.data.augment_config import Augment
from resnets.data.sources.source_config import SourceConfig
from resnets.errors import UserError, unknown

TIME_OR_LENGTH = "--time together with --epochs or --steps: pass one of them"
# Images of a micro-batch: batch norm has no variance of one value.
LEAST_IMAGES = 2
# Epochs between validations.
LEAST_EPOCHS = 0.001


@dataclass(frozen=True)
class ModelConfig:
    """Which network is trained, from which weights, at which input size.

    Args:
        name: Network, a name of `resnets models`.
        weights: Pretrained weights: a path, a URL, hub:owner/name or torchvision:IMAGENET1K_V1.
        size: Side of the square input in pixels.
        resize_mode: How an oblong image becomes square: crop cuts out the centre, squash
            distorts it.
        dropout: Drop probability before the head.
        drop_path: Stochastic depth: drop probability of the last residual branch, linear in depth.
        sync_batchnorm: Batch norm sees the images of all ranks under torchrun, not of each alone.
    """

    name: Annotated[str | None, Flag("model"), Rule.FIXED, Chosen("from the data and the time")] = (
        None
    )
    weights: Annotated[str | None, Rule.FIXED, Rule.LOCAL, Chosen("none, from scratch")] = None
    size: Annotated[int | None, Range(8, 1024), Rule.FIXED, Chosen("from the data")] = None
    resize_mode: Annotated[Literal["crop", "squash"], Rule.FIXED] = "squash"
    dropout: Annotated[float, Range(0, 0.95)] = 0.0
    drop_path: Annotated[float, Range(0, 0.95)] = 0.0
    sync_batchnorm: bool = False


@dataclass(frozen=True)
class OptimizerConfig:
    """How a gradient becomes a step.

    Args:
        name: sgd has Nesterov momentum unless --no-nesterov; muon orthogonalises the momentum of
            convolutions; auto takes muon from scratch and sgd from pretrained weights.
        learning_rate: Peak learning rate.
        momentum: Momentum of sgd and muon; AdamW uses it as beta1.
        nesterov: Look-ahead form of the momentum of sgd and muon.
        weight_decay: Decay of convolution and linear weights, never of norms and biases. Muon
            spares the filters, whose length it fixes.
        clip_grad_norm: Largest gradient norm; 0 does not clip.
        layer_decay: Factor of the learning rate from each stage to the one before it
            (discriminative rates).
        grad_accum_steps: Micro-batches per optimizer step; batch norm sees one of them.
        ema: Decay per step of the averaged weights that are evaluated and kept; 0 is off.
    """

    name: Annotated[Literal["auto", "sgd", "adamw", "muon"], Flag("optimizer"), Rule.FIXED] = "auto"
    learning_rate: Annotated[
        float | None, Range(1e-8, 100), Chosen("from the optimizer and the batch size")
    ] = None
    momentum: Annotated[float, Range(0, 0.9999)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Range(0, 1)] = 5e-4
    clip_grad_norm: Annotated[float, Range(0, inf)] = 0.0
    layer_decay: Annotated[float, Range(0.01, 1)] = 1.0
    grad_accum_steps: Annotated[int, Range(1, 4096)] = 1
    ema: Annotated[float, Range(0, 0.99999), Rule.FIXED] = 0.0


@dataclass(frozen=True)
class ScheduleConfig:
    """How long the run is, and what changes on the way. Shares are shares of the whole run.

    Args:
        epochs: Passes over the training images.
        steps: Optimizer steps, instead of epochs.
        batch_size: Images per optimizer step.
        name: Shape of the learning rate; one_cycle rises and falls linearly.
        warmup: Share of the run in which the learning rate rises from 0.
        milestones: Shares of the run at which schedule step divides the learning rate by 10.
        freeze_backbone: Share of the run that trains the head alone (fine-tuning).
        progressive: Share of the run that trains at three quarters of the size (progressive
            resizing).
    """

    epochs: Annotated[float | None, Range(0.001, 100_000), Rule.FIXED, Chosen("from the time")] = (
        None
    )
    steps: Annotated[int | None, Range(1, 100_000_000), Chosen("from the epochs")] = None
    batch_size: Annotated[int | None, Range(2, 65_536), Chosen("from the data")] = None
    name: Annotated[Literal["cosine", "one_cycle", "step"], Flag("schedule")] = "one_cycle"
    warmup: Annotated[float, Range(0, 0.9)] = 0.15
    milestones: tuple[float, ...] = (0.5, 0.75)
    freeze_backbone: Annotated[float, Range(0, 0.9)] = 0.0
    progressive: Annotated[float, Range(0, 1)] = 0.0


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: the cross-entropy.

    Args:
        label_smoothing: Share of the target that is spread over all classes.
    """

    label_smoothing: Annotated[float, Range(0, 0.9)] = 0.1


@dataclass(frozen=True)
class EvaluationConfig:
    """When and how the network is validated.

    Args:
        tta: Test-time augmentation of images that the network is unsure about; six adds shifts by
            one pixel to the mirror image.
        val_fraction: Share of the training images held out when DATA has no validation split.
        validate_on: test reproduces papers that chose on the test images; every output says so.
        evaluate_every: Epochs between validations.
        patience: Stop after this many validations without a better one; 0 never stops early.
    """

    tta: Annotated[Literal["none", "mirror", "six"], Rule.FIXED] = "none"
    val_fraction: Annotated[float, Range(0.01, 0.5), Rule.FIXED] = 0.1
    validate_on: Annotated[Literal["val", "test"], Rule.FIXED] = "val"
    evaluate_every: Annotated[
        float | None, Range(LEAST_EPOCHS, 100_000), Chosen("from the data")
    ] = None
    patience: Annotated[int, Range(0, 10_000)] = 0


@dataclass(frozen=True)
class RuntimeConfig:
    """How the run is computed and stored.

    Args:
        precision: auto takes bf16 on a GPU that has it; elsewhere it measures, and keeps fp32
            unless another precision is faster.
        memory_format: Layout of images and weights in memory; auto takes channels_last on such a
            GPU, else measures.
        compile: Compile the network with torch.compile (20 s before the first step).
        threads: CPU threads of torch.
        tune: off does not measure how to compute: all cores, fp32 and channels_last, unless given.
        workers: Processes that decode images which do not fit in memory.
        cache_mb: Megabytes of decoded images that are kept in memory.
        checkpoint_every: Minutes between checkpoints, the most that a hard kill loses. Every best
            validation is saved too.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    compile: Annotated[bool, Rule.LOCAL] = False
    threads: Annotated[int | None, Range(1, 1024), Rule.LOCAL, Chosen("measured")] = None
    tune: Annotated[Literal["auto", "off"], Rule.LOCAL] = "auto"
    workers: Annotated[
        int | None, Range(0, 256), Rule.FREE, Rule.LOCAL, Chosen("as many as threads")
    ] = None
    cache_mb: Annotated[int, Range(0, inf), Rule.LOCAL] = 1024
    checkpoint_every: Annotated[float, Range(0, 100_000), Rule.FREE, Rule.LOCAL] = 5.0


@dataclass(frozen=True)
class Recipe:
    """Every choice that decides the trained weights, and how fast they are reached.

    `Recipe().override(learning_rate=0.1, epochs=30)` sets fields by their flat names.

    Args:
        model: The network.
        optimizer: The optimizer.
        schedule: Length of the run, learning-rate schedule, batch size.
        source: Reading of the data set.
        augment: Augmentation of training images.
        loss: The loss.
        evaluation: Validation and test-time augmentation.
        runtime: Precision, threads, workers, checkpoints.
        seed: Seed of every draw: split, order, augmentation, initial weights, dropout.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    augment: Augment = field(
        default_factory=lambda: Augment(crop="auto", flip="random", auto_augment="auto")
    )
    loss: LossConfig = field(default_factory=LossConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        validate(self)
        for group, kind in GROUPS.items():
            config = getattr(self, group)
            if not isinstance(config, kind):
                raise UserError(
                    f"Recipe: {group} is of the type {type(config).__name__}; expected "
                    f"{kind.__name__}. Recipe().override(name=value) sets single fields"
                )
            validate(config)
        if self.schedule.epochs is not None and self.schedule.steps is not None:
            raise UserError("--epochs and --steps both given: pass one of them")
        milestones = self.schedule.milestones
        shares = [share for share in milestones if isinstance(share, float) and 0 < share < 1]
        if len(shares) < len(milestones) or shares != sorted(set(shares)):
            raise UserError(f"--milestones {milestones}: must be rising shares in (0, 1)")
        batch_size, pieces = self.schedule.batch_size, self.optimizer.grad_accum_steps
        if batch_size is not None and batch_size % pieces:
            raise UserError(f"--grad-accum-steps {pieces}: must divide --batch-size {batch_size}")
        if batch_size is not None and batch_size < LEAST_IMAGES * pieces:
            raise UserError(
                f"--grad-accum-steps {pieces}: micro-batches of one image have no variance for "
                f"batch norm; at most {batch_size // LEAST_IMAGES} for --batch-size {batch_size}"
            )
        if self.evaluation.tta != "none" and self.augment.flip == "none":
            raise UserError(
                f"--tta {self.evaluation.tta}: uses mirror images, which --flip none never shows "
                "in training; pass --tta none"
            )

    def flat(self) -> dict[str, Any]:
        """Return all values by their flat names, as in config.json."""
        return {
            flag: getattr(getattr(self, at.group) if at.group else self, at.name)
            for flag, at in FIELDS.items()
        }

    def override(self, **values: Any) -> "Recipe":
        """Return the recipe with some fields replaced.

        Args:
            **values: Fields by their flat names. Lists, as from TOML and JSON, become tuples.
                `epochs` replaces the recipe's own `steps`, and the reverse.

        Returns:
            A new recipe.

        Raises:
            UserError: A name is unknown, or a value is not allowed.
        """
        clean: dict[str, Any] = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in FIELDS:
                raise unknown("recipe field", key, FIELDS)
            clean[name] = tuple(value) if isinstance(value, list) else value
        if clean.get("epochs") is not None and "steps" not in clean:
            clean["steps"] = None
        elif clean.get("steps") is not None and "epochs" not in clean:
            clean["epochs"] = None
        groups: dict[str, dict[str, Any]] = {}
        for name, value in clean.items():
            groups.setdefault(FIELDS[name].group, {})[FIELDS[name].name] = value
        own = groups.pop("", {})
        changed = {g: replace(getattr(self, g), **group) for g, group in groups.items()}
        return replace(self, **changed, **own)


# The groups of fields, by their names in a recipe.
GROUPS: Mapping[str, type] = {
    name: hint
    for name, hint in get_type_hints(Recipe).items()
    if isinstance(hint, type) and is_dataclass(hint)
}
# All fields by their flat names.
FIELDS: Mapping[str, FieldInfo] = {
    info.flag: info
    for group, config in (*GROUPS.items(), ("", Recipe))
    for info in fields_of(config, group)
}


def fields_with(rule: Rule) -> tuple[str, ...]:
    """Return the flat names of the fields with a rule."""
    return tuple(name for name, info in FIELDS.items() if rule in info.rules)
