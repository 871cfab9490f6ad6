"""Engine commands: the protocol, and one line for whatever a command does wrong. The commands are small scripts."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffuzz.models import driving, engines
from diffuzz.models.dump import Dump
from diffuzz.models.engines import EngineError

# A dump of one tap, embd, which is the number of runs that this process has made; and who has been started.
HEAD = """
import json, os, signal, struct, sys, time
def given(name):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None
def write(path, tokens, run=1):
    n = len(tokens)
    meta = {"format": "diffuzz-dump", "version": "1", "engine": "script", "arch": "llama"}
    header = {"__metadata__": meta, "tokens": {"dtype": "I32", "shape": [n], "data_offsets": [0, 4 * n]},
              "embd": {"dtype": "F32", "shape": [n, 1], "data_offsets": [4 * n, 8 * n]}}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + struct.pack(f"<{n}i", *tokens) + struct.pack("<f", run) * n)
def serve(answer):
    for run, line in enumerate(sys.stdin, 1):
        asked = json.loads(line)
        answer(asked, run)
def well(asked, run):
    write(asked["dump"], asked["tokens"], run)
    print('{"ok": true}', flush=True)
with open("started", "a") as file:
    file.write(" ".join(sys.argv[1:2]) + "\\n")
tokens = [int(token) for token in (given("--tokens") or "").split(",") if token]
"""
Script = Callable[[str], str]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """The engine of a script that begins with HEAD, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driving, "_ENDS_BY_ITSELF", 0.3)

    def script(body: str) -> str:
        Path("engine.py").write_text(HEAD + body)
        return f"run:{shlex.quote(sys.executable)} -S engine.py"

    return script


def _started(name: str | None = None) -> int:
    """How many processes were started; those whose first argument is ``name``."""
    lines = Path("started").read_text().splitlines()
    return len(lines if name is None else [line for line in lines if line == name])


def test_a_run(script: Script) -> None:
    """A command that writes a dump of the tokens that it was given is an engine."""
    dump = engines.get(script("print('garbage'); write(given('--dump'), tokens)"))(Path("m.gguf"), [5, 6, 7])
    assert [5, 6, 7] == dump.tokens.tolist()
    assert np.array_equal(np.ones((3, 1), np.float32), dump.taps["embd"])


def test_a_run_is_told_the_model(script: Script) -> None:
    """The path of the model reaches the command as one word."""
    body = "assert given('--model') == 'a model.gguf', sys.argv; write(given('--dump'), tokens)"
    engines.get(script(body))(Path("a model.gguf"), [1])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('no room', file=sys.stderr); sys.exit(7)", "ended with exit code 7: no room"),
        ("print('\\x1b[31mred'); sys.exit(1)", r"ended with exit code 1: \x1b[31mred"),
        ("raise ValueError('of the engine')", "ended with exit code 1: ValueError: of the engine"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("", "reports success, but wrote no dump"),
        ("open(given('--dump'), 'w').write('hello')", "its dump cannot be read: it has 5 bytes"),
        ("os.mkdir(given('--dump'))", "reports success, but wrote no dump"),
        ("write(given('--dump'), [9, 9])", "its dump is one of other tokens: 9,9 instead of 1,2,3"),
        ("write(given('--dump'), [1, 2, 3, 4])", "its dump is one of other tokens: 1,2,3,4 instead of 1,2,3"),
    ],
)
def test_failures(script: Script, body: str, message: str) -> None:
    """Whatever ends a run without a dump of it is one line that names the command and says what happened."""
    engine = script(body)
    with pytest.raises(EngineError) as caught:
        engines.get(engine)(Path("m.gguf"), [1, 2, 3])
    assert f"engine {engine}: {message}" in str(caught.value)
    assert str(caught.value).isprintable()


def test_hangs(script: Script) -> None:
    """A command that does not end is ended at the deadline, with what it has started."""
    engine = script("""
if os.fork() == 0:
    time.sleep(1.5)
    open("outlived", "w").close()
time.sleep(60)
""")
    begin = time.monotonic()
    with pytest.raises(EngineError, match=r"no result after 0\.5 s"):
        engines.get(engine)(Path("m.gguf"), [1], timeout=0.5)
    assert time.monotonic() - begin < 10
    time.sleep(1.6)
    assert not Path("outlived").exists()


