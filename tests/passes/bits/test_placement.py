"""Which values of convolutional nets get codes and which share them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from effc.ir.opspec import op_name
from effc.ir.testing import recorded
from effc.passes.bits.placement import feature_maps, groups_of, picked_from
from effc.passes.bits.residual import residual_adds, shortcuts

IMAGE = torch.ones(2, 4, 8, 8)
WEIGHT = torch.ones(4, 4, 3, 3)
PICKS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_pool2d": lambda x: functional.max_pool2d(x, 2),
    "view": lambda x: x.view(2, 4, 64),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "slice": lambda x: x[:, 1:3],
    "split": lambda x: x.split(2, 1)[1],
    "pad": lambda x: functional.pad(x, (1, 1, 1, 1)),
    "constant_pad_nd": lambda x: torch.constant_pad_nd(x, [1, 1], 0.0),
    "upsample": lambda x: functional.interpolate(x, scale_factor=2.0),
    "shuffle": lambda x: functional.pixel_shuffle(x, 2),
}
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "pad_with_one": lambda x: functional.pad(x, (1, 1, 1, 1), value=1.0),
    "relu": torch.relu,
    "average": lambda x: functional.avg_pool2d(x, 2),
    "bilinear": lambda x: functional.interpolate(x, scale_factor=2.0, mode="bilinear"),
}


def conv(x: Tensor) -> Tensor:
    return functional.conv2d(x, WEIGHT, padding=1)


def graph_of(function: Callable[[Tensor], Tensor]) -> fx.Graph:
    return recorded(function, x=IMAGE).forward.graph


def last(graph: fx.Graph) -> fx.Node:
    return graph.output_node().args[0][0]


def named(graph: fx.Graph, *names: str) -> list[fx.Node]:
    return [node for node in graph.nodes if node.name in names]


def read_by_convolutions(graph: fx.Graph) -> set[fx.Node]:
    return {n.args[0] for n in graph.nodes if op_name(n) == "aten.conv2d.default"}


def name_of(node: fx.Node) -> str:
    return "x" if node.op == "placeholder" else node.name


def groups(graph: fx.Graph, *more: fx.Node) -> list[tuple[list[str], list[str]]]:
    """Names of the values of each group, and of those that decide."""
    found = groups_of(graph, read_by_convolutions(graph) | set(more))
    return [([*map(name_of, g.values)], [*map(name_of, g.measured)]) for g in found]


@pytest.mark.parametrize("name", PICKS)
def test_what_hands_elements_on(name: str) -> None:
    graph = graph_of(PICKS[name])
    assert picked_from(last(graph)) is next(iter(graph.nodes))


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not(name: str) -> None:
    assert picked_from(last(graph_of(CHANGES[name]))) is None


def test_codes_equal_whichever_side_of_the_node_they_are_made_on() -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    scale, zero = torch.tensor(0.02), torch.tensor(100, dtype=torch.int32)

    def rounded(value: Tensor) -> Tensor:
        codes = torch.ops.effc.quantize(value, scale, zero, 0, 255, torch.uint8)
        return torch.ops.effc.dequantize(codes, scale, zero)

    for name, pick in PICKS.items():
        assert torch.equal(rounded(pick(x)), pick(rounded(x))), name


def test_feature_maps_start_and_end_at_convolutions() -> None:
    graph = graph_of(lambda x: conv(conv(x).relu()).mean((2, 3)) @ torch.ones(4, 4))
    assert [name_of(node) for node in feature_maps(graph)] == ["x", "conv2d", "relu", "conv2d_1"]


def test_attention_is_no_feature_map() -> None:
    def attention(x: Tensor) -> Tensor:
        heads = x.view(2, 4, 8, 8) * 2
        return functional.scaled_dot_product_attention(heads, heads, heads).permute(0, 2, 1, 3)

    assert list(feature_maps(graph_of(attention))) == []


def test_a_pool_between_convolutions_works_on_codes() -> None:
    graph = graph_of(lambda x: conv(functional.max_pool2d(conv(x).relu(), 2)))
    assert groups(graph) == [(["x"], ["x"]), (["relu", "max_pool2d"], ["max_pool2d"])]


def test_a_map_that_something_else_reads_stays_float() -> None:
    def net(x: Tensor) -> Tensor:
        y = conv(x).relu()
        return conv(functional.max_pool2d(y, 2)).mean((2, 3)) + y.mean((2, 3))

    assert groups(graph_of(net)) == [(["x"], ["x"]), (["max_pool2d"], ["max_pool2d"])]


def test_a_map_and_what_is_picked_from_it_share() -> None:
    def net(x: Tensor) -> Tensor:
        y = conv(x).relu()
        return conv(y).mean((2, 3)) + conv(functional.max_pool2d(y, 2)).mean((2, 3))

    both = ["relu", "max_pool2d"]
    assert groups(graph_of(net)) == [(["x"], ["x"]), (both, both)]


def test_flattening_before_a_linear_shares() -> None:
    graph = graph_of(
        lambda x: functional.max_pool2d(conv(x).relu(), 8).view(2, 4) @ torch.ones(4, 4)
    )
    (view,) = named(graph, "view")
    assert groups(graph, view)[1] == (["relu", "max_pool2d", "view"], ["view"])


def test_halves_of_a_split_share() -> None:
    def net(x: Tensor) -> Tensor:
        left, right = conv(x).relu().split(2, 1)
        half = WEIGHT[:, :2]
        return functional.conv2d(left, half) + functional.conv2d(right, half)

    assert groups(graph_of(net))[1] == (["relu", "getitem", "getitem_1"], ["getitem", "getitem_1"])


def test_inputs_of_a_concatenation_take_its_codes() -> None:
    def net(x: Tensor) -> Tensor:
        wide = torch.cat([conv(x).relu(), conv(x).sigmoid()], 1)
        return functional.conv2d(wide, torch.ones(4, 8, 1, 1))

    assert groups(graph_of(net))[1] == (["relu", "sigmoid", "cat"], ["cat"])


def test_an_input_of_a_concatenation_that_a_layer_reads_keeps_its_own() -> None:
    def net(x: Tensor) -> Tensor:
        y = conv(x).relu()
        wide = torch.cat([y, conv(y).relu()], 1)
        return functional.conv2d(wide, torch.ones(4, 8, 1, 1))

    assert groups(graph_of(net)) == [
        (["x"], ["x"]),
        (["relu"], ["relu"]),
        (["relu_1", "cat"], ["cat"]),
    ]


SHORTCUTS: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "convolution": (conv, ["conv2d_1"]),
    "identity": (lambda x: x, []),
    "average": (lambda x: functional.avg_pool2d(x, 3, 1, 1), []),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_shortcut_is_the_convolution_that_ends_first(name: str) -> None:
    function, expected = SHORTCUTS[name]

    def net(x: Tensor) -> Tensor:
        y = conv(x).relu()
        return conv(function(y) + conv(conv(y).relu())).relu()

    graph = recorded(net, x=IMAGE).forward.graph
    convolutions = {n for n in graph.nodes if op_name(n) == "aten.conv2d.default"}
    found = [node.name for node in shortcuts(graph, convolutions)]
    assert found == expected
    assert [op_name(node) for node in residual_adds(graph)] == ["aten.add.Tensor"]


def test_shortcut_through_what_a_kernel_fuses() -> None:
    norm = nn.BatchNorm2d(4).eval()

    def net(x: Tensor) -> Tensor:
        return (norm(conv(x)).relu() + conv(conv(x))).relu()

    graph = recorded(net, x=IMAGE).forward.graph
    convolutions = {n for n in graph.nodes if op_name(n) == "aten.conv2d.default"}
    assert [node.name for node in shortcuts(graph, convolutions)] == ["relu"]


def test_shortcut_of_a_float_convolution_or_with_another_reader_stays_float() -> None:
    def net(x: Tensor) -> Tensor:
        side = conv(x)
        return side + conv(conv(x)) + side.mean((2, 3), keepdim=True)

    graph = recorded(net, x=IMAGE).forward.graph
    convolutions = {n for n in graph.nodes if op_name(n) == "aten.conv2d.default"}
    assert shortcuts(graph, convolutions) == []
    plain = recorded(lambda x: conv(x) + conv(conv(x)), x=IMAGE).forward.graph
    assert shortcuts(plain, set()) == []
