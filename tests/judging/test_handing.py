"""Arrays of other libraries: every bit goes there and back, and what cannot be is said in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from diffuzz.judging import handing
from diffuzz.judging.handing import Handing, HandingError, MissingArraysError, capsules
from diffuzz.judging.handing.taking import array_of, taken
from diffuzz.judging.opening import check_handing
from diffuzz.judging.question import Judge
from diffuzz.kernels.process.channel import ResultError

DTYPES = [
    "float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int8", "int32", "int64", "uint8", "bool",
]  # fmt: skip


def every_bit(name: str) -> np.ndarray:
    """An array [3, n] of a dtype with all the bit patterns of 8 and 16 bits, or many of more."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    if name == "bool":
        return np.array([[True, False], [False, False], [True, True]])
    if dtype.itemsize <= 2:
        return np.tile(np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}"), 3).view(dtype).reshape(3, -1)
    bits = np.random.default_rng(0).integers(0, 2**63, size=(3, 4096), dtype=np.uint64) * 2
    return bits.view(dtype)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are the same to the bit, of the same dtype and shape."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def given_to(kind: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a function returns that is called with arrays of a library."""
    return handing.opened(Handing(kind))(function)(*arguments, **named)


def library(kind: str) -> Any:
    """The library of a kind of arrays, or a skipped test."""
    return pytest.importorskip(kind) if kind in ("torch", "jax") else np


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("kind", ["torch", "jax", "dlpack"])
def test_every_bit_goes_there_and_back(kind: str, name: str) -> None:
    """Of each dtype, NaN payloads, infinities and subnormal numbers too, by position and by keyword."""
    library(kind)
    array = every_bit(name)
    found: list[Any] = []

    def function(x: Any, *, y: Any) -> Any:
        found.append(x)
        return x, y

    got = given_to(kind, function, array, y=array[:, :2])
    assert same_bits(got[0], array)
    assert same_bits(got[1], array[:, :2])
    if kind == "dlpack":
        assert not hasattr(found[0], "__array__")
        assert found[0].__dlpack_device__() == (1, 0)
    else:
        assert name in str(found[0].dtype)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("kind", ["torch", "jax"])
def test_libraries_read_our_capsules(kind: str, name: str) -> None:
    """An object with nothing but DLPack is an array of torch and JAX, to the bit."""
    found = library(kind)
    if kind == "jax" and name in ("float64", "int64"):
        pytest.skip("JAX has these with jax_enable_x64 only")
    array = every_bit(name)
    read = found.from_dlpack if kind == "torch" else found.dlpack.from_dlpack
    assert same_bits(array_of(read(capsules.given(array))), array)


def test_tensors_share_memory() -> None:
    """Nothing is copied on the processor, and what a function does to its argument is done to it."""
    pytest.importorskip("torch")
    for name in ("float32", "bfloat16", "float8_e5m2"):
        array = np.ones((2, 3), getattr(ml_dtypes, name, name))
        got = given_to("torch", lambda x: x.zero_(), array)
        assert not array.astype(np.float32).any()
        assert np.shares_memory(got, array)
        through = given_to("dlpack", lambda x: x, array)
        assert np.shares_memory(through, array)


def test_an_array_that_must_not_be_written_to_is_copied() -> None:
    """So no library warns of it, and the array stays as it is."""
    pytest.importorskip("torch")
    array = np.ones(3, np.float32)
    array.setflags(write=False)
    for kind in ("torch", "jax", "dlpack"):
        assert same_bits(given_to(kind, lambda x: x, array), array)
    given_to("torch", lambda x: x.zero_(), array)
    assert array.all()


@pytest.mark.parametrize("kind", ["torch", "jax", "dlpack"])
def test_numbers_are_those_of_python(kind: str) -> None:
    """A scalar argument is a float, an int or a bool, and a word stays one."""
    library(kind)
    seen: list[object] = []

    def function(x: Any, *rest: object, **named: object) -> Any:
        seen.extend((*rest, *named.values()))
        return x

    given_to(kind, function, np.ones(1), np.float64(1e-6), np.int32(3), "neox", flag=np.bool_(True))
    assert [1e-6, 3, "neox", True] == seen
    assert [float, int, str, bool] == list(map(type, seen))


def test_results_of_torch() -> None:
    """With a gradient, not contiguous, conjugated, of a module's parameter, in a named tuple, of no dimension."""
    torch = pytest.importorskip("torch")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert same_bits(given_to("torch", lambda t: t.requires_grad_() * 2, x), x * 2)
    assert same_bits(given_to("torch", lambda t: t.T, x), np.ascontiguousarray(x.T))
    narrow = x.astype(ml_dtypes.bfloat16)
    assert same_bits(given_to("torch", lambda t: t.T[::2], narrow), np.ascontiguousarray(narrow.T[::2]))
    assert same_bits(given_to("torch", lambda t: torch.nn.Parameter(t)[0, 1], narrow), narrow[0, 1, ...])
    assert same_bits(given_to("torch", lambda t: torch.complex(t, t).conj().imag, x), -x)
    values, indices = given_to("torch", lambda t: torch.topk(t, 2), x)
    assert same_bits(values, x[:, :0:-1])
    assert same_bits(indices, np.array([[2, 1], [2, 1]]))
    assert same_bits(given_to("torch", lambda t: t.numpy(), x), x)
    assert same_bits(given_to("torch", lambda t: [t[0], t[1]], x)[1], x[1])


