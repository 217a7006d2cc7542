"""Elementwise operators, creation of tensors, and integer arithmetic on sizes."""

from effc.ir.opspec import Kind, OpSpec

CHEAP = """
abs.default add.Tensor add.Scalar bitwise_and.Tensor bitwise_not.default bitwise_or.Tensor
bitwise_xor.Tensor __and__.Tensor __or__.Tensor ceil.default clamp.default clamp.Tensor
clamp_max.default clamp_min.default eq.Scalar eq.Tensor floor.default floor_divide.default
floor_divide.Scalar ge.Scalar ge.Tensor gt.Scalar gt.Tensor hardtanh.default hardsigmoid.default
hardswish.default isinf.default isnan.default le.Scalar le.Tensor leaky_relu.default
logical_and.default logical_not.default logical_or.default logical_xor.default lt.Scalar lt.Tensor
masked_fill.Scalar masked_fill.Tensor max.other maximum.default min.other minimum.default
mul.Scalar mul.Tensor ne.Scalar ne.Tensor nan_to_num.default __xor__.Tensor neg.default
prelu.default reciprocal.default relu.default
relu6.default remainder.Scalar remainder.Tensor fmod.Scalar fmod.Tensor round.default rsub.Scalar
rsub.Tensor sgn.default sign.default sub.Scalar sub.Tensor trunc.default where.ScalarOther
where.ScalarSelf where.Scalar where.self addcmul.default addcdiv.default lerp.Scalar lerp.Tensor
square.default fill.Scalar fill.Tensor threshold.default bitwise_left_shift.Tensor
bitwise_right_shift.Tensor bitwise_left_shift.Tensor_Scalar bitwise_right_shift.Tensor_Scalar
__lshift__.Tensor __lshift__.Scalar __rshift__.Tensor __rshift__.Scalar bitwise_and.Scalar
bitwise_or.Scalar bitwise_xor.Scalar __and__.Scalar __or__.Scalar __xor__.Scalar
""".split()

COSTLY = """
acos.default acosh.default asin.default asinh.default atan.default atanh.default
 atan2.default cos.default cosh.default div.Scalar div.Tensor
div.Tensor_mode div.Scalar_mode elu.default erf.default exp.default exp2.default expm1.default
gelu.default log.default log10.default log1p.default log2.default log_sigmoid.default mish.default
pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor rsqrt.default selu.default celu.default
sigmoid.default silu.default sin.default sinh.default softplus.default softsign.default
sqrt.default tan.default tanh.default glu.default true_divide.Tensor
""".split()

CASTS = ["_to_copy.default", "to.dtype", "to.device", "type_as.default"]

CREATE = """
arange.default arange.start arange.start_step empty.memory_format full.default full_like.default
lift_fresh_copy.default new_empty.default new_full.default new_ones.default new_zeros.default
ones.default ones_like.default scalar_tensor.default zeros.default zeros_like.default eye.default
empty_like.default linspace.default
""".split()

EFFC = {
    "effc.quantize.default": OpSpec(Kind.ELEMENTWISE, flops=3),
    "effc.quantize_scaled.default": OpSpec(Kind.ELEMENTWISE, flops=3),
    "effc.requantize.default": OpSpec(Kind.ELEMENTWISE, flops=4),
    "effc.interpolate.default": OpSpec(Kind.ELEMENTWISE, flops=4),
    "effc.dequantize.default": OpSpec(Kind.ELEMENTWISE, flops=2),
    "effc.round_float.default": OpSpec(Kind.ELEMENTWISE, flops=6),
    "effc.fused_multiply_add.default": OpSpec(Kind.ELEMENTWISE, flops=2),
}

SCALARS = """
aten.sym_size.int aten.sym_numel.default aten.sym_stride.int operator.add operator.sub operator.mul
operator.floordiv operator.mod operator.neg operator.truediv operator.eq operator.ne operator.lt
operator.le operator.gt operator.ge operator.and_ operator.or_ operator.not_ math.trunc math.ceil
math.floor torch.sym_max torch.sym_min torch.sym_float torch.sym_int torch.sym_not torch.sym_ite
""".split()

TABLE: dict[str, OpSpec] = {
    **{f"aten.{name}": OpSpec(Kind.ELEMENTWISE, flops=1) for name in CHEAP},
    **{f"aten.{name}": OpSpec(Kind.ELEMENTWISE, flops=10) for name in COSTLY},
    **{f"aten.{name}": OpSpec(Kind.ELEMENTWISE) for name in CASTS},
    **{f"aten.{name}": OpSpec(Kind.CREATE) for name in CREATE},
    **{name: OpSpec(Kind.SCALAR) for name in SCALARS},
    **EFFC,
}
