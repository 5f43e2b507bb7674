"""Run what users do to torchvision's and timm's networks on theirs and on ours: the same lines.

Each idiom is a row of the table in `docs/dropin.md`. A network of ours passes every one, with the
numbers of its peers; where a peer is said to fail, it fails. `python tests/test_idioms.py` prints
the table.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnets.models.registry import MODELS
from resnets.models.resnet import ResNet, ResNetConfig

LIBRARIES = ("ours", "torchvision", "timm")
PAGE = Path(__file__).parent.parent / "docs" / "dropin.md"
STAGES = ("layer1", "layer2", "layer3", "layer4")

Network = Any  # each library has a class of its own
Make = Callable[..., Network]
# The tools of other libraries warn about themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True)
class Idiom:
    """One thing that users do to a network, and where it works."""

    name: str
    code: str  # as a user writes it, for the table
    run: Callable[[Make], object]
    works: tuple[str, ...]
    slow: bool


IDIOMS: dict[str, Idiom] = {}


def idiom(
    name: str, code: str, *, works: str = "ours torchvision timm", slow: bool = False
) -> Callable[[Callable[[Make], object]], Callable[[Make], object]]:
    """Add a function to the table; the tensors that it returns are the same in every library."""

    def add(run: Callable[[Make], object]) -> Callable[[Make], object]:
        assert name not in IDIOMS
        IDIOMS[name] = Idiom(name, code, run, tuple(works.split()), slow)
        return run

    return add


# Networks ----------------------------------------------------------------------------------------


def build(library: str, name: str, **fields: Any) -> Network:
    """Build a network with the library's own function."""
    if library == "ours":
        import resnets

        return resnets.create_model(name, **fields)
    if library == "timm":
        import timm

        return timm.create_model(name, **fields)
    import torchvision

    return torchvision.models.get_model(name, **fields)


@cache
def prototype(library: str, name: str, fields: tuple[tuple[str, Any], ...]) -> Network:
    """Build a network once, with weights and statistics that depend on their names alone."""
    model = build(library, name, **dict(fields)).eval()
    generator = torch.Generator().manual_seed(1)
    for key, value in sorted(model.state_dict().items()):
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif key.endswith(("running_mean", "bias")):
            value.uniform_(-0.1, 0.1, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
    return model


def maker(library: str) -> Make:
    def make(name: str = "resnet18", **fields: Any) -> Network:
        return copy.deepcopy(prototype(library, name, tuple(fields.items())))

    return make


def images(count: int = 2, side: int = 64) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


class Wrapper(nn.Module):
    """Count the calls of a module and double what it returns."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * self.inner(x)


@contextmanager
def one_process() -> Iterator[None]:
    """Be the only process of a group."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def trained(model: nn.Module, side: int = 64) -> Tensor:
    """Run one pass in both directions and return the logits."""
    logits: Tensor = model(images(side=side))
    logits.square().mean().backward()
    return logits.detach()


# Modules are called, and can be replaced ---------------------------------------------------------


@idiom("Hook on a stage", "model.layer4.register_forward_hook(f)")
def hook_on_a_stage(make: Make) -> object:
    model, seen = make(), []
    for name in STAGES:
        model.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2]))
    model(images())
    assert len(seen) == len(STAGES)
    return seen[-1]


@idiom("Hook before a stage", "model.layer4.register_forward_pre_hook(f)")
def hook_before_a_stage(make: Make) -> object:
    model = make()
    model.layer4.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return model(images())


@idiom("Backward hook on a stage", "model.layer4.register_full_backward_hook(f)")
def backward_hook_on_a_stage(make: Make) -> object:
    model, seen = make(), []
    model.layer4.register_full_backward_hook(lambda module, before, after: seen.append(before[0]))
    trained(model)
    return seen[0]


@idiom("Grad-CAM by hooks", "map * grad of model.layer4's output")
def grad_cam_by_hooks(make: Make) -> object:
    model, kept = make(), {}

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept["map"] = output

    model.layer4.register_forward_hook(keep)
    model(images())[:, 1].sum().backward()
    weights = kept["map"].grad.mean((2, 3), keepdim=True)
    return F.relu((weights * kept["map"]).sum(1))


