"""Recurrent cells and layers: a unit of the state goes from all gates that compute it."""

from typing import Any

import numpy as np
from torch import fx

from effc.ir.coupling.atoms import Axes, Axis
from effc.ir.coupling.call import LINEAR, Call
from effc.ir.coupling.movement import fixed
from effc.ir.opspec import Couple


def cell(gates: int) -> Couple:
    """`lstm_cell`, `gru_cell`, `rnn_tanh_cell`: one step, with so many gates."""

    def rule(call: Call) -> Any:
        states = call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]]
        names = ("w_ih", "w_hh", "b_ih", "b_hh")
        weights = [call[name] for name in names if call[name] is not None]
        unit = _units(call, gates, call.axes(call["input"])[-1], weights)
        for state in states:
            call.equate(unit, call.axes(state)[-1])
        found = (*call.axes(call["input"])[:-1], unit)
        return [found for _ in states] if len(states) > 1 else found

    return rule


def layers(gates: int) -> Couple:
    """`lstm`, `gru`, `rnn_tanh`: all steps of several layers, which have one width."""

    def rule(call: Call) -> Any:
        states = call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]]
        directions = 2 if call["bidirectional"] else 1
        weights: list[fx.Node] = list(call["params"])
        each, rest = divmod(len(weights), call["num_layers"] * directions)
        if rest or each != (4 if call["has_biases"] else 2):
            return fixed(call)  # a layer with a projection
        features, unit = call.axes(call["input"])[-1], None
        for layer in range(call["num_layers"]):
            for direction in range(directions):
                first = (layer * directions + direction) * each
                own = _units(call, gates, features, weights[first : first + each])
                unit = own if unit is None else call.equate(unit, own)
            features = unit if directions == 1 or unit is None else np.concatenate([unit, unit])
        for state in states:
            call.equate(unit, call.axes(state)[-1])
        last: Axes = (None, None, unit)
        return [(*call.axes(call["input"])[:-1], features), *(last for _ in states)]

    return rule


def _units(call: Call, gates: int, features: Axis | None, weights: list[fx.Node]) -> Axis | None:
    """Couple the weights `[gates x units, features]`, `[gates x units, units]` and biases."""
    unit: Axis | None = None
    for weight in weights:
        axes = call.axes(weight)
        gate, own = call.factor(axes[0], gates, call.shape(weight)[0] // gates)
        call.pin(gate, "every gate stays")
        unit = own if unit is None else call.equate(unit, own)
        call.role(weight, 0, "out")
    into, again = weights[:2]
    call.equate(features, call.axes(into)[1])
    call.equate(unit, call.axes(again)[1])
    call.role(into, 1, "in")
    call.role(again, 1, "in")
    call.tag(unit, LINEAR)
    return unit


RECURRENT: dict[str, Couple] = {
    "aten.lstm_cell.default": cell(4),
    "aten.gru_cell.default": cell(3),
    "aten.rnn_tanh_cell.default": cell(1),
    "aten.rnn_relu_cell.default": cell(1),
    "aten.lstm.input": layers(4),
    "aten.gru.input": layers(3),
    "aten.rnn_tanh.input": layers(1),
    "aten.rnn_relu.input": layers(1),
}
