"""Every block format: decoding to the bit, inverse views of the same bytes, quantisers within their stated error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import formats
from diffuzz.formats import half_to_float, q8_0, q8_1, q8_k

GOLDEN = np.load(Path(__file__).parent.parent / "data" / "ggml-cpu.npz")
ACTIVATIONS = ("q8_0", "q8_1", "q8_K")
WEIGHTS = tuple(name for name in formats.names() if name not in ("q8_1", "q8_K"))
each_format = pytest.mark.parametrize("name", formats.names())


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.uint32)


def finite_blocks(name: str, rows: int = 64) -> np.ndarray:
    """Random bytes whose scale fields are random finite numbers."""
    fmt, rng = formats.get(name), np.random.default_rng(1)
    fields = fmt.unpack(rng.integers(0, 256, (rows, fmt.type_size), dtype=np.uint8))
    for field in fmt.half_fields or ("d",):
        fields[field] = rng.standard_normal(rows).astype(fields[field].dtype)
    return fmt.pack(fields)


def test_names() -> None:
    """All twelve formats are found by their file names."""
    assert formats.names() == (
        "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q8_1", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "q8_K",
    )  # fmt: skip


def test_unknown_name_is_one_line() -> None:
    """An unknown format is refused with a suggestion."""
    with pytest.raises(ValueError, match=r"^there is no format 'q4_k'; did you mean q4_K\? \(formats: q4_0, .*\)$"):
        formats.get("q4_k")


@pytest.mark.parametrize("name", WEIGHTS)
def test_dequantises_as_ggml(name: str) -> None:
    """The numbers of recorded blocks are those of the ggml library, bit for bit."""
    blocks, values = GOLDEN[f"dequantize/{name}/blocks"], GOLDEN[f"dequantize/{name}/values"]
    assert bits(formats.get(name).dequantize(blocks)).tolist() == bits(values).tolist()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_quantises_as_ggml(name: str) -> None:
    """The bytes of recorded activations are those of the ggml library's x86 quantisers."""
    fmt = formats.get(name)
    values, blocks = GOLDEN[f"quantize/{name}/values"], GOLDEN[f"quantize/{name}/blocks"]
    assert fmt.quantize is not None
    assert fmt.quantize(values.reshape(-1, fmt.block_size)).reshape(blocks.shape).tolist() == blocks.tolist()


@pytest.mark.parametrize("name", WEIGHTS)
def test_dequantises_as_gguf_py(name: str) -> None:
    """An independent implementation, the gguf package, agrees on random finite blocks."""
    gguf = pytest.importorskip("gguf")
    blocks = finite_blocks(name)
    theirs = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name.upper()])
    assert np.array_equal(formats.get(name).dequantize(blocks), theirs)


@each_format
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_pack_and_unpack_are_inverse(name: str, data: st.DataObject) -> None:
    """Every byte string is the pack of its fields: no bit is lost and none invented."""
    fmt = formats.get(name)
    raw = np.frombuffer(data.draw(st.binary(min_size=fmt.type_size, max_size=fmt.type_size)), np.uint8)[None]
    assert fmt.pack(fmt.unpack(raw)).tobytes() == raw.tobytes()


@each_format
def test_decode_traces_in_jax(name: str) -> None:
    """Decoding under jax.jit gives NumPy's parts, bit for bit, for arbitrary bytes."""
    jax = pytest.importorskip("jax")
    fmt = formats.get(name)
    raw = np.random.default_rng(0).integers(0, 256, (200, fmt.type_size), dtype=np.uint8)

    def numbers(parts: formats.Parts) -> list[np.ndarray]:
        return [parts.scale, parts.code] + ([] if parts.minimum is None else [parts.minimum])

    traced = jax.jit(lambda blocks: numbers(fmt.decode(blocks, jax.numpy)))(raw)
    for ours, theirs in zip(numbers(fmt.decode(raw)), traced, strict=True):
        # XLA on a CPU may flush float32 subnormals, which only q8_K's float32 scale can hold.
        small = np.abs(ours) < np.finfo(np.float32).tiny
        assert np.array_equal(np.where(small, 0, ours), np.where(small, 0, theirs), equal_nan=True)


@each_format
def test_a_part_is_what_it_says(name: str) -> None:
    """scale = f32(d sub_scale), minimum = f32(dmin sub_minimum), value = f32(f32(scale code) - minimum)."""
    blocks = finite_blocks(name)
    parts = formats.get(name).decode(blocks)
    assert np.array_equal(parts.scale, parts.d[:, None] * parts.sub_scale.astype(np.float32))
    value = parts.scale * parts.code.astype(np.float32)
    if parts.minimum is not None:
        assert np.array_equal(parts.minimum, parts.dmin[:, None] * parts.sub_minimum.astype(np.float32))
        value = value - parts.minimum
    assert np.array_equal(formats.get(name).dequantize(blocks), value)


