"""Softmax of scaled logits and an additive mask: the middle of attention.

Public reports disagree about a row that is masked whole: the formula gives NaN, most models want 0
(pytorch#109517, cubecl#1070). ``masked_rows`` says which.
"""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor
from diffuzz.targets.parameter import Parameter

jnp = lazily("jax.numpy")

MASKED_ROWS = Parameter(
    "masked_rows",
    "any",
    "any: what a row gives that is masked whole is left open, the formula has NaN | zero: it must give 0",
    choices=("any", "zero"),
)


@operation(
    z=tensor("b n", kind="logits", max_abs=120),
    mask=tensor("b n", kind="logits", max_abs=2e4, minus_infinity=True),
    varied=("scale",),
    reference_only=("masked_rows",),
    parameters=(Parameter("scale", 1.0, "factor of z", low=1e-3, high=1e3), MASKED_ROWS),
    sizes={"n": (1, 2**18 + 1)},
    result="y[b, n]",
)
def masked_softmax(z: AnyArray, mask: AnyArray, *, scale: float | AnyArray = 1.0, masked_rows: str = "any") -> AnyArray:
    """Softmax of scale z + mask."""
    t = scale * z + mask
    largest = jnp.max(t, axis=-1, keepdims=True)
    if masked_rows == "zero":
        whole = largest == -jnp.inf
        e = jnp.where(whole, 0.0, jnp.exp(t - jnp.where(whole, 0.0, largest)))
        return e / jnp.where(whole, 1.0, jnp.sum(e, axis=-1, keepdims=True))
    e = jnp.exp(t - largest)
    return e / jnp.sum(e, axis=-1, keepdims=True)


TARGET = masked_softmax
