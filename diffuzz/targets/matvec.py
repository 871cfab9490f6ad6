r"""Matvec: how far apart are the APR path and the GGUF path of one row of weights times one activation?

    arithmetic=gguf   A: dequantise the weights, fold float32 products from the left (APR before it took GGUF's way)
                      B: quantise x to the format's partner (q8_K, q8_0, q8_1), fused integer dot, as ggml on x86
    arithmetic=apr    A as above; B: the same dequantised weights, 8-lane fused multiply-add

Published (FFN-GGUF-008): |A - B| / |A| = 0.077 % on one input. The relative error of a signed sum is unbounded by
cancellation, so:

**Measure.** |A - B| / (||w||_1 max|x|), or with floor > 0 the relative |A - B| / max(|A|, floor ||w||_2 ||x||_2). The
norms of w are those of its terms, |d sc q| + |dmin m|, which the kernels sum apart (see
:func:`diffuzz.kernels.fused.terms`): a row whose terms cancel to zero has a drift, and no measure relative to zero is
bounded. With dmin = 0 they are the norms of w. Scales are those that an f16 holds, in mxfp4 too: below 2^-24 its
products leave the normal float32 numbers, and nothing relative to them is bounded.

**Limit, norm-relative.** B is sum w_i x^_i with x^ the quantised activation, A is sum w_i x_i, both up to rounding. So
|A - B| <= sum |terms_i| |x^_i - x_i| <= ||w||_1 max|x^ - x|, which is 1/254 of max|x| for q8_K; for an f16 scale the
rounding of the scale comes on top, 2^-11 in relative terms, and more where the scale is subnormal. That is (1) of
:mod:`diffuzz.errors`. It is reached, or nearly, by activations beside the edge between two codes, with the sign of
their weight, and the largest one on a weight of zero (iq4_nl has none; its smallest level is 1 of 127).

**Limit, relative.** By Cauchy and Schwarz |A - B| <= ||w||_2 ||x^ - x||_2, and ||x^ - x||_2 / ||x||_2 is at most (2),
(3) of :mod:`diffuzz.errors`: sqrt(255) / 254 / sqrt(1 + 255/254^2) = 0.0627 for q8_K. Divided by the floor that is the
limit, 6.27 for 0.01.

**Rounding.** A has n products, n - 1 sums and three roundings of a weight: gamma_{n+4} sum |terms_i x_i|. B has one
fused multiply-add for each block and lane, the product of the scales, the conversion of an integer sum, and four sums
at the end: gamma_{n/32+8}, of the same sum with x^. Codes are rounded to within errors.ROUNDING of half a step.
Products below the float32 range add less than 2^-90 of the whole. With arithmetic=apr there is nothing else: B folds
n/8 terms a lane and three sums: gamma_n + gamma_{n/8+3} and three roundings of each weight, the same ones on both
sides.

What comes close is a first product, or a first group of them, that outweighs all others, which the fold then loses one
by one and the lanes do not. The group is a 16th or an 8th of a super-block, and in a single one its scale is at most 63
times that of others: 43 % (q3_K) to 96 % of the limit at n = 256, 78 % (q6_K) to 98 % at n = 2048.

**Noise.** A value counts as a drift of the quantised path only where A is the better of the two: its distance from the
sum in float64 is the noise. With arithmetic=apr that distance is the drift, and both sides are exact to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from diffuzz import errors, formats
from diffuzz.formats import iq4_nl, mxfp4
from diffuzz.kernels import apr, exact, fused, ggml, gguf
from diffuzz.space import Dim, Space, TensorSpec
from diffuzz.target import Arrays, Bound, Contract, Drift, Outcome, Parameter, ParameterError, Params, Target

WEIGHT_FORMATS = tuple(name for name in formats.names() if name not in ("q8_1", "q8_K"))
# Least scale of a format whose scales are no f16 numbers.
SMALLEST_SCALE = 2.0**-24
# The block sum of q8_1 is an f16 number: 32 max|x| must stay below the largest one.
LARGEST_WITH_BLOCK_SUM = 2040.0
SMALLEST_PEAK = 2.0**-4
ONE_ROW = Dim("rows", 1, fixed=True)
# Rows of a case of a candidate: four at a time, and one that is left.
MOST_ROWS = 5
LEAST_BLOCKS = 5
# Formats whose codes stand for the levels of a table.
_LEVELS = {"iq4_nl": iq4_nl.LEVELS, "mxfp4": mxfp4.LEVELS}
# How far beside the edge between two codes a start sits, in codes: more than float32 rounding, less than anything else.
EDGE = 2.0**-15

FORMAT = Parameter("format", "q4_K", "format of the weights", choices=WEIGHT_FORMATS)
LENGTH = Parameter("n", 256, "length of the row, in whole blocks", low=32, high=65536)
MAX_ABS = Parameter("max_abs", 16.0, "largest |x|", low=1e-6, high=1e6)

PARAMETERS = (
    FORMAT,
    Parameter("arithmetic", "gguf", "gguf: x is quantised | apr: x stays float32", choices=("gguf", "apr")),
    LENGTH,
    MAX_ABS,
    Parameter(
        "floor", 0.0, "0: norm-relative; above: relative to |A|, at least this share of ||w|| ||x||", low=0.0, high=1.0
    ),
    Parameter(
        "candidate_n",
        512,
        "largest k that a candidate is called with, made an odd number of blocks, at least five",
        low=32,
        high=65536,
        of_candidate=True,
        recorded=False,
    ),
)


def partner(p: Params) -> str:
    """The format that activations are quantised to before they meet these weights."""
    return formats.get(p["format"]).activation or ""


def activation_spec(p: Params, n: Dim, quantiser: str | None) -> TensorSpec:
    """x, with max|x| >= max_abs / 16."""
    top = p["max_abs"]
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


def row_space(p: Params, *, rows: Dim = ONE_ROW, quantised: bool = True) -> Space:
    """Rows of weights and an activation.

    Raises ParameterError where n is not whole blocks, or a block sum of q8_1 would overflow.
    """
    fmt = formats.get(p["format"])
    if p["n"] % fmt.block_size:
        raise ParameterError(f"n={p['n']}: a multiple of {fmt.block_size}, the block of {p['format']}, is needed")
    if partner(p) == "q8_1" and p["max_abs"] > LARGEST_WITH_BLOCK_SUM:
        raise ParameterError(
            f"max_abs={p['max_abs']:g}: at most {LARGEST_WITH_BLOCK_SUM:g} is needed, or a sum of q8_1 overflows f16"
        )
    n = Dim("n", p["n"], step=fmt.block_size)
    weights = TensorSpec(
        "weights",
        kind="blocks",
        shape=(rows, n),
        format=p["format"],
        smallest_scale=0.0 if fmt.half_fields else SMALLEST_SCALE,
    )
    return Space((weights, activation_spec(p, n, partner(p) if quantised else None)))


def space(p: Params) -> Space:
    """One row of weights and an activation."""
    return row_space(p, quantised=p["arithmetic"] == "gguf")


def paths(p: Params, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Results [b] of path A and path B, in float64 but exact to the bit."""
    weights, x = arrays["weights"][:, 0], arrays["x"]
    a = apr.vec_dot_rows(p["format"], weights, x)
    if p["arithmetic"] == "gguf":
        b = ggml.vec_dot_rows(p["format"], weights, x)
    else:
        b = apr.vec_dot_rows(p["format"], weights, x, order="simd")
    return a.astype(np.float64), b.astype(np.float64)


