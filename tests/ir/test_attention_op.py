"""The meaning of attention on codes against softmax attention of what the codes stand for."""

import numpy as np
import pytest
import torch

from effc.ir.ops.attention import LARGEST, attention_integer

SCALES = {"q": 0.03, "k": 0.05, "v": 0.02}
ZEROS = {"q": 120, "k": 140, "v": 100}


def random_codes(length: int, source: int) -> dict[str, np.ndarray]:
    made = np.random.default_rng(length)
    return {
        name: made.integers(0, 256, (1, 2, size, 16)).astype(np.uint8)
        for name, size in (("q", length), ("k", source), ("v", source))
    }


def attended(codes, mask=None, is_causal=False, block=32, heads_inside=False):
    tensors = {name: torch.from_numpy(value) for name, value in codes.items()}
    scale = {name: torch.tensor(value) for name, value in SCALES.items()}
    zero = {name: torch.tensor(value, dtype=torch.int32) for name, value in ZEROS.items()}
    return attention_integer(
        tensors["q"], tensors["k"], tensors["v"], scale["q"], zero["q"], scale["k"], scale["v"],
        zero["v"], mask, is_causal, 0.02, False, heads_inside, block,
    )  # fmt: skip


def softmax_of(codes, mask=None):
    """Exponentials relative to the largest, the values, and their mean, in float64."""
    q, k, v = ((codes[n].astype(np.float64) - ZEROS[n]) * SCALES[n] for n in "qkv")
    scores = q @ k.transpose(0, 1, 3, 2) * 0.02
    scores = scores if mask is None else np.where(mask, scores, -np.inf)
    grown = np.exp(scores - scores.max(-1, keepdims=True))
    return grown, v, grown @ v / grown.sum(-1, keepdims=True)


@pytest.mark.parametrize("block", [16, 32, 100])
@pytest.mark.parametrize("is_causal", [False, True])
def test_error_is_that_of_half_a_code_per_weight(block, is_causal):
    """A weight is wrong by at most half a code, relative to the largest score of all."""
    codes = random_codes(20, 70)
    mask = np.tril(np.ones((20, 70), bool)) if is_causal else None
    grown, v, expected = softmax_of(codes, mask)
    found = attended(codes, is_causal=is_causal, block=block).double().numpy()
    seen = np.ones((20, 70)) if mask is None else mask
    total = grown.sum(-1, keepdims=True)
    wrong = 0.5 / LARGEST * seen.sum(-1)[:, None] / (total - 0.5 / LARGEST * seen.sum(-1)[:, None])
    assert (np.abs(found - expected) <= wrong * 2 * np.abs(v).max() + 1e-6).all()


def test_weights_are_finer_in_blocks_of_small_scores():
    """What a block adds up does not drown because another block has larger scores."""
    codes = random_codes(8, 64)
    codes["q"][:], codes["k"][:] = 255, 0
    codes["k"][:, :, 0] = 110  # e^-6.3 would be code 0 beside the largest
    _, _, expected = softmax_of(codes)
    coarse, fine = (np.abs(attended(codes, block=b).numpy() - expected).max() for b in (64, 32))
    assert fine < coarse / 1.9


def test_a_query_that_sees_nothing_gives_zero():
    mask = torch.ones(8, 40, dtype=torch.bool)
    mask[3] = False
    found = attended(random_codes(8, 40), mask)
    assert torch.equal(found[:, :, 3], torch.zeros(1, 2, 16))
    assert bool((found[:, :, 2] != 0).any())


def test_layout_of_the_result():
    codes = random_codes(8, 40)
    inside = attended(codes, heads_inside=True)
    assert inside.transpose(1, 2).is_contiguous()
    assert torch.equal(inside, attended(codes))
