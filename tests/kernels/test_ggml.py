"""diffuzz.kernels.ggml: the bits of a compiled ggml (golden data), and its corners that the data does not reach."""

import sys
from pathlib import Path

import numpy as np
import pytest

from diffuzz import formats, kernels
from diffuzz.formats import q8_0
from diffuzz.kernels import ggml, lanes, libm
from diffuzz.kernels.fma import fma


def differ(expected: np.ndarray, got: np.ndarray) -> int:
    """Elements whose bits differ; shapes and types must agree."""
    assert (expected.shape, expected.dtype) == (got.shape, got.dtype)
    return int((expected.view(np.uint32) != got.view(np.uint32)).sum())


def test_dot_products(format, golden):
    """vec_dot has the library's bits, for every row with every activation."""
    weights, x, result = (golden[f"vec_dot/{format}/{name}"] for name in ("weights", "activations", "result"))
    assert differ(result, ggml.vec_dot(format, weights, x)) == 0


def test_paired_dot_products(format, golden):
    """vec_dot_rows has the library's bits, for any pairing of rows and activations."""
    weights, x, result = (golden[f"vec_dot/{format}/{name}"] for name in ("weights", "activations", "result"))
    m, b = (part.ravel() for part in np.indices(result.shape))
    assert differ(result.ravel(), ggml.vec_dot_rows(format, weights[m], x[b])) == 0


def test_chunks_do_not_matter(format, golden, monkeypatch):
    """Rows taken one at a time, as for large matrices, give the same bits."""
    weights, x, result = (golden[f"vec_dot/{format}/{name}"] for name in ("weights", "activations", "result"))
    monkeypatch.setattr(lanes, "_CHUNK", 1)
    assert differ(result, ggml.vec_dot(format, weights, x)) == 0
    assert differ(result[:, 3], ggml.vec_dot_rows(format, weights, np.repeat(x[3:4], len(weights), axis=0))) == 0


@pytest.mark.parametrize("n", [64, 100, 256, 896])
def test_rms_norm(golden, n):
    """rms_norm has the library's bits; a weight is one more product."""
    x, y = golden[f"rms_norm/{n}/x"], golden[f"rms_norm/{n}/y"]
    gain = np.linspace(0.1, 3, n, dtype=np.float32)
    assert differ(y, ggml.rms_norm(x, 1e-6)) == 0
    assert differ(y * gain, ggml.rms_norm(x, 1e-6, gain)) == 0


@pytest.mark.parametrize("n", [5, 16, 33, 200])
def test_soft_max(golden, n):
    """soft_max has the library's bits, with and without a tail."""
    assert differ(golden[f"soft_max/{n}/y"], ggml.soft_max(golden[f"soft_max/{n}/x"])) == 0


@pytest.mark.parametrize("n", [16, 100, 256])
def test_silu_and_swiglu(golden, n):
    """silu and swiglu have the library's bits, with and without a tail."""
    assert differ(golden[f"silu/{n}/y"], ggml.silu(golden[f"silu/{n}/x"])) == 0
    assert differ(golden[f"swiglu/{n}/y"], ggml.swiglu(golden[f"swiglu/{n}/gate"], golden[f"swiglu/{n}/up"])) == 0


@pytest.mark.parametrize("mode", ["norm", "neox"])
def test_rope(golden, mode):
    """rope has the library's bits where the C library is glibc, and is near them with any other."""
    x, positions, y = (golden[f"rope/{mode}/{name}"] for name in ("x", "positions", "y"))
    got = ggml.rope(x, positions, 10000.0, mode)
    if sys.platform.startswith("linux"):
        assert differ(y, got) == 0
    np.testing.assert_allclose(got, y, atol=2e-2)  # at position 131071 an ULP of the frequency turns the pair by 0.006


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the data was made with glibc's powf, cosf and sinf")
def test_rope_leaves_the_last_odd_pair_unfused():
    """In mode norm an odd number of pairs has its last one rounded product by product; here are the library's bits."""
    x = np.array([[[-12.25, 4.125, -11.875, 1.5, -5.25, 0.5]]], np.float32)
    library = np.array([0x4138B980, 0xC0B9FF81, 0xC13F7DF9, 0xBE26A6F5, 0xC0A81993, 0x3EEE9F16], np.uint32)
    got = ggml.rope(x, np.array([3], np.int32), 10000.0, "norm")
    assert library.tolist() == got.view(np.uint32).ravel().tolist()
    theta = np.array([3], np.float32) * libm.powf(10000.0, np.array([-2], np.float32) / np.float32(6))
    theta = theta * libm.powf(10000.0, np.array([-2], np.float32) / np.float32(6))
    fused = fma(x[0, 0, 4], libm.cosf(theta), -(x[0, 0, 5] * libm.sinf(theta)))
    assert differ(fused, got[0, 0, 4:5]) == 1


