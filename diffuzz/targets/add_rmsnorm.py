"""A residual sum and its RMSNorm, which inference engines fuse: the sum is a result, too."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets import rmsnorm_gain
from diffuzz.targets.operation import operation, tensor


@operation(
    x=tensor("b n", max_abs=1e4),
    residual=tensor("b n", max_abs=1e4),
    gain=tensor("n", max_abs=4),
    varied=("eps",),
    parameters=(rmsnorm_gain.EPS,),
    sizes={"n": (1, 2**16 + 1)},
    result="y[b, n], sum[b, n]",
)
def add_rmsnorm(
    x: AnyArray, residual: AnyArray, gain: AnyArray, *, eps: float | AnyArray = 1e-6
) -> tuple[AnyArray, AnyArray]:
    """RMSNorm of x + residual with a gain, and the sum itself."""
    total = x + residual
    return rmsnorm_gain.TARGET.function(total, gain, eps=eps), total


TARGET = add_rmsnorm
