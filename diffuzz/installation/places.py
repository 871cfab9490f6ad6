"""Compilers that are here, for candidates in other languages, and folders where something is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import attrs

# By what they compile: the variable that names another one, and the usual names.
COMPILERS = {
    "C": ("CC", ("cc", "gcc", "clang")),
    "C++": ("CXX", ("c++", "g++", "clang++")),
    "Rust": ("RUSTC", ("rustc",)),
}
_SECONDS = 10.0
# Files of a cache that are counted: a look at a huge one takes no longer.
_MOST_FILES = 100_000


@attrs.frozen
class Compiler:
    """What compiles a language here: its command, None for none, and the first line about its version."""

    language: str
    command: str | None
    version: str


@attrs.frozen
class Cache:
    """A folder, whether it is there, and how many files and bytes it has."""

    holds: str
    folder: Path
    files: int
    nbytes: int

    @property
    def there(self) -> bool:
        """Whether it is there."""
        return self.folder.is_dir()


def compilers() -> tuple[Compiler, ...]:
    """What there is for each language."""
    found = []
    for language, (variable, names) in COMPILERS.items():
        chosen = os.environ.get(variable)
        command = next((path for name in ((chosen,) if chosen else names) if (path := shutil.which(name))), None)
        found.append(Compiler(language, command, _version(command) if command else ""))
    return tuple(found)


def _version(command: str) -> str:
    try:
        done = subprocess.run(
            [command, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not start ({type(error).__name__})"
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return lines[0].strip() if lines else ""


def caches() -> tuple[Cache, ...]:
    """The folders that diffuzz fills."""
    try:
        from diffuzz.searching import screen
    except ImportError:
        # Without NumPy nothing was ever compiled.
        return ()
    place = screen.cache_place()
    if place is None:
        return ()
    files = nbytes = 0
    for folder, _, names in os.walk(place):
        for name in names:
            files += 1
            try:
                nbytes += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                # It was removed meanwhile.
                continue
        if files > _MOST_FILES:
            break
    return (Cache("XLA cache", place, files, nbytes),)
