"""ncnn's layers on the CPU: a network of one layer for each."""

from functools import cache

import ncnn
import numpy as np


@cache
def _net(layer, parameters):
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_fp16_packed = False
    net.opt.use_bf16_storage = False
    net.load_param_mem(f"7767517\n2 2\nInput x 0 1 x\n{layer} y 1 1 x y {parameters}\n")
    net.load_model_mem(bytes(4))  # no weights
    return net


def _run(x, layer, parameters=""):
    extractor = _net(layer, parameters).create_extractor()
    given = ncnn.Mat(np.ascontiguousarray(x)).clone()
    extractor.input("x", given)
    made = extractor.extract("y")[1]
    return np.array(made)


def soft_max(z):
    return _run(z, "Softmax", "0=1 1=1")


def rms_norm(x, eps):
    return _run(x, "RMSNorm", f"0={x.shape[1]} 1={eps:.9e} 2=0")


def swiglu(gate, up):
    return _run(gate, "Swish") * up
