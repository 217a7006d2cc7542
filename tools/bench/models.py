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
        factory: A function of this module, called with a batch size; None for MiniLM's folder.
        loader: A function of this module that yields calibration data of a batch size.
        is_headline: Whether the short suite measures it.
    """

    name: str
    factory: str | None
    loader: str
    is_headline: bool = False

    def model(self, batch: int) -> str:
        """MODEL as `effc compile` takes it."""
        if self.factory is not None:
            return f"bench.models:{self.factory}_{batch}"
        from zoo.minilm import minilm_folder

        return str(minilm_folder())

    def calib(self, batch: int) -> str:
        """DATA as `effc compile` takes it."""
        return f"bench.models:{self.loader}_{batch}"


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


def __getattr__(name: str) -> Callable[[], Any]:
    """`resnet18_8` is `resnet18` on batches of 8."""
    factory, _, batch = name.rpartition("_")
    if not batch.isdigit() or factory not in globals():
        raise AttributeError(name)
    return lambda: globals()[factory](int(batch))


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED))


def _vision(kind: str, batch: int, **settings: Any) -> Made:
    import transformers

    torch.manual_seed(SEED)
    config = getattr(transformers, f"{kind}Config")(**settings)
    module = getattr(transformers, f"{kind}ForImageClassification")(config)
    return _randomised(module), (_drawn(batch, 3, IMAGE, IMAGE),)


def resnet18(batch: int) -> Made:
    """ResNet-18 with random weights."""
    sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
    return _vision("ResNet", batch, **sizes, layer_type="basic", num_labels=1000)


def resnet50(batch: int) -> Made:
    """ResNet-50 with random weights."""
    return _vision("ResNet", batch, num_labels=1000)


def mobilenet_v2(batch: int) -> Made:
    """MobileNetV2 with random weights."""
    return _vision("MobileNetV2", batch, num_labels=1001)


def efficientnet_b0(batch: int) -> Made:
    """EfficientNet-B0 with random weights."""
    sizes = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}
    return _vision("EfficientNet", batch, **sizes, image_size=IMAGE, num_labels=1000)


def convnext_tiny(batch: int) -> Made:
    """ConvNeXt-tiny with random weights."""
    return _vision("ConvNext", batch, num_labels=1000)


def deit_small(batch: int) -> Made:
    """DeiT-small with random weights."""
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    return _vision("DeiT", batch, **sizes, num_labels=1000)


def swin_tiny(batch: int) -> Made:
    """Swin-tiny with random weights."""
    return _vision("Swin", batch, num_labels=1000)


def bert_base(batch: int) -> Made:
    """BERT-base with random weights on 128 tokens."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(SEED)
    module = BertModel(BertConfig(), add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(1000, 9000, (batch, TOKENS), generator=generator)
    return module, (drawn, torch.ones_like(drawn))


def whisper_tiny_encoder(batch: int) -> Made:
    """The encoder of Whisper-tiny with random weights on 30 seconds of sound."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(SEED)
    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6,
                           encoder_ffn_dim=1536)  # fmt: skip
    module = WhisperEncoder(config).eval()
    return module, (_drawn(batch, 80, 3000),)


def language_model(batch: int) -> Made:
    """The zoo's decoder on 512 bytes."""
    from zoo.language_model import held_out_windows
    from zoo.language_model import language_model as trained

    return trained()[0], (torch.from_numpy(held_out_windows()[:batch, :512].copy()),)


def images(batch: int) -> Iterator[dict[str, np.ndarray]]:
    """Calibration images: smooth random fields, which look more like images than white noise."""
    rng = np.random.default_rng(SEED)
    for _ in range(CALIBRATION_BATCHES):
        coarse = torch.from_numpy(rng.normal(size=(batch, 3, 28, 28)).astype(np.float32))
        smooth = torch.nn.functional.interpolate(coarse, size=IMAGE, mode="bilinear")
        noise = torch.from_numpy(rng.normal(size=smooth.shape).astype(np.float32))
        yield {"pixel_values": (smooth + 0.3 * noise).numpy()}


def texts(batch: int) -> Iterator[dict[str, Any]]:
    """Calibration text of the sentence encoder, whose batch is dynamic."""
    from zoo.retrieval import calibration

    for number, batch in enumerate(calibration()):
        if number == CALIBRATION_BATCHES:
            return
        yield batch


def tokens(batch: int) -> Iterator[dict[str, Any]]:
    """Random tokens of BERT."""
    rng = np.random.default_rng(SEED)
    for _ in range(CALIBRATION_BATCHES):
        drawn = rng.integers(1000, 9000, (batch, TOKENS))
        yield {"input_ids": drawn, "attention_mask": np.ones_like(drawn)}


def sounds(batch: int) -> Iterator[dict[str, Any]]:
    """Random spectrograms of Whisper."""
    rng = np.random.default_rng(SEED)
    for _ in range(CALIBRATION_BATCHES):
        yield {"input_features": rng.normal(size=(batch, 80, 3000)).astype(np.float32)}


def windows(batch: int) -> Iterator[dict[str, Any]]:
    """Source text of the decoder."""
    from zoo.language_model import held_out_windows

    rows = held_out_windows()[:, :512]
    for number in range(CALIBRATION_BATCHES):
        yield {"input_ids": rows[(1 + number) * batch : (2 + number) * batch].copy()}


SUITE = (
    Entry("ResNet-18", "resnet18", "images", is_headline=True),
    Entry("ResNet-50", "resnet50", "images"),
    Entry("MobileNetV2", "mobilenet_v2", "images", is_headline=True),
    Entry("EfficientNet-B0", "efficientnet_b0", "images"),
    Entry("ConvNeXt-tiny", "convnext_tiny", "images"),
    Entry("MiniLM-L6", None, "texts", is_headline=True),
    Entry("BERT-base", "bert_base", "tokens"),
    Entry("DeiT-small", "deit_small", "images"),
    Entry("Swin-tiny", "swin_tiny", "images"),
    Entry("Whisper-tiny encoder", "whisper_tiny_encoder", "sounds"),
    Entry("Zoo decoder, 512", "language_model", "windows"),
)
