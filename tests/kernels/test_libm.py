"""diffuzz.kernels.libm: expf is glibc's, the others are the machine's."""

import ctypes
import ctypes.util
import math
import sys
from collections.abc import Iterator
from decimal import Decimal, localcontext

import numpy as np
import pytest

from diffuzz.kernels import libm

# Where glibc's build with fused multiply-adds differs from the one without, of all 2^32 arguments (by one ULP).
FUSED_DIFFERS = np.array([0x4202422F, 0xC27C65D9], np.uint32).view(np.float32)


def arguments() -> np.ndarray:
    """Arguments over the whole range of expf, and beside its ends."""
    rng = np.random.default_rng(3)
    ends = np.array([0x42B17217, 0x42B17218, 0x42B17219, 0xC2CFF1B3, 0xC2CFF1B4, 0xC2CFF1B5], np.uint32).view(
        np.float32
    )
    tiny = np.array([0, -0.0, 1e-45, -1e-45, 1e-20, np.inf, -np.inf], np.float32)
    return np.concatenate(
        [rng.uniform(-105, 90, 20000).astype(np.float32), rng.standard_normal(5000).astype(np.float32), ends, tiny]
    )


def test_expf_is_within_0p502_ulp():
    """expf is within 0.502 ULP of exp, which float64 arithmetic knows to 1e-16."""
    x = arguments()
    x = x[(x > -87) & (x < 88.7)]
    exact = np.exp(x.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert (np.abs(libm.expf(x).astype(np.float64) - exact) / ulp).max() <= 0.5021


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another C library has another expf")
def test_expf_has_the_bits_of_the_machine():
    """On a machine with glibc expf has the library's bits, but for two arguments where fused builds differ."""
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("not glibc")
    library.expf.restype, library.expf.argtypes = ctypes.c_float, [ctypes.c_float]
    x = np.setdiff1d(arguments(), FUSED_DIFFERS)
    expected = np.array([library.expf(v) for v in x.tolist()], np.float32)
    assert expected.view(np.uint32).tolist() == libm.expf(x).view(np.uint32).tolist()


def test_expf_of_special_values():
    """0 at minus infinity and below -103.97, infinity above 88.72, NaN at NaN, 1 at 0, subnormal results kept."""
    x = np.array([-np.inf, -104, 89, np.inf, 0, -0.0, np.nan, -103], np.float32)
    assert [0, 0, np.inf, np.inf, 1, 1] == libm.expf(x)[:6].tolist()
    assert np.isnan(libm.expf(x)[6])
    assert libm.expf(x)[7] == 2.0**-149


def test_expf_against_decimal():
    """At a few arguments, with 40 digits: the nearest float32 or its neighbour."""
    with localcontext() as context:
        context.prec = 40
        for x in np.array([-80.25, -1.5, 1e-3, 0.6931472, 33.3, 88.5], np.float32):
            exact = np.float32(Decimal(float(x)).exp())
            assert abs(int(exact.view(np.int32)) - int(libm.expf(x[None])[0].view(np.int32))) <= 1


@pytest.mark.parametrize(("function", "reference"), [(libm.sinf, math.sin), (libm.cosf, math.cos)])
def test_sine_and_cosine_are_within_an_ulp(function, reference):
    """sinf and cosf are within one ULP, in the shape of the argument, repeats included."""
    x = np.random.default_rng(1).uniform(-1e5, 1e5, (50, 4)).astype(np.float32)
    x[10:20] = x[:10]
    expected = np.array([reference(v) for v in x.ravel().tolist()]).reshape(x.shape)
    assert (np.abs(function(x) - expected) <= np.spacing(np.abs(expected).astype(np.float32))).all()


def test_power_is_within_an_ulp():
    """powf is within one ULP, in the shape of the exponents."""
    exponents = np.linspace(-1, 1, 33, dtype=np.float32).reshape(3, 11)
    expected = 10000.0 ** exponents.astype(np.float64)
    assert (np.abs(libm.powf(10000.0, exponents) - expected) <= np.spacing(expected.astype(np.float32))).all()


@pytest.fixture
def _afresh() -> Iterator[None]:
    """What was found is looked for again."""
    libm._function.cache_clear()
    yield
    libm._function.cache_clear()


@pytest.mark.usefixtures("_afresh")
def test_a_library_without_a_name(monkeypatch):
    """Where the C library has no name that is known, as with musl, its functions are those that are loaded anyway."""
    x = np.linspace(-9, 9, 50).astype(np.float32)
    expected = libm.sinf(x)
    libm._function.cache_clear()
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    real = ctypes.CDLL

    def only_loaded(name: str | None) -> ctypes.CDLL:
        if name is None:
            return real(None)
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", only_loaded)
    assert expected.tolist() == libm.sinf(x).tolist()


@pytest.mark.usefixtures("_afresh")
def test_a_system_without_these_functions(monkeypatch):
    """One line that says what is missing, and what does without it: exit code 3 of the command line."""

    def none(name: str | None) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", none)
    with pytest.raises(ImportError, match=r"^the C library's function powf, with which kernels apr and ggml .* is not"):
        libm.powf(2.0, np.ones(3, np.float32))
