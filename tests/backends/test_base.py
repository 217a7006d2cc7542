"""Finding backends, and what none of them can take."""

import importlib
from pathlib import Path

import pytest
import torch

from effc.backends.base import BACKENDS, backend_of, without_arrays
from effc.ir.errors import TargetError, UnsupportedError
from effc.ir.target import Target
from effc.ir.testing import recorded

TYPES = {torch.bfloat16: "bf16", torch.float8_e4m3fn: "f8e4m3", torch.float8_e5m2: "f8e5m2"}


@pytest.mark.parametrize("name", BACKENDS)
def test_every_entry_is_a_backend(name: str) -> None:
    module, _, attribute = BACKENDS[name].partition(":")
    assert type(backend_of(name)) is getattr(importlib.import_module(module), attribute)
    for method in ("unsupported", "build", "open"):
        assert callable(getattr(backend_of(name), method))


def test_unknown_backends() -> None:
    with pytest.raises(
        TargetError, match=r"^unknown backend 'abacus'; there are: tvm_cpu, eager, onnxruntime$"
    ):
        backend_of("abacus")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", BACKENDS)
def test_types_numpy_lacks_are_refused_before_anything_is_built(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """As inputs and as outputs; inside a program they are nobody's business here."""
    program = recorded(lambda x: x.to(dtype), x=torch.ones(3))
    target = Target.parse("eager" if name == "eager" else "native")
    (found,) = without_arrays(program)
    assert str(found) == f"output output: {TYPES[dtype]} arrays have no numpy form"
    with pytest.raises(UnsupportedError) as caught:
        backend_of(name).build(program, target, tmp_path)
    assert found in caught.value.operators
    assert list(tmp_path.iterdir()) == []
    given = recorded(lambda x: x.float(), x=torch.ones(3).to(dtype))
    assert [entry.op for entry in without_arrays(given)] == ["input x"]
    inside = recorded(lambda x: x.to(dtype).float(), x=torch.ones(3))
    assert without_arrays(inside) == []
