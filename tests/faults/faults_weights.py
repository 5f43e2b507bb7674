"""Weights of strangers, and damaged ones of ours: `weights=` and `train --weights`."""

import io
import json
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from fault_harness import TINY_RUN, Fault, finished_run, photos, slow

from resnets.models.registry import create_model

Made = Callable[[], object]
HEAD = "fc.weight"
VARIANCE = "bn1.running_var"
COUNT = "bn1.num_batches_tracked"


def state(**changes: Any) -> dict[str, Any]:
    """Return a state_dict of resnet20 with other entries."""
    return {**create_model("resnet20").state_dict(), **changes}


def loads(file: Path | str) -> Made:
    """Return a call that loads weights."""
    return lambda: create_model("resnet20", weights=file)


def tensor(name: str, edit: Callable[[torch.Tensor], object]) -> Callable[[], dict[str, Any]]:
    """Return a function that makes a state_dict with one tensor edited."""

    def content() -> dict[str, Any]:
        whole = state()
        whole[name] = edit(whole[name].clone())
        return whole

    return content


def set_one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that writes a value into the first element."""

    def edit(given: torch.Tensor) -> torch.Tensor:
        given.view(-1)[0] = value
        return given

    return edit


def torch_case(
    name: str, content: Callable[[], object], message: str, *, legacy: bool = False, **options: Any
) -> Fault:
    """Return a case of a file that torch.save wrote."""

    def make(folder: Path) -> Made:
        file = folder / "weights.pth"
        torch.save(content(), file, _use_new_zipfile_serialization=not legacy)
        return loads(file)

    return Fault(f"weights/{name}", make, message, **_limits(options))


def bytes_case(name: str, content: Callable[[], bytes], message: str, **options: Any) -> Fault:
    """Return a case of a file of these bytes."""

    def make(folder: Path) -> Made:
        (folder / "weights.bin").write_bytes(content())
        return loads(folder / "weights.bin")

    return Fault(f"weights/{name}", make, message, **_limits(options))


def _limits(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"cpu_seconds": 2.0, "megabytes": 1000, "wall_seconds": 60.0, **options}


# Zips --------------------------------------------------------------------------------------------


def archive(pickled: bytes, entries: Mapping[str, bytes] | None = None, **changes: Any) -> bytes:
    """Return a zip as torch.save writes it, around a pickle of one's own."""
    buffer = io.BytesIO()
    kind = changes.get("compression", zipfile.ZIP_STORED)
    with zipfile.ZipFile(buffer, "w", kind) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in (entries or {}).items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zeros(entry: str) -> bytes:
    """Return a zip of 3 MB whose entry has 3 GB of zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        if entry != "data.pkl":
            file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        with file.open(f"archive/{entry}", "w", force_zip64=True) as stream:
            for _ in range(3 * 2**30 // 2**24):
                stream.write(bytes(2**24))
    return buffer.getvalue()


def lying() -> bytes:
    """Return a zip whose directory declares 3 GB for each entry."""
    content = saved(state())
    for size in {info.file_size for info in zipfile.ZipFile(io.BytesIO(content)).infolist()}:
        old, new = (struct.pack("<II", n, n) for n in (size, 3_000_000_000))
        start = content.index(b"PK\x01\x02")
        content = content[:start] + content[start:].replace(old, new)
    return content


def flipped(content: bytes, place: int) -> bytes:
    """Return the bytes with one bit changed."""
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def flipped_number() -> bytes:
    """Return a torch file with a changed bit in the numbers of a tensor."""
    content = saved(state())
    return flipped(content, content.index(state()[COUNT].numpy().tobytes()) + 4096)


def twice() -> bytes:
    """Return a zip that has its pickle twice."""
    buffer = io.BytesIO(saved(state()))
    with zipfile.ZipFile(buffer, "a") as file:
        names = file.namelist()
        pickles = next(name for name in names if name.endswith("data.pkl"))
        other = pickles.replace("data.pkl", "data.pkX")
        file.writestr(other, pickle.dumps({}, 2))
    return buffer.getvalue().replace(other.encode(), pickles.encode())


def many_entries() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for number in range(90_000):
            file.writestr(zipfile.ZipInfo(f"{number:x}"), b"")
    return buffer.getvalue()


def script() -> bytes:
    """Return what a TorchScript archive has, without a use of torch.jit, which is deprecated."""
    entries = {"constants.pkl": pickle.dumps((), 2), "code/__torch__.py": b"", "version": b"3\n"}
    return archive(b"\x80\x02c__torch__\nNet\n)\x81.", entries)


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.zeros(3))
    return buffer.getvalue()


# Pickles -----------------------------------------------------------------------------------------


class Touch:
    """Unpickled without care, it makes a file."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, ("executed",)


