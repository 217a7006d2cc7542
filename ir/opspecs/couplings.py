"""How each operator couples positions of what it reads and computes."""

from effc.ir.coupling import elementwise, movement, products, rows
from effc.ir.opspec import Couple, Kind

RESIDUAL = ["add.Tensor"]
UNARY = """
type_as.default clone.default contiguous.default detach_.default alias.default detach.default
full_like.default zeros_like.default ones_like.default empty_like.default fill.Scalar fill.Tensor
lift_fresh_copy.default _to_copy.default to.dtype to.device copy.default
""".split()
CREATED = """
full.default zeros.default ones.default new_full.default new_zeros.default new_ones.default
""".split()
ORDERED = """
arange.default arange.start arange.start_step eye.default linspace.default scalar_tensor.default
empty.memory_format new_empty.default
""".split()
RESHAPED = """
_unsafe_view.default flatten.using_ints reshape.default squeeze.default squeeze.dim squeeze.dims
unsqueeze.default view.default view_as.default unflatten.int
""".split()
REDUCED = """
amax.default amin.default mean.default mean.dim norm.ScalarOpt_dim std.correction sum.default
sum.dim_IntList var.correction var_mean.correction var_mean.dim linalg_vector_norm.default
max.default min.default std.dim var.dim logsumexp.default prod.default prod.dim_int
""".split()
PLACED = "argmax.default argmin.default max.dim min.dim any.default any.dim all.default all.dim"
WHOLE_ROWS = """
softmax.int _softmax.default _safe_softmax.default log_softmax.int _log_softmax.default
cumsum.default cumprod.default topk.default sort.default sort.stable argsort.default diff.default
""".split()

COUPLE: dict[str, Couple] = {
    **dict.fromkeys(RESIDUAL, elementwise.residual),
    **dict.fromkeys(UNARY, elementwise.unary),
    **dict.fromkeys(CREATED, elementwise.created),
    **dict.fromkeys(ORDERED, elementwise.ordered),
    "prelu.default": elementwise.prelu,
    "glu.default": elementwise.glu,
    "cat.default": elementwise.concatenated,
    "stack.default": elementwise.stacked,
    **dict.fromkeys(RESHAPED, movement.reshaped),
    "permute.default": movement.permuted,
    "transpose.int": movement.permuted,
    "t.default": movement.permuted,
    "expand.default": movement.expanded,
    "expand_as.default": movement.expanded,
    "repeat.default": movement.repeated,
    "tile.default": movement.repeated,
    "repeat_interleave.self_int": movement.interleaved,
    "slice.Tensor": movement.sliced,
    "select.int": movement.selected,
    "split.Tensor": movement.divided,
    "split_with_sizes.default": movement.divided,
    "chunk.default": movement.divided,
    "unbind.int": movement.unbound,
    "flip.default": movement.flipped,
    "roll.default": movement.rolled,
    "constant_pad_nd.default": movement.padded,
    "embedding.default": movement.embedded,
    "index.Tensor": movement.indexed,
    "_unsafe_index.Tensor": movement.indexed,
    "index_select.default": movement.index_selected,
    "upsample_nearest2d.vec": movement.spatial(2),
    "upsample_nearest2d.default": movement.spatial(2),
    "upsample_bilinear2d.vec": movement.spatial(2),
    "upsample_bilinear2d.default": movement.spatial(2),
    "reflection_pad1d.default": movement.spatial(1),
    "reflection_pad2d.default": movement.spatial(2),
    "replication_pad2d.default": movement.spatial(2),
    "tril.default": movement.spatial(2),
    "triu.default": movement.spatial(2),
    "channel_shuffle.default": movement.shuffled,
    "pixel_shuffle.default": movement.pixels_from_channels,
    "pixel_unshuffle.default": movement.channels_from_pixels,
    **dict.fromkeys(REDUCED, rows.reduced),
    **dict.fromkeys(PLACED.split(), rows.placed),
    **dict.fromkeys(WHOLE_ROWS, rows.whole_rows),
    "layer_norm.default": rows.layer_norm,
    "native_layer_norm.default": rows.layer_norm,
    "rms_norm.default": rows.layer_norm,
    "_fused_rms_norm.default": rows.layer_norm,
    "batch_norm.default": rows.batch_norm,
    "_native_batch_norm_legit_no_training.default": rows.batch_norm,
    "instance_norm.default": rows.batch_norm,
    "group_norm.default": rows.group_norm,
    "native_group_norm.default": rows.group_norm,
    "_weight_norm.default": rows.weight_norm,
    "_weight_norm_interface.default": rows.weight_norm,
    "adaptive_avg_pool1d.default": rows.pooled(1),
    "avg_pool1d.default": rows.pooled(1),
    "max_pool1d.default": rows.pooled(1),
    "_adaptive_avg_pool2d.default": rows.pooled(2),
    "adaptive_avg_pool2d.default": rows.pooled(2),
    "adaptive_max_pool2d.default": rows.pooled(2),
    "avg_pool2d.default": rows.pooled(2),
    "max_pool2d.default": rows.pooled(2),
    "max_pool2d_with_indices.default": rows.pooled(2),
    "max_pool3d.default": rows.pooled(3),
    "avg_pool3d.default": rows.pooled(3),
    "linear.default": products.linear,
    "mm.default": products.matrix,
    "bmm.default": products.matrix,
    "matmul.default": products.matrix,
    "addmm.default": products.matrix_plus,
    "baddbmm.default": products.matrix_plus,
    "scaled_dot_product_attention.default": products.attention,
    **dict.fromkeys(
        [
            "conv1d.default",
            "conv2d.default",
            "conv3d.default",
            "conv1d.padding",
            "conv2d.padding",
        ],
        products.convolution,
    ),
    **dict.fromkeys(
        ["conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"],
        products.transposed_convolution,
    ),
    "convolution.default": products.general_convolution,
}


def couple_of(name: str, kind: Kind) -> Couple | None:
    """The rule of an operator; elementwise ones share theirs. None where none is known."""
    own = COUPLE.get(name.removeprefix("aten."))
    if name == "getitem":
        return movement.item
    return elementwise.elementwise if own is None and kind == Kind.ELEMENTWISE else own
