"""Every kind of damage to an artifact ends in one line that names the file."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from effc.backends.artifact import MANIFEST, Manifest
from effc.backends.reading import folder_nbytes, foreign_file, is_artifact, read_manifest
from effc.backends.runner import Model
from effc.ir import host
from effc.ir.errors import ArtifactError, EffcError, TargetError

Copy = Callable[[str], Path]
FILES = [
    ("float32", "model.so"),
    ("float32", "weights.safetensors"),
    ("float32", "effc.h"),
    ("float32", MANIFEST),
    ("int8", "weights.safetensors"),
    ("eager", "model.pt2"),
]


def refusal(folder: Path, kind: type[EffcError] = ArtifactError) -> str:
    with pytest.raises(kind) as caught:
        Model(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Change the manifest and seal it again, as a careless or hostile tool would."""
    document = json.loads((folder / MANIFEST).read_text())
    edit(document)
    try:
        document["digest"] = Manifest.model_construct(**document).own_digest()
        document["digest"] = Manifest.model_validate(document).own_digest()
    except (ValueError, AttributeError):
        pass  # it can't be sealed: reading has to refuse it before it looks at the digest
    (folder / MANIFEST).write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(("name", "file"), FILES)
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_truncated_files(name: str, file: str, fraction: float, copied: Copy) -> None:
    path = copied(name) / file
    os.truncate(path, int(path.stat().st_size * fraction))
    assert refusal(path.parent).startswith(f"{path} is damaged: ")


