r"""Quantisers: how far apart do two of activations get that implement one format, and is one of weights good enough?

The reference is ggml's quantiser on x86. ``against`` is ggml's portable C quantiser (``generic``: q8_0, q8_1) or
aprender's (``realizar``: q8_0, with a float32 scale, and q8_K). With a = max|x| and d = a / 127 all of them store codes
q_i near x_i / d and a scale s near d. They differ in how they invert d, in ties (half to even or half away from zero),
and in whether s is rounded to f16. The measure is the largest |s q_i - s' q'_i| of a block divided by a.

**Bound.** Both codes are nearest to x_i / d, up to the float32 rounding of the quotient (4 u |x_i / d| <= 508 u), so
they are equal or neighbours, and at most 127 in magnitude. Let rho be the largest relative error of s over d >=
smallest_peak / 127: 0 for a float32 scale; for f16, 2^-11 / (1 + 2^-11) if d is normal, and up to 2^-25 / d, at most 1,
if it is subnormal.

    s = s'                     |s q - s' q'| <= s |q - q'| <= d (1 + rho)                 bound (1 + rho) / 127
    s = f16(d), s' = d         |s q - s' q'| <= |s - d| |q| + d |q - q'|                  bound (1 + 127 rho) / 127
    s and s' float32           the same with rho = 0                                      bound 1 / 127

plus float32 roundings, relatively below 1024 u. It is reached at ties, x_i = (k + 1/2) d, where the codes differ by one
step. Two correct quantisers may differ by one step. The claim that they differ by more is FALSIFIED, and the search
only checks that the programs are what is said here.

**A candidate** of f16 and bf16 must give the nearest number, ties to even; nothing is promised beyond the largest one,
nor in bf16 below 2^-126. Of other formats of weights no bytes are fixed: what a block restores must be as near to the
weights as :mod:`diffuzz.targets.weight_quantisers` says, and finite. The bytes that are counted are then those in which
a block that is not differs from that of ``Format.quantize``.

A candidate of formats of activations must give ggml's bytes, or those of ``Format.quantize`` for a format from
elsewhere (see :mod:`diffuzz.registry`; diffuzz has one quantiser of those, so only a candidate can be searched). With
``ties=any`` a code may also be another whole number within 1/2 + 508 u of x_i / d, which admits both neighbours of an
exact half; the stored sums must be those of the candidate's own codes. A candidate is called with blocks down to zero,
whatever smallest_peak is, and up to candidate_max_abs. Nothing is promised for 0 < max|x| < 2^-100, where 127 / max|x|
may overflow, nor for a block sum of q8_1 that an f16 cannot hold.

With ``policy=saturate`` the bytes are those of older ggml, whose q8_K has the scale -128 / max: the largest element has
the code -128, and an element of the opposite sign whose code would be 128 gets 127. With ``ties=any``, too, its code
may be any whole number, at most 127, that is within 1/2 + 512 u of x / d, or 127 for what is above.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz import formats
from diffuzz.cases.ranges import clip, dtype_of
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.formats import q8_0, q8_k
from diffuzz.kernels import Implementation, ggml, gguf_py
from diffuzz.targets import derived, error_bounds, rows, weight_quantisers
from diffuzz.targets.contract import Contract
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Parameter, ParameterError, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int32, UInt8

_LEAST_PROMISED = 2.0**-100
# Formats of one number, and magnitudes between which the nearest one is promised.
_FLOATS = {"f16": (0.0, 65504.0), "bf16": (2.0**-126, 3.3895313892515355e38)}
_AGAINST = {"q8_0": ("realizar", "generic"), "q8_1": ("generic",), "q8_K": ("realizar",)}


def _is_format(name: str) -> bool:
    """Whether it is an activation format, or one from elsewhere that has a quantiser."""
    if name in _AGAINST or formats.of_ggml(name):
        return name in _AGAINST
    return formats.REGISTRY.known(name) and formats.get(name).quantize is not None


def _formats() -> tuple[str, ...]:
    return tuple(filter(_is_format, formats.names()))


def _is_quantised(name: str) -> bool:
    """Whether a format has a quantiser, so that another can be judged."""
    return formats.REGISTRY.known(name) and formats.get(name).quantize is not None


def _quantised_formats() -> tuple[str, ...]:
    return tuple(filter(_is_quantised, formats.names()))


FORMAT = Parameter("format", "q8_K", "activation format", choices=_formats, accepts=_is_format)
JUDGED_FORMAT = Parameter(
    "format", "q8_K", "activation format, or a format of weights", choices=_quantised_formats, accepts=_is_quantised
)
SMALLEST_PEAK = 0.01
PARAMETERS = (
    FORMAT,
    Parameter(
        "against",
        "other",
        "the other quantiser; other: the first that there is",
        choices=("other", "realizar", "generic"),
    ),
    Parameter("max_abs", 16.0, "largest |x|", low=1e-9, high=8e6),
    Parameter("smallest_peak", SMALLEST_PEAK, "least max|x| of a block", low=1e-9, high=8e6),
)
CONTRACT_PARAMETERS = (
    JUDGED_FORMAT,
    Parameter(
        "ties",
        "even",
        "even: a candidate has ggml's codes, halves to even | any: exact halves may be rounded either way",
        choices=("even", "any"),
    ),
    Parameter(
        "policy",
        "exact",
        "exact: codes up to +-127 | saturate: q8_K of older ggml, with a scale of -128 / max, where 128 becomes 127",
        choices=("exact", "saturate"),
        later=True,
    ),
    rows.largest("x", low=1e-9, high=8e6),
    derived.HELD_BY_FLOAT32[0],
)


def space(p: Params) -> Space:
    """One block of activations with max|x| >= smallest_peak."""
    _against(p)
    if p["smallest_peak"] > p["max_abs"]:
        raise ParameterError(f"smallest_peak={p['smallest_peak']:g} is above max_abs={p['max_abs']:g}")
    return _block(p, p["max_abs"], p["smallest_peak"])


def _block(p: Params, top: float, smallest_peak: float) -> Space:
    size = Dim("n", formats.get(p["format"]).block_size, fixed=True)
    values = TensorSpec(
        "values",
        kind="activations",
        shape=(size,),
        low=-top,
        high=top,
        smallest_peak=smallest_peak,
        quantiser=p["format"],
        holds=p.get("dtype", "float32"),
    )
    return Space((values,))


def candidate_space(p: Params) -> Space:
    """One block of activations, zero or tiny ones included."""
    if p["ties"] == "any" and p["format"] not in _AGAINST:
        raise ParameterError(f"parameter ties=any: only for {', '.join(_AGAINST)}, whose codes are known")
    if p["policy"] == "saturate" and p["format"] != "q8_K":
        raise ParameterError(f"parameter policy=saturate: only for format=q8_K, it is {p['format']}")
    return _block(p, min(p["candidate_max_abs"], derived.largest(p)), 0.0)


def candidate_starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray] | None:
    """Blocks of halves, as in ``starts``, in the range that a candidate is called with; for formats of weights those of
    ``weight_quantisers.starts``. None for a format whose codes are not known.
    """
    top = min(p["candidate_max_abs"], derived.largest(p))
    if weight_quantisers.known(p["format"]):
        values = weight_quantisers.starts(p["format"], top, rng, count)
        return {"values": clip(candidate_space(p)["values"], values)}
    if p["format"] not in _AGAINST:
        return None
    return _halves(p, top, min(SMALLEST_PEAK, top), rng, count)


def _against(p: Params) -> str:
    """Name of the other quantiser. Raises ParameterError if the format does not have it."""
    there_are = _AGAINST.get(p["format"])
    if there_are is None:
        raise ParameterError(
            f"parameter format={p['format']}: diffuzz has one quantiser of it; judge another, with --candidate"
        )
    if p["against"] == "other":
        return there_are[0]
    if p["against"] not in there_are:
        raise ParameterError(f"parameter against={p['against']}: {p['format']} has {' and '.join(there_are)}")
    return str(p["against"])


def _reference(
    name: str, values: Float32[np.ndarray, "b n"]
) -> tuple[Float32[np.ndarray, " b"], Int32[np.ndarray, "b n"]]:
    """(scale, codes) by ggml's quantiser on x86."""
    if name == "q8_K":
        return q8_k.quantise_ggml(values)
    _, stored, codes = q8_0.quantise_x86(values)
    return stored, codes


