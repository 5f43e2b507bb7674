"""Model files that are damaged, forged with a right digest, or made to cost time and memory."""

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_harness import Fault, finished_run, photos

Json = dict[str, Any]
NO_DIGEST = "0" * 64


def parts_of(path: Path) -> tuple[Json, Json, bytes]:
    """Return the header without its record, the record, and the bytes of the tensors."""
    blob = path.read_bytes()
    end = 8 + struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8:end])
    return header, json.loads(header.pop("__metadata__")["resnets"]), blob[end:]


def sign(path: Path, header: Json | str, record: Json | str, body: bytes) -> None:
    """Write a model file with the right digest; texts are taken as they are."""
    if isinstance(record, dict):
        record = json.dumps(record | {"digest": NO_DIGEST}, sort_keys=True, separators=(",", ":"))
    metadata = json.dumps({"__metadata__": {"resnets": record}}, separators=(",", ":"))
    table = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    text = (metadata[:-1] + "," + table[1:]).encode()
    blob = struct.pack("<Q", len(text)) + text + body
    digest = hashlib.sha256(blob).hexdigest()
    path.write_bytes(blob.replace(NO_DIGEST.encode(), digest.encode()))


def command(run: Path, verb: str) -> list[str]:
    """Return the words of a command that reads the model file of a run."""
    photos(run.parent / "held-out", each=2)
    words = {
        "show": ["show", str(run)],
        "json": ["show", str(run), "--format", "json"],
        "predict": ["predict", str(run), str(run.parent / "held-out/cat/000.png")],
        "evaluate": ["evaluate", str(run), str(run.parent / "held-out")],
    }
    return words[verb]


def forged(change: Callable[[Json, Json], Any], verb: str = "show") -> Callable[[Path], list[str]]:
    """Change header and record of a model file, and sign it again."""

    def make(folder: Path) -> list[str]:
        path = finished_run(folder) / "model.safetensors"
        header, record, body = parts_of(path)
        change(header, record)
        sign(path, header, record, body)
        return command(path.parent, verb)

    return make


def record_text(old: str, new: str) -> Callable[[Path], list[str]]:
    """Replace a piece of the record's text, and sign the file again."""

    def make(folder: Path) -> list[str]:
        path = finished_run(folder) / "model.safetensors"
        header, record, body = parts_of(path)
        text = json.dumps(record | {"digest": NO_DIGEST}, sort_keys=True, separators=(",", ":"))
        assert text.count(old) >= 1, (old, text[:2000])
        sign(path, header, text.replace(old, new, 1), body)
        return command(path.parent, "json")

    return make


def raw(change: Callable[[bytes], bytes], verb: str = "show") -> Callable[[Path], list[str]]:
    """Change the bytes of a model file."""

    def make(folder: Path) -> list[str]:
        path = finished_run(folder) / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))
        return command(path.parent, verb)

    return make


def tensors(change: Callable[[Json, bytearray], Any], verb: str) -> Callable[[Path], list[str]]:
    """Change values of the tensors, and sign the file again."""

    def make(folder: Path) -> list[str]:
        path = finished_run(folder) / "model.safetensors"
        header, record, body = parts_of(path)
        values = bytearray(body)
        change(header, values)
        sign(path, header, record, bytes(values))
        return command(path.parent, verb)

    return make


def first_value(name: str, value: float) -> Callable[[Json, bytearray], None]:
    def change(header: Json, body: bytearray) -> None:
        struct.pack_into("<f", body, header[name]["data_offsets"][0], value)

    return change


def python(call: Callable[[], Any]) -> Callable[[Path], Callable[[], Any]]:
    """Return a case that calls a function of the Python API."""
    return lambda folder: call


def create(**fields: Any) -> Callable[[], Any]:
    def call() -> Any:
        from resnets import create_model

        return create_model("resnet20", **fields)

    return call


def configured(**fields: Any) -> Callable[[], Any]:
    def call() -> Any:
        from resnets.models.config import ResNetConfig

        base = {"depths": (1,), "block": "basic", "widths": (8,)}
        return ResNetConfig(**base | fields)

    return call


