from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from effc.ir import provenance
from effc.ir.errors import EffcError, ModelError, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import attribute
from effc.ir.trace import archive, open_model
from effc.ir.verify import unknown_operators, verify

BATCHED = ["x:f32[batch=1..8,4]"]


def line(model: Any, **options: Any) -> str:
    with pytest.raises(EffcError) as caught:
        open_model(model, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_program_is_returned_as_it_is(samples: Any) -> None:
    program = open_model(samples.net(), inputs=BATCHED)
    assert open_model(program) is program


def test_a_factory_that_returns_a_module(samples: Any) -> None:
    program = open_model("sample_models:net", inputs=BATCHED)
    verify(program)
    assert program.name == "net"
    expected = "(x: f32[batch, 4]) -> (hidden: f32[batch, 3], total: f32[batch, 3])"
    assert str(program.signature) == expected
    x = torch.randn(6, 4)
    found, wanted = program.run({"x": x}), samples.net()(x)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("name", ["net_with_inputs", "net_with_keywords"])
def test_a_factory_that_returns_inputs(name: str, samples: Any) -> None:
    program = open_model(f"sample_models:{name}")
    assert str(program.signature.inputs[0]) == "x: f32[5, 4]"
    named = open_model(f"sample_models:{name}", inputs=["x:f32[rows=1..9,4]"])
    assert str(named.signature.inputs[0]) == "x: f32[rows, 4]"


def test_modules_and_classes_in_place_of_factories(samples: Any) -> None:
    for name in ("module", "Net"):
        program = open_model(f"sample_models:{name}", inputs=BATCHED, name="mine")
        assert program.name == "mine"


def test_tied_weights_stay_one(samples: Any) -> None:
    program = open_model(samples.net(), inputs=BATCHED)
    linears = [n for n in program.forward.graph.nodes if op_name(n) == "aten.linear.default"]
    assert [provenance.source(node) for node in linears] == ["first", "second"]
    weights = [attribute(program.forward, node.args[1].target) for node in linears]
    assert weights[0].data_ptr() == weights[1].data_ptr()
    parameters = [*samples.net().parameters()]
    buffers = [b for b in samples.net().buffers() if b.dtype == torch.float32]
    assert program.weight_nbytes == 4 * sum(t.numel() for t in [*parameters, *buffers])


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere.at_all:f", "cannot import nowhere.at_all: ModuleNotFoundError: No module named"),
        ("sample_models:missing", "sample_models has no missing; check the name after the colon"),
        ("sample_models:constant", "sample_models:constant is a int, not a module or a function"),
        (
            "sample_models:number",
            "sample_models:number returned a int; it must return a module or "
            "(module, example_inputs)",
        ),
        ("sample_models:failing", "sample_models:failing failed: no weights here at "),
        ("sample_models:net", "the inputs of Net are not known; give each with --input"),
    ],
)
def test_factories_that_do_not_work(reference: str, message: str, samples: Any) -> None:
    assert line(reference).startswith(message)


def test_a_module_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("import torch\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    expected = (
        "cannot import broken_module: ZeroDivisionError: division by zero at "
        f"{tmp_path / 'broken_module.py'}:2"
    )
    assert line("broken_module:f") == expected


def test_an_exported_program(samples: Any) -> None:
    batch = torch.export.Dim("n", min=1, max=8)
    exported = torch.export.export(
        samples.net(), (torch.randn(2, 4),), dynamic_shapes=({0: batch},)
    )
    program = open_model(exported)
    assert str(program.signature.inputs[0]) == "x: f32[batch, 4]"
    named = open_model(exported, inputs=["x:f32[rows=2..5,4]"])
    assert str(named.symbols["rows"]) == "rows=2..5"
    assert str(named.signature.outputs[0]) == "hidden: f32[rows, 3]"


def test_a_saved_archive(saved_model: Path) -> None:
    program = open_model(saved_model)
    verify(program)
    assert program.name == "net"
    assert str(program.signature) == "(x: f32[batch, 4]) -> (y: f32[batch, 3], z: f32[])"
    assert str(program.symbols["batch"]) == "batch=1..8"
    calls = [node for node in program.forward.graph.nodes if node.op == "call_function"]
    assert provenance.source(calls[0]) == "layer"
    exported = torch.export.load(saved_model)
    x = torch.randn(3, 4)
    assert torch.equal(program.run({"x": x})["y"], exported.module()(x)["y"])


def test_large_archives_are_copied_by_way_of_a_file(
    saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "IN_MEMORY_NBYTES", 16)
    program = open_model(saved_model)
    assert torch.equal(
        program.weights()["layer.bias"], torch.export.load(saved_model).state_dict["layer.bias"]
    )


