"""What a long work is at, told as it goes: code that takes long tells, and who wants to know listens.

    with listening(print):
        ...
        tell(Phase("compiling"))

As with :mod:`diffuzz.interruption`, what works need not know who listens, and as a library nobody does: then telling
costs a comparison. Whoever listens is called in the thread that tells, and must be quick.

Work has parts (the pairs of a matrix, the entries of a replay), a part has phases (loading, compiling, searching), and
a phase may be counted (the steps of a check). A new part has no phase yet, and a new phase is not counted yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import attrs

T = TypeVar("T")


@attrs.frozen
class Part:
    """The part that begins: its name, how many were before it, how many there are, and what they are ("pairs")."""

    name: str
    done: int
    total: int
    what: str


@attrs.frozen
class Phase:
    """What is done now, in a word or two."""

    name: str


@attrs.frozen
class Count:
    """How far the phase is: so many of so many, at most."""

    done: int
    total: int


@attrs.frozen
class Standing:
    """Where a search stands.

    spent       share of its budget, of time or of work, whichever is more
    seconds     what is left of its time
    evaluations of cases
    value       the largest so far, None before the first
    engine      that found it
    threshold   T of the claim "value > T"
    bound       that is proven, None without one
    judges      whether implementations are judged, so that a value is a share of what is allowed
    """

    spent: float
    seconds: float
    evaluations: int
    value: float | None
    engine: str
    threshold: float
    bound: float | None
    judges: bool


@attrs.frozen
class Smaller:
    """How much of the first cost of a case is left, a share, and its value, while it is minimised."""

    share: float
    value: float


@attrs.frozen
class Table:
    """How far work of many searches is: the share of it that is done, a line about it, and the rows of a table, the
    first of which are its headings.
    """

    share: float
    said: str
    rows: tuple[tuple[str, ...], ...]


Message: TypeAlias = Part | Phase | Count | Standing | Smaller | Table
Listener: TypeAlias = Callable[[Message], None]

_listener: Listener | None = None


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """A context in which ``listener`` is called with all that is told, instead of who listened before."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def listened() -> bool:
    """Whether anybody listens, for what costs something to say."""
    return _listener is not None


def tell(message: Message) -> None:
    """Tell what the work is at."""
    if _listener is not None:
        _listener(message)


def parts(items: Sequence[T], what: str, name: Callable[[T], str] = str) -> Iterator[T]:
    """The items, each told as a part before it is worked at; ``what`` they are, in the plural. At last a part without a
    name is told.
    """
    for done, item in enumerate(items):
        if _listener is not None:
            _listener(Part(name(item), done, len(items), what))
        yield item
    tell(Part("", len(items), len(items), what))


def counted(items: Sequence[T]) -> Iterator[T]:
    """The items, each told as done when the next one is asked for."""
    for done, item in enumerate(items):
        tell(Count(done, len(items)))
        yield item
    tell(Count(len(items), len(items)))