@idiom("captum", "LayerGradCam(model, model.layer4)")
def captum_layer_grad_cam(make: Make) -> object:
    attr = pytest.importorskip("captum.attr")
    model = make()
    return attr.LayerGradCam(model, model.layer4).attribute(images(), target=1)


@idiom("captum DeepLift", "DeepLift(model).attribute(images)", works="ours timm")
def captum_deep_lift(make: Make) -> object:
    attr = pytest.importorskip("captum.attr")
    return attr.DeepLift(make()).attribute(images(), target=1)


@idiom("pytorch-grad-cam", "GradCAM(model, target_layers=[model.layer4])")
def pytorch_grad_cam(make: Make) -> object:
    cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model = make()
    with cam.GradCAM(model=model, target_layers=[model.layer4]) as grad_cam:
        chosen = [targets.ClassifierOutputTarget(1)] * 2
        return torch.from_numpy(grad_cam(images(), targets=chosen))


@idiom("Wrap a stage", "model.layer4 = Wrapper(model.layer4)")
def wrap_a_stage(make: Make) -> object:
    model = make()
    model.layer4 = Wrapper(model.layer4)
    logits = model(images())
    assert model.layer4.calls == 1
    return logits


@idiom("Replace a stage", "model.layer4 = nn.Identity()")
def replace_a_stage(make: Make) -> object:
    model = make()
    model.layer4, model.fc = nn.Identity(), nn.Identity()
    return model(images())


@idiom("Replace a block", "model.layer4[1] = nn.Identity()")
def replace_a_block(make: Make) -> object:
    model = make()
    model.layer4[1] = nn.Identity()
    return model(images())


@idiom("Replace the classifier", "model.fc = nn.Linear(model.fc.in_features, 3)")
def replace_the_classifier(make: Make) -> object:
    model = make()
    model.fc = nn.Linear(model.fc.in_features, 3)
    nn.init.ones_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)
    return model(images())


@idiom("No classifier", "model.fc = nn.Identity()")
def no_classifier(make: Make) -> object:
    model = make()
    model.fc = nn.Identity()
    return model(images())


@idiom("Replace the first convolution", "model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)")
def replace_the_first_convolution(make: Make) -> object:
    model = make()
    weight = model.conv1.weight.sum(1, keepdim=True)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    model.conv1.weight = nn.Parameter(weight)
    return model(images()[:, :1])


@idiom("Small images", "model.maxpool = nn.Identity()")
def small_images(make: Make) -> object:
    model = make()
    model.maxpool = nn.Identity()
    return model(images(side=32))


@idiom("Replace the pooling", "model.avgpool = nn.AdaptiveMaxPool2d(1)", works="ours torchvision")
def replace_the_pooling(make: Make) -> object:
    model = make()
    before = model(images())
    model.avgpool = nn.AdaptiveMaxPool2d(1)
    assert not torch.equal(model(images()), before)
    return model(images())


@idiom(
    "All but the classifier",
    "nn.Sequential(*list(model.children())[:-1])",
    works="ours torchvision",
)
def all_but_the_classifier(make: Make) -> object:
    pooled = nn.Sequential(*list(make().children())[:-1])(images())
    assert pooled.shape == (2, 512, 1, 1)
    return pooled


@idiom("All but pooling and classifier", "cut at the last pooling layer of model.children()")
def all_but_pooling_and_classifier(make: Make) -> object:
    children = list(make().children())
    pools = [n for n, child in enumerate(children) if "pool" in type(child).__name__.lower()]
    return nn.Sequential(*children[: pools[-1]])(images())  # as fastai's create_body


@idiom("Freeze all but the classifier", "model.requires_grad_(False); model.fc.requires_grad_()")
def freeze_all_but_the_classifier(make: Make) -> object:
    model = make()
    model.requires_grad_(False)
    model.fc.requires_grad_()
    trained(model)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        "fc.weight",
        "fc.bias",
    }
    return model.fc.weight.grad


