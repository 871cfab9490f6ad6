"""The gate of a mixture of experts: the k experts of each token, and their weights.

Models differ in whether the k probabilities are divided by their sum (Mixtral, Qwen 3 MoE) or not (Qwen 2 MoE, OLMoE):
``renormalise``. Of equal logits any may be taken.
"""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets import top_k
from diffuzz.targets.operation import lazily, operation, tensor

jnp, lax, jax_nn = lazily("jax.numpy"), lazily("jax.lax"), lazily("jax.nn")


def chosen_first(logits: AnyArray, *, k: int = 4, renormalise: bool = True) -> tuple[AnyArray, AnyArray]:
    """The k largest logits first, and then their softmax, or their share of the softmax of all."""
    largest, indices = lax.top_k(logits, k)
    if renormalise:
        return jax_nn.softmax(largest), indices
    return jnp.exp(largest - jax_nn.logsumexp(logits, axis=-1, keepdims=True)), indices


@operation(
    logits=tensor("b n", kind="logits", max_abs=60, minus_infinity=True),
    sizes={"n": ("k", 513)},
    parameters=(top_k.K,),
    forms=(chosen_first,),
    result="weights[b, k], indices[b, k]",
)
def moe_gate(logits: AnyArray, *, k: int = 4, renormalise: bool = True) -> tuple[AnyArray, AnyArray]:
    """The k largest of softmax(logits), divided by their sum if ``renormalise``, and their indices."""
    weights, indices = lax.top_k(jax_nn.softmax(logits), k)
    return (weights / jnp.sum(weights, axis=-1, keepdims=True) if renormalise else weights), indices


TARGET = moe_gate
