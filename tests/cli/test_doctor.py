"""``doctor``: what it says of things that are there, missing, broken or hanging; exit codes; how it looks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import attrs
import pseudo_terminal
import pytest

from diffuzz.cli import main
from diffuzz.cli.doctor import Found, doctor_json, doctor_text
from diffuzz.installation import packages, places, probes
from diffuzz.installation.packages import Extra, Package
from diffuzz.installation.places import Cache, Compiler
from diffuzz.installation.probes import Probe

CORE = Extra("", "", (Package("numpy", "2.0", "2.4.6"), Package("jax", "0.8.1", "0.10.2")))
MISSING = Extra("torch", packages.EXTRAS["torch"], (Package("torch", "2.13", None),))
PROBES = (
    *(Probe(kind, name, True, 0.5) for kind, name in probes.NEEDED),
    Probe("kernels", "gguf-py", None, text="the package gguf is not installed"),
    Probe("kernels", "libggml", False, 3.0, "its process ended with SIGSEGV: \x1b[31m" + "a long last line " * 8),
    Probe("devices", "torch", None),
)
FOUND = Found(
    CORE,
    (Extra("gguf", packages.EXTRAS["gguf"], (Package("gguf", "0.18", "0.19"),)), MISSING),
    PROBES,
    (Compiler("C", "/usr/bin/cc", "cc 12"), Compiler("Rust", None, "")),
    (Cache("XLA cache", Path("/home/somebody/.cache/diffuzz/xla"), 12, 3_400_000),),
)


def _broken(name: str, works: bool | None) -> Found:
    return attrs.evolve(
        FOUND, probes=tuple(attrs.evolve(one, works=works) if one.name == name else one for one in PROBES)
    )


def test_exit_codes() -> None:
    """0 if the core works, whatever else does not; 3 if a package of it is missing or old; 2 if a part is broken."""
    old = attrs.evolve(CORE, packages=(Package("numpy", "2.0", "1.26.4"),))
    gone = attrs.evolve(CORE, packages=(Package("jax", "0.8.1", None),))
    cases = (
        (FOUND, 0, "works. Extras that are not installed: torch."),
        (_broken("libggml", None), 0, "works."),
        (_broken("xla", False), 2, "does not work: xla fails."),
        (_broken("jax", None), 2, "does not work: JAX missing."),
        (attrs.evolve(_broken("xla", False), core=old), 3, "numpy 1.26.4 is older than 2.0; pip install"),
        (attrs.evolve(FOUND, core=gone), 3, "jax is not installed; pip install --upgrade diffuzz-kernels installs it."),
    )
    for found, code, said in cases:
        answer = doctor_text(found, 100).partition("\n\n")[0].replace("\n", " ")
        assert code == found.code
        assert said in answer
        assert doctor_json(found)["works"] is (code == 0)


@pytest.mark.parametrize("width", [40, 60, 100])
def test_how_it_looks(width: int) -> None:
    """No line is too wide, columns begin at one place, what it quotes controls nothing, and a command is in one piece
    where there is room.
    """
    lines = doctor_text(FOUND, width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)
    rows = [line for line in lines if re.match(r"  (ok     |fails  |missing|       )  \S", line)]
    assert len(rows) == 19
    margin = 2 + 7 + 2 + len("XLA cache") + 2
    further = [line for line in lines if line.startswith(" " * 12) and "pip install" not in line]
    assert further
    assert all(line.startswith(" " * margin) and line[margin] != " " for line in further)
    # What is said begins where its further lines do.
    assert all(line[margin - 2 : margin].strip() == "" and line[margin : margin + 1] != " " for line in rows)
    if width > 40:
        assert any(line.strip() == "pip install 'diffuzz-kernels[torch]'" for line in lines)


def test_every_extra_is_described() -> None:
    """What each extra of pyproject.toml gives is said, but of those for the development of diffuzz itself."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]) == {*packages.EXTRAS, *packages.FOR_DEVELOPMENT}
    found = {one.name: {each.name: each.least for each in one.packages} for one in packages.installed()}
    wanted = {re.split("[<>=]", line)[0].lower().replace("_", "-"): line for line in project["dependencies"]}
    assert set(wanted) == set(found[""])
    assert all(f">={found[''][name]}" in line for name, line in wanted.items())
    assert set(found) == {"", *packages.EXTRAS}


def test_versions_are_compared_as_numbers() -> None:
    """Not as text, and what follows the numbers does not matter."""
    assert not Package("torch", "2.13", "2.13.0+cpu").old
    assert not Package("numpy", "2.0", "2.10.0rc1").old
    assert Package("numpy", "2.10", "2.9.1").old
    assert (None, False, False) == ((one := Package("x", "1", None)).version, one.old, one.good)


