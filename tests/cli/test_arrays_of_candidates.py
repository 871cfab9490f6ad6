"""``--arrays`` and ``--device``: on the command line, in reports, in entries, in replays and in pytest."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import click

# Loaded here for good: what only a run within a test has loaded is unloaded with it, which jax does not survive.
import jax.numpy  # noqa: F401
import pytest

from diffuzz.cli import main, search
from diffuzz.corpus import pytest_plugin
from diffuzz.judging.handing import KINDS

KERNELS = """
def no_maximum(z):
    from diffuzz.judging.handing import capsules
    assert isinstance(z, capsules._Given), type(z)
    import numpy as np
    e = np.exp(np.from_dlpack(z))
    return e / e.sum(-1, keepdims=True)

def of_jax(z):
    import jax.numpy as jnp
    assert isinstance(z, jnp.ndarray), type(z)
    return jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True)

def of_torch(z):
    import torch
    assert isinstance(z, torch.Tensor), type(z)
    return (torch.exp(z) / torch.exp(z).sum(-1, keepdim=True)).requires_grad_()
"""
SEARCH = ("search", "--target", "softmax", "--fix", "n=4", "--seed", "0", "--budget", "1s", "--candidate")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 2**18)
    monkeypatch.chdir(tmp_path)
    Path("k.py").write_text(KERNELS)
    Path("k.so").touch()


def test_an_entry_remembers_what_the_function_got(capsys: pytest.CaptureFixture[str]) -> None:
    """In its environment and its command, and in the JSON of a search; a replay and a minimiser give it the same."""
    assert main._run([*SEARCH, "k.py:no_maximum", "--arrays", "dlpack", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["arrays"], found["device"], found["compiled"]) == ("dlpack", "cpu", None)
    assert found["environment"]["arrays"] == "dlpack"
    assert found["command"].endswith("--candidate k.py:no_maximum --arrays dlpack")
    entry = found["witness"]
    assert json.loads(Path(entry).read_text())["environment"]["arrays"] == "dlpack"
    # A corpus file alone makes no code run, and no package load.
    assert main._run(["replay", entry]) == 3
    assert main._run(["replay", entry, "--candidate", "k.py:no_maximum"]) == 0
    assert main._run(["replay", entry, "--candidate", "k.py:no_maximum", "--arrays", "numpy"]) == 2
    assert "AssertionError: <class 'numpy.ndarray'>" in "".join(capsys.readouterr())
    assert main._run(["minimise", entry, "--candidate", "k.py:no_maximum", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["minimised"]
    assert json.loads(Path(again).read_text())["environment"]["arrays"] == "dlpack"
    assert main._run(["report", entry, "--candidate", "k.py:no_maximum"]) == 1
    assert main._run(["show", entry]) == 0
    assert "called with   arrays of dlpack" in capsys.readouterr().out


def test_an_entry_that_names_other_arrays_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """What an entry says of arrays is one of those that there are, or the file is broken."""
    assert main._run([*SEARCH, "k.py:no_maximum", "--arrays", "dlpack", "--json"]) == 1
    entry = Path(json.loads(capsys.readouterr().out)["witness"])
    entry.write_text(entry.read_text().replace('"arrays": "dlpack"', '"arrays": "os.path"'))
    assert main._run(["replay", str(entry), "--candidate", "k.py:no_maximum"]) == 2
    assert "arrays 'os.path': numpy, torch, jax, dlpack are known" in "".join(capsys.readouterr())


@needs_torch
@pytest.mark.parametrize("kind", ["torch", "jax"])
def test_the_program_of_an_entry_calls_it_alike(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``show --python`` needs the library, and nothing of diffuzz."""
    assert main._run([*SEARCH, f"k.py:of_{kind}", "--arrays", kind, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["environment"][kind]
    assert main._run(["show", found["witness"], "--python"]) == 0
    program = capsys.readouterr().out
    assert "import diffuzz" not in program
    assert f"needs NumPy and {kind} only" in program
    Path("program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, check=True)
    assert "at most inf times the error that is allowed" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["k.so:f", "--arrays", "torch"], 2, "they are for functions of Python; candidate k.so:f gets its arrays"),
        (["run: python", "--arrays", "dlpack"], 2, "they are for functions of Python; candidate run: python"),
        (["k.py:f", "--device", "cuda:0"], 2, "arrays of numpy are in the memory of the processor; choose torch or"),
        (["k.py:f", "--arrays", "dlpack", "--device", "cuda"], 2, "arrays of dlpack are in the memory of the"),
        (["k.py:f", "--arrays", "jax", "--device", "a b"], 2, "device 'a b': a name such as cpu, cuda or cuda:0"),
        (["k.py:f", "--arrays", "cupy"], 2, "'cupy' is not one of 'numpy', 'torch', 'jax', 'dlpack'"),
        (["k.py:of_jax", "--arrays", "jax", "--device", "cuda:4321"], 3, "device cuda:4321: jax "),
    ],
)
def test_one_line_for_what_does_not_fit(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 for what cannot be, 3 for what is not here."""
    for command in ("search", "matrix")[: 3 - code + 1]:
        assert main._run([command, "--target", "softmax", "--candidate", *words]) == code
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") <= 4 if "is not one of" in said else said.count("\n") == 1


@pytest.mark.parametrize("option", [("--arrays", "torch"), ("--device", "cpu")])
@pytest.mark.parametrize(
    "command",
    [*((name, "--target", "softmax") for name in ("search", "matrix", "fingerprint")), ("replay",), ("report",)],
)
def test_arrays_of_no_candidate(
    command: tuple[str, ...], option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """They are for one."""
    assert main._run([*command, *option]) == 2
    assert f"{option[0]}: it is for a candidate; give --candidate" in capsys.readouterr().err


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 3, and what to install."""
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else known(name))
    assert main._run([*SEARCH, "k.py:of_torch", "--arrays", "torch"]) == 3
    assert "arrays torch: torch is not installed: pip install" in capsys.readouterr().err