def sparse(size: int) -> Callable[[Path], list[str]]:
    """A file of `size` bytes on paper: its header is as long as it says, and blank."""

    def make(folder: Path) -> list[str]:
        run = finished_run(folder)
        with (run / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", size - 8) + b"{")
            file.truncate(size)
        return command(run, "show")

    return make


def _blank_header(size: int) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        run = finished_run(folder)
        text = b"{" + b" " * (size - 2) + b"}"
        (run / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
        return command(run, "show")

    return make


def _many_tensors(folder: Path) -> list[str]:
    run = finished_run(folder)
    table = {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(101_000)}
    text = json.dumps(table, separators=(",", ":")).encode()
    (run / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return command(run, "predict")


def _fifo(folder: Path) -> list[str]:
    run = finished_run(folder)
    (run / "model.safetensors").unlink()
    os.mkfifo(run / "model.safetensors")
    return ["show", str(run / "model.safetensors")]


def _moved_offsets(header: Json, record: Json) -> None:
    name = next(iter(header))
    begin, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = [begin + 4, end + 4]


def _shape(header: Json, record: Json, shape: list[int]) -> None:
    header["conv1.weight"]["shape"] = shape


def config(**fields: Any) -> Callable[[Json, Json], None]:
    return lambda header, record: record["config"].update(fields)


def preprocess(**fields: Any) -> Callable[[Json, Json], None]:
    return lambda header, record: record["preprocess"].update(fields)


def entry(**fields: Any) -> Callable[[Json, Json], None]:
    return lambda header, record: record.update(fields)


TAKE = "cannot take"
FORGED: dict[str, tuple[Callable[[Json, Json], Any], str]] = {
    "format-true": (entry(format=True), "unknown format True"),
    "format-one-point": (entry(format=1.0), r"unknown format 1\.0"),
    "format-text": (entry(format="1"), "unknown format '1'"),
    "format-newer": (entry(format=2), "reads up to 1: upgrade"),
    "format-negative": (entry(format=-1), "unknown format -1"),
    "classes-text": (entry(classes="ab"), r"Expected `array`.*classes"),
    "classes-table": (entry(classes={"a": 0, "b": 1}), r"Expected `array`.*classes"),
    "classes-numbers": (entry(classes=[0, 1]), r"Expected `str`.*classes"),
    "classes-null": (entry(classes=None), "classes"),
    "classes-nested": (entry(classes=[["a"], ["b"]]), r"Expected `str`.*classes"),
    "classes-twice": (entry(classes=["a", "a"]), "different strings"),
    "classes-few": (entry(classes=["a"]), "1 class names"),
    "classes-many": (entry(classes=[str(i) for i in range(100_000)]), "100000 class names"),
    "scores-list": (entry(scores=[1]), "scores"),
    "recipe-number": (entry(recipe=5), "recipe"),
    "data-text": (entry(data="photos"), "data"),
    "foreign-field": (entry(colour="red"), "unknown field `colour`"),
    "config-null": (entry(config=None), "config"),
    "config-list": (entry(config=[]), "config"),
    "config-foreign": (config(colour=1), "unknown field 'colour'"),
    "blocks-10000": (config(depths=[10_000, 3, 3]), "at most 10,000 blocks"),
    "blocks-9000": (config(depths=[9_000, 3, 3]), "tensors do not fit"),
    "blocks-1000000": (config(depths=[1_000_000, 3, 3]), "at most 10,000 blocks"),
    "blocks-endless": (config(depths=[2**62, 3, 3]), "at most"),
    "blocks-negative": (config(depths=[-1, 3, 3]), "at least 1"),
    "blocks-true": (config(depths=[True, 3, 3]), "Expected `int`"),
    "stages-100000": (config(depths=[1] * 10**5, widths=[1] * 10**5), "at most 16"),
    "stages-20": (config(depths=[1] * 20, widths=[1] * 20), "at most 16"),
    "widths-endless": (config(widths=[2**62] * 3), "at most 1,048,576"),
    "widths-large": (config(widths=[100_000, 200_000, 400_000]), "parameters: at most"),
    "widths-text": (config(widths="abc"), "Expected `array`"),
    "groups-endless": (config(block="bottleneck", groups=2**62), "groups"),
    "group-width": (config(block="bottleneck", group_width=2**20), "parameters: at most"),
    "num-classes": (config(num_classes=2**40), "num_classes"),
    "in-channels": (config(in_channels=2**19), "preprocessing to 3 channels"),
    "block-long": (config(block="b" * 10**6), r"unknown block '?b+\.\.\."),
    "stem-null": (config(stem=None), "Expected `str`"),
    "se-nan-like": (config(se=1e308), r"must be a number in \[0, 1\)"),
    "size-16384": (preprocess(size=16_384), "size is 16384"),
    "size-10000": (preprocess(size=10_000), "size is 10000"),
    "size-4096": (
        lambda h, r: (
            r["preprocess"].update(size=4096),
            r["config"].update(stem_width=64, shortcut="conv"),
        ),
        "an input of 4096 x 4096 pixels costs this network",
    ),
    "size-endless": (preprocess(size=2**62), "size"),
    "size-real": (preprocess(size=16.0), "Expected `int`"),
    "size-true": (preprocess(size=True), "Expected `int`"),
    "crop-tiny": (preprocess(crop_fraction=1e-300), "crop_fraction"),
    "crop-small": (preprocess(crop_fraction=1e-4), "crop_fraction"),
    "crop-zero": (preprocess(crop_fraction=0.0), "crop_fraction"),
    "std-zero": (preprocess(std=[0.0, 0.0, 0.0]), "std"),
    "mean-text": (preprocess(mean="abc"), "Expected `array`"),
    "mean-huge": (preprocess(mean=[1e300] * 3), "mean"),
    "std-tiny": (preprocess(std=[1e-300] * 3), "std"),
    "preprocess-foreign": (preprocess(colour=1), "unknown field 'colour'"),
    "interpolation": (preprocess(interpolation="cubic"), "interpolation"),
    "type-i32": (
        lambda header, record: header["fc.bias"].update(dtype="I32"),
        r"fc\.bias: shape \(2,\) of int32 numbers where the network has .* real",
    ),
    "type-unknown": (lambda header, record: header["fc.bias"].update(dtype="X9"), "unknown type"),
    "type-width": (lambda header, record: header["fc.bias"].update(dtype="F64"), "bytes than"),
    "shape-huge": (lambda h, r: _shape(h, r, [2**62, 2**62, 3, 3]), "bytes than its shape"),
    "shape-negative": (lambda h, r: _shape(h, r, [-16, -3, 3, 3]), "shape that no tensor"),
    "shape-long": (lambda h, r: _shape(h, r, [1] * 10**5), "shape that no tensor"),
    "shape-true": (lambda h, r: _shape(h, r, [True]), "Expected `int`"),
    "offsets-overlap": (_moved_offsets, "overlaps another, or leaves a gap"),
    "tensor-lost": (lambda h, r: h.pop("fc.bias"), "overlaps|tensors do not fit|after its end"),
    "entry-a-list": (lambda h, r: h.update({"fc.bias": []}), "Expected `object`"),
    "entry-foreign": (lambda h, r: h["fc.bias"].update(colour=1), "unknown field `colour`"),
}

FAULTS = [
    *(
        Fault(
            f"model-file/{name}",
            forged(change, "predict" if position % 3 == 0 else "show"),
            rf"model file \S+model\.safetensors .*{message}",
            cpu_seconds=2.0,
            catalogue="C5",
        )
        for position, (name, (change, message)) in enumerate(FORGED.items())
    ),
    *(
        Fault(f"model-file/record-{name}", record_text(old, new), message, cpu_seconds=2.0)
        for name, old, new, message in (
            ("key-twice", '"format":1', '"format":1,"format":1', "'format' occurs twice"),
            ("nan", '"recipe":{', '"recipe":{"a":NaN,', "NaN is not a number of JSON"),
            ("infinity", '"data":{', '"data":{"a":Infinity,', "Infinity is not a number of JSON"),
            ("beyond-floats", '"data":{', '"data":{"a":1e999,', "out of range"),
            ("digits", '"data":{', '"data":{"a":1' + "7" * 400 + ",", "401 digits"),
            ("deep", '"data":{', '"data":{"a":' + "[" * 100 + "]" * 100 + ",", "nested more"),
            ("very-deep", '"data":{', '"data":{"a":' + "[" * 10**5, "nested more"),
            ("surrogate", '"data":{', '"data":{"a":"\\ud800",', "not valid JSON"),
        )
    ),
    Fault(
        "model-file/cautions-a-number",
        forged(lambda h, r: r["scores"].update(cautions=5), "evaluate"),
        r"its scores is not valid: .*cautions",
    ),
    *(
        Fault(f"model-file/read-again-{name}", forged(change, "evaluate"), message)
        for name, change, message in (
            ("model", lambda h, r: r["recipe"].update(model=5), "its recipe .*model"),
            ("name", lambda h, r: r["data"].update(name=["a"]), "its data .*name"),
        )
    ),
    *(
        Fault(
            f"model-file/{name}-{verb}",
            tensors(first_value("fc.weight", value), verb),
            r"values of fc\.weight that are not finite",
        )
        for name, value in (("nan", float("nan")), ("infinite", float("inf")))
        for verb in ("evaluate", "predict", "show")
    ),
    Fault(
        "model-file/tensor-twice",
        lambda folder: _tensor_twice(folder),
        "occurs twice",
        catalogue="C8",
    ),
    Fault("model-file/empty", raw(lambda blob: b""), "is empty", catalogue="C2"),
    Fault("model-file/truncated", raw(lambda b: b[:-9]), r"truncated: \d+ of \d+", catalogue="C1"),
    Fault(
        "model-file/cut-in-header", raw(lambda b: b[:99]), "truncated or damaged", catalogue="C1"
    ),
    Fault("model-file/trailing", raw(lambda b: b + b"\0"), "1 bytes after its end"),
    Fault(
        "model-file/flipped",
        raw(lambda b: b[:-1] + bytes([b[-1] ^ 1])),
        "do not match its digest",
        catalogue="C3",
    ),
    Fault("model-file/html", raw(lambda b: b"<html>not found</html>"), "not a safetensors file"),
    Fault("model-file/zip", raw(lambda b: b"PK\3\4" + bytes(100)), "is a torch file"),
    Fault("model-file/pickle", raw(lambda b: b"\x80\4" + bytes(100)), "torch file", catalogue="C4"),
    Fault(
        "model-file/header-length-lies",
        raw(lambda b: struct.pack("<Q", 2**63) + b[8:]),
        "header alone ends at",
        catalogue="C8",
    ),
    Fault(
        "model-file/header-120-mb",
        _blank_header(120_000_000),
        "header of .* at most",
        cpu_seconds=2.0,
        catalogue="C8",
    ),
    Fault("model-file/header-10-mb", _blank_header(10_000_000), "no 'resnets'", cpu_seconds=2.0),
    Fault("model-file/header-20-gb", sparse(20 * 2**30), "header of", cpu_seconds=2.0),
    Fault("model-file/tensors-101000", _many_tensors, "more than 50,000", cpu_seconds=2.0),
    Fault("model-file/fifo", _fifo, "it is a pipe, not a file"),
    Fault("model-file/device", lambda folder: ["show", "/dev/zero"], "it is a device"),
    Fault("model-file/nul", python(lambda: _load("a\0b")), "no model file|not a path"),
    *(
        Fault(f"network/{name}", python(call), message, cpu_seconds=2.0)
        for name, call, message in (
            ("depths-huge", create(depths=(10**6, 1, 1)), "at most 10,000 blocks"),
            ("depths-digits", create(depths=(10**5000, 1, 1)), "at most"),
            ("widths-huge", create(widths=(2**62, 2**62, 2**62)), "at most 1,048,576"),
            ("widths-digits", create(widths=(10**5000,) * 3), "at most"),
            ("parameters", create(widths=(2**18, 2**18, 2**18)), "parameters: at most"),
            ("classes-huge", create(num_classes=2**40), "num_classes"),
            ("channels-huge", create(in_channels=2**40), "in_channels"),
            ("stages", configured(depths=(1,) * 100, widths=(8,) * 100), "at most 16"),
            ("se-digits", configured(se=10**5000), "se = "),
            ("block-list", configured(block=["basic"]), "unknown block"),
            ("blur-digits", configured(blur=10**5000), "blur"),
        )
    ),
]


def _load(path: str) -> Any:
    from resnets import load_model

    return load_model(path)


def _tensor_twice(folder: Path) -> list[str]:
    path = finished_run(folder) / "model.safetensors"
    header, record, body = parts_of(path)
    table = json.dumps(header, separators=(",", ":"))
    again = json.dumps({"fc.bias": header["fc.bias"]}, separators=(",", ":"))
    sign(path, again[:-1] + "," + table[1:], record, body)
    return command(path.parent, "show")
