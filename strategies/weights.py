"""Rows of quantised weights: patterns in every field of the blocks, or a quantised distribution of weights.

fields     each field is drawn by itself: scales from block_scales, codes by one of these patterns:
             highest, lowest     one code everywhere
             identity            codes in order, from the lowest up
             bytes in order      those of a block whose byte i is i, so that no two bytes are equal
             one                 one lowest code among highest ones
             single bit          one bit of one code is set, the other codes are zero
             random              uniform
bytes      random bytes with finite scales
quantised  gaussian, heavy-tailed or sparse weights, with outlier columns or outlier rows, by Format.quantize
published  the seed blocks (sb, t) of the published claims (q4_K)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import numpy as np
from hypothesis import strategies as st

from diffuzz import formats
from diffuzz.targets.published import seed_block

from .block_scales import LARGEST_HALF, half_scales, single_bit, sub_scales

if TYPE_CHECKING:
    from jaxtyping import Int32, UInt8

CODES = ("highest", "lowest", "identity", "bytes in order", "one", "single bit", "random")
DISTRIBUTIONS = ("gaussian", "heavy-tailed", "sparse", "outlier columns", "outlier rows")
# Fields of sub-blocks.
_SUB = ("scales", "minimums", "bsums")
# Typical standard deviation of the weights of a trained model.
SPREAD = 0.02
# An f16 field is at most so many times the largest weight of its block; the largest is s of q8_1, a sum of 32 weights.
LARGEST_FIELD = 32


@attrs.frozen(eq=False)
class Blocks:
    """Descriptor of rows of k weights each, in blocks of ``format``.

    ``kind`` is one of those in the module's docstring, ``codes`` one of CODES or of DISTRIBUTIONS. ``fields`` has the
    scales and sub-block scales by name, which are repeated over the blocks.
    """

    format: str
    rows: int
    k: int
    kind: str
    codes: str
    seed: int
    fields: dict[str, np.ndarray] = attrs.field(factory=dict)
    largest_scale: float = LARGEST_HALF

    def expand(self) -> UInt8[np.ndarray, "rows row_bytes"]:
        """The bytes of the rows."""
        fmt = formats.get(self.format)
        count = self.rows * self.k // fmt.block_size
        rng = np.random.default_rng(self.seed)
        if self.kind == "published":
            raw = np.stack([seed_block((self.seed + i) % 256, self.seed // 256 % 256) for i in range(count)])
        elif self.kind == "quantised":
            raw = self._quantised(fmt, rng)
        elif self.kind == "bytes":
            raw = rng.integers(0, 256, (count, fmt.type_size), dtype=np.uint8)
        else:
            unpacked = fmt.unpack(rng.integers(0, 256, (count, fmt.type_size), dtype=np.uint8))
            codes = {name: _codes(fmt, name, self.codes, unpacked[name], rng) for name in _code_fields(fmt)}
            raw = fmt.pack(unpacked | codes)
        return fmt.canonical(self._with_fields(fmt, raw)).reshape(self.rows, -1)

    def _with_fields(
        self, fmt: formats.Format, raw: UInt8[np.ndarray, "b type_size"]
    ) -> UInt8[np.ndarray, "b type_size"]:
        if self.kind in ("published", "quantised"):
            return raw
        unpacked = fmt.unpack(raw)
        for name, pattern in self.fields.items():
            shape = unpacked[name].shape
            unpacked[name] = np.resize(pattern, (len(raw), *shape[1:])).astype(unpacked[name].dtype)
        return fmt.pack(unpacked)

    def _quantised(self, fmt: formats.Format, rng: np.random.Generator) -> UInt8[np.ndarray, "b type_size"]:
        if fmt.quantize is None:
            raise ValueError(f"format={fmt.name}: it has no quantiser, which a distribution of weights needs")
        size = (self.rows, self.k)
        values = rng.standard_t(3, size) if self.codes == "heavy-tailed" else rng.standard_normal(size)
        if self.codes == "sparse":
            values *= rng.random(size) < 0.1
        elif self.codes == "outlier columns":
            values[:, rng.random(self.k) < 1 / 64] *= 30
            values[:, rng.integers(0, self.k)] *= 30
        elif self.codes == "outlier rows":
            values[rng.integers(0, self.rows, 1 + self.rows // 64)] *= 30
        peak = np.abs(values).max()
        values *= min(SPREAD, self.largest_scale / LARGEST_FIELD / peak) if peak > 0 else 1.0
        return fmt.quantize(values.reshape(-1, fmt.block_size).astype(np.float32))


def _code_fields(fmt: formats.Format) -> tuple[str, ...]:
    """Names of the fields that have a number for each element, or for a few: not the scales, nor what is one number."""
    fields = fmt.unpack(np.zeros((1, fmt.type_size), np.uint8))
    return tuple(name for name, values in fields.items() if values.ndim > 1 and name not in (*fmt.scale_fields, *_SUB))


def _codes(
    fmt: formats.Format, field: str, shape: str, drawn: Int32[np.ndarray, "b n"], rng: np.random.Generator
) -> Int32[np.ndarray, "b n"]:
    """The numbers of a field as ``drawn`` if shape is "random", else the pattern of that name."""
    if shape == "random":
        return drawn
    low, high = _stored_range(fmt, field)
    n = drawn.shape[1]
    i = np.arange(n)
    place, bit = rng.integers(0, n), int(rng.integers(0, (high - low).bit_length()))
    patterns: dict[str, Callable[[], np.ndarray]] = {
        "highest": lambda: np.full(n, high),
        "lowest": lambda: np.full(n, low),
        "identity": lambda: low + i % (high - low + 1),
        "bytes in order": lambda: fmt.unpack((np.arange(fmt.type_size) % 256).astype(np.uint8)[None])[field][0],
        "one": lambda: np.where(i == place, low, high),
        "single bit": lambda: np.where(i == place, single_bit(bit, low, high), 0),
    }
    return np.broadcast_to(patterns[shape]().astype(drawn.dtype), drawn.shape).copy()


def _stored_range(fmt: formats.Format, field: str) -> tuple[int, int]:
    """The least and the largest value that an integer field can store."""
    # Extremes of unsigned fields have all bits clear or set; those of signed bytes are 0x80 and 0x7F.
    ends = np.repeat(np.array([[0x00], [0xFF], [0x80], [0x7F]], np.uint8), fmt.type_size, axis=1)
    values = fmt.unpack(fmt.canonical(ends))[field]
    return int(values.min()), int(values.max())


def described_blocks(
    format: str, rows: int, k: int, *, largest_scale: float = LARGEST_HALF, allow_nonfinite: bool = False
) -> st.SearchStrategy[Blocks]:
    """Descriptors of rows of blocks, with the arguments of ``blocks``."""
    fmt = formats.get(format)
    if rows < 1 or k < 1 or k % fmt.block_size:
        raise ValueError(f"rows={rows}, k={k}: rows >= 1 and a multiple of {fmt.block_size} are needed")
    fixed: dict[str, st.SearchStrategy[object]] = {
        "format": st.just(format), "rows": st.just(rows), "k": st.just(k), "largest_scale": st.just(largest_scale)
    }  # fmt: skip
    seed = st.integers(0, 2**32 - 1)
    scales = {name: half_scales(4, largest=largest_scale, allow_nonfinite=allow_nonfinite) for name in fmt.scale_fields}
    patterns = dict(scales)
    example = fmt.unpack(np.zeros((1, fmt.type_size), np.uint8))
    for name in _SUB[:2]:
        if name in example:
            patterns[name] = sub_scales(example[name].shape[1], *_stored_range(fmt, name))

    def kind(name: str, codes: tuple[str, ...], **more: st.SearchStrategy[object]) -> st.SearchStrategy[Blocks]:
        return st.builds(Blocks, kind=st.just(name), codes=st.sampled_from(codes), **fixed | {"seed": seed} | more)

    kinds = [
        kind("fields", CODES, fields=st.fixed_dictionaries(patterns)),
        kind("bytes", ("random",), fields=st.fixed_dictionaries(scales)),
    ]
    if fmt.quantize is not None:
        kinds.append(kind("quantised", DISTRIBUTIONS))
    if format == "q4_K" and largest_scale >= 1:
        kinds.append(kind("published", ("random",), seed=st.integers(0, 65535)))
    return st.one_of(kinds)


def blocks(
    format: str, rows: int, k: int, *, largest_scale: float = LARGEST_HALF, allow_nonfinite: bool = False
) -> st.SearchStrategy[np.ndarray]:
    """Rows of quantised weights, uint8[rows, k / block_size * type_size], with |scale| <= largest_scale.

    Scales are finite unless ``allow_nonfinite``. Shrinks towards blocks with every scale 1 and every sub-block scale
    and code at the end of its range. Raises ValueError for an unknown format, and for a k that is not whole blocks.
    """
    return described_blocks(format, rows, k, largest_scale=largest_scale, allow_nonfinite=allow_nonfinite).map(
        Blocks.expand
    )
