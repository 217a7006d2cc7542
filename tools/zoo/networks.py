"""Three small image classifiers: a residual CNN, a depthwise CNN and a vision transformer."""

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
SIDE = 16


class ConvolutionNorm(nn.Sequential):
    """Convolution without bias that keeps the size at stride 1, batch norm, optional activation."""

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        convolution = nn.Conv2d(
            *channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        layers = [convolution, nn.BatchNorm2d(channels[1])]
        super().__init__(*layers, *([activation] if activation is not None else []))


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut (He et al., 2015, arXiv 1512.03385).

    The shortcut is a convolution of size 1 where the block changes channels or resolution.
    """

    def __init__(self, channels: tuple[int, int], stride: int) -> None:
        super().__init__()
        width = channels[1]
        self.first = ConvolutionNorm(channels, stride=stride, activation=nn.ReLU())
        self.second = ConvolutionNorm((width, width))
        is_same = channels[0] == width and stride == 1
        self.shortcut = nn.Identity() if is_same else ConvolutionNorm(channels, 1, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to the block's channels and resolution."""
        output: Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return output


class ResidualCnn(nn.Module):
    """Residual CNN: three stages of two blocks at 16, 8 and 4 pixels a side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvolutionNorm((1, 16), activation=nn.ReLU())
        self.stages = nn.Sequential(
            ResidualBlock((16, 16), 1),
            ResidualBlock((16, 16), 1),
            ResidualBlock((16, 32), 2),
            ResidualBlock((32, 32), 1),
            ResidualBlock((32, 64), 2),
            ResidualBlock((64, 64), 1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify float32 [batch, 1, 16, 16] into logits [batch, 10]."""
        features = self.pool(self.stages(self.stem(x)))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (Sandler et al., 2018, arXiv 1801.04381)."""

    def __init__(self, channels: tuple[int, int], stride: int, expansion: int = 4) -> None:
        super().__init__()
        wide = channels[0] * expansion
        self.expand = ConvolutionNorm((channels[0], wide), 1, activation=nn.ReLU6())
        self.depthwise = ConvolutionNorm(
            (wide, wide), stride=stride, groups=wide, activation=nn.ReLU6()
        )
        self.project = ConvolutionNorm((wide, channels[1]), 1)
        self.has_shortcut = stride == 1 and channels[0] == channels[1]

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to the block's channels and resolution."""
        projected: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + projected if self.has_shortcut else projected


class DepthwiseCnn(nn.Module):
    """MobileNet-like CNN: a stem, inverted residual blocks and a wide last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvolutionNorm((1, 16), activation=nn.ReLU6())
        self.blocks = nn.Sequential(
            InvertedResidual((16, 24), 2),
            InvertedResidual((24, 24), 1),
            InvertedResidual((24, 40), 2),
            InvertedResidual((40, 40), 1),
            InvertedResidual((40, 40), 1),
        )
        self.last = ConvolutionNorm((40, 128), 1, activation=nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify float32 [batch, 1, 16, 16] into logits [batch, 10]."""
        features = self.pool(self.last(self.blocks(self.stem(x))))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and GELU feed-forward, each added to the residual stream."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.head_size = hidden // heads
        self.attention_norm = nn.LayerNorm(hidden)
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, hidden)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Linear(hidden, 4 * hidden),
            nn.GELU(),
            nn.Linear(4 * hidden, hidden),
        )

    def split(self, x: Tensor) -> Tensor:
        """[batch, tokens, heads * head_size] to [batch, heads, tokens, head_size]."""
        return x.view(x.shape[0], x.shape[1], -1, self.head_size).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Refine the tokens [batch, tokens, hidden]."""
        normed = self.attention_norm(x)
        mixed = functional.scaled_dot_product_attention(
            self.split(self.query(normed)),
            self.split(self.key(normed)),
            self.split(self.value(normed)),
        )
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        output: Tensor = x + self.feed_forward(x)
        return output


class VisionTransformer(nn.Module):
    """Vision transformer with a class token (Dosovitskiy et al., 2020, arXiv 2010.11929)."""

    def __init__(self, patch: int = 4, hidden: int = 96, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        patches = (SIDE // patch) ** 2
        self.embedding = nn.Conv2d(1, hidden, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.positions = nn.Parameter(torch.randn(1, patches + 1, hidden) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(hidden, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(hidden)
        self.classifier = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify float32 [batch, 1, 16, 16] into logits [batch, 10]."""
        patches = self.embedding(x).flatten(2).transpose(1, 2)
        token = self.class_token.expand(x.shape[0], -1, -1)
        tokens = torch.cat([token, patches], dim=1) + self.positions
        logits: Tensor = self.classifier(self.norm(self.blocks(tokens))[:, 0])
        return logits
