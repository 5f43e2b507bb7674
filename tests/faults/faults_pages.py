"""Names that want to run a script in a page: of classes, files, models, manifests and studies."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import vl_convert
from fault_harness import TINY_RUN, Fault, finished_run, photos

sys.path.append(str(Path(__file__).parents[1]))
from pages import HOSTILE, Page, assert_a_browser_draws, assert_nothing_foreign


def _renamed(value: object, name: str) -> object:
    """Replace every text of a record's field."""
    if isinstance(value, str):
        return name
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        return [f"{name}{number}" for number in range(len(value))]
    return value


def _report(number: int, name: str) -> Fault:
    """Return the case of a report all of whose texts are one name."""

    def make(folder: Path) -> Callable[[], None]:
        def case() -> None:
            from resnets.report.page import write_report
            from test_report import hostile_record

            record = hostile_record()
            texts = {
                field.name: _renamed(getattr(record, field.name), name)
                for field in dataclasses.fields(record)
                if field.name != "split"
            }
            page = write_report(folder / "report", dataclasses.replace(record, **texts))
            assert_nothing_foreign(page)
            assert len(Page(page).elements) > 100
            print(page.name)

        return case

    return Fault(f"pages/report-name-{number}", make, "report.html", code=0)


def _checked(page: str) -> Callable[[Path], None]:
    return lambda folder: assert_nothing_foreign(folder / page)


def _file_name(name: str) -> str:
    return name.replace("/", "|").replace("\x00", "").replace("\udcff", "")


def _train(folder: Path) -> list[str]:
    classes = [_file_name(name) for name in HOSTILE[:3]]
    data = photos(folder / _file_name(HOSTILE[4]), classes=classes)
    (data / classes[0] / _file_name(f"{HOSTILE[3]}.png")).write_bytes(b"\x89PNG")
    return ["train", str(data), *TINY_RUN, "--max-corrupt", "0.2", "--out", str(folder / "run")]


def _evaluate(folder: Path) -> list[str]:
    data = photos(folder / _file_name(HOSTILE[0]), each=4)
    for path in sorted(data.rglob("*.png")):  # half of them are mistakes, shown with their names
        shutil.move(path, path.with_name(_file_name(f"{path.stem}{HOSTILE[3]}.png")))
    model = folder / _file_name(f"{HOSTILE[1]}.safetensors")
    shutil.copy(finished_run(folder) / "model.safetensors", model)
    return ["evaluate", str(model), str(data), "--report", str(folder / "page")]


def _manifest(folder: Path) -> list[str]:
    images = sorted(photos(folder / "photos").rglob("*.png"))
    rows = [
        {"path": str(path.relative_to(folder)), "label": HOSTILE[number % 2]}
        for number, path in enumerate(images)
    ]
    manifest = folder / _file_name(f"{HOSTILE[5]}.jsonl")
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["train", str(manifest), *TINY_RUN, "--out", str(folder / "run")]


def _study(folder: Path) -> Callable[[], None]:
    def case() -> None:
        sys.modules["vl_convert"] = vl_convert  # charts are drawn
        from resnets.study.report.study_page import write_study_report
        from test_study_report import write_hostile

        write_hostile(folder / HOSTILE[0])
        page = write_study_report(folder / HOSTILE[0])
        assert_nothing_foreign(page)
        names = list(Page(page).charts)
        assert len(names) > 20, names
        if shutil.which("chromium"):
            assert_a_browser_draws(names, page, profile=folder / "profile")
        print(page.name)

    return case


FAULTS = [
    *(_report(number, name) for number, name in enumerate(HOSTILE)),
    Fault("pages/train", _train, "report", code=0, check=_checked("run/report.html")),
    Fault("pages/evaluate", _evaluate, "top-1", code=0, check=_checked("page/report.html")),
    Fault("pages/manifest", _manifest, "report", code=0, check=_checked("run/report.html")),
    Fault("pages/study", _study, "study.html", code=0, cpu_seconds=90, megabytes=2048, slow=True),
]
