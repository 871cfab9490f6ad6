"""JAX kernels: the exact formulas, batched, traceable and differentiable, in which engines screen candidates.

The operations are those of the other kernel modules. Every function computes in the dtype of its arguments: float64
where they are float64 and JAX has it enabled, else float32. Nothing here is bit-exact, because XLA contracts ``a * b +
c`` and chooses the order of sums; so a value found with these kernels counts only after the NumPy kernels confirm it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from diffuzz import formats, interruption
from diffuzz.kernels import fused
from diffuzz.registry import one_line

if TYPE_CHECKING:
    from jax import Array
    from jaxtyping import Float, Float32, Int, UInt8

# The array module of code that takes a kernel module: jax.numpy here, numpy in diffuzz.kernels.exact.
xp = jnp


@cache
def start() -> None:
    """Make sure that jax has a device. Raises ImportError with a message of one line that quotes jax."""
    try:
        with interruption.held():
            jax.devices()
    except Exception as error:  # an assertion, for JAX_PLATFORMS=cuda without a GPU
        chosen = os.environ.get("JAX_PLATFORMS")
        where = f" with JAX_PLATFORMS={chosen}: unset it" if chosen else ""
        raise ImportError(f"jax does not start{where} ({one_line(error)})") from error


def rms_norm(x: Float[Array, "... n"], eps: float) -> Float[Array, "... n"]:
    """``x / sqrt(mean(x^2) + eps)`` along the last axis."""
    return x / jnp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def soft_max(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """``exp(x - max x) / sum exp(x - max x)`` along the last axis."""
    e = jnp.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rope(
    x: Float[Array, "b heads d"], positions: Int[Array, " b"], base: float, mode: str
) -> Float[Array, "b heads d"]:
    """Rotary position embedding: pair i of each head is rotated by ``position * base^(-2 i / d)``.

    ``mode`` "norm" pairs the elements (2i, 2i + 1), "neox" the elements (i, i + d/2). Raises ValueError for an unknown
    mode and for an odd d.
    """
    b, heads, d = x.shape
    if mode not in ("norm", "neox"):
        raise ValueError(f"mode={mode!r}: norm or neox is needed")
    if d % 2:
        raise ValueError(f"x has heads of {d} elements: an even number is needed")
    frequency = base ** (-2.0 * jnp.arange(d // 2) / d)
    angle = (positions.astype(float)[:, None] * frequency)[:, None, :]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    # Both modes as an array of pairs: [.., d/2, 2] for norm, [.., 2, d/2] for neox.
    split, axis = ((d // 2, 2), -1) if mode == "norm" else ((2, d // 2), -2)
    pairs = x.reshape(b, heads, *split)
    first, second = jnp.take(pairs, 0, axis=axis), jnp.take(pairs, 1, axis=axis)
    turned = jnp.stack((first * cos - second * sin, first * sin + second * cos), axis=axis)
    return turned.reshape(x.shape)


def silu(x: Float[Array, " ..."]) -> Float[Array, " ..."]:
    """``x / (1 + exp(-x))``, for x < 0 computed as ``x e^x / (1 + e^x)``, so that gradients stay finite."""
    e = jnp.exp(-jnp.abs(x))
    return x * jnp.where(x >= 0, 1.0, e) / (1.0 + e)


def swiglu(gate: Float[Array, " ..."], up: Float[Array, " ..."]) -> Float[Array, " ..."]:
    """``silu(gate) * up``."""
    return silu(gate) * up


def vec_dot_rows(
    format: str, weights: UInt8[Array, "b row_bytes"], x: Float32[Array, "b k"], arithmetic: str = "gguf"
) -> Float[Array, " b"]:
    """:func:`diffuzz.kernels.fused.vec_dot_rows` in JAX, with sums in the widest float that is enabled."""
    dots: Float[Array, " b"] = fused.vec_dot_rows(format, weights, x, arithmetic, jnp)
    return dots


def dequantize(format: str, blocks: UInt8[Array, "b type_size"]) -> Float32[Array, "b block_size"]:
    """``scale * code - minimum`` of :meth:`diffuzz.formats.Format.decode`."""
    parts = formats.get(format).decode(blocks, jnp)
    scaled: Float32[Array, "b block_size"] = parts.scale * parts.code.astype(jnp.float32)
    return scaled if parts.minimum is None else scaled - parts.minimum


def _pad(array: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _float32(operation: Callable[..., Array], *static: str) -> Callable[..., np.ndarray]:
    """``operation`` as a user of JAX would run it: compiled, in float32, with NumPy arrays as arguments and result.

    ``static`` names the arguments that are no arrays and select the program.
    """
    compiled = jax.jit(operation, static_argnames=static)

    def run(*arguments: np.ndarray | str | float) -> np.ndarray:
        start()
        rows = max(len(a) for a in arguments if isinstance(a, np.ndarray))
        # Batches are padded to a power of two rows, so that those of all sizes share a few programs.
        room = 1 << (rows - 1).bit_length()
        padded = [_pad(a, room) if isinstance(a, np.ndarray) else a for a in arguments]
        with jax.enable_x64(False):
            return np.asarray(jax.device_get(compiled(*padded)))[:rows]

    return run


compiled = SimpleNamespace(
    dequantize=_float32(dequantize, "format"),
    rms_norm=_float32(rms_norm),
    rope=_float32(rope, "mode"),
    silu=_float32(silu),
    soft_max=_float32(soft_max),
    swiglu=_float32(swiglu),
    vec_dot_rows=_float32(vec_dot_rows, "format", "arithmetic"),
)
