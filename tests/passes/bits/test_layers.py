"""Which layers are quantized: one test per refusal, the user's patterns and rules."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.errors import UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute, set_attribute
from effc.ir.provenance import label
from effc.ir.testing import operators, recorded, traced
from effc.passes.base import PassContext
from effc.passes.bits import layers
from effc.passes.bits.quantize import Quantize


def linear(x: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(x, weight)


def refusals(program: Program, ctx: PassContext | None = None, **options) -> dict[str, str]:
    outcome = Quantize(**options).run(program, ctx or PassContext())
    return {refusal.source: refusal.reason for refusal in outcome.refusals}


def of(function: Callable[..., Tensor], **inputs: Tensor) -> str:
    """The only refusal of a recorded function, which must stay as it is."""
    program = recorded(function, **inputs)
    outcome = Quantize().run(program, PassContext())
    assert not outcome.changed
    (refusal,) = outcome.refusals
    assert refusal.rule == "quantize"
    return refusal.reason


def test_weight_that_is_no_constant() -> None:
    reason = of(linear, x=torch.ones(2, 8), weight=torch.ones(3, 8))
    assert reason == "its weight is not a constant"


def test_half_precision_weight() -> None:
    weight = torch.ones(3, 8, dtype=torch.float16)
    reason = of(lambda x: linear(x, weight), x=torch.ones(2, 8, dtype=torch.float16))
    assert reason == "its weight is f16; only f32 is quantized"


def test_few_products() -> None:
    weight = torch.ones(3, 3)
    reason = of(lambda x: linear(x, weight), x=torch.ones(2, 3))
    assert reason == "its dot products have fewer than 4 terms"


def test_so_many_products_that_int32_overflows() -> None:
    weight = torch.ones(1, layers.MOST_PRODUCTS + 1)
    reason = of(lambda x: linear(x, weight), x=torch.ones(1, layers.MOST_PRODUCTS + 1))
    assert reason == "its dot products have more than 66311 terms, too many for int32"
    assert 255 * 127 * layers.MOST_PRODUCTS < 2**31 <= 255 * 127 * (layers.MOST_PRODUCTS + 1)


def test_convolution_without_a_batch() -> None:
    weight = torch.ones(3, 2, 3, 3)
    reason = of(lambda x: functional.conv2d(x, weight), x=torch.ones(2, 5, 5))
    assert reason == "its input has no batch dimension"


LATER: list[tuple[Callable[[Tensor], Tensor], Tensor, str]] = [
    (
        lambda x: functional.conv1d(x, torch.ones(3, 2, 3)),
        torch.ones(1, 2, 5),
        "its input has no batch dimension, or it is not in canonical form",
    ),
    (
        lambda x: functional.conv_transpose2d(x, torch.ones(2, 3, 3, 3)),
        torch.ones(1, 2, 5, 5),
        "transposed convolutions have no integer form yet",
    ),
    (
        lambda x: functional.conv3d(x, torch.ones(3, 2, 1, 1, 1)),
        torch.ones(1, 2, 5, 5, 5),
        "three-dimensional convolutions have no integer form yet",
    ),
    (
        lambda x: functional.conv2d(x, torch.ones(3, 2, 3, 3), padding="same"),
        torch.ones(1, 2, 5, 5),
        "its padding is not given in numbers; run the clean passes first",
    ),
]


@pytest.mark.parametrize(("function", "x", "reason"), LATER)
def test_layers_of_later_versions(function, x: Tensor, reason: str) -> None:
    assert of(function, x=x) == reason


def test_small_and_narrow_tables() -> None:
    table = torch.ones(10, 16)
    assert of(lambda x: table[x] * functional.embedding(x, table), x=torch.tensor([1])) == (
        "its table is smaller than 16 KiB"
    )
    narrow = torch.ones(5000, 4)
    reason = of(lambda x: functional.embedding(x, narrow), x=torch.tensor([1]))
    assert reason == "its table has fewer than 8 columns"


def test_quantizing_again_changes_nothing() -> None:
    program = traced(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.ones(2, 8))
    assert Quantize().run(program, PassContext()).changed
    again = Quantize().run(program, PassContext())
    assert not again.changed
    assert {r.reason for r in again.refusals} == {"its weight is quantized already"}


class Language(nn.Module):
    """A table that is also the weight of the last linear."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(512, 16)
        self.body = nn.Linear(16, 16)
        self.head = nn.Linear(16, 512, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.table(ids)).relu())


