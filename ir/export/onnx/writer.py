"""A program as an ONNX model: of the lowest opset that has everything it needs."""

import operator
from pathlib import Path
from typing import Any
from uuid import uuid4

import onnx
from torch import fx

from effc.ir import provenance
from effc.ir.errors import ModelError, NotAvailableError, Unsupported, UnsupportedError, UsageError
from effc.ir.export.onnx.graph import FIRST_OPSET, Graph, RefusedError, model_of, refuse
from effc.ir.export.onnx.rules import bound, rule_of
from effc.ir.opspec import Kind, kind_of
from effc.ir.program import FORWARD, Program
from effc.ir.trace.failures import one_line

LARGEST_NBYTES = 1 << 30
DATA = ".data"
Refused = list[tuple[fx.Node, str]]


def unsupported(program: Program) -> list[Unsupported]:
    """Every operator that has no form in ONNX, each once."""
    _, _, refused = _written(program, FIRST_OPSET)
    return refuse(refused).operators if refused else []


def onnx_model(program: Program) -> onnx.ModelProto:
    """A program as an ONNX model, checked.

    Args:
        program: With the single method `forward` and no fused regions.

    Raises:
        UnsupportedError: Listing every operator that has no form in ONNX.
        NotAvailableError: If the program has several methods.
        ModelError: If the model is not a valid one.
    """
    if set(program.methods) != {FORWARD}:
        raise NotAvailableError("writing a program with several methods as ONNX")
    graph, outputs, refused = _written(program, FIRST_OPSET)
    while not refused and graph.needed > graph.opset:
        graph, outputs, refused = _written(program, graph.needed)
    if refused:
        raise refuse(refused)
    try:
        model = model_of(graph, outputs)
        if model.ByteSize() < LARGEST_NBYTES:
            onnx.checker.check_model(model, full_check=True)
    except RefusedError as error:
        raise UnsupportedError(
            "the ONNX export", [Unsupported(program.name, "", str(error))]
        ) from error
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{program.name} makes no valid ONNX model: {one_line(error)}") from error
    return model


def save_onnx(program: Program, path: str | Path) -> onnx.ModelProto:
    """Write a program as an ONNX file, which appears whole or not at all; return the model.

    Weights of models too large for one message lie in a file beside it.

    Raises:
        UsageError: If the folder does not exist or cannot be written.
        EffcError: As `onnx_model`.
    """
    path = Path(path)
    model = onnx_model(program)
    temporary = path.parent / f".{uuid4().hex}.onnx"
    try:
        temporary.touch()
        if model.ByteSize() < LARGEST_NBYTES:
            temporary.write_bytes(model.SerializeToString())
        else:
            beside = path.name + DATA
            (path.parent / beside).unlink(missing_ok=True)
            onnx.save(model, temporary, save_as_external_data=True, location=beside)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return model


def _written(program: Program, opset: int) -> tuple[Graph, list[str], Refused]:
    """The graph of an opset, its results, and what has no form."""
    graph, refused = Graph(program, opset), []
    signature = program.signature
    graph.taken |= {spec.name for spec in (*signature.inputs, *signature.outputs)}
    inputs = iter(signature.inputs)
    outputs: list[str] = []
    for node in program.forward.graph.nodes:
        graph.label = provenance.label(node)
        try:
            if node.op == "placeholder":
                graph.values[node] = next(inputs).name
            elif node.op == "output":
                outputs = [graph.value(value) for value in node.args[0]]
            elif node.op != "get_attr":
                _write(graph, node)
        except RefusedError as error:
            refused.append((node, str(error)))
            graph.values[node] = _anything(node)
    return graph, outputs, refused


def _write(graph: Graph, node: fx.Node) -> None:
    if node.target is operator.getitem:
        found: Any = graph.values[node.args[0]]
        graph.values[node] = found[node.args[1]]
        return
    if node.op != "call_function":
        raise RefusedError("fused regions have no form in ONNX")
    if kind_of(node) == Kind.SCALAR:
        return
    rule = rule_of(node)
    if rule is None:
        raise RefusedError("it has no form in ONNX")
    graph.values[node] = rule(graph, node, bound(node))


def _anything(node: fx.Node) -> str | tuple[str, ...]:
    """A stand-in for a result, so that whatever else has no form is found, too."""
    value = node.meta.get("val")
    return tuple(["?"] * len(value)) if isinstance(value, tuple | list) else "?"
