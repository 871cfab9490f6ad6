"""Parts of legacy blocks (one scale) and of super-blocks (sub-block scales), as the format modules make them."""

from __future__ import annotations

from typing import Any

from diffuzz.formats.format import Parts


def of_block(d: Any, minimum: Any, code: Any, xp: Any) -> Parts:
    """value = d * code - minimum with one scale, and one minimum or None, for each block of 32."""
    ones = xp.ones(code.shape, xp.int32)
    wide = ones.astype(xp.float32)
    return Parts(
        scale=d[:, None] * wide,
        code=code,
        minimum=None if minimum is None else minimum[:, None] * wide,
        d=d,
        dmin=minimum,
        sub_scale=ones,
        sub_minimum=None if minimum is None else ones,
    )


def of_super_block(d: Any, dmin: Any, scales: Any, minimums: Any, code: Any, xp: Any) -> Parts:
    """value = f32(d * scale) * code - f32(dmin * minimum), each sub-block scale standing for 256 / len(scales)
    elements.
    """
    size = code.shape[1] // scales.shape[1]
    minimum = None if minimums is None else xp.repeat(dmin[:, None] * minimums.astype(xp.float32), size, axis=1)
    return Parts(
        scale=xp.repeat(d[:, None] * scales.astype(xp.float32), size, axis=1),
        code=code,
        minimum=minimum,
        d=d,
        dmin=dmin,
        sub_scale=xp.repeat(scales, size, axis=1),
        sub_minimum=None if minimums is None else xp.repeat(minimums, size, axis=1),
    )
