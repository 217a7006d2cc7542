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


@dataclass(frozen=True)
class Entry:
    """One model of the suite.

    Attributes:
        name: As shown in the table.
        model: MODEL as `effc compile` takes it; resolved when used.
        calib: Its calibration loader.
        input: The name of its image input, or None for text.
    """

    name: str
    model: Callable[[], str]
    calib: str


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


def _image_inputs() -> tuple[torch.Tensor, ...]:
    return (torch.randn(1, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(SEED)),)


def resnet18() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """ResNet-18 with random weights."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(SEED)
    config = ResNetConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=1000
    )
    return _randomised(ResNetForImageClassification(config)), _image_inputs()


def mobilenet_v2() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """MobileNetV2 with random weights."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    torch.manual_seed(SEED)
    config = MobileNetV2Config(num_labels=1001)
    return _randomised(MobileNetV2ForImageClassification(config)), _image_inputs()


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


def _minilm() -> str:
    from zoo.minilm import minilm_folder

    return str(minilm_folder())


SUITE = (
    Entry("ResNet-18", lambda: "bench.models:resnet18", "bench.models:images"),
    Entry("MobileNetV2", lambda: "bench.models:mobilenet_v2", "bench.models:images"),
    Entry("MiniLM-L6", _minilm, "bench.models:texts"),
)