def test_what_hangs_or_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said of each, in time, and no process is left; what was found before is kept."""
    for name, body in (
        ("jax", "import time, pathlib, os; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(1000)"),
        ("torch", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
        ("gguf", "raise RuntimeError('no such \\x1b device')"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(body + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    groups = (
        (("kernels", "exact"), ("devices", "jax"), ("kernels", "xla")),
        (("devices", "torch"),),
        (("kernels", "gguf-py"),),
    )
    monkeypatch.setattr(probes, "GROUPS", groups)
    found = {one.name: one for one in probes.probed(4.0)}
    assert {"exact": True, "jax": False, "xla": False, "torch": False, "gguf-py": False} == {
        name: one.works for name, one in found.items()
    }
    assert "gave no answer in 4 s" == found["jax"].text == found["xla"].text
    assert "its process ended with SIGSEGV" in found["torch"].text
    assert "no such" in found["gguf-py"].text
    assert "\x1b" not in found["gguf-py"].text
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    """Exit code 130, nothing printed, and what was tried is ended."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text(
        "import time, pathlib, os; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(1000)\n"
    )
    command = [sys.executable, "-m", "diffuzz", "doctor"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        pid = tmp_path / "pid"
        while not pid.exists() or not pid.read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (130, b"", b"") == (process.returncode, out, err.strip())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_what_works_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The kernels in NumPy work, and give the right results; as JSON, text and in one line."""
    monkeypatch.setattr(probes, "GROUPS", (probes._CORE,))
    code = main._run(["doctor", "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (0, "") == (code, err)
    assert {"exact", "apr", "gguf", "ggml"} == {one["name"] for one in found["kernels"] if one["status"] == "ok"}
    assert found["works"] is True
    assert {one["name"] for one in found["extras"]} == set(packages.EXTRAS)
    assert ["C", "C++", "Rust"] == [one["language"] for one in found["compilers"]]
    assert 0 == main._run(["doctor", "-q"])
    (line,) = capsys.readouterr().out.splitlines()
    assert re.match(r"diffuzz \S+ works\. ", line)


def test_in_a_terminal(tmp_path: Path) -> None:
    """Colours on a terminal, and without them with NO_COLOR; as wide as it is."""
    code = (
        "from diffuzz.cli import doctor, main\nfrom diffuzz.cli.doctor import Found\n"
        "doctor.examined = lambda timeout: Found(None, (), (), (), ())\nmain.main(['doctor'])\n"
    )
    coloured, plain = (
        pseudo_terminal.run([sys.executable, "-c", code], columns=60, cwd=tmp_path, environment=environment)
        for environment in ({}, {"NO_COLOR": "1"})
    )
    assert b"\x1b[1mHere\x1b[0m" in coloured.raw
    assert b"\x1b[1mHere" not in plain.raw
    assert not re.search(rb"\x1b\[[\d;]*m", plain.raw)
    assert coloured.last == plain.last
    assert plain.last[0].startswith("diffuzz ")


def test_a_result_that_is_wrong_is_said() -> None:
    """Kernels are not only opened."""
    code = (
        "import sys\nfrom diffuzz import kernels\nfrom diffuzz.installation import probes\n"
        "apr = kernels.get('apr')\nright = apr.soft_max\napr.soft_max = lambda x: right(x) * 1.001\n"
        "probes.answer(['kernels:apr', 'kernels:exact'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    first, second = map(json.loads, done.stdout.splitlines())
    assert (False, "ValueError: it gives a wrong result", True) == (first["works"], first["text"], second["works"])


def test_compilers_and_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable names another compiler; a folder is counted, and not made."""
    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\necho mine 1.0\necho more\n")
    mine.chmod(0o755)
    monkeypatch.setenv("CC", str(mine))
    monkeypatch.setenv("CXX", str(tmp_path / "nothing"))
    found = {one.language: one for one in places.compilers()}
    assert (str(mine), "mine 1.0") == (found["C"].command, found["C"].version)
    assert found["C++"].command is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (empty,) = places.caches()
    assert (False, 0, 0) == (empty.there, empty.files, empty.nbytes)
    assert not (tmp_path / "cache").exists()
    empty.folder.mkdir(parents=True)
    (empty.folder / "one").write_bytes(b"12345")
    (cache,) = places.caches()
    assert (True, 1, 5) == (cache.there, cache.files, cache.nbytes)
