"""Inputs that the rows of the published chain of claims share (paiml/aprender #1545)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

# Relative drift of one matvec (FFN-GGUF-008), which the chain assumes that the other operations amplify.
PUBLISHED_DRIFT = 0.00077


def ramp(n: int = 256, c: float = 128, s: float = 0.05, p: int = 7, t: float = 0.01) -> Float32[np.ndarray, " n"]:
    """``(i - c) s + (i mod p) t`` for i = 0 .. n-1, every operation rounded to float32."""
    i = np.arange(n, dtype=np.float32)
    return (i - np.float32(c)) * np.float32(s) + np.mod(i, np.float32(p)) * np.float32(t)


def seed_block(sb: int = 0, t: int = 0) -> UInt8[np.ndarray, " 144"]:
    """One q4_K super-block of 256 weights: d = 1, dmin = -0.25, and bytes in arithmetic progressions.

    byte[4 + i] = (7 i + 3 + sb + 11 t) mod 256 for i < 12, byte[16 + i] = (13 i + 17 + 3 sb + 19 t) mod 256 for i <
    128.
    """
    i = np.arange(128)
    scales, codes = 7 * i[:12] + 3 + sb + 11 * t, 13 * i + 17 + 3 * sb + 19 * t
    header = np.array([1.0, -0.25], "<f2").view(np.uint8)
    return np.concatenate([header, (scales % 256).astype(np.uint8), (codes % 256).astype(np.uint8)])


@cache
def seed_matrix(t: int = 0, rows: int = 256) -> UInt8[np.ndarray, "rows 144"]:
    """Weight tensor t of the chained matvecs, whose row sb is ``seed_block(sb, t)``; read-only."""
    matrix = np.stack([seed_block(sb, t) for sb in range(rows)])
    matrix.setflags(write=False)
    return matrix
