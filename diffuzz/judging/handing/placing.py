"""Placing: whether an array reaches a function as it lies in memory, with its strides and its alignment.

Of NumPy's arrays and capsules of DLPack all do. torch has no negative strides. JAX copies what is not contiguous and
aligned to 64 bytes. On another device an array is a copy: tensors have its strides there (see tensors.laid_out), and
what is around them is not ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from diffuzz.judging.handing import CPU, NUMPY, Give, Handing
from diffuzz.judging.handing.taking import array_of
from diffuzz.judging.memory import Place
from diffuzz.registry import one_line

# Why an array that was put in a place does not reach a function so; an empty line where it does.
Refuses: TypeAlias = Callable[[np.ndarray, Place], str]
# Places that say what is around an array.
_AROUND = ("plain", "after", "before")


def only_contiguous(handing: Handing) -> str:
    """Why arrays lie in memory in one way only, whatever place they are put in; an empty line where that is not so."""
    return "JAX copies what is not contiguous and aligned" if handing.arrays == "jax" else ""


def refusing(handing: Handing) -> Refuses:
    """What tells which arrays do not reach a function that is called as ``handing`` says.

    Raises MissingArraysError: the package, or the device, is not here.
    """
    if handing.arrays == NUMPY:
        return lambda array, place: ""
    give = _giving(handing)

    def refuses(array: np.ndarray, place: Place) -> str:
        if handing.device != CPU and (handing.arrays != "torch" or place.kind in _AROUND):
            return f"arrays of {handing} are copies in memory of their own"
        if handing.arrays == "torch" and min(array.strides, default=0) < 0:
            return "torch has no negative strides"
        try:
            given = give(array)
            lies_so = handing.device != CPU or _is_same_memory(array, array_of(given))
        except Exception as error:  # of any library
            return f"{handing.arrays} has no array that lies so: {one_line(error)}"
        return "" if lies_so else f"{handing.arrays} copies an array that lies so"

    return refuses


def _giving(handing: Handing) -> Give:
    match handing.arrays:
        case "torch":
            import torch

            from diffuzz.judging.handing import tensors

            where = torch.device(handing.device)
            return tensors.of_array if handing.device == CPU else lambda array: tensors.laid_out(array, where)
        case "jax":
            from diffuzz.judging.handing import jax_arrays

            return jax_arrays.giving(handing.device)
        case _:
            from diffuzz.judging.handing import capsules

            return capsules.given


def _is_same_memory(array: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of one shape are the same numbers in memory; the stride of a single number says nothing."""
    same = all(a == b for a, b, size in zip(array.strides, other.strides, array.shape, strict=True) if size > 1)
    return same and array.shape == other.shape and array.ctypes.data == other.ctypes.data
