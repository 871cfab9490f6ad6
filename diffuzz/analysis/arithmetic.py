"""A stated arithmetic: the format that numbers are stored in, the one that intermediates are rounded to, the one that
sums are accumulated in, and the errors that functions of a library may have.

A **format** is described by its unit roundoff u (half the distance from 1 to the next larger number), its smallest
normal and subnormal numbers and its largest number. An **ULP** is twice u relative to a number, so a function with a
budget of k ULP has a relative error of 2 k u.

The budgets are those of OpenCL C 3.0, section 7.4 "Relative error as ULPs": full profile for single precision, and the
table of cl_khr_fp16 for formats of at most 16 bits, where functions are evaluated in float32 and rounded once. Where a
library that is in use needs more, the budget says so.
"""

from __future__ import annotations

import functools

import attrs
import numpy as np


@attrs.frozen
class FloatFormat:
    """A binary floating-point format: ``unit`` is its unit roundoff, the other numbers are magnitudes."""

    name: str
    unit: float
    smallest_normal: float
    smallest_subnormal: float
    largest: float

    @property
    def precision(self) -> int:
        """The number of significant bits, the leading one included."""
        return 1 - int(np.frexp(self.unit)[1])

    @property
    def keeps_subnormals(self) -> bool:
        """Whether every implementation keeps subnormal numbers: true of the formats with a short exponent, where they
        are a large part of the range.
        """
        return self.smallest_normal > 2.0**-64

    @property
    def is_narrow(self) -> bool:
        """Whether functions are evaluated in a wider format and rounded once."""
        return self.unit > 2.0**-12

    def includes(self, other: FloatFormat) -> bool:
        """Whether it holds every number of another format: bfloat16 and float16 hold neither all of the other's."""
        return (
            self.unit <= other.unit
            and self.smallest_subnormal <= other.smallest_subnormal
            and self.largest >= other.largest
        )


FORMATS = {
    "float64": FloatFormat("float64", 2.0**-53, 2.0**-1022, 2.0**-1074, float(np.finfo(np.float64).max)),
    "float32": FloatFormat("float32", 2.0**-24, 2.0**-126, 2.0**-149, (2 - 2.0**-23) * 2.0**127),
    "tf32": FloatFormat("tf32", 2.0**-11, 2.0**-126, 2.0**-136, (2 - 2.0**-10) * 2.0**127),
    "bfloat16": FloatFormat("bfloat16", 2.0**-8, 2.0**-126, 2.0**-133, (2 - 2.0**-7) * 2.0**127),
    "float16": FloatFormat("float16", 2.0**-11, 2.0**-14, 2.0**-24, 65504.0),
    "float8_e4m3fn": FloatFormat("float8_e4m3fn", 2.0**-4, 2.0**-6, 2.0**-9, 448.0),
    "float8_e5m2": FloatFormat("float8_e5m2", 2.0**-3, 2.0**-14, 2.0**-16, 57344.0),
}
# What numbers are stored in; tf32 only says how the operands of products of matrices are read.
STORAGE = tuple(name for name in FORMATS if name != "tf32")

# ULP budgets for single and double precision. The second column is that of the narrow formats.
_BUDGETS = {
    "divide": (2.5, 1.25),  # the narrow one is 1 in the table; a reciprocal and a product need a little more
    "sqrt": (2.5, 1.25),  # 3 and 1 in the table; a product with a reciprocal root needs as much as a quotient
    "rsqrt": (2.0, 1.0),
    "cbrt": (2.0, 2.0),
    "exp": (4.0, 2.0),  # 3 in the table; the vectorised exponentials of ggml and of XLA need 4
    "exp2": (4.0, 2.0),
    "expm1": (4.0, 2.0),
    "log": (4.0, 2.0),
    "log1p": (4.0, 2.0),
    "tanh": (5.0, 2.0),
    "logistic": (8.0, 2.0),  # not in the table: an exponential, a sum and a quotient
    "sin": (4.0, 2.0),
    "cos": (4.0, 2.0),
    "tan": (5.0, 2.0),
    "asin": (4.0, 2.0),
    "acos": (4.0, 2.0),
    "atan": (5.0, 2.0),
    "atan2": (6.0, 2.0),
    "sinh": (4.0, 2.0),
    "cosh": (4.0, 2.0),
    "asinh": (4.0, 2.0),
    "acosh": (4.0, 2.0),
    "atanh": (5.0, 2.0),
    "erf": (16.0, 4.0),
    "erfc": (16.0, 4.0),
    "erf_inv": (16.0, 4.0),  # not in the table
    "bessel": (16.0, 4.0),  # not in the table
    "pow": (16.0, 4.0),
    "lgamma": (16.0, 4.0),  # undefined in the table
    "digamma": (16.0, 4.0),  # not in the table
}

# What float64 needs where that is more: XLA's log1p of -0.414 is 120 ULP off, and its atanh is made of it.
_OF_DOUBLE = {"log1p": 128.0, "atanh": 80.0}


def budget(name: str, number_format: FloatFormat) -> float:
    """The largest error, in ULP of the result, that this function may have in this format. Raises KeyError."""
    if number_format.name == "float64" and name in _OF_DOUBLE:
        return _OF_DOUBLE[name]
    return _BUDGETS[name][number_format.is_narrow]


