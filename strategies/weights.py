"""Rows of quantised weights: bytes with every field under control, or a distribution of weights put through the
format's quantiser.

    fields        each field of a block by itself: scales from block_scales, codes constant, the identity, one bit, or
    by seed bytes         arbitrary bytes with finite scales quantised     Gaussian, heavy-tailed, sparse weights, or
    rows with outliers, quantised by Format.quantize published     the seed block (sb, t) of the published claims (q4_K)
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st

from diffuzz import formats
from diffuzz.published import seed_block
from strategies.block_scales import LARGEST_HALF, half_scales, sub_scales

CODES = ("highest", "lowest", "identity", "one", "single bit", "random")
DISTRIBUTIONS = ("gaussian", "heavy-tailed", "sparse", "outliers")


@attrs.frozen(eq=False)
class Blocks:
    """Descriptor of uint8[rows, row_bytes]: ``fields`` are scale and sub-scale patterns by name, repeated over the
    blocks.
    """

    format: str
    rows: int
    k: int
    kind: str
    codes: str
    seed: int
    fields: dict[str, np.ndarray] = attrs.field(factory=dict)

    def expand(self) -> np.ndarray:
        """The bytes: uint8[rows, row_bytes]."""
        fmt = formats.get(self.format)
        count = self.rows * self.k // fmt.block_size
        rng = np.random.default_rng(self.seed)
        if self.kind == "published":
            raw = np.stack([seed_block((self.seed + i) % 256, self.seed // 256 % 256) for i in range(count)])
        elif self.kind == "quantised":
            raw = _quantised(fmt, self.codes, count, rng)
        elif self.kind == "bytes":
            raw = rng.integers(0, 256, (count, fmt.type_size), dtype=np.uint8)
        else:
            unpacked = fmt.unpack(rng.integers(0, 256, (count, fmt.type_size), dtype=np.uint8))
            codes = _codes(self.codes, unpacked["codes"], *_code_range(fmt))
            raw = fmt.pack(unpacked | {"codes": codes})
        return self._with_fields(fmt, raw).reshape(self.rows, -1)

    def _with_fields(self, fmt: formats.Format, raw: np.ndarray) -> np.ndarray:
        if self.kind in ("published", "quantised"):
            return raw
        unpacked = fmt.unpack(raw)
        for name, pattern in self.fields.items():
            shape = unpacked[name].shape
            unpacked[name] = np.resize(pattern, (len(raw), *shape[1:])).astype(unpacked[name].dtype)
        return fmt.pack(unpacked)


def _codes(shape: str, drawn: np.ndarray, low: int, high: int) -> np.ndarray:
    i = np.arange(drawn.shape[1])
    if shape == "random":
        return drawn
    pattern = {
        "highest": np.full(len(i), high),
        "lowest": np.full(len(i), low),
        "identity": low + i % (high - low + 1),
        "one": np.where(i == len(i) // 3, low, high),
        "single bit": low + (1 << (i % max(1, int(high - low).bit_length()))) % (high - low + 1),
    }[shape]
    return np.broadcast_to(pattern.astype(drawn.dtype), drawn.shape).copy()


def _code_range(fmt: formats.Format) -> tuple[int, int]:
    """Ends of the stored codes: what all bits set mean, -1 where they are signed bytes."""
    top = int(fmt.unpack(np.full((1, fmt.type_size), 255, np.uint8))["codes"].max())
    return (-128, 127) if top < 0 else (0, top)


def _quantised(fmt: formats.Format, shape: str, count: int, rng: np.random.Generator) -> np.ndarray:
    size = (count, fmt.block_size)
    values = rng.standard_t(3, size) if shape == "heavy-tailed" else rng.standard_normal(size)
    if shape == "sparse":
        values *= rng.random(size) < 0.1
    if shape == "outliers":
        values[:, rng.integers(0, fmt.block_size)] *= 30
    if fmt.quantize is None:
        raise ValueError(f"format={fmt.name}: it has no quantiser for a distribution of weights")
    return fmt.quantize((0.02 * values).astype(np.float32))


def described_blocks(
    format: str, rows: int, k: int, *, largest_scale: float = LARGEST_HALF, allow_nonfinite: bool = False
) -> st.SearchStrategy[Blocks]:
    """Descriptors of rows of blocks; see ``blocks``."""
    fmt = formats.get(format)
    if rows < 1 or k < 1 or k % fmt.block_size:
        raise ValueError(f"rows={rows}, k={k}: rows >= 1 and a multiple of {fmt.block_size} are needed")
    fixed: dict[str, Any] = {"format": st.just(format), "rows": st.just(rows), "k": st.just(k)}
    seed = st.integers(0, 2**32 - 1)
    patterns = {
        name: half_scales(4, largest=largest_scale, allow_nonfinite=allow_nonfinite)
        for name in fmt.half_fields or ("d",)
    }
    example = fmt.unpack(np.random.default_rng(0).integers(0, 256, (64, fmt.type_size), dtype=np.uint8))
    for name in ("scales", "minimums"):
        if name in example:
            patterns[name] = sub_scales(example[name].shape[1], int(example[name].min()), int(example[name].max()))
    scales = {name: patterns[name] for name in fmt.half_fields or ("d",)}
    kinds = [
        st.builds(Blocks, **fixed, kind=st.just("fields"), codes=st.sampled_from(CODES), seed=seed,
                  fields=st.fixed_dictionaries(patterns)),
        st.builds(Blocks, **fixed, kind=st.just("bytes"), codes=st.just("random"), seed=seed,
                  fields=st.fixed_dictionaries(scales)),
    ]  # fmt: skip
    if largest_scale >= 1:
        quantised = st.sampled_from(DISTRIBUTIONS)
        kinds.append(st.builds(Blocks, **fixed, kind=st.just("quantised"), codes=quantised, seed=seed))
        if format == "q4_K":
            kinds.append(
                st.builds(
                    Blocks, **fixed, kind=st.just("published"), codes=st.just("random"), seed=st.integers(0, 65535)
                )
            )
    return st.one_of(kinds)


def blocks(
    format: str, rows: int, k: int, *, largest_scale: float = LARGEST_HALF, allow_nonfinite: bool = False
) -> st.SearchStrategy[np.ndarray]:
    """Rows of quantised weights, uint8[rows, k / block_size * type_size], with |scale| <= largest_scale.

    Scales are finite unless ``allow_nonfinite``. Shrinks towards blocks with every scale 1 and every sub-scale and code
    at the end of its range. Raises ValueError for an unknown format, or k that is not whole blocks.
    """
    return described_blocks(format, rows, k, largest_scale=largest_scale, allow_nonfinite=allow_nonfinite).map(
        Blocks.expand
    )