@idiom("Learning rate by stage", "SGD([{'params': model.layer4.parameters()}, ...])")
def learning_rate_by_stage(make: Make) -> object:
    model = make()
    parts = [{"params": getattr(model, name).parameters(), "lr": 0.1} for name in (*STAGES, "fc")]
    optimizer = torch.optim.SGD(parts, lr=0.0)
    trained(model)
    optimizer.step()
    return model(images())


# Features ----------------------------------------------------------------------------------------


@idiom("IntermediateLayerGetter", "IntermediateLayerGetter(model, {'layer4': 'out'})")
def intermediate_layer_getter(make: Make) -> object:
    from torchvision.models._utils import IntermediateLayerGetter

    return IntermediateLayerGetter(make(), {"layer2": "low", "layer4": "out"})(images())["out"]


@idiom(
    "create_feature_extractor",
    "return_nodes={'layer4': ..., 'avgpool': ..., 'flatten': ...}",
    works="ours torchvision",
)
def feature_extractor(make: Make) -> object:
    from torchvision.models.feature_extraction import create_feature_extractor

    nodes = ["layer1", "layer4", "avgpool", "flatten", "fc"]
    outputs = create_feature_extractor(make(), {name: name for name in nodes})(images())
    assert outputs["avgpool"].shape == (2, 512, 1, 1)
    assert outputs["flatten"].shape == (2, 512)
    return outputs["flatten"]


@idiom("Feature pyramid", "_resnet_fpn_extractor(model, 3)", works="ours torchvision")
def feature_pyramid(make: Make) -> object:
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

    torch.manual_seed(0)
    pyramid = _resnet_fpn_extractor(make(), 3)
    assert not pyramid.body.conv1.weight.requires_grad
    return pyramid(images())["3"]


@idiom("Detection", "FasterRCNN(BackboneWithFPN(model, ...), 2)", slow=True)
def detection(make: Make) -> object:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    torch.manual_seed(0)
    layers = {name: str(number) for number, name in enumerate(STAGES)}
    backbone = BackboneWithFPN(make(), layers, [64, 128, 256, 512], 256)
    detector = FasterRCNN(backbone, 2, min_size=64, max_size=64).eval()
    return detector(list(images()))[0]["boxes"]


@idiom("Segmentation", "DeepLabV3(IntermediateLayerGetter(model, ...), ...)")
def segmentation(make: Make) -> object:
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.segmentation import FCN
    from torchvision.models.segmentation.fcn import FCNHead

    torch.manual_seed(0)
    backbone = IntermediateLayerGetter(make(), {"layer4": "out"})
    return FCN(backbone, FCNHead(512, 3)).eval()(images())["out"]


@idiom(
    "forward_features, forward_head",
    "model.forward_head(model.forward_features(images))",
    works="ours timm",
)
def features_and_head(make: Make) -> object:
    model = make()
    return model.forward_head(model.forward_features(images()))


@idiom("Pooled features", "model.forward_head(features, pre_logits=True)", works="ours timm")
def pooled_features(make: Make) -> object:
    model = make()
    return model.forward_head(model.forward_features(images()), pre_logits=True)


@idiom(
    "forward_intermediates",
    "model.forward_intermediates(images, indices=[1, 4])",
    works="ours timm",
)
def forward_intermediates(make: Make) -> object:
    model = make()
    final, maps = model.forward_intermediates(images(), indices=[0, 1, 4])
    assert torch.equal(final, maps[-1])
    only = model.forward_intermediates(images(), indices=2, intermediates_only=True)
    assert [tuple(map.shape[1:]) for map in only] == [(256, 4, 4), (512, 2, 2)]
    early = model.forward_intermediates(
        images(), indices=[2], intermediates_only=True, stop_early=True
    )
    assert len(early) == 1 and early[0].shape == (2, 128, 8, 8)
    return maps[0]


