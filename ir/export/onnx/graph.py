"""An ONNX graph in the making: nodes, constants, sizes, and the opset they need."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import sympy
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx
from torch.utils._sympy.functions import FloorDiv

from effc.ir import provenance
from effc.ir.errors import Unsupported, UnsupportedError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.symbols import Size, size_of

FIRST_OPSET = 13
RELEASED_OPSET = 26  # the newest one ONNX Runtime loads unasked
EXPORT = "the ONNX export"
ENVIRONMENT = "onnxruntime.environment"
ELEMENTS: dict[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.float64: TensorProto.DOUBLE,
    torch.uint8: TensorProto.UINT8,
    torch.int8: TensorProto.INT8,
    torch.uint16: TensorProto.UINT16,
    torch.int16: TensorProto.INT16,
    torch.uint32: TensorProto.UINT32,
    torch.int32: TensorProto.INT32,
    torch.uint64: TensorProto.UINT64,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}
ARITHMETIC: dict[type, str] = {
    sympy.Add: "Add",
    sympy.Mul: "Mul",
    FloorDiv: "Div",
    sympy.Mod: "Mod",
    sympy.Max: "Max",
    sympy.Min: "Min",
}


def runtime_environment(opset: int) -> dict[str, str]:
    """Environment variables ONNX Runtime needs to load a model of an opset."""
    return {} if opset <= RELEASED_OPSET else {"ALLOW_RELEASED_ONNX_OPSET_ONLY": "0"}


class RefusedError(Exception):
    """A form of an operator that ONNX has no form for; the message is the reason."""


def array_of(tensor: torch.Tensor) -> TensorProto:
    """A tensor as the data of an initializer, without a name."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits = tensor.view(torch.int16).numpy().tobytes()
        return helper.make_tensor("", TensorProto.BFLOAT16, list(tensor.shape), bits, raw=True)
    return numpy_helper.from_array(tensor.numpy())


