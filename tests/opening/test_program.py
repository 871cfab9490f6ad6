"""Programs that answer frames: right ones in three languages, and every way to fail."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opening.conftest import ROOT, Build
from opening.test_library import cases, problem

from diffuzz.judging.opening import CandidateError, Program, UnloadableError, frames, parse
from diffuzz.judging.opening.foreign import Asked, dtype_of
from diffuzz.judging.opening.program import _request, started
from diffuzz.kernels.process.worker import Worker
from diffuzz.targets.contract import Result

EXAMPLES = ROOT / "examples/protocol"
DESCRIBE = {"message": "describe", "protocol": 1}
Z = np.array([[0, 1, 2]], np.float32)


def command(factor: float = 1.0, **described: Any) -> str:
    """The program of the tests, which describes itself so, and multiplies its results."""
    file, says = str(Path(__file__).with_name("program.py")), json.dumps(DESCRIBE | described)
    return f"run: {shlex.join((sys.executable, '-I', '-S', file, says, str(factor)))}"


@pytest.mark.parametrize(
    ("source", "target"), [("softmax.c", "softmax"), ("swiglu.rs", "swiglu"), ("rmsnorm.mjs", "rmsnorm")]
)
def test_examples(build: Build, source: str, target: str) -> None:
    """Within the bound on whole batches of several shapes, one after the other."""
    if source.endswith(".mjs"):
        if shutil.which("node") is None:
            pytest.skip("there is no node")
        name = f"run: node {EXAMPLES / source}"
    else:
        name = f"run: {build(EXAMPLES / source, library=False)}"
    with problem(target, name) as opened:
        for count in (1, 6, 3):
            value = opened.evaluate(cases(opened, count)).value
            assert ((value >= 0) & (value <= 1)).all()
        assert opened.candidate is not None
        assert opened.candidate._worker.starts == 1


def test_examples_are_short() -> None:
    """About 60 lines each, comments and all."""
    assert max(len(path.read_text().splitlines()) for path in EXAMPLES.iterdir()) <= 65


@pytest.mark.parametrize(
    ("first", "kind", "text"),
    [
        (91, "crashed", "ended with exit status 3: no heart"),
        (92, "crashed", "SIGSEGV"),
        (93, "garbage", r"wrote to standard output what is no frame: b'debugging'"),
        (94, "raised", r"RefusedError: no \x1b 94"),
        (96, "hung", "no result after 1 s"),
        (97, "garbage", "returns 8 bytes, where 12 are needed (result float32[1, 3])"),
        (98, "garbage", r"wrote to standard output after its answer: b'bye'"),
        (99, "garbage", "answers {'message': 'what'}, where a result, error or skip is needed"),
        (100, "garbage", "closed its standard output"),
        (101, "garbage", "wrote a frame with a header of 4294967295 bytes, where 1048576 are the most"),
        (102, "garbage", "wrote a frame whose header is no JSON: b'{]}'"),
    ],
)
def test_failures(first: int, kind: str, text: str) -> None:
    """Each is of its row; the next call has a fresh program, and is right."""
    with problem("softmax", command(), timeout=1.0) as opened:
        assert opened.candidate is not None
        for z, wanted in (([[first, 0, 0]], f"{kind}: {text}"), ([[0, 1, 2]], None)):
            batch = opened.space.filled({"z": np.array(z, np.float32)})
            failure = opened.candidate.run("softmax", opened.params, batch, np.zeros((1, 3))).failures.get(0)
            said = None if failure is None else str(failure).partition(" (the limit")[0]
            assert wanted == said


def test_what_is_skipped_has_no_value() -> None:
    """Neither right nor wrong, and counted; the other rows of its batch are judged."""
    with problem("softmax", command()) as opened:
        value = opened.evaluate({"z": np.array([[1, 2, 3], [95, 0, 0], [3, 2, 1]], np.float32)}).value
        assert np.isnan(value).tolist() == [False, True, False]
        assert (value[[0, 2]] <= 1).all()
        assert opened.skips == (1, "no 95")
        assert opened.passing is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (command(message="hello"), "answers {'message': 'hello', 'protocol': 1} where it should describe itself"),
        (command(protocol=2), "speaks protocol 2, and this diffuzz protocol 1"),
        (command(operations=["rope"]), "it does rope, and not softmax"),
        # Before it is asked, or after.
        ("run: echo hi", "wrote to standard output"),
        ("run: cat /nowhere/at/all", "crashed: ended with exit status 1: cat: /nowhere/at/all"),
        ("run:", "'run: PROGRAM ARGUMENT ...'"),
        ("run: 'a", "its words cannot be told: No closing quotation"),
        ("run: no-such-program-at-all 1", "no-such-program-at-all is no program that is here"),
        (f"run: {Path(__file__)}", "is no program that may be run"),
    ],
)
def test_programs_that_are_refused(name: str, message: str) -> None:
    """One line, before any search."""
    with pytest.raises(CandidateError, match=re.escape(message)) as error:
        problem("softmax", name)
    assert "\n" not in str(error.value)


def test_bits_of_other_types_and_large_bodies() -> None:
    """What a program gets and gives is to the bit what was asked and what it said, also where no pipe holds it."""
    running = started(parsed(command()))
    for dtype, size in (("bfloat16", 3), ("float8_e5m2", 5), ("float64", 2), ("int32", 7), ("uint8", 2_000_001)):
        array = (
            np.random.default_rng(1).integers(0, 256, size * dtype_of(dtype).itemsize, np.uint8).view(dtype_of(dtype))
        )
        (got,) = running(Asked("copy", {"x": array}, {}, {"result": Result((size,), dtype)}))
        assert (str(got.dtype), got.tobytes()) == (dtype, array.tobytes())
    running._stop()


def parsed(name: str) -> Program:
    found = parse(name)
    assert isinstance(found, Program)
    return found


def test_words_are_those_of_a_shell() -> None:
    """But no shell runs them."""
    assert parse("run: echo 'a b' $HOME;") == Program("run: echo 'a b' $HOME;", ("echo", "a b", "$HOME;"))
    with pytest.raises(UnloadableError):
        parse("run: 'echo a'")


def test_a_request() -> None:
    """The header as docs/protocol.md has it, and arrays at multiples of 64 bytes."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    asked = Asked(
        "rope",
        {"x": x, "positions": np.array([1, 2], np.int32)},
        {"base": 1e4, "mode": "neox", "limit": float("inf")},
        {"result_1": Result((2, 3), "bfloat16"), "result_2": Result((2,), "int32")},
    )
    header, body = _request(asked)
    page = (ROOT / "docs/protocol.md").read_text()
    assert json.dumps(header, separators=(",", ":")).replace(',"limit":"inf"', "") in page.replace("\n", "")
    assert (body[:24], body[64:72], len(body)) == (x.tobytes(), np.array([1, 2], np.int32).tobytes(), 128)


