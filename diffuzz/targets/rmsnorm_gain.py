"""RMSNorm with a gain, as a model applies it."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor
from diffuzz.targets.parameter import Parameter

jnp = lazily("jax.numpy")

EPS = Parameter("eps", 1e-6, "number added to the mean square", low=1e-12, high=1.0)


@operation(
    x=tensor("b n", max_abs=1e4),
    gain=tensor("n", max_abs=4),
    varied=("eps",),
    parameters=(EPS,),
    sizes={"n": (1, 2**16 + 1)},
    result="y[b, n]",
)
def rmsnorm_gain(x: AnyArray, gain: AnyArray, *, eps: float | AnyArray = 1e-6) -> AnyArray:
    """RMSNorm with a gain: x / sqrt(mean(x^2) + eps) gain."""
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps) * gain


TARGET = rmsnorm_gain
