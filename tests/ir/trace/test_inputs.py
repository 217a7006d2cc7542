import pytest
import torch

from effc.ir.errors import UsageError
from effc.ir.program import TensorSpec
from effc.ir.symbols import Symbol, named
from effc.ir.trace.inputs import example_sizes, example_tensors, parse_inputs

FORM = 'expected name:dtype[dims], such as "input_ids:i64[batch=1..8,sequence=1..128]"'


def test_symbols_with_ranges_are_shared_by_name() -> None:
    wanted = parse_inputs(["ids:i64[batch=1..8,sequence=1..128]", "mask:int64[batch,sequence]"])
    shape = (named("batch"), named("sequence"))
    assert wanted.specs == (
        TensorSpec("ids", torch.int64, shape),
        TensorSpec("mask", torch.int64, shape),
    )
    assert wanted.symbols == {
        "batch": Symbol("batch", 1, 8),
        "sequence": Symbol("sequence", 1, 128),
    }


def test_a_range_may_follow_the_first_use() -> None:
    wanted = parse_inputs(["a:f32[n]", "b:f32[n=2..5]"])
    assert wanted.symbols == {"n": Symbol("n", 2, 5)}


def test_a_symbol_without_range_may_be_any_size() -> None:
    assert parse_inputs(["a:f32[n]"]).symbols["n"] == Symbol("n", 1, 1 << 31)


def test_a_range_of_one_size_is_a_number() -> None:
    wanted = parse_inputs(["a:f32[n=3..3, 4]"])
    assert wanted.specs[0].shape == (3, 4)
    assert wanted.symbols == {}


def test_scalars_and_spaces() -> None:
    assert parse_inputs([" scale:f32[]"]).specs == (TensorSpec("scale", torch.float32, ()),)
    assert parse_inputs(["x:f32[ n = 1..8 , 4]".replace(" = ", "=")]).specs[0].shape[1] == 4


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("f32", torch.float32),
        ("float32", torch.float32),
        ("i32", torch.int32),
        ("bool", torch.bool),
        ("bfloat16", torch.bfloat16),
        ("f16", torch.float16),
        ("u8", torch.uint8),
    ],
)
def test_short_and_long_dtypes(name: str, dtype: torch.dtype) -> None:
    assert parse_inputs([f"x:{name}[1]"]).specs[0].dtype == dtype


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", FORM),
        ("x:f32", FORM),
        ("x:f32[2]]", FORM),
        (":f32[2]", FORM),
        ("x:f32[-1]", f'cannot read the dimension "-1"; {FORM}'),
        ("x:f32[2,]", f'cannot read the dimension ""; {FORM}'),
        ("x:f32[a b]", f'cannot read the dimension "a b"; {FORM}'),
        ("x:f32[n=1..]", f'cannot read the dimension "n=1.."; {FORM}'),
        ("x:f32[0]", "a dimension must be 1..2147483648, not 0"),
        ("x:f32[n=0..3]", "the range n=0..3 must be rising and start at 1"),
        ("x:f32[n=3..2]", "the range n=3..2 must be rising and start at 1"),
        ("x:f32[n=1..2,n=1..3]", "n=1..3 contradicts n=1..2 given before"),
        (
            "x:f33[2]",
            "unknown dtype f33; expected one of f32, f16, bf16, f64, i8, u8, i16, i32, i64, bool, "
            "u16, u32, u64, f8e4m3, f8e5m2, f8e8m0",
        ),
    ],
)
def test_wrong_texts(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_inputs([text])
    assert str(caught.value) == f'--input "{text}": {message}'


def test_an_input_given_twice() -> None:
    with pytest.raises(UsageError, match="the input x is given twice"):
        parse_inputs(["x:f32[1]", "x:f32[2]"])


def test_example_sizes_lie_in_their_ranges_and_differ() -> None:
    symbols = {
        name: Symbol(name, low, high)
        for name, low, high in (
            ("a", 1, 8),
            ("b", 1, 512),
            ("c", 1, 4),
            ("d", 32, 512),
            ("e", 1, 9),
        )
    }
    sizes = example_sizes(symbols)
    assert sizes == {"a": 2, "b": 8, "c": 4, "d": 64, "e": 9}


def test_example_sizes_avoid_one_where_they_can() -> None:
    assert example_sizes({"n": Symbol("n", 1, 2)}) == {"n": 2}


def test_examples_are_the_same_every_time() -> None:
    wanted = parse_inputs(["x:f32[n=1..8,3]", "ids:i32[n]", "attention_mask:i64[n]", "on:bool[2]"])
    first, second = example_tensors(wanted), example_tensors(wanted)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["x"].shape == (2, 3)
    assert first["x"].dtype == torch.float32
    assert set(first["ids"].tolist()) <= {0, 1}
    assert first["attention_mask"].tolist() == [1, 1]
    assert first["on"].dtype == torch.bool


def test_an_input_that_does_not_fit_in_memory() -> None:
    wanted = parse_inputs(["x:f32[1000000,1000000]"])
    with pytest.raises(UsageError) as caught:
        example_tensors(wanted)
    expected = "the input x: f32[1000000, 1000000] does not fit in memory; give smaller sizes"
    assert str(caught.value) == expected
