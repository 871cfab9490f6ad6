r"""Dequantisation: do two implementations of one block format ever give different bits?

Published (FFN-GGUF-007): byte-identical on one block of Q4_K, so FALSIFIED. Measure: number of elements whose bits
differ, between the dequantiser of the APR path (``diffuzz.kernels.apr``: float32, element by element, in the order of
its loops) and ``Format.dequantize`` (whole arrays, bit-exact with ggml).

**Limit 0.** A weight is d sc q - dmin m (or the fewer of these factors that the format has). An f16 scale has 11
significant bits, sc at most 7, q at most 7 (q8_0: no sc, and 8), a product of them at most 24: it is exact in
float32, whatever the order of the factors. So is dmin m. Only the difference is rounded, once, and it is rounded
alike whether the product was stored or fused into it: the result is the float32 number nearest to the exact weight.
For q8_K, with a float32 scale, that is the one product d q; for mxfp4, whose scale is a power of two down to 2^-128,
d q is exact among the subnormal numbers too. The magnitudes (2^-24 to 65504 * 127 * 127) neither
overflow nor underflow. So any two dequantisers that evaluate the formula in float32 agree to the bit on every block
with finite scales; the search only checks that the two programs do.

**A candidate** must give these values: the result of a block is fixed. (Zeros of either sign count as equal.) It is
called with every scale that its format holds: in q8_K all finite float32 numbers, in mxfp4 all bytes. Nothing is
promised of an element beyond the float32 range, and the byte 255 of mxfp4, a power of two in ggml and NaN in OCP's
standard, may be either, for each element.
"""

from __future__ import annotations

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.formats import mxfp4
from diffuzz.kernels import apr
from diffuzz.measure import ulp_distance
from diffuzz.space import Dim, Space, TensorSpec
from diffuzz.target import Arrays, Bound, Contract, Drift, Outcome, Parameter, Params, Target

LARGEST = float(np.finfo(np.float32).max)
PARAMETERS = (Parameter("format", "q4_K", "block format", choices=formats.names()),)


def space(p: Params) -> Space:
    """One block, with finite scales."""
    size = Dim("n", formats.get(p["format"]).block_size, fixed=True)
    return Space((TensorSpec("blocks", kind="blocks", shape=(size,), format=p["format"]),))


def candidate_space(p: Params) -> Space:
    """One block with any scale: up to the largest float32 number where scales are no f16 numbers."""
    fmt, blocks = formats.get(p["format"]), space(p)["blocks"]
    return Space((blocks if fmt.half_fields else attrs.evolve(blocks, largest_scale=LARGEST),))


def accepts(p: Params, arrays: Arrays, result: np.ndarray) -> np.ndarray:
    """bool[b, block_size]: elements that are right, or of which nothing is promised."""
    wanted = formats.get(p["format"]).dequantize(arrays["blocks"])
    right = (result == wanted) | np.isinf(wanted)
    if p["format"] == "mxfp4":
        right |= np.isnan(result) & (arrays["blocks"][:, :1] == mxfp4.NAN)
    return np.asarray(right)


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """Elements that differ, and the largest ULP distance."""
    one, other = apr.dequantize(p["format"], arrays["blocks"]), formats.get(p["format"]).dequantize(arrays["blocks"])
    differ = (one.view(np.uint32) != other.view(np.uint32)).sum(axis=1).astype(np.float64)
    return Outcome(
        differ, np.zeros(len(differ)), {"largest ulp": ulp_distance(one, other).max(axis=1).astype(np.float64)}
    )


def _kernels(p: Params) -> tuple[str, ...]:
    # Nobody multiplies weights of the activation formats, so not everybody can restore them.
    others = ("gguf-py", "libggml") if formats.get(p["format"]).activation else ()
    return ("ggml", "apr", "exact", "xla", *others)


TARGET = Target(
    name="dequantize",
    summary="two dequantisers of a block format, bit for bit",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate),
    measure=lambda p: "elements whose bits differ",
    bound=lambda p: Bound(0.0, "all products are exact in float32, and one rounding is left: the result is unique"),
    claim="the two dequantisers differ",
    limit=lambda p: 0.0,
    contract=Contract(
        signature="f(blocks: uint8[b, type_size]) -> float32[b, block_size]",
        call=lambda p, f, arrays: f(arrays["blocks"]),
        run=lambda p, arrays, kernels: kernels.dequantize(p["format"], arrays["blocks"]).astype(np.float32),
        kernels=_kernels,
        accepts=accepts,
        space=candidate_space,
    ),
)
