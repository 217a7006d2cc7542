"""Damaged files of every kind end in one line, whatever is wrong with them."""

import random
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from effc.ir.errors import EffcError, ModelError
from effc.ir.trace import open_model
from effc.ir.trace.sniff import Kind, sniff

TEXTS = ["x:f32[2,4]"]
FRACTIONS = (0.0, 0.01, 0.2, 0.5, 0.9, 0.99)


def line(model: Any, **options: Any) -> str:
    with pytest.raises(EffcError) as caught:
        open_model(model, **options)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def outcome(path: Path, texts: Sequence[str] = ()) -> str:
    """Open a file that may be sound and run it; return the error if it has one."""
    try:
        program = open_model(path, inputs=texts)
        program.run({spec.name: torch.ones(2, 4) for spec in program.signature.inputs})
    except EffcError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def contents(saved_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files by name, all of them sound."""
    folder = tmp_path_factory.mktemp("sound")
    layer = torch.nn.Linear(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(layer, (torch.randn(2, 4),)).save(str(folder / "script.pt"))
    torch.save(layer, folder / "module.pt")
    torch.save(layer, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(layer.state_dict(), folder / "weights.pt")
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found | {"net.pt2": saved_model.read_bytes()}


@pytest.mark.parametrize("name", ["net.pt2", "script.pt", "module.pt", "legacy.pt", "weights.pt"])
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_truncated_files(
    name: str, fraction: float, contents: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    content = contents[name]
    path.write_bytes(content[: int(len(content) * fraction)])
    message = line(path, inputs=TEXTS, trust_pickle=True)
    if fraction == 0:
        assert message == f"{path} is an empty file; write or copy it again"
    elif name != "legacy.pt":
        assert f"{path} is " in message


@pytest.mark.parametrize("name", ["net.pt2", "script.pt"])
@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes(name: str, seed: int, contents: dict[str, bytes], tmp_path: Path) -> None:
    """A changed file is refused, or changed where it does not matter (names, padding)."""
    chance = random.Random(seed)
    content = bytearray(contents[name])
    for _ in range(1 + 8 * (seed % 3)):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path = tmp_path / name
    path.write_bytes(bytes(content))
    assert "\n" not in outcome(path, TEXTS if name == "script.pt" else [])


def test_compressed_parts_that_cannot_be_unpacked(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    """A byte in the middle of what zlib wrote, and not only in what it stands for."""
    path = tmp_path / "script.pt"
    path.write_bytes(contents["script.pt"])
    with zipfile.ZipFile(path) as archive:
        code = next(one for one in archive.infolist() if one.compress_type == zipfile.ZIP_DEFLATED)
    begin = code.header_offset + 30 + len(code.filename)
    messages = set()
    for place in range(begin, begin + code.compress_size):
        content = bytearray(contents["script.pt"])
        content[place] ^= 0xFF
        path.write_bytes(bytes(content))
        messages.add(outcome(path, TEXTS).partition("script.pt ")[2])
    assert any("decompressing" in message for message in messages)
    assert all("\n" not in message for message in messages)


@pytest.mark.parametrize("seed", range(6))
def test_random_bytes(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "noise.pt"
    starts = (b"", b"PK\x03\x04", b"\x80\x02", b"\x08\x0a", b"GGUF", b"\x10" + 7 * b"\0" + b"{")
    path.write_bytes(starts[seed] + random.Random(seed).randbytes(2000))
    line(path)


def change_json(document: dict[str, Any], chance: random.Random) -> None:
    """Replace one value somewhere in a document by one of another type."""
    owner: Any = document
    while True:
        keys = list(owner) if isinstance(owner, dict) else range(len(owner))
        key = chance.choice(list(keys))
        if not isinstance(owner[key], dict | list) or not owner[key] or chance.random() < 0.05:
            owner[key] = chance.choice([None, 3, -1, "text", [], {}, 1 << 70, True])
            return
        owner = owner[key]


@pytest.mark.parametrize("seed", range(20))
def test_descriptions_with_a_wrong_value(seed: int, rewrite: Any) -> None:
    """An archive whose checksums are right but whose description is not."""
    chance = random.Random(seed)
    part = "config" if seed % 3 == 0 else "edit"
    path = rewrite(**{part: lambda document: change_json(document, chance)})
    assert "\n" not in outcome(path)


def test_missing_files() -> None:
    assert line("nothing.pt2") == (
        "cannot read nothing.pt2: No such file or directory; give a .pt2 or .onnx file, a "
        "TorchScript file, a Hugging Face folder or package.module:factory"
    )


def test_wrong_types() -> None:
    assert line(3) == "a model is a path, a module or a program, not int"


def test_folders_without_a_model(tmp_path: Path) -> None:
    expected = (
        f"{tmp_path} has no config.json; a Hugging Face folder holds config.json and "
        "model.safetensors"
    )
    assert line(tmp_path) == expected
    (tmp_path / "config.json").write_text("{")
    assert line(tmp_path).startswith(f"cannot read {tmp_path / 'config.json'}: ")
    (tmp_path / "config.json").write_text("[]")
    assert line(tmp_path) == f"{tmp_path / 'config.json'} holds a list, not an object"
    (tmp_path / "config.json").write_text("{}")
    assert line(tmp_path) == f"{tmp_path} holds no weights; it needs model.safetensors"
    (tmp_path / "config.json").write_text('{"quantization_config": {}}')
    expected = f"the weights in {tmp_path} are quantized already; give the original model"
    assert line(tmp_path) == expected


def test_state_dicts_say_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    missing = (
        "give package.module:factory, a function that builds the model and loads these weights, "
        "or a Hugging Face folder with config.json"
    )
    expected = f"{path} is a state dict (weights without an architecture); {missing}"
    assert line(path) == expected
    torch.save(torch.nn.Linear(2, 2).state_dict(), path, _use_new_zipfile_serialization=False)
    assert line(path) == expected
    from safetensors.torch import save_file

    save_file(torch.nn.Linear(2, 2).state_dict(), path)
    expected = f"{path} is a safetensors file (weights without an architecture); {missing}"
    assert line(path) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b"GGUF\3\0\0\0" + 40 * b"\0",
            "is a GGUF model; give the original model it was converted from",
        ),
        (
            b"\x1c\0\0\0TFL3" + 40 * b"\0",
            "is a TensorFlow Lite model; convert it to ONNX or to a torch.export archive",
        ),
        (
            b"\x89HDF\r\n\x1a\n" + 40 * b"\0",
            "is an HDF5 file; convert it to ONNX or to a torch.export archive",
        ),
        (
            b"hello",
            "is not a model file effc knows; give a .pt2 or .onnx file, a TorchScript file, a "
            "Hugging Face folder or package.module:factory",
        ),
        (
            b"PK\x03\x04hello",
            "is a truncated or damaged zip archive; copy or download it again",
        ),
    ],
)
def test_other_kinds(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    assert line(path) == f"{path} {expected}"


def test_other_archives(tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "model.zip"
    np.savez(path.with_suffix(".npz"), a=np.ones(2))
    assert line(path.with_suffix(".npz")) == (
        f"{path.with_suffix('.npz')} is a zip archive of another program; export it with "
        "torch.export.save, or give package.module:factory"
    )
    exporter = torch.package.PackageExporter(path)
    exporter.save_text("texts", "a.txt", "a")
    exporter.close()
    assert line(path) == (
        f"{path} is a torch.package archive; it holds Python source and pickles; export it with "
        "torch.export.save, or give package.module:factory"
    )


def test_onnx_files_are_known_by_their_bytes(tmp_path: Path) -> None:
    import onnx

    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
    )
    path = tmp_path / "model"
    onnx.save(onnx.helper.make_model(graph), path)
    assert sniff(path).kind is Kind.ONNX
    x = torch.tensor([-1.0, 2.0])
    assert open_model(path).run({"x": x})["y"].tolist() == [0.0, 2.0]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelError):
        open_model(path)
