"""What a job asks of, to the version: where that changes between two nights, the job is asked again, and first."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

from diffuzz import __version__, kernels
from diffuzz.campaigns.job import Job
from diffuzz.judging.opening import CandidateError, LibraryFunction, Program, PythonFunction, parse
from diffuzz.kernels import libggml
from diffuzz.registry import is_file_name

_PACKAGES = {"xla": ("jax", "jaxlib"), "gguf-py": ("gguf",)}


def of(job: Job) -> str:
    """The versions of diffuzz and of the packages of its kernels, and digests of the files that it names: of a function
    of Python its own file, and not what that imports.
    """
    said = [f"diffuzz {__version__}"]
    for name in job.kernels:
        parsed = kernels.KernelName.parse(kernels.located(name, job.library))
        said += [f"{one} {_version(one)}" for one in _PACKAGES.get(parsed.module, ())]
        if parsed.is_library:
            said.append(f"{parsed.base} {_digest(_of_library(parsed.path))}")
        elif is_file_name(name):
            said.append(f"{name} {_digest([_file(name)])}")
    if job.candidate is not None:
        said.append(f"{job.candidate} {_digest(_of_candidate(job.candidate))}")
    for name in (job.target, *(value for _, value in job.params)):
        if is_file_name(name):
            said.append(f"{name} {_digest([_file(name)])}")
    if job.arrays is not None:
        said.append(f"{job.arrays} {_version(job.arrays)}")
    return "; ".join(dict.fromkeys(said))


def _of_library(path: str | None) -> Iterator[str]:
    yield from libggml.files(path)


def _file(name: str) -> str:
    return name if name.endswith(".py") else name.rpartition(":")[0]


def _of_candidate(name: str) -> Iterator[str]:
    with suppress(CandidateError):
        match parse(name):
            case PythonFunction(path=path) | LibraryFunction(path=path):
                yield str(path)
            case Program(words=words):
                yield from (found for word in words if (found := shutil.which(word)) or (found := _there(word)))


def _there(word: str) -> str | None:
    with suppress(OSError, ValueError):
        return word if Path(word).is_file() else None
    return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return "none"


def _digest(files: Iterable[str]) -> str:
    """A digest of the bytes of files; of what cannot be read, of that."""
    whole = sha256()
    try:
        for file in files:
            about = Path(file).stat()
            # A pipe or a device has no end.
            regular = stat.S_ISREG(about.st_mode)
            whole.update(_of_file(file, about.st_mtime_ns, about.st_size) if regular else b"no file")
    except (OSError, ValueError, ImportError) as error:
        whole.update(type(error).__name__.encode())
    return whole.hexdigest()[:16]


@cache
def _of_file(file: str, changed: int, size: int) -> bytes:
    """The digest of a file; it is read again where its time or size is another."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
