"""candle's Python package. Quantised tensors go through GGUF files, the only way in and out for their bytes."""

import tempfile
from pathlib import Path

import candle
import gguf
import numpy as np


def soft_max(z):
    return np.array(candle.functional.softmax(candle.Tensor(z.tolist()), 1).values(), np.float32)


def swiglu(gate, up):
    silu = candle.functional.silu(candle.Tensor(gate.tolist()))
    return np.array((silu * candle.Tensor(up.tolist())).values(), np.float32)


def _tensor(blocks, kind):
    with tempfile.TemporaryDirectory() as folder:
        writer = gguf.GGUFWriter(Path(folder, "t.gguf"), "llama")
        writer.add_tensor("t", blocks, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return candle.utils.load_gguf(str(Path(folder, "t.gguf")))[0]["t"]


def _bytes(values, name):
    with tempfile.TemporaryDirectory() as folder:
        tensor = candle.Tensor(values.tolist()).quantize(name)
        candle.utils.save_gguf(str(Path(folder, "t.gguf")), {"t": tensor}, {})
        return gguf.GGUFReader(Path(folder, "t.gguf")).tensors[0].data.reshape(len(values), -1).copy()


def dequantize_q4_k(blocks):
    return np.array(_tensor(blocks, gguf.GGMLQuantizationType.Q4_K).dequantize().values(), np.float32)


def dequantize_q6_k(blocks):
    return np.array(_tensor(blocks, gguf.GGMLQuantizationType.Q6_K).dequantize().values(), np.float32)


def dequantize_q4_0(blocks):
    return np.array(_tensor(blocks, gguf.GGMLQuantizationType.Q4_0).dequantize().values(), np.float32)


def dequantize_q5_0(blocks):
    return np.array(_tensor(blocks, gguf.GGMLQuantizationType.Q5_0).dequantize().values(), np.float32)


def quantize_q8_0(values):
    return _bytes(values, "q8_0")


def quantize_q8_k(values):
    return _bytes(values, "q8k")


def _matvec(weights, x, kind):
    return np.array(_tensor(weights, kind).matmul_t(candle.Tensor(x[None].tolist())).values(), np.float32)[0]


def matvec_q4_0(weights, x):
    return _matvec(weights, x, gguf.GGMLQuantizationType.Q4_0)


def matvec_q8_0(weights, x):
    return _matvec(weights, x, gguf.GGMLQuantizationType.Q8_0)


def matvec_q2_k(weights, x):
    return _matvec(weights, x, gguf.GGMLQuantizationType.Q2_K)


def matvec_q3_k(weights, x):
    return _matvec(weights, x, gguf.GGMLQuantizationType.Q3_K)


def matvec_q5_k(weights, x):
    return _matvec(weights, x, gguf.GGMLQuantizationType.Q5_K)


def matvec_q4_k(weights, x):
    return _matvec(weights, x, gguf.GGMLQuantizationType.Q4_K)


def matvec_q6_k(weights, x):
    return _matvec(weights, x, gguf.GGMLQuantizationType.Q6_K)
