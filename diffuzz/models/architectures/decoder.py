"""What the architectures share: a stack of layers of attention and a gated feed-forward network, each after a norm.

    n = norm(h);  q, k, v = products of n;  a = attention;  h = h + product of a
    n = norm(h);  h = h + product of (activation(product of n) * product of n)

An architecture says what it does otherwise: see ``Decoder``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.model import Model, ModelError, Tensor
from diffuzz.models.operations.attention import Mixture, Probs, Scores
from diffuzz.models.operations.embedding import Embedding
from diffuzz.models.operations.glu import Glu
from diffuzz.models.operations.norm import Norm
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.rope import Rope
from diffuzz.models.operations.sum import Sum
from diffuzz.models.step import Operation, Step

if TYPE_CHECKING:
    from jaxtyping import Float32

_SCALINGS = ("none", "linear")


@attrs.frozen(eq=False)
class Sizes:
    """The numbers of a model: width d, heads H, groups G of keys, head size c, feed-forward width f, layers."""

    layers: int
    width: int
    heads: int
    groups: int
    head: int
    hidden: int
    vocabulary: int
    context: int
    eps: float


@attrs.frozen(eq=False)
class Decoder:
    """What an architecture is made of.

    layout         of the pairs of rope: norm or neox
    activation     of the gated network: silu or gelu
    head_norms     whether q and k of each head are normed
    post_norms     whether the results of attention and network are, before they are added
    scale          of the embedding
    attention      the scale of scores
    window         of layer L: how many keys back a token attends, or None for all
    base           of the rotation in layer L, and the scale of its positions
    """

    layout: str
    activation: str
    attention: float
    base: Callable[[int], tuple[float, float]]
    window: Callable[[int], int | None] = attrs.field(default=lambda layer: None)
    head_norms: bool = False
    post_norms: bool = False
    scale: float = 1.0


def sizes(model: Model) -> Sizes:
    """The numbers of a model, checked. Raises ModelError."""
    width, heads = whole(model, "embedding_length"), whole(model, "attention.head_count")
    table = matrix(model, "token_embd.weight", None, width)
    head = whole(model, "attention.key_length", width // heads if width % heads == 0 else None)
    if whole(model, "attention.value_length", head) != head:
        raise ModelError("its values are of another size than its keys, which is not supported")
    groups = whole(model, "attention.head_count_kv", heads)
    if heads % groups:
        raise ModelError(f"it has {heads} heads and {groups} of keys: a multiple is needed")
    eps = model.number("attention.layer_norm_rms_epsilon")
    if not (math.isfinite(eps) and 0 <= eps < 1):
        raise ModelError(f"attention.layer_norm_rms_epsilon is {eps}: a number from 0 to 1 is needed")
    return Sizes(
        whole(model, "block_count"),
        width,
        heads,
        groups,
        head,
        whole(model, "feed_forward_length"),
        table.shape[0],
        whole(model, "context_length"),
        float(eps),
    )


def whole(model: Model, key: str, default: int | None = None) -> int:
    """A positive whole number of the metadata. Raises ModelError."""
    value = model.number(key, default)
    if not (math.isfinite(value) and value == int(value) and 0 < value < 2**31):
        raise ModelError(f"{key} is {value}: a positive whole number is needed")
    return int(value)


def matrix(model: Model, name: str, rows: int | None, columns: int) -> Tensor:
    """A tensor of this shape. Raises ModelError if it is missing, or has another one."""
    found = model.tensors.get(name)
    if found is None:
        raise ModelError(f"tensor {name} is missing")
    if len(found.shape) != 2 or found.shape[1] != columns or (rows is not None and found.shape[0] != rows):
        needed = f"[{'any' if rows is None else rows}, {columns}]"
        raise ModelError(f"tensor {name} has shape {list(found.shape)}: {needed} is needed")
    return found


def vector(model: Model, name: str, length: int) -> Float32[np.ndarray, " n"]:
    """The numbers of a tensor of one axis. Raises ModelError if it is missing, or has another shape."""
    found = model.tensors.get(name)
    if found is None:
        raise ModelError(f"tensor {name} is missing")
    if found.shape != (length,):
        raise ModelError(f"tensor {name} has shape {list(found.shape)}: [{length}] is needed")
    return np.asarray(found.values())


def layout_of(model: Model, usual: str) -> str:
    """How rope pairs elements: as the file says, if it does (an .apr file may), else as the architecture does."""
    kind = model.metadata.get(f"{model.architecture}.rope.type")
    return usual if kind is None else "neox" if kind else "norm"


def base_of(model: Model) -> tuple[float, float]:
    """The base of the rotation and the scale of positions. Raises ModelError for a scaling that is not supported."""
    kind = model.metadata.get(f"{model.architecture}.rope.scaling.type", "none")
    if kind not in _SCALINGS:
        raise ModelError(f"rope.scaling.type is {kind!r}: {' or '.join(_SCALINGS)} is supported")
    factor = float(model.number("rope.scaling.factor", 1.0)) if kind == "linear" else 1.0
    base = float(model.number("rope.freq_base", 1e4))
    for key, value in (("rope.freq_base", base), ("rope.scaling.factor", factor)):
        if not (math.isfinite(value) and value > 0):
            raise ModelError(f"{key} is {value}: a positive number is needed")
    return base, 1 / factor


def stacked(model: Model, made: Decoder, past: bool) -> tuple[Step, ...]:
    """The steps of a stack of layers. Raises ModelError."""
    size = sizes(model)
    factors = None
    dimensions = whole(model, "rope.dimension_count", size.head)
    if dimensions > size.head or dimensions % 2:
        raise ModelError(f"rope.dimension_count is {dimensions}: an even number up to {size.head} is needed")
    if "rope_freqs.weight" in model.tensors:
        factors = vector(model, "rope_freqs.weight", dimensions // 2)
    table = matrix(model, "token_embd.weight", None, size.width)

    def norm(name: str, *, head: bool = False) -> Norm:
        return Norm(vector(model, f"{name}.weight", size.head if head else size.width), size.eps)

    def product(name: str, rows: int, columns: int) -> Product:
        bias = f"{name}.bias"
        added = vector(model, bias, rows) if bias in model.tensors else None
        return Product(matrix(model, f"{name}.weight", rows, columns), added)

    found = [Step("embd", (), Embedding(table, made.scale))]
    residual = "embd"
    for layer in range(size.layers):
        b = f"blk.{layer}."
        base, scale = made.base(layer)
        window = made.window(layer)

        def add(tap: str, inputs: tuple[str, ...], operation: Operation, b: str = b, whole: str = residual) -> str:
            found.append(Step(b + tap, tuple(each if each == whole else b + each for each in inputs), operation))
            return tap

        add("attn_norm", (residual,), norm(f"{b}attn_norm"))
        add("q", ("attn_norm",), product(f"{b}attn_q", size.heads * size.head, size.width))
        add("k", ("attn_norm",), product(f"{b}attn_k", size.groups * size.head, size.width))
        add("v", ("attn_norm",), product(f"{b}attn_v", size.groups * size.head, size.width))
        q, k = "q", "k"
        if made.head_norms:
            q = add("q_norm", (q,), norm(f"{b}attn_q_norm", head=True))
            k = add("k_norm", (k,), norm(f"{b}attn_k_norm", head=True))
        add("q_rope", (q,), Rope(size.heads, size.head, base, made.layout, dimensions, scale, factors))
        add("k_rope", (k,), Rope(size.groups, size.head, base, made.layout, dimensions, scale, factors))
        cached_k, cached_v = (("k_past",), ("v_past",)) if past else ((), ())
        add("scores", ("q_rope", "k_rope", *cached_k), Scores(size.heads, size.groups, window))
        add("probs", ("scores",), Probs(made.attention, window))
        add("attn", ("probs", "v", *cached_v), Mixture(size.heads, size.groups, size.head))
        out = add("attn_out", ("attn",), product(f"{b}attn_output", size.width, size.heads * size.head))
        if made.post_norms:
            out = add("attn_post_norm", (out,), norm(f"{b}post_attention_norm"))
        add("ffn_inp", (residual, out), Sum())
        add("ffn_norm", ("ffn_inp",), norm(f"{b}ffn_norm"))
        add("gate", ("ffn_norm",), product(f"{b}ffn_gate", size.hidden, size.width))
        add("up", ("ffn_norm",), product(f"{b}ffn_up", size.hidden, size.width))
        add("glu", ("gate", "up"), Glu(made.activation))
        out = add("down", ("glu",), product(f"{b}ffn_down", size.width, size.hidden))
        if made.post_norms:
            out = add("ffn_post_norm", (out,), norm(f"{b}post_ffw_norm"))
        add("l_out", ("ffn_inp", out), Sum())
        residual = b + "l_out"
    found.append(Step("final_norm", (residual,), norm("output_norm")))
    head = "output.weight" if "output.weight" in model.tensors else "token_embd.weight"
    found.append(Step("logits", ("final_norm",), Product(matrix(model, head, size.vocabulary, size.width))))
    return tuple(found)
