"""Libraries whose functions can be named instead of kernels: one file for each, which runs in a process of its own.

A file ``of_NAME.py`` defines functions by the names of targets. It is loaded by its path, as the file of a user is.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from diffuzz.judging.handing import KINDS
from diffuzz.kernels.names import MissingKernelsError

_FOLDER = Path(__file__).parent
NAMES = ("numpy", "torch", "jax")


def candidate(name: str, target: str) -> str | None:
    """The name, as a candidate's, of the function that a library has for a target; None for what is no library.

    Raises MissingKernelsError, an ImportError, where it is not installed, or has no such function here.
    """
    if name not in NAMES:
        return None
    file = _FOLDER / f"of_{name}.py"
    if importlib.util.find_spec(name) is None:
        raise MissingKernelsError(f"kernels {name} need the package {name}: {KINDS[name] or f'pip install {name}'}")
    if f"\ndef {target}(" not in file.read_text(encoding="utf-8"):
        raise MissingKernelsError(f"kernels {name}: diffuzz calls no function of {name} for the target {target}")
    return f"{file}:{target}"
