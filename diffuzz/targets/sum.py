"""The sum of a row, in any order."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor

jnp = lazily("jax.numpy")


@operation(x=tensor("b n", max_abs=1e4), sizes={"n": (1, 2**16 + 1)}, result="y[b]")
def sum(x: AnyArray) -> AnyArray:
    """The sum of each row."""
    return jnp.sum(x, axis=-1)


TARGET = sum
