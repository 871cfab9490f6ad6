"""Which node of llama.cpp's graph is which tap (diffuzz.models.dump), by its name and operation.

A graph is built by the function of the architecture in src/models/ of llama.cpp, which names its nodes; several may
have one name, and then the operation tells them apart:

    Qcur-3   MUL_MAT    blk.3.q, if the layer has no bias          Qcur-3   RESHAPE    no tap
    Qcur-3   ADD        blk.3.q, if it has one                     Qcur-3   ROPE       blk.3.q_rope

Gemma 3 scales the rotated q before it multiplies them with k, so that its scores have that factor; it is divided out
where that is exact. Its product after attention has no name, as that of qwen2: it is the first after ``kqv_out``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

import numpy as np

# Names of nodes without their layer, and the operations that are taps. None stands for any operation.
_NODES: Mapping[str, Mapping[str | None, str]] = {
    "attn_norm": {None: "attn_norm"},
    "Qcur": {"MUL_MAT": "q", "ADD": "q", "ROPE": "q_rope"},
    "Kcur": {"MUL_MAT": "k", "ADD": "k", "ROPE": "k_rope"},
    "Vcur": {"MUL_MAT": "v", "ADD": "v"},
    "Qcur_normed": {"MUL": "q_norm"},
    "Kcur_normed": {"MUL": "k_norm"},
    "kq": {"MUL_MAT": "scores"},
    "kq_soft_max": {"SOFT_MAX": "probs"},
    # With flash attention it is a view of the result.
    "kqv_out": {None: "attn"},
    "attn_out": {"MUL_MAT": "attn_out", "ADD": "attn_out"},
    "attn_post_norm": {None: "attn_post_norm"},
    "ffn_inp": {"ADD": "ffn_inp"},
    "sa_out": {"ADD": "ffn_inp"},
    "ffn_norm": {None: "ffn_norm"},
    "ffn_gate": {"MUL_MAT": "gate"},
    "ffn_up": {"MUL_MAT": "up"},
    "ffn_swiglu": {None: "glu"},
    "ffn_geglu": {None: "glu"},
    "ffn_out": {"MUL_MAT": "down"},
    "ffn_post_norm": {None: "ffn_post_norm"},
    "l_out": {None: "l_out"},
}
_OUTSIDE = {"result_norm": "final_norm", "result_output": "logits"}
# The rows of token_embd, in new and in old builds; and scaled, as Gemma 3 has them.
_ROWS, _SCALED = ("embd", "inp_embd"), ("inp_scaled",)
# What has no layer in its name in builds of 2025.
_WITHOUT_LAYER = ("ffn_post_norm",)
_BIASES = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "attn_out": "attn_output"}
_HEADS = ("q_norm", "k_norm", "q_rope", "k_rope")
_PLACES = ("scores", "probs")


class Nodes:
    """The nodes of one graph, which come in their order. ``biases`` are names of tensors of the model."""

    def __init__(self, architecture: str, biases: Collection[str]) -> None:
        self._biases = frozenset(biases)
        rows = _SCALED if architecture == "gemma3" else _ROWS
        self._outside = _OUTSIDE | dict.fromkeys(rows, "embd")
        # The layer of the last tap, and whether that was the sum of its attention.
        self._layer = -1
        self._attending = False
        # Whether q of the layer were rotated and not multiplied with k yet; and what they were scaled by then.
        self._rotated = False
        self._factors: dict[int, float] = {}

    def tap(self, name: str, operation: str, scale: float) -> str:
        """The tap that the next node is, or "". ``scale`` is the factor of a SCALE, its first parameter."""
        if name in self._outside:
            return self._outside[name]
        if operation == "SCALE" and self._rotated:
            self._factors[self._layer] = scale
        step, layer = self._step(name, operation)
        if step in _BIASES and (operation == "ADD") != (f"blk.{layer}.{_BIASES[step]}.bias" in self._biases):
            return ""
        if not step:
            return ""
        self._layer, self._attending = layer, step == "attn"
        self._rotated = step == "q_rope" or (self._rotated and step not in ("scores", "attn"))
        return f"blk.{layer}.{step}"

    def _step(self, name: str, operation: str) -> tuple[str, int]:
        """Step and layer of a node of a layer; the step may be ""."""
        named = re.fullmatch(r"(\w+)-(\d+)", name)
        if named is not None and named[1] in _NODES:
            operations = _NODES[named[1]]
            return operations.get(operation) or operations.get(None) or "", int(named[2])
        if name in _WITHOUT_LAYER:
            return name, self._layer
        return "attn_out" if operation == "MUL_MAT" and self._attending else "", self._layer

    def factor(self, tap: str) -> float | None:
        """By what the node of a tap is larger than the tap; None where it cannot be divided out exactly."""
        if not tap.endswith(".scores"):
            return 1.0
        factor = self._factors.get(int(tap.split(".")[1]), 1.0)
        return factor if math.frexp(factor)[0] == 0.5 else None


def arrangement(tap: str, node: np.ndarray, keys: int) -> np.ndarray:
    """The view of a node, [1, 1, n, m] or [1, n, H, c] or [1, H, n, cache], that has the shape of the tap."""
    step = tap.rpartition(".")[2]
    view: np.ndarray = node[0] if step in (*_HEADS, *_PLACES) else node[0, 0]
    return view[:, :, :keys] if step in _PLACES else view
