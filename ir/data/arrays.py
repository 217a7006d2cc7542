"""One value of the user's data as an array a model input takes."""

from typing import Any

import numpy as np
import torch

from effc.ir.errors import DataError
from effc.ir.program import TensorSpec, dtype_name


def as_input(value: Any, spec: TensorSpec, where: str) -> np.ndarray:
    """Turn a tensor, an array or nested lists into an array of the input's dtype.

    Integers and bools change their type where no value changes, floats their precision; integers
    never become floats or the other way round.

    Args:
        value: What the user gives.
        spec: The input; only its name and dtype are used.
        where: The file or loader, for messages.

    Raises:
        DataError: If the dtype is of another kind, a value does not fit, or a float is not finite.
    """
    array = as_array(value, spec.name, where)
    wanted = numpy_dtype(spec, where)
    _check_finite(array, spec.name, where)
    if array.dtype == wanted:
        return array
    is_float = array.dtype.kind == "f"
    if is_float != (wanted.kind == "f"):
        raise DataError(
            f"{where}: the array {spec.name} has dtype {array.dtype}; the model takes "
            f"{dtype_name(spec.dtype)}"
        )
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    if not is_float and not np.array_equal(cast, array):
        raise DataError(f"{where}: the array {spec.name} has values that do not fit {wanted}")
    _check_finite(cast, spec.name, where)
    return cast


def as_array(value: Any, name: str, where: str) -> np.ndarray:
    """Turn a tensor, an array or nested lists into an array.

    Raises:
        DataError: If it is not made of numbers of one shape.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        array: np.ndarray = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {name} is not an array: {error}") from error
    if array.dtype.kind not in "iufb":
        raise DataError(f"{where}: {name} holds {array.dtype}, not numbers")
    return array


def numpy_dtype(spec: TensorSpec, where: str) -> np.dtype:
    """The numpy dtype of an input.

    Raises:
        DataError: If numpy has none, such as for bfloat16.
    """
    try:
        return torch.empty(0, dtype=spec.dtype).numpy().dtype
    except TypeError as error:
        name = dtype_name(spec.dtype)
        raise DataError(f"{where}: numpy has no {name}, which input {spec.name} takes") from error


def _check_finite(array: np.ndarray, name: str, where: str) -> None:
    if array.dtype.kind != "f":
        return
    missing, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    if missing or infinite:
        raise DataError(f"{where}: the array {name} holds {missing} NaN and {infinite} infinities")
