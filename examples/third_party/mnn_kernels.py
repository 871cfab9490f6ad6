"""MNN's expressions on the CPU."""

import MNN.expr as F  # noqa: N812  the name that MNN's documentation uses
import numpy as np


def soft_max(z):
    return np.array(F.softmax(F.const(z, list(z.shape), F.NCHW), -1).read(), np.float32).reshape(z.shape)


def swiglu(gate, up):
    sigmoid = F.sigmoid(F.const(gate, list(gate.shape), F.NCHW)).read()
    return gate * np.array(sigmoid, np.float32).reshape(gate.shape) * up
