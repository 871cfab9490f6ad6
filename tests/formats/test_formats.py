"""Every block format: decoding to the bit, inverse views of the same bytes, quantisers within their stated error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import formats
from diffuzz.formats import bits as fields_of_bits
from diffuzz.formats import half_to_float, iq4_nl, mxfp4, q8_0, q8_1, q8_k

DATA = Path(__file__).parent.parent / "data"
GOLDEN = {**np.load(DATA / "ggml-cpu.npz"), **np.load(DATA / "ggml-cpu-levels.npz")}
LEVELS = {"iq4_nl": iq4_nl.LEVELS, "mxfp4": mxfp4.LEVELS}
ACTIVATIONS = ("q8_0", "q8_1", "q8_K")
WEIGHTS = tuple(name for name in formats.names() if name not in ("q8_1", "q8_K"))
each_format = pytest.mark.parametrize("name", formats.names())


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.uint32)


def finite_blocks(name: str, rows: int = 64) -> np.ndarray:
    """Random bytes whose scale fields are random finite numbers."""
    fmt, rng = formats.get(name), np.random.default_rng(1)
    fields = fmt.unpack(rng.integers(0, 256, (rows, fmt.type_size), dtype=np.uint8))
    for field in fmt.scale_fields:
        fields[field] = rng.standard_normal(rows).astype(fields[field].dtype)
    return fmt.pack(fields)


def test_names() -> None:
    """All fourteen formats are found by their file names."""
    assert formats.names() == (
        "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q8_1", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "q8_K",
        "iq4_nl", "mxfp4",
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


def allowed(name: str, blocks: np.ndarray) -> np.ndarray:
    """The error that the quantiser's docstring states, element by element, float64[b, n]."""
    fmt = formats.get(name)
    parts, codes = fmt.decode(blocks), fmt.unpack(blocks)["codes"]
    step = np.abs(parts.scale.astype(np.float64))
    if name in ("q3_K", "q6_K", "q8_K"):
        return step / 2
    if name == "mxfp4":
        return np.where(np.abs(parts.code) == 12, 4, 2) * step
    if name == "iq4_nl":
        moved = np.maximum(step * 2.0**-11, 2.0**-25)
        return 14 * step + 127 * moved
    if name.endswith("K"):
        clipped = (codes == 0) | (codes == {"q2_K": 3, "q4_K": 15, "q5_K": 31}[name])
        return step / 2 + clipped * parts.dmin.astype(np.float64)[:, None] / 2
    # d, and m, were rounded to f16: by half a unit in the last place, which is 2^-24 among the subnormals.
    moved = np.maximum(step * 2.0**-11, 2.0**-25)
    steps = np.where(codes == {"q4_0": 15, "q5_0": 31}.get(name, 128), 1, 0.5)
    error = (step + moved) * steps + moved * np.abs(parts.code)
    if parts.minimum is not None:
        error = error + np.maximum(np.abs(parts.minimum.astype(np.float64)) * 2.0**-11, 2.0**-25)
    return np.asarray(error)


@each_format
@pytest.mark.parametrize("scale", [1e-6, 2.0**-10, 1.0, 1000.0])
def test_quantisers_keep_their_word(name: str, scale: float) -> None:
    """|x - dequantise(quantise(x))| is at most what the docstring says: half a step, and what it adds to that."""
    fmt, rng = formats.get(name), np.random.default_rng(2)
    values = scale * np.concatenate(
        [rng.standard_normal((100, fmt.block_size)), rng.standard_t(2, (100, fmt.block_size)),
         rng.uniform(0, 1, (50, fmt.block_size)), -rng.uniform(1, 2, (50, fmt.block_size))]
    )  # fmt: skip
    values = values.astype(np.float32)
    assert fmt.quantize is not None
    blocks = fmt.quantize(values)
    assert (blocks.shape, blocks.dtype) == ((len(values), fmt.type_size), np.uint8)
    error = np.abs(fmt.dequantize(blocks).astype(np.float64) - values)
    rounding = 2.0**-20 * np.abs(values).max(axis=1, keepdims=True)
    assert (error <= allowed(name, blocks) + rounding).all()


@each_format
def test_a_zero_block_stays_zero(name: str) -> None:
    """Every quantiser gives a block of zeros back."""
    fmt = formats.get(name)
    assert fmt.quantize is not None
    assert not fmt.dequantize(fmt.quantize(np.zeros((3, fmt.block_size), np.float32))).any()


@each_format
def test_no_blocks(name: str) -> None:
    """An empty batch is not an error."""
    fmt = formats.get(name)
    assert fmt.quantize is not None
    blocks = fmt.quantize(np.zeros((0, fmt.block_size), np.float32))
    assert (0, fmt.type_size) == blocks.shape
    assert (0, fmt.block_size) == fmt.dequantize(blocks).shape
    assert (0, fmt.type_size) == fmt.pack(fmt.unpack(blocks)).shape


@each_format
def test_dtypes(name: str) -> None:
    """Integers are int32 and scales float32 (in fields, f16), as documented; float64 and int64 creep in nowhere."""
    fmt = formats.get(name)
    blocks = finite_blocks(name, 2)
    parts = fmt.decode(blocks)
    assert {np.dtype(np.float32)} == {
        x.dtype for x in (parts.scale, parts.minimum, parts.d, parts.dmin) if x is not None
    }
    assert {np.dtype(np.int32)} == {x.dtype for x in (parts.code, parts.sub_scale, parts.sub_minimum) if x is not None}
    for field, value in fmt.unpack(blocks).items():
        assert (np.float16 if field in fmt.half_fields else np.float32 if field == "d" else np.int32) == value.dtype


