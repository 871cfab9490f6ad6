"""The real ggml library: our model of it is it, to the bit; its process survives; other builds can be named."""

from __future__ import annotations

import os
import signal
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffuzz import formats, kernels
from diffuzz.kernels import ggml, libggml
from diffuzz.kernels.process.worker import RowsFailedError
from diffuzz.targets.matvec import WEIGHT_FORMATS

needs_library = pytest.mark.skipif(kernels.missing("libggml") is not None, reason=str(kernels.missing("libggml")))
ACTIVATION_FORMATS = ("q8_0", "q8_1", "q8_K")
K = 512


def blocks(format: str, rows: int, seed: int = 0) -> np.ndarray:
    """Random bytes with finite scales of any size: uint8[rows, row_bytes]."""
    fmt, rng = formats.get(format), np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows * (K // fmt.block_size), fmt.type_size), dtype=np.uint8)
    fields = fmt.unpack(raw)
    for name in fmt.scale_fields:
        shape = fields[name].shape
        fields[name] = (rng.choice([-1, 1], shape) * 2.0 ** rng.uniform(-24, 6, shape)).astype(fields[name].dtype)
    return fmt.pack(fields).reshape(rows, -1)


def numbers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """float32 over many decades, zeros and ties among them."""
    rng = np.random.default_rng(seed)
    x = rng.choice([-1, 1], shape) * 2.0 ** rng.uniform(-20, 4, shape) * rng.choice([0, 1, 1, 1], shape)
    return x.astype(np.float32)


def bits(array: np.ndarray) -> np.ndarray:
    """Bits, with one pattern for every NaN."""
    array = np.where(np.isnan(array), np.float32(np.nan), array).astype(np.float32)
    return array.view(np.uint32)


@needs_library
@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_dot_products_are_those_of_the_model(format: str, ggml_model: Any) -> None:
    """Every weight format, scales from subnormal to large: the model's result to the bit."""
    weights, x = blocks(format, 200), numbers((200, K))
    native = kernels.get("libggml")
    with np.errstate(all="ignore"):
        expected = ggml_model.vec_dot_rows(format, weights, x)
    assert (bits(expected) == bits(native.vec_dot_rows(format, weights, x))).all()
    assert (native.vec_dot(format, weights[:3], x[:5])[1, 4] == native.vec_dot_rows(format, weights[1:2], x[4:5])).all()


@needs_library
@pytest.mark.parametrize("format", [name for name in formats.names() if formats.of_ggml(name) and name != "q8_1"])
def test_dequantisers_are_those_of_the_model(format: str) -> None:
    """Every format that the library dequantises."""
    raw = blocks(format, 100)
    fmt = formats.get(format)
    expected = ggml.dequantize(format, raw.reshape(-1, fmt.type_size)).reshape(100, K)
    assert (bits(expected) == bits(kernels.get("libggml").dequantize(format, raw))).all()


@needs_library
@pytest.mark.parametrize("blocks_in_row", [1, 2, 3, 8, 33])
@pytest.mark.parametrize("format", ["iq4_nl", "mxfp4"])
def test_formats_taken_in_pairs_of_blocks(format: str, blocks_in_row: int, ggml_model: Any) -> None:
    """Odd numbers of blocks, one and many, with bytes as they come: NaN and infinite scales, all powers of two."""
    rng = np.random.default_rng(blocks_in_row)
    raw = rng.integers(0, 256, (2000, blocks_in_row * formats.get(format).type_size), dtype=np.uint8)
    x = numbers((2000, 32 * blocks_in_row), blocks_in_row)
    with np.errstate(all="ignore"):
        expected = ggml_model.vec_dot_rows(format, raw, x)
    assert (bits(expected) == bits(kernels.get("libggml").vec_dot_rows(format, raw, x))).all()


@needs_library
def test_mxfp4_is_quantised_as_in_the_library() -> None:
    """Its quantiser of weights is ggml's, next to powers of two as well, where the float32 logarithm rounds up."""
    rng = np.random.default_rng(0)
    top = 2.0 ** rng.integers(-120, 120, 2000) * (1 - 2.0**-24 * rng.integers(-3, 4, 2000))
    x = (top[:, None] * rng.uniform(-1, 1, (2000, 32))).astype(np.float32)
    x[np.arange(2000), rng.integers(0, 32, 2000)] = top
    assert (ggml.quantize("mxfp4", x) == kernels.get("libggml").quantize("mxfp4", x)).all()


@needs_library
@pytest.mark.parametrize("format", ACTIVATION_FORMATS)
def test_quantisers_are_those_of_the_model(format: str) -> None:
    """Every activation format, ties and zeros included."""
    x, size = numbers((300, K)), formats.get(format).block_size
    x[::3] = np.round(x[::3] * 8) / 8
    with np.errstate(all="ignore"):
        expected = ggml.quantize(format, x.reshape(-1, size)).reshape(300, -1)
    assert (expected == kernels.get("libggml").quantize(format, x)).all()


@needs_library
@pytest.mark.parametrize("n", [1, 2, 7, 8, 15, 16, 17, 31, 33, 256, 1000])
def test_row_operations_are_those_of_the_model(n: int, ggml_model: Any) -> None:
    """Norms, softmax and activation functions at lengths with and without a tail."""
    native, x, up = kernels.get("libggml"), numbers((50, n)), numbers((50, n), 1)
    with np.errstate(all="ignore"):
        pairs = [
            (ggml_model.rms_norm(x, 1e-6), native.rms_norm(x, 1e-6)),
            (ggml_model.rms_norm(x, 1e-5, weight=up[0]), native.rms_norm(x, 1e-5, weight=up[0])),
            (ggml_model.soft_max(x), native.soft_max(x)),
            (ggml_model.silu(x), native.silu(x)),
            (ggml_model.swiglu(x, up), native.swiglu(x, up)),
        ]
    for expected, got in pairs:
        assert (bits(expected) == bits(got)).all()


@needs_library
@pytest.mark.parametrize("mode", ["norm", "neox"])
@pytest.mark.parametrize("d", [2, 4, 6, 10, 64, 80])
def test_rope_is_that_of_the_model(mode: str, d: int, ggml_model: Any) -> None:
    """Both modes, odd numbers of pairs, large positions."""
    x, positions = numbers((40, 3, d)), np.random.default_rng(0).integers(0, 2**20, 40).astype(np.int32)
    native = kernels.get("libggml")
    expected = ggml_model.rope(x, positions, 10000.0, mode)
    assert (bits(expected) == bits(native.rope(x, positions, 10000.0, mode))).all()
    # A factor of one changes nothing; one of 2^30 takes the angle away.
    assert (native.rope(x, positions, 1e4, mode, np.ones(d // 2)) == expected).all()
    still = native.rope(x, np.minimum(positions, 9), 1e4, mode, np.full(d // 2, 2.0**30))
    np.testing.assert_allclose(still, x, rtol=1e-6, atol=1e-6)


@needs_library
def test_mask_and_scale_of_soft_max() -> None:
    """softmax(scale x + mask): -inf takes a logit away."""
    x = numbers((20, 9))
    mask = np.where(np.arange(9) < 5, np.float32(0), np.float32(-np.inf))
    got = kernels.get("libggml").soft_max(x, mask=mask, scale=0.5)
    assert (got[:, 5:] == 0).all()
    np.testing.assert_allclose(got[:, :5], ggml.soft_max(x[:, :5] * np.float32(0.5)), rtol=1e-6)


@needs_library
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_weights_that_are_no_blocks(kind: str) -> None:
    """The dot product of what both sides are rounded to, up to the rounding of float32 sums."""
    rng = np.random.default_rng(0)
    w, x = rng.uniform(-1, 1, (2, 40, 65)).astype(np.float32)
    if kind == "bf16":
        # Whole numbers below 256 are bf16 numbers, the upper halves of float32.
        w, x = np.round(w * 100), np.round(x * 100)
        raw = (w.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    else:
        raw = w.astype({"f32": np.float32, "f16": np.float16}[kind]).view(np.uint8)
    if kind == "f16":
        w, x = w.astype(np.float16), x.astype(np.float16)
    exact, size = ((f(w.astype(np.float64) * x)).sum(axis=1) for f in (np.asarray, np.abs))
    got = kernels.get("libggml").vec_dot_rows(kind, raw, x.astype(np.float32))
    assert (np.abs(got - exact) <= 65 * 2.0**-24 * size).all()
    with pytest.raises(ValueError, match=r"uint8\[b, \d+\] is needed"):
        kernels.get("libggml").vec_dot_rows(kind, raw[:, 2:], x.astype(np.float32))


@needs_library
def test_nan_among_activations_counts_as_its_sign_says(ggml_model: Any) -> None:
    """A NaN is code -128 of q8_0: -128/127 beside weights of 1, and, by AVX2's sign trick, +128/127 beside -1."""
    x = np.ones((1, 32), np.float32)
    x[0, 5] = np.nan
    for code, expected in ((b"\x99", 29.990295), (b"\x77", -32.00592)):
        weights = np.frombuffer(np.float16(1).tobytes() + code * 16, np.uint8)[None]
        got = kernels.get("libggml").vec_dot_rows("q4_0", weights, x)
        assert got.tolist() == ggml_model.vec_dot_rows("q4_0", weights, x).tolist() == [np.float32(expected)]


@needs_library
def test_activations_beside_f16_weights_are_f16() -> None:
    """From 65520 on they are infinite, and 2^-25 is 0; beside f32 weights neither."""
    x = np.array([[65520, 0], [2.0**-25, 0]], np.float32)
    for kind, expected in ((np.float16, [np.inf, 0]), (np.float32, [65520, 2.0**-25])):
        ones = np.ones((2, 2), kind).view(np.uint8)
        got = kernels.get("libggml").vec_dot_rows(f"f{8 * kind().itemsize}", ones, x)
        assert got.tolist() == expected


@needs_library
def test_a_masked_row_is_nan_and_no_other() -> None:
    """-inf less -inf."""
    mask = np.array([[-np.inf] * 20, [0] * 20], np.float32)
    got = kernels.get("libggml").soft_max(np.ones((2, 20), np.float32), mask=mask)
    assert np.isnan(got[0]).all()
    np.testing.assert_allclose(got[1], 1 / 20, rtol=1e-6)


@needs_library
@pytest.mark.parametrize("n", [2, 31, 256])
def test_norm(n: int) -> None:
    """LayerNorm without gain and shift."""
    x = np.random.default_rng(n).uniform(-9, 9, (20, n)).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(kernels.get("libggml").norm(x, 1e-5), expected, rtol=1e-4, atol=1e-5)


@needs_library
def test_gelu() -> None:
    """The tanh form, through f16."""
    x = np.linspace(-8, 8, 101, dtype=np.float32)[None]
    wide = x.astype(np.float64)
    expected = wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * wide * (1 + 0.044715 * wide**2)))
    np.testing.assert_allclose(kernels.get("libggml").gelu(x), expected, rtol=2e-3, atol=2e-3)


@needs_library
@pytest.mark.parametrize("format", ["q4_0", "q8_0", "q4_K", "q6_K", "iq4_nl", "mxfp4"])
def test_generic_functions_agree_to_rounding(format: str) -> None:
    """The portable row functions of formats whose sums no compiler is known to break."""
    weights, x = blocks(format, 50), numbers((50, K))
    one, other = (kernels.get(name).vec_dot_rows(format, weights, x) for name in ("libggml", "libggml:generic"))
    size = np.abs(formats.get(format).dequantize(weights.reshape(-1, formats.get(format).type_size))).reshape(50, K)
    assert (np.abs(one - other) <= 1e-4 * (size * np.abs(x)).sum(axis=1)).all()
    for name in ACTIVATION_FORMATS:
        assert kernels.get("libggml:generic").quantize(name, x).shape == kernels.get("libggml").quantize(name, x).shape


@needs_library
def test_about() -> None:
    """Version, compiler and features, in words."""
    about = kernels.get("libggml").about()
    assert set(about) == {"library", "version", "compiler", "features"}
    assert about["version"][0].isdigit()
    assert all(text.isprintable() for text in about.values())


@needs_library
def test_a_killed_process_loses_nothing() -> None:
    """The next call has its results all the same."""
    x = numbers((10, 32))
    before = kernels.get("libggml").soft_max(x)
    process = libggml.native._workers["worker"]._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    assert (kernels.get("libggml").soft_max(x) == before).all()


@needs_library
def test_rows_that_fail_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row on which the library aborts: RowsFailedError says which, and has the results of the others."""
    library = libggml.Library()
    # ggml asserts that this cannot be: more bytes than the tensor has.
    with pytest.raises(RowsFailedError, match="row 0: raised: "):
        library._run("soft_max", {"scale": 1.0}, {"x": np.zeros((1, 4), np.float64)}, (4,), "float32")
    library.close()


@needs_library
def test_another_build_can_be_named(tmp_path: Path) -> None:
    """A folder with the same library behaves the same; a file will do; a folder without one is an error of one line."""
    folder = Path(libggml.files(None)[0]).parent
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    x = numbers((10, 32))
    expected = kernels.get("libggml").soft_max(x)
    assert (kernels.get(f"libggml@{tmp_path}").soft_max(x) == expected).all()
    assert (kernels.get(f"libggml@{tmp_path / 'libggml-cpu.so'}").soft_max(x) == expected).all()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no libggml-base, libggml-cpu or libggml in it"):
        kernels.get(f"libggml@{empty}").soft_max(x)
    (empty / "libggml.so").write_text("no library")
    with pytest.raises(ValueError, match=r"libggml at .*: OSError"):
        kernels.get(f"libggml@{empty}").soft_max(x)
    with pytest.raises(ValueError, match="there is no such file or folder"):
        kernels.get(f"libggml@{tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda one: one.vec_dot_rows("q4_0", np.zeros((2, 18), np.uint8), np.zeros((3, 32), np.float32)),
            "as many as x",
        ),
        (lambda one: one.quantize("q8_0", np.zeros((2, 33), np.float32)), "whole blocks of 32"),
        (lambda one: one.soft_max(np.zeros((2, 3))), "float32 is needed"),
        (lambda one: one.rope(np.zeros((1, 1, 3), np.float32), np.zeros(1, np.int32), 1e4, "norm"), "an even number"),
    ],
)
def test_wrong_arguments_never_reach_the_library(call: Any, message: str) -> None:
    """Shapes are checked before the call, with or without a library: one line."""
    with pytest.raises(ValueError, match=message):
        call(libggml.Library())


def test_nothing_in_nothing_out() -> None:
    """An empty batch needs no library."""
    assert libggml.Library().soft_max(np.zeros((0, 5), np.float32)).shape == (0, 5)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install, in one line."""

    def nothing(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", nothing)
    assert kernels.missing("libggml:generic") == (
        "kernels libggml:generic need the package ggml: pip install 'diffuzz-kernels[ggml]'"
    )
    assert kernels.missing("ggml") is None
    with pytest.raises(ImportError, match=r"pip install 'diffuzz-kernels\[ggml\]'"):
        libggml.Library().soft_max(np.zeros((1, 5), np.float32))
    assert "ggml" not in sys.modules
