"""How an array lies in memory when a function is called with it.

    Place()                      contiguous, aligned to 64 bytes, in memory of its own
    Place("offset", 4)           so many bytes after such a place
    Place("fortran")             the first axis the fastest
    Place("gaps", 2)             every second element of the last axis of a larger array
    Place("wide", 3)             rows of a buffer whose rows are longer by so many elements
    Place("reversed", 1)         axis 1 backwards: a negative stride
    Place("repeated", 0)         axis 0 with the stride 0, which all equal rows can have
    Place("after", 12)           so many bytes before a page that may be neither read nor written
    Place("before", 12)          so many bytes after such a page

What lies around the elements is filled with the byte ``poison``, and is looked at after the call. All these arrays have
the same shape and elements, so a function of them has the same result.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Literal, get_args

import attrs
import numpy as np

Kind = Literal["plain", "offset", "fortran", "gaps", "wide", "reversed", "repeated", "after", "before"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ALIGNMENT = 64
# Bytes around an array that show whether they were written to.
_MARGIN = 256
# Of mprotect.
_PROT_NONE = 0


@attrs.frozen
class Place:
    """See the module's docstring; ``number`` is the one that its kind takes."""

    kind: Kind = "plain"
    number: int = 0
    poison: int = attrs.field(default=0xFF, kw_only=True)


@attrs.frozen(eq=False)
class Placed:
    """``array`` in its place, with the elements ``original``. ``room`` is the memory that may be touched around and
    between them, all of its bytes, and ``before`` is what these were.
    """

    array: np.ndarray
    original: np.ndarray
    room: np.ndarray
    before: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray, room: np.ndarray) -> Placed:
        """What stands there now is what should stand there after a call."""
        return cls(array, array.copy(), room, room.copy())

    def changed(self) -> bool:
        """Whether the elements are others than they were."""
        return self.array.tobytes() != self.original.tobytes()

    def wrote(self) -> tuple[str, int] | None:
        """Where the memory around the elements was changed, and how many bytes from them at most; None where it was
        not.
        """
        now = self.array.copy()
        self.array[...] = self.original
        changed = np.flatnonzero(self.room != self.before)
        self.array[...] = now
        if not changed.size:
            return None
        low, high = _ends(self.array)
        at = changed + (self.room.ctypes.data - self.array.ctypes.data)
        if at[0] < low:
            return "before the beginning", low - int(at[0])
        return ("after the end", int(at[-1]) - high + 1) if at[-1] >= high else ("between the elements", 0)


def placed(array: np.ndarray, place: Place = Place()) -> Placed:
    """A copy of ``array``, in its place. Raises ValueError for a place that an array of this shape cannot have."""
    shape, dtype = array.shape, array.dtype
    if place.kind in ("after", "before"):
        return _guarded(array, place)
    if place.kind == "fortran":
        return _copied(array, array.shape[::-1], place, lambda whole: whole.T)
    if place.kind == "gaps":
        wide = (*shape[:-1], shape[-1] * place.number)
        return _copied(array, wide, place, lambda whole: whole[..., :: place.number])
    if place.kind == "wide":
        wide = (*shape[:-1], shape[-1] + place.number)
        return _copied(array, wide, place, lambda whole: whole[..., : shape[-1]])
    if place.kind == "reversed":
        flip = (slice(None),) * place.number + (slice(None, None, -1),)
        return _copied(array, shape, place, lambda whole: whole[flip])
    if place.kind == "repeated":
        one = tuple(1 if axis == place.number else size for axis, size in enumerate(shape))
        made = placed(np.take(array, [0], axis=place.number).reshape(one))
        strided = np.broadcast_to(made.array, shape)
        strided.flags.writeable = True
        return Placed.of(strided, made.room)
    room, start = _room(array.nbytes, place.number, place.poison)
    own = room[start : start + array.nbytes].view(np.uint8)
    own[...] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    return Placed.of(np.ndarray(shape, dtype, room.data, start), room)


def _copied(
    array: np.ndarray, whole: tuple[int, ...], place: Place, view: Callable[[np.ndarray], np.ndarray]
) -> Placed:
    size = int(np.prod(whole, dtype=np.int64)) * array.itemsize
    room, start = _room(size, 0, place.poison)
    base = np.ndarray(whole, array.dtype, room.data, start)
    seen = view(base)
    seen[...] = array
    return Placed.of(seen, room)


def _room(size: int, offset: int, poison: int) -> tuple[np.ndarray, int]:
    room = np.full(size + offset + 2 * _MARGIN + ALIGNMENT, poison, np.uint8)
    start = _MARGIN + -(room.ctypes.data + _MARGIN) % ALIGNMENT + offset
    return room[: start + size + _MARGIN], start


def can_guard() -> bool:
    """Whether this system can keep pages from being read."""
    try:
        return hasattr(ctypes.CDLL(None), "mprotect")
    except (OSError, TypeError):
        return False


def _guarded(array: np.ndarray, place: Place) -> Placed:
    """The array in whole pages between two that may not be touched, ``place.number`` bytes from one of them."""
    page, gap = mmap.PAGESIZE, place.number
    # One more, so that only one of the two is near.
    pages = -(-(array.nbytes + gap) // page) + 1
    memory = mmap.mmap(-1, (pages + 2) * page)
    whole = np.frombuffer(memory, np.uint8)
    room = whole[page : (pages + 1) * page]
    room[...] = place.poison
    start = len(room) - array.nbytes - gap if place.kind == "after" else gap
    room[start : start + array.nbytes] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    for guard in (whole.ctypes.data, whole.ctypes.data + (pages + 1) * page):
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(guard), page, _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    return Placed.of(np.ndarray(array.shape, array.dtype, memory, page + start), room)


def _ends(array: np.ndarray) -> tuple[int, int]:
    """The first byte of an array, and the one after its last, from where its data begins."""
    low = high = 0
    for size, stride in zip(array.shape, array.strides, strict=True):
        low += min(0, (size - 1) * stride)
        high += max(0, (size - 1) * stride)
    return low, high + array.itemsize
