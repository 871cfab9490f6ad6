"""Prefix sums of a row, in any order: a scan in blocks is allowed."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor

jnp = lazily("jax.numpy")


@operation(x=tensor("b n", max_abs=1e4), sizes={"n": (1, 2**16 + 1)}, result="y[b, n]")
def cumsum(x: AnyArray) -> AnyArray:
    """The sums of the first 1, 2, ... n elements of each row."""
    return jnp.cumsum(x, axis=-1)


TARGET = cumsum