def language() -> Program:
    return traced(Language(), torch.tensor([[1, 2, 3]]))


def test_a_tied_table_is_read_as_codes_by_both() -> None:
    program = language()
    assert Quantize().run(program, PassContext()).refusals == ()
    codes = [n for n in program.forward.graph.nodes if str(n.target).endswith("weight_codes")]
    table = [node for node in codes if node.meta["val"].shape == (512, 16)]
    assert len(table) == 1
    assert {op_name(user) for user in table[0].users} == {
        "aten.embedding.default",
        "effc.dequantize.default",
    }
    assert len(program.weights()) == 5  # codes and scale of table and body, and a bias


def test_a_table_tied_under_two_names_is_packed_once() -> None:
    program = language()
    module = program.forward
    (head,) = [n for n in module.graph.nodes if label(n) == "head"]
    set_attribute(module, "second.weight", attribute(module, str(head.args[1].target)))
    with module.graph.inserting_before(next(iter(head.args[1].users))):
        again = module.graph.get_attr("second.weight")
    again.meta["val"] = head.args[1].meta["val"]
    head.update_arg(1, again)
    module.recompile()
    assert Quantize().run(program, PassContext()).refusals == ()
    assert len(program.weights()) == 5


@pytest.mark.parametrize("how", ["exclude", "rule", "skip_last"])
def test_a_table_that_something_reads_in_float_stays_float(how: str) -> None:
    program = language()
    ctx = {
        "exclude": PassContext(exclude=("head",)),
        "rule": PassContext(rules=(("head", {"bits": "float"}),)),
        "skip_last": PassContext(),
    }[how]
    found = refusals(program, ctx, skip_last=how == "skip_last")
    assert found["table"] == "its table is also read in float by head"
    assert operators(program)["effc.dequantize.default"] == 2


def test_tables_can_be_left_out() -> None:
    program = language()
    assert refusals(program, embeddings=False) == {"table": "the option embeddings is off"}
    assert operators(program)["aten.embedding.default"] == 1


@pytest.fixture
def stack() -> Program:
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)])
    return traced(nn.ModuleDict({"blocks": model}).blocks, torch.ones(2, 8))


def test_first_and_last_can_be_skipped(stack: Program) -> None:
    assert refusals(stack, skip_first=True, skip_last=True) == {
        "0": "the first layer stays in float (skip_first)",
        "3": "the last layer stays in float (skip_last)",
    }


def test_excluded_layers(stack: Program) -> None:
    assert refusals(stack, PassContext(exclude=("[12]",))) == {
        "1": "excluded by the user",
        "2": "excluded by the user",
    }


@pytest.mark.parametrize("bits", ["none", "float"])
def test_rules_can_keep_a_layer_in_float(stack: Program, bits: str) -> None:
    rules = (("*", {"bits": bits}), ("[0-2]", {"bits": "8"}), ("0", {"ratio": "0.3"}))
    reason = f"a rule keeps it in float (bits={bits})"
    assert refusals(stack, PassContext(rules=rules)) == {"3": reason}


@pytest.mark.parametrize("bits", ["1", "9", "x"])
def test_bits_there_are_none_of(stack: Program, bits: str) -> None:
    with pytest.raises(UsageError) as caught:
        Quantize().run(stack, PassContext(rules=(("2", {"bits": bits}),)))
    assert str(caught.value) == f"bits={bits} for layer 2: quantize has 2 to 8, none and float"
    with pytest.raises(UsageError, match="pass quantize: bits=9; there are 2 to 8"):
        Quantize(bits=9).run(stack, PassContext())


@pytest.mark.parametrize("where", ["exclude", "rules"])
def test_a_pattern_that_matches_nothing(stack: Program, where: str) -> None:
    ctx = {
        "exclude": PassContext(exclude=("nowhere.*",)),
        "rules": PassContext(rules=(("nowhere.*", {"bits": "8"}),)),
    }[where]
    with pytest.raises(UsageError) as caught:
        Quantize().run(stack, ctx)
    text = "pattern 'nowhere.*' matches nothing; layers are 0, 1, 2, 3"
    assert str(caught.value) == text
