"""Compilers, where they are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import diffuzz

ROOT = Path(__file__).parents[2]
INCLUDE = Path(diffuzz.__file__).parent / "include"
Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles a source to a library, or to a program; skips the test where there is no compiler."""
    folder = tmp_path_factory.mktemp("built")

    def build(source: Path, *, library: bool = True) -> Path:
        out = folder / (f"{source.stem}.so" if library else source.stem)
        if out.exists():
            return out
        compiler = {".c": "cc", ".cpp": "c++", ".rs": "rustc"}[source.suffix]
        if shutil.which(compiler) is None or sys.platform == "win32":
            pytest.skip(f"there is no {compiler}")
        if compiler == "rustc":
            words = ["--edition", "2021", "-O", *(["--crate-type", "cdylib"] if library else []), source, "-o", out]
        else:
            shared = ["-shared", "-fPIC"] if library else []
            standard = "-std=c99" if compiler == "cc" else "-std=c++17"
            words = [standard, "-Wall", "-Wextra", "-Werror", "-O1", *shared, f"-I{INCLUDE}", source, "-o", out, "-lm"]
        environment = os.environ | {"DIFFUZZ_INCLUDE": str(INCLUDE)}
        done = subprocess.run([compiler, *words], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return out

    return build
