import pytest
import torch
from torch import nn

from effc.ir import provenance
from effc.ir.errors import ModelError, UsageError
from effc.ir.trace import open_model
from effc.ir.verify import verify

TEXT = "x:f32[batch=1..8,sequence=1..128]"


class Add(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Repeated(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x - 2 * y


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table


class Folded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1] // 4, 4).sum(-1)


class Long(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :5] if x.shape[1] > 5 else x * 2


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("tracing")
        if x.sum() > 0:
            return x
        return -x


class Raises(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no good\nat all")


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids)


class Mixed(nn.Module):
    def forward(self, x, /, *rest, flag=True):  # type: ignore[no-untyped-def]
        return x + 10 * rest[0]


class Nested(nn.Module):
    def forward(self, x, pair, flag=True):  # type: ignore[no-untyped-def]
        return x + 10 * pair["a"] + 100 * pair["b"][0]


class Silent(nn.Module):
    def forward(self, x: torch.Tensor) -> int:
        return 3


def reason(model: nn.Module, *texts: str) -> str:
    with pytest.raises((ModelError, UsageError)) as caught:
        open_model(model, inputs=texts)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_symbols_carry_the_users_names_and_ranges() -> None:
    program = open_model(Add(), inputs=[TEXT, "y:f32[batch,sequence]"])
    verify(program)
    expected = (
        "(x: f32[batch, sequence], y: f32[batch, sequence]) -> (output: f32[batch, sequence])"
    )
    assert str(program.signature) == expected
    symbols = [str(symbol) for symbol in program.symbols.values()]
    assert symbols == ["batch=1..8", "sequence=1..128"]
    assert program.name == "Add"
    one = torch.ones(1, 1)
    assert program.run({"x": one, "y": one})["output"].item() == 2


def test_a_symbol_without_range_is_unbounded() -> None:
    program = open_model(nn.ReLU(), inputs=["input:f32[n,4]"])
    assert str(program.symbols["n"]) == "n=1..2147483648"


def test_example_inputs_alone_give_fixed_shapes() -> None:
    program = open_model(Add(), example_inputs=(torch.ones(2, 3), torch.ones(2, 3)), name="mine")
    assert str(program.signature) == "(x: f32[2, 3], y: f32[2, 3]) -> (output: f32[2, 3])"
    assert program.name == "mine"


def test_examples_of_size_one_are_enlarged_for_a_symbol() -> None:
    inputs = {"x": torch.ones(1, 3), "y": torch.ones(1, 3)}
    program = open_model(Add(), inputs=["x:f32[n=1..8,3]", "y:f32[n,3]"], example_inputs=inputs)
    assert str(program.symbols["n"]) == "n=1..8"
    assert program.examples["forward"][0].shape == (2, 3)


def test_one_tensor_given_twice_stays_two_inputs() -> None:
    same = torch.ones(2)
    program = open_model(Repeated(), example_inputs=(same, same))
    result = program.run({"x": torch.tensor([5.0, 5.0]), "y": torch.tensor([1.0, 2.0])})
    assert result["output"].tolist() == [3.0, 1.0]


def test_positional_inputs_keep_their_names() -> None:
    x = torch.ones(2)
    program = open_model(Mixed(), example_inputs=(x, x))
    verify(program)
    assert [spec.name for spec in program.signature.inputs] == ["x", "rest_0"]
    assert program.run({"x": x, "rest_0": 2 * x})["output"].tolist() == [21.0, 21.0]


def test_nested_inputs_are_named_by_their_path() -> None:
    x = torch.ones(2)
    program = open_model(Nested(), example_inputs={"x": x, "pair": {"a": x, "b": [x]}})
    names = [spec.name for spec in program.signature.inputs]
    assert names == ["x", "pair_a", "pair_b_0"]
    values = {name: (number + 1) * x for number, name in enumerate(names)}
    assert program.run(values)["output"].tolist() == [321.0, 321.0]


def test_training_mode_is_put_back_and_not_traced() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    module[0].eval()
    program = open_model(module, inputs=["input:f32[2,4]"])
    assert [part.training for part in (module, module[0], module[1])] == [True, False, True]
    x = torch.randn(2, 4)
    assert torch.equal(program.run({"input": x})["output"], module[0](x))


def test_sources_name_the_users_modules() -> None:
    program = open_model(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), inputs=["input:f32[2,4]"])
    calls = [n for n in program.forward.graph.nodes if n.op == "call_function"]
    assert [provenance.source(node) for node in calls] == ["0", "1"]


