"""Products of pairs of matrices, as attention and mixtures of experts take them."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor

jnp = lazily("jax.numpy")


@operation(
    a=tensor("b m k", max_abs=1e4),
    b=tensor("b k n", max_abs=1e4),
    sizes={"m": (1, 1025), "k": (1, 4097), "n": (1, 1025)},
    usual={"b": 3, "m": 17, "k": 65, "n": 33},
    result="y[b, m, n]",
)
def batched_matmul(a: AnyArray, b: AnyArray) -> AnyArray:
    """Products of pairs of matrices, a b."""
    return jnp.matmul(a, b)


TARGET = batched_matmul