@pytest.mark.parametrize("cut", [0, 3, 15, 16, 17, 30])
def test_frames_that_are_not_there_yet(cut: int) -> None:
    """Whatever has come, the frame is read once all of it has; what follows is left."""
    whole = frames.written({"message": "result"}, b"body")
    assert frames.read(whole[:cut], 4) is None
    found = frames.read(whole + b"more", 4)
    assert found == (frames.Frame({"message": "result"}, b"body"), len(whole))


@pytest.mark.parametrize(
    "header", [b"[1]", b"1", b"\xff", b"[" * 100_000, b"{"], ids=["list", "number", "bytes", "deep", "cut"]
)
def test_headers_that_are_none(header: bytes) -> None:
    """They are said to be none, and nothing else happens."""
    with pytest.raises(frames.FrameError, match=r"^wrote a frame whose header"):
        frames.read(b"DFZ1" + len(header).to_bytes(4, "little") + bytes(8) + header, 0)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="memory of others is read from /proc")
def test_memory_of_a_program_counts(tmp_path: Path) -> None:
    """As that of the process that runs it does."""
    grows = tmp_path / "grows.py"
    grows.write_text("import time\nroom = b'1' * (400 * 2**20)\ntime.sleep(60)\n")
    with Worker("opening.test_program:serve_a_child", str(grows), timeout=20.0, memory=300 * 2**20) as worker:
        failure = worker.run(None, {"z": Z}, shape=(), dtype="float32").failures[0]
    assert failure.kind == "out of memory"


def serve_a_child(path: str) -> Any:
    """The function of a worker that runs a program and waits for it."""
    import subprocess

    return lambda request, arrays, out: subprocess.run([sys.executable, "-S", path], check=True)
