"""effc as a backend of the onnx package: `EffcBackend.prepare(model).run(inputs)`.

A model is translated at the first call, for the shapes of the inputs given then. Inputs that say
how large something is (a shape, axes, how often to repeat) are built in where an operator must
know them in advance; another call with other values translates again.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.backend.base import Backend, BackendRep

from effc.candidate import build_candidate
from effc.ir.edit import Editor
from effc.ir.errors import InputError
from effc.ir.program import FORWARD, Program, Signature, TensorSpec
from effc.ir.target import Target
from effc.ir.trace.inputs import WantedInputs
from effc.ir.trace.onnx import open_model_proto
from effc.ir.trace.onnx.door import UnknownValueError
from effc.ir.trace.onnx.elements import ELEMENTS, FLOAT8
from effc.ir.trace.request import Request
from effc.preparation import cleaned
from effc.progress import no_progress

EAGER = "eager"
LONGEST_SHAPE = 64
Arrays = dict[str, np.ndarray]


def to_tensor(array: Any) -> torch.Tensor:
    """An array, also of types of `ml_dtypes`, or a TensorProto as the tensor effc holds it in.

    Raises:
        InputError: For sequences, and elements such as texts.
    """
    if isinstance(array, onnx.TensorProto):
        array = numpy_helper.to_array(array)
    if isinstance(array, list | tuple):
        raise InputError("sequences as inputs are not supported")
    array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
    number = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    element = ELEMENTS.get(number)
    if element is None:
        raise InputError(f"arrays of {array.dtype} are not supported")
    if element.is_narrow:
        plain = array.astype(np.float32 if element.is_float else np.int8)
        return torch.from_numpy(plain).to(element.dtype)
    if element.dtype in (*FLOAT8, torch.bfloat16):
        bits = array.view(np.uint16 if element.bits == 16 else np.uint8)
        return torch.from_numpy(bits.copy()).view(element.dtype)
    return torch.from_numpy(array.copy())


def to_array(tensor: torch.Tensor, number: int) -> np.ndarray:
    """A tensor as an array of ONNX's element type."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(number)
    tensor = tensor.detach().contiguous()
    if ELEMENTS[number].is_narrow:
        return tensor.numpy().astype(dtype)
    if tensor.dtype in (*FLOAT8, torch.bfloat16):
        bits = torch.uint16 if tensor.element_size() == 2 else torch.uint8
        return tensor.view(bits).numpy().view(dtype)
    return tensor.numpy()


BITS = {torch.bfloat16: torch.int16}


def in_numpy(value: torch.Tensor) -> torch.Tensor:
    """A tensor numpy has a type for: the bits of those it has none for."""
    return value.view(BITS[value.dtype]) if value.dtype in BITS else value


def as_bits(program: Program) -> Program:
    """A program whose inputs and outputs are the bits of element types numpy lacks."""
    signature = program.signature
    if not any(spec.dtype in BITS for spec in (*signature.inputs, *signature.outputs)):
        return program
    result = program.clone()
    editor = Editor(result, rule="bits")
    graph, view = editor.graph, torch.ops.aten.view.dtype
    for node in graph.find_nodes(op="placeholder"):
        dtype = node.meta["val"].dtype
        if dtype in BITS:
            old = node.meta["val"]
            with old.fake_mode:
                node.meta["val"] = old.view(BITS[dtype])
            first = next(n for n in graph.nodes if n.op not in ("placeholder", "get_attr"))
            value = editor.call(node, view, node, dtype, before=first)
            node.replace_all_uses_with(value, delete_user_cb=lambda user, v=value: user is not v)
    output = graph.output_node()
    results = []
    for node in output.args[0]:
        dtype = node.meta["val"].dtype
        is_plain = dtype not in BITS
        results.append(
            node if is_plain else editor.call(node, view, node, BITS[dtype], before=output)
        )
    output.args = (tuple(results),)
    inputs, outputs = (
        tuple(replace(spec, dtype=BITS.get(spec.dtype, spec.dtype)) for spec in part)
        for part in (signature.inputs, signature.outputs)
    )
    result.signatures[FORWARD] = Signature(inputs, outputs)
    result.examples = {}
    editor.finish()
    return result


def is_shape_like(array: np.ndarray) -> bool:
    """Whether an input can be a shape, axes, scales or a number, which may be built in."""
    return array.ndim <= 1 and array.size <= LONGEST_SHAPE