def _other(
    name: str, against: str, values: Float32[np.ndarray, "b n"]
) -> tuple[Float32[np.ndarray, " b"], Int32[np.ndarray, "b n"]]:
    """(scale, codes) by the other quantiser."""
    if against == "generic":
        _, stored, codes = q8_0.quantise_generic(values)
        return stored, codes
    return q8_0.quantise_realizar(values) if name == "q8_0" else q8_k.quantise_realizar(values)


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """max|s q - s' q'| / max|x| of each block, without noise: a float32 scale times a code is exact in float64."""
    values = arrays["values"]
    scale, codes = _reference(p["format"], values)
    other_scale, other_codes = _other(p["format"], _against(p), values)
    one = scale.astype(np.float64)[:, None] * codes
    other = other_scale.astype(np.float64)[:, None] * other_codes
    peak = np.abs(values.astype(np.float64)).max(axis=1)
    difference = np.abs(one - other).max(axis=1)
    value = np.where(peak > 0, difference / np.where(peak > 0, peak, 1.0), 0.0)
    return Outcome(value, np.zeros(len(value)))


def explain(p: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The number of codes that differ, and the two scales."""
    scale, codes = _reference(p["format"], arrays["values"])
    other_scale, other_codes = _other(p["format"], _against(p), arrays["values"])
    # The scale of q8_K has the sign of the largest element, so magnitudes are compared.
    return {
        "codes that differ": (np.abs(codes) != np.abs(other_codes)).sum(axis=1).astype(np.float64),
        "scale": np.abs(scale.astype(np.float64)),
        "other scale": np.abs(other_scale.astype(np.float64)),
    }


def bound(p: Params) -> Bound:
    """The bound that the docstring of the module derives."""
    least = p["smallest_peak"] / error_bounds.LARGEST_CODE
    rho = float(error_bounds.scale_error(p["format"], least) / least)
    if p["format"] == "q8_0" and _against(p) == "realizar":
        value, because = (
            (1 + error_bounds.LARGEST_CODE * rho) / error_bounds.LARGEST_CODE,
            "one step, and the f16 rounding of one scale",
        )
    else:
        value, because = (
            (1 + rho) / error_bounds.LARGEST_CODE,
            "codes nearest to the same quotient differ by one step at most",
        )
    return Bound(value, because, rounding=error_bounds.ROUNDING)


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Blocks of halves, x_i = +-(k + 1/2) d: d is a power of two, halfway between two f16 numbers, or the least d."""
    return _halves(p, p["max_abs"], p["smallest_peak"], rng, count)


def _halves(p: Params, top: float, smallest_peak: float, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    n = formats.get(p["format"]).block_size
    least, most = smallest_peak / error_bounds.LARGEST_CODE, top / error_bounds.LARGEST_CODE
    exponent = np.floor(rng.uniform(np.log2(least), np.log2(most), (count, 1)))
    mantissa = rng.choice([1.0, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 1023 * 2.0**-11], (count, 1))
    subnormal = (np.floor(least * 2.0**24) + rng.integers(0, 2, (count, 1)) + 0.5) * 2.0**-24
    d = np.where(rng.random((count, 1)) < 0.5, mantissa * 2.0**exponent, subnormal)
    d *= 1 + rng.choice([0.0, 2.0**-20, -(2.0**-20)], (count, 1))
    d = np.clip(d, least, most * (1 - 2.0**-20))
    half = rng.integers(0, error_bounds.LARGEST_CODE, (count, n)) + 0.5
    # The largest codes multiply the error of the scale by most.
    half = np.where(rng.random((count, 1)) < 0.5, np.maximum(error_bounds.LARGEST_CODE - 0.5 - np.arange(n), 0.5), half)
    values = half * d * np.where(rng.random((count, n)) < 0.5, 1.0, -1.0)
    values[:, 0] = np.maximum(error_bounds.LARGEST_CODE * d[:, 0], smallest_peak * (1 + error_bounds.UNIT))
    return {"values": clip(_block(p, top, smallest_peak)["values"], values)}


def accepts(p: Params, arrays: Arrays, result: UInt8[np.ndarray, "b type_size"]) -> Bool[np.ndarray, "b type_size"]:
    """Which bytes are right: those of the reference, and with ``ties=any`` all nearest codes, and the sums of the codes
    of the candidate.
    """
    peak = np.abs(arrays["values"]).max(axis=1, keepdims=True)
    unpromised = (peak > 0) & (peak < _LEAST_PROMISED)
    if weight_quantisers.known(p["format"]):
        return _accepted(p["format"], arrays["values"], result)
    fmt, values, wanted = formats.get(p["format"]), arrays["values"].astype(np.float64), _quantised(p, arrays)
    right: Bool[np.ndarray, "b type_size"] = (result == wanted) | unpromised
    if p["format"] in _FLOATS:
        size, (least, largest) = np.abs(arrays["values"]), _FLOATS[p["format"]]
        return np.asarray((result == wanted) | (size > largest) | ((size > 0) & (size < least)))
    if p["format"] == "q8_1":
        # A sum beyond the f16 range is infinity here, and the largest f16 number in other implementations.
        right[:, _bytes(fmt, "s")] |= ~np.isfinite(_records(fmt, wanted)["s"])[:, None]
    if p["ties"] == "even" or p["format"] not in _AGAINST:
        return right
    given = _records(fmt, result)
    codes = given["qs"].astype(np.int32)
    off = np.abs(np.minimum(_quotient(p, values), error_bounds.LARGEST_CODE) - codes)
    right[:, _bytes(fmt, "qs")] = off <= 0.5 + 4 * error_bounds.UNIT * _levels(p)
    if p["format"] == "q8_1":
        step = np.abs(arrays["values"]).max(axis=1) / np.float32(error_bounds.LARGEST_CODE)
        total = (step * codes.sum(axis=1).astype(np.float32)).astype(np.float16)
        same = given["s"].view(np.uint16) == total.view(np.uint16)
        right[:, _bytes(fmt, "s")] = (same | ~np.isfinite(total))[:, None]
    if p["format"] == "q8_K":
        sums = codes.reshape(len(codes), 16, 16).sum(axis=2)
        right[:, _bytes(fmt, "bsums")] = np.repeat(given["bsums"] == sums, 2, axis=1)
    return np.asarray(right | unpromised)


def _accepted(
    format: str, values: Float32[np.ndarray, "b n"], result: UInt8[np.ndarray, "b type_size"]
) -> Bool[np.ndarray, "b type_size"]:
    """All bytes of a block of weights that is as close as it must be; of another those that are the reference's, too,
    or none if all are.
    """
    right = np.repeat(weight_quantisers.keeps(format, values, result)[:, None], result.shape[1], axis=1)
    bad = ~right[:, 0]
    if bad.any():
        same = result[bad] == _quantised({"format": format, "policy": "exact"}, {"values": values[bad]})
        right[bad] = same & ~same.all(axis=1, keepdims=True)
    return right


def _quotient(p: Params, values: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b n"]:
    """x / d in float64; for q8_K with the sign that gives the first of the largest elements the code -127."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)
    unit = -largest if p["format"] == "q8_K" else np.abs(largest)
    return _levels(p) * values / np.where(unit == 0, 1.0, unit)


def _levels(p: Params) -> int:
    """Magnitude of the code of the largest element."""
    return error_bounds.LARGEST_CODE + int(p["policy"] == "saturate")


def _records(fmt: formats.Format, blocks: UInt8[np.ndarray, "b type_size"]) -> np.ndarray:
    """Blocks uint8[b, type_size] as records of their fields, [b]."""
    return np.ascontiguousarray(blocks).view(fmt.layout).reshape(-1)


def _bytes(fmt: formats.Format, field: str) -> slice:
    """The bytes of a block that hold a field."""
    fields = fmt.layout.fields
    if fields is None:
        raise TypeError(f"the layout of {fmt.name} has no fields")
    dtype, offset = fields[field][:2]
    return slice(offset, offset + dtype.itemsize)


def _quantised(p: Params, arrays: Arrays) -> UInt8[np.ndarray, "b type_size"]:
    """The blocks of the reference quantiser."""
    if p["policy"] == "saturate":
        return q8_k.quantise(arrays["values"], levels=_levels(p))
    quantise = formats.get(p["format"]).quantize
    if quantise is None:
        raise ParameterError(f"parameter format={p['format']}: a format with a quantiser is needed")
    return quantise(arrays["values"])


def _run(p: Params, arrays: Arrays, kernels: Implementation) -> UInt8[np.ndarray, "b type_size"]:
    """The blocks of an implementation. With policy=saturate, ggml's are those of its older releases."""
    if p["policy"] == "saturate" and kernels is ggml:
        return _quantised(p, arrays)
    return np.asarray(kernels.quantize(p["format"], arrays["values"]))


def _kernels(p: Params) -> tuple[str, ...]:
    if weight_quantisers.known(p["format"]) or p["format"] in _FLOATS:
        has_library = formats.of_ggml(p["format"]) and p["format"] not in weight_quantisers.GRID
        return ("ggml", *(("libggml",) if has_library else ()))
    if not formats.of_ggml(p["format"]) or p["policy"] == "saturate":
        return ("ggml",)
    python = ("gguf-py",) if p["format"] in gguf_py.QUANTISED else ()
    return ("ggml", *python, "libggml", "libggml:generic")


TARGET = Target(
    name="quantize",
    summary="two quantisers of one activation format: difference of the restored values",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, explain=explain),
    measure=lambda p: f"max|x^ - x^'| / max|x|, ggml's {p['format']} quantiser against {_against(p)}",
    bound=bound,
    claim="two quantisers of one format differ by more than a step",
    threshold=lambda p: bound(p).ceiling,
    starts=starts,
    contract=Contract(
        signature="f(values: dtype[b, block_size]) -> uint8[b, type_size]",
        parameters=CONTRACT_PARAMETERS,
        space=candidate_space,
        call=lambda p, f, arrays: f(np.asarray(arrays["values"]).astype(dtype_of(p["dtype"]))),
        run=_run,
        kernels=_kernels,
        result_format=lambda p: str(p["format"]),
        accepts=accepts,
        allows=lambda p, arrays, result: accepts({**p, "ties": "any"}, arrays, result),
        starts=candidate_starts,
    ),
)
