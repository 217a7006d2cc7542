"""What an operator's function sees of its node, and how it asks for values known in advance."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from effc.ir.errors import EffcError, Unsupported, UnsupportedError

IMPORT = "the ONNX import"
Tensor: TypeAlias = torch.Tensor
Size: TypeAlias = int | torch.SymInt


class NeedsValueError(EffcError):
    """An operator needs a value in advance that the model computes when it runs.

    Attributes:
        value: The tensor in question.
        reads: Names of what the node that needs it reads, where they depend on the inputs.
    """

    def __init__(self, value: Any, what: str) -> None:
        super().__init__(what)
        self.value = value
        self.reads: list[str] = []


@dataclass(frozen=True, eq=False)
class Sizes:
    """Integers of which some are symbolic sizes: what `Shape` gives and arithmetic makes of it.

    Attributes:
        values: Array of Python integers and SymInts, of at most one dimension.
    """

    values: np.ndarray

    def tensor(self) -> Tensor:
        """As an int64 tensor of the graph."""
        parts = [torch.scalar_tensor(one, dtype=torch.int64) for one in self.values.reshape(-1)]
        return parts[0] if self.values.ndim == 0 else torch.stack(parts)


@dataclass
class Call:
    """One node.

    Attributes:
        op: Operator type.
        domain: Its domain.
        version: Version of the domain's operator set the model imports.
        name: What errors call the node.
        attributes: Decoded attributes by name.
        outputs: Names of its results, empty where one is not wanted.
        elements: ONNX's number of each input's element type, 0 where unknown.
        run: Evaluates a graph attribute on inputs and returns its results.
        results: ONNX's element type per result, where it is not the torch type's own.
    """

    op: str
    domain: str
    version: int
    name: str
    attributes: dict[str, Any]
    outputs: list[str]
    elements: list[int] = field(default_factory=list)
    run: Callable[[Any, Sequence[Any]], list[Any]] | None = None
    results: dict[int, int] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default` where the node has none."""
        return self.attributes.get(name, default)

    def subgraph(self, name: str, inputs: Sequence[Any] = ()) -> list[Any]:
        """Evaluate the graph in an attribute."""
        graph = self.get(name)
        if graph is None or self.run is None:
            raise self.refuse(f"it has no graph {name}")
        return self.run(graph, inputs)

    def wants(self, position: int) -> bool:
        """Whether somebody reads a result."""
        return position < len(self.outputs) and bool(self.outputs[position])

    def element(self, position: int) -> int:
        """ONNX's number of an input's element type; 0 where it is unknown or missing."""
        return self.elements[position] if position < len(self.elements) else 0

    def refuse(self, reason: str) -> UnsupportedError:
        """The error for a form of the operator that is not supported."""
        return UnsupportedError(IMPORT, [Unsupported(self.label, self.name, reason)])

    @property
    def label(self) -> str:
        """The operator with its domain."""
        return f"{self.domain}.{self.op}" if self.domain else self.op


@contextmanager
def outside_tracing() -> Iterator[None]:
    """Compute with real tensors while a model is traced."""
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        yield


def is_known(value: Any) -> bool:
    """Whether a value is known in advance: a tensor with data, a list of such, or nothing."""
    if isinstance(value, list):
        return all(map(is_known, value))
    return value is None or type(value) is torch.Tensor


def folded(function: Callable[..., Tensor], *values: Any) -> Tensor:
    """A function of values, computed at once where all are known in advance."""
    if all(map(is_known, values)):
        with outside_tracing():
            return function(*values)
    return function(*values)


def known(value: Any, what: str = "a value") -> Tensor:
    """A tensor with data.

    Raises:
        NeedsValueError: If it is computed when the model runs.
    """
    if type(value) is not torch.Tensor:
        raise NeedsValueError(value, what)
    return value


def listed(value: Any, what: str = "a value") -> list[Any]:
    """The elements of a tensor known in advance, as Python numbers.

    Raises:
        NeedsValueError: If it is computed when the model runs.
    """
    tensor = known(value, what)
    with outside_tracing():
        return list(tensor.reshape(-1).tolist())


def sizes(value: Any, what: str = "a shape") -> list[Any]:
    """Integers, some of which may be symbolic sizes.

    Raises:
        NeedsValueError: If they are computed when the model runs.
    """
    if isinstance(value, Sizes):
        return list(value.values.reshape(-1))
    return [int(one) for one in listed(value, what)]


def number(value: Any, what: str = "a number") -> Any:
    """The only element of a tensor known in advance, as a Python number or a symbolic size.

    Raises:
        NeedsValueError: If it is computed when the model runs.
    """
    if isinstance(value, Sizes):
        return value.values.reshape(-1)[0]
    return listed(value, what)[0]
