"""Every registered pass can be imported, and class, file and name agree."""

import dataclasses

import pytest

from effc.passes.base import Pass
from effc.passes.registry import PASSES, pass_class


@pytest.mark.parametrize("name", PASSES)
def test_entries(name: str) -> None:
    kind = pass_class(name)
    assert issubclass(kind, Pass)
    assert kind.name == name
    assert PASSES[name] == f"{kind.__module__}:{kind.__qualname__}"


@pytest.mark.parametrize("name", PASSES)
def test_names_agree(name: str) -> None:
    kind = pass_class(name)
    words = name.split("-")
    assert kind.__name__ == "".join(word.capitalize() for word in words)
    _, _, folder, file = kind.__module__.rsplit(".", 3)
    assert file in {"_".join(words), "_".join(words[1:]), words[0]}, f"{folder}/{file}.py"


@pytest.mark.parametrize("name", PASSES)
def test_passes_are_frozen_dataclasses_with_defaults(name: str) -> None:
    kind = pass_class(name)
    assert kind.__dataclass_params__.frozen
    assert [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING] == []
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")
