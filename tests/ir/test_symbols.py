"""Sizes: text and back, arithmetic, evaluation."""

import random
import time

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._sympy.functions import FloorDiv

from effc.ir.symbols import Size, Symbol, ceil_div, evaluate, named, parse, product, simplify, text
from effc.ir.testing import traced

NAMES = ("batch", "sequence", "height_1")
ATOMS = st.sampled_from([*map(named, NAMES)]) | st.integers(1, 64).map(sympy.Integer)


def combined(parts: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
    pairs = st.tuples(parts, parts)
    return (
        pairs.map(lambda pair: pair[0] + pair[1])
        | pairs.map(lambda pair: pair[0] * pair[1])
        | pairs.map(lambda pair: pair[0] - pair[1])
        | st.tuples(parts, st.integers(2, 8)).map(lambda p: FloorDiv(p[0], sympy.Integer(p[1])))
    )


SIZES = st.recursive(ATOMS, combined, max_leaves=6).map(simplify)
VALUES = st.fixed_dictionaries({name: st.integers(1, 100) for name in NAMES})


@given(SIZES)
def test_text_reads_back(size: Size) -> None:
    assert parse(text(size)) == size
    assert text(parse(text(size))) == text(size)


@given(SIZES, VALUES)
def test_text_means_the_same_number(size: Size, values: dict[str, int]) -> None:
    assert evaluate(parse(text(size)), values) == evaluate(size, values)


@given(st.integers(0, 10**6))
def test_numbers_are_plain(number: int) -> None:
    assert parse(str(number)) == number
    assert isinstance(parse(str(number)), int)


@given(st.integers(1, 1000), st.integers(1, 64))
def test_ceil_div(size: int, divisor: int) -> None:
    symbolic = evaluate(ceil_div(named("n"), divisor), {"n": size})
    assert ceil_div(size, divisor) == symbolic == -(-size // divisor)


@pytest.mark.parametrize(
    "wrong", ["", "batch; import os", "a[0]", "f(x)", "1 +", "a if b else c", "ü"]
)
def test_other_text_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse(wrong)


HOSTILE = {
    "tower": "9**9**9",
    "power": "9**99999",
    "power of power": "(9**9)**999",
    "many terms": "(a+b+c+d)**16",
    "many factors": "*".join(["(a+b+c+d)"] * 90),
    "many signs": "-" * 3000 + "1",
    "many brackets": "(" * 500 + "1" + ")" * 500,
    "many digits": "1" * 4000,
    "64 bits": str(1 << 63),
    "long": "a+" * 4000 + "a",
    "many calls": "floor(" * 150 + "a" + ")" * 150,
    "many arguments": f"Max({','.join('abcdefgh' * 9)})",
    "negative power": "a**-1",
    "symbolic power": "a**b",
    "zero": "a/0",
    "whole zero": "a//0",
    "remainder of zero": "Mod(a,0)",
    "no argument": "Max()",
    "too few": "Mod(a)",
    "too many": "floor(a,b)",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_is_refused_at_once(case: str) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match="not a size"):
        parse(HOSTILE[case])
    assert time.process_time() - started < 1


def test_the_largest_size() -> None:
    assert parse(str((1 << 63) - 1)) == (1 << 63) - 1
    assert parse("2**62") == 1 << 62


def test_equal_sizes_are_equal_objects() -> None:
    batch, steps = named("batch"), named("steps")
    assert simplify(batch * (steps + 1)) == simplify(batch * steps + batch)
    assert product([2, batch, 3]) == 6 * batch
    assert product([]) == 1
    assert simplify(batch - batch + 7) == 7
    assert str(Symbol("batch", 1, 8)) == "batch=1..8"
    assert Symbol("batch", 1, 8).expr == batch


def test_sizes_of_strided_convolutions_read_back() -> None:
    module = nn.Conv1d(2, 3, 3, stride=2, padding=1)
    program = traced(module, torch.randn(2, 2, 9), dynamic={"input.2": "steps"}, smallest=3)
    length = program.signature.outputs[0].shape[2]
    assert text(length) == "(((steps-1)//2))+1"
    assert parse(text(length)) == length
    for steps in (4, 9, 20):
        found = program.run({"input": torch.zeros(2, 2, steps)})["output"]
        assert evaluate(length, {"steps": steps}) == found.shape[2]


@pytest.mark.parametrize("seed", range(40))
def test_evaluate_computes_as_python_does(seed: int) -> None:
    """Against Python's own arithmetic on the same random expression."""
    rng = random.Random(seed)
    values = {name: rng.randint(1, 50) for name in "ab"}

    def grown(depth: int) -> tuple[Size, int]:
        if depth == 0:
            name, number = rng.choice("ab"), rng.randint(2, 9)
            return rng.choice([(named(name), values[name]), (sympy.Integer(number), number)])
        (x, p), (y, q) = grown(depth - 1), grown(depth - 1)
        divisor = rng.randint(2, 9)
        return rng.choice([
            (x + y, p + q), (x * y, p * q), (FloorDiv(x, sympy.Integer(divisor)), p // divisor),
            (sympy.Mod(x, divisor), p % divisor), (sympy.Max(x, y), max(p, q)),
            (sympy.Min(x, y), min(p, q)), (x * x, p * p),
        ])  # fmt: skip

    size, expected = grown(3)
    assert evaluate(simplify(size) if isinstance(size, int) else size, values) == expected


def test_evaluate_of_nested_remainders_and_fractions() -> None:
    a, b = named("a"), named("b")
    assert evaluate(sympy.Mod(sympy.Mod(a * b, 64), 3), {"a": 2, "b": 5}) == 1
    assert evaluate(sympy.floor(a / 2), {"a": 5}) == 2
    assert evaluate(a * (a + 1) / 2, {"a": 5}) == 15
    with pytest.raises(KeyError):
        evaluate(a + b, {"a": 1})
