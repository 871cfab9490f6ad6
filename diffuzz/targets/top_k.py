"""The k largest logits of a row and their places. Of equal logits any may be taken, in any order."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor
from diffuzz.targets.parameter import Parameter

lax = lazily("jax.lax")

K = Parameter("k", 4, "how many are taken", low=1, high=1024)


@operation(
    logits=tensor("b n", kind="logits", max_abs=120, minus_infinity=True),
    sizes={"n": ("k", 2**18 + 1)},
    parameters=(K,),
    result="values[b, k], indices[b, k]",
)
def top_k(logits: AnyArray, *, k: int = 4) -> tuple[AnyArray, AnyArray]:
    """The k largest logits of each row, largest first, and their indices."""
    values, indices = lax.top_k(logits, k)
    return values, indices


TARGET = top_k
