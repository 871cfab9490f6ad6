"""Functions that are wrong for some sizes only: past a tile, from some length on, at one width that a model has, in
large batches, for one row or an odd number of them, beside other rows, or far from zero.

A kernel is tried with the sizes of its author's model. Its tiles, counters, tables, scratch buffers and sentinels hold
for these, and need not hold for others. Each function here is right up to such a size and beside it. Those in RIGHT
have tiles, counters, buffers and sentinels as well, and are right everywhere in their domain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from diffuzz import formats
from diffuzz.studies.mutants import wrong_dots as dots
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_blocks import Change, dequantiser, right
from diffuzz.studies.mutants.wrong_places import Array, fed, spoilt
from diffuzz.targets.contract import Function
from diffuzz.targets.parameter import Params

# (indices of the rows int64[b], their number b) -> bool[b], which rows; or int64[b], which row stands for each.
Which: TypeAlias = Callable[[Array, int], Array]

_F = np.float32
_WIDE_COUNTER = 2**16


def lost(function: Function, where: Which) -> Function:
    """``function`` that does not write some rows of its result, which stay 0."""

    def f(*arguments: Array | float | str) -> Array:
        y = np.array(function(*arguments))
        y[where(np.arange(len(y)), len(y))] = 0
        return y

    return f


def taken(function: Callable[..., Array], source: Which) -> Callable[..., Array]:
    """``function`` whose result has row ``source(i, rows)`` in the place of row i."""

    def f(*arguments: Array | float | str) -> Array:
        y = np.asarray(function(*arguments))
        return np.asarray(y[source(np.arange(len(y)), len(y))])

    return f


def past(first: int) -> Which:
    """The rows from number ``first`` on."""
    return lambda i, count: i >= first


def counter(size: int) -> Which:
    """The row that a counter below ``size`` reaches in place of each."""
    return lambda i, count: i % size


def part_tile(size: int) -> Which:
    """The rows after the last whole tile of ``size``, if there is a whole one."""
    return lambda i, count: (i >= count - count % size) & (count > size)


def odd_one(i: Array, count: int) -> Array:
    """The last of an odd number of rows, of three or more."""
    return np.asarray((i == count - 1) & (count % 2 == 1) & (count > 1))


def last_of_odd(i: Array, count: int) -> Array:
    """The row before for the last of an odd number of rows."""
    return np.where(odd_one(i, count), i - 1, i)


def last(i: Array, count: int) -> Array:
    """The last row for all."""
    return np.full(count, count - 1)


def following(i: Array, count: int) -> Array:
    """The next row for each, the first for the last."""
    return np.asarray((i + 1) % count)


def even_of_pair(i: Array, count: int) -> Array:
    """The first of two rows for both."""
    return np.asarray(i - i % 2)


def folded(kept: Callable[[int], int]) -> Change:
    """A left fold over the first ``kept(n)`` of n elements."""
    return lambda x: rows.fold(x[..., : kept(x.shape[-1])])


def unwritten(function: Function, first: Callable[[int], int]) -> Function:
    """``function`` that does not write elements from ``first(n)`` on, which stay 0, of each row of n."""
    return spoilt(function, lambda x, *_: np.arange(x.shape[-1]) >= first(x.shape[-1]), 0.0)


def _largest(z: Array) -> Array:
    return np.asarray(z.max(axis=1, keepdims=True))


def _peak(x: Array) -> Array:
    return np.asarray(np.abs(x).max(axis=1))


def _masked_as(value: float) -> Change:
    """Logits with a finite number for -inf."""
    return lambda z: np.where(np.isneginf(z), _F(value), z)


def _at_least(value: float) -> Change:
    """The largest logit by a running maximum that starts at ``value``."""
    return lambda z: np.maximum(_largest(z), _F(value))


def stale_soft_max() -> Function:
    """Softmax that pads a row to whole vectors of 8 in a buffer that it keeps, and never clears: after a longer row the
    padding is the rest of that one.
    """
    buffer = np.full(2**18 + 8, _F(-np.inf))

    def f(z: Array) -> Array:
        n = z.shape[1]
        padding = buffer[n : n + -n % 8]
        padded = np.concatenate([z, np.broadcast_to(padding, (len(z), padding.size))], axis=1)
        y = rows.soft_max()(padded)[:, :n]
        if len(z):
            buffer[:n] = z[-1]
        return y

    return f


def norm_of_buffer(size: int) -> Function:
    """RMSNorm by way of a buffer of ``size`` elements: what lies beyond it stays as it was."""

    def f(x: Array, eps: float) -> Array:
        return np.concatenate([rows.rms_norm()(x, eps)[:, :size], x[:, size:]], axis=1)

    return f


def swiglu_beyond(size: int, width: int) -> Function:
    """SwiGLU that leaves out what is no whole vector of ``width``, in rows of more than ``size`` elements."""
    return unwritten(rows.swiglu(), lambda n: n - n % width if n > size else n)


def rope_with(position: Change) -> Function:
    """RoPE with changed positions."""
    return rows.rope(position=position)


def rope_of_heads(turned: Callable[[int], int]) -> Function:
    """RoPE that turns the first ``turned(heads)`` heads only."""

    def f(x: Array, positions: Array, base: float, mode: str) -> Array:
        return rows.rope(heads=turned(x.shape[1]))(x, positions, base, mode)

    return f


def _short_scratch(function: Function) -> Function:
    """A product with a buffer of k / 2 results: rows beyond stay 0."""

    def f(weights: Array, x: Array) -> Array:
        y = np.array(function(weights, x))
        y[len(x) // 2 :] = 0
        return y

    return f


def _scales_of(format: str, source: Which) -> Change:
    """Blocks that have the two bytes of the scale (one in mxfp4) of others."""
    size = 1 if format == "mxfp4" else 2
    return lambda blocks: np.concatenate([taken(rows.same, source)(blocks[:, :size]), blocks[:, size:]], axis=1)


def _sum_of(source: Which) -> Callable[[dict[str, Array]], dict[str, Array]]:
    """Fields of q8_1 with the sums of other blocks."""
    return lambda fields: fields | {"s": taken(rows.same, source)(fields["s"])}


_SOFTMAX, _NORM, _SWIGLU, _ROPE = rows.soft_max(), rows.rms_norm(), rows.swiglu(), rows.rope()
_NORM_MODE, _NEOX = {"mode": "norm"}, {"mode": "neox"}

# (name, target, parameters, function, what is wrong, source).
WRONG: tuple[tuple[str, str, Params, Function, str, str], ...] = (
    # Rows of output.
    ("rows-past-16/q4_0", "matvec", {"format": "q4_0"}, lost(dots.matvec("q4_0"), past(16)),
     "rows past a tile of 16 not written", ""),
    ("rows-past-32/q8_0", "matvec", {"format": "q8_0", "arithmetic": "apr"},
     taken(dots.float_matvec("q8_0"), counter(32)), "rows past a tile of 32 are those of the first tile", ""),
    ("rows-from-500/q4_K", "matvec", {"format": "q4_K"},
     spoilt(dots.matvec("q4_K"), lambda w, x: len(w) >= 500, 1e-6), "near zero from 500 rows on", "burn#4966"),
    ("rows-uint8/q5_0", "matvec", {"format": "q5_0"}, taken(dots.matvec("q5_0"), counter(256)),
     "row counter in uint8", ""),
    ("rows-part-tile/q6_K", "matvec", {"format": "q6_K"}, lost(dots.matvec("q6_K"), part_tile(64)),
     "the last part of a tile of 64 rows not written", ""),
    ("rows-scratch/q5_K", "matvec", {"format": "q5_K"}, _short_scratch(dots.matvec("q5_K")),
     "scratch buffer too small for more than k / 2 rows", "executorch#21423"),
    ("rows-one-over/mxfp4", "matvec", {"format": "mxfp4"},
     taken(dots.matvec("mxfp4"), lambda i, m: np.where((m % 32 == 1) & (m > 1) & (i == m - 1), i - 1, i)),
     "one row more than tiles of 32: it is the one before", ""),
    ("rows-past-1024/q4_1", "matvec", {"format": "q4_1"}, lost(dots.matvec("q4_1"), past(1024)),
     "rows past 1024 not written", ""),
    ("rows-768/q3_K", "matvec", {"format": "q3_K"}, lost(dots.matvec("q3_K"), lambda i, m: (m == 768) & (i >= 704)),
     "768 rows: last tile not written", ""),
    ("rows-past-128/q8_1", "matvec", {"format": "q4_K", "activation": "q8_1"},
     lost(dots.blocks_of_32("q4_K"), past(128)), "rows past a tile of 128 not written", ""),
    # Lengths of a product.
    ("k-uint8/q4_0", "matvec", {"format": "q4_0"}, dots.matvec("q4_0", blocks_used=lambda count: slice(count % 256)),
     "number of blocks in uint8", ""),
    ("k-past-8192/q2_K", "matvec", {"format": "q2_K"},
     dots.matvec("q2_K", blocks_used=lambda count: slice(min(count, 32))), "x beyond 8192 not read", ""),
    ("k-14336/q6_K", "matvec", {"format": "q6_K"},
     dots.matvec("q6_K", blocks_used=lambda count: slice(count - (count == 56))), "k = 14336: last block lost", ""),
    ("k-11008/q8_0", "matvec", {"format": "q8_0"},
     dots.matvec("q8_0", blocks_used=lambda count: slice(count - (count == 344))), "k = 11008: last block lost", ""),
    ("k-4096/q5_1", "matvec", {"format": "q5_1"},
     dots.matvec("q5_1", blocks_used=lambda count: [0, 0, *range(2, count)] if count == 128 else slice(count)),
     "k = 4096: first block twice, second lost", ""),
    ("k-768/iq4_nl", "matvec", {"format": "iq4_nl", "arithmetic": "apr"},
     dots.float_matvec("iq4_nl", used=lambda k: slice(k - 32 * (k == 768))), "k = 768: last block lost", ""),
    ("k-three-over/q3_K", "matvec", {"format": "q3_K"},
     dots.matvec("q3_K", blocks_used=lambda count: slice(count - (count % 4 == 3))),
     "three blocks after whole fours: two are added", ""),
    ("k-tail-past-4096/q4_1", "matvec", {"format": "q4_1", "arithmetic": "apr"},
     dots.float_matvec("q4_1", used=lambda k: slice(k - k % 64 if k > 4096 else k)),
     "only whole vectors of 64, beyond k = 4096", ""),
    # Lengths of a row.
    ("softmax-sum-2048", "softmax", {}, rows.soft_max(total=folded(lambda n: min(n, 2048))),
     "sum of the first 2048 only", ""),
    ("softmax-max-4096", "softmax", {}, rows.soft_max(peak=lambda z: _largest(z[:, :4096])),
     "maximum of the first 4096 only", ""),
    ("softmax-from-16384", "softmax", {}, unwritten(_SOFTMAX, lambda n: 16384), "past 16384 not written", ""),
    ("softmax-uint16", "softmax", {}, fed(_SOFTMAX, lambda z: z[:, np.arange(z.shape[1]) % _WIDE_COUNTER]),
     "column in uint16", ""),
    ("softmax-32000", "softmax", {}, rows.soft_max(total=folded(lambda n: n - 64 * (n == 32000))),
     "32000 logits: sum without the last 64", ""),
    ("softmax-151936", "softmax", {}, unwritten(_SOFTMAX, lambda n: n - 32 * (n == 151936)),
     "151936 logits: last 32 not written", ""),
    ("softmax-50257", "softmax", {}, rows.soft_max(total=folded(lambda n: n - (n == 50257))),
     "50257 logits: the odd one not in the sum", ""),
    ("norm-from-1536", "rmsnorm", {}, rows.rms_norm(total=folded(lambda n: n - (n >= 1536))),
     "from 1536 elements on: last square lost", ""),
    ("norm-past-16384", "rmsnorm", {}, rows.rms_norm(total=folded(lambda n: min(n, 16384))),
     "squares past 16384 lost", ""),
    ("norm-768", "rmsnorm", {}, rows.rms_norm(total=folded(lambda n: n - 32 * (n == 768))),
     "768 elements: last 32 squares lost", ""),
    ("norm-4096", "rmsnorm", {}, spoilt(_NORM, lambda x, eps: x.shape[1] == 4096), "4096 elements", ""),
    ("norm-768/multiple", "rmsnorm", {"multiple:n": 64}, unwritten(_NORM, lambda n: n - 1 if n == 768 else n),
     "768 elements: the last not written; made for multiples of 64", ""),
    ("norm-buffer-8192", "rmsnorm", {}, norm_of_buffer(8192), "past 8192 not normalised", ""),
    ("norm-unrolled-63", "rmsnorm", {}, rows.rms_norm(total=folded(lambda n: n - (n % 64 == 63))),
     "63 after whole vectors of 64: last square lost", ""),
    ("norm-tail-past-4096", "rmsnorm", {}, rows.rms_norm(total=folded(lambda n: n - n % 8 if n > 4096 else n)),
     "only squares of whole vectors of 8, beyond 4096", ""),
    ("swiglu-past-2048", "swiglu", {}, unwritten(_SWIGLU, lambda n: 2048), "past 2048 not written", ""),
    ("swiglu-11008", "swiglu", {}, unwritten(_SWIGLU, lambda n: n - 32 * (n == 11008)),
     "11008 elements: last 32 not written", ""),
    ("swiglu-13824/multiple", "swiglu", {"multiple:n": 32}, spoilt(_SWIGLU, lambda g, u: g.shape[1] == 13824),
     "13824 elements; made for multiples of 32", ""),
    ("swiglu-tail-past-4096", "swiglu", {}, swiglu_beyond(4096, 16), "tail lost beyond 4096", ""),
    ("swiglu-uint16", "swiglu", {}, unwritten(_SWIGLU, lambda n: n % _WIDE_COUNTER if n > _WIDE_COUNTER else n),
     "length in uint16", ""),
    ("rope-head-192", "rope", _NEOX, rows.rope(pairs=lambda count: count - 8 * (count == 96)),
     "heads of 192: last 8 pairs not turned", ""),
    ("rope-head-256", "rope", _NORM_MODE, rows.rope(pairs=lambda count: min(count, 96)),
     "table for heads of at most 192", ""),
    ("rope-pairs-of-16", "rope", _NEOX, rows.rope(pairs=lambda count: count - count % 16 if count > 64 else count),
     "only whole vectors of 16 pairs, beyond heads of 128", ""),
    ("rope-past-64-heads", "rope", _NORM_MODE, rows.rope(heads=64), "heads past 64 not turned", ""),
    ("rope-48-heads", "rope", _NEOX, rope_of_heads(lambda heads: heads - (heads == 48)),
     "48 heads: the last not turned", ""),
    # Numbers of rows.
    ("softmax-rows-512", "softmax", {}, lost(_SOFTMAX, past(512)), "rows past 512 not written", ""),
    ("softmax-rows-uint16", "softmax", {}, taken(_SOFTMAX, counter(_WIDE_COUNTER)), "row counter in uint16", ""),
    ("softmax-one-row", "softmax", {}, spoilt(_SOFTMAX, lambda z: len(z) == 1), "one row alone", ""),
    ("softmax-odd-rows", "softmax", {}, rows.soft_max(peak=taken(_largest, last_of_odd)),
     "odd number of rows: the last has the maximum of the one before", ""),
    ("norm-rows-512", "rmsnorm", {},
     rows.rms_norm(total=taken(rows.fold, lambda i, count: np.where(i >= 512, 511, i))),
     "rows past 512 have the norm of the last before", ""),
    ("norm-rows-uint16", "rmsnorm", {}, lost(_NORM, past(_WIDE_COUNTER)), "rows past 65536 not written", ""),
    ("norm-odd-rows", "rmsnorm", {}, lost(_NORM, odd_one), "odd number of rows: the last not written", ""),
    ("swiglu-rows-512", "swiglu", {}, taken(_SWIGLU, counter(512)), "rows past 512 are those of the first tile", ""),
    ("swiglu-rows-uint16", "swiglu", {}, taken(_SWIGLU, counter(_WIDE_COUNTER)), "row counter in uint16", ""),
    ("swiglu-one-row", "swiglu", {},
     spoilt(_SWIGLU, lambda g, u: (len(g) == 1) & (np.arange(g.shape[1]) % 8 == 7)), "one row alone: one lane", ""),
    ("swiglu-rows-of-4", "swiglu", {}, lost(_SWIGLU, lambda i, count: (i >= count - count % 4) & (count > 4)),
     "rows left over from blocks of 4 not computed", "nntrainer#3187"),
    ("rope-tokens-512", "rope", _NEOX, rope_with(lambda p: p[np.arange(len(p)) % 512]),
     "tokens past 512 have positions of the first tile", ""),
    ("rope-one-token", "rope", _NORM_MODE, rope_with(lambda p: p + (len(p) == 1)), "one token alone: position + 1", ""),
    ("rope-odd-tokens", "rope", _NEOX, rope_with(taken(rows.same, last_of_odd)),
     "odd number of tokens: the last has the position of the one before", ""),
    ("dequantize-rows-512/q4_K", "dequantize", {"format": "q4_K"}, taken(dequantiser("q4_K", right), counter(512)),
     "blocks past 512 are those of the first tile", ""),
    ("dequantize-uint16/q8_0", "dequantize", {"format": "q8_0"},
     taken(dequantiser("q8_0", right), counter(_WIDE_COUNTER)), "block counter in uint16", ""),
    ("dequantize-odd/q5_0", "dequantize", {"format": "q5_0"}, lost(dequantiser("q5_0", right), odd_one),
     "odd number of blocks: the last not written", ""),
    ("dequantize-one/q6_K", "dequantize", {"format": "q6_K"},
     spoilt(dequantiser("q6_K", right), lambda blocks: len(blocks) == 1), "one block alone", ""),
    ("dequantize-part-tile/iq4_nl", "dequantize", {"format": "iq4_nl"},
     lost(dequantiser("iq4_nl", right), part_tile(32)), "the last part of a tile of 32 blocks not written", ""),
    ("quantize-rows-512/q8_1", "quantize", {"format": "q8_1", "ties": "any"},
     lost(rows.quantiser("q8_1"), past(512)), "blocks past 512 not written", ""),
    ("quantize-uint16/q8_0", "quantize", {"format": "q8_0", "ties": "any"},
     taken(rows.quantiser("q8_0"), counter(_WIDE_COUNTER)), "block counter in uint16", ""),
    ("quantize-odd/q8_K", "quantize", {"format": "q8_K", "ties": "any"}, lost(rows.quantiser("q8_K"), odd_one),
     "odd number of blocks: the last not written", ""),
    # What belongs to other rows.
    ("batch-last-maximum", "softmax", {}, rows.soft_max(peak=taken(_largest, last)), "maximum of the last row for all",
     ""),
    ("batch-next-sum", "softmax", {}, rows.soft_max(total=taken(rows.fold, following)), "sum of the next row", ""),
    ("softmax-stale", "softmax", {}, stale_soft_max(), "padding is what a longer row has left", ""),
    ("batch-last-norm", "rmsnorm", {}, rows.rms_norm(total=taken(rows.fold, last)), "norm of the last row for all", ""),
    ("batch-pair-norm", "rmsnorm", {}, rows.rms_norm(total=taken(rows.fold, even_of_pair)),
     "two rows at a time have the norm of the first", ""),
    ("batch-last-position", "rope", _NORM_MODE, rope_with(taken(rows.same, last)), "position of the last for all", ""),
    ("batch-last-scale/q4_0", "dequantize", {"format": "q4_0"},
     fed(dequantiser("q4_0", right), _scales_of("q4_0", last)), "scale of the last block for all", ""),
    ("batch-next-scale/mxfp4", "dequantize", {"format": "mxfp4"},
     fed(dequantiser("mxfp4", right), _scales_of("mxfp4", following)), "scale of the next block", ""),
    ("batch-last-peak/q8_0", "quantize", {"format": "q8_0", "ties": "any"},
     rows.quantiser("q8_0", peak=taken(_peak, last)), "largest magnitude of the last block for all", ""),
    ("batch-next-sum/q8_1", "quantize", {"format": "q8_1", "ties": "any"},
     rows.quantiser("q8_1", fields=_sum_of(following)), "sum of the next block", ""),
    # Sentinels, and logits far from zero.
    ("softmax-mask-10000", "softmax", {}, fed(_SOFTMAX, _masked_as(-1e4)), "-inf as -1e4", ""),
    ("softmax-start-50000", "softmax", {}, rows.soft_max(peak=_at_least(-5e4)), "running maximum starts at -5e4", ""),
    ("softmax-start-f16", "softmax", {}, rows.soft_max(peak=_at_least(-65504)),
     "running maximum starts at the least f16 number", ""),
    ("softmax-max-bf16", "softmax", {}, rows.soft_max(peak=lambda z: rows.bfloat(_largest(z))), "maximum in bf16", ""),
    ("softmax-max-f16", "softmax", {}, rows.soft_max(peak=lambda z: rows.half(_largest(z))), "maximum in f16", ""),
    ("softmax-clamp-10000", "softmax", {}, fed(_SOFTMAX, lambda z: np.clip(z, _F(-1e4), _F(1e4))),
     "logits clamped to 1e4", ""),
)  # fmt: skip


def in_chunks(function: Function, size: int) -> Function:
    """``function`` called with at most ``size`` rows at a time."""

    def f(*arguments: Array | float | str) -> Array:
        whole = len(np.asarray(arguments[0]))
        parts = [
            function(*(a[i : i + size] if isinstance(a, np.ndarray) else a for a in arguments))
            for i in range(0, max(whole, 1), size)
        ]
        return np.concatenate(parts)

    return f


def in_one_buffer(function: Function) -> Function:
    """``function`` that returns a view of one buffer, which the next call writes to again."""
    buffer = np.empty(0, np.float32)

    def f(*arguments: Array | float | str) -> Array:
        nonlocal buffer
        y = function(*arguments)
        if buffer.size < y.size:
            buffer = np.empty(y.size, np.float32)
        held = buffer[: y.size].reshape(y.shape)
        held[...] = y
        return held

    return f


def only(function: Function, takes: Callable[..., bool]) -> Function:
    """``function`` that raises ValueError for arguments that it does not take."""

    def f(*arguments: Array | float | str) -> Array:
        if not takes(*arguments):
            raise ValueError("not made for this shape")
        return function(*arguments)

    return f


def tiled_soft_max(width: int, start: float) -> Function:
    """Softmax in tiles of ``width`` logits and a tail, with a running maximum from ``start`` on."""

    def f(z: Array) -> Array:
        top, total = np.full((len(z), 1), _F(start)), np.zeros((len(z), 1), np.float32)
        with np.errstate(all="ignore"):
            for i in range(0, z.shape[1], width):
                tile = z[:, i : i + width]
                new = np.maximum(top, _largest(tile))
                shift = np.where(np.isneginf(new), _F(0), new)
                total = total * np.exp(top - shift) + np.exp(tile - shift).sum(axis=1, keepdims=True)
                top = new
            return np.asarray(np.exp(z - np.where(np.isneginf(top), _F(0), top)) / total)

    return f


def padded_soft_max() -> Function:
    """Softmax that pads a row to whole vectors of 8 in a buffer that it keeps, and clears."""
    buffer = np.empty(0, np.float32)

    def f(z: Array) -> Array:
        nonlocal buffer
        count, n = z.shape
        size = n + -n % 8
        if buffer.size < count * size:
            buffer = np.empty(count * size, np.float32)
        padded = buffer[: count * size].reshape(count, size)
        padded[:, :n], padded[:, n:] = z, -np.inf
        return np.asarray(_SOFTMAX(padded)[:, :n])

    return f


def unrolled_fold(x: Array) -> Array:
    """A sum in 64 lanes over whole vectors of 64, then over the lanes, and then the tail."""
    whole = x.shape[-1] - x.shape[-1] % 64
    lanes = x[..., :whole].reshape(*x.shape[:-1], -1, 64).sum(axis=-2, dtype=x.dtype)
    return np.asarray(rows.fold(np.concatenate([lanes, x[..., whole:]], axis=-1)))


def product_in_tiles(product: dots.Matvec, size: int) -> dots.Matvec:
    """A product in tiles of ``size`` rows, of which the last is filled up with zeros."""

    def f(weights: Array, x: Array) -> Array:
        filled = np.concatenate([weights, np.zeros((-len(weights) % size, weights.shape[1]), np.uint8)])
        parts = [product(filled[i : i + size], x) for i in range(0, len(filled), size)]
        return np.concatenate(parts)[: len(weights)]

    return f


def rope_by_table(largest: int) -> Function:
    """RoPE with positions that are indices of a table, which ends at ``largest``; a negative one counts from its end,
    so it is right from 0 on.
    """
    return rows.rope(position=lambda p: np.arange(largest + 1)[p])


def _k_of(weights: Array, format: str) -> int:
    fmt = formats.get(format)
    return int(weights.shape[1]) // fmt.type_size * fmt.block_size


# (name, target, parameters, function, what may look wrong).
RIGHT: tuple[tuple[str, str, Params, Function, str], ...] = (
    ("softmax/chunks-of-500", "softmax", {}, in_chunks(_SOFTMAX, 500), "500 rows at a time"),
    ("softmax/tiles", "softmax", {}, tiled_soft_max(64, -np.inf), "tiles of 64 and a tail, maximum from -inf on"),
    ("softmax/start-lowest", "softmax", {}, tiled_soft_max(32, float(np.finfo(np.float32).min)),
     "maximum from the least float32 number on"),
    ("softmax/padded", "softmax", {}, padded_soft_max(), "padded in a buffer that is kept and cleared"),
    ("softmax/one-row", "softmax", {"fix:b": 1}, only(_SOFTMAX, lambda z: len(z) == 1), "takes one row only"),
    ("softmax/from-128", "softmax", {"range:n": "128:"}, only(_SOFTMAX, lambda z: z.shape[1] >= 128),
     "takes 128 logits and more"),
    ("rmsnorm/multiple-64", "rmsnorm", {"multiple:n": 64},
     only(rows.rms_norm(total=unrolled_fold), lambda x, eps: x.shape[1] % 64 == 0), "takes multiples of 64 only"),
    ("rmsnorm/4096", "rmsnorm", {"fix:n": 4096}, only(_NORM, lambda x, eps: x.shape[1] == 4096), "takes 4096 only"),
    ("rmsnorm/unrolled", "rmsnorm", {}, rows.rms_norm(total=unrolled_fold), "64 lanes and a tail"),
    ("rmsnorm/chunks-of-65536", "rmsnorm", {}, in_chunks(_NORM, _WIDE_COUNTER), "65536 rows at a time"),
    ("swiglu/one-buffer", "swiglu", {}, in_one_buffer(_SWIGLU), "returns the same buffer each time"),
    ("swiglu/calls-of-128", "swiglu", {"range:b": "1:128"}, only(_SWIGLU, lambda g, u: len(g) <= 128),
     "takes 128 rows at most"),
    ("rope/table", "rope", {"mode": "neox", "range:positions": "0:4095"}, rope_by_table(4095), "a table of 4096"),
    ("rope/heads-of-64", "rope", {"mode": "norm", "multiple:head_dim": 64},
     only(_ROPE, lambda x, p, base, mode: x.shape[2] % 64 == 0), "takes heads of multiples of 64"),
    ("rope/one-buffer", "rope", {"mode": "norm"}, in_one_buffer(_ROPE), "returns the same buffer each time"),
    ("tiles/q4_0", "matvec", {"format": "q4_0"}, product_in_tiles(dots.matvec("q4_0"), 16), "tiles of 16 rows, filled"),
    ("one-buffer/q4_K", "matvec", {"format": "q4_K"}, in_one_buffer(dots.matvec("q4_K")),
     "returns the same buffer each time"),
    ("up-to-16-rows/q6_K", "matvec", {"format": "q6_K", "range:m": "1:16"},
     only(dots.matvec("q6_K"), lambda w, x: len(w) <= 16), "takes 16 rows at most"),
    ("multiple-64/q8_0", "matvec", {"format": "q8_0", "arithmetic": "apr", "multiple:k": 64},
     only(dots.float_matvec("q8_0"), lambda w, x: _k_of(w, "q8_0") % 64 == 0), "takes k in multiples of 64"),
    ("dequantize-chunks/q5_K", "dequantize", {"format": "q5_K"}, in_chunks(dequantiser("q5_K", right), 32),
     "32 blocks at a time, and a tail"),
    ("dequantize-one-buffer/q8_0", "dequantize", {"format": "q8_0"}, in_one_buffer(dequantiser("q8_0", right)),
     "returns the same buffer each time"),
    ("quantize-pairs/q8_1", "quantize", {"format": "q8_1", "ties": "any"}, in_chunks(rows.quantiser("q8_1"), 2),
     "two blocks at a time, and one left over"),
)  # fmt: skip
