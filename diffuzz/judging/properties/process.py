"""The code that calls a function for a question about a property, in the worker's process or here.

A call is made with arrays that lie in memory as they are told to, and what came of it is more than its result: which
inputs were written to, which results share memory with what, and whether a result of an earlier call changed.

What a process answers is JSON and bytes of arrays, of which nothing is unpickled (see diffuzz.kernels.process).
"""

from __future__ import annotations

import inspect
import json
import struct
from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np

from diffuzz import registry
from diffuzz.judging import handing
from diffuzz.judging.handing import Handing
from diffuzz.judging.handing.placing import Refuses, refusing
from diffuzz.judging.memory import Place, Placed, placed
from diffuzz.judging.opening import Signature, load
from diffuzz.judging.opening.foreign import dtype_of
from diffuzz.judging.question import Function
from diffuzz.kernels.process.channel import Failure, ResultError

# What asks for the names of a function's parameters, and how many are told.
NAMES, _MOST_NAMES = "names", 32
# The length of the JSON at the head of an answer.
# An answer that is longer than the room for it has so much more than its length there, and is at most so long.
_HEAD, _LONGER, _LONGEST = struct.Struct("<Q"), 2**62, 2**31
_MOST_RESULTS = 16


@attrs.frozen
class Argument:
    """An argument that is an array, in a request: its number among those in the memory, its dtype and its shape."""

    number: int
    dtype: str
    shape: tuple[int, ...]


@attrs.frozen
class Request:
    """One call: arguments, of which arrays are in the memory, where each lies while the function is called, by its
    name, and what a function of another language is told.
    """

    positional: tuple[object, ...]
    named: Mapping[str, object]
    names: tuple[str, ...]
    places: Mapping[str, Place]
    signature: Signature | None = None


@attrs.frozen
class Returned:
    """What came of a call: its ``results``, or the ``failure`` that there is instead.

    ``changed`` are the inputs whose elements were written to, ``wrote`` says where memory around an input was, as
    (input, where); ``shared`` are pairs of what lies in the same memory, in words; ``earlier`` says that the result of
    the call before has changed since.
    """

    results: tuple[np.ndarray, ...] = attrs.field(default=(), eq=False)
    failure: Failure | None = None
    changed: tuple[str, ...] = ()
    wrote: tuple[tuple[str, str], ...] = ()
    shared: tuple[tuple[str, str], ...] = ()
    earlier: bool = False


@attrs.define
class Caller:
    """Calls a function, and remembers the result of the call before. ``refuses`` says why an array does not reach the
    function in its place: then there is no such call.
    """

    refuses: Refuses = attrs.field(default=lambda array, place: "", kw_only=True)
    _last: list[tuple[np.ndarray, bytes]] = attrs.field(init=False, factory=list)

    def __call__(self, function: Function, request: Request, arrays: Mapping[int, np.ndarray]) -> Returned:
        """What comes of the call. Raises what the function raises, and ResultError if it returns no arrays."""
        inputs: dict[str, Placed] = {}

        def made(name: str, one: object) -> object:
            if not isinstance(one, Argument):
                return one
            inputs[name] = placed(arrays[one.number], request.places.get(name, Place()))
            return inputs[name].array

        listed = [
            made(request.names[place] if place < len(request.names) else f"argument_{place + 1}", one)
            for place, one in enumerate(request.positional)
        ]
        named = {name: made(name, one) for name, one in request.named.items()}
        for name, place in request.places.items():
            if name in inputs and (why := self.refuses(inputs[name].array, place)):
                return Returned(failure=Failure("skipped", why))
        with np.errstate(all="ignore"):
            got = function(*listed, **named)
        results = _listed(got)
        earlier = any(array.tobytes() != before for array, before in self._last)
        copies = tuple(np.array(one, order="C") for one in results)
        shared = [
            (f"result {i + 1}" if len(results) > 1 else "the result", name)
            for i, one in enumerate(results)
            for name, other in inputs.items()
            if np.may_share_memory(one, other.room)
        ]
        shared += [
            (f"result {i + 1}", f"result {j + 1}")
            for i in range(len(results))
            for j in range(i)
            if np.may_share_memory(results[i], results[j])
        ]
        shared += [
            (f"result {i + 1}" if len(results) > 1 else "the result", "the result of the call before")
            for i, one in enumerate(results)
            if any(np.may_share_memory(one, before) for before, _ in self._last)
        ]
        self._last = [(one, copy.tobytes()) for one, copy in zip(results, copies, strict=True)]
        changed = tuple(name for name, one in inputs.items() if one.changed())
        if any(first == name for name in changed for _, first in shared):
            # The next call's inputs are elsewhere, but these may be looked at again through the result.
            self._last = []
        wrote = tuple((name, _where(*found)) for name, one in inputs.items() if (found := one.wrote()) is not None)
        return Returned(copies, None, changed, wrote, tuple(shared), earlier)


def _where(side: str, count: int) -> str:
    return f"up to {count} bytes {side}" if count else side


def _listed(got: object) -> list[np.ndarray]:
    several = got if isinstance(got, (tuple, list)) else (got,)
    arrays = [np.asarray(one) for one in several]
    if not 1 <= len(arrays) <= _MOST_RESULTS or any(one.dtype.kind not in "fiubV" for one in arrays):
        given = ", ".join(str(one.dtype) for one in arrays[:_MOST_RESULTS])
        raise ResultError(f"returns {given or 'nothing'}, where arrays of numbers are needed")
    return arrays


