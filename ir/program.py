"""A program: one or several `torch.fx` graphs with named, typed inputs and outputs.

torch.fx is effc's only intermediate representation. A program holds functional ATen form with the
composite operators kept whole, so it runs in PyTorch at every point between passes.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import fx

from effc.ir.errors import InputError
from effc.ir.symbols import Size, Symbol, evaluate, size_of, text

FORWARD = "forward"

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float64: "f64",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "bool",
    torch.uint16: "u16",
    torch.uint32: "u32",
    torch.uint64: "u64",
    torch.float8_e4m3fn: "f8e4m3",
    torch.float8_e5m2: "f8e5m2",
    torch.float8_e8m0fnu: "f8e8m0",
}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a dtype, such as `f32`."""
    return DTYPE_NAMES.get(dtype, str(dtype).removeprefix("torch."))


@dataclass(frozen=True)
class TensorSpec:
    """The name, dtype and shape of one input or output.

    Attributes:
        name: The user's name.
        dtype: Element type.
        shape: One size per dimension, symbolic where the program is.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[Size, ...]

    def __str__(self) -> str:
        return f"{self.name}: {dtype_name(self.dtype)}[{', '.join(map(text, self.shape))}]"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one method, in call order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __str__(self) -> str:
        inputs, outputs = (", ".join(map(str, part)) for part in (self.inputs, self.outputs))
        return f"({inputs}) -> ({outputs})"


@dataclass
class Program:
    """One model in effc's intermediate representation.

    Attributes:
        name: What the user calls the model.
        methods: A graph per method; weights and buffers hang on the graph modules under the
            user's names and are shared between methods.
        signatures: Inputs and outputs per method.
        symbols: The symbolic dimensions with their ranges, by name.
        names: The user's name of each symbol torch uses in `node.meta["val"]`.
        examples: Per method, example inputs in call order; they satisfy the signature.
    """

    name: str
    methods: dict[str, fx.GraphModule]
    signatures: dict[str, Signature]
    symbols: dict[str, Symbol] = field(default_factory=dict)
    names: dict[sympy.Symbol, str] = field(default_factory=dict)
    examples: dict[str, tuple[torch.Tensor, ...]] = field(default_factory=dict)

    @property
    def forward(self) -> fx.GraphModule:
        """The graph module of the method `forward`."""
        return self.methods[FORWARD]

    @property
    def signature(self) -> Signature:
        """The signature of the method `forward`."""
        return self.signatures[FORWARD]

    def clone(self) -> "Program":
        """Copy the graphs; weights are shared, so a pass must replace tensors, never write them."""
        methods = {name: copy_module(module) for name, module in self.methods.items()}
        return Program(
            self.name,
            methods,
            dict(self.signatures),
            dict(self.symbols),
            dict(self.names),
            dict(self.examples),
        )

    def shape(self, node: fx.Node) -> tuple[Size, ...]:
        """Shape of the tensor a node computes, over the user's symbols."""
        return tuple(size_of(size, self.names) for size in value_of(node).shape)

    def size(self, argument: Any) -> Size:
        """The size an integer argument of a node stands for (an int, SymInt or scalar node)."""
        value = argument.meta["val"] if isinstance(argument, fx.Node) else argument
        return size_of(value, self.names)

    def run(self, inputs: dict[str, torch.Tensor], method: str = FORWARD) -> dict[str, Any]:
        """Run a method in PyTorch.

        Args:
            inputs: A tensor per input name.
            method: Which method.

        Returns:
            A tensor per output name.

        Raises:
            InputError: If a name, dtype or shape does not fit the signature.
        """
        signature = self.signatures[method]
        bind_sizes(signature, self.symbols, inputs)
        with torch.no_grad():
            results = self.methods[method](*[inputs[spec.name] for spec in signature.inputs])
        return {spec.name: value for spec, value in zip(signature.outputs, results, strict=True)}

    def weights(self) -> dict[str, torch.Tensor]:
        """Every parameter and buffer the graphs read, by name (tied ones under each name)."""
        found: dict[str, torch.Tensor] = {}
        for module in self.methods.values():
            for node in module.graph.nodes:
                if node.op == "get_attr":
                    found[node.target] = attribute(module, node.target)
        return found

    @property
    def weight_nbytes(self) -> int:
        """Bytes of all weights, shared storage counted once."""
        unique = {
            (w.untyped_storage().data_ptr(), tuple(w.shape)): w for w in self.weights().values()
        }
        return sum(weight.numel() * weight.element_size() for weight in unique.values())


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """Copy a graph module's graph and containers, sharing the tensors.

    `fx.GraphModule` built from a root module shares submodules that hold parameters, so that
    replacing a weight in the copy would change the original; here the containers are new.
    """
    result = fx.GraphModule(torch.nn.Module(), fx.Graph())
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    outputs = graph.graph_copy(module.graph, mapping)
    for old, new in mapping.items():
        new.meta = {key: copy.copy(v) if key == "custom" else v for key, v in old.meta.items()}
    output = graph.output(outputs)
    old_output = module.graph.output_node()
    output.meta = dict(old_output.meta)
    for node in graph.nodes:
        if node.op == "get_attr":
            set_attribute(result, node.target, attribute(module, node.target))
        elif node.op == "call_module":
            result.add_submodule(node.target, module.get_submodule(node.target))
    result.graph = graph
    return result