def test_a_dimension_the_model_fixes() -> None:
    expected = (
        "cannot trace Positions: the dimension sequence cannot be symbolic: the model fixes it at "
        "7; give it a number"
    )
    assert reason(Positions(), TEXT) == expected
    program = open_model(Positions(), inputs=["x:f32[batch=1..8,7]"])
    assert str(program.signature) == "(x: f32[batch, 7]) -> (output: f32[batch, 7])"


def test_dimensions_that_are_always_equal() -> None:
    expected = (
        "cannot trace Add: the dimension m always equals n in this model; give both the same name"
    )
    assert reason(Add(), "x:f32[n=1..8]", "y:f32[m=1..8]") == expected


def test_a_dimension_that_must_be_a_multiple() -> None:
    expected = (
        "cannot trace Folded: the dimension sequence must have the form 4*n in this model; "
        "give it a number"
    )
    assert reason(Folded(), TEXT) == expected


def test_a_dimension_with_a_smaller_range() -> None:
    expected = (
        "cannot trace Long: the dimension sequence may only be 6..128 in this model; "
        "write sequence=6..128"
    )
    assert reason(Long(), TEXT) == expected


def test_control_flow_on_data(capfd: pytest.CaptureFixture[str]) -> None:
    message = reason(Branch(), "x:f32[3]")
    assert message.startswith(
        "cannot trace Branch: control flow or a size depends on the values of a tensor at "
        f"{__file__}:"
    )
    assert message.endswith("use torch.where or torch.cond, or make it a constant")
    assert capfd.readouterr() == ("", "")


def test_what_the_users_code_raises() -> None:
    line = Raises.forward.__code__.co_firstlineno + 1
    assert reason(Raises(), "x:f32[3]") == f"cannot trace Raises: no good at {__file__}:{line}"


def test_a_wrong_dtype_is_named() -> None:
    message = reason(Lookup(), "ids:f32[3]")
    assert "Expected tensor for argument #1 'indices' to have one of the following" in message


def test_unknown_and_missing_inputs() -> None:
    assert reason(Add(), "z:f32[2]") == "--input names z, which Add lacks; it takes x, y"
    expected = "the inputs do not fit Add: missing a required argument: 'y'; it takes x, y"
    assert reason(Add(), "x:f32[2]") == expected
    assert reason(Add()) == (
        'the inputs of Add are not known; give each with --input "name:dtype[dims]" or example '
        "inputs; it takes x, y"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x:i64[2,3]", "the example input x has dtype f32, expected i64"),
        ("x:f32[2,4]", "the example input x has shape [2, 3], not x: f32[2, 4]"),
        ("x:f32[2]", "the example input x has shape [2, 3], not x: f32[2]"),
        ("x:f32[n=1..4,n]", "the example inputs have sizes [2, 3] for n"),
    ],
)
def test_examples_that_contradict_the_text(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_model(Positions(), inputs=[text], example_inputs=torch.ones(2, 3))
    assert str(caught.value) == message


def test_examples_of_an_unknown_form() -> None:
    with pytest.raises(UsageError) as caught:
        open_model(Add(), example_inputs="x")
    assert str(caught.value) == (
        "example inputs must be a tensor, a tuple of arguments or a dict of keyword arguments, "
        "not str"
    )


def test_a_model_without_tensors() -> None:
    assert reason(Silent(), "x:f32[1]") == "the model returns no tensor"
