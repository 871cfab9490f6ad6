"""The logarithm of softmax, as a loss or a sampler uses it. A row that is -inf throughout has no right result."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor

jnp = lazily("jax.numpy")


def by_logsumexp(z: AnyArray) -> AnyArray:
    """``z - (max + log(sum))``: the maximum is rounded into the logarithm of the sum before it is subtracted."""
    largest = jnp.max(z, axis=-1, keepdims=True)
    return z - (largest + jnp.log(jnp.sum(jnp.exp(z - largest), axis=-1, keepdims=True)))


@operation(
    z=tensor("b n", kind="logits", max_abs=1e4, minus_infinity=True),
    forms=(by_logsumexp,),
    sizes={"n": (1, 2**18 + 1)},
    result="y[b, n]",
)
def log_softmax(z: AnyArray) -> AnyArray:
    """Log-softmax: z - log(sum(exp(z)))."""
    below = z - jnp.max(z, axis=-1, keepdims=True)
    return below - jnp.log(jnp.sum(jnp.exp(below), axis=-1, keepdims=True))


TARGET = log_softmax
