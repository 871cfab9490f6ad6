"""Functions of libraries, by diffuzz.h: what they are called with, right ones in three languages, and every failure."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opening.conftest import INCLUDE, ROOT, Build

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.cases.draws import structured
from diffuzz.cases.ranges import dtype_of
from diffuzz.judging.evidence import Judged
from diffuzz.judging.memory import placed
from diffuzz.judging.opening import CandidateError, Signature, UnloadableError, library, parse
from diffuzz.judging.opening.foreign import Asked, RefusedError
from diffuzz.judging.opening.named import LibraryFunction
from diffuzz.judging.problem import Problem, open_problem
from diffuzz.judging.question import Judge
from diffuzz.targets.contract import Result

KERNELS = Path(__file__).with_name("kernels.c")


def problem(target: str, name: str, timeout: float = 10.0, **given: Any) -> Problem:
    return open_problem(targets.get(target), given, Judge(name, timeout=timeout))


def cases(opened: Problem, count: int = 6) -> dict[str, np.ndarray]:
    """A batch of cases of the usual size."""
    return structured(opened.space, np.random.default_rng(5), count)


def loaded(path: Path, symbol: str) -> Any:
    found = parse(f"{path}:{symbol}")
    assert isinstance(found, LibraryFunction)
    return library.load(found)


def test_the_version_is_that_of_the_header() -> None:
    """One number, in the header, in the bindings for Rust, and here."""
    assert f"#define DIFFUZZ_ABI_VERSION {library.VERSION}\n" in (INCLUDE / "diffuzz.h").read_text()
    assert f"pub const ABI_VERSION: u32 = {library.VERSION};\n" in (INCLUDE / "diffuzz.rs").read_text()


@pytest.mark.parametrize(
    ("dtype", "code", "bits"),
    [
        ("float32", 2, 32), ("float64", 2, 64), ("float16", 2, 16), ("bfloat16", 4, 16), ("float8_e4m3fn", 10, 8),
        ("float8_e5m2", 12, 8), ("uint8", 1, 8), ("int32", 0, 32), ("bool", 6, 8),
    ],
)  # fmt: skip
def test_what_a_function_is_told(build: Build, dtype: str, code: int, bits: int) -> None:
    """Types by their codes in DLPack, shapes and strides, and parameters of three kinds by name."""
    array = np.zeros((2, 3, 4), dtype if dtype in ("uint8", "int32", "bool") else dtype_of(dtype))
    parameters = {"k": 7, "causal": True, "eps": 1e-6, "mode": "neox"}
    asked = Asked("rope", {"x": array}, parameters, {"result": Result((2, 5), dtype)})
    with pytest.raises(RefusedError) as refused:
        loaded(build(KERNELS), "told")(asked)
    assert str(refused.value) == (
        f"it returned 3: rope; x {code}/{bits} 2:12 3:4 4:1; result {code}/{bits} 2:5 5:1; k=7/7/none; "
        "causal=1/1/none; eps=-1/1e-06/none; mode=-1/-1/neox"
    )


def test_a_bound_function(build: Build) -> None:
    """Positional arguments have the names of the signature; one result is an array, two are a tuple."""
    bound = Signature("top_k", ("logits",), (Result((2,), "float32"), Result((2,), "int32")), batched=False).bound(
        loaded(build(KERNELS), "top_k")
    )
    values, indices = bound(np.array([3, 1, 4, 1], np.float32), k=2)
    assert (values.tolist(), indices.tolist(), str(indices.dtype)) == ([4, 3], [2, 0], "int32")


@pytest.mark.parametrize(
    ("source", "symbol", "target", "given"),
    [
        ("softmax.c", "soft_max", "softmax", {}),
        ("rmsnorm.cpp", "rms_norm", "rmsnorm", {}),
        ("rope.rs", "rope", "rope", {}),
        ("rope.rs", "rope", "rope", {"mode": "norm"}),
        (KERNELS, "matvec", "matvec", {"format": "q8_0"}),
        (KERNELS, "soft_max_bfloat16", "softmax", {"dtype": "bfloat16"}),
        (KERNELS, "top_k", "top_k", {}),
    ],
)
def test_right_functions(build: Build, source: str | Path, symbol: str, target: str, given: dict[str, Any]) -> None:
    """Within the bound on whole batches: those of examples/, and of the other dtypes and shapes of results."""
    path = build(source if isinstance(source, Path) else ROOT / "examples/native" / source)
    with problem(target, f"{path}:{symbol}", **given) as opened:
        value = opened.evaluate(cases(opened)).value
    assert ((value >= 0) & (value <= opened.threshold)).all()


def test_examples_are_short() -> None:
    """At most 30 lines of a user, without comments and blank lines."""
    for path in (ROOT / "examples/native").iterdir():
        lines = [line.strip() for line in path.read_text().splitlines()]
        code = [line for line in lines if line and not line.startswith(("//", "/*", "*"))]
        assert len(code) <= 30, path


@pytest.mark.parametrize(
    ("first", "kind", "text"),
    [
        (91, "crashed", "SIGSEGV"),
        (92, "garbage", "wrote to memory after the end of result"),
        (93, "garbage", "wrote to memory before the beginning of z"),
        (94, "raised", r"RefusedError: it returned 1: no \x1b 94"),
        (95, "crashed", "SIGABRT: out of heart"),
        (96, "hung", "no result after 1 s"),
        (98, "crashed", "ended with exit status 0"),
    ],
)
def test_failures(build: Build, first: int, kind: str, text: str) -> None:
    """Each is of its row, like that of a Python function."""
    with problem("softmax", f"{build(KERNELS)}:hostile", timeout=1.0) as opened:
        assert opened.candidate is not None
        batch = np.array([[first, 0, 0]], np.float32)
        ran = opened.candidate.run("softmax", opened.params, opened.space.filled({"z": batch}), np.zeros((1, 3)))
        failure = ran.failures[0]
    assert (kind, text) == (failure.kind, failure.text.partition(" (the limit")[0])


def test_what_is_not_written_is_nan(build: Build) -> None:
    """A row that a function forgets is wrong, whatever was in memory; the others are right."""
    with problem("softmax", f"{build(KERNELS)}:hostile") as opened:
        examined = opened.evaluate({"z": np.array([[1, 2, 3], [97, 0, 0], [3, 2, 1]], np.float32)})
        assert (examined.value > 1).tolist() == [False, True, False]
        assert np.isinf(examined.value[1])


def test_margins_are_looked_at_on_both_sides() -> None:
    """Every byte of them, and not the array."""
    guarded = placed(np.arange(5, dtype=np.float32))
    start = guarded.array.ctypes.data - guarded.room.ctypes.data
    guarded.array[:] = 7
    assert guarded.wrote() is None
    assert guarded.changed()
    for place, said in ((start - 1, "before"), (start + 20, "after"), (-1, "after"), (0, "before")):
        guarded.room[place] = 7
        assert (guarded.wrote() or [""])[0].startswith(said)
        guarded.room[place] = 0xFF


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("int f(void) { return 0; }", "does not say which version of diffuzz.h it was compiled with: put DIFFUZZ_LIB"),
        ("int diffuzz_abi_version(void) { return 7; }", "was compiled with version 7 of diffuzz.h, and this diffuzz h"),
        ("int diffuzz_abi_version(void) { return 1; }", "has no symbol f (it must be extern"),
        (None, "cannot be loaded"),
    ],
)
def test_libraries_that_are_refused(build: Build, tmp_path: Path, text: str | None, said: str) -> None:
    """One line, before any search."""
    path = tmp_path / f"lib{zlib.crc32((text or '').encode())}.c"
    if text is None:
        path = tmp_path / "made.so"
        path.write_text("no library")
    else:
        path.write_text(text)
        path = build(path)
    with pytest.raises(CandidateError) as error:
        problem("softmax", f"{path}:f")
    assert str(error.value).startswith(f"candidate {path}:f: {path} ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_names(tmp_path: Path) -> None:
    """A library by the end of its name; one that is not there."""
    for name in ("k.so", "k.so.1.2", "k.dylib", "k.dll"):
        (tmp_path / name).touch()
        assert isinstance(parse(f"{tmp_path / name}:f"), LibraryFunction)
    with pytest.raises(UnloadableError, match=r"candidate no\.so:f: there is no file no\.so"):
        parse("no.so:f")


def test_the_report_of_a_case(build: Build) -> None:
    """A wrong function of C has the evidence that one of Python has."""
    with problem("softmax", f"{build(KERNELS)}:naive") as opened:
        shown = opened.measured(Case({"z": np.array([100], np.float32)})).evidence
    assert isinstance(shown, Judged)
    assert (shown.wrong, shown.failure) == ("candidate", None)
