"""Every block format: decoding to the bit, inverse views of the same bytes, quantisers within their stated error."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import formats, kernels
from diffuzz.formats import bits as fields_of_bits
from diffuzz.formats import (
    grid_fit,
    grids,
    half_to_float,
    iq4_nl,
    mxfp4,
    nf4,
    nvfp4_two_level,
    q8_0,
    q8_1,
    q8_k,
    small_floats,
)

DATA = Path(__file__).parent.parent / "data"
GOLDEN = {**np.load(DATA / "ggml-cpu.npz"), **np.load(DATA / "ggml-cpu-levels.npz")}
LEVELS = {"iq4_nl": iq4_nl.LEVELS, "mxfp4": mxfp4.LEVELS}
ACTIVATIONS = ("q8_0", "q8_1", "q8_K")
RECORDED = tuple(name for name in formats.names() if f"dequantize/{name}/blocks" in GOLDEN)
OF_GGML = tuple(name for name in formats.names() if formats.of_ggml(name) and formats.get(name).activation)
# Points of the grids of formats.
GRIDS = {"iq1_s": 2048, "iq1_m": 2048, "iq2_xxs": 256, "iq2_xs": 512, "iq2_s": 1024, "iq3_xxs": 256, "iq3_s": 512}
# Formats whose codes or scales are no whole numbers.
FLOATS = ("fp8_e4m3", "fp8_e5m2", "nf4", "nvfp4_two_level")
each_format = pytest.mark.parametrize("name", formats.names())


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.uint32)


def finite_blocks(name: str, rows: int = 64) -> np.ndarray:
    """Random bytes whose scale fields are random finite numbers."""
    fmt, rng = formats.get(name), np.random.default_rng(1)
    fields = fmt.unpack(fmt.canonical(rng.integers(0, 256, (rows, fmt.type_size), dtype=np.uint8)))
    for field in fmt.scale_fields:
        fields[field] = rng.standard_normal(rows).astype(fields[field].dtype)
    return fmt.pack(fields)


def test_names() -> None:
    """All formats are found by their file names."""
    assert formats.names() == (
        "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q8_1", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "q8_K", "awq_g128",
        "awq_g32", "awq_g64", "bf16", "f16", "fp8_e4m3", "fp8_e5m2", "gptq_g128", "gptq_g32", "gptq_g64",
        "gptq_v2_g128", "gptq_v2_g32", "gptq_v2_g64", "iq1_m", "iq1_s", "iq2_s", "iq2_xs", "iq2_xxs", "iq3_s",
        "iq3_xxs", "iq4_nl", "iq4_xs", "mxfp4", "nf4", "nvfp4", "nvfp4_two_level", "tq1_0", "tq2_0",
    )  # fmt: skip
    assert not any(map(formats.of_ggml, ("awq_g32", "fp8_e4m3", "gptq_g32", "gptq_v2_g64", "nf4", "nvfp4_two_level")))
    assert all(map(formats.of_ggml, ("q8_1", "f16", "bf16", "nvfp4", "tq1_0")))


def test_unknown_name_is_one_line() -> None:
    """An unknown format is refused with a suggestion."""
    with pytest.raises(ValueError, match=r"^there is no format 'q4_k'; did you mean q4_K\? \(formats: q4_0, .*\)$"):
        formats.get("q4_k")


@pytest.mark.parametrize("name", RECORDED)
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


@pytest.mark.parametrize("name", OF_GGML)
def test_dequantises_as_gguf_py(name: str) -> None:
    """An independent implementation, the gguf package, agrees on random finite blocks."""
    gguf = pytest.importorskip("gguf")
    blocks = finite_blocks(name)
    theirs = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name.upper()])
    assert np.array_equal(formats.get(name).dequantize(blocks), theirs.reshape(len(blocks), -1))


@each_format
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_pack_and_unpack_are_inverse(name: str, data: st.DataObject) -> None:
    """Every block is the pack of its fields: no bit is lost and none invented; so is every other byte string but for
    ternary digits, of which other bytes stand for the same.
    """
    fmt = formats.get(name)
    raw = np.frombuffer(data.draw(st.binary(min_size=fmt.type_size, max_size=fmt.type_size)), np.uint8)[None]
    raw = fmt.canonical(raw) if name == "tq1_0" else raw
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


def _half_gap(table: np.ndarray) -> Callable[[formats.Parts, np.ndarray], np.ndarray]:
    """Half the larger distance of a level from its neighbours, in steps; the last level may be as far on."""
    sorted_levels = np.unique(table[np.isfinite(table)].astype(np.float64))
    gaps = np.diff(sorted_levels)
    largest = np.maximum(np.r_[gaps[0], gaps], np.r_[gaps, gaps[-1]]) / 2
    return lambda parts, step: step * largest[np.searchsorted(sorted_levels, parts.code)]


def _of_nvfp4(parts: formats.Parts, step: np.ndarray) -> np.ndarray:
    # Scales from 256 to 448 are all 448, and below 2^-6 they are multiples of 2^-9.
    ends = np.where(np.abs(parts.code) == 12, 12 / 16, 0)
    tiny = np.where(step < 2.0**-7, 6 * 2.0**-9, 0)
    beyond = np.where(step == 224, np.inf, 0)
    return np.asarray((_half_gap(np.array(mxfp4.LEVELS))(parts, step) + ends * step) + tiny + beyond)


# Half a code, and for a d that is rounded to f16 what that moves the code.
_INT4 = {name: lambda parts, step: step / 2 + 2.0**-25 for name in formats.names() if name.startswith(("gptq", "awq"))}
MORE: dict[str, Callable[[formats.Parts, np.ndarray], np.ndarray]] = {
    "f16": lambda parts, step: np.maximum(step * 2.0**-11, 2.0**-25),
    "bf16": lambda parts, step: step * 2.0**-8,
    "fp8_e4m3": _half_gap(small_floats.float8(small_floats.E4M3)),
    "fp8_e5m2": _half_gap(small_floats.float8(small_floats.E5M2)),
    "nf4": _half_gap(nf4.LEVELS),
    "nvfp4": _of_nvfp4,
    "nvfp4_two_level": _half_gap(nvfp4_two_level.LEVELS),
    # Between the ends 0 and 1 of d the middle of a digit is the worst; d itself is rounded to f16.
    **dict.fromkeys(("tq1_0", "tq2_0"), lambda parts, step: step / 2 + np.maximum(step * 2.0**-10, 2.0**-25)),
    # Scales are rounded up, so that the last level 113 is reached and -127 is beyond; the widest gap is 24.
    "iq4_xs": lambda parts, step: 12.5 * step,
    **_INT4,
}


def allowed(name: str, blocks: np.ndarray) -> np.ndarray:
    """The error that the quantiser's docstring states, element by element, float64[b, n]."""
    fmt = formats.get(name)
    parts, codes = fmt.decode(blocks), fmt.unpack(blocks).get("codes")
    step = np.abs(parts.scale.astype(np.float64))
    if name in ("q3_K", "q6_K", "q8_K"):
        return step / 2
    if name in MORE:
        return MORE[name](parts, step)
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


