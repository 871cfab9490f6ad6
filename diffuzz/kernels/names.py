"""What the name of an implementation means.

    ggml                          a module of diffuzz.kernels
    apr:simd                      a variant, which is an attribute of the module
    libggml@build/bin             the functions of another build of the library, in a folder or a file
    libggml:generic@build/bin     a variant of another build

Beside those of diffuzz.kernels there are modules of other packages and of files (see diffuzz.registry), whose names
are those of their entry points and files; a variant is an attribute of them, too.

``KernelName`` takes a name apart. ``base``, ``located`` and ``unlocated`` are for code that has a name as text and
needs one. Names that are no implementation here (``candidate``) can be parsed as well; only ``load`` looks for one.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import attrs

from diffuzz import interruption
from diffuzz.registry import Registry, RegistryError, is_file_name

# What has the operations of an implementation as attributes: a module, a namespace or a libggml.Library. It is ``Any``
# because no two of them have the same operations; a target's contract says which of them have the one that it calls.
Implementation: TypeAlias = Any

LIBRARY = "libggml"


class MissingKernelsError(ImportError):
    """Kernels, or an operation of them, that are not here, and what to do to have them; one line."""


@attrs.frozen
class _Source:
    """Where an implementation is found, and the package that it needs, if that may be missing.

    ``module`` is below diffuzz.kernels, ``attribute`` the variant that a name without one stands for, and ``install``
    a command that installs ``package``.
    """

    module: str
    attribute: str | None = None
    package: str | None = None
    install: str = ""


# Implementations that are not simply a module of the same name without dependencies.
_SOURCES = {
    "xla": _Source("xla", "compiled", "jax", "pip install jax"),
    "gguf-py": _Source("gguf_py", None, "gguf", "pip install 'diffuzz-kernels[gguf]'"),
    LIBRARY: _Source("libggml", "native", "ggml", "pip install 'diffuzz-kernels[ggml]'"),
}


_BUILT_IN = ("apr", "exact", "ggml", "gguf", *_SOURCES)


def _check(found: object) -> Implementation:
    if not isinstance(found, ModuleType):
        raise TypeError(f"a module with the operations is needed, it is a {type(found).__name__}")
    return found


# In a comparison "candidate" is the function of --candidate.
REGISTRY: Registry[Implementation] = Registry(
    "kernel module", "diffuzz.kernels", _check, reserved=(*_BUILT_IN, "candidate")
)


@attrs.frozen
class KernelName:
    """The parts of a name ``module:variant@path``; ``variant`` and ``path`` are None where the name has none."""

    module: str
    variant: str | None = None
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> KernelName:
        """The parts of ``text``; ``str`` of the result is ``text`` again. Every text is a name, known or not."""
        name, at, path = text.partition("@")
        module, colon, variant = name.partition(":")
        return cls(module, variant if colon else None, path if at else None)

    def __str__(self) -> str:
        return self.base if self.path is None else f"{self.base}@{self.path}"

    @property
    def base(self) -> str:
        """The name without its path, by which a target's contract lists implementations: ``libggml:generic``."""
        return self.module if self.variant is None else f"{self.module}:{self.variant}"

    @property
    def is_library(self) -> bool:
        """Whether it is the real ggml library, of which there may be other builds elsewhere."""
        return self.module == LIBRARY

    def located(self, library: str | None) -> KernelName:
        """The same functions of the build in the folder or file ``library``; unchanged if that is None, and for
        implementations that are not the ggml library.
        """
        if library is None or not self.is_library:
            return self
        return attrs.evolve(self, path=library)

    @property
    def from_outside(self) -> bool:
        """Whether it is of another package or of a file."""
        return self.module not in _BUILT_IN and REGISTRY.known(self.module)

    @property
    def unlocated(self) -> KernelName:
        """The name as it is written into a corpus entry: only the last part of the path."""
        if self.path is None:
            return self
        return attrs.evolve(self, path=Path(self.path).name)

    def missing(self) -> str | None:
        """One line that says which package is missing and how to install it; None if nothing is.

        A name with a path needs no package.
        """
        source = _SOURCES.get(self.module)
        if self.path or source is None or source.package is None or importlib.util.find_spec(source.package):
            return None
        return _remedy(self.base, source)

    def load(self) -> Implementation:
        """The implementation: an object that has operations (see diffuzz.kernels) as attributes.

        Raises ImportError where it, or a package that it needs, is not installed, AttributeError for an unknown
        variant, and ValueError where there is no library at the path, or no such variant of kernels from outside.
        """
        if self.from_outside:
            found = REGISTRY.get(self.module)
            if self.variant and not hasattr(found, self.variant):
                raise RegistryError(f"kernels {self.base}: {self.module} has no {self.variant}")
            return getattr(found, self.variant) if self.variant else found
        source = _SOURCES.get(self.module, _Source(self.module))
        with interruption.held():
            found = importlib.import_module(f"diffuzz.kernels.{source.module}")
        attribute = self.variant or source.attribute
        if attribute:
            found = getattr(found, attribute)
        return found.at(self.path) if self.path else found


def load(text: str) -> str:
    """The name of the kernels that a user wrote: ``FILE.py`` or ``FILE.py:VARIANT`` is loaded, the rest stays as it is.

    Raises RegistryError, one line, where the file is not there, fails to load, or has no such variant.
    """
    if not is_file_name(text):
        return text
    file, variant = (text, None) if text.endswith(".py") else text.rsplit(":", 1)
    name = KernelName(REGISTRY.load(file), variant)
    if variant and not hasattr(REGISTRY.get(name.module), variant):
        raise RegistryError(f"kernels {text}: {file} has no {variant}")
    return str(name)


def source(name: str) -> str | None:
    """The ``FILE.py`` or ``FILE.py:VARIANT`` that a user wrote for it, None for what is of a package."""
    parsed = KernelName.parse(name)
    file = REGISTRY.source(parsed.module)
    return file if file is None or parsed.variant is None else f"{file}:{parsed.variant}"


def base(name: str) -> str:
    """``name`` without its path: ``libggml:generic`` for ``libggml:generic@build/bin``."""
    return KernelName.parse(name).base


def located(name: str, library: str | None) -> str:
    """``name`` with ``library`` as its path, if it is the ggml library and ``library`` is not None; else ``name``."""
    return str(KernelName.parse(name).located(library))


def unlocated(name: str) -> str:
    """``name`` as it is written into a corpus entry: only the last part of its path."""
    return str(KernelName.parse(name).unlocated)


def missing_package(module: str) -> ImportError:
    """The error to raise when the package that the implementation ``module`` needs cannot be imported."""
    return ImportError(_remedy(module, _SOURCES[module]))


def _remedy(name: str, source: _Source) -> str:
    return f"kernels {name} need the package {source.package}: {source.install}"
