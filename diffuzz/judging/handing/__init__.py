"""Handing: which arrays a function of Python is called with, and its results as arrays of NumPy.

    numpy     numpy.ndarray, where bfloat16 and float8 are dtypes of ml_dtypes        as they are
    torch     torch.Tensor on a device                                               diffuzz.judging.handing.tensors
    jax       jax.Array on a device                                                  diffuzz.judging.handing.jax_arrays
    dlpack    an object with __dlpack__ and __dlpack_device__, and nothing else      diffuzz.judging.handing.capsules

Every bit is handed over, and on the processor no array is copied for it, as far as the library allows. A result may
always be any array that NumPy or DLPack takes, on any device, or several of them (diffuzz.judging.handing.taking).
Whether an array reaches a function as it lies in memory is told by diffuzz.judging.handing.placing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

if TYPE_CHECKING:
    from diffuzz.judging.question import Function

CPU, NUMPY = "cpu", "numpy"
# By their names the packages that they need, and how those are had.
KINDS: dict[str, str] = {
    NUMPY: "",
    "torch": "pip install 'diffuzz-kernels[torch]', or the build of torch for your device",
    "jax": "pip install jax, or the build of jax for your device",
    "dlpack": "",
}
_DEVICE = re.compile(r"[a-z]+(:[0-9]{1,4})?")
# Makes an array of a library of one of NumPy, whose memory it may share.
Give: TypeAlias = Callable[[np.ndarray], object]


class HandingError(ValueError):
    """Arrays that there are none of, or that a function cannot be called with; one line."""


class MissingArraysError(ImportError):
    """Arrays of a package that is not installed, or on a device that is not here; one line."""


@attrs.frozen
class Handing:
    """Which ``arrays`` (one of KINDS) a function gets, and on which ``device``: ``cpu``, ``cuda:0``, or another that
    the package knows by this name.

    Raises HandingError, one line, for others, and for arrays that are on no such device.
    """

    arrays: str = NUMPY
    device: str = CPU

    def __attrs_post_init__(self) -> None:
        if self.arrays not in KINDS:
            raise HandingError(f"arrays {self.arrays!r:.80}: {', '.join(KINDS)} are known")
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise HandingError(f"device {self.device!r:.80}: a name such as cpu, cuda or cuda:0 is needed")
        if self.device != CPU and not KINDS[self.arrays]:
            raise HandingError(
                f"device {self.device}: arrays of {self.arrays} are in the memory of the processor; choose torch or jax"
            )

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that the arrays need."""
        return (self.arrays,) if KINDS[self.arrays] else ()

    def check_installed(self) -> None:
        """Raise MissingArraysError where a package is missing; it is not imported."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingArraysError(f"arrays {self.arrays}: {package} is not installed: {KINDS[package]}")

    def about(self) -> dict[str, str]:
        """What an entry of the corpus says of it, with versions; nothing of arrays of NumPy."""
        if self == Handing():
            return {}
        versions = {package: importlib.metadata.version(package) for package in self.packages}
        return {"arrays": self.arrays, "arrays_device": self.device, **versions}

    @classmethod
    def recorded(cls, about: Mapping[str, object]) -> Handing:
        """Inverse of ``about``. Raises HandingError for what an entry cannot say."""
        given = [about.get(name, default) for name, default in (("arrays", NUMPY), ("arrays_device", CPU))]
        return cls(*map(str, given))

    def __str__(self) -> str:
        return self.arrays if self.device == CPU else f"{self.arrays} on {self.device}"


def opened(handing: Handing, *, placed: bool = False) -> Callable[[Function], Function]:
    """What makes a function of a library's arrays one of NumPy's. With ``placed``, tensors on another device have the
    strides of the arrays, and what is written to them there is written to the arrays after a call.

    Raises MissingArraysError: the package, or the device, is not here.
    """
    handing.check_installed()
    match handing.arrays:
        case "torch":
            from diffuzz.judging.handing import tensors

            return tensors.opened(handing.device, placed=placed)
        case "jax":
            from diffuzz.judging.handing import jax_arrays

            return jax_arrays.opened(handing.device)
        case "dlpack":
            from diffuzz.judging.handing import capsules

            return lambda function: handed(function, capsules.given)
        case _:
            return lambda function: function


def handed(function: Function, give: Give) -> Function:
    """``function``, called with what ``give`` makes of arrays, and with numbers of Python."""
    from diffuzz.judging.handing.taking import taken

    def one(value: object) -> object:
        if isinstance(value, np.ndarray):
            # Libraries take no memory that must not be written to; what they do to it is done to a copy as it is.
            return give(value if value.flags.writeable else value.copy())
        return value.item() if isinstance(value, np.generic) else value

    def called(*positional: object, **named: object) -> object:
        return taken(function(*map(one, positional), **{name: one(value) for name, value in named.items()}))

    # Whoever looks at its signature sees that of the function.
    called.__wrapped__ = function  # type: ignore[attr-defined]
    return called