@pytest.mark.parametrize("name", [name for name in formats.names() if name not in GRIDS])
@pytest.mark.parametrize("scale", [1e-6, 2.0**-10, 1.0, 1000.0])
def test_quantisers_keep_their_word(name: str, scale: float) -> None:
    """|x - dequantise(quantise(x))| is at most what the docstring says: half a step, and what it adds to that."""
    fmt, rng = formats.get(name), np.random.default_rng(2)
    values = scale * np.concatenate(
        [rng.standard_normal((100, fmt.block_size)), rng.standard_t(2, (100, fmt.block_size)),
         rng.uniform(0, 1, (50, fmt.block_size)), -rng.uniform(1, 2, (50, fmt.block_size))]
    )  # fmt: skip
    # Beyond, the d of the ternary formats, max|x|, is no f16 number.
    values = np.clip(values, -60000, 60000).astype(np.float32)
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
    whole = {x.dtype for x in (parts.code, parts.sub_scale, parts.sub_minimum) if x is not None}
    assert whole <= {np.dtype(np.int32), np.dtype(np.float32)}
    assert (np.dtype(np.float32) in whole) == (name in FLOATS)
    for field, value in fmt.unpack(blocks).items():
        assert (np.float16 if field in fmt.half_fields else np.float32 if field == "d" else np.int32) == value.dtype


