"""Attention on codes against its reference: masks, causal, grouped queries, blocks of keys."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from effc.ir.ops.attention import attention_integer
from effc.ir.testing import BOUND

STEP, FACTOR = 0.02, 2
WEIGHT = BOUND(1.001 * STEP * FACTOR)
"""One weight of at least 255 is a code too large or small: the mean moves by 1/255 of the values'
range, which is 255 steps."""
SIZES = [
    (2, 3, 3, 130, 130, 32, 32),
    (1, 2, 2, 7, 13, 9, 20),
    (2, 4, 2, 19, 19, 8, 72),
    (1, 1, 1, 1, 5, 64, 64),
    (1, 2, 1, 45, 300, 18, 33),
]


class Attention(nn.Module):
    """`scale` is large enough for weights from 0 to 255."""

    def __init__(self, is_causal=False, scale=None, block=64, zero_point=131) -> None:
        super().__init__()
        self.settings = (is_causal, scale)
        self.block = block
        for name, value in (("query", 0.05), ("key", 0.06), ("value", STEP)):
            self.register_buffer(f"{name}_scale", torch.tensor(value))
        for name in ("query", "value"):
            zero = torch.tensor(zero_point, dtype=torch.int32)
            self.register_buffer(f"{name}_zero_point", zero)

    def forward(self, q, k, v, mask=None):
        result = attention_integer(
            q, k, v, self.query_scale, self.query_zero_point, self.key_scale, self.value_scale,
            self.value_zero_point, mask, *self.settings, q.shape[1] != k.shape[1], True, self.block,
        )  # fmt: skip
        return result * FACTOR


def operands(sizes, seed=0):
    batch, heads, key_heads, length, source, features, columns = sizes
    generator = torch.Generator().manual_seed(seed)

    def codes(*shape):
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    return {
        "q": codes(batch, heads, length, features),
        "k": codes(batch, key_heads, source, features),
        "v": codes(batch, key_heads, source, columns),
    }


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention(compiled, target, sizes, is_causal):
    inputs = operands(sizes)
    compiled(Attention(is_causal, 0.01), inputs, target).check(inputs, WEIGHT)


@pytest.mark.parametrize("kind", ["keys", "square", "bias", "none seen"])
@pytest.mark.parametrize("sizes", [SIZES[0], SIZES[1]], ids=str)
def test_masked_attention(compiled, target, sizes, kind):
    inputs = operands(sizes)
    batch, length, source = sizes[0], sizes[3], sizes[4]
    generator = torch.Generator().manual_seed(0)
    if kind == "bias":
        mask = torch.randn(batch, 1, length, source, generator=generator)
        mask[..., source // 2 :] = -torch.inf
    else:
        mask = torch.rand(batch, 1, 1 if kind == "keys" else length, source, generator=generator)
        mask = mask > 0.4
        if kind == "none seen":
            mask[:, :, 1] = False
    inputs["mask"] = mask
    model = compiled(Attention(scale=0.01), inputs, target)
    model.check(inputs, WEIGHT)
    if kind == "none seen":
        (found,) = model.outputs(inputs).values()
        assert np.array_equal(found[:, :, 1], np.zeros_like(found[:, :, 1]))


def test_symbolic_attention(compiled, target):
    length = torch.export.Dim("length", min=1, max=200)
    dynamic = {**{name: {2: length} for name in "qkv"}, "mask": None}
    example = operands((1, 2, 2, 9, 9, 16, 16))
    model = compiled(Attention(True, 0.02), {**example, "mask": None}, target, dynamic)
    for size in (1, 5, 6, 63, 64, 65, 199):
        model.check(operands((1, 2, 2, size, size, 16, 16), size), WEIGHT)


@pytest.mark.parametrize("zero_point", [0, 131, 255])
def test_equal_scores_give_the_mean(compiled, target, zero_point):
    """Queries of zero points: exact sums, every weight 255."""
    inputs = operands((1, 2, 2, 7, 150, 36, 20))
    inputs["q"][:] = zero_point
    module = Attention(zero_point=zero_point)
    (found,) = compiled(module, inputs, target).outputs(inputs).values()
    values = inputs["v"].numpy().astype(np.int64) - zero_point
    mean = values.sum(2, keepdims=True) / 150 * STEP * FACTOR
    np.testing.assert_allclose(found, np.broadcast_to(mean, found.shape), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("block", [64, 128])
def test_one_key_far_ahead_gives_its_values(compiled, target, block):
    """All other weights are 0, whatever block they are in: the result is one exact product."""
    inputs = operands((1, 1, 1, 6, 150, 8, 24))
    inputs["q"][:], inputs["k"][:] = 255, 0
    inputs["k"][:, :, 77] = 255
    (found,) = compiled(Attention(scale=1.0, block=block), inputs, target).outputs(inputs).values()
    expected = (inputs["v"][:, :, 77:78].float() - 131) * STEP * FACTOR
    assert_rows = torch.from_numpy(found)
    torch.testing.assert_close(assert_rows, expected.expand_as(assert_rows), rtol=1e-6, atol=1e-6)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.tuples(
        st.integers(1, 2), st.integers(1, 2), st.integers(1, 20), st.integers(1, 150),
        st.integers(1, 40), st.integers(1, 80),
    ),
    st.booleans(), st.sampled_from([64, 256]), st.sampled_from(["native", "x86-64-v3"]),
)  # fmt: skip
def test_any_size(compiled, sizes, is_causal, block, target):
    batch, key_heads, length, source, features, columns = sizes
    inputs = operands((batch, 2 * key_heads, key_heads, length, source, features, columns))
    compiled(Attention(is_causal, 0.02, block), inputs, target).check(inputs, WEIGHT)
