r"""Activation quantisers: how far apart do two of them get that implement one format?

The reference is ggml's quantiser on x86; ``against`` is ggml's portable C one (``generic``: q8_0, q8_1) or aprender's
(``realizar``: q8_0, with a float32 scale, and q8_K). With a = max|x| and d = a / 127 all of them store codes q_i near
x_i / d and a scale s near d. They differ in how they invert d, in ties (half to even or half away from zero), and in
whether s is rounded to f16. Measure: the largest |s q_i - s' q'_i| of a block over a.

**Limit.** Both codes are nearest to x_i / d, up to the float32 rounding of the quotient (4 u |x_i / d| <= 508 u), so
they are the same or neighbours, and at most 127 in magnitude. Let rho be the largest relative error of s: 0 for a
float32 scale, and for f16 2^-11 / (1 + 2^-11) where d is normal, up to 2^-25 / d, at most 1, where it is subnormal; d
>= smallest_peak / 127.

    s = s'                     |s q - s' q'| <= s |q - q'| <= d (1 + rho)                 limit (1 + rho) / 127
    s = f16(d), s' = d         |s q - s' q'| <= |s - d| |q| + d |q - q'|                  limit (1 + 127 rho) / 127
    s and s' float32           the same with rho = 0                                      limit 1 / 127

plus float32 roundings, relatively below 1024 u. It is reached at ties, x_i = (k + 1/2) d: one step. A step is what
two correct quantisers may differ by: the claim that they differ by more is FALSIFIED, and the search only checks that
the programs are what is said here.

**A candidate** must give ggml's bytes. With ``ties=any`` a code may also be another whole number within 1/2 + 508 u
of x_i / d, which is both neighbours of an exact half; the sums that are stored with the codes must be those of its
own codes. It is called with blocks down to zero, too, whatever smallest_peak says, and up to candidate_max_abs;
nothing is promised for 0 < max|x| < 2^-100, where 127 / max|x| may overflow, nor of a block sum of q8_1 that no f16
holds.
"""

from __future__ import annotations

import attrs
import numpy as np

from diffuzz import calls, errors, formats
from diffuzz.formats import q8_0, q8_k
from diffuzz.kernels import gguf_py
from diffuzz.sampling import clip
from diffuzz.space import Dim, Space, TensorSpec
from diffuzz.target import Arrays, Bound, Contract, Drift, Outcome, Parameter, ParameterError, Params, Target

_LEAST_PROMISED = 2.0**-100
_AGAINST = {"q8_0": ("realizar", "generic"), "q8_1": ("generic",), "q8_K": ("realizar",)}
PARAMETERS = (
    Parameter("format", "q8_K", "activation format", choices=tuple(_AGAINST)),
    Parameter(
        "against",
        "other",
        "the other quantiser; other: the first that there is",
        choices=("other", "realizar", "generic"),
    ),
    Parameter("max_abs", 16.0, "largest |x|", low=1e-9, high=8e6),
    Parameter("smallest_peak", 0.01, "least max|x| of a block", low=1e-9, high=8e6),
    Parameter(
        "ties",
        "even",
        "codes of a candidate: ggml's (halves to even), or any nearest",
        choices=("even", "any"),
        of_candidate=True,
    ),
    calls.largest("x", low=1e-9, high=8e6),
)


def space(p: Params) -> Space:
    """One block of activations with max|x| >= smallest_peak."""
    _against(p)
    if p["smallest_peak"] > p["max_abs"]:
        raise ParameterError(f"smallest_peak={p['smallest_peak']:g} is above max_abs={p['max_abs']:g}")
    size, top = Dim("n", formats.get(p["format"]).block_size, fixed=True), p["max_abs"]
    values = TensorSpec(
        "values",
        kind="activations",
        shape=(size,),
        low=-top,
        high=top,
        smallest_peak=p["smallest_peak"],
        quantiser=p["format"],
    )
    return Space((values,))


def candidate_space(p: Params) -> Space:
    """One block of activations, zero or tiny ones included."""
    top = p["candidate_max_abs"]
    return Space((attrs.evolve(space(p)["values"], low=-top, high=top, smallest_peak=0.0),))


