"""Every way to choose the codes of a weight that `quantize-weights` stores, by name."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch

from effc.ir.encoding import pack_codes
from effc.ir.float_formats import LARGEST
from effc.passes.bits.grouped import SCALE, SCHEMES, WHOLE, Grouped, Job, nearest
from effc.passes.bits.rounding.codecs import Codec, IntegerCodec, TableCodec
from effc.passes.bits.rounding.fitted import Fitted, nearest_fit
from effc.passes.bits.rounding.gptq import Gptq
from effc.passes.bits.rounding.grid import Matrix
from effc.passes.bits.rounding.hqq import Hqq
from effc.passes.bits.ternary import ternary

Method = Literal["nearest", "hqq", "gptq"]
METHODS: tuple[str, ...] = get_args(Method)
NEEDS_DATA = ("gptq",)
SCALES = {"bfloat16": SCALE, "e8m0": torch.float8_e8m0fnu, "e4m3": torch.float8_e4m3fn}
LARGEST_SCALE = 448.0


def rounded_by(method: str, job: Job) -> Grouped:
    """The weight of a job in codes chosen by a method.

    Planes are fitted by PTQTP whatever the method. Where a layer has no data, the diagonal of its
    second moments is unknown, and `gptq` is rounding to nearest.
    """
    if job.form.scheme == "ternary":
        return ternary(job)
    if method == "nearest" and job.form.scheme == "int" and job.form.group != WHOLE:
        return nearest(job)
    weight = job.weight.detach().double().numpy()
    if job.form.group == WHOLE:
        return packed(whole(codec_of(job), weight), job)
    return packed(ROUND[method](job, weight), job)


def codec_of(job: Job) -> Codec:
    """The format of the weight of a job."""
    form, is_clipped = job.form, job.form.observer == "mse"
    if form.scheme == "int":
        return IntegerCodec(form.bits, form.symmetric, is_clipped)
    table, scales, _ = SCHEMES[form.scheme]
    unit = 1.0
    if scales == "e4m3":
        largest = float(job.weight.detach().abs().max())
        unit = float(np.float32(largest / (LARGEST[table] * LARGEST_SCALE))) or 1.0
    return TableCodec(table, scales, unit, is_clipped)


def by_nearest(job: Job, weight: Matrix) -> Fitted:
    """Round to nearest."""
    return nearest_fit(codec_of(job), weight, job.group)


def whole(codec: Codec, weight: Matrix) -> Fitted:
    """Round to nearest with one scale for the whole weight."""
    found = nearest_fit(codec, weight.reshape(1, -1), 0)
    codes = found.codes.reshape(weight.shape)
    return Fitted(codec, codes, found.scale, found.zero, weight.shape[1])


def by_hqq(job: Job, weight: Matrix) -> Fitted:
    """Half-quadratic quantization, its zero points rounded to those that are stored."""
    bits, most = job.form.bits, (1 << job.form.bits) - 1
    grid = Hqq(bits, job.group).grid(weight)
    plain = Fitted.empty(IntegerCodec(bits, False), weight.shape, job.group)
    scale = torch.from_numpy(grid.scale).to(SCALE).double().numpy()
    zero = np.clip(np.round(grid.zero), 0, most)
    return Fitted(plain.codec, plain.codes, scale, zero, plain.group).recoded(weight)


def by_gptq(job: Job, weight: Matrix) -> Fitted:
    """GPTQ on the second moments of what the layer reads.

    The weight it starts from makes up for a share of the error of the inputs, as in quantization
    error propagation (Y. Arai, Y. Ichikawa, 2025, arXiv 2504.09629).
    """
    if job.inputs is None:
        return by_nearest(job, weight)
    search = job.search
    if search.compensation:
        wanted = job.inputs.target(weight, search.damping)
        weight = weight + search.compensation * (wanted - weight)
    options = Gptq(job.form.bits, job.group, search.act_order, search.damping, codec=codec_of(job))
    return options.fitted(weight, job.inputs.moment)


ROUND: dict[str, Callable[[Job, Matrix], Fitted]] = {
    "nearest": by_nearest, "hqq": by_hqq, "gptq": by_gptq,
}  # fmt: skip


def packed(fitted: Fitted, job: Job) -> Grouped:
    """Codes, scales and zero points as `effc.dequantize_grouped` reads them."""
    codec, form = fitted.codec, job.form
    codes = pack_codes(torch.from_numpy(fitted.codes), codec.bits)
    is_table = isinstance(codec, TableCodec)
    stored = SCALES[codec.scales] if isinstance(codec, TableCodec) else SCALE
    scale, zero = (torch.from_numpy(one) for one in (fitted.scale, fitted.zero))
    zero_point = None
    if not is_table and not form.symmetric:
        zero_point = pack_codes(zero.to(torch.int64), codec.bits)
    table = codec.table if isinstance(codec, TableCodec) else None
    return Grouped(
        codes, scale.float().to(stored), zero_point, codec.bits, fitted.group,
        job.weight.shape[1], table,
    )  # fmt: skip
