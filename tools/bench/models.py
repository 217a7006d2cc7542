"""The models of the speed suite: transformers' own classes, real weights where there are some."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

SEED = 0
IMAGE = 224
TOKENS = 128
CALIBRATION_BATCHES = 4
Made = tuple[torch.nn.Module, tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Entry:
    """One model of the suite.

    Attributes:
        name: As shown in the table.
        model: MODEL as `effc compile` takes it; resolved when used.
        calib: Its calibration loader.
        is_headline: Whether the short suite measures it.
    """

    name: str
    model: Callable[[], str]
    calib: str
    is_headline: bool = False


def _randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Give batch norms statistics of a trained network, so that folding them means something."""
    generator = torch.Generator().manual_seed(SEED)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(layer.bias, 0, 0.1, generator=generator)
    return module.eval()


def _vision(kind: str, **settings: Any) -> Made:
    import transformers

    torch.manual_seed(SEED)
    config = getattr(transformers, f"{kind}Config")(**settings)
    module = getattr(transformers, f"{kind}ForImageClassification")(config)
    image = torch.randn(1, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(SEED))
    return _randomised(module), (image,)


def resnet18() -> Made:
    """ResNet-18 with random weights."""
    sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
    return _vision("ResNet", **sizes, layer_type="basic", num_labels=1000)


def resnet50() -> Made:
    """ResNet-50 with random weights."""
    return _vision("ResNet", num_labels=1000)


def mobilenet_v2() -> Made:
    """MobileNetV2 with random weights."""
    return _vision("MobileNetV2", num_labels=1001)


def efficientnet_b0() -> Made:
    """EfficientNet-B0 with random weights."""
    sizes = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}
    return _vision("EfficientNet", **sizes, image_size=IMAGE, num_labels=1000)


def convnext_tiny() -> Made:
    """ConvNeXt-tiny with random weights."""
    return _vision("ConvNext", num_labels=1000)


def deit_small() -> Made:
    """DeiT-small with random weights."""
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    return _vision("DeiT", **sizes, num_labels=1000)


def swin_tiny() -> Made:
    """Swin-tiny with random weights."""
    return _vision("Swin", num_labels=1000)


def bert_base() -> Made:
    """BERT-base with random weights on 128 tokens."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(SEED)
    module = BertModel(BertConfig(), add_pooling_layer=False).eval()
    tokens = torch.randint(1000, 9000, (1, TOKENS), generator=torch.Generator().manual_seed(SEED))
    return module, (tokens, torch.ones_like(tokens))


def whisper_tiny_encoder() -> Made:
    """The encoder of Whisper-tiny with random weights on 30 seconds of sound."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(SEED)
    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6,
                           encoder_ffn_dim=1536)  # fmt: skip
    module = WhisperEncoder(config).eval()
    return module, (torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(SEED)),)


def language_model() -> Made:
    """The zoo's decoder on 512 bytes."""
    from zoo.language_model import held_out_windows
    from zoo.language_model import language_model as trained

    return trained()[0], (torch.from_numpy(held_out_windows()[:1, :512].copy()),)


def images() -> Iterator[dict[str, np.ndarray]]:
    """Calibration images: smooth random fields, which look more like images than white noise."""
    rng = np.random.default_rng(SEED)
    for _ in range(CALIBRATION_BATCHES):
        coarse = torch.from_numpy(rng.normal(size=(1, 3, 28, 28)).astype(np.float32))
        smooth = torch.nn.functional.interpolate(coarse, size=IMAGE, mode="bilinear")
        noise = torch.from_numpy(rng.normal(size=smooth.shape).astype(np.float32))
        yield {"pixel_values": (smooth + 0.3 * noise).numpy()}


def texts() -> Iterator[dict[str, Any]]:
    """Calibration text of the sentence encoder."""
    from zoo.retrieval import calibration

    for number, batch in enumerate(calibration()):
        if number == CALIBRATION_BATCHES:
            return
        yield batch


def tokens() -> Iterator[dict[str, Any]]:
    """Random tokens of BERT."""
    rng = np.random.default_rng(SEED)
    for _ in range(CALIBRATION_BATCHES):
        drawn = rng.integers(1000, 9000, (1, TOKENS))
        yield {"input_ids": drawn, "attention_mask": np.ones_like(drawn)}


def sounds() -> Iterator[dict[str, Any]]:
    """Random spectrograms of Whisper."""
    rng = np.random.default_rng(SEED)
    for _ in range(CALIBRATION_BATCHES):
        yield {"input_features": rng.normal(size=(1, 80, 3000)).astype(np.float32)}


def windows() -> Iterator[dict[str, Any]]:
    """Source text of the decoder."""
    from zoo.language_model import held_out_windows

    for row in held_out_windows()[1 : 1 + CALIBRATION_BATCHES, :512]:
        yield {"input_ids": row[None].copy()}


def _minilm() -> str:
    from zoo.minilm import minilm_folder

    return str(minilm_folder())


def _entry(name: str, model: str, calib: str, is_headline: bool = False) -> Entry:
    return Entry(name, lambda: f"bench.models:{model}", f"bench.models:{calib}", is_headline)


SUITE = (
    _entry("ResNet-18", "resnet18", "images", is_headline=True),
    _entry("ResNet-50", "resnet50", "images"),
    _entry("MobileNetV2", "mobilenet_v2", "images", is_headline=True),
    _entry("EfficientNet-B0", "efficientnet_b0", "images"),
    _entry("ConvNeXt-tiny", "convnext_tiny", "images"),
    Entry("MiniLM-L6", _minilm, "bench.models:texts", is_headline=True),
    _entry("BERT-base", "bert_base", "tokens"),
    _entry("DeiT-small", "deit_small", "images"),
    _entry("Swin-tiny", "swin_tiny", "images"),
    _entry("Whisper-tiny encoder", "whisper_tiny_encoder", "sounds"),
    _entry("Zoo decoder, 512", "language_model", "windows"),
)