@attrs.frozen
class Arithmetic:
    """Names of the formats of an arithmetic: storage of inputs and results, intermediates, sums; and whether numbers
    near the smallest normal one may be flushed. Made by :meth:`of`, which fills in the defaults.
    """

    dtype: str
    compute: str
    accumulate: str
    flush: bool

    @staticmethod
    def of(
        dtype: str = "float32", compute: str | None = None, accumulate: str | None = None, flush: bool = True
    ) -> Arithmetic:
        """The arithmetic of these formats.

        ``compute`` is float32 where ``dtype`` is narrower, else ``dtype``; ``accumulate`` is ``compute``. Raises
        ValueError for a name that is no format, and for tf32 as a dtype.
        """
        dtype = str(dtype)
        if dtype not in STORAGE:
            raise ValueError(f"dtype={dtype}: no format that numbers are stored in; choose one of {', '.join(STORAGE)}")
        if compute is None:
            compute = "float64" if dtype == "float64" else "float32"
        if accumulate is None:
            accumulate = compute
        for parameter, name in (("compute", compute), ("accumulate", accumulate)):
            if name not in FORMATS:
                raise ValueError(f"{parameter}={name}: no such format; choose one of {', '.join(FORMATS)}")
        return Arithmetic(dtype, str(compute), str(accumulate), bool(flush))

    @property
    def storage(self) -> FloatFormat:
        """The format of inputs and results."""
        return FORMATS[self.dtype]

    @property
    def computing(self) -> FloatFormat:
        """The format that every intermediate is rounded to; float32 where ``compute`` is tf32."""
        return FORMATS["float32" if self.compute == "tf32" else self.compute]

    @property
    def accumulating(self) -> FloatFormat:
        """The format that sums are accumulated in; float32 where ``accumulate`` is tf32."""
        return FORMATS["float32" if self.accumulate == "tf32" else self.accumulate]

    @property
    def truncates_factors(self) -> bool:
        """Whether products of matrices read their operands as tf32."""
        return "tf32" in (self.compute, self.accumulate)


def reduced(exponent_bits: int, mantissa_bits: int) -> FloatFormat:
    """The format with these widths, in the manner of IEEE 754; one of FORMATS where it is the same."""
    bias = 2 ** (exponent_bits - 1) - 1
    unit = 2.0 ** -(mantissa_bits + 1)
    least = 2.0 ** (1 - bias)
    made = FloatFormat(f"e{exponent_bits}m{mantissa_bits}", unit, least, least * 2 * unit, (2 - 2 * unit) * 2.0**bias)
    same = (each for each in FORMATS.values() if attrs.evolve(made, name=each.name) == each)
    return next(same, made)


def round_to(number_format: FloatFormat, x: np.ndarray | float) -> np.ndarray:
    """The nearest number of the format, ties to even, as float64.

    Subnormal numbers of the format are kept. What rounds beyond the largest number becomes infinite, and NaN in
    float8_e4m3fn, which has no infinity. Works on arrays of any shape; float64 is returned as it is.
    """
    x = np.asarray(x, np.float64)
    if number_format.name == "float64":
        return x
    shift = 53 - number_format.precision
    if x.ndim == 0:
        return round_to(number_format, x.reshape(1)).reshape(())
    bits = x.view(np.uint64)
    # Half of the last place that is kept, less one where that place is even: a carry then rounds ties to even.
    rounded = bits >> np.uint64(shift)
    rounded &= np.uint64(1)
    rounded += np.uint64((1 << (shift - 1)) - 1)
    rounded += bits
    rounded &= np.uint64(0xFFFFFFFFFFFFFFFF ^ ((1 << shift) - 1))
    result = rounded.view(np.float64)
    size = np.abs(x)
    if size.size and not (size.min() >= number_format.smallest_normal and size.max() <= number_format.largest):
        _round_the_rest(number_format, x, size, result)
    return result


def _round_the_rest(number_format: FloatFormat, x: np.ndarray, size: np.ndarray, result: np.ndarray) -> None:
    """Subnormal numbers, those beyond the largest, and NaN: rounded in place."""
    small = (size < number_format.smallest_normal) & (size > 0)
    if small.any():
        # Adding 1.5 2^52 last places leaves a number whose last place is the format's.
        anchor = 1.5 * 2.0**52 * number_format.smallest_subnormal
        np.copyto(result, np.copysign((x + anchor) - anchor, x), where=small)
    large = ~(size <= number_format.largest)
    if large.any():
        beyond = np.nan if number_format.name == "float8_e4m3fn" else np.inf
        over = np.where(np.abs(result[large]) > number_format.largest, np.copysign(beyond, x[large]), result[large])
        result[large] = np.where(np.isnan(x[large]), np.nan, over)


@functools.lru_cache(maxsize=4096)
def constant_error(number_format: FloatFormat, x: float) -> float:
    """How far a constant is from the nearest number of the format; 0 for an infinite one."""
    with np.errstate(all="ignore"):
        distance = abs(float(round_to(number_format, x)) - x)
    return 0.0 if np.isinf(x) else distance
