"""Functions of NumPy, to be asked what they keep (docs/findings.md has what they do).

python -m diffuzz search --target matmul --candidate of_numpy.py:matmul --property all
"""

import numpy as np


def soft_max(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def matmul(a, b):
    return a @ b


def cumsum(x):
    return np.cumsum(x, axis=-1)
