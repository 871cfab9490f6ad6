"""The ggml of llama.cpp in xllamacpp: row functions and graphs of one operation, by ctypes."""

import ctypes
from pathlib import Path

import numpy as np
import xllamacpp

LIB = ctypes.CDLL(str(Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
POINTER, SIZE = ctypes.c_void_p, ctypes.c_size_t
LIB.ggml_cpu_init()


class _InitParams(ctypes.Structure):
    _fields_ = (("size", SIZE), ("buffer", POINTER), ("no_alloc", ctypes.c_bool))


for name in ("init", "new_tensor_2d", "get_data", "rms_norm", "soft_max", "swiglu_split", "new_graph"):
    getattr(LIB, f"ggml_{name}").restype = POINTER
LIB.ggml_new_tensor_2d.argtypes = (POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _graph(operation, *arrays):
    """The result of an operation on float32 arrays of one shape."""
    context = POINTER(LIB.ggml_init(_InitParams(2**24 + 16 * arrays[0].nbytes, None, False)))
    given = []
    for array in map(np.ascontiguousarray, arrays):
        given.append(POINTER(LIB.ggml_new_tensor_2d(context, 0, array.shape[1], array.shape[0])))
        ctypes.memmove(LIB.ggml_get_data(given[-1]), array.ctypes.data, array.nbytes)
    made, graph = POINTER(operation(context, *given)), POINTER(LIB.ggml_new_graph(context))
    LIB.ggml_build_forward_expand(graph, made)
    LIB.ggml_graph_compute_with_ctx(context, graph, 1)
    result = np.empty_like(arrays[0])
    ctypes.memmove(result.ctypes.data, LIB.ggml_get_data(made), result.nbytes)
    LIB.ggml_free(context)
    return result


def soft_max(z):
    return _graph(LIB.ggml_soft_max, z)


def rms_norm(x, eps):
    return _graph(lambda context, x: LIB.ggml_rms_norm(context, x, ctypes.c_float(eps)), x)


def swiglu(gate, up):
    return _graph(LIB.ggml_swiglu_split, gate, up)


def _rows(function, given, count, shape, dtype):
    # Zeros: the quantiser of q8_K leaves the sums of a block of zeros as they are.
    given, made = np.ascontiguousarray(given), np.zeros(shape, dtype)
    getattr(LIB, function)(POINTER(given.ctypes.data), POINTER(made.ctypes.data), ctypes.c_int64(count))
    return made


def quantize_q8_0(values):
    return _rows("quantize_row_q8_0", values, values.size, (len(values), 34), np.uint8)


def quantize_q8_k(values):
    return _rows("quantize_row_q8_K", values, values.size, (len(values), 292), np.uint8)


def dequantize_q4_k(blocks):
    return _rows("dequantize_row_q4_K", blocks, len(blocks) * 256, (len(blocks), 256), np.float32)


def dequantize_mxfp4(blocks):
    return _rows("dequantize_row_mxfp4", blocks, len(blocks) * 32, (len(blocks), 32), np.float32)


def _matvec(function, weights, x, codes):
    made, results = ctypes.c_float(), np.empty(len(weights), np.float32)
    for i, row in enumerate(np.ascontiguousarray(weights)):
        pointers = (ctypes.byref(made), SIZE(0), POINTER(row.ctypes.data), SIZE(0), POINTER(codes.ctypes.data), SIZE(0))
        getattr(LIB, function)(ctypes.c_int(x.size), *pointers, ctypes.c_int(1))
        results[i] = made.value
    return results


def matvec_q4_0(weights, x):
    return _matvec("ggml_vec_dot_q4_0_q8_0", weights, x, quantize_q8_0(x.reshape(-1, 32)))


def matvec_q5_0_generic(weights, x):
    return _matvec("ggml_vec_dot_q5_0_q8_0_generic", weights, x, quantize_q8_0(x.reshape(-1, 32)))


def matvec_q4_k(weights, x):
    return _matvec("ggml_vec_dot_q4_K_q8_K", weights, x, quantize_q8_k(x.reshape(-1, 256)))


def matvec_q6_k(weights, x):
    return _matvec("ggml_vec_dot_q6_K_q8_K", weights, x, quantize_q8_k(x.reshape(-1, 256)))


def matvec_mxfp4(weights, x):
    return _matvec("ggml_vec_dot_mxfp4_q8_0", weights, x, quantize_q8_0(x.reshape(-1, 32)))
