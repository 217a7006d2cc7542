"""Factors as operators in place of a linear."""

import numpy as np
import torch
from torch import fx

from effc.ir.edit import Editor
from effc.passes.bits.rounding.grid import Matrix
from effc.passes.factorize.factors import Factors
from effc.passes.lower.chain import Chain

aten = torch.ops.aten
RANKS = (2, 3, 4)  # of inputs that can be seen as images


def write(editor: Editor, node: fx.Node, factors: Factors) -> None:
    """Replace a linear by its factors."""
    path = str(node.args[1].target)
    bias = node.args[2] if len(node.args) > 2 else None
    new = Chain(editor, node)
    make = _low_rank if factors.first.ndim == 2 else _block_shuffle
    editor.replace(node, make(editor, new, node, path, factors, bias))


def _low_rank(
    editor: Editor, new: Chain, node: fx.Node, path: str, factors: Factors, bias: fx.Node | None
) -> fx.Node:
    first = editor.weight(f"{path}_first", _tensor(factors.first), node)
    second = editor.weight(f"{path}_second", _tensor(factors.second), node)
    return new(aten.linear.default, new(aten.linear.default, node.args[0], first), second, bias)


def _block_shuffle(
    editor: Editor, new: Chain, node: fx.Node, path: str, factors: Factors, bias: fx.Node | None
) -> fx.Node:
    """Grouped convolutions of one by one over the inputs seen as an image, channels last."""
    blocks, rows, _ = factors.first.shape
    image = node.args[0]
    rank = image.meta["val"].dim()
    for _ in range(4 - rank):
        image = new(aten.unsqueeze.default, image, rank - 2)
    image = new(aten.permute.default, image, [0, 3, 1, 2])
    first = _filters(editor, f"{path}_first", factors.first, node)
    second = _filters(editor, f"{path}_second", factors.second, node)
    order = np.arange(blocks * rows).reshape(blocks, blocks, -1).swapaxes(0, 1).reshape(-1)
    shuffle = editor.weight(f"{path}_shuffle", torch.from_numpy(order.copy()), node)
    settings = [1, 1], [0, 0], [1, 1], blocks
    middle = new(aten.conv2d.default, image, first, None, *settings)
    middle = new(aten.index_select.default, middle, 1, shuffle)
    found = new(aten.conv2d.default, middle, second, bias, *settings)
    found = new(aten.permute.default, found, [0, 2, 3, 1])
    for _ in range(4 - rank):
        found = new(aten.squeeze.dim, found, rank - 2)
    return found


def _filters(editor: Editor, path: str, blocks: Matrix, node: fx.Node) -> fx.Node:
    """Blocks as filters of a grouped convolution."""
    return editor.weight(path, _tensor(blocks.reshape(-1, blocks.shape[-1], 1, 1)), node)


def _tensor(matrix: Matrix) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(matrix, np.float32))