@idiom("feature_info", "[level['num_chs'] for level in model.feature_info]", works="ours timm")
def feature_info(make: Make) -> object:
    model = make()
    info = [(level["num_chs"], level["reduction"]) for level in model.feature_info]
    assert info == [(64, 2), (64, 4), (128, 8), (256, 16), (512, 32)]
    assert [level["module"] for level in model.feature_info][1:] == list(STAGES)
    for level in model.feature_info:
        model.get_submodule(level["module"])
    return None


@idiom(
    "timm's feature wrappers",
    "FeatureGetterNet(model, out_indices=(1, 2, 3, 4))",
    works="ours timm",
)
def timms_feature_wrappers(make: Make) -> object:
    from timm.models._features import FeatureGetterNet, FeatureHookNet, FeatureListNet

    outputs = []
    for wrapper in (FeatureGetterNet, FeatureHookNet, FeatureListNet):
        network = wrapper(make(), out_indices=(0, 2, 4))
        assert network.feature_info.channels() == [64, 128, 512]
        outputs += [network(images())]
    for other in outputs[1:]:
        assert all(map(torch.equal, other, outputs[0]))
    return outputs[0][1]


@idiom("Width of the features", "model.num_features", works="ours timm")
def width_of_the_features(make: Make) -> object:
    assert make().num_features == 512
    return None


@idiom("Without a classifier", "create_model(name, num_classes=0)", works="ours timm")
def without_a_classifier(make: Make) -> object:
    return make(num_classes=0)(images())


@idiom("Remove the classifier", "model.reset_classifier(0)", works="ours timm")
def remove_the_classifier(make: Make) -> object:
    model = make()
    model.reset_classifier(0)
    pooled = model(images())
    model.reset_classifier(5)
    assert model(images()).shape == (2, 5)
    return pooled


@idiom("New classifier", "model.fc = nn.Identity(); model.reset_classifier(5)", works="ours timm")
def new_classifier(make: Make) -> object:
    model = make()
    model.fc = nn.Identity()
    model.reset_classifier(5)
    assert model(images()).shape == (2, 5)
    assert model.num_classes == 5
    return None


@idiom("The classifier", "model.get_classifier()", works="ours timm")
def the_classifier(make: Make) -> object:
    model = make()
    assert model.get_classifier() is model.fc
    return model.get_classifier().weight


@idiom("Layer-wise learning rates", "timm.optim.param_groups_layer_decay(model)", works="ours timm")
def layer_wise_learning_rates(make: Make) -> object:
    from timm.optim._param_groups import param_groups_layer_decay

    groups = param_groups_layer_decay(make(), layer_decay=0.5)
    scales = sorted({group["lr_scale"] for group in groups})
    assert sum(len(group["params"]) for group in groups) == len(list(make().parameters()))
    assert len(scales) == 10  # the stem, eight blocks, the classifier
    return torch.tensor(scales)


# Transformations of functions --------------------------------------------------------------------


@idiom("vmap", "vmap(lambda x: functional_call(model, state, x[None]))(images)")
def vmapped(make: Make) -> object:
    model = make()
    state = dict(model.named_parameters()) | dict(model.named_buffers())

    def one(x: Tensor) -> Tensor:
        return torch.func.functional_call(model, state, x[None])[0]

    mapped = torch.vmap(one)(images())
    torch.testing.assert_close(mapped, model(images()))
    return mapped


@idiom("Per-sample gradients", "vmap(grad(loss), in_dims=(None, 0))(parameters, images)")
def per_sample_gradients(make: Make) -> object:
    model = make()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, (parameters, buffers), x[None]).square().mean()

    return torch.vmap(torch.func.grad(loss), (None, 0))(parameters, images())["fc.weight"]


@idiom("Ensemble", "stack_module_state(models); vmap(f)(parameters, buffers)")
def ensemble(make: Make) -> object:
    models = [make() for _ in range(2)]
    nn.init.ones_(models[1].fc.bias)
    parameters, buffers = torch.func.stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(skeleton, (parameters, buffers), x)

    together = torch.vmap(one, (0, 0, None))(parameters, buffers, images())
    torch.testing.assert_close(together, torch.stack([model(images()) for model in models]))
    return together


