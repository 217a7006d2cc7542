"""Small networks, one per way in which channels can hang together."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import Function, traced


class Shuffle(nn.Module):
    """ShuffleNet-like: half passes, half is convolved, then halves are interleaved; twice."""

    def __init__(self, width: int = 12, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        half = width // 2
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(half, half, 1), nn.ReLU(), nn.Conv2d(half, half, 3, 1, 1, groups=half)
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            left, right = x.chunk(2, 1)
            x = torch.cat([left, block(right)], 1)
            batch, channels, height, width = x.shape
            x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """DenseNet-like: every layer reads all outputs before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 6 * at), nn.ReLU(), nn.Conv2d(8 + 6 * at, 6, 3, 1, 1))
            for at in range(3)
        )
        self.head = nn.Linear(26 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(functional.avg_pool2d(x, 4).flatten(1))


class Excite(nn.Module):
    """Squeeze and excite around a grouped convolution with a group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(4, 16)
        self.squeeze = nn.Conv2d(16, 6, 1)
        self.excite = nn.Conv2d(6, 16, 1)
        self.head = nn.Linear(16 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.grouped(self.first(x).relu()))
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(functional.adaptive_avg_pool2d(x * gate, 2).flatten(1))


class Upscale(nn.Module):
    """Transposed convolutions (plain and grouped), pixel shuffle, padding of channels, PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.slopes = nn.PReLU(8)
        self.up = nn.ConvTranspose2d(8, 12, 2, stride=2)
        self.grouped = nn.ConvTranspose2d(12, 24, 3, padding=1, groups=3)
        self.wide = nn.Conv2d(24, 32, 1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.up(self.slopes(self.first(x))).relu()).relu()
        return self.last(functional.pixel_shuffle(self.wide(x).relu(), 2))


class Gated(nn.Module):
    """Grouped-query attention with rotated queries and keys, a gated feed-forward, a tied head."""

    def __init__(self, layers: int = 2, hidden: int = 24, inner: int = 32) -> None:
        super().__init__()
        self.table = nn.Embedding(40, hidden)
        self.blocks = nn.ModuleList(Block(hidden, inner) for _ in range(layers))
        self.norm = nn.RMSNorm(hidden)
        self.head = nn.Linear(hidden, 40, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    """A decoder's block: 6 query heads on 2 key heads, 4 wide."""

    heads, groups, width = 6, 2, 4

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.first, self.second = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
        self.query = nn.Linear(hidden, self.heads * self.width, bias=False)
        self.pair = nn.Linear(hidden, 2 * self.groups * self.width)
        self.output = nn.Linear(self.heads * self.width, hidden, bias=False)
        self.gate, self.up = nn.Linear(hidden, inner), nn.Linear(hidden, inner)
        self.down = nn.Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, _ = x.shape
        y = self.first(x)
        query = self.query(y).view(batch, steps, self.heads, self.width).transpose(1, 2)
        pair = self.pair(y).view(batch, steps, 2, self.groups, self.width)
        key, value = pair.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = rotated(query), rotated(key)
        repeat = (batch, self.groups, self.heads // self.groups, steps, self.width)
        key, value = (
            one[:, :, None].expand(repeat).reshape(batch, self.heads, steps, self.width)
            for one in (key, value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, steps, -1))
        y = self.second(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


def rotated(x: Tensor) -> Tensor:
    """Rotary positions: the halves of each head turn together."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 0.1 ** torch.arange(half)
    cosine, sine = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cosine + turned * sine


class Windows(nn.Module):
    """Swin-like: shifted windows, fused query, key and value, merging of four neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 2, 2)
        self.norm = nn.LayerNorm(16)
        self.fused = nn.Linear(16, 48)
        self.bias = nn.Parameter(torch.randn(4, 16, 16))
        self.output = nn.Linear(16, 16)
        self.merge = nn.Linear(64, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        batch, side = x.shape[0], x.shape[1]
        y = torch.roll(self.norm(x), (-2, -2), (1, 2))
        y = y.view(batch, side // 4, 4, side // 4, 4, 16).permute(0, 1, 3, 2, 4, 5)
        y = self.fused(y.reshape(-1, 16, 16)).view(-1, 16, 3, 4, 4).permute(2, 0, 3, 1, 4)
        scores = (y[0] @ y[1].transpose(-1, -2) * 0.5 + self.bias).softmax(-1)
        y = self.output((scores @ y[2]).transpose(1, 2).reshape(-1, 16, 16))
        y = y.view(batch, side // 4, side // 4, 4, 4, 16).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(y.reshape(batch, side, side, 16), (2, 2), (1, 2))
        parts = [x[:, a::2, b::2] for b in (0, 1) for a in (0, 1)]
        return self.head(self.merge(torch.cat(parts, -1)).mean((1, 2)))


class Reused(nn.Module):
    """One layer called twice, and a recurrent cell with gates, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Linear(6, 12), nn.Linear(12, 12)
        self.input_gates, self.state_gates = nn.Linear(12, 40), nn.Linear(10, 40)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        x = self.layer(self.layer(x).relu())
        state, memory = x.new_zeros(x.shape[0], 10), x.new_zeros(x.shape[0], 10)
        for _ in range(2):
            gates = self.input_gates(x) + self.state_gates(state)
            take, keep, new, give = gates.chunk(4, 1)
            memory = keep.sigmoid() * memory + take.sigmoid() * new.tanh()
            state = give.sigmoid() * memory.tanh()
        return self.head(state)


class Deformed(nn.Module):
    """Views that fold space into channels and back, strided slices, glu, interleaved repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Linear(32, 24)
        self.third = nn.Linear(12, 20)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        batch, channels, height, width = x.shape
        x = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        x = functional.glu(self.second(x.reshape(batch, -1, channels * 4)), -1)
        x = self.third(x).flip(-1)
        return self.head(x[..., ::2] * x[..., 1::2])


IMAGE = (2, 3, 8, 8)
NETS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "shuffle": lambda: (Shuffle(), torch.randn(IMAGE)),
    "dense": lambda: (Dense(), torch.randn(IMAGE)),
    "excite": lambda: (Excite(), torch.randn(IMAGE)),
    "upscale": lambda: (Upscale(), torch.randn(IMAGE)),
    "gated": lambda: (Gated(), torch.randint(0, 40, (2, 7))),
    "windows": lambda: (Windows(), torch.randn(2, 3, 16, 16)),
    "reused": lambda: (Reused(), torch.randn(3, 6)),
    "deformed": lambda: (Deformed(), torch.randn(IMAGE)),
}


def program_named(name: str) -> tuple[Program, Tensor]:
    """A net with random weights, traced, and its input."""
    torch.manual_seed(0)
    module, x = NETS[name]()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.running_mean, std=0.1)
    return traced(module, x), x


def function_program(function: Callable[[Tensor], Tensor], *shape: int) -> Program:
    """A function of one float tensor, traced."""
    return traced(Function(function), torch.randn(*shape))
