"""Scanning a model: drifts of every block as the kernels have them, and blocks that are odd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffuzz import formats
from diffuzz.cli.scan import ramp
from diffuzz.kernels import apr, fused, ggml
from diffuzz.models import scanning
from diffuzz.models.model import Model, ModelError, Tensor
from diffuzz.targets.published import seed_block

# Those of ggml that weights are stored in.
FORMATS = tuple(
    name for name in formats.names() if formats.of_ggml(name) and formats.get(name).block_size > 1
    and formats.get(name).activation
)  # fmt: skip


def tensor(format: str, blocks: np.ndarray, rows: int = 1, name: str = "blk.0.ffn_down.weight") -> Tensor:
    columns = len(blocks) // rows * formats.get(format).block_size
    return Tensor(name, format, (rows, columns), blocks.reshape(-1))


def quantised(format: str, count: int, seed: int = 0, **scales: float) -> np.ndarray:
    """Random blocks, of finite scales of about the size that weights have."""
    fmt, rng = formats.get(format), np.random.default_rng(seed)
    blocks = fmt.canonical(rng.integers(0, 256, (count, fmt.type_size), np.uint8))
    made = {name: scales.get(name, 1.0) * 2.0 ** rng.uniform(-9, -3, count) for name in fmt.scale_fields}
    return fmt.with_scales(blocks, made) if made else blocks


def outliers(format: str, blocks: np.ndarray, rows: int = 1, most: int = 1) -> dict[str, scanning.Outlier]:
    found = scanning.scanned_tensor(tensor(format, blocks, rows), ramp, most)
    return {one.reason: one for one in found.outliers}


@pytest.mark.parametrize("format", FORMATS)
def test_the_drifts_of_all_blocks_are_those_of_the_kernels(format: str) -> None:
    """Up to float32 rounding, which is relative to the terms of a block; and no drift exceeds its bound."""
    blocks = quantised(format, 200)
    x = ramp(formats.get(format).block_size)
    seen = scanning.drifts(tensor(format, blocks), x)
    rows = np.repeat(x[None], len(blocks), axis=0)
    a = apr.vec_dot_rows(format, blocks, rows).astype(np.float64)
    b = ggml.vec_dot_rows(format, blocks, rows).astype(np.float64)
    whole = fused.terms(format, blocks).sum(axis=1) * np.abs(x).max()
    # gamma_n of both kernels and of the float32 sums here, by n = 256.
    rounding = 4 * 256 * 2.0**-24
    assert np.abs(np.abs(a - b) / whole - seen.normalised).max() <= rounding
    np.testing.assert_allclose(seen.terms, fused.terms(format, blocks).sum(axis=1), rtol=1e-5)
    found = scanning.scanned_tensor(tensor(format, blocks), ramp)
    assert found.normalised is not None
    assert found.relative is not None
    assert found.bound is not None
    assert 0 < found.normalised.median <= found.normalised.largest.value <= found.bound + rounding
    published = np.abs(a - b) / np.maximum(np.abs(a), 1e-9)
    assert published.max() == found.relative.largest.value
    assert int(published.argmax()) == found.relative.largest.block


def test_the_published_block_has_the_published_drift() -> None:
    """0.077 % of the seed block and the ramp (FFN-GGUF-008), wherever the block is."""
    zeros = np.zeros((5, 144), np.uint8)
    zeros[3] = seed_block()
    found = scanning.scanned_tensor(tensor("q4_K", zeros, rows=5), ramp).relative
    assert found is not None
    assert (3, 0) == (found.largest.row, found.largest.block)
    assert 7.74e-4 == pytest.approx(found.largest.value, rel=1e-3)


def test_more_blocks_than_are_taken_at_a_time_have_the_same_drifts() -> None:
    """Pieces are put together in order."""
    blocks = quantised("q4_1", 3000)
    whole, part = (scanning.drifts(tensor("q4_1", some), ramp(32)) for some in (blocks, blocks[2900:]))
    np.testing.assert_allclose(whole.normalised[2900:], part.normalised, rtol=1e-4, atol=1e-9)
    np.testing.assert_array_equal(whole.peak[2900:], part.peak)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("format", "field"), [("q4_1", "m"), ("q4_K", "d"), ("q6_K", "d"), ("q8_0", "d")])
def test_a_scale_that_is_no_number_is_found_with_its_place(format: str, field: str, bad: float) -> None:
    """The other blocks keep their drifts."""
    fmt, blocks = formats.get(format), quantised(format, 12)
    good = scanning.scanned_tensor(tensor(format, blocks[:7], rows=1), ramp)
    blocks[7] = fmt.with_scales(blocks[7:8], {field: np.array([bad])})
    found = scanning.scanned_tensor(tensor(format, blocks, rows=4), ramp)
    assert not found.finite
    assert good.finite
    place = found.outliers[0].places[0]
    assert ("non-finite", 1, 2, 1) == (found.outliers[0].reason, found.outliers[0].count, place.row, place.block)
    assert found.normalised is not None
    assert np.isfinite([found.normalised.median, found.normalised.mean, found.normalised.largest.value]).all()


def test_a_tensor_of_nothing_but_nan_has_no_drift() -> None:
    """And says so."""
    found = scanning.scanned_tensor(tensor("q8_0", quantised("q8_0", 4, d=np.nan)), ramp)
    assert (None, None, 4) == (found.normalised, found.relative, found.outliers[0].count)


def test_scales_of_zero_and_subnormal_ones() -> None:
    """The least come first, and as many places as are asked for."""
    fmt, blocks = formats.get("q4_0"), quantised("q4_0", 8)
    for place, scale in ((1, 0.0), (4, 2.0**-15), (6, -(2.0**-20))):
        blocks[place] = fmt.with_scales(blocks[place : place + 1], {"d": np.array([scale])})
    found = outliers("q4_0", blocks, rows=2, most=2)
    assert [(0, 1, 0.0)] == [(p.row, p.block, p.value) for p in found["zero scale"].places]
    assert [(1, 2, -(2.0**-20)), (1, 0, 2.0**-15)] == [
        (p.row, p.block, p.value) for p in found["subnormal scale"].places
    ]
    assert {"zero scale", "subnormal scale"} == set(found)


def test_a_minimum_that_takes_away_what_the_codes_say() -> None:
    """All codes 8 and m = -8 d up to rounding: nothing is left of the terms but one code."""
    fmt, blocks = formats.get("q4_1"), quantised("q4_1", 6)
    fields = fmt.unpack(blocks)
    fields["codes"][2], fields["codes"][2, 0] = 8, 9
    fields["d"][2], fields["m"][2] = 0.25, -2.0
    found = outliers("q4_1", fmt.pack(fields))
    place = found["cancelling"].places[0]
    assert (2, (32 * 4 + 0.25) / 0.25) == (place.block, place.value)
    assert {"cancelling"} == set(found)


def test_a_block_far_from_the_others() -> None:
    """By its largest weight, beside that of the median block."""
    fmt, blocks = formats.get("q8_0"), quantised("q8_0", 64)
    blocks = fmt.with_scales(blocks, {"d": np.where(np.arange(64) == 50, 1.0, 1 / 64)})
    found = outliers("q8_0", blocks, rows=8)
    assert (6, 2) == (found["far"].places[0].row, found["far"].places[0].block)
    assert 1 == found["far"].count


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_plain_numbers_are_looked_at_for_nan_and_infinity(dtype: str) -> None:
    """They have no drift; places are elements."""
    values = np.ones((3, 4), {"f32": np.float32, "f16": np.float16}[dtype])
    values[1, 2], values[2, 0] = np.nan, np.inf
    found = scanning.scanned_tensor(Tensor("t", dtype, (3, 4), values.reshape(-1).view(np.uint8)), ramp)
    assert (None, False, 2) == (found.normalised, found.finite, found.outliers[0].count)
    assert (1, 2) == (found.outliers[0].places[0].row, found.outliers[0].places[0].block)


def test_tensors_come_in_the_order_of_the_file_and_one_can_be_asked_for() -> None:
    """A name that there is not is an error; a format without two paths is left out."""
    tensors = {name: tensor("q4_0", quantised("q4_0", 4), name=name) for name in "cab"}
    tensors["codes"] = Tensor("codes", "q8_1", (1, 32), np.zeros(36, np.uint8))
    made = Model(path=Path("m"), architecture="llama", metadata={}, tensors=tensors, files=())
    assert ["c", "a", "b"] == [one.name for one in scanning.scanned(made, ramp)]
    assert ["a"] == [one.name for one in scanning.scanned(made, ramp, only="a")]
    with pytest.raises(ModelError, match="no tensor nope"):
        list(scanning.scanned(made, ramp, only="nope"))
