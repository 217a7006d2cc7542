"""A byte-level decoder: grouped-query attention, rotary positions, gated feed-forward."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Config:
    """Sizes of a `Decoder`.

    Attributes:
        vocabulary: number of tokens; 256, one per byte.
        hidden: width of the residual stream.
        layers: number of blocks.
        heads: number of query heads; `hidden` is a multiple of it.
        key_heads: number of key and value heads; `heads` is a multiple of it.
        feed_forward: inner width of the gated feed-forward.
        context: longest sequence, in tokens.
        rotary_base: base of the rotary wavelengths.
        epsilon: added to the mean square by RMS norm.
    """

    vocabulary: int = 256
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    key_heads: int = 2
    feed_forward: int = 768
    context: int = 512
    rotary_base: float = 10_000.0
    epsilon: float = 1e-5

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


def rotary_tables(config: Config) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary positions.

    Su et al., RoFormer, 2021 (arXiv 2104.09864), in the half-split layout of GPT-NeoX: feature `i`
    is paired with feature `i + head_size / 2`, not with its neighbour.

    Returns:
        Two float32 tensors [context, head_size].
    """
    half = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
    positions = torch.arange(config.context, dtype=torch.float32)
    angles = torch.outer(positions, config.rotary_base**-half)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary positions.

    Args:
        x: [batch, heads, seq, head_size].
        cosine: [seq, head_size].
        sine: [seq, head_size].
    """
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class Attention(nn.Module):
    """Causal attention whose query heads share fewer key and value heads.

    Ainslie et al., GQA, 2023 (arXiv 2305.13245).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_size = config.head_size
        shared = config.key_heads * config.head_size
        self.query = nn.Linear(config.hidden, config.hidden, bias=False)
        self.key = nn.Linear(config.hidden, shared, bias=False)
        self.value = nn.Linear(config.hidden, shared, bias=False)
        self.output = nn.Linear(config.hidden, config.hidden, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """[batch, seq, heads * head_size] to [batch, heads, seq, head_size]."""
        return x.view(x.shape[0], x.shape[1], -1, self.head_size).transpose(1, 2)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Attend; x: [batch, seq, hidden], tables: [seq, head_size]."""
        query = rotate(self.split(self.query(x)), cosine, sine)
        key = rotate(self.split(self.key(x)), cosine, sine)
        value = self.split(self.value(x))
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output


class FeedForward(nn.Module):
    """Feed-forward gated by SiLU (Shazeer, GLU variants, 2020, arXiv 2002.05202)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden, config.feed_forward, bias=False)
        self.up = nn.Linear(config.hidden, config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map each position; x: [batch, seq, hidden]."""
        output: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return output


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden, eps=config.epsilon)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.hidden, eps=config.epsilon)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Refine the residual stream; x: [batch, seq, hidden]."""
        x = x + self.attention(self.attention_norm(x), cosine, sine)
        output: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return output


class Decoder(nn.Module):
    """Decoder-only language model over bytes with untied input and output embeddings."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.hidden)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden, eps=config.epsilon)
        self.head = nn.Linear(config.hidden, config.vocabulary, bias=False)
        cosine, sine = rotary_tables(config)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Score the next byte at every position.

        Args:
            input_ids: int64 [batch, seq], 0 to 255; seq is at most `context`.

        Returns:
            Logits, float32 [batch, seq, vocabulary].
        """
        length = input_ids.shape[1]
        cosine, sine = self.cosine[:length], self.sine[:length]
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x, cosine, sine)
        logits: Tensor = self.head(self.norm(x))
        return logits


def initialise(model: Decoder) -> None:
    """Draw the weights as in GPT-2 (Radford et al., 2019).

    Normal with deviation 0.02; the matrices that write into the residual stream are divided by the
    root of their number.
    """
    residual = (2 * model.config.layers) ** -0.5
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            scale = residual if name.endswith(("output.weight", "down.weight")) else 1.0
            nn.init.normal_(weight, std=0.02 * scale)
