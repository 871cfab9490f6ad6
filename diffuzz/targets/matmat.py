"""A matrix of quantised weights times several tokens.

Engines differ in whether they quantise the tokens, too. ``activation`` says so: ``none`` keeps them as they are, q8_0
and q8_K round them to 8 bits in blocks of 32 or 256 by the largest magnitude of a block, of which 127 steps are made.
A number in the middle of two steps may be rounded to either.
"""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor
from diffuzz.targets.parameter import Parameter

jnp = lazily("jax.numpy")

_BLOCKS = {"q8_0": 32, "q8_K": 256}
ACTIVATION = Parameter(
    "activation",
    "none",
    "none: tokens are not quantised | q8_0: to 8 bits in blocks of 32 with an f16 scale | q8_K: in blocks of 256",
    choices=("none", *_BLOCKS),
)


def quantised(x: AnyArray, activation: str) -> AnyArray:
    """The numbers that the codes and scales of ``x`` stand for."""
    blocks = x.reshape(*x.shape[:-1], -1, _BLOCKS[activation])
    peak = jnp.max(jnp.abs(blocks), axis=-1, keepdims=True)
    step = jnp.where(peak == 0, 1.0, peak) / 127
    stored = step.astype(jnp.float16).astype(step.dtype) if activation == "q8_0" else step
    return (jnp.round(blocks / step) * stored).reshape(x.shape)


def with_offsets(weights: AnyArray, x: AnyArray, *, activation: str = "none") -> AnyArray:
    """Codes count from 0 on, and the sum of their offsets is subtracted at the end."""
    # A weight comes with the error of three roundings of its terms, code and offset. The sums of k of them have k / 3
    # times that, which is what adding and subtracting a sixth of k weights comes to.
    apart = weights.shape[-1] / 6 * weights
    return matmat.function(weights + apart - apart, x, activation=activation)


@operation(
    weights=tensor("m k", format="q4_K"),
    x=tensor("t k", max_abs=1e3),
    sizes={"m": (1, 1025), "k": (1, 8192), "t": (1, 1025)},
    usual={"m": 9, "t": 5},
    parameters=(ACTIVATION,),
    reference_only=("activation",),
    forms=(with_offsets,),
    result="y[t, m]",
)
def matmat(weights: AnyArray, x: AnyArray, *, activation: str = "none") -> AnyArray:
    """Quantised weights times tokens."""
    return jnp.matmul(x if activation == "none" else quantised(x, activation), weights.T)


TARGET = matmat