@pytest.mark.parametrize(("name", "file"), FILES)
def test_flipped_bytes(name: str, file: str, copied: Copy) -> None:
    """One bit, in every tenth of the file: the digest of the file or of the manifest tells."""
    path = copied(name) / file
    sound = path.read_bytes()
    chance = random.Random(0)
    for part in range(10):
        content = bytearray(sound)
        position = chance.randrange(len(sound) * part // 10, len(sound) * (part + 1) // 10)
        content[position] ^= 1 << chance.randrange(5)
        path.write_bytes(bytes(content))
        if file == MANIFEST and json_or_none(bytes(content)) == json.loads(sound):
            continue  # white space
        message = refusal(path.parent)
        assert message.startswith((f"{path} is damaged: ", f"{path} has format "))
    path.write_bytes(sound)
    Model(path.parent).close()


def json_or_none(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize(("name", "file"), FILES)
def test_missing_files(name: str, file: str, copied: Copy) -> None:
    folder = copied(name)
    (folder / file).unlink()
    expected = f"{folder} is incomplete: {file} is missing"
    if file == MANIFEST:
        expected = f"{folder} is no artifact: cannot read {file}: No such file or directory"
    assert refusal(folder) == expected


@pytest.mark.parametrize(("name", "file"), FILES)
def test_folders_in_place_of_files(name: str, file: str, copied: Copy) -> None:
    folder = copied(name)
    (folder / file).unlink()
    (folder / file).mkdir()
    assert file in refusal(folder)


def test_no_artifact_at_all(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    reason = f"{missing} is no artifact: cannot read manifest.json: No such file or directory"
    assert refusal(missing) == reason
    file = tmp_path / "file"
    file.write_text("text")
    assert refusal(file) == f"{file} is no artifact: cannot read manifest.json: Not a directory"


def first_file(document: dict[str, Any]) -> dict[str, Any]:
    return next(iter(document["files"].values()))


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer format": (lambda d: d.update(format=2), "has format 2, this effc reads 1"),
    "no format": (lambda d: d.pop("format"), "is damaged: KeyError: 'format'"),
    "format text": (lambda d: d.update(format="x"), "has format x, this effc reads 1"),
    "unknown key": (lambda d: d.update(extra=1), "extra: Extra inputs are not permitted"),
    "no name": (lambda d: d.pop("name"), "is damaged: name: Field required"),
    "files list": (lambda d: d.update(files=[]), "is damaged: files: "),
    "parent": (lambda d: d["files"].update({"../x": first_file(d)}), "is not the name of a file"),
    "absolute": (lambda d: d["files"].update({"/x": first_file(d)}), "is not the name of a file"),
    "dots": (lambda d: d["records"].update({"..": first_file(d)}), "is not the name of a file"),
    "negative nbytes": (lambda d: first_file(d).update(nbytes=-1), "is damaged: files."),
    "negative shape": (lambda d: d["inputs"][0].update(shape=["-3"]), "shape.0: -3 is no size"),
    "shape of code": (lambda d: d["inputs"][0].update(shape=["exit()"]), "is damaged: inputs.0."),
    "huge shape": (lambda d: d["inputs"][0].update(shape=["9**9**9"]), "damaged: inputs.0.shape.0"),
    "unknown symbol": (lambda d: d["outputs"][0].update(shape=["other"]), "unknown size other"),
    "dtype": (lambda d: d["inputs"][0].update(dtype="object"), "'object' is no dtype"),
    "negative symbol": (lambda d: d["symbols"][0].update(minimum=-1), "damaged: symbols.0.minimum"),
    "empty range": (lambda d: d["symbols"][0].update(maximum=0), "symbols.0: batch ranges from 1"),
    "threads": (lambda d: d.update(threads=-2), "is damaged: threads"),
    "digest": (lambda d: d.update(digest="0"), "does not match its digest"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_edited_manifests(case: str, copied: Copy) -> None:
    edit, expected = EDITS[case]
    folder = copied("float32")
    if case == "digest":
        document = json.loads((folder / MANIFEST).read_text()) | {"digest": "0"}
        (folder / MANIFEST).write_text(json.dumps(document))
    else:
        edited(folder, edit)
    message = refusal(folder)
    assert message.startswith(f"{folder / MANIFEST} ")
    assert expected in message


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_manifests_that_are_none(content: bytes, copied: Copy) -> None:
    folder = copied("float32")
    (folder / MANIFEST).write_bytes(content)
    assert refusal(folder).startswith(f"{folder / MANIFEST} is damaged: ")
    assert not is_artifact(folder)


@pytest.mark.parametrize("name", ["float32", "eager"])
def test_manifests_that_list_too_little(name: str, copied: Copy) -> None:
    folder = edited(copied(name), lambda document: document.update(files={}))
    missing = {"float32": "model.so", "eager": "model.pt2"}[name]
    assert refusal(folder) == f"{folder} is incomplete: its manifest lists no {missing}"


def test_unknown_backends(copied: Copy) -> None:
    folder = edited(copied("float32"), lambda document: document.update(backend="abacus"))
    message = refusal(folder, TargetError)
    assert message == "unknown backend 'abacus'; there are: tvm_cpu, eager, onnxruntime"


def test_libraries_that_are_none(copied: Copy) -> None:
    """A manifest made for something that is no library."""
    folder = copied("float32")
    path = folder / "model.so"
    path.write_bytes(b"\x7fELF")
    with pytest.raises(ArtifactError) as caught:
        Model(sealed(folder), check=False)
    assert str(caught.value) == f"cannot load {path}: file too short"
    shutil.copyfile("/proc/self/exe", path)
    with pytest.raises(ArtifactError, match=f"^cannot load {path}: "):
        Model(sealed(folder))


def sealed(folder: Path) -> Path:
    """Make a manifest fit the files of a folder."""
    from effc.backends.artifact import FileEntry

    def edit(document: dict[str, Any]) -> None:
        for name in document["files"]:
            document["files"][name] = FileEntry.of(folder / name).model_dump()

    return edited(folder, edit)


def test_weights_of_another_model_behind_a_matching_manifest(
    copied: Copy, artifacts: dict[str, Path]
) -> None:
    folder = copied("float32")
    shutil.copyfile(artifacts["int8"] / "weights.safetensors", folder / "weights.safetensors")
    path = folder / "weights.safetensors"
    message = refusal(sealed(folder))
    assert message.startswith(f"{path} is damaged or belongs to another model: ")


def test_features_this_machine_lacks(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = host.Host("old", "", frozenset({"sse4.2", "popcnt", "avx"}))
    monkeypatch.setattr("effc.backends.runner.host_facts", lambda: facts)
    message = refusal(artifacts["float32"])
    assert message.startswith(f"{artifacts['float32']} was built for a processor with ")
    assert "avx2" in message
    assert message.endswith(", which this one lacks; compile it for another --target")
    Model(artifacts["eager"]).close()


def test_files_are_not_hashed_unless_asked(copied: Copy, pixels: Tensor) -> None:
    path = copied("float32") / "effc.h"
    path.write_bytes(path.read_bytes()[::-1])
    with Model(path.parent, check=False) as model:
        assert model(pixels).shape == (5, 5)
    assert refusal(path.parent) == f"{path} is damaged: its content does not match the manifest"


def test_read_only_and_moved_folders(copied: Copy, pixels: Tensor, tmp_path: Path) -> None:
    folder = copied("float32")
    expected = Model(folder)(pixels)
    moved = tmp_path / "elsewhere, with = and spaces\u00fc"
    folder.rename(moved)
    for path in moved.iterdir():
        path.chmod(0o444)
    moved.chmod(0o555)
    with Model(moved) as model:
        assert model(pixels).equal(expected)
    moved.chmod(0o755)


def test_what_a_folder_holds(copied: Copy) -> None:
    folder = copied("float32")
    shipped = [path for path in folder.iterdir()]
    assert folder_nbytes(folder) == sum(path.stat().st_size for path in shipped)
    assert {path.name for path in shipped} == {MANIFEST, *read_manifest(folder).files}
    assert is_artifact(folder)
    assert foreign_file(folder) is None
    (folder / "notes.txt").write_text("mine")
    assert foreign_file(folder) == "notes.txt"
