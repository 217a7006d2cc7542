"""Each way to round beside an independent implementation in plain numpy."""

import numpy as np
import pytest
import torch

from effc.ir.errors import DataError
from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.second_moments import grouped, moments_of
from effc.passes.bits.rounding import gptq
from effc.passes.bits.rounding.awq import Awq
from effc.passes.bits.rounding.clipping import SHARES, Clipped
from effc.passes.bits.rounding.codecs import IntegerCodec
from effc.passes.bits.rounding.fitted import nearest_fit
from effc.passes.bits.rounding.gptq import Gptq, upper_inverse
from effc.passes.bits.rounding.grid import asymmetric, symmetric
from effc.passes.bits.rounding.hqq import Hqq
from effc.passes.bits.rounding.strategies import ROUNDINGS, rounded_weight

ROWS, COLUMNS = 6, 20


@pytest.fixture
def layer():
    """A weight, and second moments of inputs of different size that go together."""
    draw = np.random.default_rng(0)
    mixing = draw.standard_normal((COLUMNS, COLUMNS))
    x = draw.standard_normal((200, COLUMNS)) @ mixing * draw.lognormal(0, 1, COLUMNS)
    return draw.standard_normal((ROWS, COLUMNS)), x.T @ x


def output_error(weight, rounded, moment):
    change = rounded - weight
    return np.trace(change @ moment @ change.T)


def nearest(values, scale, largest):
    return np.clip(np.round(values / scale), -largest, largest) * scale


def bfloat16(value):
    return float(torch.tensor(value if abs(value) > 1e-38 else 1.0).to(torch.bfloat16))


def best_range(part, worth, bits, is_symmetric):
    """The scale and zero point of least weighed error, value by value."""
    middle, most = 2 ** (bits - 1), 2**bits - 1
    shares = [1.0 - 0.02 * step for step in range(26)]
    largest, sign = np.abs(part).max(), -1.0 if part.max() >= np.abs(part).max() else 1.0
    low, high = min(part.min(), 0), max(part.max(), 0)
    if is_symmetric:
        tried = [(bfloat16(largest * share / (middle - 1)), middle) for share in shares]
        tried += [(bfloat16(sign * largest * share / middle), middle) for share in shares]
    else:
        scales = [(bfloat16((high - low) * share / most), share) for share in shares]
        tried = [(s, np.clip(np.round(-low * share / s), 0, most)) for s, share in scales]
    errors = [
        sum(w * (on_grid(x, s, z, most) - x) ** 2 for x, w in zip(part, worth, strict=True))
        for s, z in tried
    ]
    return tried[int(np.argmin(errors))]


def on_grid(value, scale, zero, most):
    return (np.clip(np.round(value / scale) + zero, 0, most) - zero) * scale


def eliminated(weight, moment, bits, group, order, is_symmetric=True):
    """Optimal brain quantization: one column at a time, the inverse shrunk by elimination."""
    inverse = np.linalg.inv(moment + 0.01 * np.diag(moment).mean() * np.eye(COLUMNS))
    work, found, ranges = weight.copy(), np.zeros_like(weight), {}
    left = list(order)
    for column in order:
        number = column // group
        here = slice(number * group, (number + 1) * group)
        if number not in ranges:
            worth = np.diag(moment)[here]
            ranges[number] = [best_range(row[here], worth, bits, is_symmetric) for row in work]
        for row, (scale, zero) in enumerate(ranges[number]):
            found[row, column] = on_grid(work[row, column], scale, zero, 2**bits - 1)
        error = (work[:, column] - found[:, column]) / inverse[column, column]
        for other in left:
            work[:, other] = work[:, other] - error * inverse[column, other]
        row = inverse[column].copy()
        inverse = inverse - np.outer(row, row) / row[column]
        left.remove(column)
    return found


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group", [5, 20])
@pytest.mark.parametrize("block", [1, 7, 128])
def test_gptq(layer, bits, group, block):
    weight, moment = layer
    found = Gptq(bits, group, block=block).rounded(weight, moment)
    expected = eliminated(weight, moment, bits, group, range(COLUMNS))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    plain = nearest_fit(IntegerCodec(bits), weight, group).restored()
    assert output_error(weight, found, moment) < output_error(weight, plain, moment)


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("block", [3, 128])
def test_gptq_with_columns_of_large_inputs_first(layer, block, is_symmetric):
    weight, moment = layer
    size = np.diag(moment)
    groups = sorted(range(4), key=lambda number: -size[number * 5 : number * 5 + 5].sum())
    order = [c for g in groups for c in sorted(range(g * 5, g * 5 + 5), key=lambda c: -size[c])]
    codec = IntegerCodec(3, is_symmetric)
    found = Gptq(3, 5, act_order=True, block=block, codec=codec).rounded(weight, moment)
    expected = eliminated(weight, moment, 3, 5, order, is_symmetric)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_gptq_where_inputs_are_missing_or_repeat(layer):
    weight, moment = layer
    moment[3], moment[:, 3] = 0, 0
    found = Gptq(4, 5).rounded(weight, moment)
    assert (found[:, 3] == 0).all()
    assert np.isfinite(found).all()
    ones = np.ones((COLUMNS, COLUMNS))
    assert np.isfinite(Gptq(4, 5, damping=1e-12).rounded(weight, ones)).all()
    nothing = Gptq(4, 5).rounded(weight, np.zeros((COLUMNS, COLUMNS)))
    assert (nothing == 0).all()


