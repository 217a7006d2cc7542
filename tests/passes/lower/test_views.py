"""Placements of views against the strides and offsets PyTorch gives the same views."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effc.ir.program import FORWARD, Program
from effc.ir.symbols import evaluate, named, product
from effc.ir.testing import recorded
from effc.passes.lower.views import Placement, aliased, contiguous, has_rule, reshaped_strides

aten = torch.ops.aten
BATCH, LENGTH = named("batch"), named("length")


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Tensors with permuted, skipped and repeated dimensions."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    x = torch.empty(shape).permute(draw(st.permutations(range(len(shape)))))
    for dim in range(x.dim()):
        match draw(st.sampled_from(["keep", "keep", "keep", "skip", "cut", "repeat"])):
            case "skip":
                x = x[(slice(None),) * dim + (slice(None, None, 2),)]
            case "cut":
                x = x.narrow(dim, 0, max(x.shape[dim] - 1, 1))
            case "repeat":
                x = x.narrow(dim, 0, 1).expand(*x.shape[:dim], 2, *x.shape[dim + 1 :])
    return x


@st.composite
def shapes(draw: st.DrawFn, numel: int) -> tuple[int, ...]:
    """Any shape of so many elements."""
    sizes = []
    while numel > 1:
        size = draw(st.sampled_from([d for d in range(1, numel + 1) if numel % d == 0]))
        sizes.append(size)
        numel //= size
    return tuple(draw(st.permutations([*sizes, *[1] * draw(st.integers(0, 2))])))


def viewed(x: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    try:
        return x.view(shape)
    except RuntimeError:
        return None


@settings(max_examples=500)
@given(st.data())
def test_reshape_is_a_view_where_it_is_one_in_pytorch(data: st.DataObject) -> None:
    x = data.draw(tensors())
    shape = data.draw(shapes(x.numel()))
    expected = viewed(x, shape)
    found = reshaped_strides(tuple(x.shape), x.stride(), shape)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert_same_strides(expected, found)


def assert_same_strides(expected: Tensor, found: tuple[int, ...]) -> None:
    """Strides of dimensions with one element reach nothing."""
    assert len(found) == expected.dim()
    pairs = zip(expected.shape, expected.stride(), found, strict=True)
    assert [(a, b) for size, a, b in pairs if size > 1 and a != b] == []


SYMBOLIC = [
    ((BATCH, LENGTH, 12), (12 * LENGTH, 12, 1), (BATCH, LENGTH, 3, 4)),
    ((BATCH, LENGTH, 12), (12 * LENGTH, 12, 1), (BATCH * LENGTH, 12)),
    ((BATCH, LENGTH, 12), (12 * LENGTH, 12, 1), (12 * BATCH * LENGTH,)),
    ((BATCH, 4, LENGTH, 3), (12 * LENGTH, 3, 12, 1), (BATCH, 2, 2, LENGTH, 3)),
    ((BATCH, 1, LENGTH), (LENGTH, LENGTH, 1), (BATCH, LENGTH, 1)),
    ((BATCH, LENGTH), (LENGTH, 1), (LENGTH, BATCH)),
]
COPIED = [
    ((BATCH, 4, LENGTH, 3), (12 * LENGTH, 3, 12, 1), (BATCH, 4 * LENGTH, 3)),
    ((BATCH, LENGTH, 12), (12, 12 * BATCH, 1), (BATCH * LENGTH, 12)),
    ((BATCH, LENGTH), (1, BATCH), (LENGTH, BATCH)),
]


@pytest.mark.parametrize(("old", "strides", "new"), SYMBOLIC, ids=str)
def test_symbolic_views(old: tuple, strides: tuple, new: tuple) -> None:
    found = reshaped_strides(old, strides, new)
    assert found is not None
    for values in ({"batch": 1, "length": 5}, {"batch": 3, "length": 2}, {"batch": 4, "length": 4}):
        sizes = [[evaluate(size, values) for size in sizes] for sizes in (old, strides, new, found)]
        x = torch.empty(10_000).as_strided(sizes[0], sizes[1])
        assert_same_strides(x.view(sizes[2]), tuple(sizes[3]))


@pytest.mark.parametrize(("old", "strides", "new"), COPIED, ids=str)
def test_symbolic_reshapes_that_move_elements(old: tuple, strides: tuple, new: tuple) -> None:
    assert product(old) == product(new)
    assert reshaped_strides(old, strides, new) is None


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "permute": lambda x: x.permute(2, 0, 1),
    "permute-negative": lambda x: x.permute(0, -1, -2),
    "transpose": lambda x: x.transpose(0, -1),
    "t": lambda x: x[1].t(),
    "expand": lambda x: x[:, :1].expand(4, 6, 8),
    "expand-more": lambda x: x[:, :1].expand(3, 4, 5, 8),
    "expand-one": lambda x: x[:1, :1].expand(1, 1, 8),
    "slice": lambda x: x[1:3, :, 2:7],
    "slice-step": lambda x: x[:, 1::3, ::2],
    "slice-negative": lambda x: x[:, -3:-1],
    "slice-past-the-end": lambda x: x[:, 4:100],
    "select": lambda x: x[:, 2],
    "select-last": lambda x: x[..., -1],
    "unfold": lambda x: x.unfold(1, 3, 2),
    "unfold-negative": lambda x: x.unfold(-1, 4, 1),
    "diagonal": lambda x: x.diagonal(),
    "diagonal-above": lambda x: x.diagonal(2, 1, 2),
    "diagonal-below": lambda x: x.diagonal(-1, 2, 0),
    "view": lambda x: x.view(2, 2, 6, 8),
    "view-joined": lambda x: x.view(24, 8),
    "flatten": lambda x: x.flatten(1),
    "unsqueeze": lambda x: x.unsqueeze(-2),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "squeeze-all": lambda x: x[:1, :, :1].squeeze(),
    "alias": lambda x: aten.alias.default(x[2:]),
    "detach": lambda x: x[2:].detach(),
}
OUTPUTS = {
    "window-of-rows": lambda x: x.permute(1, 0, 2)[2:, 1].unfold(0, 2, 1)[1:],
    "heads": lambda x: x.view(4, 6, 2, 4).transpose(1, 2)[:, 1, ::2],
    "diagonal-of-part": lambda x: x[1:, 1:5].transpose(0, 1).diagonal(1, 0, 1)[3:],
    "repeated-then-joined": lambda x: x[:, :1].expand(4, 5, 8).permute(0, 2, 1)[1].unsqueeze(0),
}


def places(program: Program) -> list[tuple[Placement, Tensor]]:
    """Every view's place beside the view PyTorch makes of the same memory."""
    graph = program.methods[FORWARD].graph
    known: dict[object, Placement] = {}
    real: dict[object, Tensor] = {}
    found = []
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = contiguous(node, program.shape(node))
            real[node] = torch.empty(program.shape(node))
        elif node.op == "call_function":
            made = aliased(program, node, known[node.args[0]])
            assert made is not None
            arguments = [real.get(arg, arg) if isinstance(arg, type(node)) else arg
                         for arg in node.args]  # fmt: skip
            known[node], real[node] = made, node.target(*arguments, **node.kwargs)
            found.append((made, real[node]))
    return found


@pytest.mark.parametrize("name", [*VIEWS, *OUTPUTS])
def test_places(name: str) -> None:
    program = recorded((VIEWS | OUTPUTS)[name], x=torch.empty(4, 6, 8))
    found = places(program)
    assert found
    for place, expected in found:
        assert place.shape == tuple(expected.shape)
        assert place.offset == expected.storage_offset()
        assert_same_strides(expected, place.strides)
        assert place.is_contiguous == expected.is_contiguous()


def test_operators_without_a_rule_are_known() -> None:
    """`as_strided` looks at memory a compiled program may lay out otherwise."""
    program = recorded(lambda x: x.as_strided((2, 2), (1, 2)).t(), x=torch.empty(4, 4))
    calls = [node for node in program.methods[FORWARD].graph.nodes if node.op == "call_function"]
    assert [has_rule(node) for node in calls] == [False, True]


def test_views_of_nothing() -> None:
    """Without elements every shape of none is a view."""
    assert reshaped_strides((0, 3, 4), (12, 4, 1), (3, 4, 0)) == (0, 0, 0)
    assert reshaped_strides((3, 0), (1, 3), (0,)) == (0,)
