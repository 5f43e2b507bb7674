"""Things that are no files: pipes, sockets, devices, links in circles, folders without an end."""

import os
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fault_harness import TINY_RUN, Fault, finished_run, photos, picture, slow
from faults_folders import found, show

from resnets.cli.predict import find_images
from resnets.data import open_data

TRAIN = ["train", "data", *TINY_RUN]
ALL = found("cat\ndog", "'all': 16")


def _photos(folder: Path) -> Path:
    return photos(folder / "data")


def _socket(path: Path) -> None:
    """Leave a socket at `path`, whose full length may be more than an address holds."""
    here = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)
    os.chdir(here)


def _specials(folder: Path) -> Callable[[], None]:
    data = _photos(folder)
    os.mkfifo(data / "cat" / "pipe.png")
    os.mkfifo(data / "dog" / "pipe")
    os.mkfifo(data / "pipe")
    _socket(data / "cat" / "socket.jpg")
    (data / "cat" / "zero.png").symlink_to("/dev/zero")
    (data / "dog" / "null").symlink_to("/dev/null")
    return partial(show, data)


def _special_trains(folder: Path) -> list[str]:
    _specials(folder)
    return TRAIN


def _self_link(folder: Path, name: str) -> Callable[[], None]:
    data = _photos(folder)
    (data / name).symlink_to(Path(name).name)
    return partial(show, data)


def _dead_link(folder: Path, name: str) -> Callable[[], None]:
    data = _photos(folder)
    (data / name).symlink_to("nowhere")
    return partial(show, data)


def _doubling(folder: Path, levels: int) -> Callable[[], None]:
    data = _photos(folder)
    for level in range(levels):
        place = data / "cat" / f"d{level}"
        place.mkdir()
        picture(0, 100 + level).save(place / "x.png")
        for link in "ab":
            (place / link).symlink_to(data / "cat" / f"d{level + 1}")
    (data / "cat" / f"d{levels}").mkdir()
    return partial(show, data)


def _doubling_classes(folder: Path) -> list[str]:
    data = folder / "data"
    for level in range(23):
        (data / f"d{level}").mkdir(parents=True)
        for link in "ab":
            (data / f"d{level}" / link).symlink_to(f"../d{level + 1}")
    (data / "d23").mkdir()
    picture(0, 0).save(data / "d23" / "x.png")
    return TRAIN


def _circle(folder: Path) -> Callable[[], None]:
    data = _photos(folder)
    (data / "cat" / "dogs").symlink_to("../dog")
    (data / "dog" / "cats").symlink_to("../cat")
    (data / "dog" / "up").symlink_to("..")
    (data / "dog" / "top").symlink_to("../../..")
    return partial(show, data)


def _outside(folder: Path) -> Callable[[], None]:
    photos(folder / "elsewhere", classes=["owl", "fox"])
    data = _photos(folder)
    (data / "owl").symlink_to(folder / "elsewhere" / "owl")
    for number in range(3):
        (data / "cat" / f"x{number}.png").symlink_to(f"../../elsewhere/fox/{number:03d}.png")
    return partial(show, data)


def _split_is_a_link(folder: Path) -> Callable[[], None]:
    data = folder / "data"
    photos(data / "train")
    photos(data / "test", each=2)
    (data / "val").symlink_to("test")
    return partial(show, data)


def _class_is_a_link(folder: Path) -> Callable[[], None]:
    data = _photos(folder)
    (data / "kitten").symlink_to("cat")
    return partial(show, data)


def _nested(place: Path, depth: int) -> None:
    """Make folders inside folders, and an image in the last one."""
    here = Path.cwd()
    os.chdir(place)
    for _ in range(depth):
        os.mkdir("n")
        os.chdir("n")
    picture(0, 0).save("x.png")
    os.chdir(here)


def _deep(folder: Path, read: Callable[[Path], Any]) -> Callable[[], None]:
    """Nest folders deeper than Python can remove recursively, read them, and remove them."""
    data = _photos(folder)
    _nested(data / "cat", 1100)

    def run() -> None:
        try:
            read(data)
        finally:
            subprocess.run(["rm", "-rf", data / "cat" / "n"], check=True)

    return run


def _deep_but_allowed(folder: Path) -> Callable[[], None]:
    data = _photos(folder)
    _nested(data / "cat", 50)
    return partial(show, data)


def _many_empty(folder: Path, count: int) -> list[str]:
    data = _photos(folder)
    for number in range(count):
        (data / str(number)).mkdir()
    return TRAIN