def candidate_starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Blocks of halves in the range of a candidate."""
    top = p["candidate_max_abs"]
    return starts({**p, "max_abs": top, "smallest_peak": min(p["smallest_peak"], top)}, rng, count)


def _against(p: Params) -> str:
    """Name of the other quantiser. Raises ParameterError if the format has no such one."""
    there_are = _AGAINST[p["format"]]
    if p["against"] == "other":
        return there_are[0]
    if p["against"] not in there_are:
        raise ParameterError(f"parameter against={p['against']}: {p['format']} has {' and '.join(there_are)}")
    return str(p["against"])


def _reference(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scale float32[b], codes int32[b, n]) of ggml on x86."""
    if name == "q8_K":
        return q8_k.quantise_ggml(values)
    _, stored, codes = q8_0.quantise_x86(values)
    return stored, codes


def _other(name: str, against: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if against == "generic":
        _, stored, codes = q8_0.quantise_generic(values)
        return stored, codes
    return q8_0.quantise_realizar(values) if name == "q8_0" else q8_k.quantise_realizar(values)


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """The largest difference of what the codes stand for, over max|x|; float32 scale times code is exact in float64."""
    values = arrays["values"]
    scale, codes = _reference(p["format"], values)
    other_scale, other_codes = _other(p["format"], _against(p), values)
    one = scale.astype(np.float64)[:, None] * codes
    other = other_scale.astype(np.float64)[:, None] * other_codes
    peak = np.abs(values.astype(np.float64)).max(axis=1)
    difference = np.abs(one - other).max(axis=1)
    value = np.where(peak > 0, difference / np.where(peak > 0, peak, 1.0), 0.0)
    # q8_K keeps its scale with the sign of the largest element: compare magnitudes.
    detail = {
        "codes that differ": (np.abs(codes) != np.abs(other_codes)).sum(axis=1).astype(np.float64),
        "scale": np.abs(scale.astype(np.float64)),
        "other scale": np.abs(other_scale.astype(np.float64)),
    }
    return Outcome(value, np.zeros(len(value)), detail)


def bound(p: Params) -> Bound:
    """The limits derived above."""
    least = p["smallest_peak"] / errors.LARGEST_CODE
    rho = float(errors.scale_error(p["format"], least) / least)
    if p["format"] == "q8_0" and _against(p) == "realizar":
        value, because = (
            (1 + errors.LARGEST_CODE * rho) / errors.LARGEST_CODE,
            "one step, and the f16 rounding of one scale",
        )
    else:
        value, because = (
            (1 + rho) / errors.LARGEST_CODE,
            "codes nearest to the same quotient differ by one step at most",
        )
    return Bound(value, because, rounding=errors.ROUNDING)


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Blocks of halves, x_i = +-(k + 1/2) d; d a power of two, halfway between two f16 numbers, or the least."""
    n = formats.get(p["format"]).block_size
    least, most = p["smallest_peak"] / errors.LARGEST_CODE, p["max_abs"] / errors.LARGEST_CODE
    exponent = np.floor(rng.uniform(np.log2(least), np.log2(most), (count, 1)))
    mantissa = rng.choice([1.0, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 1023 * 2.0**-11], (count, 1))
    subnormal = (np.floor(least * 2.0**24) + rng.integers(0, 2, (count, 1)) + 0.5) * 2.0**-24
    d = np.where(rng.random((count, 1)) < 0.5, mantissa * 2.0**exponent, subnormal)
    d *= 1 + rng.choice([0.0, 2.0**-20, -(2.0**-20)], (count, 1))
    d = np.clip(d, least, most * (1 - 2.0**-20))
    half = rng.integers(0, errors.LARGEST_CODE, (count, n)) + 0.5
    # The largest halves meet the largest share of a scale's error.
    half = np.where(rng.random((count, 1)) < 0.5, np.maximum(errors.LARGEST_CODE - 0.5 - np.arange(n), 0.5), half)
    values = half * d * np.where(rng.random((count, n)) < 0.5, 1.0, -1.0)
    values[:, 0] = np.maximum(errors.LARGEST_CODE * d[:, 0], p["smallest_peak"] * (1 + errors.UNIT))
    return {"values": clip(space(p)["values"], values)}


def accepts(p: Params, arrays: Arrays, result: np.ndarray) -> np.ndarray:
    """bool[b, type_size]: bytes that are right; with ``ties=any``, codes near enough, and the sums of these codes."""
    peak = np.abs(arrays["values"]).max(axis=1, keepdims=True)
    unpromised = (peak > 0) & (peak < _LEAST_PROMISED)
    fmt, values, wanted = formats.get(p["format"]), arrays["values"].astype(np.float64), _quantised(p, arrays)
    right = (result == wanted) | unpromised
    if p["format"] == "q8_1":
        # A sum that no f16 holds: infinity here, the largest number elsewhere.
        right[:, _bytes(fmt, "s")] |= ~np.isfinite(_records(fmt, wanted)["s"])[:, None]
    if p["ties"] == "even":
        return right
    given = _records(fmt, result)
    codes = given["qs"].astype(np.int32)
    right[:, _bytes(fmt, "qs")] = np.abs(_quotient(p, values) - codes) <= 0.5 + 4 * errors.UNIT * errors.LARGEST_CODE
    if p["format"] == "q8_1":
        step = np.abs(arrays["values"]).max(axis=1) / np.float32(errors.LARGEST_CODE)
        total = (step * codes.sum(axis=1).astype(np.float32)).astype(np.float16)
        same = given["s"].view(np.uint16) == total.view(np.uint16)
        right[:, _bytes(fmt, "s")] = (same | ~np.isfinite(total))[:, None]
    if p["format"] == "q8_K":
        sums = codes.reshape(len(codes), 16, 16).sum(axis=2)
        right[:, _bytes(fmt, "bsums")] = np.repeat(given["bsums"] == sums, 2, axis=1)
    return np.asarray(right | unpromised)


def _quotient(p: Params, values: np.ndarray) -> np.ndarray:
    """x / d in float64; of q8_K with the sign that gives the first of the largest elements the code -127."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)
    unit = -largest if p["format"] == "q8_K" else np.abs(largest)
    return errors.LARGEST_CODE * values / np.where(unit == 0, 1.0, unit)


def _records(fmt: formats.Format, blocks: np.ndarray) -> np.ndarray:
    """Blocks uint8[b, type_size] as records of their fields, [b]."""
    return np.ascontiguousarray(blocks).view(fmt.layout).reshape(-1)


def _bytes(fmt: formats.Format, field: str) -> slice:
    """Where a field lies in a block."""
    fields = fmt.layout.fields
    if fields is None:
        raise TypeError(f"the layout of {fmt.name} has no fields")
    dtype, offset = fields[field][:2]
    return slice(offset, offset + dtype.itemsize)


def _quantised(p: Params, arrays: Arrays) -> np.ndarray:
    quantise = formats.get(p["format"]).quantize
    if quantise is None:
        raise ParameterError(f"parameter format={p['format']}: it has no quantiser")
    return quantise(arrays["values"])


def _kernels(p: Params) -> tuple[str, ...]:
    python = ("gguf-py",) if p["format"] in gguf_py.QUANTISED else ()
    return ("ggml", *python, "libggml", "libggml:generic")


TARGET = Target(
    name="quantize",
    summary="two quantisers of one activation format: difference of the restored values",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate),
    measure=lambda p: f"max|x^ - x^'| / max|x|, ggml's {p['format']} quantiser against {_against(p)}",
    bound=bound,
    claim="two quantisers of one format differ by more than a step",
    limit=lambda p: bound(p).ceiling,
    starts=starts,
    contract=Contract(
        signature="f(values: float32[b, block_size]) -> uint8[b, type_size]",
        call=lambda p, f, arrays: f(arrays["values"]),
        run=lambda p, arrays, kernels: kernels.quantize(p["format"], arrays["values"]),
        kernels=_kernels,
        result_format=lambda p: str(p["format"]),
        accepts=accepts,
        allows=lambda p, arrays, result: accepts({**p, "ties": "any"}, arrays, result),
        space=candidate_space,
        starts=candidate_starts,
    ),
)