@dataclass
class Translation:
    """A program for inputs of certain shapes.

    Attributes:
        program: What was translated.
        values: Inputs that are built in, by name.
        model: The compiled form, or None to run in PyTorch.
        folder: Where the compiled form lies.
    """

    program: Program
    values: dict[str, torch.Tensor]
    model: Any = None
    folder: Any = None

    def fits(self, inputs: dict[str, torch.Tensor]) -> bool:
        """Whether inputs have the shapes and the built-in values."""
        same = all(torch.equal(inputs[name], value) for name, value in self.values.items())
        specs = self.program.signature.inputs
        return same and all(tuple(inputs[s.name].shape) == s.shape for s in specs)

    def run(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Results in the order of the model's outputs."""
        signature = self.program.signature
        given = {spec.name: inputs[spec.name] for spec in signature.inputs}
        if self.model is None:
            found = self.program.run(given)
            return [found[spec.name] for spec in signature.outputs]
        plain = {name: in_numpy(value) for name, value in given.items()}
        found = self.model.run({name: value.numpy() for name, value in plain.items()})
        results = [torch.from_numpy(np.asarray(found[spec.name])) for spec in signature.outputs]
        types = [spec.dtype for spec in signature.outputs]
        return [
            x.view(dtype) if dtype in BITS else x for x, dtype in zip(results, types, strict=True)
        ]


@dataclass
class EffcRep(BackendRep):
    """A model ready to be called.

    Attributes:
        proto: The model.
        target: What to compile for, or `eager` to run in PyTorch.
        translations: One per combination of shapes and built-in values seen so far.
    """

    proto: Any
    target: str
    translations: list[Translation] = field(default_factory=list)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run on arrays in the order of the model's inputs, or by name.

        Raises:
            EffcError: Naming what is not supported, before anything runs.
        """
        given = self._named(inputs)
        chosen = next((t for t in self.translations if t.fits(given)), None)
        if chosen is None:
            chosen = self._translated(given)
            self.translations.append(chosen)
        results = chosen.run(given)
        types = [value.type.tensor_type.elem_type for value in self.proto.graph.output]
        return tuple(to_array(*pair) for pair in zip(results, types, strict=True))

    def _named(self, inputs: Any) -> dict[str, torch.Tensor]:
        if not isinstance(inputs, dict):
            names = [value.name for value in self.proto.graph.input]
            if len(inputs) < len(names):  # older models list their weights among the inputs
                weights = {tensor.name for tensor in self.proto.graph.initializer}
                names = [name for name in names if name not in weights]
            inputs = dict(zip(names, inputs, strict=False))
        return {name: to_tensor(value) for name, value in inputs.items() if value is not None}

    def _translated(self, given: dict[str, torch.Tensor]) -> Translation:
        values: dict[str, torch.Tensor] = {}
        while True:
            try:
                return self._built(self._opened(given, values), values)
            except UnknownValueError as error:
                wanted = [n for n in error.inputs if n not in values and n in given]
                wanted = [n for n in wanted if is_shape_like(np.empty(given[n].shape))]
                if not wanted:
                    raise
                values |= {name: given[name] for name in wanted}

    def _opened(self, given: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> Program:
        defaults = {tensor.name for tensor in self.proto.graph.initializer}
        specs = tuple(
            TensorSpec(name, value.dtype, tuple(value.shape))
            for name, value in given.items()
            if name not in values and name not in defaults
        )
        return open_model_proto(self.proto, Request(WantedInputs(specs, {})), None, values)

    def _built(self, program: Program, values: dict[str, torch.Tensor]) -> Translation:
        if self.target == EAGER:
            return Translation(program, values)
        clean = cleaned(as_bits(program), no_progress).program
        folder = tempfile.TemporaryDirectory(prefix="effc-")
        candidate = build_candidate("onnx", clean, Target.parse(self.target), Path(folder.name), [])
        return Translation(program, values, candidate.model, folder)


class EffcBackend(Backend):
    """effc behind the interface of `onnx.backend`."""

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> EffcRep:
        """Make a model callable; `target` in `kwargs` says what to compile it for."""
        return EffcRep(model, kwargs.get("target", EAGER))

    @classmethod
    def run_model(
        cls, model: Any, inputs: Sequence[Any], device: str = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """Translate a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models run on a device."""
        return device == "CPU"
