"""What a metric is: a function from a model's outputs and the labels to a number, or several."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Inputs = dict[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]
Results = Iterable[tuple[Outputs, Any]]
Function = TypeVar("Function", bound=Callable[[Results], float | dict[str, float]])


def better(direction: Literal["higher", "lower"]) -> Callable[[Function], Function]:
    """Mark a metric with the direction in which it improves, as its attribute `better`."""

    def mark(function: Function) -> Function:
        function.__dict__["better"] = direction
        return function

    return mark


def only(outputs: Outputs) -> NDArray[Any]:
    """The output of a model that has exactly one, whatever its name.

    Raises:
        ValueError: there are none, or several.
    """
    if len(outputs) != 1:
        raise ValueError(f"expected one output, found {len(outputs)}: {', '.join(outputs)}")
    return next(iter(outputs.values()))


@better("higher")
def accuracy(results: Results) -> float:
    """Share of rows whose highest score is at the label.

    Args:
        results: pairs of one output [batch, classes] and the labels, integers [batch].

    Raises:
        ValueError: there is no row.
    """
    hits = [only(outputs).argmax(axis=-1) == labels for outputs, labels in results]
    if not hits:
        raise ValueError("accuracy of no rows")
    return float(np.concatenate(hits).mean())
