"""Arrays of JAX: on the processor they share the memory of the arrays, where JAX takes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import jax
import numpy as np

from diffuzz.judging.handing import Give, MissingArraysError, handed
from diffuzz.registry import one_line

if TYPE_CHECKING:
    from diffuzz.judging.question import Function


def opened(device: str) -> Callable[[Function], Function]:
    """What makes a function of JAX's arrays on ``device`` one of NumPy's. Raises MissingArraysError where there is
    none.

    Numbers of 64 bits stay what they are: a call that gets any is made with ``jax_enable_x64``, and only that.
    """
    give = giving(device)

    def bind(function: Function) -> Function:
        called = handed(function, give)

        def wide_enough(*positional: object, **named: object) -> object:
            with _wide_enough(one for one in (*positional, *named.values()) if isinstance(one, np.ndarray)):
                return called(*positional, **named)

        return wide_enough

    return bind


def giving(device: str) -> Give:
    """What makes arrays of JAX on ``device``. Raises MissingArraysError where there is none."""
    platform, _, number = device.partition(":")
    try:
        where = jax.devices(platform)[int(number or 0)]
    except Exception as error:  # of any back end
        why = "" if isinstance(error, IndexError) else f": {one_line(error)}"
        raise MissingArraysError(f"device {device}: jax {jax.__version__} has none of this name here{why}") from error

    def give(array: np.ndarray) -> object:
        with _wide_enough((array,)):
            given: object = jax.device_put(array, where)
            return given

    return give


def _wide_enough(arrays: Iterable[np.ndarray]) -> contextlib.AbstractContextManager[object]:
    """What a call is made in, for numbers of 64 bits to stay what they are."""
    wide = any(one.dtype.itemsize == 8 for one in arrays)
    return jax.enable_x64(True) if wide else contextlib.nullcontext()
