"""Simulated engines: a forward pass in float32 with an arithmetic of its own, written apart from the one that is
checked with.

An engine quantises activations, rounds what its cache, its residual or its table stores, and adds up sums in an order
of its own. Those of ``DESCRIBED`` are arithmetics that ``diffuzz check`` tries first, those of ``UNUSUAL`` are tried
where these fail, and those of ``UNDESCRIBED`` are none that it knows. Two engines that differ in ``pieces``, ``ties``
and ``quotient`` only are two builds of one.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
import ml_dtypes
import numpy as np

from diffuzz.models.operations.attention import Mixture, Scores
from diffuzz.models.operations.glu import Glu
from diffuzz.models.operations.norm import Norm
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.rope import Rope
from diffuzz.models.operations.sum import Sum
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Operation

if TYPE_CHECKING:
    from jaxtyping import Float32

Weight = tuple[np.ndarray, np.ndarray | None]
_NARROW = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
_LARGEST = {"fp8": 448, "e5m2": 57344}


@attrs.frozen
class Engine:
    """What an engine computes in.

    activations    of products: f32, f16, bf16, ggml (the format that ggml pairs with the weights), int8, fp8, int6,
                   e5m2, asymmetric (8 bits with a zero point), power (8 bits, scales are powers of two)
    block          elements that share a scale of these: 0 is the partner's block, -1 a whole row
    half           whether these scales, and the stored sums, are f16 numbers
    weights        what dequantised weights are rounded to
    accumulator    f32, or f16 or bf16: every 32 terms are added to it
    kv, both       what the cache holds: f32, f16, bf16 or int8; whether q and the probabilities are rounded, too
    residual       f32, or bf16 or f16, in which it is stored
    table          whether the activation is looked up in a table of f16 numbers
    recurrence     whether angles are ggml's
    pieces         how many pieces a sum is computed in; ``order`` is the seed of where they begin
    ties, quotient how codes are rounded (even, away), and computed (divided, reciprocal, inverse)
    """

    name: str
    activations: str = "f32"
    block: int = 0
    half: bool = True
    weights: str = "f32"
    accumulator: str = "f32"
    kv: str = "f32"
    both: bool = False
    residual: str = "f32"
    table: bool = False
    recurrence: bool = False
    pieces: int = 1
    order: int = 0
    ties: str = "even"
    quotient: str = "divided"
    described: bool = True

    def computed(
        self,
        operation: Operation,
        inputs: Several[Float32[np.ndarray, " ..."]],
        weight: Weight | None,
        sequence: Sequence,
    ) -> Float32[np.ndarray, " ..."]:
        """The result of a step; ``weight`` is that of a product."""
        if isinstance(operation, Product):
            assert weight is not None
            return self._product(operation, inputs[0], weight)
        arithmetic = "f32"
        if isinstance(operation, Scores | Mixture) and self.kv == "int8":
            inputs = [
                inputs[0],
                *(_codes(each, operation_size(operation, each), half=False, engine=self) for each in inputs[1:]),
            ]
        elif isinstance(operation, Scores | Mixture) and self.kv != "f32":
            arithmetic = self.kv if self.both else f"{self.kv} cache"
        elif isinstance(operation, Sum) and self.residual != "f32":
            arithmetic = f"{self.residual} stored"
        elif isinstance(operation, Norm) and self.residual != "f32" and len(operation.gain) == inputs[0].shape[-1]:
            arithmetic = self.residual
        elif isinstance(operation, Glu) and self.table:
            arithmetic = "f16 table"
        elif isinstance(operation, Rope) and self.recurrence:
            arithmetic = "recurrence"
        return np.asarray(operation.value(inputs, arithmetic, sequence)).astype(np.float32, copy=False)

    def read(
        self, product: Product, x: Float32[np.ndarray, "n k"]
    ) -> tuple[Float32[np.ndarray, "n k"], Float32[np.ndarray, "n k/32"] | None]:
        """Activations as the product reads them, and by how much the stored sums are below those of the blocks."""
        kind = self.activations
        if kind in ("f16", "bf16"):
            return x.astype(_NARROW[kind]).astype(np.float32), None
        if kind == "f32" or product.partner not in ("q8_0", "q8_1", "q8_K"):
            return x, None
        if kind == "ggml":
            size, half = (256, False) if product.partner == "q8_K" else (32, self.half)
        else:
            size, half = (x.shape[-1] if self.block < 0 else self.block or 32), self.half
        if kind in ("fp8", "e5m2"):
            return _floats(x, size, kind), None
        if kind in _GRIDS:
            return _GRIDS[kind](x.reshape(len(x), -1, size)).reshape(x.shape).astype(np.float32), None
        restored = _codes(x, size, half=half, engine=self)
        if kind == "ggml" and product.partner == "q8_1" and half:
            d, codes = _quantised(x, 32, self)
            stored = (d[..., 0] * codes.sum(axis=-1)).astype(np.float16).astype(np.float32)
            return restored, restored.reshape(len(x), -1, 32).sum(axis=2) - stored
        return restored, None

    def _product(
        self, product: Product, x: Float32[np.ndarray, "n k"], weight: Weight
    ) -> Float32[np.ndarray, "n rows"]:
        values, minimum = weight
        if self.weights != "f32":
            values = values.astype(_NARROW[self.weights]).astype(np.float32)
        with np.errstate(all="ignore"):
            seen, short = self.read(product, x)
            result = self.multiplied(seen, values)
            if short is not None and minimum is not None:
                result = result + short @ minimum.T
            return result if product.bias is None else result + product.bias

    def multiplied(
        self, x: Float32[np.ndarray, "n k"], values: Float32[np.ndarray, "rows k"]
    ) -> Float32[np.ndarray, "n rows"]:
        """``x @ values.T``, added up as the engine does."""
        k = x.shape[-1]
        if self.accumulator != "f32":
            narrow = _NARROW[self.accumulator]
            total = np.zeros((len(x), len(values)), narrow)
            for start in range(0, k, 32):
                part = x[:, start : start + 32] @ values[:, start : start + 32].T
                total = (total.astype(np.float32) + part).astype(narrow)
            return np.asarray(total.astype(np.float32))
        if self.pieces == 1:
            return np.asarray(x @ values.T)
        rng = np.random.default_rng([self.order, k, len(values)])
        cuts = [0, *sorted(rng.choice(np.arange(1, k), self.pieces - 1, replace=False).tolist()), k]
        parts = [x[:, a:b] @ values[:, a:b].T for a, b in pairwise(cuts)]
        total = np.zeros_like(parts[0])
        for index in rng.permutation(len(parts)):
            total = total + parts[index]
        return total


def operation_size(operation: Scores | Mixture, cached: np.ndarray) -> int:
    """Elements of a head of keys or values."""
    return int(cached.shape[-1] // operation.groups)


def _quantised(
    x: Float32[np.ndarray, "... n"], size: int, engine: Engine
) -> tuple[Float32[np.ndarray, "... n/size 1"], Float32[np.ndarray, "... n/size size"]]:
    """Scale and codes of 8 bits of every ``size`` elements."""
    with np.errstate(all="ignore"):
        blocks = x.reshape(*x.shape[:-1], -1, size)
        peak = np.abs(blocks).max(axis=-1, keepdims=True)
        d = peak / np.float32(127)
        if engine.quotient == "divided":
            quotient = blocks / d
        else:
            quotient = blocks * (np.float32(127) / peak if engine.quotient == "inverse" else np.float32(1) / d)
        quotient = np.where(d > 0, quotient, 0)
        half = np.copysign(np.float32(0.5), quotient)
        return d, np.rint(quotient) if engine.ties == "even" else np.trunc(quotient + half)


def _codes(x: np.ndarray, size: int, *, half: bool, engine: Engine) -> Float32[np.ndarray, " ..."]:
    """x in codes of 8 bits with a scale for every ``size`` elements, restored."""
    with np.errstate(all="ignore"):
        d, codes = _quantised(x, size, engine)
        scale = d.astype(np.float16).astype(np.float32) if half else d
        return np.asarray((scale * codes).reshape(x.shape).astype(np.float32))


def _floats(x: Float32[np.ndarray, "n k"], size: int, kind: str) -> Float32[np.ndarray, "n k"]:
    """x in float8 (e4m3, e5m2) with a scale for every ``size`` elements, restored."""
    blocks = x.reshape(len(x), -1, size)
    scale = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), np.float32(1e-30)) / np.float32(_LARGEST[kind])
    return np.asarray(((blocks / scale).astype(_NARROW[kind]).astype(np.float32) * scale).reshape(x.shape))


def _six_bits(blocks: Float32[np.ndarray, "n b size"]) -> Float32[np.ndarray, "n b size"]:
    scale = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), np.float32(1e-30)) / np.float32(31)
    return np.asarray(np.rint(blocks / scale) * scale)


def _with_zero_point(blocks: Float32[np.ndarray, "n b size"]) -> Float32[np.ndarray, "n b size"]:
    low = np.minimum(blocks.min(axis=-1, keepdims=True), 0)
    high = np.maximum(blocks.max(axis=-1, keepdims=True), 0)
    scale = np.maximum(high - low, np.float32(1e-30)) / np.float32(255)
    zero = np.rint(-low / scale)
    return np.asarray((np.clip(np.rint(blocks / scale) + zero, 0, 255) - zero) * scale)


def _power_of_two(blocks: Float32[np.ndarray, "n b size"]) -> Float32[np.ndarray, "n b size"]:
    peak = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), np.float32(1e-30))
    scale = np.exp2(np.ceil(np.log2(peak / np.float32(127)))).astype(np.float32)
    return np.asarray(np.rint(blocks / scale) * scale)


_GRIDS = {"int6": _six_bits, "asymmetric": _with_zero_point, "power": _power_of_two}


_Q8 = Engine("q8", activations="ggml", recurrence=True)
DESCRIBED = (
    Engine("f32"),
    _Q8,
    attrs.evolve(_Q8, name="q8 with f32 scales", half=False),
    attrs.evolve(_Q8, name="q8, f16 kv", kv="f16", both=True),
    Engine("f32, bf16 residual", residual="bf16"),
    attrs.evolve(_Q8, name="q8, table", table=True),
    Engine("f16 activations", activations="f16", kv="f16", both=True),
)
UNUSUAL = (
    Engine("int8, one scale a row", activations="int8", block=-1, half=False, described=False),
    Engine("int8 in blocks of 64", activations="int8", block=64, half=False, described=False),
    Engine("int8 in blocks of 16", activations="int8", block=16, half=True, described=False),
    Engine("fp8, one scale a row", activations="fp8", block=-1, half=False, described=False),
    Engine("int8 kv", kv="int8", described=False),
    Engine("bf16 weights", weights="bf16", described=False),
)
UNDESCRIBED = (
    Engine("f16 accumulation", activations="f16", accumulator="f16", described=False),
    Engine("8 bits with a zero point", activations="asymmetric", block=-1, described=False),
    Engine("6 bits in blocks of 64", activations="int6", block=64, described=False),
    Engine("e5m2, one scale a row", activations="e5m2", block=-1, described=False),
    Engine("8 bits, scales of powers of two", activations="power", block=32, described=False),
)


def builds(engine: Engine, seed: int) -> tuple[Engine, ...]:
    """Other builds of an engine: right ones, whose sums and codes are computed otherwise."""
    rng = np.random.default_rng([seed, 6])
    more = (("even", "reciprocal"), ("away", "divided"), ("away", "inverse"))
    return tuple(
        attrs.evolve(
            engine, pieces=int(rng.integers(2, 9)), order=int(rng.integers(2**31)), ties=ties, quotient=quotient
        )
        for ties, quotient in more
    )
