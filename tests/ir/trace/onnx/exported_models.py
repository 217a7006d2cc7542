"""Small models with random weights, as `torch.onnx.export` writes them."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import onnx
import torch
import transformers as tf

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
DECODER = {**TEXT, "num_key_value_heads": 2, "use_cache": False}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
HEADS = {"head_dim": 8}


def _tokens() -> tuple[torch.Tensor, ...]:
    return (torch.randint(0, 90, (2, 9), generator=torch.Generator().manual_seed(1)),)


def _image(size: int = 32) -> tuple[torch.Tensor, ...]:
    return (torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)),)


def _sound(*shape: int) -> tuple[torch.Tensor, ...]:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(1)),)


Maker = Callable[[], tuple[Any, tuple[torch.Tensor, ...]]]
MODELS: dict[str, Maker] = {
    "bert": lambda: (tf.BertModel(tf.BertConfig(**TEXT)), _tokens()),
    "distilbert": lambda: (
        tf.DistilBertModel(
            tf.DistilBertConfig(vocab_size=96, dim=32, n_layers=2, n_heads=4, hidden_dim=48)
        ),
        _tokens(),
    ),
    "roberta": lambda: (tf.RobertaModel(tf.RobertaConfig(**TEXT)), _tokens()),
    "gpt2": lambda: (
        tf.GPT2LMHeadModel(
            tf.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, use_cache=False)
        ),
        _tokens(),
    ),
    "llama": lambda: (tf.LlamaForCausalLM(tf.LlamaConfig(**DECODER)), _tokens()),
    "qwen2": lambda: (tf.Qwen2ForCausalLM(tf.Qwen2Config(**DECODER)), _tokens()),
    "qwen3": lambda: (tf.Qwen3ForCausalLM(tf.Qwen3Config(**DECODER, **HEADS)), _tokens()),
    "gemma": lambda: (tf.GemmaForCausalLM(tf.GemmaConfig(**DECODER, **HEADS)), _tokens()),
    "mistral": lambda: (tf.MistralForCausalLM(tf.MistralConfig(**DECODER)), _tokens()),
    "mixtral": lambda: (
        tf.MixtralForCausalLM(
            tf.MixtralConfig(
                **DECODER,
                num_local_experts=4,
                num_experts_per_tok=2,
                experts_implementation="batched_mm",
            )
        ),
        _tokens(),
    ),
    "t5-encoder": lambda: (
        tf.T5EncoderModel(
            tf.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        ),
        _tokens(),
    ),
    "vit": lambda: (tf.ViTModel(tf.ViTConfig(**VISION)), _image()),
    "deit": lambda: (tf.DeiTModel(tf.DeiTConfig(**VISION)), _image()),
    "swin": lambda: (
        tf.SwinModel(
            tf.SwinConfig(
                image_size=32,
                patch_size=2,
                embed_dim=16,
                depths=[2, 2],
                num_heads=[2, 4],
                window_size=4,
            )
        ),
        _image(),
    ),
    "convnext": lambda: (
        tf.ConvNextModel(tf.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])),
        _image(64),
    ),
    "resnet": lambda: (
        tf.ResNetModel(
            tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
        ),
        _image(64),
    ),
    "mobilenetv2": lambda: (
        tf.MobileNetV2Model(tf.MobileNetV2Config(depth_multiplier=0.35)),
        _image(64),
    ),
    "efficientnet": lambda: (
        tf.EfficientNetModel(
            tf.EfficientNetConfig(
                width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320, initializer_range=0.2
            )
        ),
        _image(64),
    ),
    "segformer": lambda: (
        tf.SegformerModel(
            tf.SegformerConfig(
                hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4]
            )
        ),
        _image(64),
    ),
    "whisper-encoder": lambda: (
        tf.WhisperModel(
            tf.WhisperConfig(
                d_model=32,
                encoder_layers=2,
                decoder_layers=1,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=48,
                decoder_ffn_dim=48,
                num_mel_bins=16,
                max_source_positions=20,
            )
        ).get_encoder(),
        _sound(2, 16, 40),
    ),
    "clip": lambda: (
        tf.CLIPVisionModel(tf.CLIPVisionConfig(**VISION)),
        _image(),
    ),
    "wav2vec2": lambda: (
        tf.Wav2Vec2Model(
            tf.Wav2Vec2Config(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                conv_dim=(16, 16),
                conv_stride=(5, 2),
                conv_kernel=(10, 3),
                num_feat_extract_layers=2,
                num_conv_pos_embeddings=16,
                num_conv_pos_embedding_groups=4,
            )
        ),
        _sound(2, 400),
    ),
}


class _First(torch.nn.Module):
    """Only the first result of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.model(x)
        return result[0] if not isinstance(result, torch.Tensor) else result


def exported(name: str) -> tuple[Any, tuple[torch.Tensor, ...], torch.Tensor]:
    """The ONNX model, its input, and what PyTorch computes."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    module = _First(model.eval()).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        expected = module(*inputs)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, inputs, dynamo=True, verbose=False)
        assert program is not None
        program.save(file)
    return onnx.load_from_string(file.getvalue()), inputs, expected
