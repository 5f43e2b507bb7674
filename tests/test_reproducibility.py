"""What may change when a run is resumed, what is refused, and what is said when it is forced."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnets.config_fields import Rule
from resnets.errors import UserError
from resnets.training import run_dir
from resnets.training.recipe import Recipe, fields_with
from resnets.training.reproducibility import (
    RunFingerprint,
    check_unchanged,
    reproducibility_caveats,
    update_run_config,
)
from resnets.training.run_dir import RunDir

DATA = {
    "data": "photos",
    "name": "photos",
    "preprocess": {"size": 8},
    "held_out": [],
    "fingerprint": "0123456789",
    "classes": ["ant", "bee"],
    "sizes": {"train": 1000, "val": 100},
}
ENVIRONMENT = {
    "versions": {"torch": "2.14.0", "safetensors": "0.6"},
    "device": "cpu",
    "device_name": "x86_64 AVX512",
    "threads": 2,
}
BEFORE = RunFingerprint(Recipe().override(steps=10), DATA, ENVIRONMENT)


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    folder = RunDir.create(tmp_path / "run", name="x")
    folder.write_json("config.json", {"steps": {"value": 10, "origin": "flag"}})
    folder.write_json("data.json", DATA)
    folder.write_json("environment.json", ENVIRONMENT)
    return folder


def changed(folder: RunDir, after: RunFingerprint, *, force: bool = False) -> list[str]:
    return check_unchanged(RunFingerprint.stored(folder), after, run_dir=folder, force=force)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (
            replace(BEFORE, recipe=Recipe().override(steps=10, memory_format="contiguous")),
            "--memory-format changed from auto to contiguous",
        ),
        (
            replace(BEFORE, recipe=Recipe().override(steps=10, threads=3)),
            "--threads changed from None to 3",
        ),
        (
            replace(BEFORE, data=DATA | {"fingerprint": "abcdef0123"}),
            "the images in photos changed from 1,000 train, 100 val (index 01234567) to "
            "1,000 train",
        ),
        (
            replace(BEFORE, environment=ENVIRONMENT | {"versions": {"torch": "2.15.0"}}),
            "torch changed from 2.14.0 to 2.15.0",
        ),
        (replace(BEFORE, environment=ENVIRONMENT | {"threads": 4}), "number of threads changed"),
        (replace(BEFORE, environment=ENVIRONMENT | {"device": "cuda"}), "the device changed from"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_what_decides_bits_is_refused_unless_forced(
    folder: RunDir, after: RunFingerprint, words: str
) -> None:
    with pytest.raises(UserError) as refused:
        changed(folder, after)
    assert words in str(refused.value) and "--force" in str(refused.value)
    (phrase,) = changed(folder, after, force=True)
    assert words in phrase


def test_what_decides_no_bit_is_free(folder: RunDir) -> None:
    values: dict[str, Any] = {"workers": 3, "checkpoint_every": 1.0, "max_corrupt": 0.5}
    values["allow_outside"] = True
    assert set(values) == set(fields_with(Rule.FREE))
    environment = ENVIRONMENT | {"versions": {"torch": "2.14.0", "safetensors": "0.7"}}
    after = RunFingerprint(Recipe().override(steps=10, **values), DATA, environment)
    assert changed(folder, after) == []
    update_run_config(folder, RunFingerprint.stored(folder), after, changed=[], step=4)
    assert RunFingerprint.stored(folder).recipe == after.recipe
    assert folder.read_json("config.json")["workers"] == {"value": 3, "origin": "flag at step 4"}
    assert reproducibility_caveats(folder) == []


def test_another_run_cannot_be_forced(folder: RunDir) -> None:
    with pytest.raises(UserError, match="--model cannot change; start a new run"):
        changed(
            folder,
            replace(BEFORE, recipe=Recipe().override(steps=10, model="resnet32")),
            force=True,
        )
    with pytest.raises(UserError, match="the classes changed from ant, bee to ant, cat"):
        changed(folder, replace(BEFORE, data=DATA | {"classes": ["ant", "cat"]}), force=True)
    assert "model" in fields_with(Rule.FIXED)


def test_a_forced_change_is_remembered_for_ever(folder: RunDir) -> None:
    for step, threads in ((40, 3), (60, 4)):
        before, environment = RunFingerprint.stored(folder), ENVIRONMENT | {"threads": threads}
        after = replace(before, environment=environment)
        phrases = changed(folder, after, force=True)
        update_run_config(folder, before, after, changed=phrases, step=step)
    same = RunFingerprint.stored(folder)
    assert check_unchanged(same, same, run_dir=folder, force=False) == []
    update_run_config(folder, same, same, changed=[], step=80)
    first, second = reproducibility_caveats(folder)
    assert "--force at step 40" in first and "from 2 to 3" in first
    assert "--force at step 60" in second and "from 3 to 4" in second
    assert json.loads((folder.path / "environment.json").read_text())["threads"] == 4


def test_a_file_that_was_edited_is_named(folder: RunDir) -> None:
    path = folder.path / "config.json"
    path.write_text(path.read_text().replace("10", "11"))
    with pytest.raises(UserError, match=r"config\.json changed since the run wrote it"):
        RunFingerprint.stored(folder)
    before = RunFingerprint.stored(folder, force=True)
    assert before.edited == ["config.json"]
    phrases = check_unchanged(before, before, run_dir=folder, force=True)
    assert phrases == ["config.json was edited by hand"]
    update_run_config(folder, before, before, changed=phrases, step=3)
    assert RunFingerprint.stored(folder).edited == []
    assert "edited by hand" in reproducibility_caveats(folder)[0]


def test_layout_and_place_and_free_settings_may_change(folder: RunDir) -> None:
    for name in ("config.json", "data.json", "environment.json"):
        path = folder.path / name
        path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    path = folder.path / "data.json"
    path.write_text(path.read_text().replace('"data": "photos"', '"data": "/elsewhere"'))
    path = folder.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"workers": FREE}))
    assert RunFingerprint.stored(folder).data["data"] == "/elsewhere"


FREE = {"value": 3, "origin": "by hand"}


@pytest.mark.parametrize("writes", range(10))
def test_a_kill_between_any_two_writes_leaves_a_run_that_can_be_resumed(
    folder: RunDir, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Nothing is taken for an edit, and no change that was forced loses its caution."""
    before, environment = RunFingerprint.stored(folder), ENVIRONMENT | {"threads": 3}
    recipe = Recipe().override(steps=10, learning_rate=0.3)
    after = RunFingerprint(recipe, DATA | {"content": "ab"}, environment)
    real, done = run_dir.write_atomic, list[Path]()

    def write(path: Path, content: str) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_dir, "write_atomic", write)
        phrases = check_unchanged(before, after, run_dir=folder, force=True)
        try:
            update_run_config(folder, before, after, changed=phrases, step=4)
        except KeyboardInterrupt:
            assert writes < 9
        else:
            assert writes == 9
    stored = RunFingerprint.stored(folder)  # no edit is found
    if check_unchanged(stored, after, run_dir=folder, force=True):
        with pytest.raises(UserError, match="--force"):
            check_unchanged(stored, after, run_dir=folder, force=False)
    else:
        assert reproducibility_caveats(folder)


def test_a_run_of_a_version_without_digests_is_resumed_and_gets_them(folder: RunDir) -> None:
    (folder.path / "digests.json").unlink()
    before = RunFingerprint.stored(folder)
    assert not before.edited and folder.digest_name() == ""
    update_run_config(folder, before, before, changed=[], step=4)
    assert folder.digest_name()
    path = folder.path / "environment.json"
    path.write_text(path.read_text().replace("AVX512", "AVX2"))
    with pytest.raises(UserError, match=r"environment\.json changed since"):
        RunFingerprint.stored(folder)