@idiom("Forward-mode gradients", "torch.func.jvp(model, (images,), (tangents,))")
def forward_mode_gradients(make: Make) -> object:
    return torch.func.jvp(make(), (images(),), (torch.ones(2, 3, 64, 64),))[1]


# Compilers and exporters -------------------------------------------------------------------------


@idiom("Compile a stage", "model.layer4.compile()", slow=True)
def compile_a_stage(make: Make) -> object:
    model, graphs = make(), []
    expected = model(images())

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model.layer4.compile(backend=backend, fullgraph=True)
    logits = model(images())
    assert len(graphs) == 1
    torch.testing.assert_close(logits, expected)
    torch.compiler.reset()
    model.layer4.compile(backend="aot_eager")
    return model(images())


@idiom("Compile", "torch.compile(model, fullgraph=True)", slow=True)
def compile_all(make: Make) -> object:
    model = make()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images()), model(images()))
    return compiled(images())


@idiom(
    "Compile and recompute",
    "model.set_grad_checkpointing(); torch.compile(model)",
    works="ours timm",
    slow=True,
)
def compile_and_recompute(make: Make) -> object:
    model = make().train()
    model.set_grad_checkpointing()
    compiled = torch.compile(model, backend="aot_eager")
    logits = trained(compiled)
    assert model.conv1.weight.grad.any()
    return logits


@idiom(
    "torch.export, any batch and size",
    "torch.export.export(model, ..., dynamic_shapes=...)",
    slow=True,
)
def exported(make: Make) -> object:
    model = make()
    sizes = {0: torch.export.Dim("N"), 2: torch.export.Dim("H", min=33, max=1024)}
    sizes |= {3: torch.export.Dim("W", min=33, max=1024)}
    program = torch.export.export(model, (images(),), dynamic_shapes=(sizes,)).module()
    torch.testing.assert_close(program(images(3, 96)), model(images(3, 96)))
    return program(images())


@idiom("TorchScript", "torch.jit.script(model)")
def scripted(make: Make) -> object:
    model = make()
    script = torch.jit.script(model)
    torch.testing.assert_close(script(images(3, 96)), model(images(3, 96)))
    return script(images())


@idiom("TorchScript trace", "torch.jit.trace(model, images)", slow=True)
def jit_traced(make: Make) -> object:
    model = make()
    trace = torch.jit.trace(model, images())
    torch.testing.assert_close(trace(images(3, 96)), model(images(3, 96)))
    return trace(images())


@idiom("torch.fx", "torch.fx.symbolic_trace(model)")
def fx_traced(make: Make) -> object:
    model = make()
    graph = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(graph(images(3, 96)), model(images(3, 96)))
    return graph(images())


@idiom(
    "torch.fx, training with stochastic depth",
    "torch.fx.symbolic_trace(create_model(name, DROP_PATH).train())",
    works="ours timm",
)
def fx_traced_in_training(make: Make) -> object:
    try:
        model = make(drop_path=0.5).train()
    except TypeError:  # its name in timm
        model = make(drop_path_rate=0.5).train()
    graph = torch.fx.symbolic_trace(model)
    twin = copy.deepcopy(model)
    torch.manual_seed(0)
    logits = graph(images())
    torch.manual_seed(0)
    torch.testing.assert_close(logits, twin(images()))
    return None


@idiom(
    "torch.fx, blur pooling",
    "torch.fx.symbolic_trace(create_model('resnetblur18'))",
    works="ours timm",
)
def fx_traced_blur(make: Make) -> object:
    return torch.fx.symbolic_trace(make("resnetblur18"))(images())