def test_every_half() -> None:
    """All 65 536 bit patterns convert as NumPy's float16 does; NaN stays NaN."""
    raw = np.arange(65536, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        expected = raw.view(np.float16)[:, 0].astype(np.float32)
    assert np.array_equal(half_to_float(raw[:, 0], raw[:, 1]), expected, equal_nan=True)


@each_format
@pytest.mark.parametrize("scale", [1.0, 2.0**-10, 1000.0])
def test_quantisers_keep_their_word(name: str, scale: float) -> None:
    """Quantised numbers are within one step of their sub-block, clipping aside within half of one."""
    fmt = formats.get(name)
    values = (scale * np.random.default_rng(2).standard_normal((100, fmt.block_size))).astype(np.float32)
    assert fmt.quantize is not None
    blocks = fmt.quantize(values)
    assert (blocks.shape, blocks.dtype) == ((100, fmt.type_size), np.uint8)
    parts = fmt.decode(blocks)
    error = np.abs(fmt.dequantize(blocks).astype(np.float64) - values)
    step = np.abs(parts.scale.astype(np.float64))
    # f16 scales are off by 2^-11; a rounded minimum clips by half of dmin more.
    slack = 2.0**-10 * np.abs(values).max(axis=1, keepdims=True)
    if parts.dmin is not None:
        slack = slack + 0.5 * np.abs(parts.dmin.astype(np.float64))[:, None]
    assert (error <= step + slack).all()
    assert (error <= 0.5 * step + slack).mean() > 0.9


def test_ties_tell_quantisers_apart() -> None:
    """On a half-integer grid with max 127, x86 rounds to even, portable C and aprender away from zero."""
    values = np.array([np.r_[127.0, np.arange(31) + 0.5]], np.float32)
    half = np.arange(31) + 0.5
    assert q8_0.quantise_x86(values)[2][0, 1:].tolist() == np.rint(half).tolist()
    assert q8_0.quantise_generic(values)[2][0, 1:].tolist() == np.floor(half + 0.5).tolist()
    assert q8_0.quantise_realizar(values)[1][0, 1:].tolist() == np.floor(half + 0.5).tolist()


def test_zero_and_tiny_blocks() -> None:
    """A zero block has codes 0; below 3.8e-6 q8_0 vanishes into its f16 scale, below 1e-10 aprender's codes are 0."""
    zero = np.zeros((1, 256), np.float32)
    assert q8_k.quantise_ggml(zero)[0].tolist() == [0.0]
    assert not q8_k.quantise_ggml(zero)[1].any()
    tiny = np.full((1, 32), 3e-6, np.float32)
    _, stored, codes = q8_0.quantise_x86(tiny)
    assert (stored[0], codes[0, 0]) == (0.0, 127)
    assert not q8_0.quantise_realizar(np.full((1, 32), 1e-11, np.float32))[1].any()


def test_q8_k_takes_the_first_of_equal_extremes() -> None:
    """The first element of largest magnitude decides the sign of d, and has code -127."""
    values = np.zeros((2, 256), np.float32)
    values[0, [3, 7]], values[1, [3, 7]] = (-5, 5), (5, -5)
    d, codes = q8_k.quantise_ggml(values)
    assert (d > 0).tolist() == [True, False]
    assert codes[:, 3].tolist() == [-127, -127]
    assert codes[:, 7].tolist() == [127, 127]


def test_q8_1_keeps_the_sum_of_the_unrounded_scale() -> None:
    """s = f16(f32(d sum of codes)), with d before its own rounding."""
    values = np.linspace(-1, 3, 32, dtype=np.float32)[None]
    d, _, codes = q8_0.quantise_x86(values)
    _, s, _ = q8_1.quantise_x86(values)
    assert s[0] == np.float32(np.float16(d[0] * np.float32(codes.sum())))


@pytest.mark.parametrize("bad", [np.zeros((1, 143), np.uint8), np.zeros((1, 144), np.int8), np.zeros(144, np.uint8)])
def test_wrong_blocks_are_refused(bad: np.ndarray) -> None:
    """Another shape or dtype is one line that says what is needed."""
    with pytest.raises(ValueError, match=r"^blocks: .*where uint8\[b, 144\] is needed$"):
        formats.get("q4_K").dequantize(bad)


def test_wrong_values_and_fields_are_refused() -> None:
    """So are values of another shape, and fields that the format does not have."""
    quantise = formats.get("q8_0").quantize
    assert quantise is not None
    with pytest.raises(ValueError, match=r"^values: float64\[1, 32\], where float32\[b, 32\] is needed$"):
        quantise(np.zeros((1, 32)))
    with pytest.raises(ValueError, match=r"q4_0 has \['codes', 'd'\]$"):
        formats.get("q4_0").pack({"d": np.zeros(1, np.float16)})
