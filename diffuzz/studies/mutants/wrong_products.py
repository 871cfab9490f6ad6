"""Products of matrices, convolutions and look-ups: one correct form of each, with a switch for each bug.

The functions that are made have the signatures of the targets. Without a switch they are correct.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from diffuzz.studies.mutants import styles
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_norms import Right, Wrong, first_row
from diffuzz.studies.mutants.wrong_rows import Array, Change, Float, same
from diffuzz.targets.parameter import Params

_F = np.float32
# (products [... k]) -> [... 1]: how they are summed.
_Total: TypeAlias = Change


def product(
    *,
    a_of: Change = same,
    b_of: Change = same,
    result: Change = same,
    total: _Total | None = None,
    dtype: Float = np.float32,
) -> Callable[[Array, Array], Array]:
    """``a b`` for pairs of matrices; ``total``, if given, sums the products, else NumPy does."""

    def f(a: Array, b: Array) -> Array:
        one, other = np.asarray(a_of(a), dtype), np.asarray(b_of(b), dtype)
        with np.errstate(all="ignore"):
            if total is None:
                return result(np.matmul(one, other)).astype(np.float32)
            y = np.empty((*one.shape[:-1], other.shape[-1]), dtype)
            for column in range(other.shape[-1]):
                y[..., column] = total(np.multiply(one, other[:, None, :, column]))[..., 0]
            return result(y).astype(np.float32)

    return f


def inner_kept(kept: Callable[[int], int]) -> Change:
    """A matrix [... m k] with the columns from ``kept(k)`` on as 0."""
    return lambda a: np.where(np.arange(a.shape[-1]) < kept(a.shape[-1]), a, _F(0))


def misread(x: Array) -> Array:
    """[b k n] read from memory as [b n k], transposed."""
    return np.swapaxes(x.reshape(len(x), x.shape[2], x.shape[1]), 1, 2)


def unwritten(rows_kept: Callable[[int], int], columns_kept: Callable[[int], int]) -> Change:
    """A result whose rows and columns from these on are 0."""

    def f(y: Array) -> Array:
        m, n = y.shape[-2:]
        kept = (np.arange(m) < rows_kept(m))[:, None] & (np.arange(n) < columns_kept(n))
        return np.where(kept, y, _F(0))

    return f


def rounded_total(round: Change) -> _Total:
    """A left fold with ``round`` after each addition."""

    def f(x: Array) -> Array:
        y = np.zeros_like(x[..., :1])
        for i in range(x.shape[-1]):
            y = round(y + x[..., i : i + 1])
        return y

    return f


def tensor_float(x: Array) -> Array:
    """``x`` rounded to the 11 significant bits of TF32."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return np.asarray((bits + np.uint32(0x1000) & np.uint32(0xFFFFE000)).view(np.float32))


def _whole(size: int) -> Callable[[int], int]:
    return lambda n: n - n % size if n > size else n


def _most(size: int) -> Callable[[int], int]:
    return lambda n: min(n, size)


def _everything(n: int) -> int:
    return n


def _first_matrix(x: Array) -> Array:
    return first_row(x)


def _small_tile(a: Array, b: Array) -> Array:
    y = np.array(product()(a, b))
    if a.shape[1] <= 32 < b.shape[2]:
        y[..., 32:] = 0
    return y


