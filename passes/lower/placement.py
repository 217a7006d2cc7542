"""Where every tensor lies: layouts, views as strides, borders for padding, copies where needed.

Feature maps of convolutions are channels-last; the input of a padded convolution lies inside a
border of zeros (or zero points), so that the kernel needs no bounds checks. Everything else is
row-major, except results that are only read through one permutation, which are stored permuted.
"""

import operator
from dataclasses import dataclass, field, replace

import torch
from torch import fx

from effc.ir.errors import VerifyError
from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.program import Program
from effc.ir.symbols import Size, product, simplify
from effc.passes.lower.borders import PAD, Border, sides, zero_point_of
from effc.passes.lower.joins import Slice, slices_of
from effc.passes.lower.layout import (
    CHANNELS_LAST,
    CONVOLUTIONS,
    anchor_of,
    channels_last_values,
    convolution_of,
    only_permutation,
    outer_operand,
    packed_operands,
)
from effc.passes.lower.regions import region_module
from effc.passes.lower.views import Placement, aliased, contiguous


@dataclass
class Placements:
    """The layout of one lowered method.

    Attributes:
        module: The outer graph; copies may have been added.
        places: Where each tensor of the outer graph lies.
        borders: Padding of the memory of some region results.
        sizes: Elements of the memory of each region result.
        in_place: Calls that need no kernel: their operands are written where their result lies.
    """

    module: fx.GraphModule
    places: dict[fx.Node, Placement] = field(default_factory=dict)
    borders: dict[fx.Node, Border] = field(default_factory=dict)
    sizes: dict[fx.Node, Size] = field(default_factory=dict)
    in_place: set[fx.Node] = field(default_factory=set)


def place(program: Program, method: str) -> Placements:
    """Lay out every tensor of a lowered method; may insert copies into its outer graph."""
    return _Placer(program, method).run()


