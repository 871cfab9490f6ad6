r"""Matvec: how far apart are the APR path and the GGUF path of one row of weights times one activation?

    arithmetic=gguf   A: dequantises the weights and folds float32 products from the left (as APR once did)
                      B: quantises x to the format's partner (q8_K, q8_0 or q8_1) and takes the fused integer dot
                         product, as ggml does on x86; or rounds x to it (f16, bf16) and folds float32 products
    arithmetic=apr    A: as above
                      B: the same dequantised weights with 8 lanes of fused multiply-adds

Published (FFN-GGUF-008): |A - B| / |A| = 0.077 % on one input. Cancellation makes the relative error of a signed sum
unbounded, so the measure is another.

**Measure.** |A - B| / (||w||_1 max|x|), or with floor > 0 the relative |A - B| / max(|A|, floor ||w||_2 ||x||_2). The
norms of w are those of its terms, |d sc q| + |dmin m|, which the kernels sum separately (see
:func:`diffuzz.kernels.fused.terms`): a row whose terms cancel to zero has a drift, and no measure relative to zero is
bounded. With dmin = 0 they are the norms of w. Scales are limited to those that an f16 can hold, in mxfp4 too: with a
scale below 2^-24 its products would leave the normal float32 numbers, and nothing relative to them is bounded.

**Norm-relative bound.** B is sum w_i x^_i with x^ the quantised activation, and A is sum w_i x_i, both up to rounding.
So |A - B| <= sum |terms_i| |x^_i - x_i| <= ||w||_1 max|x^ - x|. For q8_K, max|x^ - x| is 1/254 of max|x|. For an f16
scale the rounding of the scale is added, 2^-11 in relative terms, and more if the scale is subnormal. That is (1) of
:mod:`diffuzz.targets.error_bounds`. Activations beside the edge between two codes that have the sign of their weight
reach it, or nearly, if the largest activation meets a weight of zero (iq4_nl has none; its smallest level is 1 of 127).

**Relative bound.** By Cauchy and Schwarz |A - B| <= ||w||_2 ||x^ - x||_2, and ||x^ - x||_2 / ||x||_2 is at most (2) and
(3) of :mod:`diffuzz.targets.error_bounds`: sqrt(255) / 254 / sqrt(1 + 255/254^2) = 0.0627 for q8_K. The bound is this
number divided by the floor, 6.27 for 0.01.

**Rounding.** A has n products, n - 1 sums and three roundings of a weight: gamma_{n+4} sum |terms_i x_i|. B has one
fused multiply-add for each block and lane, the product of the scales, the conversion of an integer sum, and four sums
at the end: gamma_{n/32+8} of the same sum with x^. Codes are rounded to within error_bounds.ROUNDING of half a step.
Products below the float32 range add less than 2^-90 of the whole. With arithmetic=apr there is only rounding: B folds
n/8 terms in each lane and adds three sums, which gives gamma_n + gamma_{n/8+3}. The three roundings of each weight are
the same on both sides.

A case comes close to this bound if its first product, or first group of products, outweighs all others: the fold then
loses the others one by one, and the lanes do not. The group is a 16th or an 8th of a super-block, and within one
super-block its scale is at most 63 times that of the others. This reaches 43 % (q3_K) to 96 % of the bound at n = 256,
and 78 % (q6_K) to 98 % at n = 2048.

**A candidate** with arithmetic=gguf may quantise its activations as ggml does, or keep them as they are; see
``allowance`` and ``rounding``. Other kernels quantise otherwise. Those of GPUs multiply K formats and q4_0 with q8_1,
whose blocks of 32 have f16 scales and f16 sums (``activation=q8_1``: offsets of codes are then terms of their own that
are multiplied with such a sum). Those of older ggml, and candle's, quantise to q8_K with a scale of -128 / max, and an
element of the opposite sign saturates (``policy=saturate``: 51 elements of 16 beside one of -16 become 15.875 each and
add up to 793.6, for 800).

**Noise.** The noise is the distance of A from the sum in float64: a value counts as a drift of the quantised path only
as far as A is the more accurate of the two. With arithmetic=apr that distance is the drift itself, so there is no
noise; both sides are exact to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases import domain
from diffuzz.cases.ranges import clip, dtype_of
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.formats import iq4_nl, mxfp4
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.kernels import Implementation, apr, exact, fused, ggml, gguf
from diffuzz.targets import derived, error_bounds
from diffuzz.targets.contract import Contract, Function
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Parameter, ParameterError, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, UInt8

# Those whose dot products in ggml are known to the bit, and whose codes constructions know.
WEIGHT_FORMATS = tuple(sorted(ggml.MODELLED, key=formats.REGISTRY.order))
# Smallest scale of a format whose scales are not f16 numbers.
SMALLEST_SCALE = 2.0**-24
# Largest max|x| where an f16 number depends on it: with q8_1 its block sum, so 32 max|x| must not exceed the largest
# f16 number; with f16 x itself.
LARGEST_WITH_BLOCK_SUM, LARGEST_HALF = 2040.0, 65504.0
SMALLEST_PEAK = 2.0**-4
ONE_ROW = Dim("rows", 1, fixed=True)
# What activations are quantised to, or rounded to one by one.
CODES, FLOATS = ("q8_0", "q8_1", "q8_K"), ("f16", "bf16")
ACTIVATIONS = (*CODES, *FLOATS)
# Rows in most cases of a candidate: kernels take four at a time, and one is left over. Others have up to MOST_ROWS,
# because kernels work in tiles of 16 to some hundred rows.
USUAL_ROWS, MOST_ROWS = 5, 1025
LEAST_BLOCKS, USUAL_LENGTH = 5, 512
# Formats whose codes are indices of a table of levels.
LEVELS = {"iq4_nl": iq4_nl.LEVELS, "mxfp4": mxfp4.LEVELS}
# Distance of a start from the edge between two codes, in codes: above float32 rounding, too small to matter otherwise.
EDGE = 2.0**-15


def _is_format(name: str) -> bool:
    """Whether it is a format of weights: one that says what activations are quantised to."""
    return formats.REGISTRY.known(name) and formats.get(name).activation in ACTIVATIONS


def _formats() -> tuple[str, ...]:
    return tuple(filter(_is_format, formats.names()))


def _has_codes(name: str) -> bool:
    """Whether activations are quantised to codes before they are multiplied with these weights."""
    return _is_format(name) and formats.get(name).activation in CODES


def _with_codes() -> tuple[str, ...]:
    return tuple(filter(_has_codes, formats.names()))


WITH_CODES = Parameter("format", "q4_K", "format of the weights", choices=_with_codes, accepts=_has_codes)
FORMAT = Parameter("format", "q4_K", "format of the weights", choices=_formats, accepts=_is_format)
LENGTH = Parameter("n", 256, "length of the row, in whole blocks", low=32, high=65536)
MAX_ABS = Parameter("max_abs", 16.0, "largest |x|", low=1e-6, high=1e6)

ACTIVATION = Parameter(
    "activation",
    "partner",
    "partner: x is quantised to ggml's format for these weights | q8_0: to blocks of 32 with f16 scales | "
    "q8_1: to the same with f16 sums of the blocks | q8_K: to blocks of 256 with float32 scales | "
    "f16, bf16: x is rounded to it",
    choices=("partner", *ACTIVATIONS),
    later=True,
)
POLICY = Parameter(
    "policy",
    "exact",
    "exact: codes of x up to +-127 | saturate: q8_K with a scale of -128 / max, where 128 becomes 127",
    choices=("exact", "saturate"),
    later=True,
)
ARITHMETIC = Parameter("arithmetic", "gguf", "gguf: x is quantised | apr: x stays float32", choices=("gguf", "apr"))

PARAMETERS = (
    FORMAT,
    ARITHMETIC,
    LENGTH,
    MAX_ABS,
    Parameter(
        "floor", 0.0, "0: norm-relative; above: relative to |A|, at least this share of ||w|| ||x||", low=0.0, high=1.0
    ),
)
CONTRACT_PARAMETERS = (
    FORMAT,
    ARITHMETIC,
    MAX_ABS,
    Parameter(
        "candidate_n",
        32768,
        f"largest k that a candidate is called with, made an odd number of blocks, at least five; most often about "
        f"{USUAL_LENGTH}",
        low=32,
        high=2**20,
    ),
    ACTIVATION,
    POLICY,
    *derived.HELD_BY_FLOAT32,
)


def partner(p: Params) -> str:
    """The format that activations are quantised to before they are multiplied with these weights: that of the
    parameter ``activation``, if there is one and it names one.
    """
    chosen = str(p.get("activation", "partner"))
    return chosen if chosen != "partner" else formats.get(p["format"]).activation or ""


def block_of(p: Params) -> int:
    """Elements that are whole blocks, of the weights and of their activations."""
    return math.lcm(formats.get(p["format"]).block_size, formats.get(partner(p)).block_size)


def activation_spec(p: Params, n: Dim, quantiser: str | None) -> TensorSpec:
    """The activation x, with max|x| >= max_abs / 16; ``quantiser`` is the format that it is quantised to, or None. One
    that is rounded has no blocks, scales and codes, so its moves are those of a plain array.
    """
    top = p["max_abs"]
    quantiser = None if quantiser in FLOATS else quantiser
    return TensorSpec(
        "x",
        kind="activations",
        shape=(n,),
        low=-top,
        high=top,
        smallest_peak=top * SMALLEST_PEAK,
        quantiser=quantiser,
        against="weights" if quantiser else None,
    )


def length(p: Params) -> Dim:
    """The length n of the row of the target's own claim. Raises ParameterError if it is not a multiple of the block."""
    fmt, size = formats.get(p["format"]), block_of(p)
    if p["n"] % size:
        whose = p["format"] if size == fmt.block_size else f"{p['format']} and {partner(p)}"
        raise ParameterError(f"n={p['n']}: a multiple of {size}, the block of {whose}, is needed")
    return Dim("n", p["n"], step=size)