def convolution(
    *,
    stride_of: Callable[[int], int] = int,
    left: Callable[[int, int], int] = lambda padding, k: padding,
    right: Callable[[int, int], int] = lambda padding, k: padding,
    mode: str = "constant",
    w_of: Change = same,
    x_of: Change = same,
    taps: Callable[[int], int] = int,
    channels: Callable[[int], int] = int,
    offset: int = 0,
    result: Change = same,
    dtype: Float = np.float32,
) -> Callable[..., Array]:
    """``sum_(c, j) w[o, c, j] x[b, c, i stride + j - padding]``, by one matrix product for each tap."""

    def f(x: Array, w: Array, *, stride: int, padding: int) -> Array:
        k = w.shape[2]
        length = (x.shape[2] + 2 * padding - k) // stride + 1
        step = stride_of(stride)
        ends = ((0, 0), (0, 0), (left(padding, k), right(padding, k) + stride * length + k))
        values = x_of(x).astype(dtype)
        wide = np.pad(values, ends) if mode == "constant" else _padded(values, padding, stride * length + k, mode)
        weights = w_of(w).astype(dtype)
        y = np.zeros((len(x), len(w), length), dtype)
        used = channels(w.shape[1])
        with np.errstate(all="ignore"):
            for tap in range(taps(k)):
                begin = max(tap + offset, 0)
                part = wide[:, :used, begin : begin + (length - 1) * step + 1 : step]
                y[..., : part.shape[2]] += np.matmul(weights[:, :used, tap], part)
            return result(y).astype(np.float32)

    return f


def _padded(x: Array, padding: int, more: int, mode: str) -> Array:
    """x with its edge, or its mirror image, for zeros."""
    if mode == "reflect" and x.shape[2] <= padding:
        mode = "edge"
    beside = np.pad(x, ((0, 0), (0, 0), (padding, padding)), mode=mode)  # type: ignore[call-overload]
    return np.pad(beside, ((0, 0), (0, 0), (0, more)))


def _reversed(w: Array) -> Array:
    return np.ascontiguousarray(w[..., ::-1])


def _exchanged(w: Array) -> Array:
    """[o c k] read from memory that holds [c o k]."""
    return np.swapaxes(w.reshape(w.shape[1], w.shape[0], w.shape[2]), 0, 1)


def _last_position_lost(y: Array) -> Array:
    return np.where(np.arange(y.shape[-1]) < max(y.shape[-1] - 1, 1), y, _F(0))


def _outputs(size: int) -> Change:
    return lambda y: np.where((np.arange(y.shape[1]) < size)[:, None], y, _F(0))


def looked_up(
    *, index: Callable[[Array, int], Array] = lambda ids, v: ids, result: Change = same
) -> Callable[[Array, Array], Array]:
    """``table[index(ids, v)]``."""

    def f(table: Array, ids: Array) -> Array:
        return np.asarray(result(table[index(ids, len(table))])).astype(np.float32)

    return f


def _as_int8(ids: Array, v: int) -> Array:
    return np.asarray(ids.astype(np.int8).astype(np.int32) % v)


def by_one_hot(table: Array, ids: Array) -> Array:
    """The product with rows that have a single one."""
    return np.asarray(np.matmul((np.arange(len(table)) == ids[:, None]).astype(np.float32), table))


def _elements_kept(size: int) -> Change:
    return lambda y: np.where(np.arange(y.shape[-1]) < _whole(size)(y.shape[-1]), y, _F(0))


def _flat(table: Array, ids: Array) -> Array:
    """Rows of d - 1 elements in memory."""
    d = table.shape[1]
    start = ids.astype(np.int64)[:, None] * max(d - 1, 1)
    return np.asarray(table.reshape(-1)[start + np.arange(d)])


def _by_row(table: Array, ids: Array) -> Array:
    """The first id that is the same as a neighbour's takes the row before."""
    return np.asarray(table[np.where(np.diff(ids, prepend=-1) == 0, np.maximum(ids - 1, 0), ids)])


_ONE: Params = {}
_STRIDE: Params = {"stride": 2}
_PAD: Params = {"padding": 1}
_BOTH: Params = {"stride": 3, "padding": 2}

