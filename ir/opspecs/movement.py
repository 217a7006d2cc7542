"""Operators that move elements without arithmetic: views, copies, gathers."""

from effc.ir.opspec import Kind, OpSpec

VIEWS = """
_unsafe_view.default alias.default as_strided.default chunk.default detach.default expand.default
flatten.using_ints movedim.int narrow.default permute.default reshape.default select.int
slice.Tensor split.Tensor split_with_sizes.default squeeze.default squeeze.dim squeeze.dims
t.default transpose.int unbind.int unsqueeze.default view.default view.dtype view_as.default
unflatten.int expand_as.default diagonal.default unfold.default
""".split()

COPIES = ["clone.default", "contiguous.default", "detach_.default", "copy.default"]

GATHERS = """
_unsafe_index.Tensor cat.default constant_pad_nd.default embedding.default flip.default
gather.default index.Tensor index_select.default repeat.default repeat_interleave.self_int
roll.default stack.default tril.default triu.default upsample_nearest2d.vec
upsample_nearest2d.default upsample_bilinear2d.vec upsample_bilinear2d.default
pixel_shuffle.default pixel_unshuffle.default reflection_pad1d.default reflection_pad2d.default
replication_pad2d.default tile.default meshgrid.default one_hot.default im2col.default pad.default
channel_shuffle.default index_put.default index_copy.default scatter.src scatter.value
scatter_reduce.two
slice_scatter.default select_scatter.default
""".split()

TABLE: dict[str, OpSpec] = {
    **{f"aten.{name}": OpSpec(Kind.VIEW) for name in VIEWS},
    **{f"aten.{name}": OpSpec(Kind.ELEMENTWISE) for name in COPIES},
    **{f"aten.{name}": OpSpec(Kind.GATHER) for name in GATHERS},
    "effc.dequantize_grouped.default": OpSpec(Kind.GATHER, flops=2),
    "effc.unpack_signed.default": OpSpec(Kind.GATHER),
    "getitem": OpSpec(Kind.VIEW),
}