def test_names_and_ranges_for_a_saved_archive(saved_model: Path) -> None:
    program = open_model(str(saved_model), inputs=["x:f32[rows=3..8,4]"])
    assert str(program.signature.inputs[0]) == "x: f32[rows, 4]"
    assert program.examples["forward"][0].shape[0] >= 3
    unbounded = open_model(saved_model, inputs=["x:f32[rows,4]"])
    assert str(unbounded.symbols["rows"]) == "rows=1..8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y:f32[4]", "--input names y; the model takes x"),
        ("x:i64[n,4]", "--input gives x the dtype i64; the model takes f32"),
        ("x:f32[n]", "--input gives x: f32[n]; the model takes x: f32[n, 4]"),
        ("x:f32[n,5]", "dimension 1 of x is fixed at 4 in the model; --input gives 5"),
        ("x:f32[n,m]", "dimension 1 of x is fixed at 4 in the model; --input gives m"),
        ("x:f32[3,4]", "dimension 0 of x is batch in the model; --input gives 3"),
        ("x:f32[n=1..9,4]", "dimension 0 of x may be 1..8, not n=1..9"),
    ],
)
def test_texts_that_contradict_an_archive(text: str, message: str, saved_model: Path) -> None:
    assert line(saved_model, inputs=[text]) == message


def test_two_dimensions_cannot_have_one_name(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.sum() + y

    dims = [torch.export.Dim(name, min=1, max=8) for name in "ab"]
    exported = torch.export.export(
        Two(), (torch.ones(2), torch.ones(3)), dynamic_shapes=({0: dims[0]}, {0: dims[1]})
    )
    torch.export.save(exported, tmp_path / "two.pt2")
    program = open_model(tmp_path / "two.pt2")
    assert str(program.signature.inputs[1]) == "y: f32[y_0]"
    expected = "--input calls different dimensions n; give each its own name"
    assert line(tmp_path / "two.pt2", inputs=["x:f32[n]", "y:f32[n]"]) == expected


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda x: BaseModelOutput(last_hidden_state=x), ["last_hidden_state"]),
        (lambda x: (x, {"a b": x + 1}), ["output_0", "output_1_a b"]),
        (lambda x: [x], ["output_0"]),
    ],
)
def test_containers_of_other_libraries(
    wrap: Callable[[torch.Tensor], Any], names: list[str], tmp_path: Path
) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return wrap(x * 2)

    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Model(), (torch.ones(2),)), path)
    program = open_model(path)
    assert [spec.name for spec in program.signature.outputs] == names


def test_an_archive_from_another_device(rewrite: Any) -> None:
    def on_gpu(value: Any) -> None:
        if isinstance(value, dict):
            if value.get("type") == "cpu":
                value |= {"type": "cuda", "index": 0}
            for inner in value.values():
                on_gpu(inner)
        elif isinstance(value, list):
            for inner in value:
                on_gpu(inner)

    program = open_model(rewrite(edit=on_gpu, config=on_gpu))
    verify(program)
    assert program.run({"x": torch.ones(2, 4)})["y"].device.type == "cpu"


def test_weights_that_are_not_what_the_graph_says(rewrite: Any) -> None:
    def reshape(config: dict[str, Any]) -> None:
        meta = config["config"]["layer.bias"]["tensor_meta"]
        meta |= {"sizes": [{"as_int": 1}], "strides": [{"as_int": 1}]}

    path = rewrite(config=reshape)
    assert line(path) == (
        "the weight layer.bias of changed is torch.float32 [1]; its graph expects torch.float32 [3]"
    )


def test_archives_without_data_or_program(rewrite: Any) -> None:
    message = line(rewrite(members={"data/weights/weight_0": b""}))
    assert "no data for the tensor layer.weight (it was exported from a model on paper)" in message
    assert "has archive version 9; this torch reads 0" in line(
        rewrite(members={"archive_version": b"9"})
    )


@pytest.mark.parametrize(
    ("reference", "operators"),
    [
        ("sample_models:spectrum", ["aten.fft_rfft.default", "aten.special_bessel_j0.default"]),
        (
            "sample_models:decomposition",
            ["aten.linalg_svd.default", "aten.special_airy_ai.default"],
        ),
    ],
)
def test_unknown_operators_are_all_listed(
    reference: str, operators: list[str], samples: Any
) -> None:
    program = open_model(reference)
    assert [op_name(node) for node in unknown_operators(program)] == operators


def test_errors_have_the_exit_code_of_usage(samples: Any) -> None:
    for kind in (ModelError, UsageError):
        assert kind.exit_code == 2
