"""Layer norm without gain and bias: y = (x - mean x) / sqrt(var x + eps)."""

import numpy as np

from diffuzz.cases import Dim, Space, TensorSpec
from diffuzz.targets import Amplification, Contract, Parameter, Target
from diffuzz.targets.error_bounds import UNIT, gamma

EPS = Parameter("eps", 1e-3, "added to the variance", low=1e-6, high=1.0)
PARAMETERS = (
    Parameter("n", 16, "largest length of the vector", low=2, high=4096),
    Parameter("max_abs", 4.0, "largest |x|", low=1e-3, high=1e3),
    EPS,
    Parameter("delta", 0.001, "size of the perturbation, relative", low=1e-6, high=0.5),
    Parameter("perturbation", "normwise", "model of the perturbation", choices=("componentwise", "normwise")),
)
ROW = (Parameter("length", 33, "largest length of a row of a kernel", low=2, high=4096), EPS)


def space(p):
    n, top = Dim("n", p["n"]), p["max_abs"]
    x = TensorSpec("x", kind="activations", shape=(n,), low=-top, high=top, smallest_peak=top * 2.0**-20)
    direction = TensorSpec("x_direction", kind="direction", shape=(n,), low=-1.0, high=1.0, smallest_peak=2.0**-10)
    return Space((x, direction))


def function(p, arrays, kernels):
    xp = kernels.xp
    x = arrays["x"].astype(float)
    centred = x - x.mean(axis=1, keepdims=True)
    spread = xp.sqrt((centred * centred).mean(axis=1) + p["eps"])
    y = centred / spread[:, None]
    return y, xp.sqrt((y * y).sum(axis=1)), xp.sqrt((x * x).sum(axis=1)) / spread


def row_space(p):
    return Space((TensorSpec("x", kind="activations", shape=(Dim("n", p["length"]),), low=-100.0, high=100.0),))


def run(p, arrays, kernels):
    if hasattr(kernels, "layer_norm"):
        return kernels.layer_norm(arrays["x"], p["eps"])
    x = arrays["x"].astype(np.float64)
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + p["eps"])


def allowance(p, arrays):
    """|y^ - y|: the mean is off by gamma_{n+1} mean|x|, and so is each element, and so is the root of the variance."""
    x = np.abs(arrays["x"].astype(np.float64))
    n = x.shape[1]
    centred = np.abs(run(p, arrays, None))
    spread = np.sqrt(arrays["x"].astype(np.float64).var(axis=1, keepdims=True) + p["eps"])
    moved = (gamma(n + 1) * x.mean(axis=1, keepdims=True) + 2 * UNIT * x) / spread
    root = gamma(n + 8) + 2 * moved.max(axis=1, keepdims=True) + moved.max(axis=1, keepdims=True) ** 2
    return moved + (centred + moved) * root + 2.0**-120


TARGET = Target(
    name="layer-norm",
    summary="layer norm: L2 drift out over drift in",
    parameters=PARAMETERS,
    space=space,
    question=Amplification(function, inputs=lambda p: ("x",), norm=2),
    measure=lambda p: f"(||dy||_2/||y||_2) / ({p['perturbation']} drift of x)",
    bound=lambda p: None,
    claim="layer norm amplifies a drift of its input",
    threshold=lambda p: 5.0,
    tolerance=1e-9,
    contract=Contract(
        signature="f(x: float32[b, n], eps: float) -> float32[b, n]",
        parameters=ROW,
        space=row_space,
        call=lambda p, f, arrays: f(arrays["x"], p["eps"]),
        run=run,
        kernels=lambda p: ("exact",),
        allowance=allowance,
    ),
)
