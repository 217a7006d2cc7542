import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import effc.ir.ops
from effc.ir import provenance
from effc.ir.edit import Editor
from effc.ir.errors import EffcError, NotAvailableError, UsageError
from effc.ir.export import save_program
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.text import fingerprint, program_text
from effc.ir.trace import open_model
from effc.ir.verify import verify

TEXT = ["x:f32[batch=1..8,length=3..16,4]"]


class Net(nn.Module):
    """Tied weights, a norm with several results, a size in the graph, three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.filter = nn.Conv1d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm1d(3)
        self.second = nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.norm(self.filter(torch.relu(self.first(x)).transpose(1, 2)))
        best = torch.topk(hidden, 2)[0].reshape(x.shape[0], -1)
        return {"hidden": hidden, "total": x.sum() + self.second(x), "best": best}


class Counter(nn.Module):
    """Keeps state between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(x)
        return self.count * 2


@pytest.fixture(scope="module")
def traced() -> Program:
    torch.manual_seed(0)
    return open_model(Net(), inputs=TEXT, name="the net")


@pytest.fixture
def program(traced: Program) -> Program:
    return traced.clone()


def quantized(program: Program) -> Program:
    """Put effc's own operators behind the first activation."""
    assert effc.ir.ops
    result = program.clone()
    editor = Editor(result, rule="quantize")
    relu = next(n for n in result.forward.graph.nodes if op_name(n) == "aten.relu.default")
    readers = list(relu.users)
    scale = editor.weight("scale", torch.tensor(0.05))
    codes = editor.call(
        relu, torch.ops.effc.quantize.default, relu, scale, None, -128, 127, torch.int8
    )
    values = editor.call(codes, torch.ops.effc.dequantize.default, codes, scale, None)
    for reader in readers:
        reader.replace_input_with(relu, values)
    editor.finish()
    return result


def reopened(program: Program, tmp_path: Path) -> Program:
    save_program(program, tmp_path / "saved.pt2")
    found = open_model(tmp_path / "saved.pt2")
    verify(found)
    return found


def test_text_names_and_outputs_survive(program: Program, tmp_path: Path) -> None:
    found = reopened(program, tmp_path)
    assert program_text(found) == program_text(program)
    assert fingerprint(found) == fingerprint(program)
    assert found.name == "the net"
    assert found.symbols == program.symbols
    assert found.weight_nbytes == program.weight_nbytes
    x = torch.randn(5, 9, 4)
    wanted = program.run({"x": x})
    result = found.run({"x": x})
    assert list(result) == list(wanted) == ["hidden", "total", "best"]
    assert all(torch.equal(result[name], wanted[name]) for name in wanted)
    assert torch.equal(found.examples["forward"][0], program.examples["forward"][0])


def test_effc_operators_and_provenance_survive(program: Program, tmp_path: Path) -> None:
    changed = quantized(program)
    found = reopened(changed, tmp_path)
    assert program_text(found) == program_text(changed)
    node = next(n for n in found.forward.graph.nodes if "effc.quantize" in op_name(n))
    assert provenance.touched(node) == ("quantize",)
    linear = next(n for n in found.forward.graph.nodes if op_name(n) == "aten.linear.default")
    assert provenance.source(linear) == "first"


def test_saving_again_changes_nothing(program: Program, tmp_path: Path) -> None:
    once = reopened(quantized(program), tmp_path)
    twice = reopened(once, tmp_path)
    assert program_text(twice) == program_text(once)


def test_a_reopened_program_can_be_edited(program: Program, tmp_path: Path) -> None:
    found = quantized(reopened(program, tmp_path))
    verify(found)
    assert any("effc.quantize" in op_name(node) for node in found.forward.graph.nodes)


