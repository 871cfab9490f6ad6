"""Conformance vectors: their file, what they promise, results that are held against them, readers in C and Rust."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import attrs
import ml_dtypes
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cli import main
from diffuzz.models import arrays_file
from diffuzz.models.model import ModelError
from diffuzz.studies.vectors import choosing, scoring
from diffuzz.vectors import making, vectors, verifying
from diffuzz.vectors.vectors import Expected, Vectors, VectorsError
from diffuzz.vectors.verifying import ResultsError

EXAMPLES = Path(__file__).parents[2] / "examples" / "vectors"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main._run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def _of(name: str, params: dict[str, object], **arrays: object) -> Vectors:
    """Vectors of one case; a batch of one where a call gets one."""
    target = targets.get(name)
    p, contract = target.contract_params(params), target.contract
    assert contract is not None
    batch = {key: np.asarray(one) for key, one in arrays.items()}
    case = making.made(contract, p, contract.space(p).filled(batch))
    return Vectors(name, p, contract.signature, "0", 0, {"c000": case})


def _softmax(z: object = ((1.0, 2.0, 3.0), (0.0, 0.0, 5.0))) -> Vectors:
    return _of("softmax", {}, z=np.array(z, np.float32))


def _results(found: Vectors) -> dict[str, np.ndarray]:
    """The exact results, in the dtype of the function."""
    return {
        f"{name}/result/{number}": one.exact.astype(one.dtype)
        for name, case in found.cases.items()
        for number, one in enumerate(case.results)
    }


# The file.


def test_arrays_come_back() -> None:
    """Every dtype, no axes, no elements; and the bytes do not depend on the order in which they are given."""
    arrays = {
        "a": np.arange(6, dtype=np.float64).reshape(2, 3),
        "half": np.array([1.5, -0.0], ml_dtypes.bfloat16),
        "number": np.array(3, np.int64),
        "truth": np.array([True, False]),
        "none": np.zeros((0, 4), np.uint8),
    }
    content = arrays_file.packed({"key": "value"}, arrays)
    metadata, found = arrays_file.unpacked(content)
    assert metadata == {"key": "value"}
    assert {name: (one.dtype, one.shape, one.tobytes()) for name, one in found.items()} == {
        name: (one.dtype, one.shape, one.tobytes()) for name, one in arrays.items()
    }
    assert arrays_file.packed({"key": "value"}, dict(reversed(arrays.items()))) == content


def test_the_library_reads_the_file() -> None:
    """It is a .safetensors file, not something like one."""
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = {"x": np.arange(5, dtype=np.float32), "y": np.arange(4, dtype=np.uint8)}
    found = numpy.load(arrays_file.packed({"a": "b"}, arrays))
    assert {name: one.tolist() for name, one in found.items()} == {name: one.tolist() for name, one in arrays.items()}


def _file(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        _file([1]),
        _file({"__metadata__": {"a": 1}}),
        _file({"x": 1}),
        _file({"x": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}),
        _file({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        _file({"x": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}),
        _file({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}),
        _file({"x": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        _file({"x": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}),
    ],
)
def test_a_damaged_file_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError) as error:
        arrays_file.unpacked(content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "array",
    [
        np.repeat(np.array([[1, -2, 3]], np.float32), 2000, axis=0),
        np.repeat(np.array([0.0, -0.0, np.nan]), [1000, 1, 2000]).reshape(1, -1),
        np.full((3, 50, 200), 7, np.uint8),
        np.zeros(2048, ml_dtypes.bfloat16),
    ],
)
def test_runs_come_back(array: np.ndarray) -> None:
    """Bit by bit, in far fewer bytes."""
    parts = vectors.encoded("x", array)
    assert sorted(parts) == ["x.counts", "x.shape", "x.values"]
    assert sum(one.nbytes for one in parts.values()) < array.nbytes / 4
    found = vectors.decoded("x", parts)
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_what_does_not_repeat_itself_is_stored_as_it_is() -> None:
    array = np.arange(5000.0)
    assert list(vectors.encoded("x", array)) == ["x"]
    assert list(vectors.encoded("x", np.zeros(9))) == ["x"]


@pytest.mark.parametrize(("name", "value"), [("counts", [3]), ("counts", [2**60]), ("counts", [-4]), ("shape", [5])])
def test_runs_that_do_not_add_up_are_refused(name: str, value: list[int]) -> None:
    parts = {"x.values": np.ones((1, 2)), "x.counts": np.array([2]), "x.shape": np.array([2, 2])}
    assert vectors.decoded("x", parts).shape == (2, 2)
    with pytest.raises(ValueError, match="do not add up"):
        vectors.decoded("x", parts | {f"x.{name}": np.array(value)})


def test_vectors_come_back() -> None:
    """Arguments by position and by name, numbers, words and what is not there; several results."""
    for found in (
        _softmax(),
        _of("rmsnorm", {}, x=np.ones((2, 3), np.float32), eps_exponent=np.full((2, 1), -1, np.int32)),
        _of("top_k", {}, logits=np.arange(12, dtype=np.float32).reshape(1, 1, 12)),
    ):
        again = vectors.unpacked(*arrays_file.unpacked(found.packed()))
        assert again.packed() == found.packed()
        assert again.described() == found.described() == json.loads(found.sidecar())


@pytest.mark.parametrize(
    ("metadata", "said"),
    [({"format": "other"}, "no vectors"), ({"version": "2"}, "version 2"), ({"cases": "[{}]"}, "damaged"),
     ({"cases": "["}, "damaged"), ({"parameters": "3"}, "damaged")],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(tmp_path: Path, metadata: dict[str, str], said: str) -> None:
    about, arrays = arrays_file.unpacked(_softmax().packed())
    path = tmp_path / "x.safetensors"
    path.write_bytes(arrays_file.packed(about | metadata, arrays))
    with pytest.raises(VectorsError, match=said):
        vectors.read(path)


# What they promise.


def test_the_rule_of_an_element() -> None:
    """Equal, within, outside, no number, and where nothing is promised."""
    exact, allowance = np.array([1.0, 1.0, 1.0, 1.0, 1.0, np.inf]), np.array([0.5, 0.5, 0.5, np.inf, 0.0, 0.0])
    got = np.array([1.5, 1.75, np.nan, np.nan, 1.25, np.inf], np.float32)
    assert Expected(exact, allowance, "float32").ratios(got).tolist() == [1.0, 1.5, np.inf, 0.0, np.inf, 0.0]
    of_bytes = Expected(np.array([3, 3, 0], np.uint8), np.array([0, 255, 0], np.uint8), "uint8")
    assert of_bytes.ratios(np.array([4, 200, 255], np.uint8)).tolist() == [np.inf, 0.0, np.inf]


def test_codes_at_a_tie_are_free_and_what_depends_on_them() -> None:
    """127 is the peak, so the scale is 1, and 0.5 may be 0 or 1 where either rule is right; so may the sum."""
    values = np.zeros((2, 32), np.float32)
    values[:, 0], values[0, 1] = 127.0, 0.5
    (fixed,) = _of("quantize", {"format": "q8_1"}, values=values).cases["c000"].results
    assert not fixed.allowance.any()
    (free,) = _of("quantize", {"format": "q8_1", "ties": "any"}, values=values).cases["c000"].results
    at = np.flatnonzero(free.allowance[0]).tolist()
    # d and s are f16, then the codes.
    assert 5 in at
    assert set(at) <= {2, 3, 5}
    assert set(at) & {2, 3}
    assert not free.allowance[1].any()


def test_an_index_of_equal_numbers_is_free() -> None:
    """The values are not, and neither are the other indices."""
    logits = np.array([[[5, 1, 7, 5, 0, -1, -2, -3, -4, -5, -6, -7]]], np.float32)
    values, indices = _of("top_k", {"k": 3}, logits=logits).cases["c000"].results
    assert values.exact.tolist() == [[7, 5, 5]]
    assert np.isfinite(values.allowance).all()
    assert np.isinf(indices.allowance).tolist() == [[False, True, True]]
    assert indices.exact[0, 0] == 2


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [("chain", {}, "not about one function"), ("quantize", {"format": "q4_0"}, "many blocks are right")],
)
def test_some_targets_have_none(name: str, params: dict[str, object], said: str) -> None:
    target = targets.get(name)
    with pytest.raises(VectorsError, match=said):
        making.opened(target, params)


def test_a_case_is_one_call() -> None:
    """RoPE gets the factors of one case at a time, and so has its vectors one case of a batch."""
    target = targets.get("rope")
    contract, p = making.opened(target, {"factors": True})
    batch = {
        "x": np.ones((3, 1, 4), np.float32), "positions": np.ones((3, 1), np.int32),
        "base_exponent": np.zeros((3, 1), np.int32), "factors": np.ones((3, 4), np.float32),
    }  # fmt: skip
    case = making.made(contract, p, making.in_one_call(contract, p, batch))
    assert case.results[0].exact.shape == (1, 1, 4)
    assert np.shape(case.positional["x"]) == (1, 1, 4)
    assert np.shape(case.named["factors"]) == (2,)
    without, plain = making.opened(target, {})
    assert len(making.in_one_call(without, plain, {name: batch[name] for name in list(batch)[:3]})["x"]) == 3


# Which are chosen.


@lru_cache(maxsize=1)
def _chosen() -> choosing.Chosen:
    return choosing.choose(targets.get("matvec"), {"format": "q4_0"}, cases=40)


def test_they_are_chosen_the_same_each_time() -> None:
    again = choosing.choose(targets.get("matvec"), {"format": "q4_0"}, cases=40)
    assert again.vectors.packed() == _chosen().vectors.packed()
    assert len(_chosen().vectors.packed()) < vectors.LARGEST_FILE


def test_they_kill_the_mutants_and_flag_no_control() -> None:
    """Of the file, read back, and of half of the mutants for the other half."""
    (group,) = (one for one in scoring.groups(["matvec"]) if dict(one[0].params) == {"format": "q4_0"})
    row = scoring.one(group, 40, 0)
    assert row.mutants >= 8
    assert row.killed >= 0.9 * row.mutants
    assert row.held_out >= 0.6 * row.mutants
    assert row.controls >= 5
    assert row.flagged == ()
    # With one case there is no such thing.
    assert scoring.one(group, 1, 0).killed < row.killed


def test_functions_of_float32_are_tried_in_other_dtypes() -> None:
    """Wrong ones are found, right ones are not flagged."""
    found = [one for one in choosing.functions() if one.target == "silu" and not one.params][:6]
    right = next(one for one in choosing.functions() if one.target == "silu" and one.correct and not one.params)
    chosen = choosing.choose(targets.get("silu"), {"dtype": "bfloat16"}, cases=8, own=found)
    cases = chosen.vectors.cases.values()
    assert any(one.kills for one in chosen.tried)
    assert not any(choosing.killed(case, choosing.adapted(right.function, chosen.vectors.params)) for case in cases)
    assert all(one.positional["x"].dtype == ml_dtypes.bfloat16 for one in cases)  # type: ignore[union-attr]


def test_bench_vectors_names_a_target_without_mutants(run: Run) -> None:
    code, out, err = run("bench", "vectors", "chain")
    assert (code, out) == (2, "")
    assert "it has no mutants" in err


# Results from elsewhere.


def test_right_results_are_right() -> None:
    found = _softmax()
    verification = verifying.verify(found, _results(found))
    assert verification.right
    assert verification.judged == verification.elements == 6
    assert verification.worst is not None
    assert 0 < verification.worst.ratio < 1


def test_the_worst_element_is_named() -> None:
    found, results = _softmax(), _results(_softmax())
    results["c000/result/0"][1, 2] += np.float32(1e-3)
    results["c000/result/0"][0, 0] += np.float32(1e-5)
    verification = verifying.verify(found, results)
    assert (verification.wrong, verification.wrong_cases) == (2, ("c000",))
    assert verification.worst is not None
    assert verification.worst.index == (1, 2)
    assert verification.worst.ratio > 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda results: results.clear(), "1 of 1 results are missing, the first is c000/result/0"),
        (lambda results: results.update({"c000/result/1": np.ones(3)}), "is no result of a case"),
        (lambda results: results.update({"c000/result/0": np.ones((3, 2), np.float32)}), r"float32\[3, 2\], where"),
        (lambda results: results.update({"c000/result/0": np.ones((2, 3))}), r"float64\[2, 3\], where float32\[2, 3\]"),
    ],
)
def test_results_that_do_not_fit_are_refused(change: Callable[[dict[str, np.ndarray]], None], said: str) -> None:
    results = _results(_softmax())
    change(results)
    with pytest.raises(ResultsError, match=said):
        verifying.verify(_softmax(), results)


def _written(folder: Path, found: Vectors, results: dict[str, np.ndarray]) -> tuple[Path, Path]:
    paths = folder / "vectors.safetensors", folder / "results.safetensors"
    paths[0].write_bytes(found.packed())
    paths[1].write_bytes(arrays_file.packed({}, results))
    return paths


def test_verify_says_what_is_wrong(run: Run, tmp_path: Path) -> None:
    """Exit codes 0, 1 and 2; NaN is wrong; JSON is one strict line."""
    found, results = _softmax(), _results(_softmax())
    files = _written(tmp_path, found, results)
    code, out, _ = run("verify", *files)
    assert code == 0
    assert out.startswith("UNRESOLVED")
    results["c000/result/0"][0, 1] = np.nan
    _written(tmp_path, found, results)
    code, out, _ = run("verify", *files)
    assert code == 1
    assert out.startswith("CONFIRMED")
    assert "element [0, 1] of c000/result/0" in out
    code, out, _ = run("verify", *files, "--json")
    assert code == 1
    assert json.loads(out)["worst"]["index"] == [0, 1]
    _written(tmp_path, found, {})
    code, out, err = run("verify", *files)
    assert (code, out) == (2, "")
    assert "missing" in err
    assert err.count("\n") == 1
    files[1].write_bytes(b"no")
    assert run("verify", *files)[0] == 2
    assert run("verify", files[1], files[1])[0] == 2


def test_export_writes_what_verify_reads(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(
        "export", tmp_path / "made", "--target", "matvec", "--param", "format=q4_0", "--cases", 3, "--json"
    )
    about = json.loads(out)
    assert (code, about["cases"]) == (0, 3)
    found = vectors.read(Path(about["file"]))
    assert Path(about["file"]).name == "matvec-format=q4_0.safetensors"
    assert json.loads(Path(about["sidecar"]).read_text()) == json.loads(json.dumps(found.described()))
    assert found.params["format"] == "q4_0"
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(
        Path(about[name]).name for name in ("file", "sidecar")
    )
    code, _, err = run("export", tmp_path, "--target", "chain")
    assert code == 2
    assert "no vectors" in err


# Readers without Python.


@pytest.fixture(scope="module")
def softmax_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases as they are, and one in runs, with a masked logit."""
    rng = np.random.default_rng(0)
    dense, long = rng.uniform(-9, 9, (3, 50)).astype(np.float32), np.full((1, 3000), -5, np.float32)
    long[0, -3:], dense[1, 4] = 7, -120
    cases = {f"c{i:03d}": _softmax(z).cases["c000"] for i, z in enumerate((dense, long, [[2.0]], 100 + dense))}
    path = tmp_path_factory.mktemp("vectors") / "softmax.safetensors"
    content = attrs.evolve(_softmax(), cases=cases).packed()
    assert b"c001/in/z.counts" in content
    path.write_bytes(content)
    return path


