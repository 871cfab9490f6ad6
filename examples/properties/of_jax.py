"""Functions of JAX, to be asked what they keep (docs/findings.md has what they do).

python -m diffuzz search --target softmax --candidate of_jax.py:soft_max --property all
"""

import jax
import jax.numpy as jnp
import numpy as np

_softmax, _matmul = jax.jit(jax.nn.softmax), jax.jit(jnp.matmul)


def soft_max(z):
    return np.asarray(_softmax(z))


def matmul(a, b):
    return np.asarray(_matmul(a, b))