@idiom("Meta device, then weights", "model.to_empty(device='cpu'); model.load_state_dict(state)")
def meta_then_weights(make: Make) -> object:
    source = make()
    model = copy.deepcopy(source).to("meta").to_empty(device="cpu")
    model.load_state_dict(source.state_dict())
    assigned = copy.deepcopy(source).to("meta")
    assigned.load_state_dict(source.state_dict(), assign=True)
    torch.testing.assert_close(assigned(images()), model(images()))
    return model(images())


@idiom(
    "Meta device, blur pooling",
    "create_model('resnetblur18').to_empty(device='cpu')",
    works="ours",
)
def meta_then_weights_of_blur(make: Make) -> object:
    source = make("resnetblur18")
    model = copy.deepcopy(source).to("meta").to_empty(device="cpu")
    for buffer in model.buffers():  # what may be in fresh memory
        buffer.fill_(7)
    model.load_state_dict(source.state_dict())
    torch.testing.assert_close(model(images()), source(images()))
    return None


@idiom("ONNX, TorchScript exporter", "torch.onnx.export(model, ..., dynamo=False)", slow=True)
def onnx_by_tracing(make: Make) -> object:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model, file = make(), io.BytesIO()
    torch.onnx.export(
        model, (images(),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "N"}}
    )
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": images(3).numpy()})[0])


@idiom("ONNX", "torch.onnx.export(model, ..., dynamo=True)", slow=True)
def onnx_by_export(make: Make) -> object:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    shapes = ({0: torch.export.Dim("N")},)
    program = torch.onnx.export(make(), (images(),), dynamo=True, dynamic_shapes=shapes)
    file = io.BytesIO()
    assert program is not None
    program.save(file)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return torch.from_numpy(session.run(None, {name: images(3).numpy()})[0])


@idiom("Quantisation, FX graph mode", "convert_fx(prepare_fx(model, mapping, images))", slow=True)
def quantised(make: Make) -> object:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    model = make()
    mapping = get_default_qconfig_mapping("fbgemm")
    prepared = prepare_fx(copy.deepcopy(model), mapping, (images(),))
    prepared(images())
    logits, expected = convert_fx(prepared)(images()), model(images())
    assert (logits - expected).norm() < 0.2 * expected.norm()
    return None


@idiom("Fuse convolutions and norms", "torch.fx.experimental.optimization.fuse(model)")
def fused(make: Make) -> object:
    from torch.fx.experimental.optimization import fuse

    return fuse(make())(images())


# Copies, precisions, many processes --------------------------------------------------------------


@idiom("Copy, pickle, save whole", "copy.deepcopy(model); torch.save(model, path)")
def copied(make: Make) -> object:
    model, file = make(), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(images()), loaded(images()), rtol=0, atol=0)
    return loaded(images())


@idiom("Channels last", "model.to(memory_format=torch.channels_last)")
def channels_last(make: Make) -> object:
    model = make().to(memory_format=torch.channels_last)
    return model(images().contiguous(memory_format=torch.channels_last))


@idiom("Half precision", "model.to(torch.bfloat16)")
def half_precision(make: Make) -> object:
    logits = make().bfloat16()(images().bfloat16())
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    return None


@idiom("Autocast", "with torch.autocast('cpu', torch.bfloat16): model(images)")
def autocast(make: Make) -> object:
    with torch.autocast("cpu", torch.bfloat16):
        logits = make()(images())
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    return None


@idiom("SyncBatchNorm", "nn.SyncBatchNorm.convert_sync_batchnorm(model)")
def sync_batch_norm(make: Make) -> object:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(make())
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) == 20
    return None


@idiom("Averaged weights", "torch.optim.swa_utils.AveragedModel(model)")
def averaged_weights(make: Make) -> object:
    from torch.optim.swa_utils import AveragedModel

    model = make()
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    return averaged(images())


@idiom("Pruning", "prune.l1_unstructured(model.layer4[0].conv1, 'weight', 0.5)")
def pruning(make: Make) -> object:
    from torch.nn.utils import prune

    model = make()
    prune.l1_unstructured(model.layer4[0].conv1, "weight", 0.5)
    return model(images())


