import subprocess
import sys

import numpy as np
import pytest

from zoo import docstrings, retrieval
from zoo.minilm import minilm_folder
from zoo.retrieval import Labels, labelled, mrr, top1


@pytest.fixture(scope="module")
def pairs():
    return retrieval.pairs()


def outputs(vectors, padding=0):
    """States whose masked mean is each vector, with a wild value at the padding."""
    states = np.array(vectors, dtype=np.float32)[:, None, :].repeat(2, axis=1)
    states[:, 0] += 0.5
    states[:, 1] -= 0.5
    wild = np.full((len(vectors), padding, states.shape[2]), 1e6, dtype=np.float32)
    return {"last_hidden_state": np.concatenate([states, wild], axis=1)}


def labels(role, pairs, padding=0):
    mask = np.array([[1, 1] + [0] * padding] * len(pairs), dtype=np.int64)
    return Labels(role, np.array(pairs, dtype=np.int64), mask)


def at(*degrees):
    return [(np.cos(np.radians(angle)), np.sin(np.radians(angle))) for angle in degrees]


DOCUMENTS = (outputs(at(0, 90, 180)), labels("document", [0, 1, 2]))


def test_metrics_follow_hand_counted_ranks():
    # At 10 degrees document 0 is nearest: rank 1. At 50, document 1 then 0: rank 1 for pair 1.
    # At 80, the order is 1, 0, 2: rank 3 for pair 2.
    queries = (outputs(at(10, 50, 80)), labels("query", [0, 1, 2]))
    assert top1([queries, DOCUMENTS]) == pytest.approx(2 / 3)
    assert mrr([queries, DOCUMENTS]) == pytest.approx((1 + 1 + 1 / 3) / 3)


def test_order_length_and_padding_do_not_matter():
    results = [
        (outputs(np.array(at(80)) * 7, padding=3), labels("query", [2], padding=3)),
        (outputs(at(180, 0), padding=1), labels("document", [2, 0], padding=1)),
        (outputs(at(90)), labels("document", [1])),
        (outputs(at(50, 10)), labels("query", [1, 0])),
    ]
    assert top1(results) == pytest.approx(2 / 3)
    assert mrr(results) == pytest.approx((1 + 1 + 1 / 3) / 3)


@pytest.mark.parametrize("value", [1.0, 0.0, np.nan])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_constant_model_is_not_rewarded(value):
    state = {"last_hidden_state": np.full((3, 2, 4), value, dtype=np.float32)}
    results = [(state, labels(role, [0, 1, 2])) for role in ("query", "document")]
    assert top1(results) == 0
    assert mrr(results) == pytest.approx(1 / 3)


def test_query_without_document_is_an_error():
    queries = (outputs(at(0, 0)), labels("query", [0, 5]))
    with pytest.raises(ValueError, match="2 queries and 3 documents do not pair up"):
        top1([queries, DOCUMENTS])


def test_enough_pairs_without_duplicates(pairs):
    assert len(pairs) == 1200
    assert len({pair.place for pair in pairs}) == 1200
    assert len({pair.query for pair in pairs}) == 1200
    assert len({pair.document for pair in pairs}) == 1200
    assert pairs == retrieval.pairs()


def test_pairs_leave_tests_and_idlelib_out(pairs):
    folders = {folder for pair in pairs for folder in pair.place.split("/")[:-1]}
    assert folders.isdisjoint({"test", "tests", "idle_test", "idlelib", "lib2to3"})
    assert not any(pair.place.startswith("site-packages") for pair in pairs)


def test_calibration_shares_no_text_with_the_pairs(pairs, tmp_path):
    path = tmp_path / "calibration.txt"
    retrieval.write_calibration(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == retrieval.calibration_texts()
    assert 128 <= len(lines) <= 256
    evaluated = {pair.query for pair in pairs} | {pair.document for pair in pairs}
    assert evaluated.isdisjoint(lines)


@pytest.mark.parametrize(
    ("text", "query", "document"),
    [
        ("Open a file.  Return it.\n\nMore.", "Open a file.", "Return it. More."),
        ("Open a\nfile. Done", "Open a file.", "Done"),
        ("No full stop\n\nThe rest.", "No full stop", "The rest."),
        ("See e.g. the other one.\n\nThe rest.", "See e.g. the other one.", "The rest."),
        ("Alone.", "Alone.", ""),
    ],
)
def test_docstring_is_cut_after_its_first_sentence(text, query, document):
    assert docstrings.cut(text) == (query, document)


def test_every_docstring_is_kept_or_counted():
    found = docstrings.collect()
    total = sum(
        1
        for file in docstrings.standard_library.sources(docstrings.UNRELATED)
        for _ in docstrings.in_file(file)
    )
    assert len(found.kept) + sum(found.dropped.values()) == total


def test_no_module_is_imported():
    code = (
        "import sys; from zoo import docstrings; docstrings.collect(); print('this' in sys.modules)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    folder = docstrings.__file__.rsplit("/zoo/", 1)[0]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


def test_evaluation_holds_every_text_once_in_small_sorted_batches():
    seen = {"query": [], "document": []}
    lengths = {"query": [], "document": []}
    for inputs, batch in retrieval.evaluation():
        assert inputs.keys() == {"input_ids", "attention_mask"}
        assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}
        assert inputs["input_ids"].shape == batch.mask.shape
        assert len(batch.pairs) <= 8
        seen[batch.role] += batch.pairs.tolist()
        lengths[batch.role] += batch.mask.sum(axis=1).tolist()
    for role in seen:
        assert sorted(seen[role]) == list(range(1200))
        assert lengths[role] == sorted(lengths[role])
        assert max(lengths[role]) <= 128


def test_tokens_are_those_of_transformers(pairs):
    from transformers import AutoTokenizer

    texts = [pair.document for pair in pairs[:40]]
    reference = AutoTokenizer.from_pretrained(minilm_folder())
    for inputs, batch in labelled("document", texts, minilm_folder()):
        expected = reference(
            [texts[row] for row in batch.pairs],
            truncation=True,
            max_length=128,
            padding=True,
            return_tensors="np",
        )
        for name, array in inputs.items():
            np.testing.assert_array_equal(array, expected[name])


def test_calibration_batches_fit_the_model():
    batches = list(retrieval.calibration())
    texts = 2 * retrieval.CALIBRATION_DOCSTRINGS
    assert sum(len(batch["input_ids"]) for batch in batches) == texts
    assert all(batch["input_ids"].shape[0] <= 8 for batch in batches)
    assert all(batch["input_ids"].shape[1] <= 128 for batch in batches)