def value_of(p: Params, arrays: Arrays, a: Any, b: Any, xp: Any) -> tuple[Any, Any]:
    """(value, what |A - B| is divided by), both [b]; the value of a row without weights is 0."""
    terms, x = fused.terms(p["format"], arrays["weights"][:, 0], xp), xp.abs(arrays["x"].astype(float))
    if p["floor"] > 0:
        lengths = xp.sqrt((terms * terms).sum(axis=1)) * xp.sqrt((x * x).sum(axis=1))
        whole = xp.maximum(xp.abs(a), p["floor"] * lengths)
    else:
        whole = terms.sum(axis=1) * x.max(axis=1)
    safe = xp.where(whole > 0, whole, 1.0)
    return xp.where(whole > 0, xp.abs(a - b) / safe, 0.0), safe


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """Drift of the two paths, exact to the bit."""
    a, b = paths(p, arrays)
    value, whole = value_of(p, arrays, a, b, np)
    wide = exact.vec_dot_rows(p["format"], arrays["weights"][:, 0], arrays["x"])
    noise = np.abs(a - wide) / whole if p["arithmetic"] == "gguf" else np.zeros_like(value)
    return Outcome(value, noise, {"A": a, "B": b, "exact": wide})


def screen(p: Params) -> Callable[[Arrays], Any] | None:
    """The drift of the quantised path with all sums in float64; None for arithmetic=apr, whose drift is the rounding of
    sums.
    """
    if p["arithmetic"] == "apr":
        return None
    from diffuzz.kernels import xla

    def value(arrays: Arrays) -> Any:
        weights, x = arrays["weights"][:, 0], arrays["x"]
        a = xla.vec_dot_rows(p["format"], weights, x, "apr")
        b = xla.vec_dot_rows(p["format"], weights, x, "gguf")
        return value_of(p, arrays, a, b, xla.xp)[0]

    return value