def nothing_executed(folder: Path) -> None:
    assert not (folder / "executed").exists()


def itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    return content


def each_other() -> dict[str, Any]:
    one: dict[str, Any] = {}
    one["state_dict"] = {"model": one}
    return one


def many_prefixes() -> dict[str, Any]:
    """Return 19,000 tensors, each below six prefixes that it shares with 99 others."""
    paths = (".".join(f"{group}{level}" for level in range(6)) for group in range(190))
    return {f"{path}.{n}.a.b.c": torch.ones(1) for path in paths for n in range(100)}


def many_tables() -> dict[str, Any]:
    return {f"table{number}": {f"a{number}.weight": torch.ones(2, 2)} for number in range(3000)}


def two_networks() -> dict[str, Any]:
    """Return two networks, neither of which is called an average of the other."""
    networks = {"a.": state(), "b.": {key: tensor + 1 for key, tensor in state().items()}}
    return {prefix + key: t for prefix, net in networks.items() for key, t in net.items()}


def shared_records() -> bytes:
    """Return a pickle that gives the same 100,000 values to a record, 100,000 times."""
    values = b"}(" + b"".join(b"X\5\0\0\0%05dN" % n for n in range(100_000)) + b"uq\1"
    record = b"cargparse\nNamespace\n)\x81"
    return b"\x80\x02" + values + record + b"h\1b" * 100_000 + b"."


def hash_bomb() -> bytes:
    """Return a pickle whose key is a tuple of a tuple ..., twice each: its hash takes for ever."""
    doubled = b"".join(b"q\0h\0\x86" for _ in range(200))
    return b"\x80\x02})" + doubled + b"K\1s."


def colliding_keys() -> bytes:
    """Return a pickle of a dictionary whose keys, whole numbers, all have the hash 0."""
    keys = (((2**61 - 1) * n).to_bytes(10, "little") for n in range(1, 300_000))
    return b"\x80\x02}(" + b"".join(b"\x8a\x0a" + key + b"N" for key in keys) + b"u."


def shared_pairs() -> bytes:
    """Return a pickle that copies the same 200,000 pairs 100,000 times."""
    pairs = b"X\1\0\0\0aN\x86q\1" + b"h\1" * 200_000
    copies = b"h\2h\3Rq\4" * 100_000
    return b"\x80\x02ccollections\nOrderedDict\nq\2](" + pairs + b"e\x85q\3" + copies + b"."


STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0aX\3\0\0\0cpuK\4tQ"


def rebuilt(size: bytes, stride: bytes) -> bytes:
    """Return a zip with one tensor of this size and stride over four numbers."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0" + size + stride + b"\x89}tR"
    pickled = b"\x80\x02}X\x09\0\0\0fc.weight" + call + b"s."
    return archive(pickled, {"data/a": bytes(16)})


def legacy_pickles(content: bytes, keys: bytes = b"\x80\x02].", rest: bytes = b"") -> bytes:
    """Return a file of the format before torch 1.6 around a pickle of one's own."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    return magic + pickle.dumps({"little_endian": True}, 2) + content + keys + rest


# Safetensors -------------------------------------------------------------------------------------


def safe(header: object, data: bytes = b"", *, raw: bytes | None = None) -> bytes:
    """Return a safetensors file with this header."""
    text = json.dumps(header).encode() if raw is None else raw
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safe_state(edit: Callable[[dict[str, Any]], object]) -> Callable[[], bytes]:
    def content() -> bytes:
        whole = state()
        edit(whole)
        return bytes(safetensors.torch.save(whole))

    return content


def twice_named() -> bytes:
    one = b'"fc.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    return safe(None, bytes(4), raw=b"{" + one + b"," + one + b"}")


# Files of ours -----------------------------------------------------------------------------------


def flipped_run(place: Callable[[bytes], int], *, cli: bool = False) -> Callable[[Path], Any]:
    """Return a function that changes one bit of the model file of a run, and uses its weights."""

    def make(folder: Path) -> Any:
        file = finished_run(folder) / "model.safetensors"
        content = file.read_bytes()
        file.write_bytes(flipped(content, place(content)))
        if cli:
            options = ["--weights", "run", "--quiet", "--out", "other"]
            return ["train", str(photos(folder / "photos")), *TINY_RUN, *options]
        return lambda: create_model("resnet20", num_classes=2, weights="run")

    return make