def serve(
    argument: tuple[str, tuple[tuple[str, str], ...], Handing],
) -> Callable[[object, dict[str, np.ndarray], np.ndarray], np.ndarray]:
    """What the process of a function does: load it, and make each call that it is asked for.

    ``argument`` is the candidate's name, what its client has loaded from files (see diffuzz.registry), and which arrays
    it gets.
    """
    name, outside, given_arrays = argument
    registry.adopt(outside)
    hand, call = opened(given_arrays)
    bind, kept = load(name), [b""]

    def answer(request: object, arrays: dict[str, np.ndarray], out: np.ndarray) -> np.ndarray:
        if request is None:
            # The answer to the request before, for which there was no room.
            out[0, : len(kept[0])] = np.frombuffer(kept[0], np.uint8)
            return out
        if request == NAMES:
            # Only a function of Python is asked for them.
            names = json.dumps(_parameters(bind(None))).encode()  # type: ignore[arg-type]
            out[0, : _HEAD.size + len(names)] = np.frombuffer(_HEAD.pack(len(names)) + names, np.uint8)
            return out
        if not isinstance(request, Request):
            raise TypeError("a request is needed")
        given = {
            one.number: arrays[f"a{one.number}"][0].view(dtype_of(one.dtype)).reshape(one.shape)
            for one in (*request.positional, *request.named.values())
            if isinstance(one, Argument)
        }
        signature = request.signature
        if signature is not None:
            # The function itself puts arrays where they belong.
            signature, request = attrs.evolve(signature, places=request.places), attrs.evolve(request, places={})
        # One of Python takes no signature.
        function = hand(bind(signature))  # type: ignore[arg-type]
        whole = _written(call(function, request, given))
        if len(whole) > len(out[0]):
            kept[0], whole = whole, _HEAD.pack(_LONGER + len(whole))
        out[0, : len(whole)] = np.frombuffer(whole, np.uint8)
        return out

    return answer


def opened(given: Handing) -> tuple[Callable[[Function], Function], Caller]:
    """What makes a function of a library's arrays one of NumPy's, and what calls that. Raises MissingArraysError."""
    return handing.opened(given, placed=True), Caller(refuses=refusing(given))


def _parameters(function: Function) -> list[str]:
    """Names of the parameters of a function, as far as it says them."""
    try:
        return [name[:64] for name in inspect.signature(function).parameters][:_MOST_NAMES]
    except (TypeError, ValueError):
        return []


def names_in(answer: np.ndarray) -> tuple[str, ...]:
    """The names that a process wrote. Raises ValueError where they are none."""
    (length,) = _HEAD.unpack_from(answer.data, 0)
    return tuple(map(str, json.loads(bytes(answer[_HEAD.size : _HEAD.size + length]))))


def _written(returned: Returned) -> bytes:
    header = json.dumps(
        {
            "results": [[one.dtype.name, [*one.shape]] for one in returned.results],
            "changed": returned.changed,
            "wrote": returned.wrote,
            "shared": returned.shared,
            "earlier": returned.earlier,
            "refused": returned.failure.text if returned.failure else "",
        }
    ).encode()
    return b"".join([_HEAD.pack(len(header)), header, *(one.tobytes() for one in returned.results)])


def longer(answer: np.ndarray) -> int:
    """The length of the whole answer, where there was no room for it; 0 where there was."""
    length = int(_HEAD.unpack_from(answer.data, 0)[0])
    return max(0, min(length - _LONGER, _LONGEST))


def read(answer: np.ndarray) -> Returned:
    """What a process wrote. Raises ValueError where that is no answer: the function may have written there."""
    (length,) = _HEAD.unpack_from(answer.data, 0)
    if length > len(answer):
        raise ValueError("an answer that is too long")
    header = json.loads(bytes(answer[_HEAD.size : _HEAD.size + length]))
    if header["refused"]:
        return Returned(failure=Failure("skipped", str(header["refused"])))
    results, place = [], _HEAD.size + length
    for name, shape in header["results"]:
        dtype = dtype_of(str(name))
        size = dtype.itemsize * int(np.prod([int(one) for one in shape], dtype=np.int64))
        results.append(answer[place : place + size].copy().view(dtype).reshape([int(one) for one in shape]))
        place += size
    return Returned(
        tuple(results),
        None,
        tuple(map(str, header["changed"])),
        tuple((str(a), str(b)) for a, b in header["wrote"]),
        tuple((str(a), str(b)) for a, b in header["shared"]),
        header["earlier"] is True,
    )


def arguments(positional: Sequence[object], named: Mapping[str, object]) -> tuple[Request, dict[int, np.ndarray]]:
    """A request for a call with these arguments, and its arrays by number."""
    arrays: dict[int, np.ndarray] = {}

    def one(value: object) -> object:
        if not isinstance(value, np.ndarray):
            return value.item() if isinstance(value, np.generic) else value
        arrays[len(arrays)] = value
        return Argument(len(arrays) - 1, value.dtype.name, value.shape)

    listed = tuple(map(one, positional))
    return Request(listed, {name: one(value) for name, value in named.items()}, (), {}), arrays
