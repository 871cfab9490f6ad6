"""onnx's reference evaluator, which defines the operators of ONNX by NumPy."""

from functools import cache

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


@cache
def _evaluator(op, inputs, attributes=()):
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs]
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(op, list(inputs), ["y"], **dict(attributes))
    opset = helper.make_opsetid("", 24)
    return ReferenceEvaluator(helper.make_model(helper.make_graph([node], "g", given, [made]), opset_imports=[opset]))


def soft_max(z):
    return _evaluator("Softmax", ("x",)).run(None, {"x": z})[0]


def rms_norm(x, eps):
    given = {"x": x, "w": np.ones(x.shape[-1], np.float32)}
    return _evaluator("RMSNormalization", ("x", "w"), (("axis", -1), ("epsilon", eps))).run(None, given)[0]


def swiglu(gate, up):
    return _evaluator("Swish", ("x",)).run(None, {"x": gate})[0] * up


def rope(x, positions, base, mode):
    angle = positions[:, None, None] * base ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1])  # [b, one token, pairs]
    given = {"x": x[:, :, None], "c": np.cos(angle).astype(np.float32), "s": np.sin(angle).astype(np.float32)}
    evaluator = _evaluator("RotaryEmbedding", ("x", "c", "s"), (("interleaved", int(mode == "norm")),))
    return evaluator.run(None, given)[0][:, :, 0]