@each_format
def test_pack_refuses_what_it_cannot_hold(name: str) -> None:
    """The extremes of every integer field fit; one more, one less, another shape or a d that is no f16 do not."""
    fmt = formats.get(name)
    good = fmt.unpack(finite_blocks(name, 2))
    sub_scales = {"q2_K": (0, 15), "q3_K": (-32, 31), "q6_K": (-128, 127), "iq4_xs": (-32, 31)}
    sub_scales |= dict.fromkeys(("iq1_s", "iq1_m"), (0, 7)) | {name: (0, 15) for name in GRIDS if name[2] != "1"}
    limits = {"scales": sub_scales.get(name, (0, 255) if name.startswith("nvfp4") else (0, 63))}
    limits["minimums"] = (0, 15) if name == "q2_K" else (0, 63)
    limits["bsums"] = (-(2**15), 2**15 - 1)
    limits["codes"] = (0, {"fp8": 255, "tq1": 2, "tq2": 3}.get(name[:3], 15))
    if name[0] == "q":
        limits["codes"] = (-128, 127) if name[1] == "8" else (0, 2 ** int(name[1]) - 1)
    limits["grid"] = (0, GRIDS.get(name, 1) - 1)
    limits["signs"], limits["shifts"] = (0, 127 if name in ("iq2_xxs", "iq2_xs", "iq3_xxs") else 255), (0, 1)
    limits["zeros"] = limits["others"] = (0, 15)
    for field in set(good) & set(limits):
        for limit, beyond in zip(limits[field], (-1, 1), strict=True):
            edited = good | {field: np.full_like(good[field], limit)}
            assert np.array_equal(fmt.unpack(fmt.pack(edited))[field], edited[field])
            edited[field].reshape(2, -1)[1, -1] += beyond
            range_of_field = rf"{limits[field][0]}\.\.{limits[field][1]}"
            wrong = rf"^field {field} of {name}: {limit + beyond}, where {range_of_field} are stored$"
            with pytest.raises(ValueError, match=wrong):
                fmt.pack(edited)
        with pytest.raises(ValueError, match=rf"^field .* of {name}: shape \[\d.*\], where \[\d.*\] is needed$"):
            fmt.pack(good | {field: good[field][:1]})
        with pytest.raises(ValueError, match=rf"^field {field} of {name}: float64, where integers are needed$"):
            fmt.pack(good | {field: good[field].astype(np.float64)})
    if fmt.half_fields:
        with pytest.raises(ValueError, match=rf"^field d of {name}: 0\.1, which is no float16 number$"):
            fmt.pack(good | {"d": np.array([0.5, 0.1])})


def _as_float(kind: str, codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.uint8).view(getattr(ml_dtypes, kind)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "table"), [("float8_e4m3fn", small_floats.E4M3), ("float8_e5m2", small_floats.E5M2)], ids=["e4m3", "e5m2"]
)
def test_float8(kind: str, table: np.ndarray) -> None:
    """All 256 codes, and the nearest of any number up to the largest, ties included, as ml_dtypes has them."""
    every = np.arange(256)
    assert np.array_equal(_as_float(kind, every), small_floats.float8(table), equal_nan=True)
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-1, 1, 5000) * table[-1], table, (table[1:] + table[:-1]) / 2]).astype(np.float32)
    x = np.concatenate([x, -x, x * 2.0**-14])
    theirs = x.astype(getattr(ml_dtypes, kind))
    assert np.array_equal(theirs.view(np.uint8), small_floats.signed(x, table))


