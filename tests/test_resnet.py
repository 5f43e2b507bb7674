"""Test the whole network: validation, the methods of a backbone, and PyTorch's own tools."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import platform
import warnings

import pytest
import torch
from torch import Tensor, nn

from cases import for_each
from resnets.errors import UserError
from resnets.models.registry import MODELS, create_model
from resnets.models.resnet import ResNet, ResNetConfig, meta_state

X86 = ("x86_64", "amd64")
FLOAT64 = 1e-10  # the same sums in another order
FLOAT32 = 1e-4  # the same sums, fused by a compiler, through some ten layers

# One network of each family, small: each idea is there, with one or two blocks a stage.
FAMILIES = [
    "resnet18",
    "resnet50",
    "resnet50_v1",
    "resnet18_a",
    "plain18",
    "resnet50c",
    "resnet18d",
    "resnet50d",
    "resnet50s",
    "resnet50t",
    "seresnet18",
    "resnetrs50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "resnetblur18",
    "resnet50_gn",
    "preact_resnet18",
    "preact_resnet50",
    "resnet20",
    "resnet20_b",
    "plain20",
    "preact_resnet164",
    "wrn16_4",
    "resnext29_8x64d",
    "resnet18_cifar",
    "resnet8_fast",
    "plain8_fast_wide",
]

# Every kind of block, stem, shortcut and layer in as few networks; `make slow` takes all families.
IDEAS = ["resnet50d", "resnet18_a", "resnetrs50", "resnetblur18", "resnet50_gn", "resnext50_32x4d"]
IDEAS += ["preact_resnet50", "wrn16_4", "resnet8_fast", "plain20"]
# The most of them at once, for a compiler that takes half a second a network.
COMPILED = ["resnetrs50", "resnetblur18", "preact_resnet50", "resnet8_fast"]


def small(name: str, **ideas: object) -> ResNet:
    torch.manual_seed(0)
    config = MODELS[name].config
    depths = (2,) + (1,) * (len(config.depths) - 1)
    widths = tuple(max(width // 4, 8) for width in config.widths)
    stem_width = config.stem_width and config.stem_width // 2
    sizes = {"depths": depths, "widths": widths, "stem_width": stem_width, "num_classes": 5}
    return ResNet(dataclasses.replace(config, **(sizes | ideas)))  # type: ignore[arg-type]


def two_stages(name: str) -> ResNet:
    """Enough for a compiler: each idea once, and a block that changes the shape."""
    widths = tuple(max(width // 4, 8) for width in MODELS[name].config.widths)
    return small(name, depths=(1, 1), widths=widths[:2])


def some_images(count: int = 2, side: int = 33) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


# ResNetConfig ------------------------------------------------------------------------------------


def test_every_row_survives_json() -> None:
    for row in MODELS.values():
        text = json.dumps(dataclasses.asdict(row.config))
        assert ResNetConfig(**json.loads(text)) == row.config


GOOD = {"depths": (2, 2, 2, 2), "block": "basic"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (2, 2)}, r"depths = \(2, 2\) has 2 stages but widths .* has 4"),
        ({"depths": ()}, r"depths = \(\)"),
        ({"depths": 4}, "depths = 4: must be whole numbers"),
        ({"depths": (2, 2, 0, 2)}, "depths = 0: must be a whole number of at least 1"),
        ({"depths": (2, 2, True, 2)}, "depths = True"),
        ({"widths": (64, 128, 256, 51.2)}, r"widths = 51\.2"),
        ({"block": "Basic"}, "unknown block 'Basic'; did you mean 'basic'.*bottleneck"),
        ({"stem": "deep_convs"}, "did you mean 'deep_conv'"),
        ({"shortcut": "A"}, "unknown shortcut 'A'; allowed: none, pad"),
        ({"order": "preact"}, "unknown order 'preact'"),
        ({"stride_on": "3"}, "unknown stride_on '3'"),
        ({"norm": "batchnorm"}, "did you mean 'batch'"),
        ({"norm": None}, "unknown norm 'None'; did you mean 'none'"),
        ({"residual_init": "zeros"}, "did you mean 'zero'"),
        ({"num_classes": 2.0}, r"num_classes = 2\.0"),
        ({"in_channels": 0}, "in_channels = 0"),
        ({"stem_width": -1}, "stem_width = -1"),
        ({"se": 1}, r"se = 1: must be a number in \[0, 1\)"),
        ({"drop_path": -0.1}, "drop_path"),
        ({"drop_path": float("nan")}, "drop_path = nan"),
        ({"dropout": "0.5"}, "dropout"),
        ({"blur": 4}, "blur = 4: allowed are 0, 2, 3, 5"),
        ({"conv": "standard"}, "unknown conv 'standard'; did you mean 'standardised'"),
        ({"conv": "scaled", "norm": "bias"}, "conv = 'scaled' is not defined for norm = 'bias'"),
        ({"conv": "scaled", "activation": "mish"}, "has no factor for activation = 'mish'"),
        ({"conv": "standardised", "residual_init": "zero"}, "a filter of zeros cannot be"),
        ({"block": "bottleneck", "group_size": 16, "groups": 2}, "group_size = 16 and groups = 2"),
        ({"block": "bottleneck", "group_size": 48}, "group_size = 48 does not divide all inner"),
        ({"group_size": 16}, "group_size = 16 needs block = 'bottleneck'"),
        ({"attention_pool": -1}, "attention_pool = -1: .* at least 0"),
        (
            {"attention_pool": 7, "widths": (8, 16, 32, 32)},
            "needs a multiple of 64 channels, not 32",
        ),
        ({"head_width": 100, "order": "pre"}, "head_width = 100 is not defined for order = 'pre'"),
        ({"block": "bottleneck_norm_free"}, "is not defined for order = 'post'"),
        (
            {"block": "bottleneck_norm_free", "order": "pre", "conv": "scaled"},
            "needs norm = 'none', not 'batch'",
        ),
        ({"stem": "imagenet_zero_pad", "blur": 3}, "blur = 3 is not defined for stem"),
        ({"output_stride": 12}, "output_stride = 12: allowed are None, 8, 16, 32"),
        ({"stride_on": "1x1"}, "stride_on = '1x1' needs block = 'bottleneck'"),
        ({"groups": 32}, "groups = 32 needs block = 'bottleneck'"),
        ({"group_width": 128}, "group_width = 128 needs block = 'bottleneck'"),
        ({"block": "bottleneck", "widths": (8, 8, 8, 8), "group_width": 4}, "leaves no channel"),
        ({"block": "bottleneck", "widths": (64, 64, 64, 8), "group_width": 4}, "at width 8"),
        ({"shortcut": "pad", "widths": (64, 128, 64, 64)}, "'pad' can only add channels"),
        ({"stem": "deep_tiered", "stem_width": 20}, "divisible by 8, not 20"),
        ({"stem": "deep", "stem_width": 33}, "even stem_width, not 33"),
        ({"shortcut": "none", "residual_init": "zero"}, "residual_init = 'zero' needs a shortcut"),
        ({"shortcut": "none", "drop_path": 0.1}, "drop_path = 0.1 needs a shortcut"),
        ({"blur": 3, "order": "pre"}, "blur = 3 is not defined for order = 'pre'"),
        ({"blur": 3, "stem": "deep_conv"}, "not defined for stem = 'deep_conv'"),
        ({"blur": 3, "output_stride": 8}, "not defined for output_stride = 8"),
        ({"blur": 3, "block": "bottleneck", "stride_on": "1x1"}, "stride_on = '1x1'"),
        ({"blur": 3, "stem": "small", "depths": (2,), "widths": (8,)}, "has no effect"),
        ({"stem": "small", "output_stride": 16}, "own stride is only 8"),
        ({"halving": "pool"}, "unknown halving 'pool'"),
        ({"halving": "max_pool", "order": "pre"}, "halving = 'max_pool' is not defined for order"),
        (
            {"halving": "max_pool", "block": "bottleneck"},
            "halving = 'max_pool' needs block = 'basic'",
        ),
        ({"halving": "max_pool", "blur": 3}, "blur = 3 is not defined for halving = 'max_pool'"),
        ({"halving": "max_pool", "output_stride": 8}, "not defined for output_stride = 8"),
        (
            {"stem": "whitened", "stem_width": 64},
            "'whitened' has 8 channels for each",
        ),
        ({"stem": "whitened", "order": "pre"}, "needs order = 'post'"),
        ({"stem": "whitened", "blur": 3}, "blur = 3 is not defined for stem = 'whitened'"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(change: dict[str, object], message: str) -> None:
    ResNetConfig(**GOOD)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message) as caught:
        ResNetConfig(**(GOOD | change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# Any size, any tool ------------------------------------------------------------------------------


@for_each(IDEAS, slow=FAMILIES)
def test_any_size_is_classified_and_trains_down_to_one_pixel(name: str) -> None:
    model = small(name)
    first = 17 if model.config.blur else 1
    logits = model(some_images(side=first))
    logits.square().mean().backward()
    stem = next(model.parameters()).grad
    assert stem is not None
    assert stem.isfinite().all()
    model.eval()
    for side in {first, 17, 33, 63}:
        logits = model(some_images(side=side))
        assert logits.shape == (2, 5)
        assert logits.isfinite().all()


@for_each(IDEAS, slow=FAMILIES)
def test_gradients_reach_the_first_layer(name: str) -> None:
    model = small(name)
    model(some_images(side=64)).square().mean().backward()
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@for_each(IDEAS, slow=FAMILIES)
def test_copies_and_pickles_compute_the_same(name: str) -> None:
    model = small(name).eval()
    expected = model(some_images())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(some_images()), expected)
        assert twin.config == model.config


@for_each(COMPILED, slow=FAMILIES)
def test_torch_compile_sees_one_graph(name: str) -> None:
    torch.compiler.reset()
    model = two_stages(name).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(some_images()), model(some_images()), atol=FLOAT32)


@for_each(COMPILED, slow=FAMILIES)
def test_torch_export_takes_any_number_of_images(name: str) -> None:
    model = two_stages(name).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (some_images(),), dynamic_shapes=({0: batch},))
    for count in (1, 3):
        images = some_images(count)
        assert torch.allclose(program.module()(images), model(images), atol=FLOAT32)


# torch's own C++ for such a CPU does not compile: it uses at::vec without declaring it.
NO_VECTORS = (
    torch.backends.cpu.get_cpu_capability() == "DEFAULT" and platform.machine().lower() in X86
)


@pytest.mark.slow
@pytest.mark.skipif(NO_VECTORS, reason="torch's compiler needs AVX2 on x86")
def test_inductor_compiles_training_and_agrees() -> None:
    torch.compiler.reset()
    model = small("resnet20", depths=(1,), widths=(8,))
    twin = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        compiled = torch.compile(model, fullgraph=True)(some_images(side=8))
        compiled.square().sum().backward()
    logits = twin(some_images(side=8))
    logits.square().sum().backward()
    assert torch.allclose(compiled, logits, atol=FLOAT32)
    ours, theirs = model.conv1.weight.grad, twin.conv1.weight.grad
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=FLOAT32)


# A backbone --------------------------------------------------------------------------------------


@for_each(IDEAS, slow=FAMILIES)
def test_features_and_head_are_the_network(name: str) -> None:
    model = small(name).eval()
    images = some_images(side=64)
    last = len(model.stage_names)
    maps = model.features(images, tuple(range(1, last + 1)))
    features = model.forward_features(images)
    assert torch.equal(features, model.norm_relu(model.norm(maps[-1])))
    assert torch.equal(model.forward_head(features), model(images))
    assert torch.equal(model.features(images, (last, 1))[1], maps[0])
    assert len(model.features(images)) == last
    assert torch.allclose(
        features.mean((2, 3)) @ model.fc.weight.T + model.fc.bias, model(images), atol=FLOAT32
    )


def test_features_of_stages_that_are_not_there() -> None:
    for stages in ((1, 4), (0,), ()):
        with pytest.raises(UserError, match="choose from 1 to 3"):
            small("resnet20").features(some_images(), stages)


def test_features_stop_at_the_last_stage_asked_for() -> None:
    model = small("resnet18")
    model.layer3 = nn.Identity()  # a Sequential it is not: running it would fail
    del model.layer4
    assert len(model.features(some_images(side=64), (2, 1))) == 2


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "resnet50_v1", "resnet18_a", "resnet50d", "preact_resnet50"]
)
def test_a_dilated_network_is_the_strided_one_sampled_densely(
    name: str, output_stride: int
) -> None:
    strided = small(name).double().eval()
    dilated = small(name, output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    images = some_images(count=1, side=128).double()
    step = 32 // output_stride
    dense = dilated.forward_features(images)
    assert dense.shape[2:] == (128 // output_stride,) * 2
    sampled, expected = dense[:, :, ::step, ::step], strided.forward_features(images)
    inner = slice(1, -1)  # the last pixel of an average may see the border from another place
    assert torch.allclose(sampled[..., inner, inner], expected[..., inner, inner], atol=FLOAT64)


def test_reset_classifier_changes_the_head_alone() -> None:
    model = small("resnet20").double().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.reset_classifier(3)
    assert model.config.num_classes == 3
    assert model(some_images().double()).shape == (2, 3)
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items() if not k.startswith("fc."))
    with pytest.raises(UserError, match="num_classes = -1"):
        model.reset_classifier(-1)
    model.reset_classifier(0)
    assert model(some_images().double()).shape == (2, model.num_features)  # pooled
    model.reset_classifier(5)
    assert model.fc.weight.dtype == torch.float64
    assert model(some_images().double()).shape == (2, 5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wrn16_4"])
def test_checkpointing_gives_the_same_gradients_and_statistics(name: str) -> None:
    usual = small(name, drop_path=0.3, dropout=0.2)
    saving = copy.deepcopy(usual)
    saving.set_grad_checkpointing()
    for model in (usual, saving):
        torch.manual_seed(4)
        model(some_images(count=4, side=64)).square().mean().backward()
    for ours, theirs in zip(saving.parameters(), usual.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(saving.buffers(), usual.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_checkpointing_keeps_less() -> None:
    def kept(model: ResNet) -> int:
        sizes: list[int] = []

        def pack(x: Tensor) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(some_images(side=64))
        return sum(sizes)

    model = small("resnet50", depths=(3, 3, 3, 3))
    everything = kept(model)
    model.set_grad_checkpointing()
    assert kept(model) < everything / 2


def test_the_pool_has_the_same_bits_in_every_memory_format() -> None:
    model, features = create_model("resnet18_cifar").eval(), torch.randn(3, 512, 7, 5)
    other = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(model.forward_head(features), model.forward_head(other))


SHAPED = ("resnet20", "resnet50", "resnet50d", "seresnet18", "resnetrs50", "resnext29_8x64d")
SHAPED += ("resnetblur18", "resnet50_gn", "preact_resnet50", "wrn16_4", "resnet8_fast", "plain18")


@pytest.mark.parametrize("name", SHAPED)
def test_one_block_stands_for_all_of_its_stage(name: str) -> None:
    config = MODELS[name].config
    with torch.device("meta"):
        built = ResNet(config).state_dict(keep_vars=True)

    def facts(state: dict[str, torch.Tensor]) -> dict[str, object]:
        learned = torch.nn.Parameter
        return {n: (t.shape, t.dtype, isinstance(t, learned)) for n, t in state.items()}

    assert facts(meta_state(config)) == facts(built)


@pytest.mark.parametrize("name", MODELS)
def test_the_limits_leave_space_for_every_network_of_the_table(name: str) -> None:
    MODELS[name].config.check_input_size(1024)


def test_a_very_deep_network_is_allowed() -> None:
    deep = ResNetConfig(depths=(5000,), block="basic", widths=(16,))
    assert len(meta_state(deep)) > 5000 * 12
