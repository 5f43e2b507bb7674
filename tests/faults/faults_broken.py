"""Images that cannot be read, behind their header too, and sets of few images."""

import io
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fault_harness import TINY_RUN, Fault, finished_run, photos, picture, slow
from PIL import Image

STREAMED = ["--cache-mb", "0", "--workers", "0"]
NAMED = r"b/00\d\.\w+ \(damaged or incomplete"
TOO_MANY = rf"cannot be read, more than --max-corrupt 0\.01 allows: .*{NAMED}"
CLASS_LOST = rf"images of the class 'b'.* cannot be read: .*{NAMED}"
SPLITS = ("train", "val", "test")


# Damage ------------------------------------------------------------------------------------------


def cut(content: bytes, *, num: int | None = None) -> bytes:
    """Drop the last bytes, or the last third of a file."""
    return content[: -num if num else len(content) * 2 // 3]


def flipped(content: bytes) -> bytes:
    """Change a byte in the middle: of a PNG, the checksum of its pixels is then wrong."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def zeroed(content: bytes) -> bytes:
    """Overwrite the second half with zeros, as an interrupted download leaves it."""
    return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


def damage(folder: Path, how: Callable[[bytes], bytes] = cut, *, num: int = 1000) -> None:
    """Damage the first files of a folder."""
    for path in sorted(folder.iterdir())[:num]:
        path.write_bytes(how(path.read_bytes()))


def written(folder: Path, suffix: str, **options: Any) -> Path:
    """Write `photos` again in another format; return the folder."""
    for path in sorted(photos(folder, classes="ab", each=10, side=24).rglob("*.png")):
        Image.open(path).save(path.with_suffix(suffix), **options)
        if suffix != ".png":
            path.unlink()
    return folder


def splits(folder: Path, *, each: int = 8) -> Path:
    """Write train, val and test of two classes, a and b; return the folder."""
    for name in SPLITS:
        photos(folder / name, classes="ab", each=each)
    return folder


# Training ----------------------------------------------------------------------------------------


def _train(folder: Path, *options: str) -> list[str]:
    return ["train", str(folder / "data"), *TINY_RUN, "--out", str(folder / "new"), *options]


def _format(suffix: str, how: Callable[[bytes], bytes], folder: Path, **options: Any) -> list[str]:
    damage(written(folder / "data", suffix, **options) / "b", how)
    return _train(folder)


def _split_lost(name: str, num: int, options: Sequence[str], folder: Path) -> list[str]:
    damage(splits(folder / "data") / name / "b", num=num)
    return _train(folder, *options)


def _headers_and_pixels(folder: Path) -> list[str]:
    """Of ten images of a class three have no header and three no pixels: more than half."""
    place = photos(folder / "data", classes="ab", each=10) / "b"
    damage(place, num=6)
    damage(place, lambda content: b"", num=3)
    return _train(folder, "--max-corrupt", "0.9")


def _headers_lost(folder: Path) -> list[str]:
    damage(splits(folder / "data") / "test" / "b", lambda content: b"no image")
    return _train(folder, "--max-corrupt", "0.9")


def _manifest(folder: Path) -> list[str]:
    damage(photos(folder / "pictures", classes="ab") / "b", num=3)
    lines = [f"pictures/{name}/{n:03d}.png,{name}" for name in "ab" for n in range(8)]
    (folder / "data").write_text("path,label\n" + "\n".join(lines))
    os.rename(folder / "data", folder / "data.csv")
    return ["train", str(folder / "data.csv"), *TINY_RUN]


def _parquet(folder: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for number in range(20):
        file = io.BytesIO()
        picture(number % 2, number).save(file, "png")
        content = file.getvalue()
        rows.append({"bytes": cut(content) if number in (3, 5) else content, "path": None})
    labels = [number % 2 for number in range(20)]
    pq.write_table(pa.table({"image": rows, "label": labels}), folder / "data.parquet")
    return ["train", str(folder / "data.parquet"), *TINY_RUN]


def _few(folder: Path, *options: str) -> list[str]:
    """One of 16 is damaged, which the user accepts."""
    damage(photos(folder / "data", classes="ab") / "b", num=1)
    return _train(folder, "--max-corrupt", "0.1", *options)


def _lists_the_image(folder: Path) -> None:
    skipped = json.loads((folder / "new" / "data.json").read_text())["skipped"]
    assert list(skipped) == ["b/000.png"] and "damaged" in skipped["b/000.png"], skipped


def _one_of_the_test(folder: Path) -> list[str]:
    damage(splits(folder / "data") / "test" / "b", num=1)
    return _train(folder, "--quiet", "--max-corrupt", "0.1")


def _says_it_in_the_model_file(folder: Path) -> None:
    scores = json.loads((folder / "new" / "scores.json").read_text())
    assert scores["num_images"] == 15 and any(
        "test/b/000.png" in text for text in scores["cautions"]
    ), scores


def _streamed(name: str, folder: Path) -> list[str]:
    """All are looked at to measure a step and a validation."""
    damage(splits(folder / "data") / name / "b", num=3)
    return _train(folder, *STREAMED)


def _while_it_trains(
    change: Callable[[Path], None], folder: Path, *, workers: int = 0
) -> Callable[[], object]:
    """Return a training during which the images change, as on a failing disk."""
    data = photos(folder / "data", classes="ab", each=12)

    def log(record: Any) -> None:
        if record["kind"] == "start":
            change(data)

    from resnets import api

    values: dict[str, Any] = {"model": "resnet20", "size": 16, "epochs": 4, "batch_size": 4}
    values |= {"tune": "off", "cache_mb": 0, "workers": workers}
    return partial(api.train, data, out=folder / "new", log=log, **values)


def _some_damaged(data: Path) -> None:
    damage(data / "a", num=3)
    damage(data / "b", zeroed, num=3)


def _removed_at_the_end(folder: Path) -> Callable[[], object]:
    """All training images vanish before the report shows some of them."""
    from resnets.training import trainer

    training = _while_it_trains(lambda data: None, folder)

    def remove(path: Path, file: Any) -> None:
        if file.scores is not None:
            _all_removed(folder / "data")
        save(path, file)

    save, trainer.save_model = trainer.save_model, remove  # type: ignore[assignment]
    return training


def _all_removed(data: Path) -> None:
    for path in data.rglob("*.png"):
        path.unlink()


def _exists(path: Path) -> None:
    assert path.exists(), path


def _saved(folder: Path) -> None:
    assert list((folder / "new" / "checkpoints").glob("state-*")), "no checkpoint"
    skipped = json.loads((folder / "new" / "data.json").read_text())["skipped"]
    assert skipped and all("damaged" in reason for reason in skipped.values()), skipped
    assert not (folder / "new" / "scores.json").exists()


def _resumed(folder: Path, *options: str) -> list[str]:
    """Resume the run that was stopped by images which were damaged meanwhile."""
    from resnets.errors import StoppedError

    try:
        _while_it_trains(_some_damaged, folder)()
    except StoppedError:
        return ["train", "--resume", str(folder / "new"), *options]
    raise AssertionError("not stopped")


def _rare(folder: Path) -> list[str]:
    """One image of a class: it is trained on, and measured by none."""
    photos(folder / "data", classes="ab", each=12)
    for path in sorted((folder / "data" / "b").iterdir())[1:]:
        path.unlink()
    return _train(folder, "--quiet")


def _small(classes: str, each: int, options: Sequence[str], folder: Path) -> list[str]:
    photos(folder / "data", classes=classes, each=each)
    run = ["--model", "resnet20", "--size", "16", "--epochs", "1", "--tune", "off"]
    return ["train", str(folder / "data"), *run, *options]


def _vanished(folder: Path) -> Callable[[], None]:
    """All images vanish behind the back of a streamed run."""
    data = photos(folder / "data", classes="ab", each=12)

    def remove(record: Any) -> None:
        if record["kind"] == "start":
            for path in data.rglob("*.png"):
                path.unlink()

    from resnets import api

    values: dict[str, Any] = {"model": "resnet20", "size": 16, "epochs": 4, "batch_size": 4}
    values |= {"tune": "off", "cache_mb": 0, "workers": 0}
    return partial(api.train, data, out=folder / "new", log=remove, **values)


# With a model file -------------------------------------------------------------------------------


def _evaluate(num: int, options: Sequence[str], folder: Path) -> list[str]:
    damage(photos(folder / "data") / "dog", num=num)
    return ["evaluate", str(finished_run(folder)), str(folder / "data"), *options]


def _evaluate_split(name: str, folder: Path) -> list[str]:
    for part in SPLITS:
        photos(folder / "data" / part)
    damage(folder / "data" / name / "dog", num=2)
    return ["evaluate", str(finished_run(folder)), str(folder / "data"), "--quiet"]


def _evaluate_one_class(folder: Path) -> list[str]:
    photos(folder / "data", classes=["cat"])
    return ["evaluate", str(finished_run(folder)), str(folder / "data"), "--quiet"]


def _predict(options: Sequence[str], folder: Path) -> list[str]:
    damage(photos(folder / "data", classes="ab") / "b", num=2)
    return ["predict", str(finished_run(folder)), str(folder / "data"), *options]


def _predict_vanished(folder: Path) -> list[str]:
    photos(folder / "data", classes="a")
    names = [str(folder / "data/a/000.png"), str(folder / "gone.png")]
    return ["predict", str(finished_run(folder)), *names]


HALF = "0.9"
FAULTS = [
    *(
        Fault(f"broken/{name}", partial(_format, suffix, how), TOO_MANY, catalogue="D3")
        for name, suffix, how in (
            ("jpeg-cut", ".jpg", cut),
            ("jpeg-without-its-end", ".jpg", partial(cut, num=2)),
            ("png-cut", ".png", cut),
            ("png-wrong-checksum", ".png", flipped),
            ("png-zeros", ".png", zeroed),
            ("gif-cut", ".gif", cut),
            ("webp-cut", ".webp", cut),
            ("bmp-cut", ".bmp", cut),
            ("tiff-cut", ".tif", cut),
        )
    ),
    Fault(
        "broken/progressive-jpeg-cut",
        partial(_format, ".jpg", cut, progressive=True),
        TOO_MANY,
        catalogue="D3",
    ),
    *(
        Fault(
            f"broken/{name}-above-the-limit",
            partial(_split_lost, name, 2, []),
            rf"2 of 48 images \(4\.2%\) cannot be read.*: {name}/b/000\.png \(damaged",
            catalogue="D3",
        )
        for name in SPLITS
    ),
    *(
        Fault(
            f"broken/{name}-loses-half-a-class",
            partial(_split_lost, name, 5, ["--max-corrupt", HALF]),
            rf"5 of the 8 images of the class 'b' in {name} cannot be read: {name}/b/000\.png",
            catalogue="D3",
        )
        for name in SPLITS
    ),
    *(
        Fault(
            f"broken/{name}-loses-a-class",
            partial(_split_lost, name, 8, ["--max-corrupt", HALF]),
            rf"8 of the 8 images of the class 'b' in {name} cannot be read: {name}/b/000\.png",
            catalogue="D3 D27",
        )
        for name in SPLITS
    ),
    Fault("broken/streamed-above-the-limit", partial(_split_lost, "train", 2, STREAMED), "2 of 48"),
    Fault("broken/headers-and-pixels", _headers_and_pixels, r"6 of the 10 images of the class 'b'"),
    Fault("broken/headers-of-a-class", _headers_lost, r"8 of the 8 .* 'b' in test", catalogue="D2"),
    Fault("broken/manifest", _manifest, r"3 of 16 images .*pictures/b/000\.png \(damaged"),
    Fault("broken/parquet", _parquet, r"2 of 20 images .*cannot be read.*\(damaged"),
    Fault(
        "broken/accepted-and-named",
        _few,
        r"1 image is damaged; .*: b/000\.png \(damaged",
        code=0,
        check=_lists_the_image,
        catalogue="D3",
    ),
    Fault(
        "broken/replaced-and-named",
        lambda folder: _few(folder, *STREAMED),
        r"replaced by the next one (once|\d+ times) in training: b/000\.png \(damaged",
        code=0,
        check=_lists_the_image,
        catalogue="D3",
    ),
    Fault(
        "broken/scores-of-fewer-images",
        _one_of_the_test,
        r"caution: .*1 of 16 test images cannot be read and are not in the scores: test/b/000\.png",
        code=0,
        check=_says_it_in_the_model_file,
        catalogue="D3",
    ),
    *(
        Fault(
            f"broken/streamed-{name}",
            partial(_streamed, name),
            rf"3 of 48 images .*{name}/b/000\.png",
            catalogue="D3",
        )
        for name in ("train", "val")
    ),
    Fault(
        "broken/streamed-test-stops-after-the-last-checkpoint",
        partial(_streamed, "test"),
        r"3 of 48 .*test/b/000\.png .* saved at step 4; .* --resume \S*/new --max-corrupt 0\.07",
        code=4,
        check=_saved,
        catalogue="D3",
    ),
    *(
        Fault(
            f"broken/damaged-while-it-trains-{workers}",
            partial(_while_it_trains, _some_damaged, workers=workers),
            r"cannot be read, more than .*/\d+\.png .*; the run is saved at step \d+; .*--resume",
            code=4,
            check=_saved,
            catalogue="D26",
        )
        for workers in (0, 2)
    ),
    Fault(
        "broken/vanished-while-it-trains",
        partial(_while_it_trains, _all_removed),
        r"none of the images can be read; .*no such file.* the run is saved at step 0",
        code=4,
        catalogue="D26 D27",
    ),
    Fault(
        "broken/vanished-before-the-report",
        _removed_at_the_end,
        "",
        code=0,
        check=lambda folder: _exists(folder / "new" / "report.html"),
        catalogue="D26",
    ),
    Fault("broken/resumed-unchanged", _resumed, r"/\d\d\d\.png \(damaged"),
    Fault(
        "broken/resumed-as-advised",
        lambda folder: _resumed(folder, "--max-corrupt", "0.5", "--force"),
        r"replaced by the next one .* in training: \w/",
        code=0,
    ),
    Fault(
        "broken/class-without-scores",
        _rare,
        r"top-1 100.*\n.*caution: the scores say nothing about the class b: no validation images",
        code=0,
    ),
    Fault(
        "broken/evaluate-above-the-limit",
        partial(_evaluate, 2, ["--quiet"]),
        r"2 of 16 images .*more than --max-corrupt 0\.01 allows: dog/000\.png \(damaged",
        catalogue="D3",
    ),
    Fault(
        "broken/evaluate-loses-a-class",
        partial(_evaluate, 8, ["--max-corrupt", HALF]),
        r"8 of the 8 images of the class 'dog' cannot be read: dog/000\.png \(damaged",
        catalogue="D3",
    ),
    Fault(
        "broken/evaluate-says-what-is-missing",
        partial(_evaluate, 2, ["--quiet", "--max-corrupt", "0.2"]),
        r"caution: 2 of 16 images cannot be read and are not in the scores: dog/000\.png",
        code=0,
        catalogue="D3",
    ),
    Fault(
        "broken/evaluate-says-it-in-json",
        partial(_evaluate, 2, ["--quiet", "--max-corrupt", "0.2", "--format", "json"]),
        r'"cautions": \["2 of 16 images cannot be read and are not in the scores: dog/000\.png',
        code=0,
        catalogue="D3",
    ),
    Fault(
        "broken/evaluate-counts-the-scored-split",
        partial(_evaluate_split, "test"),
        r"2 of 16 images \(12\.5%\) cannot be read",
        catalogue="D3",
    ),
    Fault(
        "broken/evaluate-without-a-class",
        _evaluate_one_class,
        r"caution: the scores say nothing about the class dog: no images",
        code=0,
    ),
    *(
        Fault(
            f"broken/predict-{name}",
            partial(_predict, options),
            message,
            catalogue="D3",
        )
        for name, options, message in (
            ("table", [], r"(?s)(?=.*b/000\.png: damaged or incomplete).*b/001\.png: damaged"),
            ("csv", ["--format", "csv"], r"(?s)(?=.*a/007\.png,1,).*b/001\.png: damaged"),
            ("json", ["--format", "json", "--quiet"], r'b/000\.png", "top": \[\], "error": "dam'),
        )
    ),
    Fault(
        "broken/predict-vanished",
        _predict_vanished,
        r"(?s)(?=.*a/000\.png ).*gone\.png: no such file",
    ),
    *(
        Fault(
            f"few-images/{name}",
            partial(_small, classes, each, options),
            message,
            code=code,
            catalogue="T7",
        )
        for name, classes, each, options, message, code in (
            ("two-of-two-classes", "ab", 2, [], "top-1", 0),
            ("two-of-three-classes", "abc", 2, [], "top-1", 0),
            ("two-of-two-by-recipe", "ab", 2, ["--recipe", "he2015"], "batch size 2, not", 0),
            ("recipe", "ab", 8, ["--recipe", "he2015"], r"batch size 14, not the recipe's 128", 0),
            (
                "flag",
                "ab",
                8,
                ["--batch-size", "15"],
                r"--batch-size 15: more than the 14 train",
                2,
            ),
            ("flag-fits", "ab", 2, ["--batch-size", "2"], "top-1", 0),
            ("one-each", "ab", 1, [], "every class has one image", 2),
        )
    ),
]

FAULTS = slow(
    FAULTS,
    "broken/damaged-while-it-trains-2",
    "broken/replaced-and-named",
    "broken/resumed-as-advised",
    "broken/resumed-unchanged",
    "broken/vanished-before-the-report",
)
