"""Refusing tensors that would not fit in memory before they are allocated."""

import math
import os
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from effc.ir.errors import ModelError

SHARE = 0.5
GROWING = """
full zeros ones empty new_full new_zeros new_ones new_empty expand repeat arange constant_pad_nd eye
repeat_interleave one_hot add mul where pad tile linspace
""".split()
ALLOCATING = frozenset(f"aten.{name}" for name in GROWING)


def memory_limit() -> int:
    """The most bytes one tensor may take: half of the machine's memory."""
    return int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def check_fits(shape: Any, itemsize: int, what: str) -> None:
    """Check that a tensor fits in memory.

    Args:
        shape: Its sizes; symbolic ones are not counted.
        itemsize: Bytes of an element.
        what: What to call it.

    Raises:
        ModelError: If it does not.
    """
    sizes = [size for size in shape if isinstance(size, int)]
    nbytes = math.prod(sizes) * itemsize
    if nbytes > memory_limit():
        raise ModelError(f"{what} needs {nbytes} bytes, more than half of this machine's memory")


class Limited(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Checks the results of operators that can make large tensors of small ones."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute the size of the result first."""
        kwargs = kwargs or {}
        if str(func.overloadpacket) in ALLOCATING:
            meta_args, meta_kwargs = pytree.tree_map_only(
                torch.Tensor, lambda x: x.to("meta"), (args, kwargs)
            )
            has_tensor = any(isinstance(x, torch.Tensor) for x in pytree.tree_leaves(meta_args))
            if "device" in meta_kwargs or not has_tensor:
                meta_kwargs["device"] = torch.device("meta")
            result = func(*meta_args, **meta_kwargs)
            if isinstance(result, torch.Tensor):
                check_fits(result.shape, result.element_size(), "a constant")
        return func(*args, **kwargs)
