"""Recurrent layers, unrolled: one copy of the cell per step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor, is_known, listed
from effc.ir.trace.onnx.matrix import is_zero

Activation = Callable[[Tensor], Tensor]
LONGEST = 4096


@dataclass(frozen=True)
class Direction:
    """One direction of a layer.

    Attributes:
        weight: Of the input, [gates * hidden, input].
        recurrent: Of the state, [gates * hidden, hidden].
        bias: Of both, [2 * gates * hidden] or None.
        peephole: [3 * hidden] or None.
        activations: In the operator's order.
        is_reverse: Whether it starts at the end.
    """

    weight: Tensor
    recurrent: Tensor
    bias: Tensor | None
    peephole: Tensor | None
    activations: list[Activation]
    is_reverse: bool


PLAIN: dict[str, Activation] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "softsign": F.softsign,
    "softplus": F.softplus,
}
WITH_ALPHA: dict[str, tuple[float, Callable[[Tensor, float], Tensor]]] = {
    "leakyrelu": (0.01, F.leaky_relu),
    "elu": (1.0, F.elu),
    "thresholdedrelu": (1.0, lambda x, limit: torch.where(x > limit, x, 0.0)),
}
WITH_BETA: dict[str, tuple[float, float, Callable[[Tensor, float, float], Tensor]]] = {
    "hardsigmoid": (0.2, 0.5, lambda x, a, b: torch.clamp(a * x + b, 0.0, 1.0)),
    "affine": (1.0, 0.0, lambda x, a, b: a * x + b),
    "scaledtanh": (1.0, 1.0, lambda x, a, b: a * torch.tanh(b * x)),
}


def _activations(call: Call, names: list[str]) -> list[Activation]:
    """Activation functions by name with their parameters, which are given in order."""
    alphas, betas = list(call.get("activation_alpha", [])), list(call.get("activation_beta", []))
    return [_activation(call, name.lower(), alphas, betas) for name in names]


def _activation(call: Call, name: str, alphas: list[float], betas: list[float]) -> Activation:
    if name in PLAIN:
        return PLAIN[name]
    if name in WITH_ALPHA:
        usual, function = WITH_ALPHA[name]
        return partial(_second_last, function, alphas.pop(0) if alphas else usual)
    if name in WITH_BETA:
        slope, shift, affine = WITH_BETA[name]
        slope, shift = (alphas.pop(0) if alphas else slope), (betas.pop(0) if betas else shift)
        return partial(_third_last, affine, slope, shift)
    raise call.refuse(f"the activation {name} is not known")


def _second_last(function: Callable[..., Tensor], alpha: float, x: Tensor) -> Tensor:
    return function(x, alpha)


def _third_last(function: Callable[..., Tensor], alpha: float, beta: float, x: Tensor) -> Tensor:
    return function(x, alpha, beta)


def _directions(
    call: Call,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    defaults: list[str],
) -> list[Direction]:
    count, kind = weight.shape[0], call.get("direction", "forward")
    functions = _activations(call, call.get("activations") or defaults * count)
    each = len(functions) // count
    return [
        Direction(
            weight[i],
            recurrent[i],
            None if bias is None else bias[i],
            None if peephole is None else peephole[i],
            functions[i * each : (i + 1) * each],
            kind == "reverse" or i == 1,
        )
        for i in range(count)
    ]


Step = Callable[[Direction, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def _unrolled(
    call: Call,
    x: Tensor,
    lengths: Tensor | None,
    initial: list[Tensor | None],
    directions: list[Direction],
    step: Step,
) -> tuple[Tensor, ...]:
    """Run a cell over a sequence [steps, batch, input] in each direction.

    A sample whose sequence has ended keeps its state and gives zeros.
    """
    if call.get("layout", 0):
        x = x.transpose(0, 1)
        initial = [None if part is None else part.transpose(0, 1) for part in initial]
    count, batch, hidden = x.shape[0], x.shape[1], directions[0].recurrent.shape[1]
    if not isinstance(count, int) or count > LONGEST:
        raise call.refuse("the number of its steps is not known in advance, or too large")
    if lengths is not None and isinstance(count, int) and _is_full(lengths, count):
        lengths = None
    outputs, finals = [], []
    for number, direction in enumerate(directions):
        zero = torch.zeros([batch, hidden], dtype=x.dtype)
        state = tuple(zero if part is None else part[number] for part in initial)
        rows: list[Tensor] = [zero] * count
        for time in reversed(range(count)) if direction.is_reverse else range(count):
            new = step(direction, x[time], state)
            rows[time] = new[0]
            if lengths is not None:
                is_live = (lengths > time).unsqueeze(1)
                rows[time] = torch.where(is_live, new[0], zero)
                new = tuple(torch.where(is_live, a, b) for a, b in zip(new, state, strict=True))
            state = new
        outputs.append(torch.stack(rows))
        finals.append(state)
    sequence = torch.stack(outputs, 1)
    last = [torch.stack(parts) for parts in zip(*finals, strict=True)]
    if call.get("layout", 0):
        sequence = sequence.permute(2, 0, 1, 3)
        last = [part.transpose(0, 1) for part in last]
    return (sequence, *last)


def _is_full(lengths: Tensor, count: int) -> bool:
    return is_known(lengths) and all(length >= count for length in listed(lengths))


def equal_parts(x: Tensor, count: int, dim: int = 0) -> list[Tensor]:
    """A tensor cut into parts of the same size."""
    return list(torch.split(x, x.shape[dim] // count, dim))


def _limited(call: Call, x: Tensor) -> Tensor:
    limit = call.get("clip")
    return x if limit is None else torch.clamp(x, -limit, limit)


def _rnn(
    call: Call,
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, ...]:
    directions = _directions(call, weight, recurrent, bias, None, ["Tanh"])

    def step(d: Direction, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        parts = [None, None] if d.bias is None else equal_parts(d.bias, 2)
        total = F.linear(x, d.weight, parts[0]) + F.linear(state[0], d.recurrent, parts[1])
        return (d.activations[0](_limited(call, total)),)

    return _unrolled(call, x, lengths, [initial], directions, step)


def _gru(
    call: Call,
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gates in the order update, reset, hidden (Cho et al., 2014, arXiv 1406.1078)."""
    directions = _directions(call, weight, recurrent, bias, None, ["Sigmoid", "Tanh"])

    def step(d: Direction, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = state[0]
        parts = [None, None] if d.bias is None else equal_parts(d.bias, 2)
        new = equal_parts(F.linear(x, d.weight, parts[0]), 3, -1)
        gates, inner = d.activations
        if call.get("linear_before_reset", 0):
            old = equal_parts(F.linear(hidden, d.recurrent, parts[1]), 3, -1)
            update = gates(_limited(call, new[0] + old[0]))
            reset = gates(_limited(call, new[1] + old[1]))
            candidate = inner(_limited(call, new[2] + reset * old[2]))
        else:
            matrices = equal_parts(d.recurrent, 3)
            shifts = [None] * 3 if parts[1] is None else equal_parts(parts[1], 3)
            update = gates(_limited(call, new[0] + F.linear(hidden, matrices[0], shifts[0])))
            reset = gates(_limited(call, new[1] + F.linear(hidden, matrices[1], shifts[1])))
            inside = F.linear(reset * hidden, matrices[2], shifts[2])
            candidate = inner(_limited(call, new[2] + inside))
        return ((1 - update) * candidate + update * hidden,)

    return _unrolled(call, x, lengths, [initial], directions, step)


def _lstm(
    call: Call,
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial: Tensor | None = None,
    cell: Tensor | None = None,
    peephole: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gates in the order input, output, forget, cell (Hochreiter and Schmidhuber, 1997)."""
    if is_zero(peephole):
        peephole = None
    defaults = ["Sigmoid", "Tanh", "Tanh"]
    directions = _directions(call, weight, recurrent, bias, peephole, defaults)

    def step(d: Direction, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, memory = state
        parts = [None, None] if d.bias is None else equal_parts(d.bias, 2)
        total = F.linear(x, d.weight, parts[0]) + F.linear(hidden, d.recurrent, parts[1])
        into, out, keep, new = equal_parts(total, 4, -1)
        gates, inner, outer = d.activations
        peeps = None if d.peephole is None else equal_parts(d.peephole, 3)
        if peeps is not None:
            into, keep = into + peeps[0] * memory, keep + peeps[2] * memory
        into = gates(_limited(call, into))
        keep = 1 - into if call.get("input_forget", 0) else gates(_limited(call, keep))
        memory = keep * memory + into * inner(_limited(call, new))
        if peeps is not None:
            out = out + peeps[1] * memory
        return gates(_limited(call, out)) * outer(memory), memory

    return _unrolled(call, x, lengths, [initial, cell], directions, step)


TABLE: dict[str, Any] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