def test_endless_output(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command prints takes no more than a limited space, and does not keep it from being ended."""
    monkeypatch.setattr(driving, "_MOST_OUTPUT", 2**20)
    engine = script("""
most = 0
while True:
    most = max(most, os.write(1, b"x" * 2**16) and os.fstat(1).st_size)
    open("new", "w").write(str(most))
    os.replace("new", "most")
    time.sleep(0.001)
""")
    with pytest.raises(EngineError, match="no result after 1 s"):
        engines.get(engine)(Path("m.gguf"), [1], timeout=1.0)
    # Some 40 MB are printed, at most a few of them between two looks.
    assert 2**20 < int(Path("most").read_text()) < 2**23


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run:", "name a command"),
        ("run: 'one", "cannot be split into words"),
        ("run:/nowhere/engine --fast", "'/nowhere/engine' cannot be started: No such file or directory"),
        ("run:/", "'/' cannot be started"),
    ],
)
def test_commands_that_are_none(text: str, message: str) -> None:
    """So is a command that cannot be started."""
    with pytest.raises(EngineError) as caught:
        engines.get(text)(Path("m.gguf"), [1])
    assert message in str(caught.value)


def test_serve(script: Script) -> None:
    """With --serve one process makes all the runs of a session."""
    with engines.opened(script("serve(well)"), Path("m.gguf")) as running:
        runs = [running.run([1, 2]).taps["embd"][0, 0] for _ in range(3)]
    assert [1, 2, 3] == runs
    assert 1 == _started()


@pytest.mark.parametrize(
    "refusal", ["sys.exit(2)", "print('usage: engine'); sys.exit(2)", "print('usage: engine', file=sys.stderr)"]
)
def test_without_serve(script: Script, refusal: str) -> None:
    """A command that has no --serve is run anew for every run, and asked once only."""
    engine = script(f"""
if "--serve" in sys.argv:
    {refusal}
else:
    write(given("--dump"), tokens)
""")
    with engines.opened(engine, Path("m.gguf")) as running:
        for _ in range(2):
            assert [1, 2] == running.run([1, 2]).tokens.tolist()
    assert (1, 2) == (_started("--serve"), _started("--model"))


def test_serve_dies(script: Script) -> None:
    """A process that dies after it has answered is an error; the next run starts another."""
    engine = script("serve(lambda asked, run: well(asked, run) if run == 1 else os._exit(3))")
    with engines.opened(engine, Path("m.gguf")) as running:
        running.run([1])
        with pytest.raises(EngineError, match="ended with exit code 3 before it answered"):
            running.run([1])
        assert 1 == running.run([1]).taps["embd"][0, 0]
    assert 2 == _started()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("print('loading ...', flush=True); time.sleep(60)", 'answered "loading ..." where'),
        ("print('{}', flush=True); time.sleep(60)", 'answered "{}" where'),
        ("print('[' * 10**5, flush=True); time.sleep(60)", 'answered "[[['),
        ("print('{\"ok\": 1}', flush=True); time.sleep(60)", "where"),
        ("print('{\"ok\": true}', flush=True)", "reports success, but wrote no dump"),
        ("print('{\"ok\": false}', flush=True)", "it failed, and does not say why"),
        ("write(asked['dump'], [4]); print('{\"ok\": true}', flush=True)", "other tokens: 4 instead of 1"),
        ("os.close(1); time.sleep(60)", "closed its standard output before it answered"),
        ("time.sleep(60)", "no result after 1 s"),
    ],
)
def test_serve_failures(script: Script, answer: str, message: str) -> None:
    """An answer that is none, or is not true, is an error of one line."""
    engine = script(f"def answer(asked, run):\n    {answer}\nserve(answer)")
    with (
        engines.opened(engine, Path("m.gguf"), timeout=1.0) as running,
        pytest.raises(EngineError) as caught,
    ):
        running.run([1])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 800


def test_serve_refuses(script: Script) -> None:
    """A run that the engine itself calls failed does not end its process."""
    body = """
def answer(asked, run):
    well(asked, run) if run > 1 else print('{"ok": false, "error": "too\\\\nlong"}', flush=True)
serve(answer)
"""
    with engines.opened(script(body), Path("m.gguf")) as running:
        with pytest.raises(EngineError, match="too long"):
            running.run([1])
        assert 2 == running.run([1]).taps["embd"][0, 0]
    assert 1 == _started()


def test_serve_does_not_read(script: Script) -> None:
    """A request that nobody reads is given up at the deadline."""
    with (
        engines.opened(script("time.sleep(60)"), Path("m.gguf"), timeout=1.0) as running,
        pytest.raises(EngineError, match="no result after 1 s"),
    ):
        running.run([100_000] * 50_000)


def _patch() -> Dump:
    metadata = {"format": "diffuzz-dump", "version": "1", "engine": "a test", "arch": "llama"}
    tokens = np.arange(2, dtype=np.int32)
    return Dump(metadata, tokens, tokens, {"embd": np.full((2, 1), 7, np.float32)})


@pytest.mark.parametrize("described", ["sys.exit(2)", "print('{\"patches\": true}')", "print('yes')"])
def test_patch(script: Script, described: str) -> None:
    """A patch reaches the command as a file, unless it says that it takes none."""
    engine = script(f"""
if "--describe" in sys.argv:
    {described}
else:
    import shutil
    shutil.copy(given("--patch"), given("--dump"))
""")
    dump = engines.get(engine)(Path("m.gguf"), [0, 1], patch=_patch())
    assert 7 == dump.taps["embd"][0, 0]


def test_no_patches(script: Script) -> None:
    """An engine that takes no patches is not asked to run with one, which it would ignore."""
    engine = script("""print('{"engine": "script", "patches": false}')""")
    with pytest.raises(EngineError, match="takes no patches"):
        engines.get(engine)(Path("m.gguf"), [0, 1], patch=_patch())
    assert 0 == _started("--model")
