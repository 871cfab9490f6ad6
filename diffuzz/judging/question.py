"""Questions: what is asked of a target. Plain data; :func:`diffuzz.judging.problem.open_problem` opens one.

Claim     the target's own claim, "value > T on this domain"
Judge     does a user's function keep the contract of the operation?
Compare   how far apart are two implementations of the operation, and does rounding explain it?
Keep      does an implementation keep properties that no tolerance sees, such as the same bits for the same call?
          It is about bits and memory, not about a value: diffuzz.judging.properties opens it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs

from diffuzz import kernels
from diffuzz.escaping import escaped
from diffuzz.formats.arrays import AnyArray
from diffuzz.judging.handing import CPU, NUMPY, Handing

CANDIDATE = "candidate"
# Arrays in, an array out: how many, and which scalars stand between them, the signature of a contract says.
Function: TypeAlias = Callable[..., AnyArray]


class QuestionError(ValueError):
    """A question that cannot be asked of a target, or two implementations that cannot be compared; one line."""


@attrs.frozen
class Claim:
    """The target's own claim."""


@attrs.frozen
class Judge:
    """Whether an implementation keeps the target's contract.

    ``implementation`` is a name (see diffuzz.judging.opening), such as ``FILE.py:FUNCTION``, which is loaded and called
    in a process of its own, where one call may take ``timeout`` seconds; or a function, called in this process.
    ``name`` is what messages and entries call it. ``arrays`` and ``device`` say what a function of Python is called
    with (see diffuzz.judging.handing); None is what an entry recorded, where one is replayed, or else arrays of NumPy.

    Raises HandingError for arrays and devices that there are none of.
    """

    implementation: str | Function
    timeout: float = attrs.field(default=10.0, kw_only=True)
    arrays: str | None = attrs.field(default=None, kw_only=True)
    device: str | None = attrs.field(default=None, kw_only=True)
    name: str = attrs.field(kw_only=True)

    @name.default
    def _named(self) -> str:
        if isinstance(self.implementation, str):
            # The name of a file may be any bytes.
            return escaped(self.implementation)
        return str(getattr(self.implementation, "__name__", CANDIDATE))

    def __attrs_post_init__(self) -> None:
        if self.arrays is None and self.device is not None:
            # It may be for the arrays that an entry recorded.
            Handing("torch", self.device)
        else:
            _handing(self)

    @property
    def handing(self) -> Handing:
        """What the function is called with. Raises HandingError for a device that has no arrays of NumPy."""
        return _handing(self)

    def as_recorded(self, handing: Handing) -> Judge:
        """The same, with what an entry recorded where nothing else is asked for."""
        if self.arrays not in (None, handing.arrays):
            return self
        return attrs.evolve(self, arrays=handing.arrays, device=self.device or handing.device)


@attrs.frozen
class Compare:
    """How far apart the kernels ``a`` and ``b`` are.

    ``library`` is the folder or file that ``libggml`` stands for. One of the two may be ``"candidate"``: the
    implementation of ``candidate``.
    """

    a: str
    b: str
    library: str | None = None
    candidate: Judge | None = attrs.field(default=None, kw_only=True)

    @property
    def kernels(self) -> tuple[str, str]:
        """The two, located: ``libggml@PATH`` where a library is given."""
        a, b = (kernels.located(name, self.library) for name in (self.a, self.b))
        return a, b

    @property
    def recorded(self) -> tuple[str, str]:
        """The two as an entry of the corpus names them: of a path, only its last part."""
        a, b = (kernels.unlocated(name) for name in self.kernels)
        return a, b


@attrs.frozen
class Keep:
    """Whether an implementation keeps ``properties`` (see diffuzz.judging.properties), all of them by default.

    ``implementation``, ``timeout``, ``arrays``, ``device`` and ``called``, its name, are those of a ``Judge``; or
    ``implementation`` is None, and ``kernels`` the name of an implementation of the operation. ``python -m diffuzz
    search --property`` asks it.

    Raises HandingError for arrays and devices that there are none of.
    """

    implementation: str | Function | None = None
    properties: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    kernels: str | None = attrs.field(default=None, kw_only=True)
    timeout: float = attrs.field(default=10.0, kw_only=True)
    arrays: str | None = attrs.field(default=None, kw_only=True)
    device: str | None = attrs.field(default=None, kw_only=True)
    called: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _handing(self)

    @property
    def handing(self) -> Handing:
        """What the function is called with."""
        return _handing(self)

    @property
    def name(self) -> str:
        """What messages call it."""
        if self.kernels is not None:
            return kernels.unlocated(self.kernels)
        if self.called is not None:
            return self.called
        return Judge(self.implementation).name if self.implementation is not None else CANDIDATE


def _handing(asked: Judge | Keep) -> Handing:
    """What a function is called with. Raises HandingError."""
    return Handing(NUMPY if asked.arrays is None else asked.arrays, CPU if asked.device is None else asked.device)


Question = Claim | Judge | Compare
