"""Quantisers of weights with one bug each, and right ones that follow other rules than those of diffuzz.

    Row = (name, target, parameters, function, what is wrong, source)

A quantiser f(values float32[b, n]) -> uint8[b, type_size] is made from that of the format: by values that it gets
instead (``_fed``), by fields that are stored instead (``_stored``), or anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from diffuzz import formats
from diffuzz.formats import Fields, bits, int4_groups, iq4_nl, mxfp4, nf4, small_floats
from diffuzz.studies.mutants.wrong_blocks import SMALLEST_NORMAL_HALF, Change
from diffuzz.studies.mutants.wrong_formats import Row
from diffuzz.targets.contract import Function
from diffuzz.targets.parameter import Params

# The same without a source.
Control: TypeAlias = tuple[str, str, Params, Function, str]

_F = np.float32


def _quantise(format: str, values: np.ndarray) -> np.ndarray:
    quantise = formats.get(format).quantize
    if quantise is None:
        raise ValueError(f"format={format!r}: it has no quantiser")
    return quantise(values)


def _fed(format: str, change: Change) -> Function:
    """The quantiser of ``change(values)``."""
    return lambda values: _quantise(format, change(values).astype(np.float32))


def _stored(format: str, change: Callable[[np.ndarray, Fields], Fields]) -> Function:
    """The quantiser whose fields are replaced by those of ``change(values, fields)``."""
    fmt = formats.get(format)

    def quantise(values: np.ndarray) -> np.ndarray:
        if not len(values):
            return np.empty((0, fmt.type_size), np.uint8)
        fields = fmt.unpack(_quantise(format, values))
        with np.errstate(all="ignore"):
            return fmt.pack(fields | change(values, fields))

    return quantise


def _truncated(format: str, offset: int) -> Function:
    """Codes of values / d rounded towards the code of 0, for a format with one scale."""

    def change(values: np.ndarray, fields: Fields) -> Fields:
        d = fields["d"].astype(np.float64)[:, None]
        whole = np.trunc(np.divide(values, d, out=np.zeros(values.shape), where=d != 0))
        return {"codes": np.clip(whole + offset, 0, 2 * offset - 1).astype(np.int32)}

    return _stored(format, change)


def _powers_of_two(exponent: Callable[[np.ndarray], np.ndarray], rounded: bool = True) -> Function:
    """mxfp4 with the scale 2^exponent(max|x|), in units of which 6 is the largest level; codes are nearest to x by that
    scale, or, if not ``rounded``, by max|x| / 6.
    """
    levels = np.array(mxfp4.LEVELS, np.float64) / 2

    def quantise(values: np.ndarray) -> np.ndarray:
        peak = np.abs(values.astype(np.float64)).max(axis=1)
        safe = np.where(peak > 0, peak, 1.0)
        power = np.where(peak > 0, np.clip(exponent(safe), -126, 127), -126)
        scale = 2.0**power if rounded else safe / 6
        codes = np.abs(values[:, :, None] / scale[:, None, None] - levels).argmin(axis=2).astype(np.int32)
        # The format's d is half of the scale, because its levels are doubled.
        fields = {"d": (2.0 ** (power - 1)).astype(np.float32), "codes": codes}
        return formats.get("mxfp4").pack(fields)

    return quantise


def _float8_unguarded(format: str, magnitudes: np.ndarray) -> Function:
    """x / d in float32 without a look at d = 0, and NaN beyond the largest number: no saturation."""
    fmt, top = formats.get(format), float(magnitudes[-1])

    def quantise(values: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            d = (np.abs(values).max(axis=1) / _F(top)).astype(np.float32)
            scaled = values / d[:, None]
            codes = small_floats.signed(scaled, magnitudes)
            codes = np.where(np.isnan(scaled), np.uint8(127), codes)
        return fmt.pack({"d": d, "codes": codes.astype(np.int32)})

    return quantise


def _float8_of_part(values: np.ndarray, fields: Fields) -> Fields:
    """The scale of the first half of a block; what is beyond it becomes the largest number."""
    d = np.abs(values[:, :64]).max(axis=1) / _F(448)
    scaled = np.divide(values, d[:, None], out=np.zeros_like(values), where=d[:, None] > 0)
    return {"d": d, "codes": small_floats.signed(scaled, small_floats.E4M3).astype(np.int32)}


def _float8_cut(values: np.ndarray, fields: Fields) -> Fields:
    """The code of the next number towards zero."""
    d = fields["d"].astype(np.float64)[:, None]
    size = np.divide(np.abs(values), d, out=np.zeros(values.shape), where=d > 0)
    code = np.clip(np.searchsorted(small_floats.E4M3, size, side="right") - 1, 0, 126)
    return {"codes": (code | np.where(np.signbit(values), small_floats.SIGN, 0)).astype(np.int32)}


def _nf4_with(table: np.ndarray) -> Callable[[np.ndarray, Fields], Fields]:
    """Codes of the nearest number of another table."""

    def change(values: np.ndarray, fields: Fields) -> Fields:
        d = fields["d"][:, None]
        scaled = np.divide(values, d, out=np.zeros_like(values), where=d > 0)
        return {"codes": np.abs(scaled[:, :, None] - table).argmin(axis=2).astype(np.int32)}

    return change


def _zero_scale_is_nan(values: np.ndarray, fields: Fields) -> Fields:
    """0 / 0 for the scale of a block of zeros."""
    zero = ~values.any(axis=1)
    return {"d": np.where(zero, np.nan, fields["d"]).astype(fields["d"].dtype)}


def _flushed(values: np.ndarray, fields: Fields) -> Fields:
    d = fields["d"]
    return {"d": np.where(np.abs(d) < SMALLEST_NORMAL_HALF, 0, d).astype(d.dtype)}


def _without_minimum(values: np.ndarray, fields: Fields) -> Fields:
    return {"dmin" if "dmin" in fields else "m": np.zeros_like(fields["d"])}


def _half_toward_zero(values: np.ndarray) -> np.ndarray:
    """f16 by cutting bits off."""
    with np.errstate(over="ignore"):
        near = values.astype(np.float16)
    beyond = np.abs(near.astype(np.float64)) > np.abs(values)
    return np.where(beyond, np.nextafter(near, np.float16(0)), near).view(np.uint8).reshape(len(values), -1)


def _bfloat_toward_zero(values: np.ndarray) -> np.ndarray:
    return bits.bfloat_below(values).view(np.uint8).reshape(len(values), -1)


def _bfloat_half_up(values: np.ndarray) -> np.ndarray:
    """Ties away from zero, where they go to the even number."""
    words = values.view(np.uint32).astype(np.uint64) + 0x8000
    return (words >> np.uint64(16)).astype(np.uint16).view(np.uint8).reshape(len(values), -1)


def _half_flushed(values: np.ndarray) -> np.ndarray:
    near = formats.get("f16").unpack(_quantise("f16", values))["d"]
    near = np.where(np.abs(near) < SMALLEST_NORMAL_HALF, np.float16(0), near)
    return formats.get("f16").pack({"d": near})


def _awq_packed(values: np.ndarray, fields: Fields) -> Fields:
    """Codes packed in the order 0 to 7."""
    codes = fields["codes"].reshape(len(values), -1, 8)[:, :, list(int4_groups.AWQ_ORDER)]
    return {"codes": codes.reshape(values.shape)}


_FP4 = np.array([0, 0.0052, 0.6667, 1, 0.3333, 0.5, 0.1667, 0.25, 0, -0.0052, -0.6667, -1, -0.3333, -0.5, -0.1667,
                 -0.25], np.float32)  # fmt: skip

# Wrong quantisers: (name, format, function, what is wrong, source).
_QUANTISERS: tuple[tuple[str, str, Function, str, str], ...] = (
    ("scale-below", "mxfp4", _powers_of_two(lambda peak: np.floor(np.log2(peak / 6))), "2^floor(log2(max / 6))",
     "vllm#43557"),
    ("scale-rounded-after", "mxfp4", _powers_of_two(lambda peak: np.rint(np.log2(peak / 6)), rounded=False),
     "codes for a scale that is rounded afterwards", "ds4#844"),
    ("scale-above", "mxfp4", _powers_of_two(lambda peak: np.floor(np.log2(peak))), "scale without / 4", ""),
    ("truncated", "fp8_e4m3", _stored("fp8_e4m3", _float8_cut), "mantissa cut off", ""),
    ("zero-nan", "q6_K", _stored("q6_K", _zero_scale_is_nan), "scale of zeros NaN", "auto-round#1909"),
    ("zero-nan", "q4_0", _stored("q4_0", _zero_scale_is_nan), "scale of zeros NaN", ""),
    ("zero-nan", "fp8_e4m3", _float8_unguarded("fp8_e4m3", small_floats.E4M3), "0 / 0 in a block of zeros",
     "ao#4713, aiter#4289"),
    ("zero-nan", "nf4", _stored("nf4", _zero_scale_is_nan), "absmax of zeros NaN", ""),
    ("peak-of-half", "fp8_e4m3", _stored("fp8_e4m3", _float8_of_part), "max|x| of the first 64", "bitsandbytes#1884"),
    ("fp4-table", "nf4", _stored("nf4", _nf4_with(_FP4)), "codes of the table of fp4", "bitsandbytes#1160"),
    ("nearest-below", "nf4", _stored("nf4", lambda v, f: {"codes": np.maximum(f["codes"] - 1, 0)}), "next lower level",
     ""),
    ("truncated", "q4_0", _truncated("q4_0", 8), "code trunc(x/d)", ""),
    ("truncated", "q5_0", _truncated("q5_0", 16), "code trunc(x/d)", ""),
    ("flushed", "q4_0", _stored("q4_0", _flushed), "subnormal d as 0", ""),
    ("flushed", "iq4_nl", _stored("iq4_nl", _flushed), "subnormal d as 0", ""),
    ("no-minimum", "q4_K", _stored("q4_K", _without_minimum), "dmin not stored", ""),
    ("no-minimum", "q4_1", _stored("q4_1", _without_minimum), "m not stored", ""),
    ("scales-8-bit", "q4_K", _stored("q4_K", lambda v, f: {"scales": f["scales"] & 31}), "upper bit of the scales", ""),
    ("last-lost", "q3_K", _fed("q3_K", lambda v: np.where(np.arange(256) == 255, 0, v)), "last weight not read", ""),
    ("last-lost", "iq4_xs", _fed("iq4_xs", lambda v: np.where(np.arange(256) >= 240, 0, v)), "last 16 not read", ""),
    ("sign-lost", "q6_K", _fed("q6_K", np.abs), "sign of the weights lost", ""),
    ("levels-evenly", "iq4_nl",
     _stored("iq4_nl", lambda v, f: {"codes": np.clip(np.rint(np.divide( v, 16 * f["d"].astype(np.float64)[:, None],
      out=np.zeros(v.shape), where=f["d"][:, None] != 0)) + 8, 0, 15) .astype(np.int32)}), "levels 16 apart", ""),
    ("nibbles-swapped", "q4_1", _stored("q4_1", lambda v, f: {"codes": np.roll(f["codes"], 16, axis=1)}),
     "high nibbles first", ""),
    ("order-forgotten", "awq_g128", _stored("awq_g128", _awq_packed), "packed in the order 0 to 7", ""),
    ("zero-off", "gptq_v2_g128", _stored("gptq_v2_g128", lambda v, f: {"zeros": np.maximum(f["zeros"] - 1, 0)}),
     "zero point minus 1 stored", ""),
    ("zero-not-off", "gptq_g64", _stored("gptq_g64", lambda v, f: {"zeros": np.minimum(f["zeros"] + 1, 15)}),
     "zero point without minus 1", ""),
    ("overflow", "gptq_g32", _stored("gptq_g32", lambda v, f: {"codes": (f["codes"] + 1) & 15}), "16 wraps to 0", ""),
    ("scale-next", "nvfp4", _stored("nvfp4", lambda v, f: {"scales": np.roll(f["scales"], 1, axis=1)}),
     "scales of the sub-block before", ""),
    ("scale-twice", "nvfp4", _stored("nvfp4", lambda v, f: {"scales": np.maximum(f["scales"] - 8, 0)}),
     "half the scale, codes as they were", ""),
    ("tensor-scale", "nvfp4_two_level",
     _stored("nvfp4_two_level", lambda v, f: {"d": np.where( f["d"] > 0, _F(1) / f["d"], _F(0))}),
     "reciprocal of the tensor's scale", ""),
    ("threshold", "tq1_0", _stored("tq1_0", lambda v, f: {"codes": np.sign(v).astype(np.int32) + 1}), "signs only", ""),
    ("threshold", "tq2_0",
     _stored("tq2_0", lambda v, f: {"codes": np.trunc(v / np.maximum(np.abs(v).max( axis=1, keepdims=True),
      _F(1e-30))).astype(np.int32) + 1}), "1 only for the largest", ""),
    ("toward-zero", "f16", _half_toward_zero, "bits cut off", ""),
    ("toward-zero", "bf16", _bfloat_toward_zero, "bits cut off", ""),
    ("half-up", "bf16", _bfloat_half_up, "ties away from zero", ""),
    ("flushed", "f16", _half_flushed, "subnormal numbers as 0", ""),
    ("parity-lost", "iq2_xxs", _stored("iq2_xxs", lambda v, f: {"signs": f["signs"] ^ 1}), "first sign inverted", ""),
    ("point-next", "iq2_s", _stored("iq2_s", lambda v, f: {"grid": f["grid"] & 255}), "upper bits not stored", ""),
    ("sign-lost", "iq3_xxs", _fed("iq3_xxs", np.abs), "sign of the weights lost", ""),
    ("scale-lost", "iq1_s", _stored("iq1_s", lambda v, f: {"scales": 0 * f["scales"]}), "scales of sub-blocks 0", ""),
)  # fmt: skip

WRONG: list[Row] = [
    (f"weights-{name}/{format}", "quantize", {"format": format}, f, what, source)
    for name, format, f, what, source in _QUANTISERS
]


def _symmetric_seven(values: np.ndarray) -> np.ndarray:
    """q4_0 with d = max|x| / 7."""
    d = (np.abs(values).max(axis=1).astype(np.float64) / 7).astype(np.float16)
    wide = d.astype(np.float64)[:, None]
    codes = np.rint(np.divide(values, wide, out=np.zeros(values.shape), where=wide > 0))
    return formats.get("q4_0").pack({"d": d, "codes": (np.clip(codes, -8, 7) + 8).astype(np.int32)})


def _searched_levels(values: np.ndarray) -> np.ndarray:
    """iq4_nl with the best of nine scales of either sign, by the squared error."""
    levels, peak = np.array(iq4_nl.LEVELS, np.float64), np.abs(values.astype(np.float64)).max(axis=1)
    best, least, kept = np.zeros((len(values), 32), np.int32), np.full(len(values), np.inf), np.zeros(len(values))
    for reach in (-127, -120, -110, 113, 105, 127, 120, -130, 100):
        d = (peak / reach).astype(np.float16).astype(np.float64)
        scaled = np.divide(values, d[:, None], out=np.zeros(values.shape), where=d[:, None] != 0)
        codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, scaled).astype(np.int32)
        error = ((levels[codes] * d[:, None] - values) ** 2).sum(axis=1)
        better = error < least
        best, kept = np.where(better[:, None], codes, best), np.where(better, d, kept)
        least = np.minimum(error, least)
    return formats.get("iq4_nl").pack({"d": kept.astype(np.float16), "codes": best})


def _zero_of_eight(values: np.ndarray) -> np.ndarray:
    """gptq without a search: d = (most - least) / 15, the zero point rounded, codes clipped."""
    x = values.astype(np.float64)
    least, most = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
    d = ((most - least) / 15).astype(np.float16)
    wide = np.where(d > 0, d, 1).astype(np.float64)
    zero = np.clip(np.rint(-least / wide), 0, 15)
    codes = np.clip(np.rint(x / wide[:, None]) + zero[:, None], 0, 15).astype(np.int32)
    fields = {"d": d, "zeros": zero.astype(np.int32), "others": np.full(len(x), 5, np.int32), "codes": codes}
    return formats.get("gptq_v2_g128").pack(fields)


def _bitsandbytes(values: np.ndarray) -> np.ndarray:
    """nf4 by float32 products with f32(1 / absmax), as bitsandbytes has it: NaN of zeros becomes code 0."""
    with np.errstate(all="ignore"):
        d = np.abs(values).max(axis=1)
        scaled = np.clip(values * (_F(1) / d)[:, None], -1, 1)
        distance = np.abs(scaled[:, :, None] - nf4.LEVELS)
    codes = np.where(np.isnan(distance).any(axis=2), 0, distance.argmin(axis=2)).astype(np.int32)
    return formats.get("nf4").pack({"d": d, "codes": codes})


def _saturating_float8(values: np.ndarray) -> np.ndarray:
    """fp8_e4m3 with a scale that is a power of two, at least 2^-60."""
    peak = np.abs(values.astype(np.float64)).max(axis=1)
    power = np.ceil(np.log2(np.where(peak > 0, peak, 1.0) / 448))
    d = (2.0 ** np.clip(power, -126, 120)).astype(np.float32)
    codes = small_floats.signed(values / d[:, None].astype(np.float64), small_floats.E4M3)
    return formats.get("fp8_e4m3").pack({"d": d, "codes": codes.astype(np.int32)})


RIGHT: list[Control] = [
    *(
        (f"weights/{name}", "quantize", {"format": name}, lambda values, name=name: _quantise(name, values), "ours")
        for name in ("q4_0", "q4_1", "q5_1", "q2_K", "q3_K", "q4_K", "q6_K", "iq4_xs", "nvfp4", "nvfp4_two_level",
                     "tq1_0", "gptq_g128", "awq_g64", "f16", "bf16", "iq2_xxs", "iq3_s", "iq1_m", "fp8_e5m2", "mxfp4")
    ),
    ("weights-by-7/q4_0", "quantize", {"format": "q4_0"}, _symmetric_seven, "max / 7"),
    ("weights-searched/iq4_nl", "quantize", {"format": "iq4_nl"}, _searched_levels, "best of nine scales"),
    ("weights-rounded/gptq_v2_g128", "quantize", {"format": "gptq_v2_g128"}, _zero_of_eight, "zero point rounded"),
    ("weights-products/nf4", "quantize", {"format": "nf4"}, _bitsandbytes, "float32 products, as bitsandbytes"),
    ("weights-power-of-two/fp8_e4m3", "quantize", {"format": "fp8_e4m3"}, _saturating_float8, "scale a power of two"),
    ("weights-above/mxfp4", "quantize", {"format": "mxfp4"}, _powers_of_two(lambda peak: np.ceil(np.log2(peak / 6))),
     "2^ceil(log2(max / 6))"),
]  # fmt: skip