def bound(p: Params) -> Bound:
    """The limits derived above."""
    n, peak = p["n"], p["max_abs"] * SMALLEST_PEAK
    relative = p["floor"] > 0
    divisor = p["floor"] if relative else 1.0
    if p["arithmetic"] == "apr":
        rounding = errors.gamma(n) + errors.gamma(n // 8 + 3)
        return Bound(rounding / divisor, "rounding alone: gamma_n + gamma_{n/8+3}", rounding=4 * errors.UNIT)
    activation = partner(p)
    limit = (
        errors.largest_relative_error(activation, peak, n)
        if relative
        else errors.largest_code_error(activation, peak, n)
    )
    sums = errors.gamma(n + 4) + (1 + limit) * errors.gamma(n // 32 + 8)
    because = f"half a step of {activation}" + (", Cauchy-Schwarz, over the floor" if relative else "")
    return Bound(limit / divisor, because, rounding=errors.ROUNDING + sums / limit)


def _plain_codes(format: str) -> tuple[int, int, int, formats.Fields]:
    """(stored code of the smallest weight, which is 0 but in iq4_nl, and of the one that rows are made of, stored
    sub-scale of 1, fields of a zero block).
    """
    fmt = formats.get(format)
    fields = fmt.unpack(np.zeros((1, fmt.type_size), np.uint8))
    if format in _LEVELS:
        size = np.abs(_LEVELS[format])
        return int(size.argmin()), int(size.argmax()), 1, fields
    parts = fmt.decode(fmt.pack(fields))
    scale = int(fields["scales"].flat[0]) - int(parts.sub_scale.flat[0]) + 1 if "scales" in fields else 1
    zero = int(fields["codes"].flat[0]) - int(parts.code.flat[0])
    # The lowest code where codes have a sign: for q6_K it is the one whose two terms do not cancel in part.
    return zero, 0 if zero > 0 else zero + 1, scale, fields


def plain_weights(
    p: Params, rng: np.random.Generator, count: int, *, silent: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of weights of one magnitude, without minima: (uint8[count, row_bytes], sign of each weight [count, n]).

    With ``silent``, one place in each block of activations, the same in all blocks, has no weight, or the smallest that
    there is (the group of 16 around it, in q6_K, whose terms vanish only with their scale). The sign of a row is
    random, where scales have one.
    """
    fmt = formats.get(p["format"])
    blocks, size = count * (p["n"] // fmt.block_size), formats.get(partner(p)).block_size
    idle, loud, one, empty = _plain_codes(p["format"])
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


def _worst_scales(p: Params, activation: str, rng: np.random.Generator, count: int) -> np.ndarray:
    """Block scales d, max|x| = 127 d, whose rounding to f16 errs most (powers of two for q8_K): float64[count, 1]."""
    smallest, largest = p["max_abs"] * SMALLEST_PEAK / 127, p["max_abs"] * (1 - 2.0**-20) / 127
    if activation != "q8_K" and smallest < 2.0**-14:
        # Just above a midpoint of the subnormal grid, as low as the domain allows.
        return np.full((count, 1), (math.ceil(smallest * 2.0**24 - 0.5) + 0.5) * 2.0**-24 * (1 + 2.0**-22))
    mantissa = 1.0 if activation == "q8_K" else (1 + 2.0**-11) * (1 + 2.0**-22)
    return mantissa * 2.0 ** (math.floor(math.log2(largest / mantissa)) - rng.integers(0, 3, (count, 1)))


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Activations beside the edges between codes, where they err most, with the sign that hurts, and the largest on a
    weight of zero.
    """
    if p["arithmetic"] == "apr":
        makers = [_short_steps]
        if p["n"] > formats.get(p["format"]).block_size:
            makers.append(_lost_after_one)
        if p["format"] in ("q2_K", "q4_K", "q5_K") or (p["n"] == 256 and p["format"] in ("q3_K", "q6_K")):
            makers.append(_lost_after_group)
        made = [make(p, rng, len(range(i, count, len(makers)))) for i, make in enumerate(makers)]
        return {name: np.concatenate([batch[name] for batch in made]) for name in ("weights", "x")}
    activation = partner(p)
    size = formats.get(activation).block_size
    d = _worst_scales(p, activation, rng, count)
    relative = p["floor"] > 0
    weights, signs = plain_weights(p, rng, count, silent=not (relative and p["format"] == "q6_K"))
    if relative:
        # Above the first edge in one direction, below it in the other: errors of one sign, and the sum of w x cancels.
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
    """One product of 1, and all products of the blocks after it just above half an ULP of 1, as in
    :mod:`diffuzz.targets.dot_order`: the fold rounds them to the tie and loses them, the lane of the 1 rounds them up.
    """
    fmt = formats.get(p["format"])
    per_row = p["n"] // fmt.block_size
    idle, loud, one, empty = _plain_codes(p["format"])
    fields = {name: np.repeat(values, per_row, axis=0) for name, values in empty.items()}
    # (1 + 2^-10) (1 - 2^-10 + 2^-20) is a little above 1, and rounds to it. Where scales have no mantissa, 12 f32(2/3)
    # is a little above 8, and rounds to it.
    number = 1 - 2.0**-10 + 2.0**-20 if fmt.half_fields else np.float32(2 / 3)
    x = np.full((count, p["n"]), number)
    fields["d"][:] = 2.0**-9 * (1 + 2.0**-10)
    fields["d"][0] = 2.0**15 * (1 + 2.0**-10)
    fields["codes"][:] = loud
    if "scales" in fields:
        fields["scales"][:] = one
    if p["format"] == "q6_K":
        # Only a scale makes its terms vanish: the 1 is the sum of a group.
        fields["d"][0] /= 16
        fields["scales"][0, 1:] = one - 1
    elif p["format"] == "iq4_nl":
        # No weight is 0. 127 * 258 (1 + 2^-14) rounds to 2^15, and 258 times what it meets is as small as all others.
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
    """The first group of the first super-block large, by its minimum or else by its scale, and all later products just
    above half an ULP of its sum: the fold loses them, the lanes, whose sums are an eighth, do not.
    """
    fmt = formats.get(p["format"])
    idle, loud, one, empty = _plain_codes(p["format"])
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
    """Up to MOST_ROWS rows of some candidate_n weights, at most an odd number of blocks of at least five: a mix-up of
    rows, columns or blocks shows, and so do loops over four rows, or over four or sixteen blocks.

    With arithmetic=gguf max|x| >= 2^-24 max_abs: block scales of activations that an f16 cannot hold are in it. With
    apr x may be zero, or as small as float32 numbers are.
    """
    size, quantised = formats.get(p["format"]).block_size, p["arithmetic"] == "gguf"
    longer = {**p, "n": size * (max(LEAST_BLOCKS, p["candidate_n"] // size) | 1)}
    weights, x = row_space(longer, rows=Dim("rows", MOST_ROWS), quantised=quantised).tensors
    return Space((weights, attrs.evolve(x, smallest_peak=p["max_abs"] * 2.0**-24 if quantised else 0.0)))


def contract_starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """One weight that is not zero in each row, and an activation with its largest element there, at an end of a block
    or anywhere: nothing else has an error to hide behind.
    """
    space, fmt = contract_space(p), formats.get(p["format"])
    rows, n = space["weights"].shape[0].size, space["x"].shape[0].size
    idle, _, one, empty = _plain_codes(p["format"])
    fields = {name: np.repeat(values, count * rows * (n // fmt.block_size), axis=0) for name, values in empty.items()}
    fields["d"][:] = 1
    if "scales" in fields:
        fields["scales"][:] = one
    ends = rng.integers(0, n // fmt.block_size, (count, 1)) * fmt.block_size + rng.choice(
        [0, fmt.block_size - 1], (count, 1)
    )
    place = np.where(rng.random((count, 1)) < 0.5, ends, rng.integers(0, n, (count, 1)))
    here = np.arange(n) == place
    codes = np.where(np.repeat(here, rows, axis=0), idle + 1, idle)
    fields["codes"] = codes.reshape(fields["codes"].shape).astype(fields["codes"].dtype)
    top = p["max_abs"] * 2.0 ** -rng.integers(0, 16, (count, 1))
    x = np.where(here, top, top * rng.random((count, 1)) * rng.choice([0.0, 0.5, 1.0], (count, n)))
    x *= np.where(rng.random((count, 1)) < 0.5, 1.0, -1.0)
    return {"weights": fmt.pack(fields).reshape(count, rows, -1), "x": x.astype(np.float32)}


def _each_row(weights: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[b, m, row_bytes] and [b, k] as b m pairs of rows."""
    b, m, _ = weights.shape
    return weights.reshape(b * m, -1), np.repeat(x, m, axis=0)


def _run(p: Params, arrays: Arrays, kernels: Any) -> np.ndarray:
    """Every row of weights of a case with its activation, by a kernel module: [b, m]."""
    weights, x = _each_row(arrays["weights"], arrays["x"])
    return np.asarray(kernels.vec_dot_rows(p["format"], weights, x)).reshape(arrays["weights"].shape[:2])


def _kernels(p: Params) -> tuple[str, ...]:
    if p["arithmetic"] == "apr":
        return ("apr", "exact", "apr:simd")
    realizar = ("gguf",) if p["format"] in gguf.FORMATS else ()
    zen = ("ggml:zen",) if p["format"] in ggml.BUILD_DEPENDENT else ()
    return ("ggml", *zen, "exact", "apr", *realizar, "xla", "libggml", "libggml:generic")


def allowance(p: Params, arrays: Arrays) -> np.ndarray:
    """The a-priori bound of |f(w, x) - w.x|, float64[b, m].

    Every term of a weight times the largest error of its quantised activation (with arithmetic=gguf;
    errors.quantisation), and ``rounding``.
    """
    if p["arithmetic"] == "apr":
        return rounding(p, arrays)
    weights, x = _each_row(arrays["weights"], arrays["x"])
    choice = (fused.terms(p["format"], weights) * errors.quantisation(partner(p), x)).sum(axis=1)
    return np.asarray(choice.reshape(arrays["weights"].shape[:2]) + rounding(p, arrays))


def rounding(p: Params, arrays: Arrays) -> np.ndarray:
    """What float32 sums in any order may add, float64[b, m].

    gamma_{k+8} times the sum of all terms, offsets of codes apart, with the activations as large as quantising makes
    them. Subnormal products and sums may be flushed to zero, 2 k of them, and activations and sums of activations
    that are then multiplied with a weight's factors.
    """
    weights, x = _each_row(arrays["weights"], arrays["x"])
    apart, magnitude = fused.terms(p["format"], weights, offsets=True), np.abs(x.astype(np.float64))
    if p["arithmetic"] == "gguf":
        magnitude = magnitude + errors.quantisation(partner(p), x)
    k = x.shape[1]
    total = errors.gamma(k + 8) * (apart * magnitude).sum(axis=1) + (apart.sum(axis=1) + k) * 2.0**-125
    return np.asarray(total.reshape(arrays["weights"].shape[:2]))


TARGET = Target(
    name="matvec",
    summary="one row of quantised weights times an activation: APR path against GGUF path",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, screen),
    measure=lambda p: (
        f"|A - B| / max(|A|, {p['floor']:g} ||w||_2 ||x||_2)" if p["floor"] > 0 else "|A - B| / (||w||_1 max|x|)"
    ),
    bound=bound,
    claim="the two paths differ by more than their arithmetic explains",
    limit=lambda p: bound(p).ceiling,
    cost=4.0,
    starts=starts,
    contract=Contract(
        signature="f(weights: uint8[m, row_bytes], x: float32[k]) -> float32[m]",
        call=lambda p, f, arrays: np.stack(
            [np.asarray(f(w, x)) for w, x in zip(arrays["weights"], arrays["x"], strict=True)]
        ),
        run=_run,
        kernels=_kernels,
        allowance=allowance,
        rounding=rounding,
        space=contract_space,
        starts=contract_starts,
        batched=False,
    ),
)
