import numpy as np
import pytest
import torch
from torch.export import Dim

from zoo.transformer import Attention, Config, Decoder, initialise, rotary_tables, rotate

SMALL = Config(hidden=32, layers=2, heads=4, key_heads=2, feed_forward=48, context=64)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    model = Decoder(SMALL)
    initialise(model)
    return model.eval()


def test_rotation_is_a_product_of_complex_numbers():
    x = torch.randn(2, 3, 10, SMALL.head_size, dtype=torch.float64)
    half = SMALL.head_size // 2
    rates = np.array([10_000.0 ** (-2 * i / SMALL.head_size) for i in range(half)])
    turns = torch.from_numpy(np.exp(1j * np.arange(10)[:, None] * rates))
    turned = torch.complex(x[..., :half], x[..., half:]) * turns
    cosine, sine = (table[:10].double() for table in rotary_tables(SMALL))
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    torch.testing.assert_close(rotate(x, cosine, sine), expected, atol=1e-6, rtol=0)


def test_attention_shares_keys_as_written_out():
    torch.manual_seed(0)
    attention = Attention(SMALL)
    x = torch.randn(1, 6, SMALL.hidden)
    no_turn = torch.ones(6, SMALL.head_size), torch.zeros(6, SMALL.head_size)
    size = SMALL.head_size
    heads = []
    for head in range(4):
        shared = slice(head // 2 * size, (head // 2 + 1) * size)
        query = attention.query(x)[0, :, head * size : (head + 1) * size]
        key, value = attention.key(x)[0, :, shared], attention.value(x)[0, :, shared]
        scores = query @ key.T / size**0.5
        future = torch.ones(6, 6, dtype=torch.bool).triu(1)
        heads.append(scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ value)
    expected = attention.output(torch.cat(heads, dim=-1))[None]
    torch.testing.assert_close(attention(x, *no_turn), expected, atol=1e-6, rtol=1e-5)


def test_later_byte_changes_no_earlier_logits(decoder):
    tokens = torch.randint(0, 256, (1, 40))
    changed = tokens.clone()
    changed[0, 25] = (tokens[0, 25] + 1) % 256
    before, after = decoder(tokens), decoder(changed)
    torch.testing.assert_close(before[:, :25], after[:, :25], atol=1e-6, rtol=0)
    assert not torch.allclose(before[:, 25:], after[:, 25:], atol=1e-4)


def test_only_distances_between_positions_matter(decoder):
    attention, x = decoder.blocks[0].attention, torch.randn(1, 8, SMALL.hidden)
    cosine, sine = rotary_tables(SMALL)
    near, far = attention(x, cosine[:8], sine[:8]), attention(x, cosine[30:38], sine[30:38])
    torch.testing.assert_close(near, far, atol=1e-6, rtol=0)


def test_export_keeps_attention_whole_and_shapes_open(decoder):
    shapes = {"input_ids": {0: Dim("batch", min=1, max=32), 1: Dim("seq", min=2, max=64)}}
    tokens = torch.randint(0, 256, (2, 16))
    exported = torch.export.export(decoder, (tokens,), dynamic_shapes=shapes)
    program = exported.run_decompositions({})
    names = [str(node.target) for node in program.graph.nodes]
    assert names.count("aten.scaled_dot_product_attention.default") == SMALL.layers
    for shape in ((1, 2), (3, 63), (5, 64)):
        tokens = torch.randint(0, 256, shape)
        torch.testing.assert_close(program.module()(tokens), decoder(tokens), atol=1e-5, rtol=1e-5)
