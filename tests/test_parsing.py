"""JSON becomes a record of checked types, or one line; its cost is limited beforehand."""

from pathlib import Path

import msgspec
import pytest

from resnets.errors import UserError
from resnets.fileio import append_jsonl
from resnets.parsing import MAX_DEPTH, MAX_TOML, parse_json, read_json, read_jsonl, read_toml


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    x: float
    name: str = ""


def test_a_record_has_the_types_that_it_declares(tmp_path: Path) -> None:
    assert parse_json('{"x": 2, "name": "a"}', Point, name="p") == Point(2.0, "a")
    path = tmp_path / "p.json"
    path.write_text('{"x": 0.5}')
    assert read_json(path, Point, name="p") == Point(0.5)
    assert parse_json("[1, {}]", name="anything") == [1, {}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "missing required field `x`"),
        ("[]", "Expected `object`"),
        ("null", "Expected `object`"),
        ('{"x": "1"}', r"Expected `float`, got `str` - at `\$\.x`"),
        ('{"x": true}', "Expected `float`"),
        ('{"x": 1, "y": 2}', "unknown field `y`"),
        ('{"x": 1, "x": 2}', "the key 'x' occurs twice"),
        ('{"x": NaN}', "NaN is not a number of JSON"),
        ('{"x": 1e999}', "out of range"),
        ('{"x": 1' + "0" * 400 + "}", "a whole number of 401 digits"),
        ('{"x": 1' + "0" * 5000 + "}", "a whole number of 5001 digits"),
        ("[" * 100_000, f"more than {MAX_DEPTH} levels deep"),
        ('{"a":' * 50_000, f"more than {MAX_DEPTH} levels deep"),
        ('{"x": 1', "not valid JSON"),
        ("", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"x": 1, "name": "\xff"}', "not valid JSON"),
        ('{"x": 1, "name": "\ud800"}', "not valid JSON"),
    ],
)
def test_anything_else_is_one_line(text: str | bytes, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as found:
        parse_json(text, Point, name="config.json")
    message = str(found.value)
    assert message.startswith("config.json ") and "\n" not in message and len(message) < 300


def test_brackets_in_texts_are_no_depth() -> None:
    assert parse_json('["' + "[" * 100 + '"]', name="a") == ["[" * 100]


def test_a_text_beyond_the_limit_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + "1," * 1000 + "1]")
    with pytest.raises(UserError, match=r"a\.json has 1,001 bytes; at most 1,000"):
        read_json(path, name="a.json", max_bytes=1000)
    with pytest.raises(UserError, match="absent: no such file"):
        read_json(tmp_path / "absent", name="absent")


def test_a_torn_last_line_is_left_out_and_cut_off_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_jsonl(path) == []
    append_jsonl(path, {"a": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"a": 2')
    assert read_jsonl(path) == [{"a": 1}] and path.read_bytes() != whole
    assert read_jsonl(path, repair=True) == [{"a": 1}] and path.read_bytes() == whole
    append_jsonl(path, {"a": 3})
    assert read_jsonl(path) == [{"a": 1}, {"a": 3}]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\nnot json\n{}\n")
    with pytest.raises(UserError, match=r"a\.jsonl: line 2 is not valid JSON"):
        read_jsonl(path)


def test_lines_have_the_kind_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n{"x": 2, "name": "b"}\n')
    assert read_jsonl(path, Point) == [Point(1.0), Point(2.0, "b")]
    path.write_text('{"x": 1}\n5\n')
    with pytest.raises(UserError, match=r"a\.jsonl: line 2 is not valid: Expected `object`"):
        read_jsonl(path, Point)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = ", "not readable as TOML"),
        (b"a = \xff", "not readable as TOML"),
        (b"a = 1" + b"0" * 5000, "not readable as TOML"),
        (b"a = " + b"[" * 50_000, "nested more than"),
        (b"a = 1\na = 2", "not readable as TOML"),
        (b"#" * (MAX_TOML + 1), "has more than"),
    ],
)
def test_what_is_no_toml(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^a\.toml: .*{reason}"):
        read_toml(path, name="a.toml")
