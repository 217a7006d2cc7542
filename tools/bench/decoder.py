"""One decoding step of the zoo's language model, with its keys and values as inputs."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.trace.exported import program_of
from zoo.language_model import held_out_windows, language_model
from zoo.transformer import Attention, Decoder, rotate

PAST = 255


class Step(nn.Module):
    """The decoder on one token behind `PAST` others."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Score the next byte.

        Args:
            token: int64 `[1, 1]`.
            keys: `[layers, 1, key heads, PAST, head size]`, rotated.
            values: Of the same shape.

        Returns:
            Logits `[1, 1, vocabulary]`, then the token's keys and values.
        """
        model = self.model
        tables = model.cosine[PAST : PAST + 1], model.sine[PAST : PAST + 1]
        x, new_keys, new_values = model.embedding(token), [], []
        for layer, block in enumerate(model.blocks):
            normed = block.attention_norm(x)
            key, value = keyed(block.attention, normed, *tables)
            every_key = torch.cat([keys[layer], key], 2)
            every_value = torch.cat([values[layer], value], 2)
            x = x + attended(block.attention, normed, every_key, every_value, *tables)
            x = x + block.feed_forward(block.feed_forward_norm(x))
            new_keys.append(key)
            new_values.append(value)
        return model.head(model.norm(x)), torch.stack(new_keys), torch.stack(new_values)


def keyed(attention: Attention, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Rotated keys and values of some tokens, `[batch, key heads, tokens, head size]`."""
    key = rotate(attention.split(attention.key(x)), cosine, sine)
    return key, attention.split(attention.value(x))


def attended(
    attention: Attention, x: Tensor, keys: Tensor, values: Tensor, cosine: Tensor, sine: Tensor
) -> Tensor:
    """What the tokens `x [batch, tokens, hidden]` read of all keys and values."""
    query = rotate(attention.split(attention.query(x)), cosine, sine)
    mixed = functional.scaled_dot_product_attention(query, keys, values, enable_gqa=True)
    output: Tensor = attention.output(mixed.transpose(1, 2).flatten(2))
    return output


def decoder_step() -> tuple[Program, dict[str, Tensor]]:
    """The step as a program, and its inputs for a held-out text."""
    model = language_model()[0]
    assert isinstance(model, Decoder)
    text = torch.from_numpy(held_out_windows()[:1, : PAST + 1].copy())
    keys, values = [], []

    def remember(attention: Attention, arguments: tuple[Tensor, ...]) -> None:
        key, value = keyed(attention, *arguments)
        keys.append(key)
        values.append(value)

    hooks = [block.attention.register_forward_pre_hook(remember) for block in model.blocks]
    with torch.no_grad():
        model(text[:, :PAST])
    for hook in hooks:
        hook.remove()
    inputs = {"token": text[:, PAST:], "keys": torch.stack(keys), "values": torch.stack(values)}
    with torch.no_grad():
        exported = torch.export.export(Step(model).eval(), (), inputs, strict=False)
    return program_of(exported, "decoder-step"), inputs
