"""JAX kernels: the exact formulas, batched, traceable and differentiable, for engines to screen candidates with.

The operation names are those of the other kernel modules. Every function works in the dtype of its argument: float64
where the inputs are float64 (and JAX has it enabled), float32 otherwise. Nothing here is bit-exact: XLA contracts ``a *
b + c`` and orders sums as it likes, so a value found with these counts only after the NumPy kernels confirm it.
"""

from __future__ import annotations

import os
from functools import cache
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffuzz import formats, interruption
from diffuzz.kernels import fused
from diffuzz.working import one_line

# What code that is generic over array modules calls: kernels.xp is numpy in diffuzz.kernels.exact and jax.numpy here.
xp = jnp


@cache
def start() -> None:
    """Make sure that jax has a device. Raises ImportError, one line, with what jax said."""
    try:
        with interruption.held():
            jax.devices()
    except Exception as error:  # an assertion, for JAX_PLATFORMS=cuda without a GPU
        chosen = os.environ.get("JAX_PLATFORMS")
        where = f" with JAX_PLATFORMS={chosen}: unset it" if chosen else ""
        raise ImportError(f"jax does not start{where} ({one_line(error)})") from error


def rms_norm(x: Any, eps: float) -> Any:
    """``x / sqrt(mean(x^2) + eps)`` along the last axis; same shape."""
    return x / jnp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def soft_max(x: Any) -> Any:
    """``exp(x - max x) / sum exp(x - max x)`` along the last axis; same shape."""
    e = jnp.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rope(x: Any, positions: Any, base: float, mode: str) -> Any:
    """Rotary position embedding: pair i of each head turns by ``positions * base^(-2 i / d)``.

    Args:
        x: [b, heads, d], d even.
        positions: integers [b].
        base: of the geometric sequence of frequencies.
        mode: ``"norm"`` for the pairs (2i, 2i + 1), ``"neox"`` for (i, i + d/2).

    Raises:
        ValueError: an unknown mode, or an odd d.
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


def silu(x: Any) -> Any:
    """``x / (1 + exp(-x))``, elementwise; as ``x e^x / (1 + e^x)`` for x < 0, so that gradients stay finite."""
    e = jnp.exp(-jnp.abs(x))
    return x * jnp.where(x >= 0, 1.0, e) / (1.0 + e)


def swiglu(gate: Any, up: Any) -> Any:
    """``silu(gate) * up``, elementwise."""
    return silu(gate) * up


def vec_dot_rows(format: str, weights: Any, x: Any, arithmetic: str = "gguf") -> Any:
    """:func:`diffuzz.kernels.fused.vec_dot_rows` in JAX: all sums in the widest float that is enabled."""
    return fused.vec_dot_rows(format, weights, x, arithmetic, jnp)


def dequantize(format: str, blocks: Any) -> Any:
    """``scale * code - minimum`` (:meth:`diffuzz.formats.Format.decode`): float32[b, block_size]."""
    parts = formats.get(format).decode(blocks, jnp)
    scaled = parts.scale * parts.code.astype(jnp.float32)
    return scaled if parts.minimum is None else scaled - parts.minimum


def _pad(array: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _float32(operation: Any, *static: str) -> Any:
    """``operation`` compiled, NumPy arrays in and out, in float32: what a user of JAX would run."""
    compiled = jax.jit(operation, static_argnames=static)

    def run(*arguments: Any) -> np.ndarray:
        start()
        rows = max(len(a) for a in arguments if isinstance(a, np.ndarray))
        # Batches of all sizes share a few programs.
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