def row_space(p: Params, n: Dim, *, rows: Dim = ONE_ROW, quantised: bool = True) -> Space:
    """Rows of weights of the length ``n`` and an activation, which is ``quantised`` or not.

    Raises ParameterError if a block sum of q8_1 could overflow.
    """
    fmt = formats.get(p["format"])
    if partner(p) == "q8_1" and p["max_abs"] > LARGEST_WITH_BLOCK_SUM:
        raise ParameterError(
            f"max_abs={p['max_abs']:g}: at most {LARGEST_WITH_BLOCK_SUM:g} is needed, or a sum of q8_1 overflows f16"
        )
    if quantised and partner(p) == "f16" and p["max_abs"] > LARGEST_HALF:
        raise ParameterError(f"max_abs={p['max_abs']:g}: at most {LARGEST_HALF:g} is needed, or x overflows f16")
    # The d of bf16 is a weight, which may be zero or negative.
    free = fmt.half_fields or p["format"] == "bf16" or not fmt.scale_fields
    weights = TensorSpec(
        "weights", kind="blocks", shape=(rows, n), format=p["format"], smallest_scale=0.0 if free else SMALLEST_SCALE
    )
    return Space((weights, activation_spec(p, n, partner(p) if quantised else None)))


def space(p: Params) -> Space:
    """One row of weights and an activation."""
    return row_space(p, length(p), quantised=p["arithmetic"] == "gguf")


