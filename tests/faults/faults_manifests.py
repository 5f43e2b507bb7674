"""Tables of paths and labels: odd columns, encodings and paths, and what no table may hold."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_harness import TINY_RUN, Fault, finished_run, photos, picture

from resnets.data import open_data
from resnets.data.sources.source_config import SourceConfig

ROWS = [(f"{name}/{number:03d}.png", name) for name in ("cat", "dog") for number in range(2)]


def _refused(
    text: str | bytes, *, name: str = "set.csv", **options: Any
) -> Callable[[Path], Callable[[], Any]]:
    """Return what writes images and a table, whose reading is refused."""

    def make(folder: Path) -> Callable[[], Any]:
        photos(folder, each=2)
        content = text.encode() if isinstance(text, str) else text
        (folder / name).write_bytes(content)
        return lambda: open_data(folder / name, SourceConfig(**options))

    return make


def _read(
    text: str | bytes,
    *,
    name: str = "set.csv",
    expected: dict[str, str] | None = None,
    prepare: Callable[[Path], None] | None = None,
    **options: Any,
) -> Callable[[Path], Callable[[], None]]:
    """Return what writes images and a table, and a function that prints what was read."""

    def make(folder: Path) -> Callable[[], None]:
        photos(folder, each=2)
        if prepare is not None:
            prepare(folder)
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        content = text.encode() if isinstance(text, str) else text
        (folder / name).write_bytes(content)

        def read() -> None:
            data = open_data(folder / name, SourceConfig(**options))
            found = {
                one: data.classes[target]
                for split in data.splits.values()
                for one, target in zip(split.ids, split.targets, strict=True)
            }
            assert found == (dict(ROWS) if expected is None else expected), found
            print("read:", "; ".join(data.notices))

        return read

    return make


def _csv(header: str, *, separator: str = ",", end: str = "\n", rows: Any = ROWS) -> str:
    return end.join([header, *(separator.join(row) for row in rows)]) + end


def _changed(change: Callable[[str], str]) -> str:
    return _csv("path,label", rows=[(change(path), label) for path, label in ROWS])


def _jsonl(*labels: str) -> str:
    return "".join(
        f'{{"path": "{path}", "label": {label}}}\n'
        for (path, _), label in zip(ROWS, labels, strict=False)
    )


def _flat(folder: Path) -> None:
    (folder / "images").mkdir()
    for path, name in ROWS:
        os.rename(folder / path, folder / "images" / f"{name}{path[-7:]}")


def _accents(form: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / unicodedata.normalize(form, "caf\u00e9")).mkdir()
        name = unicodedata.normalize(form, "caf\u00e9/\u00e9t\u00e9.png")
        picture(0, 9).save(folder / name)

    return prepare


def _metadata(folder: Path) -> Callable[[], None]:
    for split in ("train", "test"):
        (folder / split).mkdir()
        rows = [{"file_name": f"{n}.png", "label": "ab"[n % 2]} for n in range(4)]
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for number in range(4):
            picture(number, 0).save(folder / split / f"{number}.png")

    def read() -> None:
        data = open_data(folder)
        assert data.classes == ("a", "b"), data.classes
        print({name: len(split) for name, split in data.splits.items()}, *data.notices)

    return read


def _metadata_beside(folder: Path) -> Callable[[], None]:
    photos(folder, each=2)
    _flat(folder)
    rows = [f"images/{label}{path[-7:]},{label}" for path, label in ROWS]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    return lambda: print(open_data(folder).classes)


def _train_outside(folder: Path) -> list[str]:
    photos(folder / "images")
    (folder / "data").mkdir()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("images/*/*"))
    rows = "".join(f"../{name},{name.split('/')[1]}\n" for name in names)
    (folder / "data" / "labels.csv").write_text("path,label\n" + rows)
    return ["train", "data/labels.csv", "--out", "run", *TINY_RUN]


def _train_allowed(folder: Path) -> list[str]:
    return [*_train_outside(folder), "--allow-outside"]


def _evaluate_columns(folder: Path) -> list[str]:
    run = finished_run(folder)
    photos(folder, each=2)
    (folder / "set.csv").write_text(_csv("where,what"))
    return ["evaluate", str(run), "set.csv", "--columns", "path=where,label=what"]


def _evaluate_outside(folder: Path) -> list[str]:
    run = finished_run(folder)
    photos(folder, each=2)
    (folder / "sub").mkdir()
    (folder / "sub" / "set.csv").write_text(_changed("../{}".format))
    return ["evaluate", str(run), "sub/set.csv"]


def _link_outside(folder: Path) -> Callable[[], Any]:
    photos(folder / "elsewhere", each=2)
    photos(folder / "data", each=2)
    (folder / "data" / "cat" / "000.png").unlink()
    (folder / "data" / "cat" / "000.png").symlink_to(folder / "elsewhere" / "cat" / "000.png")
    (folder / "data" / "set.csv").write_text(_csv("path,label"))
    return lambda: open_data(folder / "data" / "set.csv")


def _linked_folder_outside(folder: Path) -> Callable[[], Any]:
    photos(folder / "elsewhere", each=2)
    (folder / "data").mkdir()
    for name in ("cat", "dog"):
        (folder / "data" / name).symlink_to(folder / "elsewhere" / name)
    (folder / "data" / "set.csv").write_text(_csv("path,label"))
    return lambda: open_data(folder / "data" / "set.csv")


def _one_file_by_two_links(folder: Path) -> Callable[[], Any]:
    photos(folder, each=2)
    (folder / "kitten").symlink_to("cat")
    rows = [*ROWS, ("kitten/000.png", "dog")]
    (folder / "set.csv").write_text(_csv("path,label", rows=rows))
    return lambda: open_data(folder / "set.csv")


def _fifo(folder: Path) -> Callable[[], Any]:
    os.mkfifo(folder / "set.csv")
    return lambda: open_data(folder / "set.csv")


def _in_two_folders(folder: Path) -> Callable[[], Any]:
    photos(folder, each=2)
    (folder / "set.csv").write_text("id,label\n000,cat\n001,dog\n")
    return lambda: open_data(folder / "set.csv")


def _in_parts(folder: Path) -> Callable[[], Any]:
    """Put the images of one table into two folders, as large sets are packed."""
    for number in range(8):
        (folder / f"images_{number // 4}").mkdir(exist_ok=True)
        picture(number % 2, number).save(folder / f"images_{number // 4}" / f"{number}.png")
    rows = "".join(f"{number},{'ab'[number % 2]}\n" for number in range(8))
    (folder / "set.csv").write_text("image_id,dx\n" + rows)
    return lambda: print(*open_data(folder / "set.csv").notices)


def _in_a_part_twice(folder: Path) -> Callable[[], Any]:
    _in_parts(folder)
    picture(0, 0).save(folder / "images_1" / "1.png")
    return lambda: open_data(folder / "set.csv")


def _two_suffixes(folder: Path) -> None:
    picture(0, 5).save(folder / "cat" / "000.jpg")


HOME_ROWS = _csv("path,label", rows=[(f"~/{path}", label) for path, label in ROWS])
FLAT_ROWS = {f"images/{label}{path[-7:]}": label for path, label in ROWS}
FLAT_IDS = _csv("Image ID,breed", rows=[(f"{label}{path[-7:-4]}", label) for path, label in ROWS])
TWO = ROWS[0][0]
NONE_ROWS = {path: label.replace("cat", "None") for path, label in ROWS}
NUMBER_ROWS = dict(zip(dict(ROWS), ("1", "1.0", "2", "1"), strict=True))

FAULTS = [
    # Names of the columns.
    Fault(
        "manifest/usual-names",
        _read(_csv("Image ID,Breed")),
        r"columns: path = Image ID, label = Breed",
        code=0,
        catalogue="D23",
    ),
    Fault(
        "manifest/columns-not-used",
        _read(_csv("file_name,width,class", rows=[(p, "9", n) for p, n in ROWS])),
        r"path = file_name, label = class; not used: width",
        code=0,
    ),
    Fault(
        "manifest/columns-given",
        _read(_csv("a,b"), columns="path=a,label=b"),
        "path = a, label = b",
        code=0,
    ),
    Fault("manifest/no-columns", _refused(_csv("a,b")), r"expected path and label.*--columns"),
    Fault("manifest/no-header", _refused(_csv("")), r"expected path and label"),
    Fault(
        "manifest/two-labels-columns",
        _refused(_csv("path,class,category", rows=[(p, n, n) for p, n in ROWS])),
        r"several columns for the label: class, category; choose: --columns path=",
    ),
    Fault(
        "manifest/column-twice",
        _refused(_csv("path,label,label", rows=[(p, n, "x") for p, n in ROWS])),
        r"the column 'label' twice",
        catalogue="D23",
    ),
    Fault(
        "manifest/columns-unknown",
        _refused(_csv("path,label"), columns="label=lable"),
        r"unknown column of .*'lable'; did you mean 'label'",
    ),
    Fault("manifest/columns-no-role", _refused("", columns="lable=x"), r"did you mean 'label'"),
    Fault("manifest/columns-no-form", _refused("", columns="x"), r"expected path=COLUMN"),
    Fault("manifest/columns-one-twice", _refused("", columns="path=x,path=y"), r"names path twice"),
    Fault("manifest/columns-same", _refused("", columns="path=x,label=x"), r"two purposes"),
    Fault(
        "manifest/columns-of-a-folder",
        lambda folder: ["train", photos(folder / "p"), "--columns", "label=x"],
        r"is no table",
    ),
    Fault("manifest/evaluate-columns", _evaluate_columns, r"top-1", code=0),
    Fault(
        "manifest/fold",
        _refused(_csv("path,label,fold", rows=[(p, n, "3") for p, n in ROWS])),
        r"line 2 .* split '3'; .*--columns split=none",
    ),
    Fault(
        "manifest/fold-ignored",
        _read(_csv("path,label,fold", rows=[(p, n, "3") for p, n in ROWS]), columns="split=none"),
        "not used: fold",
        code=0,
    ),
    Fault(
        "manifest/subset",
        _read(_csv("path,label,subset", rows=[(p, n, "Train") for p, n in ROWS])),
        "split = subset",
        code=0,
    ),
    # How the text is written.
    Fault("manifest/semicolon", _read(_csv("path;label", separator=";")), "by ';'", code=0),
    Fault("manifest/tab", _read(_csv("path\tlabel", separator="\t")), "by a tab", code=0),
    Fault("manifest/bar", _read(_csv("path|label", separator="|")), "separated by", code=0),
    Fault("manifest/sep", _read("sep=;\n" + _csv("path;label", separator=";")), "by ';'", code=0),
    Fault("manifest/tsv", _read(_csv("path\tlabel", separator="\t"), name="s.tsv"), "", code=0),
    Fault("manifest/cr", _read(_csv("path,label", end="\r")), "read:", code=0),
    Fault("manifest/crlf-bom", _read("\ufeff" + _csv("path,label", end="\r\n")), "read:", code=0),
    Fault("manifest/utf-16", _read(_csv("path,label").encode("utf-16")), "read:", code=0),
    Fault("manifest/utf-32", _read(_csv("path,label").encode("utf-32")), "read:", code=0),
    Fault("manifest/utf-16-no-mark", _refused(_csv("path,label").encode("utf-16-le")), "NUL"),
    Fault("manifest/utf-16-cut", _refused(_csv("path,label").encode("utf-16")[:-1]), "damaged"),
    Fault(
        "manifest/cp1252",
        _read(
            _csv("path,label,remark", rows=[(p, n, "gr\u00fcn") for p, n in ROWS]).encode("cp1252")
        ),
        "not UTF-8: read as Windows-1252",
        code=0,
    ),
    Fault("manifest/not-text", _refused(b"path,label\n\x81\xff,\x8d\n"), "neither UTF-8 nor"),
    Fault("manifest/nul", _refused("path,label\ncat/000.png\0,cat\n"), "NUL characters"),
    Fault(
        "manifest/spaces",
        _read("path , label\n" + "".join(f' "{p}" ,  "{n}" \n' for p, n in ROWS)),
        "read:",
        code=0,
    ),
    Fault(
        "manifest/quote-never-closed",
        _refused(f'path,label\n{TWO},"cat\ndog/000.png,dog\n'),
        r"line 2 of .* a quote opens here and is never closed",
    ),
    Fault(
        "manifest/two-quotes-never-closed",
        _refused(f'path,label\n{TWO},"cat\ndog/000.png,"dog\ndog/001.png,dog\n'),
        r"line 2 of .* after its closing quote",
    ),
    Fault(
        "manifest/comma-in-a-name",
        _refused(_csv("path,label", rows=[*ROWS, ("cat/a, b.png", "cat")])),
        r"line 6 of .* has 3 cells, the first line 2",
    ),
    Fault("manifest/short-row", _refused(_csv("path,label") + "cat/9.png\n"), "has 1 cells"),
    Fault("manifest/empty", _refused(b""), "must name the columns"),
    Fault("manifest/no-rows", _refused("path,label\n"), "lists no images"),
    Fault("manifest/long-line", _refused(b"path,label\n" + b"x" * 10**8), "line 2 .* characters"),
    Fault("manifest/long-header", _refused("path,label" + ",x" * 10**6), "characters|columns"),
    Fault("manifest/many-columns", _refused("path,label" + ",x" * 10**5), "2,000 columns"),
    Fault("manifest/long-cell", _refused("path,label\n" + "x" * 200_000), "131,072 characters"),
    Fault("manifest/pipe", _fifo, "a pipe", catalogue="D23"),
    # Labels.
    Fault("manifest/label-list", _refused(_jsonl('"x"', '["cat"]'), name="s.jsonl"), "a list"),
    Fault("manifest/label-object", _refused(_jsonl('{"a": 1}'), name="s.jsonl"), "an object"),
    Fault("manifest/label-null", _refused(_jsonl('"x"', "null"), name="s.jsonl"), "line 2 .*null"),
    Fault("manifest/label-boolean", _refused(_jsonl("true"), name="s.jsonl"), "a boolean"),
    Fault("manifest/label-nan", _refused(_jsonl("1", "NaN"), name="s.jsonl"), "line 2 .*NaN"),
    Fault("manifest/label-infinite", _refused(_jsonl("1e999"), name="s.jsonl"), "out of range"),
    Fault("manifest/label-5000-digits", _refused(_jsonl("9" * 5000), name="s.jsonl"), "digits"),
    Fault("manifest/label-half", _refused(_jsonl('"\\ud800"'), name="s.jsonl"), "surrogates"),
    Fault("manifest/label-nan-text", _refused(_csv("path,label").replace("cat\n", "nan\n")), "nan"),
    *(
        Fault(
            f"manifest/label-{name}",
            _refused(_csv("path,label").replace("cat\n", f"{text}\n")),
            text,
        )
        for name, text in {"of-excel": "#N/A", "of-pandas": "<NA>", "an-error": "#REF!"}.items()
    ),
    Fault(
        "manifest/label-none-text",
        _read(_csv("path,label").replace("cat\n", "None\n"), expected=NONE_ROWS),
        "named as missing values are: None",
        code=0,
    ),
    Fault(
        "manifest/labels-of-one-number",
        _read(_csv("path,label", rows=NUMBER_ROWS.items()), expected=NUMBER_ROWS),
        "'1' and '1.0'",
        code=0,
    ),
    Fault("manifest/label-a-text", _refused(_csv("path,label", rows=[(TWO, "x" * 999)])), "999"),
    Fault("manifest/nested", _refused("[" * 100_000, name="s.jsonl"), r"line 1 of .*32 levels"),
    Fault("manifest/nested-2", _refused('{"a":' * 50_000, name="s.jsonl"), "32 levels"),
    Fault("manifest/not-json", _refused("path,label\n", name="s.jsonl"), "line 1 .* not valid"),
    Fault("manifest/no-object", _refused("[1]\n", name="s.jsonl"), "not an object"),
    Fault(
        "manifest/key-twice", _refused('{"path": "a", "path": "b"}', name="s.jsonl"), "occurs twice"
    ),
    Fault("manifest/path-number", _refused('{"path": 5, "label": 1}', name="s.jsonl"), "'5'"),
    Fault("manifest/path-list", _refused('{"path": [], "label": 1}', name="s.jsonl"), "a list"),
    Fault(
        "manifest/unlabelled-rows",
        _read(_csv("path,label") + "cat/8.png,\ncat/9.png,\n"),
        "rows without a label, ignored: 2",
        code=0,
    ),
    Fault("manifest/no-labels", _refused("path,label\ncat/000.png,\n"), "gives no label"),
    Fault(
        "manifest/accents-of-labels",
        _read(
            _csv("path,label").replace(",cat\n", ",\u00e9\n", 1).replace(",cat\n", ",e\u0301\n"),
            expected=dict(ROWS) | {path: "\u00e9" for path, name in ROWS if name == "cat"},
        ),
        "one class: \u00e9",
        code=0,
        catalogue="D20",
    ),
    Fault(
        "manifest/class-only-in-val",
        _refused(
            "path,label,split\ncat/000.png,cat,train\ndog/000.png,dog,train\ncat/001.png,wolf,val\n"
        ),
        "classes in val that train does not have: wolf",
        catalogue="D17",
    ),
    # Files.
    Fault(
        "manifest/file-twice",
        _refused(_csv("path,label", rows=[*ROWS, ("cat/../cat/000.png", "dog")])),
        r"line 6 of .* names cat/000.png again, after line 2, as 'dog' and as 'cat'",
        catalogue="D23",
    ),
    Fault("manifest/file-by-two-links", _one_file_by_two_links, "names cat/000.png again"),
    Fault("manifest/backslashes", _read(_changed(lambda p: p.replace("/", "\\"))), "/ for", code=0),
    Fault("manifest/home", _refused(HOME_ROWS), r"outside of .*--allow-outside", catalogue="D23"),
    Fault("manifest/file-url", _refused(_changed("file:///{}".format)), "--allow-outside"),
    Fault("manifest/http", _refused(_changed("https://u:secret@x.org/{}?k=1".format)), r"x\.org"),
    Fault("manifest/no-suffix", _read(_changed(lambda p: p[:-4])), "4 suffix", code=0),
    Fault(
        "manifest/suffix-in-another-case",
        _read(_changed(lambda p: p.replace(".png", ".PNG"))),
        "4 suffix in another case",
        code=0,
    ),
    Fault(
        "manifest/metadata-beside-classes",
        lambda folder: (
            (_read(_csv("file_name,label"), name="metadata.csv")(folder), folder)[0]
            and (lambda: print(open_data(folder).notices))
        ),
        "metadata.csv is not used",
        code=0,
    ),
    Fault(
        "manifest/two-suffixes",
        lambda folder: (
            _refused(_changed(lambda p: p[:-4]))(folder),
            _two_suffixes(folder),
        )[0],
        r"may be 000.jpg, 000.png; write the suffix",
    ),
    Fault(
        "manifest/folder-beside",
        _read(FLAT_IDS, expected=FLAT_ROWS, prepare=_flat),
        "in the folder images",
        code=0,
    ),
    Fault(
        "manifest/parts-beside", _in_parts, "4 in the folder images_0, 4 in the .* images_1", code=0
    ),
    Fault(
        "manifest/parts-beside-twice", _in_a_part_twice, "in several folders, images_0, images_1"
    ),
    Fault("manifest/two-folders-beside", _in_two_folders, "in several folders, cat, dog"),
    Fault(
        "manifest/nfc-for-nfd",
        _read(
            _csv("path,label", rows=[*ROWS, ("caf\u00e9/\u00e9t\u00e9.png", "cat")]),
            expected=dict(ROWS)
            | {unicodedata.normalize("NFD", "caf\u00e9/\u00e9t\u00e9.png"): "cat"},
            prepare=_accents("NFD"),
        ),
        "1 accents",
        code=0,
    ),
    Fault(
        "manifest/nfd-for-nfc",
        _read(
            _csv(
                "path,label",
                rows=[*ROWS, (unicodedata.normalize("NFD", "caf\u00e9/\u00e9t\u00e9.png"), "cat")],
            ),
            expected=dict(ROWS) | {"caf\u00e9/\u00e9t\u00e9.png": "cat"},
            prepare=_accents("NFC"),
        ),
        "1 accents",
        code=0,
    ),
    Fault(
        "manifest/no-file-exists",
        _refused(_changed(lambda p: f"photos/{p}")),
        r"no image that .* names exists \(4 tried\).*relative to the folder of the manifest",
        catalogue="D23",
    ),
    Fault(
        "manifest/500000-missing",
        _refused("path,label\n" + "".join(f"{n},x\n" for n in range(500_000))),
        r"10000 tried",
    ),
    Fault(
        "manifest/one-exists-of-50000",
        _refused(_csv("path,label") + "".join(f"a/{n}/b.png,x\n" for n in range(50_000))),
        r"only 4 images .* exist \(10000 tried\)",
        cpu_seconds=4,
    ),
    Fault("manifest/deep-path", _refused("path,label\n" + "a/" * 500 + "b.png,x"), "no file can"),
    Fault("manifest/passwd", _refused(_changed("../../../../etc/passwd{}".format)), "--allow"),
    Fault("manifest/outside", _train_outside, r"line 2 .*'\.\./images", catalogue="D23"),
    Fault("manifest/outside-evaluate", _evaluate_outside, r"--allow-outside"),
    Fault("manifest/outside-allowed", _train_allowed, r"top-1", code=0, slow=True),
    Fault("manifest/link-outside", _link_outside, r"cat/000.png -> .*--allow-outside"),
    Fault("manifest/linked-folder-outside", _linked_folder_outside, r"--allow-outside"),
    Fault(
        "manifest/splits-in-paths",
        _read(
            _csv(
                "path,label",
                rows=[(f"{part}/{p}", n) for part in ("train", "test") for p, n in ROWS],
            ),
            prepare=lambda folder: (
                photos(folder / "train", each=2),
                photos(folder / "test", each=2),
            ),
            expected={f"{part}/{p}": n for part in ("train", "test") for p, n in ROWS},
        ),
        "the images in test, train are one set; add a column named split",
        code=0,
    ),
    # The metadata of Hugging Face.
    Fault("manifest/metadata-of-splits", _metadata, r"'train': 4, 'test': 4", code=0),
    Fault("manifest/metadata-beside", _metadata_beside, r"\('cat', 'dog'\)", code=0),
    Fault(
        "manifest/metadata-given",
        _read(
            "".join(json.dumps({"file_name": p, "label": n}) + "\n" for p, n in ROWS),
            name="metadata.jsonl",
        ),
        "path = file_name",
        code=0,
    ),
]
