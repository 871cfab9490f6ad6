"""Checks of the arguments of operations: shapes and dtypes, the same for all implementations.

Every check raises ValueError with one line that names the argument, what it is and what is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from diffuzz import formats

if TYPE_CHECKING:
    from jaxtyping import Float, Int64, UInt8

MODES = ("norm", "neox")
LARGEST_POSITION = 2**31


def real(name: str, x: ArrayLike, *, wide: bool = False) -> Float[np.ndarray, " ..."]:
    """``x`` as an array of float32 or, if ``wide``, of float32 or float64."""
    array = np.asarray(x)
    if array.dtype == np.float32 or (wide and array.dtype == np.float64):
        return array
    raise ValueError(f"{name} has dtype {array.dtype}: {'float32 or float64' if wide else 'float32'} is needed")


def vector(name: str, x: ArrayLike, *, wide: bool = False) -> Float[np.ndarray, "... n"]:
    """As ``real``, with a last axis of at least one element."""
    array = real(name, x, wide=wide)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} has shape {array.shape}: a last axis of at least one element is needed")
    return array


def norm(
    x: ArrayLike, eps: float, weight: ArrayLike | None, *, wide: bool = False
) -> tuple[Float[np.ndarray, "... n"], Float[np.ndarray, "... n"] | None]:
    """(x, weight) of ``rms_norm``: weight has the length of the last axis of x; eps is finite and not negative."""
    array = vector("x", x, wide=wide)
    if not 0 <= eps < np.inf:
        raise ValueError(f"eps={eps}: a finite number, at least 0, is needed")
    if weight is None:
        return array, None
    gain = real("weight", weight, wide=wide)
    if gain.ndim == 0 or gain.shape[-1] != array.shape[-1]:
        raise ValueError(f"weight has shape {gain.shape}: a last axis of {array.shape[-1]}, as x has, is needed")
    return array, gain


def pair(
    gate: ArrayLike, up: ArrayLike, *, wide: bool = False
) -> tuple[Float[np.ndarray, " ..."], Float[np.ndarray, " ..."]]:
    """(gate, up) of ``swiglu``: of the same shape."""
    one, other = real("gate", gate, wide=wide), real("up", up, wide=wide)
    if one.shape != other.shape:
        raise ValueError(f"up has shape {other.shape}: that of gate, {one.shape}, is needed")
    return one, other


def rope(
    x: ArrayLike, positions: ArrayLike, base: float, mode: str, *, wide: bool = False
) -> tuple[Float[np.ndarray, "b heads d"], Int64[np.ndarray, " b"]]:
    """(x, positions) of ``rope``: d is even, positions within +-2^31; base is at least 1, mode one of MODES."""
    array, where = real("x", x, wide=wide), np.asarray(positions)
    if array.ndim != 3:
        raise ValueError(f"x has shape {array.shape}: [b, heads, head_dim] is needed")
    if array.shape[2] == 0 or array.shape[2] % 2:
        raise ValueError(
            f"x has heads of {array.shape[2]} elements: an even number is needed, because RoPE rotates pairs"
        )
    if where.shape != array.shape[:1] or not np.issubdtype(where.dtype, np.integer):
        raise ValueError(f"positions is {where.dtype}{list(where.shape)}: an integer for each row of x is needed")
    farthest = np.abs(where.astype(np.float64)).max(initial=0)
    if farthest > LARGEST_POSITION:
        raise ValueError(f"positions reach {farthest:.0f}: at most 2^31 is needed")
    if not 1 <= base < np.inf:
        raise ValueError(f"base={base}: a finite number, at least 1, is needed")
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: {' or '.join(MODES)} is needed")
    return array, where.astype(np.int64)


def blocks(format: str, weights: ArrayLike) -> UInt8[np.ndarray, "rows blocks type_size"]:
    """``weights`` uint8[rows, row_bytes] as rows of whole blocks."""
    fmt, array = formats.get(format), np.asarray(weights)
    if array.dtype != np.uint8 or array.ndim != 2:
        raise ValueError(f"weights is {array.dtype}{list(array.shape)}: uint8[rows, row_bytes] is needed")
    if array.shape[1] == 0 or array.shape[1] % fmt.type_size:
        raise ValueError(
            f"weights has rows of {array.shape[1]} bytes: whole {format} blocks of {fmt.type_size} are needed"
        )
    return np.ascontiguousarray(array).reshape(len(array), array.shape[1] // fmt.type_size, fmt.type_size)


def dot(
    format: str, weights: ArrayLike, x: ArrayLike, *, paired: bool, wide: bool = False
) -> tuple[UInt8[np.ndarray, "rows blocks type_size"], Float[np.ndarray, "b k"]]:
    """(blocks, x) of a dot product: a row of weights holds k values; if ``paired``, there are b rows of weights."""
    rows, array = blocks(format, weights), real("x", x, wide=wide)
    k = rows.shape[1] * formats.get(format).block_size
    if array.ndim != 2 or array.shape[1] != k:
        raise ValueError(f"x has shape {array.shape}: [b, {k}] is needed, because a row of weights has {k} elements")
    if paired and len(array) != len(rows):
        raise ValueError(f"x has {len(array)} rows: one for each of the {len(rows)} rows of weights is needed")
    return rows, np.ascontiguousarray(array)


def halves(
    x: Float[np.ndarray, "b heads d"], mode: str
) -> tuple[Float[np.ndarray, "b heads d/2"], Float[np.ndarray, "b heads d/2"]]:
    """The first and the second elements of the pairs that RoPE rotates, as views."""
    if mode == "norm":
        return x[..., 0::2], x[..., 1::2]
    middle = x.shape[-1] // 2
    return x[..., :middle], x[..., middle:]


def joined(
    first: Float[np.ndarray, "b heads d/2"], second: Float[np.ndarray, "b heads d/2"], mode: str
) -> Float[np.ndarray, "b heads d"]:
    """Inverse of ``halves``."""
    if mode == "norm":
        return np.stack((first, second), axis=-1).reshape(*first.shape[:-1], -1)
    return np.concatenate((first, second), axis=-1)
