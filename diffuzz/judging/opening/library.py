"""A function of a library, by the C ABI of ``diffuzz/include/diffuzz.h``, which the structures here repeat.

Around each array there are margins. What a function writes there is found after the call; what it reads there is NaN.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np

from diffuzz.escaping import unwrapped
from diffuzz.judging.memory import Place, Placed, placed
from diffuzz.judging.opening.foreign import Asked, Foreign, RefusedError, Scalar, dtype_of
from diffuzz.judging.opening.named import CandidateError, LibraryFunction
from diffuzz.kernels.process.channel import ResultError

# DIFFUZZ_ABI_VERSION, and the function that says which one a library has.
VERSION, VERSION_FUNCTION = 1, "diffuzz_abi_version"
# Type codes of DLPack, by the names of NumPy and ml_dtypes without the number of bits, which is beside them.
_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6, "float8_e4m3fn": 10, "float8_e5m2": 12}
_CPU = 1
_INTEGER, _NUMBER, _TEXT = 1, 2, 3
_MESSAGE_SIZE = 1024
# The bytes of a result before the call.
_UNWRITTEN = 0xFF


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Array(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("tensor", DLTensor))


class _Parameter(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("kind", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("integer", ctypes.c_int64),
        ("number", ctypes.c_double),
        ("text", ctypes.c_char_p),
    )


class _Call(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("operation", ctypes.c_char_p),
        ("input_count", ctypes.c_int64),
        ("inputs", ctypes.POINTER(_Array)),
        ("result_count", ctypes.c_int64),
        ("results", ctypes.POINTER(_Array)),
        ("parameter_count", ctypes.c_int64),
        ("parameters", ctypes.POINTER(_Parameter)),
        ("message", ctypes.c_char_p),
        ("message_size", ctypes.c_int64),
    )


def load(named: LibraryFunction) -> Foreign:
    """The function of the library, which is loaded. Raises CandidateError: it cannot be, has no such function, or was
    compiled for another version of the header.
    """
    what = f"candidate {named.specification}"
    try:
        # With a folder, so that the system does not look for the file elsewhere.
        library = ctypes.CDLL(str(named.path.resolve()))
    except OSError as error:
        raise CandidateError(f"{what}: {named.path} cannot be loaded: {unwrapped(str(error))}") from error
    try:
        version = getattr(library, VERSION_FUNCTION)
    except AttributeError:
        raise CandidateError(
            f"{what}: {named.path} does not say which version of diffuzz.h it was compiled with: put DIFFUZZ_LIBRARY "
            f'into one of its sources (it is the function {VERSION_FUNCTION}, extern "C")'
        ) from None
    version.restype, version.argtypes = ctypes.c_uint32, ()
    if (found := version()) != VERSION:
        raise CandidateError(
            f"{what}: {named.path} was compiled with version {found} of diffuzz.h, and this diffuzz has version "
            f"{VERSION}: compile it with the header that `python -m diffuzz include` points to"
        )
    try:
        symbol = getattr(library, named.symbol)
    except AttributeError:
        raise CandidateError(
            f'{what}: {named.path} has no symbol {named.symbol} (it must be extern "C", and visible)'
        ) from None
    symbol.restype, symbol.argtypes = ctypes.c_int, (ctypes.POINTER(_Call),)

    def foreign(asked: Asked) -> list[np.ndarray]:
        inputs = {name: placed(array, asked.places.get(name, Place())) for name, array in asked.inputs.items()}
        results = {
            name: placed(_unwritten(one.shape, dtype_of(one.dtype)), asked.places.get(name, Place()))
            for name, one in asked.results.items()
        }
        message = ctypes.create_string_buffer(_MESSAGE_SIZE)
        call = _Call(
            version=VERSION,
            operation=asked.operation.encode(),
            input_count=len(inputs),
            inputs=_arrays(inputs),
            result_count=len(results),
            results=_arrays(results),
            parameter_count=len(asked.parameters),
            parameters=_parameters(asked.parameters),
            message=ctypes.cast(message, ctypes.c_char_p),
            message_size=_MESSAGE_SIZE,
        )
        code = symbol(ctypes.byref(call))
        for name, one in (inputs | results).items():
            if (where := one.wrote()) is not None:
                raise ResultError(f"wrote to memory {where[0]} of {name}")
        if code != 0:
            # Not all of it may be a text.
            said = unwrapped(message.raw.partition(b"\0")[0].decode(errors="backslashreplace"))
            raise RefusedError(f"it returned {code}" + (f": {said}" if said else ""))
        return [one.array for one in results.values()]

    return foreign


def _unwritten(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that nobody has written to."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.full(size, _UNWRITTEN, np.uint8).view(dtype).reshape(shape)


def _arrays(named: Mapping[str, Placed]) -> ctypes.Array[_Array]:
    return (_Array * len(named))(*(_Array(name.encode(), _tensor(one.array)) for name, one in named.items()))


def _tensor(array: np.ndarray) -> DLTensor:
    code, bits = type_code(array.dtype.name)
    shape = array.shape
    strides = [stride // array.itemsize for stride in array.strides]
    numbers = ctypes.c_int64 * max(1, len(shape))
    return DLTensor(array.ctypes.data, _CPU, 0, len(shape), code, bits, 1, numbers(*shape), numbers(*strides), 0)


def type_code(dtype: str) -> tuple[int, int]:
    """The type code of DLPack for a dtype, and its number of bits."""
    if dtype in _CODES:
        return _CODES[dtype], 8
    name = dtype.rstrip("0123456789")
    return _CODES[name], int(dtype[len(name) :])


def _parameters(named: Mapping[str, Scalar]) -> ctypes.Array[_Parameter]:
    made: Sequence[_Parameter] = [_parameter(name, value) for name, value in named.items()]
    return (_Parameter * len(made))(*made)


def _parameter(name: str, value: Scalar) -> _Parameter:
    if isinstance(value, str):
        return _Parameter(name.encode(), _TEXT, text=value.encode())
    if isinstance(value, float):
        return _Parameter(name.encode(), _NUMBER, number=value)
    return _Parameter(name.encode(), _INTEGER, integer=value, number=value)
