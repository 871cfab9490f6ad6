"""The mean of squares of a row: the reduction inside of RMSNorm."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor

jnp = lazily("jax.numpy")


def divided_first(x: AnyArray) -> AnyArray:
    """Each square divided by n before the sum: it differs where quotients underflow."""
    return jnp.sum(x**2 / x.shape[-1], axis=-1)


@operation(x=tensor("b n", max_abs=1e4), forms=(divided_first,), sizes={"n": (1, 2**16 + 1)}, result="y[b]")
def mean_square(x: AnyArray) -> AnyArray:
    """The mean of the squares of each row."""
    return jnp.mean(x**2, axis=-1)


TARGET = mean_square
