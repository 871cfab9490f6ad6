"""Tensors of torch: on the processor they share the memory of the arrays."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import torch

from diffuzz.judging.handing import CPU, MissingArraysError, handed
from diffuzz.registry import one_line

if TYPE_CHECKING:
    from diffuzz.judging.question import Function

# With which a process ends whose device is of no use any more; as that of sysexits.h.
_UNAVAILABLE = 69


def opened(device: str, *, placed: bool = False) -> Callable[[Function], Function]:
    """What makes a function of tensors on ``device`` one of arrays; see ``handing.opened`` for ``placed``.

    Raises MissingArraysError where there is no such device.
    """
    try:
        # To and fro: there are devices without memory, such as meta.
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # of any back end
        raise MissingArraysError(
            f"device {device}: torch {torch.__version__} has none of this name here: {one_line(error)}"
        ) from error
    where = torch.device(device)

    def bind(function: Function) -> Function:
        laid: list[tuple[np.ndarray, torch.Tensor]] = []

        def give(array: np.ndarray) -> torch.Tensor:
            if not placed or device == CPU:
                return of_array(array).to(where)
            flat, there, tensor = laid_out(array, where)
            laid.append((flat, there))
            return tensor

        called = handed(function, give)

        def careful(*positional: object, **named: object) -> object:
            laid.clear()
            try:
                got = called(*positional, **named)
                for flat, there in laid:
                    flat.view(np.uint8)[...] = there.view(torch.uint8).cpu().numpy()
                return got
            except torch.OutOfMemoryError as error:
                raise MemoryError(str(error)) from error
            except Exception:
                if device != CPU:
                    _end_if_lost(where)
                raise

        return careful

    return bind


def of_array(array: np.ndarray) -> torch.Tensor:
    """A tensor with the memory of an array."""
    name = array.dtype.name
    if getattr(ml_dtypes, name, None) is None:
        return torch.from_numpy(array)
    # torch does not know the dtypes of ml_dtypes.
    bits = np.uint8 if array.dtype.itemsize == 1 else np.int16
    return torch.from_numpy(array.view(bits)).view(getattr(torch, name))


def laid_out(array: np.ndarray, device: torch.device) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """An array on another device, with the same strides, the same bytes between its elements, and so many bytes after
    an address that is a multiple of 64: all numbers of its memory here, the same there, and the tensor.

    Raises ValueError where torch has no tensors that lie so.
    """
    of_array(array)  # which refuses what has no tensor anywhere
    size = array.itemsize
    offset, rest = divmod(array.ctypes.data % 64, size)
    if rest:
        raise ValueError(f"an element of {size} bytes cannot begin {rest} bytes after one on another device")
    strides = [stride // size for stride in array.strides]
    count = 1 + sum((extent - 1) * stride for extent, stride in zip(array.shape, strides, strict=True))
    flat = np.lib.stride_tricks.as_strided(array, (count if array.size else 0,), (size,))
    whole = of_array(flat)
    room = torch.zeros(offset + len(whole), dtype=whole.dtype, device=device)
    there = room[offset:]
    there.copy_(whole)
    return flat, there, room.as_strided(array.shape, strides, offset)


def _end_if_lost(device: torch.device) -> None:
    """End the process if its device does nothing any more, as after an illegal access of CUDA: every later case would
    fail, whatever it is.
    """
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # of any back end
        print(f"the device {device} does not answer any more: {one_line(error)}", file=sys.stderr, flush=True)
        os._exit(_UNAVAILABLE)
