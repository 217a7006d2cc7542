"""Recurrent cells and layers: units of the state go from all gates."""

from typing import Any

import pytest
import torch
from oracle import assert_cut_equals_masked
from torch import Tensor, nn

from effc.ir.coupling.analysis import analyse
from effc.ir.coupling.groups import groups_of
from effc.ir.program import Program
from effc.ir.testing import traced

IDS = torch.randint(0, 11, (3, 4), generator=torch.Generator().manual_seed(0))
UNITS, STEPS = 20, 4


class Cells(nn.Module):
    """A cell that is called step by step."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.cell, self.head = nn.Embedding(11, 12), kind(12, UNITS), nn.Linear(20, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x, state = self.table(ids), torch.zeros(ids.shape[0], UNITS)
        hidden: Any = (state, state) if isinstance(self.cell, nn.LSTMCell) else state
        for step in range(STEPS):
            hidden = self.cell(x[:, step], hidden)
        return self.head(hidden[0] if isinstance(hidden, tuple) else hidden)


class Layers(nn.Module):
    """All steps at once; what is read is the last one, and the last state."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.cell = nn.Embedding(11, 12), kind(12, UNITS, batch_first=True, **options)
        directions = 2 if options.get("bidirectional") else 1
        self.head, self.state = nn.Linear(UNITS * directions, 5), nn.Linear(UNITS, 5)

    def forward(self, ids: Tensor) -> Tensor:
        found, state = self.cell(self.table(ids))
        state = state[0] if isinstance(state, tuple) else state
        return self.head(found[:, -1]) + self.state(state[-1])


NETS = {
    **{kind.__name__: (Cells, kind, {}) for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)},
    **{kind.__name__: (Layers, kind, {}) for kind in (nn.LSTM, nn.GRU, nn.RNN)},
    "both ways": (Layers, nn.LSTM, {"bidirectional": True}),
    "two layers": (Layers, nn.GRU, {"num_layers": 2}),
    "two layers, both ways": (Layers, nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "without bias": (Layers, nn.LSTM, {"bias": False}),
}


def program_of(name: str) -> Program:
    make, kind, options = NETS[name]
    return traced(make(kind, **options), IDS)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_cut_equals_masked(name: str, ratio: float) -> None:
    program = program_of(name)
    smaller, groups = assert_cut_equals_masked(program, {"ids": IDS}, ratio)
    (units,) = [group for group in groups if group.name == "cell"]
    assert (units.kind, units.size) == ("neurons", UNITS)
    assert smaller.weight_nbytes < program.weight_nbytes


def test_a_unit_stands_in_every_gate() -> None:
    (units,) = [g for g in groups_of(analyse(program_of("LSTM"))) if g.kind == "neurons"][:1]
    sites = {str(site) for site in units.sites}
    names = ("weight_ih_l0.0", "weight_hh_l0.0", "weight_hh_l0.1", "bias_ih_l0.0", "bias_hh_l0.0")
    assert {f"cell.{name}" for name in names} <= sites
    assert {"head.weight.1", "state.weight.1"} <= sites


def test_a_projection_is_refused() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(12, 20, proj_size=8, batch_first=True), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0])

    found = groups_of(analyse(traced(Projected(), torch.ones(2, 3, 12))))
    cells = [group for group in found if group.name == "cell"]
    text = "aten.lstm.input at cell: which positions it couples is not known"
    assert {group.reason for group in cells} == {text}
