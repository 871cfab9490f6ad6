"""Functions that are wrong in one place only: for a length, a lane, a value, a window or a range.

Besides its main loop a kernel has other pieces of code: bodies and tails, fast paths, clamps, conversions of arguments.
Each function here is a correct one with a bug in such a piece, and right everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from diffuzz import formats
from diffuzz.formats import Parts, q8_k
from diffuzz.formats.iq4_nl import LEVELS
from diffuzz.studies.mutants import wrong_dots as dots
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_blocks import Change, Decoder, changed, dequantiser, right
from diffuzz.targets.contract import Function
from diffuzz.targets.parameter import Params

Array: TypeAlias = np.ndarray
# An argument of a function under test.
Argument: TypeAlias = np.ndarray | float | str

_LOG2_E = 1.4426950408889634


def spoilt(function: Function, where: Callable[..., Array | bool], factor: float = 1.001) -> Function:
    """``function`` with its result multiplied by ``factor`` where ``where(*arguments)`` is true: a bool for the whole
    result, or an array for rows or elements.
    """

    def f(*arguments: Argument) -> Array:
        y = np.asarray(function(*arguments))
        return np.where(where(*arguments), y * np.float32(factor), y)

    return f


def fed(function: Function, change: Change, argument: int = 0) -> Function:
    """``function`` with its array argument number ``argument`` changed."""

    def f(*arguments: Argument) -> Array:
        given = list(arguments)
        given[argument] = change(np.asarray(given[argument]))
        return function(*given)

    return f


def flushed_below(least: float) -> Change:
    """Numbers, with those below ``least`` in magnitude replaced by 0."""
    return lambda x: np.where(np.abs(x) < least, np.float32(0), x)


def vanishing(where: Change, size: int = 0) -> Change:
    """Blocks of ``size`` elements (0: rows), set to 0 if ``where`` is true of their largest magnitude."""

    def f(x: Array) -> Array:
        blocks = x.reshape(-1, size or x.shape[-1])
        return np.where(where(np.abs(blocks).max(axis=1, keepdims=True)), np.float32(0), blocks).reshape(x.shape)

    return f


def exp_seam(x: Array) -> Array:
    """exp with a relative error of 3e-4 if x log2 e is within 1e-4 of a half: the seam of a range reduction."""
    with np.errstate(invalid="ignore"):
        turns = x.astype(np.float64) * _LOG2_E
        beside = np.abs(turns - np.floor(turns) - 0.5) < 1e-4
    y = np.exp(x)
    return np.asarray(np.where(beside, y * np.float32(1.0003), y))


def norm_of_length(n: int) -> Function:
    """RMSNorm that leaves out the last square if the row has exactly ``n`` elements."""
    return rows.rms_norm(total=lambda s: rows.fold(s[..., :-1] if s.shape[-1] == n else s))


def first(x: Array) -> Array:
    """A batch with all rows replaced by the first."""
    return np.broadcast_to(x[:1], x.shape)


def last_lost(function: Function) -> Function:
    """``function`` with the last row of its result set to 0 if there are several rows."""
    return spoilt(function, lambda x, *_: (np.arange(len(x)) == max(len(x) - 1, 1))[:, None], 0.0)


def first_scale(blocks: Array) -> Array:
    """q8_0 blocks that all have the scale of the first block."""
    return np.concatenate([first(blocks[:, :2]), blocks[:, 2:]], axis=1)


def lane_lost(function: Function, lane: int) -> Function:
    """``function`` with element ``lane`` of each row of its result set to 0."""
    return spoilt(function, lambda x, *_: np.arange(x.shape[-1]) == lane, 0.0)


def positions_as(kind: str) -> Function:
    """RoPE with positions converted to the narrower type ``kind``."""
    return rows.rope(position=lambda p: p.astype(kind).astype(np.int32))


def fourth_head_left(x: Array, positions: Array, base: float, mode: str) -> Array:
    """RoPE that does not turn the last of every four heads."""
    y = rows.rope()(x, positions, base, mode)
    y[:, 3::4] = x[:, 3::4]
    return y


def last_peak(values: Array) -> Array:
    """q8_K whose scale has the sign of the last of the largest elements; ggml takes the first."""
    fmt = formats.get("q8_K")
    # In the reversed block the last of them is the first.
    fields = fmt.unpack(q8_k.quantise(np.ascontiguousarray(values[:, ::-1])))
    return fmt.pack(fields | {name: np.ascontiguousarray(fields[name][:, ::-1]) for name in ("codes", "bsums")})


def _changed_where(where: Callable[[Parts], Array], **changes: Callable[[Parts], Array]) -> Decoder:
    """A decoder that changes fields of Parts in the elements, or blocks, for which ``where`` is true."""

    def decode(format: str, blocks: Array) -> Parts:
        parts = right(format, blocks)
        place = where(parts)
        fields = {
            name: np.where(
                place if getattr(parts, name).ndim == place.ndim else place.any(axis=1),
                change(parts),
                getattr(parts, name),
            )
            for name, change in changes.items()
        }
        return changed(parts, **fields)

    return decode


def _blocks(parts: Parts, chosen: Array) -> Array:
    """All elements of the chosen blocks, bool[b, n] for bool[b]."""
    return np.broadcast_to(chosen[:, None], parts.code.shape)


def _lane(parts: Parts, lane: int) -> Array:
    return np.asarray(np.arange(parts.code.shape[1]) == lane)


# Decoders, by name: (formats, what is wrong, decoder).
DECODERS: dict[str, tuple[str, str, Decoder]] = {
    "all-63": (
        "q4_K q5_K",
        "fast path for sub-scales of 63 takes 62",
        _changed_where(
            lambda parts: _blocks(parts, (parts.sub_scale == 63).all(axis=1)),
            sub_scale=lambda parts: parts.sub_scale - 1,
        ),
    ),
    "zero-d": (
        "q4_K q2_K",
        "d = 0 skips the minimum",
        _changed_where(lambda parts: _blocks(parts, parts.d == 0), dmin=lambda parts: 0 * parts.dmin),
    ),
    "lane-level": (
        "iq4_nl",
        "level 1 as 0 in the last lane",
        _changed_where(lambda parts: _lane(parts, 31) & (parts.code == LEVELS[8]), code=lambda parts: 0 * parts.code),
    ),
    "lane-scale": (
        "q6_K",
        "scale -128 as -127 in group 9",
        _changed_where(
            lambda parts: (np.arange(256) // 16 == 9) & (parts.sub_scale == -128),
            sub_scale=lambda parts: parts.sub_scale + 1,
        ),
    ),
    "byte-one": (
        "mxfp4",
        "the second subnormal scale doubled",
        _changed_where(lambda parts: _blocks(parts, parts.d == 2.0**-127), d=lambda parts: 2 * parts.d),
    ),
    "exponent-sign": (
        "mxfp4",
        "scales from 2^32 on as 0",
        _changed_where(lambda parts: _blocks(parts, parts.d >= 2.0**32), d=lambda parts: 0 * parts.d),
    ),
}


def decoder(name: str, format: str) -> Change:
    """The dequantiser of ``format`` with the decoder ``name``."""
    return dequantiser(format, DECODERS[name][2])


def rows_exchanged(format: str) -> dots.Matvec:
    """A product that exchanges rows 1 and 2 if there are at least four rows."""
    product = dots.matvec(format)

    def f(weights: Array, x: Array) -> Array:
        y = product(weights, x)
        if len(weights) >= 4:
            y[[1, 2]] = y[[2, 1]]
        return y

    return f


_SOFTMAX, _NORM, _SWIGLU, _ROPE = rows.soft_max(), rows.rms_norm(), rows.swiglu(), rows.rope()

# (name, target, parameters, function, what is wrong).
TABLE: tuple[tuple[str, str, Params, Function, str], ...] = (
    ("softmax-length", "softmax", {}, spoilt(_SOFTMAX, lambda z: z.shape[1] == 13), "13 logits"),
    ("softmax-long", "softmax", {}, spoilt(_SOFTMAX, lambda z: z.shape[1] >= 256), "from 256 logits on"),
    ("softmax-exp-86", "softmax", {}, rows.soft_max(exp=rows.exp_clamped(-86)), "exp(x) = 0 for x < -86"),
    ("softmax-seam", "softmax", {}, rows.soft_max(exp=exp_seam), "exp beside halves of x log2 e"),
    ("softmax-mask-100", "softmax", {}, fed(_SOFTMAX, lambda z: np.maximum(z, np.float32(-100))), "-inf as -100"),
    ("norm-length", "rmsnorm", {}, norm_of_length(173), "173 elements: last square lost"),
    ("norm-long", "rmsnorm", {}, spoilt(_NORM, lambda x, eps: x.shape[1] >= 256), "from 256 elements on"),
    ("norm-sum-f16", "rmsnorm", {}, rows.rms_norm(total=lambda s: np.minimum(rows.fold(s), np.float32(65504))),
     "sum of squares saturates like an f16"),
    ("norm-flush", "rmsnorm", {}, fed(_NORM, flushed_below(1e-20)), "x below 1e-20 as 0"),
    ("norm-lane", "rmsnorm", {}, lane_lost(_NORM, 77), "element 77 not written"),
    ("batch-maximum", "softmax", {}, rows.soft_max(peak=lambda z: first(z.max(axis=1, keepdims=True))),
     "the first row's maximum for all rows"),
    ("batch-norm", "rmsnorm", {}, rows.rms_norm(total=lambda s: first(rows.fold(s))), "the first row's norm for all"),
    ("batch-position", "rope", {}, rows.rope(position=first), "the first row's position for all rows"),
    ("batch-tail", "swiglu", {}, last_lost(_SWIGLU), "the last row of several not written"),
    ("batch-scale/q8_0", "dequantize", {"format": "q8_0"}, fed(dequantiser("q8_0", right), first_scale),
     "the first block's scale for all blocks"),
    ("silu-seam", "swiglu", {}, spoilt(_SWIGLU, lambda g, u: (g > 5) & (g < 5.001)), "gates of 5 to 5.001"),
    ("silu-byte", "swiglu", {}, fed(_SWIGLU, lambda g: np.clip(g, -127, 127)), "gates saturate at 127"),
    ("silu-exp-86", "swiglu", {}, spoilt(_SWIGLU, lambda g, u: g < -86, 0.0), "0 for gates below -86"),
    ("swiglu-long", "swiglu", {}, spoilt(_SWIGLU, lambda g, u: g.shape[1] >= 256), "from 256 elements on"),
    ("swiglu-flush", "swiglu", {}, fed(_SWIGLU, flushed_below(1e-25), 1), "up below 1e-25 as 0"),
    ("rope-uint16", "rope", {"mode": "norm"}, positions_as("uint16"), "positions in uint16"),
    ("rope-int16", "rope", {"mode": "neox"}, positions_as("int16"), "positions in int16"),
    ("rope-unsigned", "rope", {"mode": "neox"}, rows.rope(position=np.abs), "positions without a sign"),
    ("rope-base-10000", "rope", {"mode": "neox"}, rows.rope(base_of=lambda base: 10000.0), "base 10000"),
    ("rope-heads-of-64", "rope", {"mode": "norm"}, rows.rope(exponent=lambda i, d: 2 * i / 64), "head_dim 64"),
    ("rope-fourth-head", "rope", {"mode": "neox"}, fourth_head_left, "every fourth head not turned"),
    ("quantize-last-peak/q8_K", "quantize", {"format": "q8_K", "ties": "any"}, last_peak, "last of the largest"),
    ("quantize-vanish/q8_0", "quantize", {"format": "q8_0", "ties": "any"},
     fed(rows.quantiser("q8_0"), vanishing(lambda peak: peak < 1e-20)), "blocks below 1e-20 as 0"),
    ("quantize-vanish/q8_K", "quantize", {"format": "q8_K", "ties": "any"},
     fed(rows.quantiser("q8_K"), vanishing(lambda peak: peak < 1e-28)), "blocks below 1e-28 as 0"),
    ("quantize-large/q8_1", "quantize", {"format": "q8_1", "ties": "any"},
     fed(rows.quantiser("q8_1"), vanishing(lambda peak: peak > 100)), "blocks beyond 100 as 0"),
    ("four-rows/q4_0", "matvec", {"format": "q4_0"}, rows_exchanged("q4_0"), "rows exchanged, of four and more"),
    ("one-row/q5_K", "matvec", {"format": "q5_K"}, spoilt(dots.matvec("q5_K"), lambda w, x: len(w) == 1, 2.0),
     "one row alone"),
    ("sixteen-blocks/q8_0", "matvec", {"format": "q8_0"}, spoilt(dots.matvec("q8_0"), lambda w, x: len(x) >= 512, 2.0),
     "from 16 blocks on"),
    ("four-blocks/q4_K", "matvec", {"format": "q4_K"}, spoilt(dots.matvec("q4_K"), lambda w, x: len(x) >= 1024, 2.0),
     "from four super-blocks on"),
    ("total-24/q6_K", "matvec", {"format": "q6_K"}, dots.matvec("q6_K", totals=dots.wrapped(24)),
     "sum of a super-block in 24 bits"),
    ("apr-flush/iq4_nl", "matvec", {"format": "iq4_nl", "arithmetic": "apr"},
     dots.float_matvec("iq4_nl", value=flushed_below(1e-20)), "x below 1e-20 as 0"),
    ("activation-vanish/q4_K", "matvec", {"format": "q4_K"},
     fed(dots.matvec("q4_K"), vanishing(lambda peak: peak < 1e-7, 256), 1), "blocks of x below 1e-7 as 0"),
)  # fmt: skip
