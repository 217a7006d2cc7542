"""Which arguments of an operator hold sizes, and change when what it reads is cut."""

from effc.ir.coupling import resize
from effc.ir.opspec import Resize

RESIZE: dict[str, Resize] = {
    **dict.fromkeys(
        [
            "_unsafe_view.default",
            "view.default",
            "expand.default",
            "full.default",
            "zeros.default",
            "ones.default",
            "new_full.default",
            "new_zeros.default",
            "new_ones.default",
        ],
        resize.sized("size"),
    ),
    "reshape.default": resize.sized("shape"),
    "unflatten.int": resize.sized("sizes"),
    "slice.Tensor": resize.sliced,
    "split.Tensor": resize.divided,
    "split_with_sizes.default": resize.divided,
    "chunk.default": resize.divided,
    "constant_pad_nd.default": resize.padded,
    "layer_norm.default": resize.normalized,
    "native_layer_norm.default": resize.normalized,
    "rms_norm.default": resize.normalized,
    "_fused_rms_norm.default": resize.normalized,
    "group_norm.default": resize.grouped("num_groups", "input"),
    "native_group_norm.default": resize.native_group_norm,
    "channel_shuffle.default": resize.grouped("groups", "self"),
    **dict.fromkeys(
        [
            "conv1d.default",
            "conv2d.default",
            "conv3d.default",
            "conv1d.padding",
            "conv2d.padding",
            "conv_transpose1d.default",
            "conv_transpose2d.input",
            "conv_transpose3d.input",
            "convolution.default",
        ],
        resize.grouped("groups", "input"),
    ),
    "scaled_dot_product_attention.default": resize.attention,
}


def resize_of(name: str) -> Resize | None:
    """The rule of an operator; None for one without sizes among its arguments."""
    return RESIZE.get(name.removeprefix("aten."))