def attribute(module: torch.nn.Module, path: str) -> torch.Tensor:
    """The tensor at a dotted path below a module."""
    owner, _, name = path.rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{path} is a {type(value).__name__}, not a tensor")
    return value


def set_attribute(module: torch.nn.Module, path: str, value: torch.Tensor) -> None:
    """Put a tensor at a dotted path below a module, creating containers on the way."""
    *containers, name = path.split(".")
    owner = module
    for container in containers:
        if not hasattr(owner, container):
            owner.add_module(container, torch.nn.Module())
        owner = getattr(owner, container)
    if name in owner._parameters:
        del owner._parameters[name]
    if isinstance(value, torch.nn.Parameter):
        owner.register_parameter(name, value)
    else:
        owner.register_buffer(name, value)


def unused_name(module: fx.GraphModule, wanted: str) -> str:
    """A dotted attribute path like `wanted` that is still free below the module."""
    taken = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    candidate, number = wanted, 1
    while candidate in taken or _has_attribute(module, candidate):
        candidate, number = f"{wanted}_{number}", number + 1
    return candidate


def _has_attribute(module: torch.nn.Module, path: str) -> bool:
    owner: Any = module
    for part in path.split("."):
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True


def value_of(node: fx.Node) -> torch.Tensor:
    """The fake tensor that describes what a node computes (`node.meta["val"]`)."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{node.name} has no tensor value but {type(value).__name__}")
    return value


def bind_sizes(
    signature: Signature, symbols: dict[str, Symbol], inputs: dict[str, Any]
) -> dict[str, int]:
    """Check inputs against a signature and read off the value of every symbol.

    Args:
        signature: What is expected.
        symbols: Ranges of the symbolic dimensions.
        inputs: Arrays or tensors by name; only `shape` and `dtype` are read.

    Returns:
        The value of each symbol.

    Raises:
        InputError: Naming the first input that does not fit, what it is and what was expected.
    """
    expected = {spec.name for spec in signature.inputs}
    if missing := expected - inputs.keys():
        raise InputError(f"missing input {_names(missing)}; the model takes {_names(expected)}")
    if extra := inputs.keys() - expected:
        raise InputError(f"unknown input {_names(extra)}; the model takes {_names(expected)}")
    values: dict[str, int] = {}
    for spec in signature.inputs:
        _bind_one(spec, symbols, inputs[spec.name], values)
    for spec in signature.inputs:
        _check_derived(spec, inputs[spec.name], values)
    return values


def _bind_one(
    spec: TensorSpec, symbols: dict[str, Symbol], value: Any, values: dict[str, int]
) -> None:
    dtype, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
    wanted = str(spec.dtype).removeprefix("torch.")
    if dtype != wanted:
        raise InputError(f"input {spec.name} has dtype {dtype}, expected {wanted}")
    if len(shape) != len(spec.shape):
        raise InputError(f"input {spec.name} has shape {list(shape)}, expected {spec}")
    for position, (size, found) in enumerate(zip(spec.shape, shape, strict=True)):
        if isinstance(size, int):
            fits = size == found
        elif size.is_Symbol:
            symbol = symbols[size.name]
            if not symbol.minimum <= found <= symbol.maximum:
                raise InputError(
                    f"input {spec.name} has size {found} in dimension {position}, "
                    f"expected {symbol.name} in {symbol.minimum}..{symbol.maximum}"
                )
            fits = values.setdefault(size.name, found) == found
        else:
            fits = True
        if not fits:
            raise InputError(f"input {spec.name} has shape {list(shape)}, expected {spec}")


def _check_derived(spec: TensorSpec, value: Any, values: dict[str, int]) -> None:
    for size, found in zip(spec.shape, value.shape, strict=True):
        if isinstance(size, int) or not {s.name for s in size.free_symbols} <= values.keys():
            continue
        if evaluate(size, values) != found:
            raise InputError(f"input {spec.name} has shape {list(value.shape)}, expected {spec}")


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names))
