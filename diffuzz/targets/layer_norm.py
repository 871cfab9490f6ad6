"""LayerNorm with gain and bias.

Two passes subtract the mean before the squares are summed, and Welford's recurrence is as good. A kernel that computes
the variance as E[x^2] - E[x]^2 in one pass, as Flax does by default (``use_fast_variance``), loses its digits where the
mean is large. ``policy=one-pass`` judges it by what it can keep.
"""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor
from diffuzz.targets.parameter import Parameter

jnp = lazily("jax.numpy")

POLICY = Parameter(
    "policy",
    "two-pass",
    "two-pass: the mean is subtracted before squares are summed | one-pass: the variance is E[x^2] - E[x]^2",
    choices=("two-pass", "one-pass"),
)


def in_one_pass(
    x: AnyArray, gain: AnyArray, bias: AnyArray, *, eps: float | AnyArray = 1e-5, policy: str = "two-pass"
) -> AnyArray:
    """With the variance as E[x^2] - E[x]^2, but not below 0, where the policy allows it."""
    if policy == "two-pass":
        return layer_norm.function(x, gain, bias, eps=eps)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.maximum(jnp.mean(x**2, axis=-1, keepdims=True) - mean**2, 0.0)
    return (x - mean) / jnp.sqrt(variance + eps) * gain + bias


@operation(
    x=tensor("b n", max_abs=1e4),
    gain=tensor("n", max_abs=4),
    bias=tensor("n", max_abs=4),
    varied=("eps",),
    parameters=(Parameter("eps", 1e-5, "number added to the variance", low=1e-12, high=1.0), POLICY),
    reference_only=("policy",),
    forms=(in_one_pass,),
    sizes={"n": (1, 2**16 + 1)},
    result="y[b, n]",
)
def layer_norm(
    x: AnyArray, gain: AnyArray, bias: AnyArray, *, eps: float | AnyArray = 1e-5, policy: str = "two-pass"
) -> AnyArray:
    """LayerNorm: (x - mean) / sqrt(variance + eps) gain + bias."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + eps) * gain + bias


TARGET = layer_norm