@dataclass
class Graph:
    """Collects what a program's nodes become.

    Attributes:
        program: What is exported.
        opset: The version of ONNX's operators that rules write.
        needed: The lowest version that has everything used so far.
        nodes: In order.
        initializers: By name.
        values: Name, or names, of what a node of the program became.
        label: Where the present node comes from in the user's model.
        scalars: Scale and zero point of values with one pair for all, found at run time.
        taken: Names of values and nodes.
    """

    program: Program
    opset: int = FIRST_OPSET
    needed: int = FIRST_OPSET
    nodes: list[Any] = field(default_factory=list)
    initializers: dict[str, Any] = field(default_factory=dict)
    values: dict[fx.Node, str | tuple[str, ...]] = field(default_factory=dict)
    label: str = ""
    scalars: dict[fx.Node, tuple[str, str]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    _constants: dict[tuple[int, tuple[int, ...], bytes], str] = field(default_factory=dict)
    _sizes: dict[Any, str] = field(default_factory=dict)
    _weights: dict[tuple[str, str], str] = field(default_factory=dict)

    def need(self, opset: int) -> None:
        """Note that something exists from an opset on."""
        self.needed = max(self.needed, opset)

    def unique(self, name: str) -> str:
        """A name no value and no node has yet."""
        found, count = name, 0
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one result, and return the result's name."""
        return self.several(kind, inputs, 1, **attributes)[0]

    def several(
        self, kind: str, inputs: Sequence[str], count: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with several results, and return their names."""
        name = self.unique(f"{self.label}/{kind}" if self.label else kind)
        outputs = tuple(self.unique(f"{name}:{place}") for place in range(count))
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), name=name, **given))
        return outputs

    def value(self, node: Any) -> str:
        """The name of what a node became."""
        if node.op == "get_attr":
            tensor = attribute(self.program.forward, node.target)
            return self.weight(str(node.target), "", lambda: array_of(tensor))
        found = self.values[node]
        if isinstance(found, tuple):
            raise RefusedError("it reads several results as one")
        return found

    def constant(self, value: Any, dtype: torch.dtype | None = None) -> str:
        """A small constant, kept once however often it is used."""
        tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=dtype)
        proto = array_of(tensor if dtype is None else tensor.to(dtype))
        key = (proto.data_type, tuple(proto.dims), proto.raw_data)
        if key not in self._constants:
            self._constants[key] = self.initializer("constant", proto)
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> str:
        """A constant int64 vector."""
        return self.constant(torch.tensor(list(values), dtype=torch.int64))

    def initializer(self, name: str, proto: Any) -> str:
        """Add a tensor under a free name like `name`."""
        found = self.unique(name)
        proto.name = found
        self.initializers[found] = proto
        return found

    def weight(self, path: str, form: str, proto: Any) -> str:
        """A weight in some form, added once however often it is used."""
        key = (path, form)
        if key not in self._weights:
            self._weights[key] = self.initializer(path, proto())
        return self._weights[key]

    def size(self, value: Any) -> str:
        """A size as an int64 scalar; int, size, SymInt, or a node that computes one."""
        found = self.known_size(value)
        if isinstance(found, int):
            return self.constant(found, torch.int64)
        if found not in self._sizes:
            self._sizes[found] = self._computed(found)
        return self._sizes[found]

    def known_size(self, value: Any) -> Size:
        """A size over the program's symbols."""
        if isinstance(value, fx.Node):
            value = value.meta["val"]
        return size_of(value, self.program.names) if isinstance(value, torch.SymInt) else value

    def sizes(self, values: Sequence[Any]) -> str:
        """Sizes as an int64 vector."""
        known = [self.known_size(value) for value in values]
        if all(isinstance(one, int) for one in known):
            return self.ints([int(one) for one in known])
        parts = [
            self.ints([one]) if isinstance(one, int) else self.reshaped(self.size(one), [1])
            for one in known
        ]
        return self.op("Concat", *parts, axis=0)

    def shape_of(self, node: fx.Node) -> list[Size]:
        """The shape of a node's tensor."""
        return [self.known_size(size) for size in node.meta["val"].shape]

    def reshaped(self, value: str, shape: Sequence[Any]) -> str:
        """A value under another shape, of which one size may be symbolic at no cost."""
        known = [self.known_size(size) for size in shape]
        symbolic = [place for place, size in enumerate(known) if not isinstance(size, int)]
        if len(symbolic) == 1 and 0 not in known:
            known[symbolic[0]] = -1
        return self.op("Reshape", value, self.sizes(known))

    def cast(self, value: str, dtype: torch.dtype) -> str:
        """A value with another element type."""
        if dtype not in ELEMENTS:
            raise RefusedError(f"ONNX has no form for {dtype}")
        return self.op("Cast", value, to=ELEMENTS[dtype])

    def reduced(self, kind: str, value: str, axes: Sequence[int], keep: bool) -> str:
        """A reduction; axes became an input with opset 18, of sums with 13."""
        flag = int(keep)
        if kind == "ReduceSum" or self.opset >= 18:
            return self.op(kind, value, self.ints(axes), keepdims=flag)
        return self.op(kind, value, axes=list(axes), keepdims=flag)

    def _computed(self, size: sympy.Expr) -> str:
        if isinstance(size, sympy.Symbol):
            return self._dimension(size)
        if isinstance(size, sympy.Pow) and size.args[1].is_Integer and size.args[1] > 0:
            parts = [self.size(size.args[0])] * int(size.args[1])
            return self._chain("Mul", parts)
        kind = next((op for known, op in ARITHMETIC.items() if isinstance(size, known)), None)
        if kind is None or any(part.is_Rational and not part.is_Integer for part in size.args):
            raise RefusedError(f"the size {size} has no form in ONNX")
        parts = [self.size(int(p) if p.is_Integer else p) for p in size.args]
        return self._chain(kind, parts)

    def _chain(self, kind: str, parts: list[str]) -> str:
        result = parts[0]
        for part in parts[1:]:
            result = self.op(kind, result, part)
        return result

    def _dimension(self, symbol: sympy.Symbol) -> str:
        for spec in self.program.signature.inputs:
            for place, size in enumerate(spec.shape):
                if size == symbol:
                    shape = self.op("Shape", spec.name)
                    return self.op("Gather", shape, self.constant(place, torch.int64), axis=0)
        raise RefusedError(f"no input has the size {symbol} itself")


def refuse(nodes: list[tuple[fx.Node, str]]) -> UnsupportedError:
    """The error that names every operator the export has no form for, each once."""
    found: dict[tuple[str, str], Unsupported] = {}
    for node, reason in nodes:
        key = (op_name(node), reason)
        before = found.get(key)
        count = 1 if before is None else before.count + 1
        where = provenance.label(node) if before is None else before.source
        found[key] = Unsupported(key[0], where, reason, count)
    return UnsupportedError(EXPORT, list(found.values()))


def model_of(graph: Graph, outputs: Sequence[str]) -> onnx.ModelProto:
    """The finished model."""
    signature = graph.program.signature
    _remove_dead(graph, outputs)
    inputs = [_value_info(spec) for spec in signature.inputs]
    results = [_value_info(spec) for spec in signature.outputs]
    proto = helper.make_graph(
        [*graph.nodes, *_renamed(graph, outputs)], graph.program.name, inputs, results,
        list(graph.initializers.values()),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", graph.needed)]
    model = helper.make_model(
        proto, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="effc",
    )  # fmt: skip
    if environment := runtime_environment(graph.needed):
        text = " ".join(f"{name}={value}" for name, value in environment.items())
        helper.set_model_props(model, {ENVIRONMENT: text})
    return model


def _remove_dead(graph: Graph, outputs: Sequence[str]) -> None:
    """Drop nodes and weights that no result needs."""
    read = set(outputs)
    kept = []
    for node in reversed(graph.nodes):
        if read & set(node.output):
            kept.append(node)
            read |= set(node.input)
    graph.nodes = kept[::-1]
    graph.initializers = {k: v for k, v in graph.initializers.items() if k in read}


def _renamed(graph: Graph, outputs: Sequence[str]) -> list[Any]:
    """Give results the names of the signature; inputs, weights and repeated results are copied."""
    names = [spec.name for spec in graph.program.signature.outputs]
    made = {name for node in graph.nodes for name in node.output}
    chosen: dict[str, str] = {}
    copies = []
    for value, name in zip(outputs, names, strict=True):
        if value in made and value not in chosen:
            chosen[value] = name
        else:
            copies.append((value, name))
    for node in graph.nodes:
        for part in (node.input, node.output):
            part[:] = [chosen.get(name, name) for name in part]
    return [
        helper.make_node("Identity", [chosen.get(value, value)], [name], name=graph.unique(name))
        for value, name in copies
    ]


def _value_info(spec: Any) -> Any:
    if spec.dtype not in ELEMENTS:
        raise RefusedError(f"{spec.name}: ONNX has no form for {spec.dtype}")
    shape = [size if isinstance(size, int) else str(size).replace(" ", "") for size in spec.shape]
    return helper.make_tensor_value_info(spec.name, ELEMENTS[spec.dtype], shape)
