"""Capsules of DLPack, by NumPy's own, which knows no bfloat16 and no float8: there the bits are handed over, and the
type is written into the capsule. https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import ctypes
from typing import Any

import attrs
import numpy as np

from diffuzz.judging.opening.foreign import dtype_of
from diffuzz.judging.opening.library import DLTensor, type_code

_NAMES = {type_code(name): name for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")}
# Of devices whose memory the processor reads: kDLCPU, kDLCUDAHost, kDLROCMHost.
_OF_THE_PROCESSOR = (1, 3, 11)


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned, which begins with a tensor in the older DLManagedTensor."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


def given(array: np.ndarray) -> object:
    """An object that speaks DLPack, and nothing else; it shares the memory of the array."""
    return _Given(array)


@attrs.frozen(eq=False, repr=False)
class _Given:
    """See ``given``."""

    _array: np.ndarray

    def __dlpack__(self, **how: Any) -> Any:
        """A capsule; ``how`` are stream, max_version, dl_device and copy, as the consumer has them."""
        key = _key(self._array.dtype)
        if key not in _NAMES:
            return self._array.__dlpack__(**how)
        capsule = self._array.view(_bits(self._array.dtype.itemsize)).__dlpack__(**how)
        tensor = _tensor(capsule)
        tensor.code, tensor.bits = key
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        """That of the processor."""
        return self._array.__dlpack_device__()


@attrs.define(eq=False)
class _Taken:
    """An object of somebody else, with dtypes that NumPy knows; ``name`` is the one that it had, once it was taken."""

    value: Any
    name: str = ""

    def __dlpack__(self, **how: Any) -> Any:
        capsule = self.value.__dlpack__(**how)
        tensor = _tensor(capsule)
        self.name = _NAMES.get((tensor.code, tensor.bits), "")
        if self.name:
            tensor.code = type_code(_bits(tensor.bits // 8).name)[0]
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, number = self.value.__dlpack_device__()
        return int(kind), int(number)


def taken(value: Any) -> np.ndarray:
    """The array of an object that speaks DLPack: copied from another device, if the object does that."""
    through = _Taken(value)
    here = through.__dlpack_device__()[0] in _OF_THE_PROCESSOR
    array = np.from_dlpack(through) if here else np.from_dlpack(through, device="cpu")
    return array.view(dtype_of(through.name)) if through.name else array


def _key(dtype: np.dtype) -> tuple[int, int] | None:
    return type_code(dtype.name) if dtype.name in _NAMES.values() else None


def _bits(size: int) -> np.dtype:
    return np.dtype(f"uint{8 * size}")


def _tensor(capsule: Any) -> DLTensor:
    """The tensor in a capsule, to be changed where it is. Raises ValueError for what is no capsule of DLPack."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, (ctypes.py_object,)
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    name = api.PyCapsule_GetName(capsule)
    if name not in (b"dltensor", b"dltensor_versioned"):
        raise ValueError("its capsule is not one of DLPack")
    address = api.PyCapsule_GetPointer(capsule, name)
    if name == b"dltensor":
        return DLTensor.from_address(address)
    whole = _Versioned.from_address(address)
    if whole.major != 1:
        raise ValueError(f"its capsule is of version {whole.major} of DLPack, where 1 is known")
    found: DLTensor = whole.tensor
    return found
