"""Reductions, pooling, norms, softmax: operators that read several elements per output."""

from effc.ir.opspec import Kind, OpSpec

REDUCTIONS = """
all.default all.dim amax.default amin.default any.default any.dim argmax.default argmin.default
cumsum.default logsumexp.default max.dim mean.default mean.dim min.dim norm.ScalarOpt_dim
prod.default prod.dim_int std.correction sum.default sum.dim_IntList var.correction
var_mean.correction var_mean.dim linalg_vector_norm.default topk.default sort.default sort.stable
max.default min.default argsort.default cumprod.default diff.default std.dim var.dim
""".split()

POOLS = """
_adaptive_avg_pool2d.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
adaptive_max_pool2d.default avg_pool1d.default avg_pool2d.default max_pool1d.default
max_pool2d.default max_pool2d_with_indices.default max_pool3d.default avg_pool3d.default
""".split()

ROWS = """
_log_softmax.default _weight_norm.default _weight_norm_interface.default _softmax.default
_safe_softmax.default group_norm.default instance_norm.default layer_norm.default log_softmax.int
native_group_norm.default native_layer_norm.default rms_norm.default _fused_rms_norm.default
softmax.int
""".split()

TABLE: dict[str, OpSpec] = {
    **{f"aten.{name}": OpSpec(Kind.REDUCE, flops=1) for name in REDUCTIONS},
    **{f"aten.{name}": OpSpec(Kind.REDUCE, flops=9) for name in POOLS},
    **{f"aten.{name}": OpSpec(Kind.ROW, flops=8) for name in ROWS},
    "aten._native_batch_norm_legit_no_training.default": OpSpec(Kind.ELEMENTWISE, flops=2),
    "aten.batch_norm.default": OpSpec(Kind.ELEMENTWISE, flops=2),
    "effc.quantize_dynamic.default": OpSpec(Kind.ROW, flops=5),
    "effc.quantize_symmetric.default": OpSpec(Kind.ROW, flops=4),
}