@pytest.mark.parametrize("name", ["ggml", "ggml:zen", "ggml:avx2"])
def test_builds_differ_as_the_library_does(name):
    """Recorded of three builds: AVX512 tuned for Sapphire Rapids and for Zen, AVX2 tuned for nothing."""
    with np.load(Path(__file__).parents[1] / "data" / "ggml-cpu-builds.npz") as data:
        recorded, build = dict(data), name.rpartition(":")[2]
    model, x = kernels.get(name), recorded["exp/x"]
    got = {
        "soft_max": model.soft_max(x),
        "silu": model.silu(x),
        "swiglu": model.swiglu(x, recorded["swiglu/up"]),
        "iq4_nl": model.vec_dot_rows("iq4_nl", recorded["iq4_nl/weights"], recorded["iq4_nl/activations"]),
    }
    if sys.platform.startswith("linux"):
        got["rope"] = model.rope(recorded["rope/x"], recorded["rope/positions"], 10000.0, "norm")
    assert dict.fromkeys(got, 0) == {key: differ(recorded[f"{build}/{key}"], result) for key, result in got.items()}


def test_the_build_of_a_library_is_found():
    """What has a build's bits is that build; what has nobody's is none."""
    for build in (ggml.Build(), ggml.Build(False), ggml.Build(False, False), ggml.Build(True, False, 4)):
        found = ggml.model_of(ggml.built(build))
        assert found is not None
        assert found.rope.keywords["build"] == build
    assert ggml.model_of(kernels.get("apr")) is None


def test_code_minus_128_meets_negative_weights_as_plus_128(monkeypatch):
    """AVX2's sign trick: -1 times -128 is -(+128), as observed on the library (-4096 for 32 products, not +4096)."""
    codes = np.full((1, 32), -128, np.int32)
    monkeypatch.setattr(q8_0, "quantise_x86", lambda values: (None, np.ones(1, np.float32), codes))
    for weight, expected in ((-1, -4096.0), (1, -4096.0), (-128, -524288.0), (0, 0.0)):
        block = formats.get("q8_0").pack({"d": np.ones(1, np.float16), "codes": np.full((1, 32), weight, np.int32)})
        assert expected == ggml.vec_dot("q8_0", block, np.zeros((1, 32), np.float32))[0, 0]


@pytest.mark.parametrize("build", [ggml.Build(), ggml.Build(avx512=False)])
def test_exp_at_the_ends(build):
    """0 at -104 and below, the least subnormal number at -103, infinity at 88.8, NaN at NaN."""
    got = ggml.exp(np.array([-np.inf, -200, -104, -103, 0, 88.8, np.inf, np.nan], np.float32), build=build)
    assert [0.0, 0.0, 0.0, 2.0**-149, 1.0, np.inf, np.inf] == got[:7].tolist()
    assert np.isnan(got[7])


@pytest.mark.parametrize("build", [ggml.Build(), ggml.Build(avx512=False)])
def test_exp_is_within_2p25_ulp(build):
    """The polynomial is within 2.25 ULP, the worst of 2^24 arguments (-4.5553937 is it, with AVX512)."""
    x = np.random.default_rng(0).uniform(-87, 88, 50000).astype(np.float32)
    x[0] = -4.5553937
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(ggml.exp(x, build=build) - exact) / np.spacing(exact.astype(np.float32))).max() <= 2.25


def test_place_decides_about_the_last_bit():
    """One value has other bits in a chunk of 16 than in a tail: the reason why rows are not interchangeable."""
    x = np.linspace(-20, 0, 400, dtype=np.float32)
    in_chunks = ggml.silu(np.repeat(x[:, None], 16, axis=1))[:, 0]
    in_tails = ggml.silu(x[:, None])[:, 0]
    assert 0 < differ(in_chunks, in_tails) < 400
    np.testing.assert_allclose(in_chunks, in_tails, rtol=4e-7)


def test_silu_of_special_values():
    """NaN at minus infinity (-inf / inf), -0 where exp(-x) overflows, as the library has it."""
    got = ggml.silu(np.array([-np.inf, -89, np.inf, 0], np.float32))
    assert np.isnan(got[0])
    assert [0.0, np.inf, 0.0] == got[1:].tolist()
    assert np.signbit(got[1])


def test_any_leading_shape():
    """Row operations take any leading axes, and a single row."""
    x = np.random.default_rng(0).standard_normal((2, 3, 20)).astype(np.float32)
    for operation in (lambda v: ggml.rms_norm(v, 1e-5), ggml.soft_max, ggml.silu):
        assert differ(operation(x)[1, 2], operation(x[1, 2])) == 0


def test_unknown_weights_are_rejected():
    """Activation formats are no weights."""
    with pytest.raises(ValueError, match="format='q8_K': activations come in it, and a format of weights is needed"):
        ggml.vec_dot("q8_K", np.zeros((1, 292), np.uint8), np.zeros((1, 256), np.float32))
