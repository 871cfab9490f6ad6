"""Which packages the core and the extras need, and which there are."""

from __future__ import annotations

import re
from importlib import metadata

import attrs

DISTRIBUTION = "diffuzz-kernels"
# What each extra gives; those for the development of diffuzz itself are not for its users.
EXTRAS = {
    "gguf": "quantisers and dequantisers of the gguf package, as kernels",
    "safetensors": "measure of arrays in .safetensors files",
    "ggml": "the real ggml library, as kernels; a C++ compiler builds it",
    "text": "prompts as text, for models",
    "llama": "runs of llama.cpp, for dump and trace",
    "torch": "references in PyTorch; bench kernelbench",
    "hf": "runs of transformers, for dump and trace",
    "dask": "campaigns on a Dask cluster",
    "bench": "the peers of bench engines, and its pictures",
}
FOR_DEVELOPMENT = ("test", "lint", "docs")
_REQUIREMENT = re.compile(
    r"""\s*(?P<name>[A-Za-z0-9._-]+)[^;<>=!~]*(?:>=\s*(?P<least>[0-9.]+))?[^;]*"""
    r"""(?:;.*?extra\s*==\s*['"](?P<extra>[\w-]+)['"].*)?"""
)


@attrs.frozen
class Package:
    """A package that is needed: the least version, and the one that there is, None for none."""

    name: str
    least: str
    version: str | None

    @property
    def old(self) -> bool:
        """Whether it is there, but older than it may be."""
        return self.version is not None and _numbers(self.version) < _numbers(self.least)

    @property
    def good(self) -> bool:
        """Whether it is there, and new enough."""
        return self.version is not None and not self.old


@attrs.frozen
class Extra:
    """An extra, what it gives, and its packages. The core is the extra without a name."""

    name: str
    gives: str
    packages: tuple[Package, ...]

    @property
    def good(self) -> bool:
        """Whether all its packages are there."""
        return all(one.good for one in self.packages)

    @property
    def command(self) -> str:
        """What installs it."""
        return f"pip install '{DISTRIBUTION}[{self.name}]'" if self.name else f"pip install --upgrade {DISTRIBUTION}"


def installed() -> tuple[Extra, ...]:
    """The core, and the extras for users, as the metadata of the installed distribution say; none where diffuzz was not
    installed.
    """
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return ()
    found: dict[str, list[Package]] = {"": [], **{name: [] for name in EXTRAS}}
    for line in lines:
        match = _REQUIREMENT.fullmatch(line)
        if match is not None and (extra := match["extra"] or "") not in FOR_DEVELOPMENT:
            found.setdefault(extra, []).append(Package(match["name"], match["least"] or "0", version(match["name"])))
    return tuple(Extra(name, EXTRAS.get(name, ""), tuple(packages)) for name, packages in found.items() if packages)


def version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers of a version, without what follows them: 2.13.0+cpu, 1.0rc1."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    numbers = [int(part) for part in match[0].split(".")] if match else [0]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