def _train_with(file: str, *words: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        torch.save({"conv1.weight": torch.ones(2)}, folder / "good.pth")
        (folder / "bad.pth").write_bytes(saved(state())[:-200])
        return ["train", str(photos(folder / "photos")), "--weights", file, *words]

    return make


# Things that are no files ------------------------------------------------------------------------


def pipe(folder: Path) -> Made:
    os.mkfifo(folder / "weights.pth")
    return loads(folder / "weights.pth")


def pipe_in_folder(folder: Path) -> Made:
    os.mkfifo(folder / "model.safetensors")
    return loads(folder)


def socket_file(folder: Path) -> Made:
    socket.socket(socket.AF_UNIX).bind("weights.pth")
    return loads("weights.pth")


def named(path: str) -> Callable[[Path], Made]:
    return lambda folder: loads(path)


NOT_READ = "is damaged or not written by torch.save"
NO_STATE = "contains no state_dict"
FOREIGN = "contains more than tensors: it needs "

FAULTS = [
    # Numbers
    torch_case("nan", tensor(HEAD, set_one(float("nan"))), r"fc\.weight has values that are NaN"),
    torch_case("all-nan", tensor("conv1.weight", lambda t: t * float("nan")), "conv1.weight .*NaN"),
    torch_case("infinite", tensor("bn1.bias", set_one(float("-inf"))), "bn1.bias has .*infinite"),
    torch_case(
        "nan-buffer", tensor("bn1.running_mean", set_one(float("nan"))), "running_mean .*NaN"
    ),
    torch_case(
        "overflows-float32", tensor(HEAD, lambda t: t.double() + 1e300), "fc.weight .*infinite"
    ),
    torch_case("negative-variance", tensor(VARIANCE, set_one(-1.0)), "running_var has negative"),
    torch_case("negative-count", tensor(COUNT, set_one(-5)), "num_batches_tracked has negative"),
    torch_case("nan-count", tensor(COUNT, lambda t: t * float("nan")), "num_batches_tracked .*NaN"),
    bytes_case(
        "safetensors-nan",
        safe_state(lambda whole: whole[HEAD].view(-1)[5:6].fill_(float("nan"))),
        r"fc\.weight has values that are NaN",
    ),
    # Types
    torch_case("complex", tensor(HEAD, lambda t: t.to(torch.complex64)), "of type complex64"),
    torch_case("bool", tensor(HEAD, lambda t: t > 0), "of type bool"),
    torch_case("int8", tensor(HEAD, lambda t: t.to(torch.int8)), "fc.weight is of type int8, not"),
    torch_case("int64-variance", tensor(VARIANCE, lambda t: t.long()), "of type int64"),
    torch_case("uint16", tensor(HEAD, lambda t: t.to(torch.uint16)), "of type uint16"),
    torch_case("float8", tensor(HEAD, lambda t: t.to(torch.float8_e5m2)), "of type float8_e5m2"),
    torch_case(
        "complex-count", tensor(COUNT, lambda t: t.to(torch.complex64)), "of type complex64"
    ),
    torch_case("sparse", tensor(HEAD, lambda t: t.to_sparse()), "fc.weight is a sparse tensor"),
    torch_case("sparse-csr", tensor(HEAD, lambda t: t.to_sparse_csr()), "is a sparse tensor"),
    torch_case(
        "quantised",
        tensor(HEAD, lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
        "fc.weight is a quantised tensor",
    ),
    torch_case(
        "nested",
        tensor(HEAD, lambda t: torch.nested.nested_tensor(list(t))),
        "fc.weight is a nested tensor",
    ),
    torch_case("meta", tensor(HEAD, lambda t: t.to("meta")), "fc.weight is a meta tensor"),
    torch_case("zero-size", tensor(HEAD, lambda t: t[:0]), "fc.weight is 0 x 64 in the file"),
    torch_case("zero-channels", tensor("conv1.weight", lambda t: t[:, :0]), "16 x 0 x 3 x 3"),
    torch_case("scalar", tensor(HEAD, lambda t: t.sum()), "fc.weight is a number in the file"),
    bytes_case(
        "safetensors-bool",
        safe_state(lambda whole: whole.update({HEAD: whole[HEAD] > 0})),
        "of type bool",
    ),
    bytes_case(
        "safetensors-dtype", lambda: safe({"a": entry([1], 0, 4, "F31")}, bytes(4)), "damaged"
    ),
    # Names
    torch_case(
        "two-of-one-meaning",
        lambda: state(**{"linear.weight": torch.ones(10, 64)}),
        "it has fc.weight twice, as fc.weight, linear.weight",
    ),
    torch_case(
        "two-shortcuts",
        lambda: {"a.shortcut.b": torch.ones(1), "a.downsample.b": torch.ones(1)},
        "it has a.downsample.b twice",
    ),
    torch_case("counter-alone", lambda: {"n_averaged": torch.tensor(1)}, NO_STATE),
    bytes_case(
        "safetensors-counter-alone",
        lambda: safe({"n_averaged": entry([], 0, 4)}, bytes(4)),
        NO_STATE,
    ),
    torch_case("empty-prefix", lambda: {"module.": torch.ones(1)}, "does not fit"),
    torch_case("prefixes", lambda: {"module." * 200_000: torch.ones(1)}, "name has 1,400,000"),
    torch_case("digits", lambda: {f"stages.{'9' * 9999}.blocks.": torch.ones(1)}, "name has 10,0"),
    torch_case("escape", lambda: {"\x1b]0;PWNED\x07": torch.ones(1)}, r"no \\x1b\]0;PWNED\\x07"),
    torch_case("numbers-for-names", lambda: {0: torch.ones(1)}, "not a state_dict"),
    torch_case(
        "many-names",
        lambda: dict.fromkeys(map(str, range(150_000)), torch.ones(1)),
        "150,000 tensors, more than any network",
    ),
    bytes_case(
        "safetensors-many-names",
        lambda: safe({str(number): entry([0], 0, 0) for number in range(49_000)}),
        "49,000 tensors, more than any network",
    ),
    bytes_case(
        "safetensors-too-many-names",
        lambda: safe({str(number): entry([0], 0, 0) for number in range(90_000)}),
        "90,000 tensors",
    ),
    torch_case("not-tensors", lambda: {"weights": {}, "epoch": 3}, "not tensors: weights, epoch"),
    torch_case("many-prefixes", many_prefixes, "it lacks conv1.weight"),
    torch_case("many-tables", many_tables, "it lacks conv1.weight"),
    torch_case("two-networks", two_networks, "two networks that fit, 'a.' and 'b.'"),
    bytes_case("records", shared_records, NOT_READ),
    torch_case("list", lambda: [torch.ones(3)], NO_STATE),
    torch_case("tensor", lambda: torch.ones(3), NO_STATE),
    torch_case("itself", itself, "is not a state_dict"),
    torch_case("each-other", each_other, "is not a state_dict"),
    # Pickles that name code
    torch_case(
        "code",
        lambda: {"model": state(), "x": Touch()},
        FOREIGN,
        check=nothing_executed,
        catalogue="C4",
    ),
    torch_case("code-legacy", Touch, FOREIGN, legacy=True, check=nothing_executed, catalogue="C4"),
    bytes_case(
        "code-bare",
        lambda: pickle.dumps(Touch(), 2),
        FOREIGN,
        check=nothing_executed,
        catalogue="C4",
    ),
    bytes_case(
        "code-protocol-5",
        lambda: pickle.dumps(Touch(), 5),
        FOREIGN,
        check=nothing_executed,
        catalogue="C4",
    ),
    torch_case(
        "module", lambda: create_model("resnet20"), FOREIGN + "resnets.models", catalogue="C4"
    ),
    torch_case("torch-module", lambda: torch.nn.Linear(2, 2), FOREIGN + "torch.nn.modules.linear"),
    torch_case("torch-module-legacy", lambda: torch.nn.Linear(2, 2), FOREIGN, legacy=True),
    bytes_case("torch-script", script, "it is a TorchScript archive", catalogue="C4"),
    bytes_case(
        "eval",
        lambda: archive(b"\x80\x02cbuiltins\neval\nX\1\0\0\x001\x85R."),
        "builtins.eval",
        catalogue="C4",
    ),
    bytes_case(
        "torch-load",
        lambda: archive(b"\x80\x02ctorch\nload\nX\1\0\0\x00x\x85R."),
        NO_STATE,
        catalogue="C4",
    ),
    bytes_case(
        "long-name", lambda: archive(b"\x80\x02ca\n" + b"b" * 10**6 + b"\n."), FOREIGN + "a.b"
    ),
    # Pickles that cost
    bytes_case("hash-bomb", lambda: archive(hash_bomb()), NO_STATE),
    bytes_case("colliding-keys", lambda: archive(colliding_keys()), "not a state_dict"),
    bytes_case("shared-pairs", lambda: archive(shared_pairs()), "instructions"),
    bytes_case(
        "memo-gets", lambda: archive(b"\x80\x02]q\0" + b"h\0" * 5_000_000 + b"."), "instructions"
    ),
    bytes_case(
        "memo-places",
        lambda: archive(b"\x80\x02]" + b"r\xff\xff\xff\xff" * 2_000_000 + b"."),
        "instructions",
    ),
    bytes_case("marks", lambda: archive(b"\x80\x02" + b"(" * 6_000_000 + b"."), "nested"),
    bytes_case("deep-tuples", lambda: archive(b"\x80\x02)" + b"\x85" * 900_000 + b"."), NO_STATE),
    bytes_case(
        "deep-lists",
        lambda: archive(b"\x80\x02" + b"]" * 800_000 + b"a" * 100_000 + b"."),
        NO_STATE,
    ),
    bytes_case(
        "dictionaries", lambda: archive(b"\x80\x02" + b"}" * 9_000_000 + b"."), "instructions"
    ),
    bytes_case(
        "names", lambda: archive(b"\x80\x02" + b"ctorch\nSize\n" * 800_000 + b"."), "instructions"
    ),
    bytes_case(
        "bytearray",
        lambda: archive(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + bytes(5) + b"\x10\x85R."),
        NO_STATE,
    ),
    bytes_case(
        "20-mb-pickle", lambda: archive(b"\x80\x02" + b"N" * 20_000_000), "more than 16,777,216"
    ),
    bytes_case("legacy-marks", lambda: legacy_pickles(b"\x80\x02" + b"(" * 6_000_000), "nested"),
    bytes_case("no-stop", lambda: archive(b"\x80\x02]"), NOT_READ),
    bytes_case("empty-stack", lambda: archive(b"\x80\x02R."), NOT_READ),
    bytes_case("long-text", lambda: archive(b"\x80\x02X\xff\xff\xff\xffa."), NOT_READ),
    bytes_case(
        "recursive-call",
        lambda: archive(
            b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\0"
            + b"h\0ctorch\nTensor\n" * 1000
            + b"."
        ),
        NO_STATE,
    ),
    # Tensors that lie
    bytes_case(
        "expanded", lambda: rebuilt(b"\x8a\6" + bytes(5) + b"\1\x85", b"K\0\x85"), "repeats"
    ),
    bytes_case("beyond-storage", lambda: rebuilt(b"K\5\x85", b"K\1\x85"), "lacks numbers"),
    bytes_case(
        "negative-stride", lambda: rebuilt(b"K\2\x85", b"J\xff\xff\xff\xff\x85"), "impossible"
    ),
    bytes_case(
        "huge-size",
        lambda: rebuilt(b"\x8a\x09" + b"\xff" * 8 + b"\0\x85", b"K\1\x85"),
        "impossible",
    ),
    bytes_case(
        "no-storage", lambda: rebuilt(b"K\4\x85", b"K\1\x85").replace(b"data/a", b"data/b"), "lacks"
    ),
    # Zips
    bytes_case("3-gb-of-zeros", lambda: zeros("data/0"), "compressed", wall_seconds=300.0),
    bytes_case(
        "3-gb-pickle", lambda: zeros("data.pkl"), "compressed", wall_seconds=300.0, slow=True
    ),
    bytes_case("declared-3-gb", lying, "larger than the file|is damaged"),
    bytes_case("flipped-number", flipped_number, "Bad CRC-32", catalogue="C3"),
    bytes_case("entry-twice", twice, "an entry occurs twice"),
    bytes_case("many-entries", many_entries, "without a data.pkl"),
    bytes_case(
        "compressed", lambda: archive(b"\x80\x02}.", compression=zipfile.ZIP_LZMA), "compressed"
    ),
    bytes_case("truncated", lambda: saved(state())[:-3000], NOT_READ, catalogue="C1"),
    bytes_case("empty", lambda: b"", "is empty", catalogue="C2"),
    bytes_case("npz", npz, "not written by torch.save"),
    bytes_case(
        "legacy-truncated",
        lambda: legacy_pickles(
            b"\x80\x02}X\1\0\0\0a" + STORAGE + b"s.", b"\x80\x02]X\1\0\0\0aa.", b"\4" + bytes(9)
        ),
        "truncated",
        catalogue="C1",
    ),
    bytes_case(
        "legacy-negative",
        lambda: legacy_pickles(
            b"\x80\x02}X\1\0\0\0a" + STORAGE + b"s.", b"\x80\x02]X\1\0\0\0aa.", b"\xff" * 8
        ),
        "truncated",
    ),
    bytes_case("tar", lambda: b"storages" + bytes(600), "neither a safetensors nor a torch file"),
    bytes_case("web-page", lambda: b"<!DOCTYPE html><html>", "is a web page"),
    # Safetensors
    bytes_case(
        "header-of-120-mb",
        lambda: safe(None, raw=b"{" + b" " * 120_000_000 + b"}"),
        "header of 120",
        catalogue="C8",
    ),
    bytes_case(
        "overlapping",
        lambda: safe({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        "overlaps",
        catalogue="C8",
    ),
    bytes_case("gap", lambda: safe({"a": entry([2], 4, 12)}, bytes(12)), "gap", catalogue="C8"),
    bytes_case("header-beyond", lambda: safe({"a": entry([2], 0, 8)}), "truncated", catalogue="C8"),
    bytes_case(
        "sizes-of-2-62", lambda: safe({"a": entry([2**62, 4], 0, 0)}), "damaged", catalogue="C8"
    ),
    bytes_case("name-twice", twice_named, "twice", catalogue="C8"),
    bytes_case(
        "deep-header", lambda: safe(None, raw=b'{"a":' + b"[" * 10**6), "damaged", catalogue="C8"
    ),
    bytes_case("header-list", lambda: safe({"a": [1, 2]}), "damaged", catalogue="C8"),
    # Files of ours
    Fault(
        "weights/own-first-number", flipped_run(lambda b: len(b) - 5000), "digest", catalogue="C3"
    ),
    Fault("weights/own-last-byte", flipped_run(lambda b: len(b) - 1), "digest", catalogue="C3"),
    Fault(
        "weights/own-digest",
        flipped_run(lambda b: b.index(b"digest") + 14),
        "damaged",
        catalogue="C3",
    ),
    Fault(
        "weights/own-key",
        flipped_run(lambda b: b.index(b'"resnets"') + 3),
        "damaged",
        catalogue="C3",
    ),
    Fault("weights/own-class", flipped_run(lambda b: b.index(b"cat")), "digest", catalogue="C3"),
    Fault(
        "weights/own-by-command",
        flipped_run(lambda b: len(b) - 9, cli=True),
        "digest",
        catalogue="C3",
    ),
    Fault(
        "weights/train-cut",
        _train_with("bad.pth", "--model", "resnet20"),
        "bad.pth .*damaged",
        catalogue="C1",
    ),
    Fault(
        "weights/train-cut-without-model",
        _train_with("bad.pth"),
        "bad.pth .*damaged",
        catalogue="C1",
    ),
    Fault(
        "weights/train-without-model", _train_with("good.pth"), "pass --model too", catalogue="C9"
    ),
    Fault(
        "weights/train-other-network",
        _train_with("good.pth", "--model", "resnet20"),
        "lacks",
        catalogue="C5",
    ),
    # Things that are no files
    Fault("weights/pipe", pipe, "is not a file", wall_seconds=30.0),
    Fault("weights/pipe-in-folder", pipe_in_folder, "is a folder without", wall_seconds=30.0),
    Fault("weights/socket", socket_file, "is not a file"),
    Fault("weights/device", named("/dev/zero"), "is not a file", wall_seconds=30.0),
    Fault("weights/nul", named("a\0b"), "is not a file"),
    Fault("weights/long-path", named("a" * 5000), "is not a path"),
    Fault("weights/home-of-nobody", named("~nobody-at-all/a.pth"), "no such home folder"),
    Fault(
        "weights/train-nul",
        _train_with("a\0b", "--model", "resnet20"),
        "is not a path|no such file",
    ),
    Fault(
        "weights/train-long",
        _train_with("a" * 5000, "--model", "resnet20"),
        "is not a path|no such file",
    ),
    Fault("weights/train-home", _train_with("~nobody-at-all/a"), "no such home folder"),
    Fault(
        "weights/mapping-of-others",
        lambda folder: lambda: create_model("resnet20", weights={"layers": [1, 2]}),
        "not tensors: layers",
    ),
]

FAULTS = slow(
    FAULTS,
    "weights/3-gb-of-zeros",
    "weights/deep-tuples",
    "weights/many-entries",
    "weights/names",
    "weights/safetensors-many-names",
    "weights/train-cut",
)