WRONG: Wrong = (
    ("batched-matmul/inner-tail", "batched_matmul", {}, product(a_of=inner_kept(_whole(8))), "whole vectors of k", ""),
    ("batched-matmul/inner-last", "batched_matmul", {}, product(a_of=inner_kept(lambda k: max(k - 1, 1))),
     "last product not added", ""),
    ("batched-matmul/inner-256", "batched_matmul", {}, product(a_of=inner_kept(_most(256))), "k beyond 256 lost", ""),
    ("batched-matmul/row-tail", "batched_matmul", {}, product(result=unwritten(_whole(4), _everything)),
     "rows left over from blocks of 4", "nntrainer#3187"),
    ("batched-matmul/column-tail", "batched_matmul", {}, product(result=unwritten(_everything, _whole(8))),
     "columns left over from blocks of 8", "llama.cpp#25734"),
    ("batched-matmul/small-tile", "batched_matmul", {}, _small_tile, "n > 32 with m <= 32", "llama.cpp#26921"),
    ("batched-matmul/many-rows", "batched_matmul", {}, product(result=unwritten(_most(96), _everything)),
     "rows beyond 96", "burn#4966"),
    ("batched-matmul/transposed", "batched_matmul", {}, product(b_of=misread), "b read as [n k]", "burn#4461"),
    ("batched-matmul/first-matrix", "batched_matmul", {}, product(b_of=_first_matrix), "first b for all",
     "llama.cpp#25734"),
    ("batched-matmul/f16", "batched_matmul", {}, product(a_of=rows.half, b_of=rows.half), "operands in f16", ""),
    ("batched-matmul/tf32", "batched_matmul", {}, product(a_of=tensor_float, b_of=tensor_float), "TF32", ""),
    ("batched-matmul/bf16", "batched_matmul", {}, product(b_of=rows.bfloat), "b cut to bf16", ""),
    ("batched-matmul/sum-f16", "batched_matmul", {}, product(total=rounded_total(rows.half)), "accumulated in f16",
     "onnxruntime#29611"),
    ("batched-matmul/sum-bf16", "batched_matmul", {}, product(total=rounded_total(rows.bfloat)), "accumulated in bf16",
     ""),
    ("batched-matmul/result-f16", "batched_matmul", {}, product(result=rows.half), "result in f16", "vllm#33972"),
    ("batched-matmul/zeros", "batched_matmul", {}, product(result=np.zeros_like), "zeros", "burn#2178"),
    ("conv1d/reversed", "conv1d", _ONE, convolution(w_of=_reversed), "kernel reversed", ""),
    ("conv1d/exchanged", "conv1d", _ONE, convolution(w_of=_exchanged), "w read as [c o k]", ""),
    ("conv1d/last-tap", "conv1d", _ONE, convolution(taps=lambda k: max(k - 1, 1)), "last tap not added", ""),
    ("conv1d/taps-8", "conv1d", _ONE, convolution(taps=lambda k: min(k, 8)), "taps beyond 8 lost", ""),
    ("conv1d/channels", "conv1d", _ONE, convolution(channels=lambda c: max(c - c % 4, 1)), "whole vectors of c", ""),
    ("conv1d/first-channel", "conv1d", _ONE, convolution(channels=lambda c: 1), "depthwise", ""),
    ("conv1d/outputs", "conv1d", _ONE, convolution(result=_outputs(16)), "outputs beyond 16", ""),
    ("conv1d/last-position", "conv1d", _ONE, convolution(result=_last_position_lost), "last position not written", ""),
    ("conv1d/first-row", "conv1d", _ONE, convolution(x_of=first_row), "first case for all", ""),
    ("conv1d/f16", "conv1d", _ONE, convolution(x_of=rows.half), "x in f16", ""),
    ("conv1d/w-bf16", "conv1d", _ONE, convolution(w_of=rows.bfloat), "w cut to bf16", ""),
    ("conv1d/result-f16", "conv1d", _ONE, convolution(result=rows.half), "result in f16", ""),
    ("conv1d/stride-ignored", "conv1d", _STRIDE, convolution(stride_of=lambda stride: 1), "stride ignored", ""),
    ("conv1d/stride-offset", "conv1d", _STRIDE, convolution(offset=1), "begins one later", ""),
    ("conv1d/padding-ignored", "conv1d", _PAD, convolution(left=lambda p, k: 0), "no zeros at the first end", ""),
    ("conv1d/padding-causal", "conv1d", _PAD, convolution(left=lambda p, k: 2 * p), "all zeros at the first end", ""),
    ("conv1d/padding-same", "conv1d", _BOTH, convolution(left=lambda p, k: k // 2), "padding of half the kernel", ""),
    ("conv1d/padding-edge", "conv1d", _BOTH, convolution(mode="edge"), "padded with the edge", ""),
    ("conv1d/padding-reflect", "conv1d", _BOTH, convolution(mode="reflect"), "padded with the mirror image", ""),
    ("embedding/byte", "embedding", {}, looked_up(index=lambda i, v: i % 256), "ids in 8 bits", ""),
    ("embedding/int8", "embedding", {}, looked_up(index=_as_int8), "ids as int8", ""),
    ("embedding/one-based", "embedding", {}, looked_up(index=lambda i, v: np.maximum(i - 1, 0)), "ids from 1 on", ""),
    ("embedding/next", "embedding", {}, looked_up(index=lambda i, v: np.minimum(i + 1, v - 1)), "next row", ""),
    ("embedding/last-clamped", "embedding", {}, looked_up(index=lambda i, v: np.minimum(i, max(v - 2, 0))),
     "last row not reached", ""),
    ("embedding/first-id", "embedding", {}, looked_up(index=lambda i, v: first_row(i)), "first id for all", ""),
    ("embedding/reversed", "embedding", {}, looked_up(index=lambda i, v: i[::-1]), "results in the other order", ""),
    ("embedding/sorted", "embedding", {}, looked_up(index=lambda i, v: np.sort(i)), "results in the order of ids", ""),
    ("embedding/stride", "embedding", {}, _flat, "rows begin an element early", ""),
    ("embedding/repeated", "embedding", {}, _by_row, "row before for an id that repeats", ""),
    ("embedding/f16", "embedding", {}, looked_up(result=rows.half), "table in f16", ""),
    ("embedding/bf16", "embedding", {}, looked_up(result=rows.bfloat), "table cut to bf16", ""),
    ("embedding/tail", "embedding", {}, looked_up(result=_elements_kept(8)), "whole vectors of 8 only", ""),
    ("embedding/padding", "embedding", {}, lambda table, ids: table[ids] * (ids != 0)[:, None], "row 0 as padding", ""),
    ("embedding/scaled", "embedding", {}, lambda table, ids: table[ids] * _F(np.sqrt(table.shape[1])),
     "times sqrt(d)", ""),
)  # fmt: skip

RIGHT: Right = [
    ("batched-matmul/numpy", "batched_matmul", {}, product(), "NumPy's BLAS"),
    ("batched-matmul/fold", "batched_matmul", {}, product(total=rows.fold), "left fold"),
    ("batched-matmul/pairwise", "batched_matmul", {}, product(total=rows.pairwise), "pairwise"),
    ("batched-matmul/kahan", "batched_matmul", {}, product(total=styles.kahan), "compensated"),
    ("batched-matmul/wide", "batched_matmul", {}, product(dtype=np.float64), "float64"),
    ("batched-matmul/einsum", "batched_matmul", {}, lambda a, b: np.einsum("bmk,bkn->bmn", a, b), "einsum"),
    ("conv1d/plain", "conv1d", _ONE, convolution(), "tap by tap"),
    ("conv1d/strided", "conv1d", _BOTH, convolution(), "tap by tap"),
    ("conv1d/padded", "conv1d", _PAD, convolution(), "tap by tap"),
    ("conv1d/wide", "conv1d", _BOTH, convolution(dtype=np.float64), "float64"),
    ("embedding/numpy", "embedding", {}, looked_up(), "NumPy's indexing"),
    ("embedding/one-hot", "embedding", {}, by_one_hot, "product with one-hot rows"),
]  # fmt: skip
