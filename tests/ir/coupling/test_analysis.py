"""Which groups there are, which must stay and why, and how long it takes to find out."""

import time

import torch
from small_nets import Gated, function_program, program_named
from torch import Tensor, nn

from effc.ir.coupling.analysis import analyse
from effc.ir.coupling.groups import OTHER, Group, groups_of
from effc.ir.opspec import Kind, table
from effc.ir.testing import recorded, traced

LARGEST_SECONDS = 10.0


def groups(program: object) -> dict[str, list[Group]]:
    """Groups of a program by kind."""
    found: dict[str, list[Group]] = {}
    for group in groups_of(analyse(program)):  # type: ignore[arg-type]
        if group.kind != OTHER:
            found.setdefault(group.kind, []).append(group)
    return found


def sites(group: Group) -> set[str]:
    return {str(site) for site in group.sites}


def test_a_decoder() -> None:
    program, _ = program_named("gated")
    found = groups(program)
    (hidden,) = [one for one in found["hidden"] if not one.reason]
    assert hidden.size == 24
    assert "head.weight.1" in sites(hidden)
    assert "blocks.1.down.weight.0" in sites(hidden)
    assert [one.size for one in found["neurons"] if not one.reason] == [32, 32]
    gate = next(one for one in found["neurons"] if one.name == "blocks.0.gate")
    assert sites(gate) == {
        *(f"blocks.0.{name}.weight.0" for name in ("gate", "up")),
        *(f"blocks.0.{name}.bias.0" for name in ("gate", "up")),
        "blocks.0.down.weight.1",
    }


def test_heads_go_with_their_group_of_queries() -> None:
    program, _ = program_named("gated")
    found = groups(program)
    heads, queries = found["heads"], found["query-heads"]
    assert [one.size for one in heads] == [2, 2]  # key heads
    assert [one.size for one in queries] == [3, 3]  # queries of each
    assert {"blocks.0.query.weight.0", "blocks.0.pair.weight.0", "blocks.0.output.weight.1"} <= (
        sites(heads[0])
    )
    assert sites(queries[0]) == {"blocks.0.query.weight.0", "blocks.0.output.weight.1"}
    assert [one.size for one in found["head-width"]] == [2, 2]  # rotated pairs


def test_tied_rows_stay() -> None:
    program, _ = program_named("gated")
    reasons = [one.reason for one in groups_of(analyse(program)) if one.size == 40]
    assert reasons == ["aten.embedding.default at table: rows are picked by index"]


def test_concatenated_layers_are_groups_of_their_own() -> None:
    program, _ = program_named("dense")
    channels = [one for one in groups(program)["channels"] if not one.reason]
    assert [(one.name, one.size) for one in channels] == [
        ("stem", 8), ("layers.0.2", 6), ("layers.1.2", 6), ("layers.2.2", 6)]  # fmt: skip
    assert "head.weight.1" in sites(channels[1])


def test_shuffled_channels_are_followed() -> None:
    program, _ = program_named("shuffle")
    free = [one for one in groups(program)["channels"] if not one.reason]
    right, left = (next(one for one in free if one.size == size) for size in (6, 3))
    assert sites(right) == {"stem.weight.0", "stem.bias.0", "blocks.0.0.weight.1"}
    assert {"stem.weight.0", "blocks.0.2.weight.0", "blocks.1.0.weight.1"} <= sites(left)


def test_what_reaches_an_output_stays() -> None:
    program = traced(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.ones(2, 4))
    neurons = groups(program)["neurons"]
    assert [(one.size, one.reason) for one in neurons] == [
        (6, ""), (3, "it reaches the output output")]  # fmt: skip


def test_an_operator_without_coupling_is_named() -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.special.bessel_j0(self.embed(x)))

    embed, _ = groups(traced(Rare(), torch.ones(2, 6)))["neurons"]
    assert embed.reason == (
        "aten.special_bessel_j0.default at special_bessel_j0: which positions it couples is not "
        "known"
    )


def test_softmax_over_channels_keeps_them() -> None:
    weight = torch.randn(6, 4)
    program = function_program(lambda x: (x @ weight.T).softmax(-1) @ torch.ones(6, 2), 3, 4)
    reasons = {one.reason for one in groups_of(analyse(program)) if one.size == 6}
    assert reasons == {"aten.softmax.int at softmax: it reads all positions together"}


def test_a_deep_decoder_is_analysed_in_bounded_time() -> None:
    torch.manual_seed(0)
    program = recorded(Gated(32, 512, 1408), ids=torch.randint(0, 40, (1, 7)))
    start = time.process_time()
    found = groups_of(analyse(program))
    assert time.process_time() - start < LARGEST_SECONDS
    kinds = [one.kind for one in found if not one.reason]
    assert kinds.count("neurons") == kinds.count("heads") == 32
    assert [one.size for one in found if one.kind == "hidden" and not one.reason] == [512]


def test_every_operator_of_the_table_that_moves_tensors_in_torch_has_a_coupling_or_is_refused() -> (
    None
):
    unknown = {
        name
        for name, spec in table().items()
        if spec.couple is None and spec.kind not in (Kind.SCALAR,) and name.startswith("aten.")
    }
    assert unknown == {
        f"aten.{name}"
        for name in (
            "as_strided.default movedim.int narrow.default view.dtype diagonal.default "
            "unfold.default gather.default meshgrid.default one_hot.default im2col.default "
            "pad.default index_put.default index_copy.default scatter.src scatter.value "
            "scatter_reduce.two slice_scatter.default select_scatter.default"
        ).split()
    }
