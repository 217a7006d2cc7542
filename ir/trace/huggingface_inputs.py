"""Which inputs a model of transformers takes, by the kind of its main input."""

import inspect
import json
from pathlib import Path
from typing import Any

import torch

from effc.ir.errors import ModelError
from effc.ir.program import TensorSpec
from effc.ir.symbols import Size, Symbol, named
from effc.ir.trace.inputs import WantedInputs
from effc.ir.trace.names import BATCH, SEQUENCE

LARGEST_BATCH = 8
FIXED_SEQUENCE = 128
LONGEST = 512  # where a model does not say
TARGET = "target"
ONE_SECOND = 16_000  # samples of speech
IMAGE_SIZE = 224


def inputs_of(model: Any, folder: Path) -> WantedInputs:
    """Names, dtypes and shapes of a model's inputs, batch and sequence symbolic.

    Text encoders take `input_ids` and `attention_mask` [batch, sequence]; decoder-only language
    models `input_ids`; vision models `pixel_values` [batch, channels, height, width]; speech models
    `input_values` or `input_features`; models with a decoder `decoder_input_ids` besides.

    Args:
        model: A `transformers.PreTrainedModel`.
        folder: Where it was loaded from; its preprocessor may tell the image size.

    Raises:
        ModelError: If the model is of another kind.
    """
    takes = inspect.signature(model.forward).parameters
    shapes: dict[str, tuple[torch.dtype, tuple[Size, ...]]] = {}
    if "input_ids" in takes:
        shapes["input_ids"] = (torch.int64, (named(BATCH), named(SEQUENCE)))
        if "attention_mask" in takes and not _is_decoder_only(model):
            shapes["attention_mask"] = shapes["input_ids"]
    if "pixel_values" in takes:
        shapes["pixel_values"] = (torch.float32, (named(BATCH), *_image(model.config, folder)))
    if model.main_input_name == "input_values":
        shapes["input_values"] = (torch.float32, (named(BATCH), *_sound(model.config)))
    if model.main_input_name == "input_features":
        shapes["input_features"] = (torch.float32, (named(BATCH), *_spectrogram(model.config)))
    if not shapes:
        raise ModelError(
            f"effc does not know the inputs of {type(model).__name__}; give each with "
            f'--input "name:dtype[dims]" (it takes {", ".join(takes)})'
        )
    if model.config.is_encoder_decoder and "decoder_input_ids" in takes:
        shapes["decoder_input_ids"] = (torch.int64, (named(BATCH), named(TARGET)))
    specs = tuple(TensorSpec(name, *shapes[name]) for name in takes if name in shapes)
    return WantedInputs(specs, _symbols(model, specs))


def _is_decoder_only(model: Any) -> bool:
    """Whether a text model predicts the next token, so that it masks by itself."""
    from transformers.models.auto import modeling_auto

    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if model.config.is_encoder_decoder:
        return False
    kind = model.config.model_type
    return kind in causal and (kind not in masked or type(model).__name__ == causal[kind])


def _symbols(model: Any, specs: tuple[TensorSpec, ...]) -> dict[str, Symbol]:
    used = {str(size) for spec in specs for size in spec.shape if not isinstance(size, int)}
    known = {
        BATCH: Symbol(BATCH, 1, LARGEST_BATCH),
        SEQUENCE: Symbol(SEQUENCE, 1, _longest(model)),
        TARGET: Symbol(TARGET, 1, _longest(model)),
    }
    return {name: symbol for name, symbol in known.items() if name in used}


def _longest(model: Any) -> int:
    """The longest sequence the model has positions for."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_target_positions", "seq_length")
    found = (getattr(config, name, None) for name in names)
    longest = next((size for size in found if isinstance(size, int) and size > 1), LONGEST)
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            # Models of the RoBERTa family count positions from behind the padding index.
            offset = 0 if part.padding_idx is None else part.padding_idx + 1
            longest = min(longest, part.num_embeddings - offset)
    return longest


def _image(config: Any, folder: Path) -> tuple[int, int, int]:
    """Channels, height and width of an image, from the model, its preprocessor, or the usual."""
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or _preprocessor_size(folder) or IMAGE_SIZE
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(getattr(vision, "num_channels", 3)), int(height), int(width)


def _preprocessor_size(folder: Path) -> int | tuple[int, int] | None:
    try:
        found = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        size = found.get("crop_size") or found["size"]
        if isinstance(size, int):
            return size
        return size.get("shortest_edge") or (size["height"], size["width"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _sound(config: Any) -> tuple[int, ...]:
    """Samples of a waveform, or frames and bands where the model takes a spectrogram."""
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        return config.max_length, config.num_mel_bins
    return (ONE_SECOND,)


def _spectrogram(config: Any) -> tuple[int, int]:
    bands = getattr(config, "num_mel_bins", 80)
    if hasattr(config, "max_source_positions"):
        return bands, 2 * config.max_source_positions
    return FIXED_SEQUENCE, bands
