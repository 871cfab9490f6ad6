r"""Dequantisation: do two implementations of one block format ever give different bits?

Published (FFN-GGUF-007): byte-identical on one block of Q4_K, so FALSIFIED. The measure is the number of elements
whose bits differ between the dequantiser of the APR path (``diffuzz.kernels.apr``: float32, element by element, in the
order of its loops) and ``Format.dequantize`` (whole arrays, bit-exact with ggml).

**Bound 0.** A weight is d sc q - dmin m, or has fewer of these factors. An f16 scale has 11 significant bits, sc has at
most 7, and q at most 7 (q8_0 has no sc, and 8 bits in q), so their product has at most 24. It is exact in float32,
whatever the order of the factors, and so is dmin m. Only the difference is rounded, once, with the same result whether
the product was stored or fused into it: the result is the float32 number nearest to the exact weight. For q8_K, whose
scale is float32, the one rounded operation is the product d q. For mxfp4, whose scale is a power of two down to 2^-128,
d q is exact among the subnormal numbers too. f16 and bf16 are numbers already; the products of the iq formats have at
most 24 bits, like those of the K formats, and those of nvfp4 fewer. fp8 and nf4 have a float32 scale and one product,
which is rounded, as in q8_K. The magnitudes (2^-24 to 65504 * 127 * 127) neither overflow nor underflow. So any two
dequantisers that evaluate the formula in float32 agree to the bit on every block with finite scales. The search only
checks that these two programs do.

In nvfp4_two_level d is float32 and there are two products, so two orders of multiplication may differ: nothing is
proven, and a candidate may be off by two roundings. A format from elsewhere (see :mod:`diffuzz.registry`) is restored
by the same two formulas, but nothing is proven of its products.

**A candidate** must give these values, because the result of a block is fixed. (Zeros of either sign count as equal.)
It is called with every scale that its format can hold: all finite float32 numbers in q8_K, all bytes in mxfp4; but not
with bytes that no quantiser writes, such as a float8 code that is NaN. Nothing is promised for an element beyond the
float32 range. The byte 255 of mxfp4 is a power of two in ggml and NaN in the standard of OCP; each element may be
either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases.ranges import held, largest_of
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.formats import mxfp4
from diffuzz.kernels import apr, exact
from diffuzz.targets import derived
from diffuzz.targets.contract import Contract
from diffuzz.targets.distances import ulp_distance
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Parameter, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64

LARGEST = float(np.finfo(np.float32).max)
# Formats whose value depends on the order of two products, and the distance of two results: two roundings each, or of a
# product among the subnormal numbers that is then multiplied by 6 at most, or by 448 and 6 halves.
ORDERED = ("nvfp4_two_level",)
TWO_ROUNDINGS, UNDERFLOW = 4 * 2.0**-24, 2.0**-149 * 448
PARAMETERS = (Parameter("format", "q4_K", "block format", choices=formats.names, accepts=formats.REGISTRY.known),)
CONTRACT_PARAMETERS = (*PARAMETERS, derived.HELD_BY_FLOAT32[0])


def space(p: Params) -> Space:
    """One block, with finite scales."""
    size = Dim("n", formats.get(p["format"]).block_size, fixed=True)
    return Space((TensorSpec("blocks", kind="blocks", shape=(size,), format=p["format"]),))


def candidate_space(p: Params) -> Space:
    """One block with any finite scale: up to the largest float32 number in formats whose scales are not f16."""
    fmt, blocks = formats.get(p["format"]), space(p)["blocks"]
    return Space((blocks if fmt.half_fields else attrs.evolve(blocks, largest_scale=LARGEST),))


def accepts(p: Params, arrays: Arrays, result: Float32[np.ndarray, "b block_size"]) -> Bool[np.ndarray, "b block_size"]:
    """Which elements are right, or have no promised value."""
    wanted = formats.get(p["format"]).dequantize(arrays["blocks"])
    right = (result == wanted) | ~np.isfinite(wanted)
    if p["dtype"] != "float32":
        # Rounded once more; or the exact value rounded once, where it does not fit in float32 either.
        exactly = exact.dequantize(p["format"], arrays["blocks"])
        right = ~(np.abs(exactly) <= largest_of(p["dtype"]))
        off = TWO_ROUNDINGS * np.abs(exactly) + UNDERFLOW if p["format"] in ORDERED else 0.0
        for value in (wanted, exactly, exactly - off, exactly + off):
            right |= result == held(p["dtype"], np.nan_to_num(value).astype(np.float64))
    if p["format"] in ORDERED:
        error = np.abs(result.astype(np.float64) - wanted)
        right |= error <= TWO_ROUNDINGS * np.abs(wanted.astype(np.float64)) + UNDERFLOW
    if p["format"] == "mxfp4":
        right |= np.isnan(result) & (arrays["blocks"][:, :1] == mxfp4.NAN)
    return np.asarray(right)


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """The number of elements whose bits differ; it has no noise."""
    one, other = apr.dequantize(p["format"], arrays["blocks"]), formats.get(p["format"]).dequantize(arrays["blocks"])
    differ = (one.view(np.uint32) != other.view(np.uint32)).sum(axis=1).astype(np.float64)
    return Outcome(differ, np.zeros(len(differ)))


def explain(p: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The largest distance of two results in ULP."""
    one, other = apr.dequantize(p["format"], arrays["blocks"]), formats.get(p["format"]).dequantize(arrays["blocks"])
    return {"largest ulp": ulp_distance(one, other).max(axis=1).astype(np.float64)}


def bound(p: Params) -> Bound | None:
    """The bound derived above, for the formats here."""
    if not formats.REGISTRY.is_built_in(p["format"]) or p["format"] in ORDERED:
        return None
    return Bound(0.0, "all products are exact in float32, and one rounding is left: the result is unique")


def _kernels(p: Params) -> tuple[str, ...]:
    if not formats.of_ggml(p["format"]):
        return ("apr", "exact", "xla")
    # Nobody multiplies weights of the activation formats, so not everybody can restore them.
    others = ("gguf-py", "libggml") if formats.get(p["format"]).activation else ()
    return ("ggml", "apr", "exact", "xla", *others)


TARGET = Target(
    name="dequantize",
    summary="two dequantisers of a block format, bit for bit",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, explain=explain),
    measure=lambda p: "elements whose bits differ",
    bound=bound,
    claim="the two dequantisers differ",
    threshold=lambda p: 0.0,
    contract=Contract(
        signature="f(blocks: uint8[b, type_size]) -> dtype[b, block_size]",
        parameters=CONTRACT_PARAMETERS,
        space=candidate_space,
        call=lambda p, f, arrays: derived.narrow(p["dtype"], f)(arrays["blocks"]),
        run=lambda p, arrays, kernels: held(
            p["dtype"], kernels.dequantize(p["format"], arrays["blocks"]).astype(np.float32)
        ),
        kernels=_kernels,
        accepts=accepts,
    ),
)
