"""Task quality: built-in metrics and the user's own.

A metric is a function of an iterable of `(outputs, labels)`: outputs by name as arrays, labels as
the data gave them. It returns a number, or a dict of numbers by name, whose first is the one that
budgets look at. Its attribute `better` is `higher` (the default) or `lower`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from effc.ir.data import Data
from effc.ir.errors import DataError, EffcError, UsageError
from effc.ir.trace.factory import described, look_up

Outputs = dict[str, np.ndarray]
Results = Iterable[tuple[Outputs, Any]]
Scores = dict[str, float]
BUILT_IN = ("top1", "perplexity", "cosine", "sqnr")
IGNORED = -100


@dataclass(frozen=True)
class Metric:
    """A measure of task quality.

    Attributes:
        name: What the user calls it.
        function: From results to a number, or numbers by name.
        better: `higher` or `lower`.
        needs_reference: Whether labels are the baseline's outputs.
    """

    name: str
    function: Callable[[Results], Any]
    better: str = "higher"
    needs_reference: bool = False

    def __call__(self, results: Results) -> Scores:
        """Compute the metric.

        Raises:
            DataError: If the metric raises or is not a number.
        """
        return called(self.name, self.function, results)


def called(name: str, function: Callable[[Any], Any], argument: Any) -> Scores:
    """The numbers a user's function returns, by name; a single one is called as the function.

    Raises:
        DataError: If it raises, or returns NaN or something that is no number.
    """
    try:
        found = function(argument)
    except EffcError:
        raise
    except Exception as error:  # a user's function raises whatever it raises
        raise DataError(f"metric {name} failed: {described(error)}") from error
    if isinstance(found, dict) and found:
        return {str(key): _number(f"metric {name}: {key}", one) for key, one in found.items()}
    return {name: _number(f"metric {name}", found)}


def _number(what: str, found: Any) -> float:
    try:
        value = float(found)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} is a {type(found).__name__}, not a number") from error
    if math.isnan(value):
        raise DataError(f"{what} is NaN, not a number")
    return value


def metric_of(name: str | Callable[[Results], Any]) -> Metric:
    """A built-in metric by name, or the user's `package.module:function`.

    Raises:
        UsageError: If there is none of that name.
    """
    if callable(name):
        return _users(getattr(name, "__name__", "metric"), name)
    if name in BUILT_IN:
        return _built_in(name)
    if ":" not in name:
        known = ", ".join(BUILT_IN)
        raise UsageError(f"unknown metric {name!r}; there are {known}, or package.module:function")
    function = look_up(name)
    if not callable(function):
        raise UsageError(f"metric {name} is a {type(function).__name__}, not a function")
    return _users(name, function)


def _users(name: str, function: Callable[[Results], Any]) -> Metric:
    better = getattr(function, "better", "higher")
    if better not in ("higher", "lower"):
        raise UsageError(
            f"metric {name}: its attribute `better` is {better!r}, not higher or lower"
        )
    return Metric(name, function, better)


def _built_in(name: str) -> Metric:
    functions = {"top1": top1, "perplexity": perplexity, "cosine": cosine, "sqnr": sqnr}
    better = "lower" if name == "perplexity" else "higher"
    return Metric(name, functions[name], better, name in ("cosine", "sqnr"))


class Runnable(Protocol):
    """Anything that runs on arrays by name."""

    def run(self, inputs: Outputs) -> Outputs:
        """Run once."""


def quality(
    model: Runnable, data: Data, metric: Metric, reference: Runnable | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Scores:  # fmt: skip
    """Run a model over data and compute a metric.

    Args:
        model: What to judge.
        data: Inputs with labels.
        metric: How to judge.
        reference: Gives the labels for metrics that compare with the baseline.
        progress: Called with the number of batches done.

    Raises:
        DataError: If the data has no labels the metric needs, or the metric fails.
    """
    if metric.needs_reference and reference is None:
        raise UsageError(f"metric {metric.name} compares with a baseline, and there is none")

    def results() -> Iterator[tuple[Outputs, Any]]:
        for number, (inputs, labels) in enumerate(data):
            if metric.needs_reference and reference is not None:
                labels = reference.run(inputs)
            yield model.run(inputs), labels
            progress(number + 1)

    return metric(results())


def _first(outputs: Outputs) -> np.ndarray:
    return next(iter(outputs.values()))


def _labelled(labels: Any) -> np.ndarray:
    if labels is None:
        raise DataError("the metric needs labels, the data has none")
    return np.asarray(labels)


def _something(count: int) -> int:
    """How much there was to measure.

    Raises:
        DataError: If that is nothing.
    """
    if not count:
        raise DataError("the data holds nothing to measure: no samples, or no labels in them")
    return count


def top1(results: Results) -> float:
    """Share of samples whose largest output is the label; outputs `[batch, classes]`."""
    right = total = 0
    for outputs, labels in results:
        expected = _labelled(labels)
        right += int((_first(outputs).argmax(-1) == expected).sum())
        total += expected.size
    return right / _something(total)


def perplexity(results: Results) -> float:
    """Exp of the mean negative log-likelihood of the labels.

    Outputs are `[batch, length, vocabulary]`, labels `[batch, length]`, -100 where there is none.
    """
    loss, count = 0.0, 0
    for outputs, labels in results:
        logits, expected = _first(outputs).astype(np.float64), _labelled(labels)
        shifted = logits - logits.max(-1, keepdims=True)
        normal = np.log(np.exp(shifted).sum(-1))
        valid = expected != IGNORED
        chosen = np.take_along_axis(shifted, np.where(valid, expected, 0)[..., None], -1)[..., 0]
        loss += float(((normal - chosen) * valid).sum())
        count += int(valid.sum())
    return math.exp(loss / _something(count))


def cosine(results: Results) -> float:
    """Mean cosine similarity between the rows of all outputs and the baseline's."""
    total, count = 0.0, 0
    for outputs, labels in results:
        for name, found in outputs.items():
            x = found.reshape(-1, found.shape[-1] if found.ndim else 1).astype(np.float64)
            y = labels[name].reshape(x.shape).astype(np.float64)
            norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
            similar = (x * y).sum(1) / np.where(norms > 0, norms, 1)
            total, count = total + float(similar.sum()), count + len(similar)
    return total / _something(count)


def sqnr(results: Results) -> float:
    """Signal to noise of all outputs against the baseline's, in dB."""
    signal, noise, count = 0.0, 0.0, 0
    for outputs, labels in results:
        for name, found in outputs.items():
            expected = labels[name].astype(np.float64)
            signal += float((expected**2).sum())
            noise += float(((expected - found) ** 2).sum())
            count += expected.size
    if _something(count) and noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
