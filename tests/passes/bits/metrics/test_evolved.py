"""Formulas: their text, their values, and the metric that is one."""

import numpy as np
import pytest

from effc.ir.errors import UsageError
from effc.passes.bits.forms import FLOAT, INT8, Form
from effc.passes.bits.metrics.evolved import PROXY, STATISTICS, numbers_of
from effc.passes.bits.metrics.expression import Expression
from effc.passes.bits.metrics.registry import sensitivities

FORMS = [FLOAT, INT8, Form(3, 32, 4)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", 4.0), ("sqrt(a)", 2.0), ("mul(a, add(b, square(a)))", 76.0), ("max(a, b)", 4.0),
        ("div(b, a)", 0.75), ("log1p(b)", np.log(4.0)),
    ],
)  # fmt: skip
def test_values(text, value):
    formula = Expression.parse(text, ("a", "b"))
    assert str(formula) == text
    numbers = {"a": np.array([4.0]), "b": np.array([3.0])}
    assert formula.value(numbers) == pytest.approx(value)
    assert formula.names() <= {"a", "b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a name is missing"), ("mul(a)", "mul takes 2 in parentheses"),
        ("sqrt a", "sqrt takes 1 in parentheses"), ("a b", "what does 'b' mean there"),
        ("c", "unknown number 'c'; there are a, b"), ("mul(a, b", "mul takes 2 in parentheses"),
    ],
)  # fmt: skip
def test_texts_that_are_no_formula(text, message):
    with pytest.raises(UsageError, match=message):
        Expression.parse(text, ("a", "b"))


def test_the_metric_is_the_formula_of_the_statistics(images, study_of):
    study = study_of(images)
    found = sensitivities(study, "evolved", FORMS)
    formula = Expression.parse(PROXY, tuple(STATISTICS))
    numbers = numbers_of(study_of(images), study.parts, FORMS, tuple(STATISTICS))
    expected = formula.value(numbers)
    for row, part in zip(expected, study.parts, strict=True):
        assert found[part.name] == pytest.approx([0.0, *row[1:]], rel=1e-6)
    weights = [part.weight.double() for part in study.parts]
    form = FORMS[2]
    errors = [float((form.restored(part.weight) - w).square().sum())
              for part, w in zip(study.parts, weights, strict=True)]  # fmt: skip
    np.testing.assert_allclose(numbers["error"][:, 2], errors, rtol=1e-5)
    np.testing.assert_allclose(numbers["energy"][:, 0], [float(w.square().sum()) for w in weights])
    assert (numbers["gradient"] > 0).all()
