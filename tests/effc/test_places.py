"""Where artifacts go: what is replaced, what is not, and what damage is noticed."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

import effc
from effc import artifact, candidate

COMPILE = "compile cli_models:classifier --threads 1 -o".split()


@pytest.fixture
def finished(run, clock):
    """An artifact in `out` that must be unchanged, loadable and alone when the test ends."""
    run(*COMPILE, "out").assert_succeeds()
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    yield Path("out")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert effc.load("out")(np.zeros((1, 32), np.float32)).shape == (1, 8)
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["no_such_module:net"], 2),
        (["cli_models:spectrum"], 3),
        (["cli_models:classifier", "--calib", "cli_models:with_nan"], 2),
        (["cli_models:classifier", "-p", "cli_models:Failing"], 1),
        (["cli_models:classifier", "--eval", "cli_models:labelled", "--metric",
          "cli_models:broken"], 2),
    ],
)  # fmt: skip
def test_a_failed_compile_leaves_the_artifact(finished, run, words, code):
    run("compile", *words, "-o", finished).assert_fails(code)


def test_a_failed_build_leaves_the_artifact(finished, run, monkeypatch):
    monkeypatch.setenv("EFFC_CC", "no-such-compiler")
    run(*COMPILE, finished).assert_fails(1, "no-such-compiler", "No such file")


def test_a_full_disk_leaves_the_artifact(finished, run, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(arguments[1]))

    monkeypatch.setattr(candidate, "write_manifest", full)
    run(*COMPILE, finished).assert_fails(2, "cannot write", "No space left on device")


def test_a_full_disk_at_the_very_end(finished, run, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact, "write_manifest", full)
    run(*COMPILE, finished).assert_fails(2, "cannot write", "No space left on device")


def test_no_room_to_link(finished, run, monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text(
        "#!/bin/sh\necho 'ld: final link failed: No space left on device' >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("EFFC_CC", str(compiler))
    run(*COMPILE, finished).assert_fails(1, "No space left on device")


@pytest.mark.parametrize("make", ["file", "foreign", "beside"])
def test_nothing_of_the_user_is_replaced(run, clock, make):
    place = Path("place")
    if make == "file":
        place.write_text("mine")
    elif make == "foreign":
        place.mkdir()
        (place / "thesis.txt").write_text("mine")
    else:
        run(*COMPILE, place).assert_succeeds()
        (place / "thesis.txt").write_text("mine")
    before = sorted(Path.cwd().rglob("*"))
    ran = run(*COMPILE, place)
    ran.assert_fails(2, "place", "choose another output folder")
    assert "read model" not in ran.err  # found before any work
    assert sorted(Path.cwd().rglob("*")) == before


def test_places_that_cannot_be_written(run, clock):
    Path("file").write_text("mine")
    run(*COMPILE, "file/below").assert_fails(2, "cannot write")
    run(*COMPILE, "/proc/effc-out").assert_fails(2, "cannot write", "/proc")
    run(*COMPILE, ".").assert_fails(2, "current folder")
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(run, clock):
    Path("locked").mkdir(mode=0o500)
    run(*COMPILE, "locked/out").assert_fails(2, "Permission denied")


def test_an_empty_folder_and_missing_parents_are_fine(run, clock):
    Path("empty").mkdir()
    run(*COMPILE, "empty").assert_succeeds()
    run(*COMPILE, "a/b/c").assert_succeeds()
    assert Path("a/b/c/model.so").is_file()
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["a", "empty"]


def test_a_failed_compile_makes_no_parents(run):
    run("compile", "no_such_module:net", "-o", "a/b/c").assert_fails(2)
    assert list(Path.cwd().iterdir()) == []


@pytest.fixture
def copy(small_artifact):
    """A copy of an artifact to damage."""
    folder = Path("copy")
    folder.mkdir()
    for path in small_artifact.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("name", ["model.so", "weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damaged_artifacts_do_not_run(run, copy, name, damage):
    run("run", copy).assert_succeeds()
    harm(copy / name, damage)
    run("run", copy).assert_fails(2, "copy")
    with pytest.raises(effc.EffcError):
        effc.load(copy)


@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damaged_records(run, copy, damage):
    harm(copy / "report.json", damage)
    for command in ("report", "explain"):
        run(command, copy).assert_fails(2, "report.json")
    harm(copy / "sample.npz", damage)
    run("run", copy).assert_fails(2, "sample.npz")
    assert effc.load(copy)(np.zeros((1, 32), np.float32)).shape == (1, 8)  # needs no records


def harm(path, damage):
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 99), ("format", None), ("threads", 0), ("inputs", 3), ("files", ["model.so"]),
        ("files", {"../../etc/passwd": {"nbytes": 1, "digest": ""}}), ("backend", "quantum"),
        ("features", ["warp-drive"]), ("inputs", []), ("extra", 1),
    ],
)  # fmt: skip
def test_hostile_manifests(run, copy, key, value):
    path = copy / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    run("run", copy).assert_fails(2)


@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", "[" * 100_000, '"' + "a" * 10])
def test_manifests_of_another_kind(run, copy, text):
    (copy / "manifest.json").write_text(text)
    run("run", copy).assert_fails(2, "manifest.json is damaged")
