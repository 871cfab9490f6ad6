"""Keras, computed by JAX."""

import os

os.environ["KERAS_BACKEND"] = "jax"
import keras  # after the variable, which is read when it loads
import numpy as np


def soft_max(z):
    return np.asarray(keras.ops.softmax(z, axis=-1))


def rms_norm(x, eps):
    return np.asarray(keras.ops.rms_normalization(x, epsilon=eps))


def swiglu(gate, up):
    return np.asarray(keras.ops.silu(gate) * up)