def test_results_from_elsewhere() -> None:
    """An object that speaks DLPack only, on another device."""

    class Elsewhere:
        """Speaks DLPack, and has to be asked for a copy in the memory of the processor."""

        def __init__(self, array: np.ndarray) -> None:
            self.array, self.asked = capsules.given(array), list[object]()

        def __dlpack__(self, **how: Any) -> Any:
            self.asked.append(how.pop("dl_device", None))
            return self.array.__dlpack__(**how)  # type: ignore[attr-defined]

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 1

    there = Elsewhere(every_bit("bfloat16"))
    assert same_bits(np.asarray(taken(there)), every_bit("bfloat16"))
    assert there.asked == [(1, 0)]


def test_what_is_no_array_is_said() -> None:
    """In one line that begins as every complaint about a result does."""
    with pytest.raises(ResultError, match=r"^returns a dict, which is no array$"):
        given_to("dlpack", lambda x: {"y": x}, np.ones(1))
    torch = pytest.importorskip("torch")
    with pytest.raises(ResultError, match=r"^returns a tensor of the layout torch.sparse_coo"):
        taken(torch.eye(3).to_sparse())

    class Broken:
        def __dlpack__(self) -> object:
            return object()

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

    with pytest.raises(ResultError, match=r"^returns a Broken, which is no array: "):
        taken(Broken())


def test_numbers_of_64_bits_stay_so_in_jax() -> None:
    """For a call that has them, and no other."""
    jax = pytest.importorskip("jax")
    wide = np.array([1 + 2.0**-40])
    assert same_bits(given_to("jax", lambda x: x * 1.0, wide), wide)
    assert given_to("jax", lambda x: x + jax.numpy.zeros(1), np.ones(1, np.float32)).dtype == np.float32
    assert jax.numpy.zeros(1).dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "device", "message"),
    [
        ("cupy", "cpu", "numpy, torch, jax, dlpack are known"),
        ("torch", "CUDA 0", "a name such as cpu, cuda or cuda:0 is needed"),
        ("torch", "", "a name such as cpu"),
        ("torch", "cuda:0\n", "a name such as cpu"),
        ("numpy", "cuda:0", "in the memory of the processor; choose torch or jax"),
        ("dlpack", "cuda:0", "in the memory of the processor"),
    ],
)
def test_arrays_that_there_are_none_of(arrays: str, device: str, message: str) -> None:
    """One line that says which there are."""
    with pytest.raises(HandingError, match=message) as error:
        Judge(lambda z: z, arrays=arrays, device=device)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lib.so:f", "run: ./prog", "lib.dylib:f"])
def test_other_languages_get_no_tensors(name: str) -> None:
    """Their interface says what they get."""
    check_handing(name, Handing())
    with pytest.raises(HandingError, match="they are for functions of Python"):
        check_handing(name, Handing("torch"))


@pytest.mark.parametrize("kind", ["torch", "jax"])
def test_a_device_that_is_not_here(kind: str) -> None:
    """One line, with the device and the library."""
    library(kind)
    with pytest.raises(MissingArraysError, match=rf"^device cuda:4321: {kind} .* has none of this name here") as error:
        handing.opened(Handing(kind, "cuda:4321"))
    assert "\n" not in str(error.value)


def test_a_device_without_memory() -> None:
    """The device meta of torch computes nothing."""
    pytest.importorskip("torch")
    with pytest.raises(MissingArraysError, match="device meta"):
        handing.opened(Handing("torch", "meta"))


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install, without an import."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingArraysError, match="torch is not installed: pip install 'diffuzz-kernels"):
        handing.opened(Handing("torch"))


def test_what_an_entry_says() -> None:
    """Nothing of arrays of NumPy; else what gives the same again, and versions."""
    assert Handing().about() == {}
    pytest.importorskip("torch")
    about = Handing("torch", "cuda:1").about()
    assert Handing.recorded(about) == Handing("torch", "cuda:1")
    assert about["torch"]
    assert Handing.recorded({"jax": "0.10", "device": "cpu"}) == Handing()
    with pytest.raises(HandingError):
        Handing.recorded({"arrays": "os.system"})


def test_a_judge_takes_what_an_entry_recorded() -> None:
    """Where it says nothing else; a device alone is for other arrays' entries."""
    recorded = Handing("torch", "cuda:0")
    asked = [(None, None), (None, "cpu"), ("torch", None), ("jax", None), ("numpy", None), ("jax", "cpu")]
    given = [Judge("f.py:f", arrays=arrays, device=device).as_recorded(recorded).handing for arrays, device in asked]
    assert given == [recorded, Handing("torch"), recorded, Handing("jax"), Handing(), Handing("jax")]
    with pytest.raises(HandingError, match="choose torch or jax"):
        _ = Judge("f.py:f", device="cuda:0").as_recorded(Handing()).handing