def _not_utf8(folder: Path) -> Callable[[], None]:
    data = _photos(folder)
    raw = os.fsencode(data / "dog")
    os.rename(os.path.join(raw, b"001.png"), os.path.join(raw, b"\xff\xfe.png"))
    os.mkdir(os.path.join(raw, b"\xe9"))
    return partial(show, data)


def _data_is(folder: Path, make: Callable[[Path], Any], name: str) -> list[str]:
    make(folder / name)
    return ["train", f"./{name}", *TINY_RUN]


def _link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def _train_path(folder: Path, path: str) -> list[str]:
    return ["train", path, *TINY_RUN]


def _evaluate_pipe(folder: Path) -> list[str]:
    os.mkfifo(folder / "x.csv")
    return ["evaluate", str(finished_run(folder)), "./x.csv"]


def _predict(folder: Path, make: Callable[[Path], Any]) -> list[str]:
    make(folder)
    return ["predict", str(finished_run(folder)), str(folder / "data")]


def _find_images(folder: Path) -> None:
    list(find_images([str(folder)]))


def _only_specials(folder: Path) -> None:
    (folder / "data").mkdir()
    os.mkfifo(folder / "data" / "x.png")


def _named(folder: Path, words: str) -> list[str]:
    """Plant images, a run, a pipe and a socket; return the words of a command line on them."""
    _photos(folder)
    finished_run(folder)
    os.mkfifo(folder / "pipe")
    _socket(folder / "socket")
    return words.split()


NAMED = {
    "show-pipe": ("show pipe", "pipe cannot be read: it is a pipe"),
    "show-device": ("show /dev/zero", "/dev/zero cannot be read: it is a device"),
    "show-socket": ("show socket", "socket cannot be read"),
    "predict-with-pipe": ("predict pipe data", "pipe cannot be read: it is a pipe"),
    "evaluate-with-pipe": ("evaluate pipe data", "pipe cannot be read: it is a pipe"),
    "evaluate-with-device": ("evaluate /dev/zero data", "/dev/zero cannot be read: it is a device"),
    "probe-pipe": ("study probe pipe", "pipe cannot be read: it is a pipe"),
    "recipe-pipe": ("train data --recipe-file pipe", r"--recipe-file pipe: .*it is a pipe"),
    "recipe-device": ("train data --recipe-file /dev/zero", r"--recipe-file /dev/zero: .*a device"),
    "weights-pipe": ("train data --weights ./pipe --model resnet20", "pipe' is not a file"),
    "weights-device": ("train data --weights /dev/zero --model resnet20", "zero' is not a file"),
    "resume-pipe": ("train --resume pipe", "--resume pipe: not a run folder"),
}