def _built(compiler: str, folder: Path, *arguments: str) -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    program = folder / "program"
    subprocess.run([compiler, *arguments, "-o", str(program)], check=True, capture_output=True, text=True)
    return program


def _ran(program: Path, *arguments: object) -> tuple[int, str]:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout


def test_c_reads_them(softmax_file: Path, tmp_path: Path) -> None:
    """The right function passes, the wrong one does not, and another file is refused."""
    source = str(EXAMPLES / "softmax_test.c")
    program = _built("cc", tmp_path, "-O1", "-Wall", "-Wextra", "-Werror", source, "-lm")
    assert _ran(program, softmax_file) == (0, "0 of 4 cases wrong\n")
    assert _ran(program, __file__)[0] == 2
    wrong = _built("cc", tmp_path, "-O1", "-DWRONG", source, "-lm")
    code, out = _ran(wrong, softmax_file)
    assert code == 1
    assert out.endswith("1 of 4 cases wrong\n")


def test_rust_reads_them(softmax_file: Path, tmp_path: Path) -> None:
    program = _built("rustc", tmp_path, "--edition", "2021", "-D", "warnings", str(EXAMPLES / "softmax_test.rs"))
    assert _ran(program, softmax_file) == (0, "0 of 4 cases wrong\n")
    assert _ran(program, __file__)[0] == 2
    code, out = _ran(program, softmax_file, "wrong")
    assert code == 1
    assert out.endswith("1 of 4 cases wrong\n")
