"""Names of implementations: module, variant, path."""

from __future__ import annotations

import pytest

from diffuzz import kernels
from diffuzz.kernels import names
from diffuzz.kernels.names import KernelName


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ggml", ("ggml", None, None)),
        ("apr:simd", ("apr", "simd", None)),
        ("libggml@build/bin", ("libggml", None, "build/bin")),
        ("libggml:generic@build/a:b@c", ("libggml", "generic", "build/a:b@c")),
        ("libggml@", ("libggml", None, "")),
        ("apr:", ("apr", "", None)),
        ("", ("", None, None)),
    ],
)
def test_a_name_is_its_parts(text: str, parts: tuple[str, str | None, str | None]) -> None:
    """Parsing gives the parts, and printing the parts gives the text again."""
    name = KernelName.parse(text)
    assert parts == (name.module, name.variant, name.path)
    assert text == str(name)


@pytest.mark.parametrize(
    ("name", "base", "unlocated"),
    [
        ("ggml", "ggml", "ggml"),
        ("libggml:generic", "libggml:generic", "libggml:generic"),
        ("libggml:generic@/opt/ggml/bin/", "libggml:generic", "libggml:generic@bin"),
        ("libggml@build/libggml-cpu.so", "libggml", "libggml@libggml-cpu.so"),
    ],
)
def test_paths_come_off(name: str, base: str, unlocated: str) -> None:
    """``base`` drops the path, ``unlocated`` all of it but its last part."""
    assert (base, unlocated) == (names.base(name), names.unlocated(name))


@pytest.mark.parametrize(
    ("name", "library", "expected"),
    [
        ("libggml", "build", "libggml@build"),
        ("libggml:generic@old", "build", "libggml:generic@build"),
        ("libggml@old", None, "libggml@old"),
        ("ggml", "build", "ggml"),
        ("candidate", "build", "candidate"),
    ],
)
def test_a_library_is_located(name: str, library: str | None, expected: str) -> None:
    """Only names of the ggml library take the path of a library."""
    assert expected == names.located(name, library)


def test_a_name_is_found() -> None:
    """A module, a variant of a module, and a module under another name."""
    from diffuzz.kernels import apr, gguf_py

    assert kernels.get("apr") is apr
    assert kernels.get("apr:simd") is apr.simd
    assert kernels.get("gguf-py") is gguf_py
    with pytest.raises(ImportError):
        kernels.get("nothing")
    with pytest.raises(AttributeError):
        kernels.get("apr:nothing")
