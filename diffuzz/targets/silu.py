"""SiLU, also called swish.

The sigmoid keeps its relative accuracy in the negative tail. Kernels that compute it by a tangent give that up: their
sigmoid cancels there. ``policy=tanh`` judges them by what they can keep.
"""

from __future__ import annotations

import math

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor
from diffuzz.targets.parameter import Parameter

jnp, jax_nn = lazily("jax.numpy"), lazily("jax.nn")

POLICY = Parameter(
    "policy",
    "exact",
    "exact: accurate in the negative tail | tanh: by a sigmoid that cancels there, (1 + tanh(x / 2)) / 2",
    choices=("exact", "tanh"),
)


def by_tangent(x: AnyArray, *, policy: str = "exact") -> AnyArray:
    """By a tangent, where the policy allows it."""
    return x * (1 + jnp.tanh(x / 2)) / 2 if policy == "tanh" else silu.function(x)


def in_base_two(x: AnyArray, *, policy: str = "exact") -> AnyArray:
    """By ``e = 2^(-|x| log2 e)``, whose exponent is rounded."""
    e = jnp.exp2(-jnp.abs(x) * math.log2(math.e))
    return x * (jnp.where(x < 0, e, 1.0) / (1 + e))


@operation(
    x=tensor("b n", max_abs=1e4),
    parameters=(POLICY,),
    reference_only=("policy",),
    forms=(in_base_two, by_tangent),
    sizes={"n": (1, 2**16 + 1)},
    result="y[b, n]",
)
def silu(x: AnyArray, *, policy: str = "exact") -> AnyArray:
    """SiLU: x / (1 + exp(-x))."""
    return x * jax_nn.sigmoid(x)


TARGET = silu