def test_gptq_damps_more_until_it_can_invert(layer, monkeypatch):
    _, moment = layer
    tried = []
    original = np.linalg.cholesky

    def failing(matrix):
        tried.append(matrix)
        if len(tried) < 3:
            raise np.linalg.LinAlgError
        return original(matrix)

    monkeypatch.setattr(gptq.np.linalg, "cholesky", failing)
    upper = upper_inverse(moment, 0.01)
    mean = np.diag(moment).mean()
    expected = np.linalg.inv(moment + 1.0 * mean * np.eye(COLUMNS))  # 0.01 ten times ten
    np.testing.assert_allclose(upper.T @ upper, expected, rtol=1e-6)
    monkeypatch.setattr(gptq.np.linalg, "cholesky", lambda matrix: failing_always())
    with pytest.raises(DataError, match="cannot be inverted; give more data"):
        upper_inverse(moment, 0.01)


def failing_always():
    raise np.linalg.LinAlgError


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("group", [5, 20])
def test_hqq(layer, bits, group):
    weight, _ = layer
    found, largest = Hqq(bits, group).rounded(weight), 2**bits - 1
    scales, zeros, groups = [], [], []
    for row in weight:
        for first in range(0, COLUMNS, group):
            part = row[first : first + group]
            low, high = min(part.min(), 0), max(part.max(), 0)
            groups.append(part)
            scales.append((high - low) / largest)
            zeros.append(np.round(-low / scales[-1]))
    best, least, beta = list(zeros), np.inf, 10.0
    for _ in range(20):
        errors = []
        for at, part in enumerate(groups):
            codes = np.clip(np.round(part / scales[at] + zeros[at]), 0, largest)
            errors.append(part - (codes - zeros[at]) * scales[at])
        mean = np.abs(errors).mean()
        if mean >= least:
            break
        best, least = list(zeros), mean
        for at, part in enumerate(groups):
            codes = np.clip(np.round(part / scales[at] + zeros[at]), 0, largest)
            size = np.maximum(np.abs(errors[at]), 1e-12)
            outlier = np.sign(errors[at]) * np.maximum(size - size ** (-0.3) / beta, 0)
            zeros[at] = np.mean(codes - (part - outlier) / scales[at])
        beta *= 1.01
    expected = [
        (np.clip(np.round(part / scale + zero), 0, largest) - zero) * scale
        for part, scale, zero in zip(groups, scales, best, strict=True)
    ]
    np.testing.assert_allclose(found, np.reshape(expected, weight.shape), atol=1e-9)
    plain = asymmetric(weight, bits, group).rounded(weight)
    assert np.abs(found - weight).mean() <= np.abs(plain - weight).mean()


@pytest.mark.parametrize("group", [5, 20])
def test_awq(layer, group):
    weight, moment = layer
    found, errors, tried = Awq(3, group).rounded(weight, moment), [], []
    size = np.sqrt(np.diag(moment))
    for step in range(20):
        scale = (size / size.max()) ** (step / 20)
        scale = scale / np.sqrt(scale.max() * scale.min())
        result = np.zeros_like(weight)
        for row in range(ROWS):
            for first in range(0, COLUMNS, group):
                here = slice(first, first + group)
                part = weight[row, here] * scale[here]
                result[row, here] = nearest(part, np.abs(part).max() / 3, 3) / scale[here]
        tried.append(result)
        errors.append(output_error(weight, result, moment))
    np.testing.assert_allclose(found, tried[int(np.argmin(errors))], atol=1e-9)
    assert min(errors) < errors[0]


@pytest.mark.parametrize("group", [0, 5, 8])
def test_clipping(layer, group):
    weight, _ = layer
    found = Clipped(3, group).rounded(weight)
    for row in range(ROWS):
        for first in range(0, COLUMNS, group or COLUMNS):
            here = slice(first, first + (group or COLUMNS))
            part, whole = weight[row, here], np.abs(weight[row, here]).max() / 3
            tried = [nearest(part, whole * share, 3) for share in SHARES]
            least = min(((one - part) ** 2).sum() for one in tried)
            assert ((found[row, here] - part) ** 2).sum() == pytest.approx(least)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("net", ["feed", "images", "words"])
def test_parts_of_every_kind(rounding, net, request, study_of):
    study, form = study_of(request.getfixturevalue(net)), Form(3, 32, 4)
    for part in study.parts:
        moments = moments_of(study, part)
        found = rounded_weight(part, form, rounding, moments)
        assert found.shape == part.weight.shape
        assert found.dtype == torch.float32
        if moments is None:
            continue
        rows = grouped(part.weight, len(moments.whole))
        plain = np.concatenate([symmetric(one, 3, 4).rounded(one) for one in rows])
        plain = torch.from_numpy(plain).reshape(part.weight.shape)
        if rounding in ("gptq", "awq"):
            assert moments.energy(found - part.weight) <= 1.02 * moments.energy(plain - part.weight)


def test_weights_of_zeros(layer):
    _, moment = layer
    zeros = np.zeros((ROWS, COLUMNS))
    for found in (Gptq(3, 5).rounded(zeros, moment), Hqq(3, 5).rounded(zeros),
                  Awq(3, 5).rounded(zeros, moment), Clipped(3, 5).rounded(zeros)):  # fmt: skip
        assert (found == 0).all()
