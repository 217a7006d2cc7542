import numpy as np
import pytest

from zoo import language_model, metric, retrieval


def test_accuracy_counts_rows_not_batches():
    scores = np.eye(3, dtype=np.float32)
    results = [({"y": scores}, np.array([0, 1, 2])), ({"y": scores[:1]}, np.array([2]))]
    assert metric.accuracy(results) == 0.75


def test_accuracy_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="accuracy of no rows"):
        metric.accuracy([])


def test_several_outputs_are_an_error():
    outputs = {"logits": np.zeros((1, 2)), "pooled": np.zeros((1, 2))}
    with pytest.raises(ValueError, match="expected one output, found 2: logits, pooled"):
        metric.accuracy([(outputs, np.array([0]))])


def test_metrics_say_which_way_is_better():
    higher = (metric.accuracy, retrieval.top1, retrieval.mrr)
    assert {function.better for function in higher} == {"higher"}
    assert language_model.perplexity.better == "lower"
