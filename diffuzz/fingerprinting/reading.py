"""Reading: how the summands of an operation are chosen, and how their sum is read from its result.

    sum, cumsum             x are the summands; the result is their sum, the last one of a cumulative sum
    matmul, batched_matmul  a row of a are the summands, or factors of them, and a column of b the other factors
    matvec                  x, with weights of 1; where x is quantised, see diffuzz.fingerprinting.blocks
    mean_square, rmsnorm    squares of x, whose sum is read from the mean, or from the elements that it divides
    softmax                 exponentials of z, whose sum is read from the quotient of the largest

Several sums are made by one call: rows of a case, of which only those are used that are added up in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.fingerprinting.box import Box, BoxError
from diffuzz.targets import matvec

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

_SEED = 1
# The logit of a summand of 0, beside a largest one of 0: in float32, its exponential is 0.
_NOTHING = -120.0


@attrs.frozen
class Sizes:
    """How large the calls are: summands, rows of a case, and columns of the second matrix."""

    n: int
    rows: int
    columns: int = 1


@attrs.frozen
class Reader:
    """The sums of an operation, one for each row of what it is given.

    sizes     summands of a sum, and rows of one call
    positive  whether summands have to be positive, as squares and exponentials are
    products  whether summands are products of two factors, of which the second is the same for all rows of a call
    excess    what a result says of a sum of positive numbers near 1: about how much it is above 1
    factor    a second factor whose products with float32 numbers are not float32 numbers; 1 if there is none
    free      whether second factors may be any numbers, and not only 1 and ``factor``
    """

    sizes: Sizes
    positive: bool
    products: bool
    _read: Callable[[Float64[np.ndarray, "cases rows n"], Float64[np.ndarray, " n"]], Float64[np.ndarray, "cases rows"]]
    factor: float = 1.0
    free: bool = False
    excess: Callable[[Float64[np.ndarray, " q"]], Float64[np.ndarray, " q"]] = lambda results: results - 1
    used: Bool[np.ndarray, " rows"] = attrs.field()

    @used.default
    def _all(self) -> Bool[np.ndarray, " rows"]:
        return np.ones(self.sizes.rows, bool)

    def __call__(
        self, x: Float64[np.ndarray, "q n"], y: Float64[np.ndarray, " n"] | None = None
    ) -> Float64[np.ndarray, " q"]:
        """The sum of each row, or of its products with y."""
        y = np.ones(self.sizes.n) if y is None else y
        rows, places = self.sizes.rows, np.flatnonzero(self.used)
        cases = -(-len(x) // len(places))
        missing = cases * len(places) - len(x)
        if missing:
            # Rows that are not asked for are like one that is.
            x = np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
        given = x.reshape(cases, len(places), -1)
        if len(places) < rows:
            whole = np.repeat(given[:, :1], rows, axis=1)
            whole[:, places] = given
            given = whole
        return self._read(given, y)[:, places].reshape(-1)[: len(x) - missing]


def reader(box: Box, sizes: Sizes) -> Reader:
    """The reader of a box. Raises BoxError for an operation that is no sum, and for one that returns no numbers."""
    if box.target.name not in _READERS:
        raise BoxError(
            f"target {box.target.name} is no sum that can be read: {', '.join((*_READERS, 'silu'))} have fingerprints"
        )
    made = _READERS[box.target.name](box, sizes)
    return attrs.evolve(made, used=_like_the_first(made))


def _like_the_first(made: Reader) -> Bool[np.ndarray, " rows"]:
    """The rows of a case that are added up as the first one: those with its bits, if all have the same summands.

    Raises BoxError if two calls with the same numbers give different results.
    """
    rng = np.random.default_rng(_SEED)
    x = rng.standard_normal((4, made.sizes.n)) * 2.0 ** rng.integers(-6, 7, (4, made.sizes.n))
    x = (np.abs(x) if made.positive else x).astype(np.float32).astype(np.float64)
    if made.positive:
        x /= x.max(axis=1, keepdims=True)
    given = np.repeat(x[:, None], made.sizes.rows, axis=1)
    once, again = (made._read(given, np.ones(made.sizes.n)) for _ in range(2))
    if not np.isfinite(once).all():
        raise BoxError("its result of ordinary numbers is not finite, so there is no fingerprint")
    if not np.array_equal(once, again):
        raise UnsteadyError("none: two calls with the same numbers differ")
    return np.asarray((once == once[:, :1]).all(axis=0))


class UnsteadyError(BoxError):
    """An implementation whose result is not the same each time; one line."""


def _sum(box: Box, sizes: Sizes) -> Reader:
    last = box.target.name == "cumsum"

    def read(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        got = box({"x": np.asarray(x, np.float32)}).reshape(*x.shape[:2], -1)
        return got[:, :, -1] if last else got[:, :, 0]

    return Reader(sizes, False, False, read)


def _matmul(box: Box, sizes: Sizes) -> Reader:
    batched = box.target.name == "batched_matmul"

    def read(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        b = np.broadcast_to(y[:, None].astype(np.float32), (len(x), sizes.n, sizes.columns))
        a = np.asarray(x, np.float32)
        arrays = {"a": a[:, None], "b": np.array(b)[:, None]} if batched else {"a": a, "b": np.array(b)}
        return box(arrays).reshape(len(x), sizes.rows, sizes.columns)[:, :, 0]

    return Reader(sizes, False, True, read, factor=1 + 2.0**-13, free=True)


def _matvec(box: Box, sizes: Sizes) -> Reader:
    """Rows of weights of one number each: it is x that has the summands, so each case is one sum."""
    fmt = formats.get(str(box.params["format"]))
    if box.params["arithmetic"] != "apr" and matvec.partner(box.params) in matvec.CODES:
        raise BoxError("x is quantised")
    if sizes.n % fmt.block_size:
        raise BoxError(f"n={sizes.n}: a multiple of {fmt.block_size}, the block of {fmt.name}, is needed")
    # A small whole number, for products with which a float32 number has no bits left; f16 and bf16 have too few.
    factor = 1.0 if fmt.name in matvec.FLOATS else float(_largest_code(fmt))

    def read(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        cases = x.reshape(-1, sizes.n)
        weights = _weights(fmt, y)
        arrays = {"weights": np.repeat(weights[None, None], len(cases), axis=0), "x": np.asarray(cases, np.float32)}
        return box(arrays).reshape(*x.shape[:2], -1)[:, :, 0]

    return Reader(sizes, False, True, read, factor=factor)


def _largest_code(fmt: formats.Format) -> int:
    return next(code for code in (127, 7, 3, 1) if _has(fmt, code))


def _has(fmt: formats.Format, code: int) -> bool:
    try:
        _weights(fmt, np.full(fmt.block_size, float(code)))
    except ValueError:
        return False
    return True


def _weights(fmt: formats.Format, y: Float64[np.ndarray, " n"]) -> np.ndarray:
    """One row of weights that are these whole numbers. Raises BoxError if the format cannot store them."""
    if fmt.name in matvec.FLOATS:
        if fmt.quantize is None:
            raise BoxError(f"weights of {fmt.name} have no quantiser")
        row = fmt.quantize(y.reshape(-1, fmt.block_size).astype(np.float32))
    elif fmt.name in matvec.WEIGHT_FORMATS and fmt.half_fields and fmt.name != "iq4_nl":
        zero, _, one, empty = matvec.plain_codes(fmt.name)
        fields = {name: np.repeat(values, len(y) // fmt.block_size, axis=0) for name, values in empty.items()}
        fields["d"][:] = 1
        if "scales" in fields:
            fields["scales"][:] = one
        fields["codes"][:] = zero + y.reshape(fields["codes"].shape).astype(int)
        row = fmt.pack(fields).view(np.uint8)
    else:
        raise BoxError(f"format={fmt.name}: weights of 0 and 1 with a float16 scale are needed for a fingerprint")
    if not np.array_equal(fmt.dequantize(row.reshape(-1, fmt.type_size)).reshape(-1), y.astype(np.float32)):
        raise BoxError(f"weights of {fmt.name} cannot be these numbers")
    return np.ascontiguousarray(row).reshape(-1)


def _mean_square(box: Box, sizes: Sizes) -> Reader:
    def read(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return box({"x": np.sqrt(x).astype(np.float32)}).reshape(x.shape[:2])

    return Reader(sizes, True, False, read, excess=lambda results: results * sizes.n - 1)


def _rmsnorm(box: Box, sizes: Sizes) -> Reader:
    """The mean is read through an eps that takes the mean of a largest square of 1 away."""

    def read(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        given = np.sqrt(x).astype(np.float32).reshape(-1, sizes.n)
        zeros = np.zeros((len(given), 1), np.int32)
        got = box({"x": given, "eps_exponent": zeros}, eps=-1.0 / sizes.n).reshape(len(given), -1)
        return np.asarray(got[np.arange(len(given)), given.argmax(axis=1)].reshape(x.shape[:2]))

    return Reader(sizes, True, False, read, excess=lambda results: _over(sizes.n, results**2))


def _over(number: float, results: np.ndarray) -> np.ndarray:
    """A number over results, which may be 0 of a function that is wrong."""
    with np.errstate(all="ignore"):
        return np.asarray(number / results)


def _softmax(box: Box, sizes: Sizes) -> Reader:
    if sizes.n == 1:
        raise BoxError("n=1: the softmax of one logit is 1, which shows nothing; at least 2 are needed")

    def read(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        z: np.ndarray = np.full(x.shape, _NOTHING, np.float32)
        some = x > 0
        z[some] = np.maximum(np.log(x[some]), _NOTHING)
        z = z.reshape(-1, sizes.n)
        got = box({"z": z}).reshape(len(z), -1)
        return np.asarray(got[np.arange(len(z)), z.argmax(axis=1)].reshape(x.shape[:2]))

    return Reader(sizes, True, False, read, excess=lambda results: _over(1, results) - 1)


_READERS: dict[str, Callable[[Box, Sizes], Reader]] = {
    "sum": _sum,
    "cumsum": _sum,
    "matmul": _matmul,
    "batched_matmul": _matmul,
    "matvec": _matvec,
    "mean_square": _mean_square,
    "rmsnorm": _rmsnorm,
    "softmax": _softmax,
}
NAMES = tuple(_READERS)


def inexact(factor: float) -> tuple[float, float]:
    """A float32 number whose product with ``factor`` is no float32 number, and that product rounded to one."""
    for step in range(1, 4096):
        x = 1 + step * 2.0**-23
        product = x * factor
        residue = abs(product - float(np.float32(product)))
        # Neither a tie, which goes either way, nor so little that nothing is seen of it.
        if 0 < residue < 0.4 * float(np.spacing(np.float32(product))) and math.isfinite(product):
            return x, float(np.float32(product))
    raise ValueError(f"factor={factor}: no product of it is rounded")