def paths(p: Params, arrays: Arrays) -> tuple[Float64[np.ndarray, " b"], Float64[np.ndarray, " b"]]:
    """The results of path A and path B: float32 results, exact to the bit, converted to float64."""
    weights, x = arrays["weights"][:, 0], arrays["x"]
    a = apr.vec_dot_rows(p["format"], weights, x)
    if p["arithmetic"] == "gguf":
        b = ggml.vec_dot_rows(p["format"], weights, x)
    else:
        b = apr.vec_dot_rows(p["format"], weights, x, order="simd")
    return a.astype(np.float64), b.astype(np.float64)


def value_of(
    p: Params, arrays: Arrays, a: Float64[AnyArray, " b"], b: Float64[AnyArray, " b"], xp: ArrayModule
) -> tuple[Float64[AnyArray, " b"], Float64[AnyArray, " b"]]:
    """(value, the number that |A - B| is divided by). The value of a row without weights is 0."""
    terms, x = fused.terms(p["format"], arrays["weights"][:, 0], xp), xp.abs(arrays["x"].astype(float))
    if p["floor"] > 0:
        lengths = xp.sqrt((terms * terms).sum(axis=1)) * xp.sqrt((x * x).sum(axis=1))
        whole = xp.maximum(xp.abs(a), p["floor"] * lengths)
    else:
        whole = terms.sum(axis=1) * x.max(axis=1)
    safe = xp.where(whole > 0, whole, 1.0)
    return xp.where(whole > 0, xp.abs(a - b) / safe, 0.0), safe


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """The drift of the two paths, whose results are exact to the bit. The noise is the rounding of path A."""
    a, b = paths(p, arrays)
    value, whole = value_of(p, arrays, a, b, np)
    wide = exact.vec_dot_rows(p["format"], arrays["weights"][:, 0], arrays["x"])
    noise = np.abs(a - wide) / whole if p["arithmetic"] == "gguf" else np.zeros_like(value)
    return Outcome(value, noise)


