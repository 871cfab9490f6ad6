"""Rows of a table, by their numbers. The result is exact."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor

jnp = lazily("jax.numpy")


@operation(
    table=tensor("v d", max_abs=1e4),
    ids=tensor("b", below="v"),
    sizes={"v": (1, 2**17 + 1), "d": (1, 4097)},
    result="y[b, d]",
)
def embedding(table: AnyArray, ids: AnyArray) -> AnyArray:
    """Rows of a table, by their numbers."""
    return jnp.take(table, ids, axis=0)


TARGET = embedding
