"""Thinc's operations on NumPy arrays."""

import numpy as np
from thinc.api import NumpyOps

OPS = NumpyOps()


def soft_max(z):
    return OPS.softmax(z)


def soft_max_of_sequences(z):
    lengths = np.full(len(z), z.shape[1], np.int32)
    return OPS.softmax_sequences(z.reshape(-1, 1), lengths).reshape(z.shape)


def swiglu(gate, up):
    return OPS.swish(gate) * up
