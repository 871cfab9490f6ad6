"""Parts of blocks with one scale, and of super-blocks, whose sub-blocks have a scale each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Parts

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32


def of_block(
    d: Float32[AnyArray, " b"],
    minimum: Float32[AnyArray, " b"] | None,
    code: Int32[AnyArray, "b n"],
    xp: ArrayModule,
) -> Parts:
    """Parts of ``value = d * code - minimum``, with one scale, and one minimum or none, for each block."""
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


def of_super_block(
    d: Float32[AnyArray, " b"],
    dmin: Float32[AnyArray, " b"] | None,
    scales: Int32[AnyArray, "b groups"],
    minimums: Int32[AnyArray, "b groups"] | None,
    code: Int32[AnyArray, "b 256"],
    xp: ArrayModule,
) -> Parts:
    """Parts of ``value = f32(d * scale) * code - f32(dmin * minimum)``; a sub-block has 256 / groups elements.

    ``dmin`` and ``minimums`` are None for formats without minimums.
    """
    size = code.shape[1] // scales.shape[1]
    minimum = None
    if dmin is not None and minimums is not None:
        minimum = xp.repeat(dmin[:, None] * minimums.astype(xp.float32), size, axis=1)
    return Parts(
        scale=xp.repeat(d[:, None] * scales.astype(xp.float32), size, axis=1),
        code=code,
        minimum=minimum,
        d=d,
        dmin=dmin,
        sub_scale=xp.repeat(scales, size, axis=1),
        sub_minimum=None if minimums is None else xp.repeat(minimums, size, axis=1),
    )