@idiom("Weight norm", "parametrizations.weight_norm(model.fc)")
def weight_norm(make: Make) -> object:
    from torch.nn.utils import parametrizations

    model = make()
    parametrizations.weight_norm(model.fc)
    return model(images())


@idiom("DDP", "DistributedDataParallel(model)")
def ddp(make: Make) -> object:
    with one_process():
        return trained(nn.parallel.DistributedDataParallel(make().train()))


@idiom("FSDP2 by stage", "fully_shard(model.layer1); ...; fully_shard(model)")
def fsdp_by_stage(make: Make) -> object:
    from torch.distributed import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with one_process():
        model, mesh = make().train(), init_device_mesh("cpu", (1,))
        for name in STAGES:
            fully_shard(model.get_submodule(name), mesh=mesh)
        return trained(fully_shard(model, mesh=mesh))


@idiom("Recompute chosen modules", "apply_activation_checkpointing(model, check_fn=is_a_stage)")
def recompute_chosen_modules(make: Make) -> object:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        apply_activation_checkpointing,
    )

    model = make().train()
    stages = {model.get_submodule(name) for name in STAGES}
    apply_activation_checkpointing(model, check_fn=lambda module: module in stages)
    return trained(model)


@idiom("Recompute", "model.set_grad_checkpointing()", works="ours timm")
def recompute(make: Make) -> object:
    usual, saving = make().train(), make().train()
    saving.set_grad_checkpointing()
    trained(usual)
    logits = trained(saving)
    for one, other in zip(usual.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    return logits


# The tests ---------------------------------------------------------------------------------------

CASES = [
    pytest.param(
        library,
        entry,
        id=f"{library}-{entry.run.__name__}",
        marks=[pytest.mark.slow] if entry.slow or library != "ours" else [],
    )
    for entry in IDIOMS.values()
    for library in LIBRARIES
]


@cache
def result(library: str, entry: str) -> object:
    """Run an idiom once a library; its peers compare with what comes out."""
    torch.manual_seed(0)
    torch.compiler.reset()
    return IDIOMS[entry].run(maker(library))


@pytest.mark.parametrize(("library", "entry"), CASES)
def test_an_idiom_works_where_the_table_says_so(library: str, entry: Idiom) -> None:
    if library not in entry.works:
        with pytest.raises(Exception):  # noqa: B017, PT011 (whatever the peer raises)
            result(library, entry.name)
        return
    theirs = result(library, entry.name)
    if library == "ours":
        return
    ours = result("ours", entry.name)
    assert (ours is None) == (theirs is None)
    if isinstance(ours, Tensor):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def table() -> str:
    """Return the table of the documentation."""
    lines = ["| idiom | code | ours | torchvision | timm |", "|---|---|---|---|---|"]
    for entry in IDIOMS.values():
        marks = ["yes" if library in entry.works else "no" for library in LIBRARIES]
        lines.append(" | ".join([f"| {entry.name}", f"`{entry.code}`", *marks]) + " |")
    return "\n".join(lines)


def test_the_documentation_has_the_table() -> None:
    found = re.search(r"<!-- idioms -->\n(.*?)\n\n", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    assert found[1] == table(), "run `python tests/test_idioms.py` and paste what it prints"


def test_ours_passes_every_idiom() -> None:
    assert all("ours" in entry.works for entry in IDIOMS.values())


# Every row ---------------------------------------------------------------------------------------


def kinds(*, depth: int, stages: int) -> dict[ResNetConfig, str]:
    """Return one row for each network that is left when all have this depth and these stages."""
    rows: dict[ResNetConfig, str] = {}
    for name, row in MODELS.items():
        count = min(len(row.config.depths), stages)
        widths = tuple(64 * 2**stage for stage in range(count))
        sizes: dict[str, Any] = {"depths": (depth,) * count, "widths": widths, "num_classes": 10}
        rows.setdefault(dataclasses.replace(row.config, **sizes), name)
    return rows


def called(model: nn.Module, batch: Tensor) -> dict[str, int]:
    """Return how often each submodule is called in one pass."""
    calls: Counter[str] = Counter()
    for key, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):  # a list has no `forward`
            calls[key] = 0
            module.register_forward_hook(lambda *call, key=key: calls.update([key]))
    model(batch)
    return calls


@pytest.mark.parametrize(("depth", "stages"), [(1, 2), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_every_submodule_of_every_row_is_called_once(depth: int, stages: int) -> None:
    wrong = {}
    for config, name in kinds(depth=depth, stages=stages).items():
        with torch.device("meta"):
            model, batch = ResNet(config).eval(), torch.empty(2, config.in_channels, 64, 64)
        if others := {key: n for key, n in called(model, batch).items() if n != 1}:
            wrong[name] = others
    assert wrong == {}


@pytest.mark.slow
def test_every_kind_of_row_scripts_and_traces() -> None:
    failures = []
    for config, name in kinds(depth=1, stages=2).items():
        torch.manual_seed(0)
        model, batch = ResNet(config).eval(), images(side=96)
        try:
            expected = model(batch)
            for twin in (torch.jit.script(model), torch.fx.symbolic_trace(model)):
                torch.testing.assert_close(twin(batch), expected)
            torch.fx.symbolic_trace(model.train())
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {str(error)[-300:]}")
    assert failures == []


# In place, where nothing notices -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_evaluation_in_place_has_the_same_bits(name: str) -> None:
    model, batch = narrow(name), images(side=65)
    expected = model(batch).detach()
    with count_operations() as seen, torch.inference_mode():
        assert torch.equal(model(batch), expected)
    assert seen["relu_"] == sum(isinstance(module, nn.ReLU) for module in model.modules())
    assert seen["add_"] == sum(model.config.depths) and seen["relu"] == seen["add"] == 0
    for other in (batch.requires_grad_(), batch.double()):
        with count_operations() as seen:
            model.to(other.dtype)(other)
        assert seen["relu_"] == seen["add_"] == 0


def narrow(name: str) -> ResNet:
    torch.manual_seed(0)
    model: ResNet = build("ours", name, num_classes=7, widths=(8, 16, 32, 64))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_hooks_see_true_inputs_and_outputs_in_evaluation(name: str) -> None:
    model, batch = narrow(name), images(side=33)
    for key, module in model.named_modules():
        if key.startswith(("layer2", "layer3", "layer4.1")):
            continue  # as layer1 and layer4.0
        kept: list[tuple[Tensor, Tensor]] = []

        def keep(module: object, inputs: Any, output: Tensor, kept: Any = kept) -> None:
            kept.extend((x, x.clone()) for x in (inputs[0], output))

        handle = module.register_forward_hook(keep)
        model(batch)
        handle.remove()
        assert len(kept) == 2 and all(torch.equal(*pair) for pair in kept), key


@torch.no_grad()
def test_what_is_attached_to_a_block_is_respected() -> None:
    model = maker("ours")()
    expected = model(images())
    block, seen = model.layer1[0], []
    usual = block.bn2.forward

    def recorded(x: Tensor) -> Tensor:
        seen.append(usual(x))
        return seen[-1]

    block.bn2.forward = recorded
    assert torch.equal(model(images()), expected)
    assert (seen[0] < 0).any()  # a ReLU in place would leave none
    del block.bn2.forward
    block.relu1 = nn.Identity()
    assert not torch.equal(model(images()), expected)
    block.relu1, block.conv2, block.bn2 = nn.ReLU(), nn.Identity(), nn.Identity()
    kept = images(64).reshape(-1, 64, 8, 8)
    before = kept.clone()
    model.layer1(kept)
    assert torch.equal(kept, before)


@contextmanager
def count_operations() -> Iterator[Counter[str]]:
    """Count the operations of PyTorch by name."""
    seen: Counter[str] = Counter()

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen[function.overloadpacket.__name__] += 1
            return function(*args, **(kwargs or {}))

    with Mode():
        yield seen


if __name__ == "__main__":
    print(table())