def explain(p: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The results of the two paths, and the product in float64."""
    a, b = paths(p, arrays)
    return {"A": a, "B": b, "exact": exact.vec_dot_rows(p["format"], arrays["weights"][:, 0], arrays["x"])}


def screen(p: Params) -> Callable[[Arrays], Float64[AnyArray, " b"]] | None:
    """The drift with all sums in float64; None for arithmetic=apr, where the drift is the rounding of these sums."""
    if p["arithmetic"] == "apr":
        return None
    from diffuzz.kernels import xla

    def value(arrays: Arrays) -> Float64[AnyArray, " b"]:
        weights, x = arrays["weights"][:, 0], arrays["x"]
        a = xla.vec_dot_rows(p["format"], weights, x, "apr")
        b = xla.vec_dot_rows(p["format"], weights, x, "gguf")
        return value_of(p, arrays, a, b, xla.xp)[0]

    return value


def bound(p: Params) -> Bound:
    """The bound that the docstring of the module derives."""
    n, peak = p["n"], p["max_abs"] * SMALLEST_PEAK
    relative = p["floor"] > 0
    divisor = p["floor"] if relative else 1.0
    if p["arithmetic"] == "apr":
        rounding = error_bounds.gamma(n) + error_bounds.gamma(n // 8 + 3)
        return Bound(rounding / divisor, "rounding alone: gamma_n + gamma_{n/8+3}", rounding=4 * error_bounds.UNIT)
    activation = partner(p)
    largest = (
        error_bounds.largest_relative_error(activation, peak, n)
        if relative
        else error_bounds.largest_code_error(activation, peak, n)
    )
    step = min(32, math.gcd(formats.get(p["format"]).block_size, formats.get(activation).block_size))
    sums = error_bounds.gamma(n + 4) + (1 + largest) * error_bounds.gamma(n // step + 8)
    because = f"half a step of {activation}" if activation in CODES else f"rounding of x to {activation}"
    because += ", Cauchy-Schwarz, over the floor" if relative else ""
    return Bound(largest / divisor, because, rounding=error_bounds.ROUNDING + sums / largest)


def plain_codes(format: str) -> tuple[int, int, int, formats.Fields]:
    """(idle code, loud code, stored sub-scale that means 1, fields of a zero block).

    The idle code is the stored code of the smallest weight, which is 0 except in iq4_nl. The loud code is that of the
    weights that rows are made of.
    """
    fmt = formats.get(format)
    fields = fmt.unpack(np.zeros((1, fmt.type_size), np.uint8))
    if format in LEVELS:
        size = np.abs(LEVELS[format])
        return int(size.argmin()), int(size.argmax()), 1, fields
    parts = fmt.decode(fmt.pack(fields))
    scale = int(fields["scales"].flat[0]) - int(parts.sub_scale.flat[0]) + 1 if "scales" in fields else 1
    zero = int(fields["codes"].flat[0]) - int(parts.code.flat[0])
    # The lowest code if codes have a sign: for q6_K it is the one whose two terms do not partly cancel.
    return zero, 0 if zero > 0 else zero + 1, scale, fields


def plain_weights(
    p: Params, rng: np.random.Generator, count: int, *, silent: bool = True
) -> tuple[UInt8[np.ndarray, "count row_bytes"], Float64[np.ndarray, "count n"]]:
    """(rows of weights, sign of each weight). The weights of a row have one magnitude, and no minima.

    With ``silent``, one place in each block of activations, the same in all blocks, has the weight 0, or the smallest
    weight if the format has no 0, and the sign 0. In q6_K, whose terms vanish only with their scale, this is the group
    of 16 around the place. The sign of a row is random if the scales of the format have a sign.
    """
    fmt = formats.get(p["format"])
    blocks, size = count * (p["n"] // fmt.block_size), formats.get(partner(p)).block_size
    idle, loud, one, empty = plain_codes(p["format"])
    fields = {name: np.repeat(values, blocks, axis=0) for name, values in empty.items()}
    sign = np.where(rng.random(count) < 0.5, 1.0, -1.0)
    fields["d"] = np.repeat(sign * 2.0 ** rng.integers(-6, 7, count), blocks // count).astype(np.float16)
    fields["codes"][:] = loud
    if "scales" in fields:
        fields["scales"][:] = one
    still = np.zeros((count, p["n"]), bool)
    if silent:
        place = rng.integers(0, size, count)
        places = np.arange(p["n"])[None, :] % size
        group = 16 if p["format"] == "q6_K" else 1
        still = places // group == place[:, None] // group
        if group == 1:
            fields["codes"][still.reshape(blocks, -1)] = idle
        else:
            fields["scales"][still.reshape(blocks, -1, group)[:, :, 0]] = one - 1
    raw = fmt.pack(fields)
    signs = np.where(still, 0.0, np.sign(fmt.dequantize(raw)).reshape(count, -1))
    return raw.reshape(count, -1), signs


def _worst_scales(p: Params, activation: str, rng: np.random.Generator, count: int) -> Float64[np.ndarray, "count 1"]:
    """Block scales d = max|x| / 127 whose rounding to f16 has the largest error (for q8_K: powers of two)."""
    smallest, largest = p["max_abs"] * SMALLEST_PEAK / 127, p["max_abs"] * (1 - 2.0**-20) / 127
    if activation != "q8_K" and smallest < 2.0**-14:
        # Just above a midpoint of the subnormal grid, as low as the domain allows.
        return np.full((count, 1), (math.ceil(smallest * 2.0**24 - 0.5) + 0.5) * 2.0**-24 * (1 + 2.0**-22))
    mantissa = 1.0 if activation == "q8_K" else (1 + 2.0**-11) * (1 + 2.0**-22)
    return mantissa * 2.0 ** (math.floor(math.log2(largest / mantissa)) - rng.integers(0, 3, (count, 1)))


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray] | None:
    """Activations beside the edges between codes, with errors of the same sign as their weights; the largest activation
    meets a weight of zero. For arithmetic=apr: rows whose products the fold loses. None for a format whose codes are
    not known, or whose activations have none.
    """
    if p["format"] not in WEIGHT_FORMATS:
        return None
    if p["arithmetic"] == "apr":
        makers = [_short_steps]
        if p["n"] > formats.get(p["format"]).block_size:
            makers.append(_lost_after_one)
        if p["format"] in ("q2_K", "q4_K", "q5_K") or (p["n"] == 256 and p["format"] in ("q3_K", "q6_K")):
            makers.append(_lost_after_group)
        made = [make(p, rng, len(range(i, count, len(makers)))) for i, make in enumerate(makers[:count])]
        return {name: np.concatenate([batch[name] for batch in made]) for name in ("weights", "x")}
    activation = partner(p)
    size = formats.get(activation).block_size
    d = _worst_scales(p, activation, rng, count)
    relative = p["floor"] > 0
    weights, signs = plain_weights(p, rng, count, silent=not (relative and p["format"] == "q6_K"))
    if relative:
        # Positive codes above the first edge and negative ones below it: all errors have one sign, and sum w x cancels.
        up = (np.arange(p["n"]) % 2 == 0) & (p["format"] != "q6_K")
        codes = np.where(up, 0.5 + EDGE, -(0.5 - EDGE)) * np.ones_like(signs)
    else:
        edge = rng.integers(0, 127, (count, 1)) + 0.5 if activation == "q8_K" else 126.5
        codes = signs * (edge + EDGE)
    if signs.all():
        codes[:, rng.integers(0, size) :: size] = 127
    codes = np.where(signs == 0, 127.0, codes)
    x = np.clip(codes * d, -p["max_abs"], p["max_abs"]).astype(np.float32)
    return {"weights": weights[:, None], "x": x}


def _short_steps(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Equal products a little below a power of two: the fold rounds most of its sums the same way."""
    weights, _ = plain_weights(p, rng, count, silent=False)
    top = 2.0 ** (math.floor(math.log2(p["max_abs"])) - rng.integers(0, 3, (count, 1)))
    x = np.repeat(top * (1 - 2.0 ** -rng.integers(8, 24, (count, 1))), p["n"], axis=1)
    return {"weights": weights[:, None], "x": x.astype(np.float32)}


def _lost_after_one(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """One product of 1, and all products of the later blocks just above half an ULP of 1, as in
    :mod:`diffuzz.targets.dot_order`. The fold rounds them to the tie and loses them; the lane of the 1 rounds them up.
    """
    fmt = formats.get(p["format"])
    per_row = p["n"] // fmt.block_size
    idle, loud, one, empty = plain_codes(p["format"])
    fields = {name: np.repeat(values, per_row, axis=0) for name, values in empty.items()}
    # (1 + 2^-10) (1 - 2^-10 + 2^-20) is a little above 1 and rounds to 1. For scales without a mantissa, 12 f32(2/3) is
    # a little above 8 and rounds to 8.
    number = 1 - 2.0**-10 + 2.0**-20 if fmt.half_fields else np.float32(2 / 3)
    x = np.full((count, p["n"]), number)
    fields["d"][:] = 2.0**-9 * (1 + 2.0**-10)
    fields["d"][0] = 2.0**15 * (1 + 2.0**-10)
    fields["codes"][:] = loud
    if "scales" in fields:
        fields["scales"][:] = one
    if p["format"] == "q6_K":
        # Its terms vanish only with their scale, so the 1 is the sum of a group.
        fields["d"][0] /= 16
        fields["scales"][0, 1:] = one - 1
    elif p["format"] == "iq4_nl":
        # No weight is 0. 127 * 258 (1 + 2^-14) rounds to 2^15, and 258 times its activation is as small as all others.
        fields["codes"][:], fields["codes"][0, 0], fields["d"][0] = idle, loud, -258
        x[:, 0] = 1 + 2.0**-14
        x[:, 1 : fmt.block_size] = np.nextafter(np.float32(2.0**-10 / 129), np.float32(1))
    else:
        fields["codes"][0, 1:] = idle
    top = 2.0 ** (math.floor(math.log2(p["max_abs"])) - rng.integers(0, 3, (count, 1)))
    sign = np.where(rng.random((count, 1)) < 0.5, 1.0, -1.0)
    weights = np.repeat(fmt.pack(fields).reshape(1, 1, -1), count, axis=0)
    return {"weights": weights, "x": (x * top * sign).astype(np.float32)}


def _lost_after_group(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """A large first group in the first super-block, and all later products just above half an ULP of the sum of that
    group. The fold loses them; the lanes, whose sums are an eighth of it, do not.

    The group is large by its minimum, or by its scale in formats without minima.
    """
    fmt = formats.get(p["format"])
    idle, loud, one, empty = plain_codes(p["format"])
    fields = {name: np.repeat(values, count * (p["n"] // fmt.block_size), axis=0) for name, values in empty.items()}
    group = 256 // fields["scales"].shape[1]
    fields["codes"][:] = loud
    fields["scales"][:] = one
    first = slice(None, None, p["n"] // fmt.block_size)
    x = np.ones((count, p["n"]))
    if "minimums" in fields:
        minimum = 8 if p["format"] == "q2_K" else 32
        fields["d"][:] = -(2.0**-3) * (loud - idle)
        fields["dmin"][first] = 2.0**21 / (minimum * group)
        fields["minimums"][first, 0] = minimum
    else:
        large = 16 if p["format"] == "q3_K" else 64
        fields["d"][:] = 1
        fields["scales"][first, 0] += large - 1
        x[:, group:] = large * group * 2.0**-24
    x[:, group:] *= 1 + rng.choice([0, 2.0**-20, 2.0**-10, 2.0**-5], (count, 1))
    x *= 2.0 ** (math.floor(math.log2(p["max_abs"])) - rng.integers(1, 4, (count, 1)))
    return {"weights": fmt.pack(fields).reshape(count, 1, -1), "x": x.astype(np.float32)}


def contract_space(p: Params) -> Space:
    """Up to MOST_ROWS rows of up to about candidate_n weights, most often USUAL_ROWS of about USUAL_LENGTH; the usual
    number of blocks is odd and at least five, and so is the largest.

    Such cases show a mix-up of rows, columns or blocks, and errors in loops over four rows, or over four or sixteen
    blocks. With arithmetic=gguf max|x| >= 2^-24 max_abs, which includes block scales of activations that an f16 cannot
    hold. With apr x may be zero, or as small as float32 numbers are.

    Raises ParameterError for an activation format or a policy that plays no part.
    """
    size, quantised = block_of(p), p["arithmetic"] == "gguf"
    if not quantised and p["activation"] != "partner":
        raise ParameterError(f"parameter activation={p['activation']}: only for arithmetic=gguf, which quantises x")
    if p["policy"] == "saturate" and not (quantised and partner(p) == "q8_K"):
        raise ParameterError("parameter policy=saturate: only where x is quantised to q8_K")
    most, usual = (
        size * (max(LEAST_BLOCKS, length // size) | 1)
        for length in (p["candidate_n"], min(p["candidate_n"], USUAL_LENGTH))
    )
    k = Dim("k", usual, step=size, largest=most)
    weights, x = row_space(p, k, rows=Dim("m", USUAL_ROWS, largest=MOST_ROWS), quantised=quantised).tensors
    top, peak = min(p["max_abs"], derived.largest(p)), p["max_abs"] * 2.0**-24 if quantised else 0.0
    return Space((weights, attrs.evolve(x, low=-top, high=top, smallest_peak=peak, holds=p["dtype"])))


def contract_starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray] | None:
    """One nonzero weight in each row, and an activation whose largest element is at the same place, which is the end of
    a block or any other, of a few cases the end of the row. No other product can hide an error there. In a format whose
    codes are not known it is the weight that its quantiser makes of a spike; None if it has none.
    """
    space, fmt = domain.restricted(contract_space(p), p), formats.get(p["format"])
    rows, n = space["weights"].shape[0].size, space["x"].shape[0].size
    if p["format"] not in WEIGHT_FORMATS and fmt.quantize is None:
        return None
    ends = rng.integers(0, n // fmt.block_size, (count, 1)) * fmt.block_size + rng.choice(
        [0, fmt.block_size - 1], (count, 1)
    )
    place = np.where(rng.random((count, 1)) < 0.5, ends, rng.integers(0, n, (count, 1)))
    # A few rows are all that some lengths get, and loops go wrong at their ends most often: the last place, the first.
    # There nothing else is in x, so that the other codes add nothing to what rounding allows.
    place[:1], place[2:3] = n - 1, 0
    alone = np.isin(np.arange(count), (0, 2))[:, None]
    here = np.arange(n) == place
    top = p["max_abs"] * 2.0 ** -rng.integers(0, 16, (count, 1))
    x = np.where(here, top, top * rng.random((count, 1)) * rng.choice([0.0, 0.5, 1.0], (count, n)))
    x *= np.where(rng.random((count, 1)) < 0.5, 1.0, -1.0)
    x = np.where(alone & ~here, 0.0, x)
    weights = np.repeat(_spikes(p["format"], here), rows, axis=0)
    return {"weights": weights.reshape(count, rows, -1), "x": clip(space["x"], x)}


def _spikes(format: str, here: Bool[np.ndarray, "b n"]) -> UInt8[np.ndarray, "b row_bytes"]:
    """Rows of weights of which only that ``here`` is not zero, or as near to that as the format comes."""
    fmt = formats.get(format)
    if format not in WEIGHT_FORMATS:
        return _quantised_spikes(fmt, here)
    idle, _, one, empty = plain_codes(format)
    fields = {name: np.repeat(values, here.size // fmt.block_size, axis=0) for name, values in empty.items()}
    fields["d"][:] = 1
    if "scales" in fields:
        fields["scales"][:] = one
    fields["codes"] = np.where(here, idle + 1, idle).reshape(fields["codes"].shape).astype(fields["codes"].dtype)
    return fmt.pack(fields).reshape(len(here), -1)


def _quantised_spikes(fmt: formats.Format, here: Bool[np.ndarray, "b n"]) -> UInt8[np.ndarray, "b row_bytes"]:
    """The same by the quantiser of the format, which makes the blocks without and with a spike once each."""
    if fmt.quantize is None:
        raise ValueError(f"format={fmt.name!r}: it has no quantiser")
    place, size = here.argmax(axis=1), fmt.block_size
    distinct = np.concatenate([np.zeros((1, size)), np.arange(size) == place[:, None] % size]).astype(np.float32)
    made = fmt.quantize(distinct)
    if not fmt.half_fields and fmt.name != "bf16":
        # A block of zeros has the scale 0, which is below the smallest.
        made = fmt.with_scales(made, {k: np.maximum(v, SMALLEST_SCALE) for k, v in fmt.scales(made).items()})
    blocks = np.repeat(made[:1], here.size // size, axis=0).reshape(len(here), -1, fmt.type_size)
    blocks[np.arange(len(here)), place // size] = made[1:]
    return blocks.reshape(len(here), -1)


def _each_row(
    weights: UInt8[np.ndarray, "b m row_bytes"], x: Float32[np.ndarray, "b k"]
) -> tuple[UInt8[np.ndarray, "bm row_bytes"], Float32[np.ndarray, "bm k"]]:
    """The b m pairs of a row of weights and its activation."""
    b, m, _ = weights.shape
    return weights.reshape(b * m, -1), np.repeat(x, m, axis=0)


def _run(p: Params, arrays: Arrays, kernels: Implementation) -> Float[np.ndarray, "b m"]:
    """The product of every row of weights of a case with its activation, by an implementation."""
    weights, x = _each_row(arrays["weights"], arrays["x"])
    return np.asarray(kernels.vec_dot_rows(p["format"], weights, x)).reshape(arrays["weights"].shape[:2])


def _call(p: Params, f: Function, arrays: Arrays) -> np.ndarray:
    """Products of a function that is called once for each case."""
    product, activations = derived.narrow(p["dtype"], f), np.asarray(arrays["x"]).astype(dtype_of(p["dtype"]))
    # Copies: a function may return the same buffer each time.
    return np.stack([np.array(product(w, x)) for w, x in zip(arrays["weights"], activations, strict=True)])


def _kernels(p: Params) -> tuple[str, ...]:
    if not derived.in_float32(p):
        return ("exact",)
    if p["arithmetic"] == "apr":
        return ("apr", "exact", "apr:simd")
    if partner(p) != formats.get(p["format"]).activation or p["policy"] != "exact":
        # None of the others quantises like that; these do not quantise.
        return ("apr", "exact", "apr:simd")
    if not formats.of_ggml(p["format"]):
        return ("ggml", "exact", "apr", "xla")
    realizar = ("gguf",) if p["format"] in gguf.FORMATS else ()
    zen = ("ggml:zen",) if p["format"] in ggml.BUILD_DEPENDENT else ()
    if p["format"] not in WEIGHT_FORMATS:
        return ("ggml", "exact", "apr", "xla", "libggml", *_generic(p["format"]))
    return ("ggml", *zen, "exact", "apr", *realizar, "xla", "libggml", "libggml:generic")


def _generic(format: str) -> tuple[str, ...]:
    """Those of the library's portable dot products that there are: not of floats."""
    return () if partner({"format": format}) in FLOATS else ("libggml:generic",)


def allowance(p: Params, arrays: Arrays) -> Float64[np.ndarray, "b m"]:
    """The a-priori bound of |f(w, x) - w.x|.

    It is ``rounding`` and, with arithmetic=gguf, the sum of the terms of each weight times the largest error of its
    quantised activation (error_bounds.quantisation). With activations in q8_1 the offset of a code is a term, too, if
    the weights of a block of 32 share a scale, so that it can be multiplied with the f16 sum of the block.
    """
    if p["arithmetic"] == "apr":
        return _stored(p, arrays, _rounding(p, arrays))
    weights, error = _each_row(arrays["weights"], _quantisation(p, arrays["x"]))
    by_sum = partner(p) == "q8_1" and fused.one_scale(p["format"], formats.get("q8_1").block_size)
    terms = fused.terms(p["format"], weights, offsets=by_sum)
    choice = (terms * error).sum(axis=1)
    return _stored(p, arrays, choice.reshape(arrays["weights"].shape[:2]) + _rounding(p, arrays))


def rounding(p: Params, arrays: Arrays) -> Float64[np.ndarray, "b m"]:
    """The largest error of sums in any order, and of storing them."""
    return _stored(p, arrays, _rounding(p, arrays))


def _stored(p: Params, arrays: Arrays, error: Float64[np.ndarray, "b m"]) -> Float64[np.ndarray, "b m"]:
    if derived.in_float32(p):
        return np.asarray(error)
    return derived.stored(p, np.asarray(_run(p, arrays, exact), np.float64), error)


def _rounding(p: Params, arrays: Arrays) -> Float64[np.ndarray, "b m"]:
    """The largest error of sums in any order, in float32 or as the parameters say.

    It is gamma_{k+8} times the sum of all terms, with the offsets of codes as separate terms and the activations as
    large as quantising makes them. What underflows has an error of FLUSHED (see error_bounds): 2 k products and sums,
    and activations and sums of activations, which are then multiplied with the factors of a weight.
    """
    x = arrays["x"]
    largest = np.abs(x.astype(np.float64))
    if p["arithmetic"] == "gguf":
        largest = largest + _quantisation(p, x)
    weights, magnitude = _each_row(arrays["weights"], largest)
    apart, k = fused.terms(p["format"], weights, offsets=True), x.shape[1]
    stated = derived.arithmetic(p)
    unit = max(stated.computing.unit, stated.accumulating.unit)
    gamma = error_bounds.gamma(k + 8, unit) if (k + 8) * unit < 0.5 else np.inf
    flushed = max(error_bounds.FLUSHED, stated.computing.smallest_subnormal, stated.accumulating.smallest_subnormal)
    total = gamma * (apart * magnitude).sum(axis=1)
    total += 2 * flushed * (apart.sum(axis=1) + k)
    return np.asarray(total.reshape(arrays["weights"].shape[:2]))


def _quantisation(p: Params, x: Float32[np.ndarray, "b k"]) -> Float64[np.ndarray, "b k"]:
    """The largest error of each activation that is quantised as the parameters say."""
    return error_bounds.quantisation(partner(p), x, saturate=p["policy"] == "saturate")


TARGET = Target(
    name="matvec",
    summary="one row of quantised weights times an activation: APR path against GGUF path",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, screen, explain=explain),
    measure=lambda p: (
        f"|A - B| / max(|A|, {p['floor']:g} ||w||_2 ||x||_2)" if p["floor"] > 0 else "|A - B| / (||w||_1 max|x|)"
    ),
    bound=bound,
    claim="the two paths differ by more than their arithmetic explains",
    threshold=lambda p: bound(p).ceiling,
    cost=4.0,
    starts=starts,
    contract=Contract(
        signature="f(weights: uint8[m, row_bytes], x: dtype[k]) -> dtype[m]",
        parameters=CONTRACT_PARAMETERS,
        space=contract_space,
        call=_call,
        run=_run,
        kernels=_kernels,
        allowance=allowance,
        rounding=rounding,
        starts=contract_starts,
        batched=False,
    ),
)
