"""Taking: what a function of any library returned, as arrays of NumPy, to the bit."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np

from diffuzz.kernels.process.channel import ResultError
from diffuzz.registry import one_line


def taken(result: object) -> object:
    """The arrays of a result, each as one of NumPy; several stay a tuple or a list.

    Raises ResultError, which begins with ``returns``, for what is no array.
    """
    if isinstance(result, tuple):
        return tuple(map(taken, result))
    if isinstance(result, list):
        return list(map(taken, result))
    try:
        array = array_of(result)
        if array.dtype == object:
            raise ResultError(f"returns a {type(result).__name__}, which is no array")
        return array
    except ResultError:
        raise
    except Exception as error:  # of any library
        raise ResultError(f"returns a {type(result).__name__}, which is no array: {one_line(error)}") from error


def array_of(value: Any) -> np.ndarray:
    """What NumPy or DLPack makes of one array, wherever it is; it shares its memory where it can.

    Raises ResultError for a tensor that NumPy has nothing for, and whatever its library raises.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_tensor(value, torch)
    jax = sys.modules.get("jax")
    if (jax is not None and isinstance(value, jax.Array)) or not hasattr(value, "__dlpack__"):
        return np.asarray(value)
    from diffuzz.judging.handing import capsules

    return capsules.taken(value)


def _of_tensor(tensor: Any, torch: Any) -> np.ndarray:
    """One of torch: without its gradient, dense, and from its device, of which all that was asked is done then."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ResultError(f"returns a tensor of the layout {tensor.layout}, where a dense one is needed")
    here = tensor.detach().resolve_conj().resolve_neg().cpu()
    name = str(here.dtype).removeprefix("torch.")
    narrow = getattr(ml_dtypes, name, None)
    if narrow is None:
        return np.asarray(here.numpy())
    # NumPy knows these by ml_dtypes only, and torch does not: so the bits are handed over.
    bits = torch.uint8 if here.dtype.itemsize == 1 else torch.int16
    return np.asarray(here.view(bits).numpy()).view(narrow)
