"""Small random models of many architectures, compiled and compared with PyTorch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effc.ir.errors import UnsupportedError
from effc.ir.program import Program
from effc.ir.testing import Tolerance, assert_close
from effc.ir.trace.exported import program_of
from effc.passes.clean.pipeline import CLEAN
from effc.passes.instruments import sqnr

transformers = pytest.importorskip("transformers")

CLOSE = Tolerance(relative=1e-4)
QUANTIZED_DB, ENOUGH_DB, MARGIN_DB = 15, 60, 6
WIDTH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
TEXT = {**WIDTH, "vocab_size": 64, "max_position_embeddings": 64}
DECODER = {**TEXT, "num_key_value_heads": 2}
PATCHES = {**WIDTH, "image_size": 32, "patch_size": 8}
STAGES: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("text", "BertModel", TEXT),
    "distilbert": ("text", "DistilBertModel", {
        "vocab_size": 64, "dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48,
        "max_position_embeddings": 64}),
    "roberta": ("text", "RobertaModel", TEXT),
    "albert": ("text", "AlbertModel", {**TEXT, "embedding_size": 16}),
    "electra": ("text", "ElectraModel", {**TEXT, "embedding_size": 16}),
    "mpnet": ("text", "MPNetModel", TEXT),
    "t5": ("text", "T5EncoderModel", {
        "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}),
    "clip-text": ("text", "CLIPTextModel", {**TEXT, "eos_token_id": 2}),
    "gpt2": ("text", "GPT2LMHeadModel", {
        "vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 4}),
    "opt": ("text", "OPTForCausalLM", {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi": ("text", "PhiForCausalLM", TEXT),
    "llama": ("text", "LlamaForCausalLM", DECODER),
    "mistral": ("text", "MistralForCausalLM", DECODER),
    "qwen2": ("text", "Qwen2ForCausalLM", DECODER),
    "qwen3": ("text", "Qwen3ForCausalLM", {**DECODER, "head_dim": 8}),
    "gemma": ("text", "GemmaForCausalLM", {**DECODER, "head_dim": 8}),
    "vit": ("image", "ViTModel", PATCHES),
    "deit": ("image", "DeiTModel", PATCHES),
    "clip-vision": ("image", "CLIPVisionModel", PATCHES),
    "swin": ("image", "SwinModel", {
        "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 1],
        "num_heads": [2, 4], "window_size": 4}),
    "convnext": ("image", "ConvNextModel", STAGES),
    "resnet": ("image", "ResNetModel", {
        "embedding_size": 16, "hidden_sizes": [16, 24], "depths": [1, 1]}),
    "regnet": ("image", "RegNetModel", {**STAGES, "embedding_size": 16, "groups_width": 8}),
    "mobilenetv2": ("image", "MobileNetV2Model", {"depth_multiplier": 0.35, "image_size": 32}),
    "efficientnet": ("image", "EfficientNetModel", {
        "image_size": 32, "width_coefficient": 0.5, "depth_coefficient": 0.3,
        "hidden_dim": 640}),
    "mobilevit": ("image", "MobileViTModel", {
        "image_size": 32, "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 16, 16, 24, 24, 24, 32]}),
    "segformer": ("image", "SegformerForSemanticSegmentation", {
        **STAGES, "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 24}),
    "whisper": ("mel", "WhisperModel", {
        "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
        "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
        "vocab_size": 64, "max_source_positions": 50, "num_mel_bins": 16, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}),
    "wav2vec2": ("sound", "Wav2Vec2Model", {
        **WIDTH, "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2],
        "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4}),
}  # fmt: skip
QUICK = ["bert", "gpt2", "llama", "t5", "vit", "resnet", "whisper", "wav2vec2"]
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


def made(kind: str, name: str, sizes: dict[str, Any]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model with random weights, and example inputs."""
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    config = model_class.config_class(**sizes)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    model = model_class(config).eval()
    if kind == "text":
        ids = torch.randint(3, 60, (2, 11))
        return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "mel":
        return model.encoder, {"input_features": torch.randn(1, 16, 100)}
    if kind == "sound":
        return model, {"input_values": torch.randn(1, 500)}
    with torch.no_grad():
        model.apply(liven)
    return model, {"pixel_values": torch.randn(1, 3, 32, 32)}


def liven(part: nn.Module) -> None:
    """Weights and statistics with which a deep network's output does not vanish."""
    if isinstance(part, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(part.weight)
    if isinstance(part, nn.BatchNorm2d):
        nn.init.uniform_(part.running_var, 0.5, 1.5)
        nn.init.normal_(part.running_mean, std=0.1)
        nn.init.uniform_(part.weight, 0.5, 1.5)


def traced(model: nn.Module, inputs: dict[str, Tensor]) -> Program:
    with torch.no_grad():
        return program_of(torch.export.export(model, (), inputs, strict=False), "test")


def outputs_of(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [value for value in model(**inputs).values() if isinstance(value, Tensor)]


@pytest.mark.parametrize("name", ALL)
def test_architecture(compiled: Callable[..., Any], name: str) -> None:
    """As float32 close to the module; as 8 bits as close as the quantized program in PyTorch."""
    model, inputs = made(*MODELS[name])
    program, expected = traced(model, inputs), outputs_of(model, inputs)
    assert min(float(value.abs().max()) for value in expected) > 1e-2
    floats = compiled(program).outputs(inputs)
    for value, (output, found) in zip(expected, floats.items(), strict=True):
        assert_close(output, value, torch.from_numpy(found), CLOSE)
    integers = compiled(program, passes=f"{CLEAN},quantize{{activations=dynamic}}")
    reference = integers.program.run(inputs)
    for value, (output, found) in zip(expected, integers.outputs(inputs).items(), strict=True):
        rounded = sqnr(value, reference[output])
        assert rounded > QUANTIZED_DB
        assert sqnr(value, torch.from_numpy(found)) > min(rounded, ENOUGH_DB) - MARGIN_DB


def test_what_no_kernel_computes_is_listed_whole(compiled: Callable[..., Any]) -> None:
    """A mixture of experts counts its tokens."""
    sizes = {**DECODER, "num_local_experts": 4}
    model, inputs = made("text", "MixtralForCausalLM", sizes)
    with pytest.raises(UnsupportedError) as caught:
        compiled(traced(model, inputs))
    missing = {entry.op for entry in caught.value.operators}
    assert "aten.histc.default" in missing
    assert all(entry.source.startswith("model.layers.0") for entry in caught.value.operators)