def test_other_names_for_a_saved_program(program: Program, tmp_path: Path) -> None:
    save_program(program, tmp_path / "saved.pt2")
    found = open_model(tmp_path / "saved.pt2", inputs=["x:f32[rows=2..4,steps,4]"], name="other")
    assert str(found.signature.inputs[0]) == "x: f32[rows, steps, 4]"
    assert [str(symbol) for symbol in found.symbols.values()] == ["rows=2..4", "steps=3..16"]
    assert found.name == "other"


def test_state_survives(tmp_path: Path) -> None:
    program = open_model(Counter(), inputs=["x:f32[2]"])
    found = reopened(program, tmp_path)
    assert program_text(found) == program_text(program)
    inputs = {"x": torch.ones(2), "state.count": torch.ones(2)}
    assert found.run(inputs)["state.count"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float16, torch.float8_e4m3fn])
def test_weights_of_other_types(dtype: torch.dtype, tmp_path: Path) -> None:
    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.arange(4).to(dtype))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.codes.to(torch.float32)

    program = open_model(Stored(), inputs=["x:f32[4]"])
    found = reopened(program, tmp_path)
    assert fingerprint(found) == fingerprint(program)


def test_a_program_without_examples(program: Program, tmp_path: Path) -> None:
    program.examples.clear()
    found = reopened(program, tmp_path)
    assert found.examples["forward"][0].shape[2] == 4


def test_nothing_is_left_behind(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "saved.pt2"
    path.write_text("old")
    save_program(program, path)
    assert [found.name for found in tmp_path.iterdir()] == ["saved.pt2"]
    assert path.stat().st_mode & 0o444


def test_a_file_in_place_of_a_folder(program: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(UsageError, match="Not a directory"):
        save_program(program, tmp_path / "file" / "saved.pt2")


def test_weights_whose_names_look_alike(tmp_path: Path) -> None:
    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.register_buffer("a_weight", torch.ones(2))

        def forward(self, b_a_weight: torch.Tensor) -> torch.Tensor:
            return self.a(b_a_weight) + self.a_weight

    program = open_model(Alike(), inputs=["b_a_weight:f32[2]"])
    found = reopened(program, tmp_path)
    assert program_text(found) == program_text(program)
    x = {"b_a_weight": torch.randn(2)}
    assert torch.equal(found.run(x)["output"], program.run(x)["output"])


def test_a_folder_that_does_not_exist(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "saved.pt2"
    with pytest.raises(UsageError) as caught:
        save_program(program, path)
    assert str(caught.value) == f"cannot write {path}: No such file or directory"


def test_a_place_that_cannot_be_written(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "folder.pt2"
    path.mkdir()
    with pytest.raises(UsageError, match=r"cannot write .*folder\.pt2: Is a directory"):
        save_program(program, path)
    assert [found.name for found in tmp_path.iterdir()] == ["folder.pt2"]


def test_a_failure_keeps_the_old_file(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("disk on fire\nindeed")

    monkeypatch.setattr(torch.export, "save", fail)
    path = tmp_path / "saved.pt2"
    path.write_text("old")
    with pytest.raises(EffcError) as caught:
        save_program(program, path)
    assert str(caught.value) == "cannot write the net as .pt2: disk on fire"
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_several_methods_are_not_there_yet(program: Program, tmp_path: Path) -> None:
    program.methods["decode"] = program.forward
    with pytest.raises(NotAvailableError, match="several methods"):
        save_program(program, tmp_path / "saved.pt2")


@pytest.mark.parametrize(
    "record",
    ["", "{}", "[]", '{"format": 99}', "{" * 10_000],
)
def test_damaged_records(record: str, program: Program, tmp_path: Path) -> None:
    save_program(program, tmp_path / "saved.pt2")
    path = tmp_path / "changed.pt2"
    with (
        zipfile.ZipFile(tmp_path / "saved.pt2") as source,
        zipfile.ZipFile(path, "w") as archive,
    ):
        for name in source.namelist():
            content = record.encode() if name.endswith("effc.json") else source.read(name)
            archive.writestr(name, content)
    with pytest.raises(EffcError, match=r"the record effc\.json is damaged"):
        open_model(path)
