"""Correct functions of libraries: JAX's own, and PyTorch's where it is installed.

The modules are imported when a function is first called. torch is optional, and so are its rows of the table.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.studies.mutants.wrong_norms import Right
from diffuzz.studies.mutants.wrong_rows import Array


def in_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(jax, *arrays, **parameters)`` on arrays of JAX, with NumPy's arrays as results."""

    def f(*arrays: Array, **given: object) -> Array | tuple[Array, ...]:
        jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
        named = {name: jnp.asarray(one) if isinstance(one, np.ndarray) else one for name, one in given.items()}
        got = function(jax, *map(jnp.asarray, arrays), **named)
        return tuple(map(np.asarray, got)) if isinstance(got, (tuple, list)) else np.asarray(got)

    return f


def in_torch(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(torch, *tensors, **parameters)`` on tensors of PyTorch, with NumPy's arrays as results."""

    def f(*arrays: Array, **given: object) -> Array | tuple[Array, ...]:
        torch = importlib.import_module("torch")
        named = {name: torch.from_numpy(one) if isinstance(one, np.ndarray) else one for name, one in given.items()}
        got = function(torch, *map(torch.from_numpy, arrays), **named)
        if isinstance(got, (tuple, list)):
            return tuple(one.numpy().astype(np.int32) if one.dtype == torch.int64 else one.numpy() for one in got)
        return np.asarray(got.numpy())

    return f


def _attention_jax(jax: Any, q: Any, k: Any, v: Any, *, causal: bool, mask: Any = None, **_: object) -> Any:
    order = (0, 2, 1, 3)
    bias = None if mask is None else mask[:, None]
    y = jax.nn.dot_product_attention(
        q.transpose(order), k.transpose(order), v.transpose(order), bias=bias, is_causal=causal
    )
    return y.transpose(order)


def _attention_torch(torch: Any, q: Any, k: Any, v: Any, *, mask: Any = None, **_: object) -> Any:
    bias = None if mask is None else mask[:, None]
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(q, k, v, attn_mask=bias, enable_gqa=True)


def _gelu_jax(jax: Any, x: Any, *, form: str) -> Any:
    return jax.nn.gelu(x, approximate=form == "tanh")


def _gelu_torch(torch: Any, x: Any, *, form: str) -> Any:
    return torch.nn.functional.gelu(x, approximate="tanh" if form == "tanh" else "none")


def _layer_norm_jax(jax: Any, x: Any, gain: Any, bias: Any, *, eps: float) -> Any:
    return jax.nn.standardize(x, axis=-1, epsilon=eps) * gain + bias


def _layer_norm_torch(torch: Any, x: Any, gain: Any, bias: Any, *, eps: float) -> Any:
    return torch.nn.functional.layer_norm(x, gain.shape, gain, bias, eps)


def _rms_norm_torch(torch: Any, x: Any, gain: Any, *, eps: float) -> Any:
    return torch.nn.functional.rms_norm(x, gain.shape, gain, eps)


def _add_norm_torch(torch: Any, x: Any, residual: Any, gain: Any, *, eps: float) -> Any:
    total = x + residual
    return torch.nn.functional.rms_norm(total, gain.shape, gain, eps), total


def _gate_jax(jax: Any, logits: Any, *, k: int, renormalise: bool) -> Any:
    weights, indices = jax.lax.top_k(jax.nn.softmax(logits), k)
    return (weights / weights.sum(-1, keepdims=True) if renormalise else weights), indices


def _gate_torch(torch: Any, logits: Any, *, k: int, renormalise: bool) -> Any:
    weights, indices = torch.topk(torch.softmax(logits, -1), k)
    return (weights / weights.sum(-1, keepdim=True) if renormalise else weights), indices


def _convolution_jax(jax: Any, x: Any, w: Any, *, stride: int, padding: int) -> Any:
    return jax.lax.conv_general_dilated(x, w, (stride,), ((padding, padding),))


_ERF, _TANH, _CAUSAL, _MASK = {"form": "erf"}, {"form": "tanh"}, {"causal": True}, {"mask": True}
# JAX subtracts the mean from the mean of squares.
_ONE_PASS = {"policy": "one-pass"}
# Shapes are few: JAX compiles a function for each.
_FEW = {"range:b": "2:2", "multiple:n": "256"}

_JAX: Right = [
    ("layer-norm/jax", "layer_norm", _ONE_PASS | _FEW, in_jax(_layer_norm_jax), "jax.nn.standardize"),
    ("silu/jax", "silu", _FEW, in_jax(lambda jax, x: jax.nn.silu(x)), "jax.nn.silu"),
    ("gelu/jax-erf", "gelu", _ERF | _FEW, in_jax(_gelu_jax), "jax.nn.gelu"),
    ("gelu/jax-tanh", "gelu", _TANH | _FEW, in_jax(_gelu_jax), "jax.nn.gelu"),
    ("geglu/jax", "geglu", _TANH | _FEW, in_jax(lambda jax, gate, up, *, form: jax.nn.gelu(gate) * up), "jax.nn.gelu"),
    ("log-softmax/jax", "log_softmax", _FEW, in_jax(lambda jax, z: jax.nn.log_softmax(z)), "jax.nn.log_softmax"),
    ("masked-softmax/jax", "masked_softmax", _FEW,
     in_jax(lambda jax, z, mask, *, scale: jax.nn.softmax(z * np.float32(scale) + mask)), "jax.nn.softmax"),
    ("attention/jax", "attention", {**_CAUSAL, "fix:s": "8", "fix:t": "8", "range:b": "2:2"}, in_jax(_attention_jax),
     "jax.nn.dot_product_attention"),
    ("top-k/jax", "top_k", _FEW, in_jax(lambda jax, logits, *, k: jax.lax.top_k(logits, k)), "jax.lax.top_k"),
    ("moe-gate/jax", "moe_gate", _FEW, in_jax(_gate_jax), "jax.nn.softmax and jax.lax.top_k"),
    ("sum/jax", "sum", _FEW, in_jax(lambda jax, x: x.sum(-1)), "jnp.sum"),
    ("cumsum/jax", "cumsum", _FEW, in_jax(lambda jax, x: x.cumsum(-1)), "jnp.cumsum"),
    ("conv1d/jax", "conv1d", {"stride": 2, "padding": 1, "fix:l": "32", "fix:k": "5", "fix:c": "8"},
     in_jax(_convolution_jax), "lax.conv_general_dilated"),
]  # fmt: skip

_TORCH: Right = [
    ("rmsnorm-gain/torch", "rmsnorm_gain", {}, in_torch(_rms_norm_torch), "torch's rms_norm"),
    ("add-rmsnorm/torch", "add_rmsnorm", {}, in_torch(_add_norm_torch), "torch's rms_norm"),
    ("layer-norm/torch", "layer_norm", {}, in_torch(_layer_norm_torch), "torch's layer_norm"),
    ("silu/torch", "silu", {}, in_torch(lambda torch, x: torch.nn.functional.silu(x)), "torch's silu"),
    ("gelu/torch-erf", "gelu", _ERF, in_torch(_gelu_torch), "torch's gelu"),
    ("gelu/torch-tanh", "gelu", _TANH, in_torch(_gelu_torch), "torch's gelu"),
    ("geglu/torch", "geglu", _ERF,
     in_torch(lambda torch, gate, up, *, form: torch.nn.functional.gelu(gate) * up), "torch's gelu"),
    ("log-softmax/torch", "log_softmax", {}, in_torch(lambda torch, z: z.log_softmax(-1)), "torch's log_softmax"),
    ("masked-softmax/torch", "masked_softmax", {},
     in_torch(lambda torch, z, mask, *, scale: torch.softmax(z * scale + mask, -1)), "torch's softmax"),
    ("attention/torch", "attention", {}, in_torch(_attention_torch), "torch's scaled_dot_product_attention"),
    ("attention/torch-mask", "attention", _MASK, in_torch(_attention_torch), "torch's scaled_dot_product_attention"),
    ("batched-matmul/torch", "batched_matmul", {}, in_torch(lambda torch, a, b: torch.bmm(a, b)), "torch.bmm"),
    ("top-k/torch", "top_k", {}, in_torch(lambda torch, logits, *, k: tuple(torch.topk(logits, k))), "torch.topk"),
    ("moe-gate/torch", "moe_gate", {}, in_torch(_gate_torch), "torch.softmax and torch.topk"),
    ("sum/torch", "sum", {}, in_torch(lambda torch, x: x.sum(-1)), "torch.sum"),
    ("cumsum/torch", "cumsum", {}, in_torch(lambda torch, x: x.cumsum(-1)), "torch.cumsum"),
    ("mean-square/torch", "mean_square", {}, in_torch(lambda torch, x: x.square().mean(-1)), "torch.mean"),
    ("conv1d/torch", "conv1d", {"stride": 2, "padding": 1},
     in_torch(lambda torch, x, w, *, stride, padding: torch.conv1d(x, w, stride=stride, padding=padding)),
     "torch.conv1d"),
    ("embedding/torch", "embedding", {}, in_torch(lambda torch, table, ids: table[ids]), "torch's indexing"),
]  # fmt: skip

RIGHT: Right = [*_JAX, *(_TORCH if importlib.util.find_spec("torch") else [])]