FAULTS = [
    Fault("special/among-images", _specials, rf"{ALL}.*no files: .*pipe.png \(a pipe\)", code=0),
    Fault(
        "special/trains", _special_trains, r"no files: .*zero.png \(a device\).*and 1 more", code=0
    ),
    Fault(
        "special/link-to-itself",
        partial(_self_link, name="cat/self"),
        rf"{ALL}.*cat/self \(too many",
        code=0,
        catalogue="D22",
    ),
    Fault(
        "special/image-link-to-itself",
        partial(_self_link, name="cat/self.png"),
        r"1 of 17 images.*cat/self\.png",
        catalogue="D22",
    ),
    Fault(
        "special/link-to-itself-as-class",
        partial(_self_link, name="owl"),
        rf"{ALL}.*owl \(too many",
        code=0,
        catalogue="D22",
    ),
    Fault(
        "special/dead-link",
        partial(_dead_link, name="cat/x"),
        rf"{ALL}.*cat/x \(no such file",
        code=0,
        catalogue="D22",
    ),
    Fault(
        "special/dead-image-link",
        partial(_dead_link, name="cat/x.png"),
        r"1 of 17 images.*cat/x\.png \(no such file",
        catalogue="D22",
    ),
    Fault(
        "special/doubling-23",
        partial(_doubling, levels=23),
        found("cat\ndog", "'all': 39", "a second path"),
        code=0,
        cpu_seconds=1,
        catalogue="D22",
    ),
    Fault(
        "special/doubling-200",
        partial(_doubling, levels=200),
        found("cat\ndog", "'all': 216", "a second path"),
        code=0,
        cpu_seconds=1,
        catalogue="D22",
    ),
    Fault(
        "special/doubling-classes",
        _doubling_classes,
        "d0, d1, d10, d11, d12 and 18 more|are the classes|single class",
        cpu_seconds=1,
        catalogue="D22",
    ),
    Fault(
        "special/circle",
        _circle,
        found("cat\ndog", "'all': 32", r"folder above them, ignored: dog/top, dog/up"),
        code=0,
        catalogue="D22",
    ),
    Fault(
        "special/links-outside",
        _outside,
        found("cat\ndog\nowl", "'all': 27", "4 links lead out of"),
        code=0,
        catalogue="D22",
    ),
    Fault(
        "special/split-is-a-link",
        _split_is_a_link,
        found("cat\ndog", "'train': 16, 'val': 4, 'test': 4", "second path.*: val"),
        code=0,
    ),
    Fault(
        "special/class-is-a-link",
        _class_is_a_link,
        found("cat\ndog\nkitten", "'all': 24", "second path.*: kitten"),
        code=0,
    ),
    Fault(
        "special/deep-1100",
        partial(_deep, read=open_data),
        "more than 64 levels deep: cat/n/n/n",
        cpu_seconds=2,
    ),
    Fault("special/deep-50", _deep_but_allowed, found("cat\ndog", "'all': 17"), code=0),
    Fault(
        "special/empty-folders",
        partial(_many_empty, count=5000),
        "class folders without images: 0, 1, 10, 100, 1000 and 4,995 more",
        cpu_seconds=2,
    ),
    Fault(
        "special/empty-folders-many",
        partial(_many_empty, count=50_000),
        "and 49,995 more",
        cpu_seconds=10,
        slow=True,
    ),
    Fault("special/names-not-utf8", _not_utf8, ALL, code=0),
    # DATA itself
    Fault(
        "special/data-pipe",
        partial(_data_is, make=os.mkfifo, name="pipe"),
        r"pipe is a pipe; expected a folder",
    ),
    Fault(
        "special/data-pipe-csv",
        partial(_data_is, make=os.mkfifo, name="x.csv"),
        r"x\.csv is a pipe; expected",
    ),
    Fault(
        "special/data-pipe-jsonl",
        partial(_data_is, make=os.mkfifo, name="x.jsonl"),
        "is a pipe; expected",
    ),
    Fault(
        "special/data-pipe-npz",
        partial(_data_is, make=os.mkfifo, name="x.npz"),
        "is a pipe; expected",
    ),
    Fault(
        "special/data-pipe-parquet",
        partial(_data_is, make=os.mkfifo, name="x.parquet"),
        "is a pipe; expected",
    ),
    Fault(
        "special/data-socket", partial(_data_is, make=_socket, name="x"), "is a socket; expected"
    ),
    Fault(
        "special/data-zero",
        partial(_data_is, make=_link_to_zero, name="x.csv"),
        "is a device; expected",
    ),
    Fault(
        "special/data-link-to-itself",
        partial(_data_is, make=_link_to_itself, name="x"),
        "DATA 'x': Too many levels",
    ),
    Fault(
        "special/data-device",
        partial(_train_path, path="/dev/zero"),
        "/dev/zero is a device; expected",
    ),
    Fault(
        "special/data-long-name",
        partial(_train_path, path="n" * 5000),
        "DATA 'nnn.*File name too long",
    ),
    Fault("special/data-nul", partial(_train_path, path="./a\0b"), "DATA .*null byte"),
    Fault(
        "special/data-is-a-file",
        partial(_data_is, make=Path.touch, name="x"),
        "is not a data set",
    ),
    Fault("special/evaluate-pipe", _evaluate_pipe, r"x\.csv is a pipe; expected"),
    # Images to classify
    Fault(
        "special/predict-deep",
        partial(_deep, read=_find_images),
        "more than 64 levels deep",
    ),
    Fault(
        "special/predict-doubling",
        partial(_predict, make=partial(_doubling, levels=23)),
        r"cat/d22/x\.png",
        code=0,
    ),
    Fault("special/predict-among", partial(_predict, make=_specials), r"cat/000\.png", code=0),
    Fault(
        "special/predict-only-pipe",
        partial(_predict, make=_only_specials),
        "no images in this folder",
    ),
    # Other paths
    *(
        Fault(f"special/{name}", partial(_named, words=words), message)
        for name, (words, message) in NAMED.items()
    ),
]

FAULTS = slow(
    FAULTS,
    "special/empty-folders",
    "special/weights-device",
    "special/weights-pipe",
)