@each_format
def test_pack_refuses_what_it_cannot_hold(name: str) -> None:
    """The extremes of every integer field fit; one more, one less, another shape or a d that is no f16 do not."""
    fmt = formats.get(name)
    good = fmt.unpack(finite_blocks(name, 2))
    limits = {"scales": {"q2_K": (0, 15), "q3_K": (-32, 31), "q6_K": (-128, 127)}.get(name, (0, 63))}
    limits["minimums"] = (0, 15) if name == "q2_K" else (0, 63)
    limits["bsums"] = (-(2**15), 2**15 - 1)
    limits["codes"] = (-128, 127) if name[1] == "8" else (0, 15) if name in LEVELS else (0, 2 ** int(name[1]) - 1)
    for field in set(good) & set(limits):
        for limit, beyond in zip(limits[field], (-1, 1), strict=True):
            edited = good | {field: np.full_like(good[field], limit)}
            assert np.array_equal(fmt.unpack(fmt.pack(edited))[field], edited[field])
            edited[field][1, 2] += beyond
            range_of_field = rf"{limits[field][0]}\.\.{limits[field][1]}"
            wrong = rf"^field {field} of {name}: {limit + beyond}, where {range_of_field} are stored$"
            with pytest.raises(ValueError, match=wrong):
                fmt.pack(edited)
        with pytest.raises(ValueError, match=rf"^field {field} of {name}: shape \[1, .*\], where \[2, .*\] is needed$"):
            fmt.pack(good | {field: good[field][:1]})
        with pytest.raises(ValueError, match=rf"^field {field} of {name}: float64, where integers are needed$"):
            fmt.pack(good | {field: good[field].astype(np.float64)})
    if fmt.half_fields:
        with pytest.raises(ValueError, match=rf"^field d of {name}: 0\.1, which is no float16 number$"):
            fmt.pack(good | {"d": np.array([0.5, 0.1])})


@pytest.mark.parametrize("name", LEVELS)
def test_every_level_with_every_scale(name: str) -> None:
    """One scale times one level, for all 16 codes and all scales: 65 536 of f16, 256 powers of two from 2^-128."""
    raw = np.arange(65536 if name == "iq4_nl" else 256)
    if name == "iq4_nl":
        head = raw.astype("<u2").view(np.uint8).reshape(-1, 2)
        d = raw.astype(np.uint16).view(np.float16).astype(np.float64)
    else:
        head, d = raw.astype(np.uint8)[:, None], 2.0 ** (raw - 128.0)
    # Element i has code i in the low nibbles, and 15 - i in the high ones.
    nibbles = np.arange(16, dtype=np.uint8)
    tail = np.broadcast_to(nibbles | (15 - nibbles) << 4, (len(raw), 16))
    levels = np.array([*LEVELS[name], *reversed(LEVELS[name])], np.float64)
    with np.errstate(all="ignore"):
        expected = (d[:, None] * levels).astype(np.float32)
        got = formats.get(name).dequantize(np.concatenate([head, tail], axis=1))
    assert np.array_equal(expected, got, equal_nan=True)


def test_exponent_bytes() -> None:
    """A byte is the largest power of two that is not above a number; the numbers have no sign, and 0 is the least."""
    every = np.arange(256, dtype=np.uint8)
    scales = fields_of_bits.e8m0_to_float(every)
    assert (2.0 ** (every - 128.0)).tolist() == scales.tolist()
    below = fields_of_bits.e8m0_below
    assert every.tolist() == below(scales).tolist() == below(-1.99 * scales.astype(np.float64)).tolist()
    assert [0, 0, 0, 255, 255, 127] == below(np.array([0.0, 1e-50, np.nan, np.inf, 1e300, 0.999])).tolist()


@each_format
def test_scales_are_read_and_written(name: str) -> None:
    """The scale fields by themselves: what unpack says, and nothing else changes when they are replaced."""
    fmt, rng = formats.get(name), np.random.default_rng(4)
    blocks = finite_blocks(name)
    fields, scales = fmt.unpack(blocks), fmt.scales(blocks)
    assert set(fmt.scale_fields) == set(scales)
    assert all(np.array_equal(fields[field].astype(np.float32), scales[field]) for field in scales)
    new = {field: rng.standard_normal(len(blocks)) for field in scales}
    changed = fmt.unpack(fmt.with_scales(blocks, new))
    for field, values in fields.items():
        expected = fmt.stored_scale(new[field]) if field in new else values
        assert np.array_equal(expected, changed[field])


def test_tiny_blocks_of_mxfp4_do_not_wrap_round() -> None:
    """The least scale is 2^-128, not the greatest."""
    fmt = formats.get("mxfp4")
    assert fmt.quantize is not None
    tiny = np.full((1, 32), 2.0**-127, np.float32)
    assert (0, 2.0**-127) == (fmt.quantize(tiny)[0, 0], fmt.dequantize(fmt.quantize(tiny))[0, 5])


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
