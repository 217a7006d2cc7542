"""Inserts the quantize and dequantize nodes of activations."""

import operator
from collections.abc import Collection, Mapping

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.provenance import label
from effc.passes.bits.encoding import Encoding
from effc.passes.bits.placement import Group

LARGEST = 255
ROW = (-1,)
IMAGE = (1, 2, 3)


def insert_static(
    editor: Editor,
    group: Group,
    encoding: Encoding,
    readers: Mapping[fx.Node, Collection[fx.Node]],
) -> None:
    """Put the values of a group into uint8 codes with one scale and zero point.

    Args:
        editor: Of the method.
        group: The values; the first gives the scale and zero point their names.
        encoding: Their scale and zero point.
        readers: The users of each value that read the codes from now on.
    """
    path = label(group.values[0])
    scale = editor.weight(f"{path}_scale", torch.tensor(encoding.scale), like=group.values[0])
    zero = torch.tensor(encoding.zero_point, dtype=torch.int32)
    zero_point = editor.weight(f"{path}_zero_point", zero, like=group.values[0])
    quantize, dequantize = torch.ops.effc.quantize.default, torch.ops.effc.dequantize.default
    for value in group.values:
        users, place = readers[value], _after(value)
        codes = editor.call(
            value, quantize, value, scale, zero_point, 0, LARGEST, torch.uint8, before=place
        )
        restored = editor.call(value, dequantize, codes, scale, zero_point, before=place)
        _redirect(editor, value, restored, users)


def insert_dynamic(
    editor: Editor, value: fx.Node, dims: tuple[int, ...], readers: Collection[fx.Node]
) -> None:
    """Put a value into uint8 codes whose scale and zero point are found at run time.

    Args:
        editor: Of the method.
        value: What to quantize.
        dims: Dimensions that share a scale: `ROW` or `IMAGE`.
        readers: The users that read the codes from now on.
    """
    place = _after(value)
    parts = editor.call(
        value,
        torch.ops.effc.quantize_dynamic.default,
        value,
        list(dims),
        0,
        LARGEST,
        torch.uint8,
        before=place,
    )
    picked = [editor.call(value, operator.getitem, parts, i, before=place) for i in range(3)]
    restored = editor.call(value, torch.ops.effc.dequantize.default, *picked, before=place)
    _redirect(editor, value, restored, readers)


def _redirect(editor: Editor, old: fx.Node, new: fx.Node, readers: Collection[fx.Node]) -> None:
    for reader in readers:
        reader.replace_input_with(old, new)
        editor.edits += 1


def _after(value: fx.Node) -> fx.Node:
    """The node to insert before: right after a value, but after all inputs and weights."""
    node = value.next
    while node.op in ("placeholder", "get_attr"):
        node = node.next
    return node
