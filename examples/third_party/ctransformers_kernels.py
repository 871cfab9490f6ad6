"""The ggml of 2023 in ctransformers (its AVX2 build): row functions and graphs of one operation, by ctypes."""

import ctypes
from pathlib import Path

import ctransformers
import numpy as np

LIB = ctypes.CDLL(str(Path(ctransformers.__file__).parent / "lib/avx2/libctransformers.so"))
POINTER = ctypes.c_void_p


class _InitParams(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("buffer", POINTER), ("no_alloc", ctypes.c_bool))


for name in ("init", "new_tensor_2d", "get_data", "rms_norm", "soft_max", "silu", "mul", "build_forward_ctx"):
    getattr(LIB, f"ggml_{name}").restype = POINTER
LIB.ggml_new_tensor_2d.argtypes = (POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
LIB.ggml_free(POINTER(LIB.ggml_init(_InitParams(1024, None, False))))  # fills the table of f16 numbers


def _graph(operation, *arrays):
    """The result of an operation on float32 arrays of one shape."""
    context = POINTER(LIB.ggml_init(_InitParams(2**22 + 16 * arrays[0].nbytes, None, False)))
    given = []
    for array in map(np.ascontiguousarray, arrays):
        given.append(POINTER(LIB.ggml_new_tensor_2d(context, 0, array.shape[1], array.shape[0])))
        ctypes.memmove(LIB.ggml_get_data(given[-1]), array.ctypes.data, array.nbytes)
    made = POINTER(operation(context, *given))
    LIB.ggml_graph_compute_with_ctx(context, POINTER(LIB.ggml_build_forward_ctx(context, made)), 1)
    result = np.empty_like(arrays[0])
    ctypes.memmove(result.ctypes.data, LIB.ggml_get_data(made), result.nbytes)
    LIB.ggml_free(context)
    return result


def soft_max(z):
    return _graph(LIB.ggml_soft_max, z)


def rms_norm(x, eps):
    return _graph(lambda context, x: LIB.ggml_rms_norm(context, x, ctypes.c_float(eps)), x)


def swiglu(gate, up):
    return _graph(lambda context, g, u: LIB.ggml_mul(context, POINTER(LIB.ggml_silu(context, g)), u), gate, up)


def _rows(function, given, shape, dtype):
    # Zeros: the quantiser of q8_K leaves the sums of a block of zeros as they are.
    given, made = np.ascontiguousarray(given), np.zeros(shape, dtype)
    getattr(LIB, function)(POINTER(given.ctypes.data), POINTER(made.ctypes.data), ctypes.c_int(len(given) * 256))
    return made


def quantize_q8_k(values):
    return _rows("quantize_row_q8_K", values, (len(values), 292), np.uint8)


def quantize_q8_0(values):
    values, made = np.ascontiguousarray(values), np.empty((len(values), 34), np.uint8)
    histogram = (ctypes.c_int64 * 16)()
    pointers = (POINTER(values.ctypes.data), POINTER(made.ctypes.data))
    LIB.ggml_quantize_q8_0(*pointers, ctypes.c_int(values.size), ctypes.c_int(32), histogram)
    return made


def dequantize_q4_k(blocks):
    return _rows("dequantize_row_q4_K", blocks, (len(blocks), 256), np.float32)


def dequantize_q6_k(blocks):
    return _rows("dequantize_row_q6_K", blocks, (len(blocks), 256), np.float32)


def _matvec(function, weights, x):
    codes = quantize_q8_k(x.reshape(-1, 256))
    made = ctypes.c_float()
    results = np.empty(len(weights), np.float32)
    for i, row in enumerate(np.ascontiguousarray(weights)):
        pointers = (ctypes.byref(made), POINTER(row.ctypes.data), POINTER(codes.ctypes.data))
        getattr(LIB, function)(ctypes.c_int(x.size), *pointers)
        results[i] = made.value
    return results


def matvec_q2_k(weights, x):
    return _matvec("ggml_vec_dot_q2_K_q8_K", weights, x)


def matvec_q3_k(weights, x):
    return _matvec("ggml_vec_dot_q3_K_q8_K", weights, x)


def matvec_q4_k(weights, x):
    return _matvec("ggml_vec_dot_q4_K_q8_K", weights, x)


def matvec_q6_k(weights, x):
    return _matvec("ggml_vec_dot_q6_K_q8_K", weights, x)
