"""ONNX Runtime on the CPU: one node in a model, called with NumPy arrays."""

from functools import cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper


@cache
def _session(op, inputs, domain, opset, attributes=(), types=()):
    kinds = dict(types)
    node = helper.make_node(op, list(inputs), ["y"], domain=domain, **dict(attributes))
    given = [helper.make_tensor_value_info(i, kinds.get(i, TensorProto.FLOAT), None) for i in inputs if i]
    made = helper.make_tensor_value_info("y", kinds.get("y", TensorProto.FLOAT), None)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", given, [made]), opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def soft_max(z):
    return _session("Softmax", ("z",), "", 13).run(None, {"z": z})[0]


def rms_norm(x, eps):
    session = _session("SimplifiedLayerNormalization", ("x", "w"), "", 13, (("epsilon", eps),))
    return session.run(None, {"x": x, "w": np.ones(x.shape[-1], np.float32)})[0]


def swiglu(gate, up):  # QuickGelu with alpha 1 is SiLU
    return _session("QuickGelu", ("x",), "com.microsoft", 13, (("alpha", 1.0),)).run(None, {"x": gate})[0] * up


def swiglu_sigmoid(gate, up):
    return gate * _session("Sigmoid", ("x",), "", 13).run(None, {"x": gate})[0] * up


def _matvec(bits, codes, scales, x, accuracy):
    k = x.size
    attributes = (("K", k), ("N", len(codes)), ("bits", bits), ("block_size", 32), ("accuracy_level", accuracy))
    types = (("b", TensorProto.UINT8),)
    session = _session("MatMulNBits", ("x", "b", "s"), "com.microsoft", 13, attributes, types)
    b = codes.reshape(len(codes), k // 32, -1)
    return session.run(None, {"x": x[None], "b": b, "s": scales.astype(np.float32).reshape(-1)})[0][0]


def _matvec_q4_0(weights, x, accuracy):
    blocks = weights.reshape(len(weights), -1, 18)
    # ggml puts weights i and i + 16 into a byte, ONNX Runtime 2i and 2i + 1; both store the code plus 8.
    codes = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1)
    packed = codes[..., 0::2] | codes[..., 1::2] << 4
    return _matvec(4, packed, np.ascontiguousarray(blocks[..., :2]).view(np.float16), x, accuracy)


def matvec_q4_0(weights, x):
    return _matvec_q4_0(weights, x, 1)


def matvec_q4_0_int8(weights, x):
    return _matvec_q4_0(weights, x, 4)


def _matvec_q8_0(weights, x, accuracy):
    blocks = weights.reshape(len(weights), -1, 34)
    codes = blocks[..., 2:] ^ 128  # int8 to the code plus 128
    return _matvec(8, codes, np.ascontiguousarray(blocks[..., :2]).view(np.float16), x, accuracy)


def matvec_q8_0(weights, x):
    return _matvec_q8_0(weights, x, 1)


def matvec_q8_0_int8(weights, x):
    return _matvec_q8_0(weights, x, 4)


def rope(x, positions, base, mode):
    b, heads, d = x.shape
    angle = positions[:, None] * base ** (-np.arange(0, d, 2) / d)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    attributes = (("interleaved", int(mode == "norm")), ("num_heads", heads))
    types = (("p", TensorProto.INT64),)
    session = _session("RotaryEmbedding", ("x", "p", "c", "s"), "com.microsoft", 13, attributes, types)
    # A row of the tables for each of the positions, which may be negative: their numbers are 0, 1, 2 and so on.
    given = {"x": x[:, :, None], "p": np.arange(b)[:, None], "c": cos, "s": sin}
    return session.run(None, given)[0][:, :, 0]
