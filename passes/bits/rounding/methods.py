"""Every way to choose the codes of a weight that `quantize-weights` stores, by name."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch

from effc.ir.encoding import pack_codes
from effc.ir.float_formats import LARGEST
from effc.passes.bits.grouped import SCALE, SCHEMES, WHOLE, Grouped, Job, Joined, nearest
from effc.passes.bits.rounding.adaround import AdaRound
from effc.passes.bits.rounding.codecs import Codec, IntegerCodec, TableCodec
from effc.passes.bits.rounding.fitted import Fitted, nearest_fit
from effc.passes.bits.rounding.gptq import Gptq
from effc.passes.bits.rounding.grid import Matrix
from effc.passes.bits.rounding.hqq import Hqq
from effc.passes.bits.rounding.slim_llm import SlimLlm
from effc.passes.bits.ternary import ternary

Method = Literal["nearest", "hqq", "gptq", "slim-llm", "adaround"]
METHODS: tuple[str, ...] = get_args(Method)
NEEDS_DATA = ("gptq", "slim-llm", "adaround")
SCALES = {"bfloat16": SCALE, "e8m0": torch.float8_e8m0fnu, "e4m3": torch.float8_e4m3fn}
LARGEST_SCALE = 448.0
SAMPLED_ROWS = 512


def rounded_by(method: str, job: Job) -> Joined:
    """The weight of a job in codes chosen by a method.

    Planes are fitted by PTQTP whatever the method. Methods that look at data round to nearest where
    a layer has none.
    """
    if job.form.scheme == "ternary":
        return Joined((ternary(job),))
    if method == "nearest" and job.form.scheme == "int" and job.form.group != WHOLE:
        return Joined((nearest(job),))
    weight = job.weight.detach().double().numpy()
    if job.form.group == WHOLE:
        return Joined((packed(whole(codec_of(job), weight), job.form.symmetric),))
    wanted = method if job.inputs is not None or method not in NEEDS_DATA else "nearest"
    found = ROUND[wanted](job, weight)
    return Joined(tuple(packed(run, job.form.symmetric) for run in found.runs()))


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
    """GPTQ on the second moments of what the layer reads."""
    search, moment = job.search, moment_of(job)
    options = Gptq(job.form.bits, job.group, search.act_order, search.damping, codec=codec_of(job))
    return options.fitted(compensated(job, weight), moment)


def by_slim_llm(job: Job, weight: Matrix) -> Fitted:
    """Bits per group of columns from salience, then GPTQ."""
    form, search, moment = job.form, job.search, moment_of(job)
    weight = compensated(job, weight)
    method = SlimLlm(form.bits, job.group, form.symmetric, search.damping)
    codecs = method.codecs(weight, moment, sampled_inputs(job))
    options = Gptq(form.bits, job.group, search.act_order, search.damping, codecs=codecs)
    return options.fitted(weight, moment)


def by_adaround(job: Job, weight: Matrix) -> Fitted:
    """Rounding up or down as learned from the output of the layer."""
    start = nearest_fit(codec_of(job), weight, job.group, np.diag(moment_of(job)))
    return AdaRound().fitted(compensated(job, weight), moment_of(job), start)


def compensated(job: Job, weight: Matrix) -> Matrix:
    """The weight, changed to make up for a share of the error of the inputs.

    Quantization error propagation (Y. Arai, Y. Ichikawa, 2025, arXiv 2504.09629).
    """
    search = job.search
    if job.inputs is None or not search.compensation:
        return weight
    wanted = job.inputs.target(weight, search.damping)
    return np.asarray(weight + search.compensation * (wanted - weight))


def moment_of(job: Job) -> Matrix:
    """Second moments of what the layer reads."""
    if job.inputs is None:
        raise AssertionError("a method that needs data got none")
    return job.inputs.moment


def sampled_inputs(job: Job) -> Matrix:
    """Rows that the layer reads, evenly spread over the data: float64 [tokens, features]."""
    if job.inputs is None:
        raise AssertionError("a method that needs data got none")
    rows = torch.cat([one.reshape(-1, one.shape[-1]) for one in job.inputs.now])
    return np.asarray(rows[:: max(1, len(rows) // SAMPLED_ROWS)].double().numpy())


ROUND: dict[str, Callable[[Job, Matrix], Fitted]] = {
    "nearest": by_nearest, "hqq": by_hqq, "gptq": by_gptq, "slim-llm": by_slim_llm,
    "adaround": by_adaround,
}  # fmt: skip


def packed(fitted: Fitted, is_symmetric: bool) -> Grouped:
    """Codes, scales and zero points as `effc.dequantize_grouped` reads them."""
    codec, features = fitted.codec, fitted.codes.shape[1]
    codes = pack_codes(torch.from_numpy(fitted.codes), codec.bits)
    scale = torch.from_numpy(fitted.scale).float()
    if isinstance(codec, TableCodec):
        stored = scale.to(SCALES[codec.scales])
        return Grouped(codes, stored, None, codec.bits, fitted.group, features, codec.table)
    zeros = torch.from_numpy(fitted.zero).to(torch.int64)
    zero_point = None if is_symmetric else pack_codes(zeros, codec.bits)
    return Grouped(codes, scale.to(SCALE), zero_point, codec.bits, fitted.group, features)
