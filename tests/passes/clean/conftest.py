"""Small random models of the architectures the clean passes must handle, traced."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced
from zoo.minilm import minilm_folder

TEXT = {"ids.0": "batch", "ids.1": "sequence", "mask.0": "batch", "mask.1": "sequence"}
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


class TextModel(nn.Module):
    """First output of a model of token numbers and a padding mask."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(ids, attention_mask=mask)[0]


class ImageModel(nn.Module):
    """First output of a model of images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels)[0]


def resnet() -> Program:
    import transformers

    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}
    config = transformers.ResNetConfig(num_channels=3, layer_type="basic", **sizes)
    return _images(transformers.ResNetForImageClassification(config))


def mobilenet() -> Program:
    import transformers

    config = transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.25)
    return _images(transformers.MobileNetV2ForImageClassification(config))


def vit() -> Program:
    import transformers

    config = transformers.ViTConfig(**WIDTH, intermediate_size=64, image_size=32, patch_size=8)
    return _images(transformers.ViTForImageClassification(config))


def bert() -> Program:
    import transformers

    config = transformers.BertConfig(**WIDTH, vocab_size=50, intermediate_size=64)
    return _text(transformers.BertModel(config))


def llama() -> Program:
    import transformers

    sizes = {**WIDTH, "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    return _text(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, use_cache=False)))


def minilm() -> Program:
    """The real sentence encoder, with its trained weights."""
    import transformers

    return _text(transformers.AutoModel.from_pretrained(minilm_folder()))


MODELS = {entry.__name__: entry for entry in (resnet, mobilenet, vit, bert, llama, minilm)}


@pytest.fixture(scope="session")
def model() -> Callable[[str], Program]:
    """Traced models by name; traced once, so tests must not edit them."""

    @cache
    def build(name: str) -> Program:
        torch.manual_seed(0)
        return MODELS[name]()

    return build


def _images(model: nn.Module) -> Program:
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight)
    return traced(ImageModel(model), torch.randn(2, 3, 32, 32), dynamic={"pixels.0": "batch"})


def _text(model: nn.Module) -> Program:
    ids = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return traced(TextModel(model), ids, mask, dynamic=TEXT)
