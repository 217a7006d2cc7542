"""Small nets under study."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from effc.ir.program import Program
from effc.passes.base import PassContext
from effc.passes.bits.layers import Wanted, select
from effc.passes.bits.metrics.parts import parts_of
from effc.passes.bits.metrics.study import Study


@pytest.fixture(scope="session")
def study_of() -> Callable[..., Study]:
    """A program under study, with normal or integer inputs."""

    def make(program: Program, **settings: Any) -> Study:
        generator = torch.Generator().manual_seed(1)
        (spec,) = program.signature.inputs
        shape = [size if isinstance(size, int) else 4 for size in spec.shape]
        data = [
            {spec.name: torch.randn(shape, generator=generator)}
            if spec.dtype.is_floating_point
            else {spec.name: torch.randint(0, 512, shape, generator=generator)}
            for _ in range(2)
        ]
        ctx = PassContext(**{"calibration": data, **settings})
        selection = select(program, "forward", ctx, Wanted())
        return Study(program, parts_of(program, selection.layers), ctx)

    return make