class _Placer:
    def __init__(self, program: Program, method: str) -> None:
        self.program, self.module = program, program.methods[method]
        self.graph = self.module.graph
        self.wanted = channels_last_values(self.module)
        self.result = Placements(self.module)
        self.copies = 0
        self.slices = slices_of(program, self.module, self._can_join)
        self.result.in_place = {piece.whole.args[0] for piece in self.slices.values()}

    def run(self) -> Placements:
        """Visit the nodes in order; operands are placed before their readers."""
        for node in list(self.graph.nodes):
            self._visit(node)
        self._place_outputs()
        self.graph.lint()
        self.module.recompile()
        return self.result

    def _visit(self, node: fx.Node) -> None:
        if node.op in ("placeholder", "get_attr"):
            self.result.places[node] = contiguous(node, self.program.shape(node))
        elif node.op == "call_module":
            self._check_operands(node)
        elif node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor):
            if op_name(node) == "getitem" and node.args[0].op == "call_module":
                self._place_result(node)
            elif kind_of(node) == Kind.VIEW:
                self._place_view(node)
            elif op_name(node) == PAD:
                self._place_padding(node)

    def _place_view(self, node: fx.Node) -> None:
        source = node.args[0]
        found = aliased(self.program, node, self.result.places[source])
        if found is None:
            copy = self._copy_for(node, source)
            found = aliased(self.program, node, self.result.places[copy])
        if found is None:
            raise VerifyError(f"{node.name}: {op_name(node)} is no view of contiguous memory")
        self.result.places[node] = found

    def _place_padding(self, node: fx.Node) -> None:
        """A padding is its source's memory with the border, or a copy where there is none."""
        source, (left, _, top, _) = node.args[0], sides(node)
        here, have = self.result.places[source], self.result.borders.get(source)
        if have is None or not have.covers(self._border_of(node)):
            item = self._computed(node, source, _region_of(source, node))
            node.replace_all_uses_with(item)
            self.graph.erase_node(node)
            self.wanted.add(item)
            self._place_result(item)
            return
        offset = simplify(here.offset - top * here.strides[2] - left * here.strides[3])
        shape = self.program.shape(node)
        self.result.places[node] = Placement(here.root, offset, shape, here.strides)

    def _border_of(self, pad: fx.Node) -> Border:
        """The border a padding needs; its readers are convolutions that agree on the zero."""
        left, right, top, bottom = sides(pad)
        reader = next(iter(pad.users))
        fill = self._zero_of(reader)
        return Border(max(top, bottom), max(left, right), fill)

    def _zero_of(self, call: fx.Node) -> fx.Node | None:
        """The zero point of a region's convolution, in the outer graph."""
        anchor = convolution_of(self.module, call)
        zero_point = zero_point_of(anchor) if anchor is not None else None
        return None if zero_point is None else outer_operand(self.module, call, zero_point)

    def _place_result(self, node: fx.Node) -> None:
        """Give a region's result its memory, layout and border."""
        if node in self.result.places:
            return
        if node in self.slices:
            self._place_slice(node, self.slices[node])
            return
        shape = self.program.shape(node)
        is_map = node in self.wanted
        order = CHANNELS_LAST if is_map else only_permutation(self.module, node)
        border = self._border(node) if is_map else None
        padded = list(shape)
        if border:
            padded[2], padded[3] = shape[2] + 2 * border.rows, shape[3] + 2 * border.columns
            self.result.borders[node] = border
        strides = ordered_strides(padded, order or tuple(range(len(shape))))
        offset = border.rows * strides[2] + border.columns * strides[3] if border else 0
        self.result.places[node] = Placement(node, simplify(offset), shape, strides)
        self.result.sizes[node] = product(padded)

    def _place_slice(self, node: fx.Node, piece: Slice) -> None:
        """Put a part of a concatenation where it lies in it."""
        self._place_result(piece.whole)
        whole = self.result.places[piece.whole]
        offset = simplify(whole.offset + piece.start * whole.strides[piece.dim])
        self.result.places[node] = replace(whole, offset=offset, shape=self.program.shape(node))

    def _can_join(self, part: fx.Node, whole: fx.Node) -> bool:
        """Whether both have the same order of dimensions, and no border."""
        if (part in self.wanted) != (whole in self.wanted):
            return False
        return part not in self.wanted or not (self._border(part) or self._border(whole))

    def _border(self, node: fx.Node) -> Border | None:
        """The padding all convolutions that read a result ask for, if they agree on the fill."""
        wanted = [found for user in node.users if (found := self._padding_of(user, node))]
        if len({border.fill for border in wanted}) != 1:
            return None
        rows, columns = max(b.rows for b in wanted), max(b.columns for b in wanted)
        return Border(rows, columns, wanted[0].fill)

    def _padding_of(self, call: fx.Node, value: fx.Node) -> Border | None:
        """The padding a region (or a padding alone) wants around one of its operands."""
        if op_name(call) == PAD:
            return self._border_of(call)
        anchor = convolution_of(self.module, call)
        if anchor is None or outer_operand(self.module, call, anchor.args[0]) is not value:
            return None
        rows, columns = anchor.args[4]
        return None if rows == 0 and columns == 0 else Border(rows, columns, self._zero_of(call))

    def _check_operands(self, call: fx.Node) -> None:
        """Insert copies where a kernel cannot read an operand as it lies."""
        anchor = anchor_of(self.module, call)
        if anchor is None:
            return
        if op_name(anchor) in CONVOLUTIONS:
            self._check_map(call, outer_operand(self.module, call, anchor.args[0]))
            return
        packed = packed_operands(anchor)
        for inner in [node for node in anchor.all_input_nodes if node not in packed]:
            if inner.op == "placeholder" and inner.meta["val"].dim() > 1:
                outer = outer_operand(self.module, call, inner)
                if self.result.places[outer].strides[-1] != 1:
                    self._copy_for(call, outer)

    def _check_map(self, call: fx.Node, source: fx.Node) -> None:
        """A convolution reads channels-last memory with the border it needs."""
        here, need = self.result.places[source], self._padding_of(call, source)
        have = self.result.borders.get(source)
        fits = need is None or (have is not None and have.covers(need))
        if here.strides[1] != 1 or not fits:
            self._copy_for(call, source, is_map=True)

    def _copy_for(self, reader: fx.Node, source: fx.Node, is_map: bool = False) -> fx.Node:
        """Let a reader use a copy of a tensor in memory of its own; return the copy."""
        item = self._computed(reader, source, _copy_region(source))
        reader.replace_input_with(source, item)
        if is_map:
            self.wanted.add(item)
        self._place_result(item)
        return item

    def _computed(self, before: fx.Node, source: fx.Node, region: fx.GraphModule) -> fx.Node:
        """Insert a region of one operand and one result; return the result."""
        result = region.graph.output_node().args[0][0]
        custom, name = dict(source.meta.get("custom", {})), f"copy_{self.copies}"
        self.copies += 1
        self.module.add_submodule(name, region)
        with self.graph.inserting_before(before):
            call = self.graph.call_module(name, (source,))
            item = self.graph.call_function(operator.getitem, (call, 0))
        call.meta = {"val": (result.meta["val"],), "custom": custom}
        item.meta = {"val": result.meta["val"], "custom": custom}
        return item

    def _place_outputs(self) -> None:
        """Every output is a region's result in row-major memory of its own."""
        output, taken = self.graph.output_node(), set()
        final = []
        for value in output.args[0]:
            here = self.result.places[value]
            root = here.root
            whole = here.is_contiguous and here.offset == 0 and root not in self.result.borders
            is_own = root in self.result.sizes and product(here.shape) == self.result.sizes[root]
            if not (whole and is_own) or root in taken:
                with self.graph.inserting_before(output):
                    reader = self.graph.call_function(torch.ops.aten.alias.default, (value,))
                value = self._copy_for(reader, value)
                self.graph.erase_node(reader)
                root = value
            taken.add(root)
            final.append(value)
        output.args = (tuple(final),)


def _region_of(source: fx.Node, node: fx.Node) -> fx.GraphModule:
    """A region that computes one node from one operand."""
    graph = fx.Graph()
    placeholder = graph.placeholder("source")
    placeholder.meta = {"val": source.meta["val"]}
    call = graph.node_copy(node, lambda operand: placeholder)
    return region_module([placeholder], [call], [call])


def _copy_region(source: fx.Node) -> fx.GraphModule:
    graph = fx.Graph()
    placeholder = graph.placeholder("source")
    placeholder.meta = {"val": source.meta["val"]}
    clone = graph.call_function(torch.ops.aten.clone.default, (placeholder,))
    clone.meta = {"val": source.meta["val"]}
    return region_module([placeholder], [clone], [clone])


def ordered_strides(shape: list[Size], order: tuple[int, ...]) -> tuple[Size, ...]:
    """Strides of a dense tensor whose dimensions lie in memory in the given order."""
    strides: list[Size] = [1] * len(shape)
    step: Size = 1
    for dim in reversed(order):
        strides[dim] = step
        step = simplify(step * shape[dim])
    return tuple(strides)