def test_every_bfloat() -> None:
    """All 65 536 patterns, by what the library jax has for them; quantised are the nearest, ties to even."""
    raw = np.arange(65536, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    theirs = raw.view(ml_dtypes.bfloat16).astype(np.float32)
    fmt = formats.get("bf16")
    assert np.array_equal(fmt.dequantize(raw), theirs, equal_nan=True)
    x = np.random.default_rng(0).integers(0, 2**32, 20000, dtype=np.uint32)
    x[::3] = x[::3] & 0xFFFF0000 | 0x8000
    values = x.view(np.float32)
    values = values[np.isfinite(values)]
    assert fmt.quantize is not None
    with np.errstate(over="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    assert expected.tolist() == fmt.quantize(values[:, None]).view(np.uint16)[:, 0].tolist()


def test_a_bfloat_scale_is_rounded_down() -> None:
    """So that it stays in a range whose end is none: 65504 becomes 65280, not 65536."""
    fmt = formats.get("bf16")
    assert fmt.stored_scale(np.array([65504.0, -1.001, 2.0**-133])).tolist() == [65280.0, -1.0, 2.0**-133]


def _gptq_tensors(seed: int, k: int, out: int, size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "codes": rng.integers(0, 16, (k, out)),
        "zeros": rng.integers(1, 16, (k // size, out)),
        "scales": rng.uniform(0.01, 1, (k // size, out)).astype(np.float16),
    }


def _packed(numbers: np.ndarray, axis: int, order: tuple[int, ...] = tuple(range(8))) -> np.ndarray:
    """uint32 words of eight numbers along an axis, number order[i] of eight in nibble i."""
    moved = np.moveaxis(numbers, axis, -1)
    eight = moved.reshape(*moved.shape[:-1], -1, 8)[..., list(order)].astype(np.uint32)
    words = np.bitwise_or.reduce(eight << (4 * np.arange(8, dtype=np.uint32)), axis=-1)
    return np.moveaxis(words, -1, axis)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("family", ["gptq", "gptq_v2"])
def test_tensors_of_gptq(family: str, size: int) -> None:
    """qweight packed along the input and qzeros along the output, as AutoGPTQ packs them, are rows of blocks."""
    k, out = 2 * size, 16
    t = _gptq_tensors(size, k, out, size)
    qweight = _packed(t["codes"], 0)
    qzeros = _packed(t["zeros"] - (family == "gptq"), 1)
    blocks = np.zeros((out, k // size), formats.get(f"{family}_g{size}").layout)
    for o in range(out):
        for g in range(k // size):
            words = qweight[g * size // 8 : (g + 1) * size // 8, o]
            blocks["d"][o, g], blocks["qs"][o, g] = t["scales"][g, o], np.ascontiguousarray(words).view(np.uint8)
            word = int(qzeros[g, o // 8]) >> (4 * (o % 8))
            # With the zero point of the next output above it.
            blocks["zero"][o, g] = word & 255
    values = formats.get(f"{family}_g{size}").dequantize(blocks.view(np.uint8).reshape(out * k // size, -1))
    zeros, scales = (np.repeat(t[name], size, axis=0) for name in ("zeros", "scales"))
    expected = scales.astype(np.float32) * (t["codes"] - zeros)
    assert np.array_equal(expected.T, values.reshape(out, k))


@pytest.mark.parametrize("size", [32, 64, 128])
def test_tensors_of_awq(size: int) -> None:
    """Codes of AutoAWQ's qweight, eight outputs in a word, packed again along the input in the same order."""
    order, k, out = (0, 2, 4, 6, 1, 3, 5, 7), 2 * size, 16
    t = _gptq_tensors(size, k, out, size)
    qweight, qzeros = _packed(t["codes"], 1, order), _packed(t["zeros"], 1, order)
    # What AutoAWQ's dequantize_gemm does: nibble i of a word is output order[i].
    shifts = 4 * np.array([0, 4, 1, 5, 2, 6, 3, 7], np.uint32)
    codes = ((qweight[:, :, None] >> shifts) & 15).reshape(k, out).astype(np.int32)
    zeros = ((qzeros[:, :, None] >> shifts) & 15).reshape(k // size, out).astype(np.int32)
    assert np.array_equal(codes, t["codes"])
    fmt = formats.get(f"awq_g{size}")
    blocks = np.zeros((out, k // size), fmt.layout)
    blocks["d"], blocks["zero"] = t["scales"].T, zeros.T
    blocks["qs"] = np.ascontiguousarray(_packed(codes.T, 1, order)).view(np.uint8).reshape(out, k // size, -1)
    values = fmt.dequantize(blocks.view(np.uint8).reshape(out * k // size, -1)).reshape(out, k)
    expected = np.repeat(t["scales"], size, axis=0).astype(np.float32) * (codes - np.repeat(zeros, size, axis=0))
    assert np.array_equal(expected.T, values)


def test_nf4_is_what_bitsandbytes_stores() -> None:
    """The first element of a byte is in the high nibble; levels are the quantiles that the paper gives."""
    fmt = formats.get("nf4")
    block = np.zeros((1, 36), np.uint8)
    block[0, :4], block[0, 4] = np.frombuffer(np.float32(2).tobytes(), np.uint8), 0xF7
    values = fmt.dequantize(block)[0]
    assert (values[0], values[1], values[2]) == (2.0, 0.0, -2.0)
    # Quantiles of the normal distribution between 1 - offset and 1/2, with one more level above zero than below.
    normal, offset = statistics.NormalDist(), 0.9677083
    above = [normal.inv_cdf(offset + (0.5 - offset) * i / 8) for i in range(8)]
    below = [-normal.inv_cdf(offset + (0.5 - offset) * i / 7) for i in range(7)]
    levels = np.sort([*above, 0.0, *below]) / max(above)
    assert np.allclose(nf4.LEVELS, levels, atol=1e-6)


def test_bytes_that_no_quantiser_writes() -> None:
    """``canonical`` replaces NaN codes and scales, signs of scales and ternary digits beyond the last, nothing else."""

    def same(name: str, raw: np.ndarray) -> np.ndarray:
        return formats.get(name).canonical(raw) == raw

    ends = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 132, axis=1)
    assert [127, 255] == np.flatnonzero(~same("fp8_e4m3", ends).all(axis=1)).tolist()
    wrong = np.flatnonzero(~same("fp8_e5m2", ends).all(axis=1)).tolist()
    assert [*range(124, 128), *range(252, 256)] == wrong
    assert [*range(127, 256)] == np.flatnonzero(~same("nvfp4", ends[:, :36]).all(axis=1)).tolist()
    assert [*range(127, 256)] == np.flatnonzero(~same("nvfp4_two_level", ends[:, :13]).all(axis=1)).tolist()
    digits = same("tq1_0", ends[:, :54])
    assert (243, 81) == (digits[:, :48].all(axis=1).sum(), digits[:, 48:52].all(axis=1).sum())
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (500, 54), np.uint8)
    raw[:, 53] &= 0x3F
    ternary = formats.get("tq1_0")
    # They stand for the same digits.
    assert np.array_equal(ternary.dequantize(raw)[:, :240], ternary.dequantize(ternary.canonical(raw))[:, :240])
    for name in formats.names():
        fmt = formats.get(name)
        raw = rng.integers(0, 256, (100, fmt.type_size), np.uint8)
        assert np.array_equal(fmt.canonical(fmt.canonical(raw)), fmt.canonical(raw))
        if name[0] in "qfbai" and not name.startswith("fp8"):
            assert np.array_equal(fmt.canonical(raw), raw)


@pytest.mark.parametrize("name", ["f16", "bf16", "nvfp4", "tq1_0", "tq2_0"])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 300.0, 3000.0])
def test_quantises_as_the_library(name: str, scale: float) -> None:
    """The bytes of ggml's reference quantisers, ties included."""
    if kernels.missing("libggml") is not None:
        pytest.skip(str(kernels.missing("libggml")))
    fmt, rng = formats.get(name), np.random.default_rng(6)
    x = rng.standard_normal((600, fmt.block_size))
    x[::3] = np.round(x[::3] * 4) / 4
    values = (x * scale).astype(np.float32)
    assert fmt.quantize is not None
    assert np.array_equal(kernels.get("libggml").quantize(name, values), fmt.quantize(values))


@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_those_of_gguf_py(name: str) -> None:
    """Every point, in its place."""
    quants = pytest.importorskip("gguf.quants")
    theirs = getattr(quants, name.upper())
    theirs.init_grid()
    ours = getattr(grids, "IQ1" if name.startswith("iq1") else name.upper())
    assert (GRIDS[name], theirs.grid_shape[1]) == ours.shape
    assert np.array_equal(theirs.grid.reshape(ours.shape), ours)


def test_even_signs_are_those_of_gguf_py() -> None:
    """The eighth sign of each index makes the number of minus signs even."""
    quants = pytest.importorskip("gguf.quants")
    assert list(quants.IQ2_XXS.ksigns) == grids.EVEN.tolist()
    x = np.random.default_rng(0).standard_normal((500, 8))
    size, signs = grid_fit.even_signs(x)
    assert np.isin(signs, grids.EVEN).all()
    minus = (signs[:, None] >> np.arange(8)) & 1
    assert np.array_equal(x, size * (1 - 2 * minus))
    assert ((size < 0).sum(axis=1) <= 1).all()


@pytest.mark.parametrize("name", GRIDS)
def test_grid_quantisers_are_not_far_from_ggml(name: str) -> None:
    """The squared error of dense rows is at most 1.05 times that of ggml's recorded blocks, which weight errors."""
    recorded = np.load(DATA / "ggml-quantised.npz")
    fmt, values = formats.get(name), recorded["values"][:12]

    def squared(blocks: np.ndarray) -> float:
        return float(((fmt.dequantize(blocks).astype(np.float64) - values) ** 2).sum())

    assert fmt.quantize is not None
    assert squared(fmt.quantize(values)) <= 1.05 * squared(recorded[f"{name}/blocks"][:12])


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
