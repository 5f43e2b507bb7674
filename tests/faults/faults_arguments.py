"""Arguments of a wrong kind, from Python and on the command line: one error that says what fits."""

import contextlib
import io
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from fault_harness import Fault, finished_run, photos

# From Python -------------------------------------------------------------------------------------

Call = Callable[[Any], object]


def _values() -> dict[str, Any]:
    """Return values of many kinds; each public argument refuses all but those that it allows."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    dataset = TensorDataset(torch.zeros(3))
    return {
        "None": None,
        "whole": 5,
        "number": 2.5,
        "bool": True,
        "complex": 1j,
        "nan": float("nan"),
        "bytes": b"photos",
        "list": ["photos"],
        "tuple": ("a", 1),
        "empty": [],
        "dictionary": {"a": 1},
        "keys": {5: 1},
        "set": {1},
        "generator": (word for word in ()),
        "array": np.zeros((2, 3, 3)),
        "tensor": torch.zeros(3),
        "object": object(),
        "function": len,
        "class": Path,
        "module": torch.nn.Linear(1, 1),
        "Dataset": dataset,
        "DataLoader": DataLoader(dataset),
    }


def _refused(name: str, call: Call, *allowed: str, expected: str) -> Fault:
    """Return a case that calls with values of all kinds but the `allowed` ones."""

    def make(folder: Path) -> Callable[[], None]:
        photos(folder / "photos", each=2)
        finished_run(folder)

        def case() -> None:
            from resnets.errors import UserError

            last = None
            for kind, value in _values().items():
                if kind in allowed:
                    continue
                try:
                    call(value)
                except UserError as error:
                    last = error
                else:
                    raise AssertionError(f"{kind} was accepted")
                assert str(last) and "\n" not in str(last), (kind, str(last))
            assert last is not None
            raise last

        return case

    return Fault(f"arguments/python-{name}", make, expected)


def _api(name: str) -> Any:
    import resnets

    return getattr(resnets, name)


def _train(value: Any = "photos", **fields: Any) -> object:
    return _api("train")(value, **{"model": "no-such-network"} | fields)


def _evaluate(**arguments: Any) -> object:
    return _api("evaluate")(**{"model": "run", "data": "nothing/here"} | arguments)


def _predict(**arguments: Any) -> object:
    given = {"model": "run", "images": "photos/cat/000.png"} | arguments
    return list(_api("predict")(given.pop("model"), given.pop("images"), **given))


def _create(**fields: Any) -> object:
    return _api("create_model")("resnet20", **fields)


def _resnet(value: Any) -> object:
    return _api("ResNet")(value)


PATH, NUMBER = "expected str(, Path or None| or Path)", "expected .*number"
PYTHON = [
    _refused("train-data", _train, expected="Datasets, loaders and arrays cannot"),
    _refused("train-out", lambda v: _train(out=v), expected=PATH),
    _refused("train-resume", lambda v: _api("train")(resume=v), expected=PATH),
    _refused("train-time", lambda v: _train(time=v), expected="time"),
    _refused("train-name", lambda v: _train(name=v), expected="expected str"),
    _refused("train-device", lambda v: _train(device=v), expected="expected str or device"),
    _refused("train-force", lambda v: _train(force=v), expected="expected True or False"),
    _refused("train-log", lambda v: _train(log=v), expected="expected a function or None"),
    _refused("train-started", lambda v: _train(started=v), expected=NUMBER),
    _refused("train-recipe", lambda v: _train(recipe=v), expected="recipe"),
    _refused("train-model", lambda v: _train("nothing", model=v), expected="model"),
    _refused("train-weights", lambda v: _train("nothing", weights=v), expected="weights|model"),
    _refused("train-epochs", lambda v: _train(epochs=v), expected="--epochs"),
    _refused("train-batch-size", lambda v: _train(batch_size=v), expected="--batch-size"),
    _refused("train-milestones", lambda v: _train(milestones=v), expected="--milestones"),
    _refused("train-flip", lambda v: _train(flip=v), expected="--flip"),
    _refused("train-seed", lambda v: _train(seed=v), expected="--seed"),
    _refused("evaluate-model", lambda v: _evaluate(model=v), expected="ModelFile"),
    _refused("evaluate-data", lambda v: _evaluate(data=v), expected="cannot be scored"),
    _refused("evaluate-split", lambda v: _evaluate(split=v), expected="expected str or None"),
    _refused("evaluate-workers", lambda v: _evaluate(workers=v), expected="a whole number"),
    _refused("evaluate-corrupt", lambda v: _evaluate(max_corrupt=v), expected=NUMBER),
    _refused("evaluate-report", lambda v: _evaluate(report=v), expected=PATH),
    _refused("predict-model", lambda v: _predict(model=v), expected="ModelFile"),
    _refused(
        "predict-images",
        lambda v: _predict(images=v),
        *("bytes", "list", "tuple", "empty", "set", "generator", "array"),
        expected="no image and no list|expected",
    ),
    _refused("predict-top", lambda v: _predict(top=v), "whole", expected="a whole number"),
    _refused("predict-device", lambda v: _predict(device=v), expected="expected str or device"),
    _refused("load-model", lambda v: _api("load_model")(v), expected=PATH),
    _refused("create-model", lambda v: _api("create_model")(v), expected="expected str"),
    _refused(
        "create-classes", lambda v: _create(num_classes=v), "None", "whole", expected="num_classes"
    ),
    _refused(
        "create-weights", lambda v: _create(weights=v), "None", "dict", expected="a state_dict"
    ),
    _refused("create-depths", lambda v: _create(depths=v), expected="depths"),
    _refused("create-block", lambda v: _create(block=v), expected="block"),
    _refused("create-blur", lambda v: _create(blur=v), "whole", expected="blur"),
    _refused("create-drop-path", lambda v: _create(drop_path=v), expected="drop_path"),
    _refused("list-models", lambda v: _api("list_models")(v), expected="expected str"),
    _refused("predictor", lambda v: _api("Predictor")(v), expected="ModelFile"),
    _refused("recipe", lambda v: _api("Recipe")(v), expected="Recipe: model"),
    _refused("resnet", _resnet, expected="expected ResNetConfig"),
    _refused("preprocess", lambda v: _api("Preprocess")(size=v), "whole", expected="size"),
]


def _image_folder(folder: Path) -> Callable[[], object]:
    photos(folder / "photos", each=2)

    def case() -> object:
        from torchvision.datasets import ImageFolder

        return _api("train")(ImageFolder("photos"), model="resnet20")

    return case


def _accepted(folder: Path) -> Callable[[], None]:
    """Return a case with what is right and once was refused: devices, paths of every kind."""
    import os

    photos(folder / "photos")
    finished_run(folder)

    def case() -> None:
        import torch

        fields = {"model": "resnet20", "size": 16, "epochs": 1, "batch_size": 4, "tune": "off"}
        device = torch.device("cpu")
        result = _api("train")(Path("photos"), out="other", device=device, **fields)
        scores = _api("evaluate")(Path("other"), "photos", device=device, workers=np.int64(0))
        assert scores.num_images == 16
        with os.scandir("photos/cat") as entries:  # each is an os.PathLike
            answers = list(_api("predict")(result.folder, entries, top=np.int64(1), device=device))
        assert [answer.error for answer in answers] == [None] * 8
        with os.scandir(".") as entries:
            run = next(entry for entry in entries if entry.name == "other")
        assert _api("load_model")(run) is not None
        print("accepted")

    return case


# On the command line -----------------------------------------------------------------------------

EMPTY, TEXTS = ["", "=", "--"], ["x", "[]", "None", "\x1b[2J", "a b"]
NUMBERS = ["nan", "inf", "-1", "1e999", "999999999999999999999"]


def _flags(name: str, words: Iterable[str], flags: str, wrong: list[str], message: str) -> Fault:
    """Return a case of wrong values, each of one of the flags: one line and the exit code 2."""

    def make(folder: Path) -> Callable[[], None]:
        finished_run(folder)

        def case() -> None:
            from resnets.cli.main import main
            from resnets.errors import UserError

            texts: list[str] = []
            pairs = max(len(wrong), len(flags.split()))
            turns = zip(cycle(flags.split()), cycle(wrong), strict=False)
            for flag, value in islice(turns, pairs):
                err = io.StringIO()
                with contextlib.redirect_stderr(err):
                    code = main([*words, f"--{flag}={value}"])
                text = err.getvalue()
                assert code == 2 and text.startswith("resnets: "), (flag, value, code, text)
                assert text.count("\n") == 1, text
                texts.append(text.strip())
            raise UserError("; ".join(texts))

        return case

    return Fault(f"arguments/flags-{name}", make, message, cpu_seconds=30)


TRAIN = ["train", "nothing/here"]
COMMAND_LINE = [
    _flags("whole", TRAIN, "epochs batch-size seed workers size", ["x", "1.5", *NUMBERS], "--size"),
    _flags("share", TRAIN, "label-smoothing ema drop-path", ["x", *NUMBERS], "--drop-path"),
    _flags("choice", TRAIN, "optimizer flip precision tta", [*EMPTY, *TEXTS], "--tta"),
    _flags("time", TRAIN, "time", [*EMPTY, *TEXTS, *NUMBERS, "5", "3x"], "expected a duration"),
    _flags("list", TRAIN, "milestones", ["x", "2", "0.5 0.2", "-1", "nan"], "--milestones"),
    _flags("path", ["train"], "resume recipe-file", [*EMPTY, *TEXTS], "resnets: "),
    _flags("weights", TRAIN, "weights", [*EMPTY, *TEXTS, "hub:", "http://", "~no"], "no such"),
    _flags("device", TRAIN, "device", [*EMPTY, *TEXTS, "cuda:x", "meta"], "--device"),
    _flags("top", ["predict", "run", "x.png"], "top", ["", "0", "x", "nan"], "--top"),
    _flags("split", ["evaluate", "run", "nothing/here"], "split", [*EMPTY, *TEXTS], "nothing"),
    _flags(
        "share-of-corrupt", ["evaluate", "run", "x/y"], "max-corrupt", NUMBERS, "max-corrupt|x/y"
    ),
    _flags("study", ["study", "train", "x/y"], "preset processes device", TEXTS, "--device"),
    _flags("study-out", ["study", "report"], "out", [*EMPTY, *TEXTS, *NUMBERS], "resnets.study"),
]


def _full_report(folder: Path) -> list[Any]:
    """Score, with a page that cannot be written: the scores are printed all the same."""
    (folder / "page" / "report.html").mkdir(parents=True)
    return ["evaluate", finished_run(folder), photos(folder / "photos"), "--report", "page"]


def _numpy_counts(folder: Path) -> Callable[[], None]:
    """Count classes and channels by NumPy, as `labels.max() + 1` does."""

    def case() -> None:
        from resnets import create_model

        network = create_model("resnet20", num_classes=np.int64(5), widths=[*np.array([16] * 3)])
        assert (network.config.num_classes, network.config.widths) == (5, (16, 16, 16))
        assert type(network.config.num_classes) is int
        print("accepted")

    return case


def _long_path(name: str, folder: Path) -> Callable[[], None]:
    """Give a path that is longer than the system allows."""
    photos(folder / "photos", each=2)
    finished_run(folder)
    long = str(folder / ("x" * 5000))
    calls: dict[str, Callable[[Any], object]] = {
        "Predictor": lambda api: api.Predictor(long),
        "check_data": lambda api: api.check_data(long),
        "create_model": lambda api: api.create_model("resnet20", weights=long),
        "evaluate": lambda api: api.evaluate("run", "photos", report=long),
        "load_model": lambda api: api.load_model(Path(long)),
        "train": lambda api: api.train(resume=long),
    }

    def case() -> None:
        import resnets

        calls[name](resnets)

    return case


# Words of a command line in which an address holds a password and a token.
ADDRESS = "https://me:SECRET@example.com/a?token=SECRET"
HIDDEN = r"(?s)\A(?!.*SECRET).*example\.com"
SECRETS = (
    ("train", "--resume", ADDRESS),
    ("train", "photos", "--out", ADDRESS.replace("https", "s3")),
    ("train", "--recipe-file", ADDRESS, "photos"),
    ("evaluate", "run", "photos", "--report", ADDRESS),
    ("evaluate", ADDRESS, "photos"),
    ("predict", "run", ADDRESS),
    ("predict", "--quiet", "run", ADDRESS),
    ("study", "check", ADDRESS),
    ("study", "report", "--out", ADDRESS),
    ("check", ADDRESS),
)


def _secret(words: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    photos(folder / "photos", each=2)
    finished_run(folder)
    return words


FAULTS = [
    *PYTHON,
    *COMMAND_LINE,
    Fault(
        "arguments/python-image-folder", _image_folder, "of the type ImageFolder; expected a path"
    ),
    Fault("arguments/python-accepted", _accepted, "accepted", code=0),
    Fault(
        "arguments/report-cannot-be-written",
        _full_report,
        r"(?s)top-1 +\d.*--report page: the page could not be written",
        code=4,
    ),
    Fault("arguments/python-numpy-counts", _numpy_counts, "accepted", code=0),
    *(
        Fault(f"arguments/python-long-path-{name}", partial(_long_path, name), "name too long")
        for name in ("Predictor", "check_data", "create_model", "evaluate", "load_model", "train")
    ),
    *(
        Fault(f"arguments/secret-{'-'.join(words[:2])}", partial(_secret, words), HIDDEN)
        for words in SECRETS
    ),
]