def test_in_pytest(pytester: pytest.Pytester) -> None:
    """The fixture takes arrays; the options are for entries, and the device for both."""
    pytester.makepyfile(
        kernels=KERNELS,
        test_it="""
        from kernels import of_jax

        def test_wrong(diffuzz):
            diffuzz.check(of_jax, "softmax", arrays="jax", seconds=0.5, params={"fix:n": 4})
        """,
    )
    found = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--diffuzz-corpus", "corpus")
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["*of_jax is wrong: *", "*--candidate kernels.py:of_jax --arrays jax*"])
    replayed = ("corpus", "--diffuzz-candidate", "kernels.py:of_jax")
    pytester.runpytest_inprocess(*replayed).assert_outcomes(passed=1)
    other = pytester.runpytest_inprocess(*replayed, "--diffuzz-device", "cuda:4321")
    other.assert_outcomes(failed=1)
    other.stdout.fnmatch_lines(["*device cuda:4321: jax * has none of this name here*"])
    nothing = pytester.runpytest_inprocess("--diffuzz-candidate", "kernels.so:f", "--diffuzz-arrays", "jax")
    assert nothing.ret == pytest.ExitCode.USAGE_ERROR


def test_the_options_take_all_kinds() -> None:
    """The command line and the plugin of pytest write them out, so that --help loads no NumPy."""
    (option,) = [one for one in search.command.params if one.name == "arrays"]
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(KINDS)
    parser = pytest.Parser(_ispytest=True)
    pytest_plugin.pytest_addoption(parser)
    group = parser.getgroup("diffuzz")
    (choices,) = [one.attrs()["choices"] for one in group.options if "--diffuzz-arrays" in one.names()]
    assert list(choices) == list(KINDS)


def test_a_matrix_says_the_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    """In the command that makes it again, with everything else that was given."""
    words = ["matrix", "--target", "softmax", "--fix", "n=4", "--kernels", "exact", "--candidate", "k.py:no_maximum"]
    words += ["--arrays", "dlpack", "--device", "cpu", "--budget", "0.2s", "--seed", "3"]
    main._run([*words, "--json"])
    again = shlex.split(json.loads(capsys.readouterr().out)["command"])
    assert again[:3] == ["python", "-m", "diffuzz"]
    assert sorted(again[3:]) == sorted(words)
