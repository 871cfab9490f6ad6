"""Questions: what is asked of a target. Plain data; :func:`diffuzz.judging.problem.open_problem` opens one.

Claim     the target's own claim, "value > T on this domain"
Judge     does a user's function keep the contract of the operation?
Compare   how far apart are two implementations of the operation, and does rounding explain it?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs

from diffuzz import kernels
from diffuzz.escaping import escaped
from diffuzz.formats.arrays import AnyArray

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
    ``name`` is what messages and entries call it.
    """

    implementation: str | Function
    timeout: float = attrs.field(default=10.0, kw_only=True)
    name: str = attrs.field(kw_only=True)

    @name.default
    def _named(self) -> str:
        if isinstance(self.implementation, str):
            # The name of a file may be any bytes.
            return escaped(self.implementation)
        return str(getattr(self.implementation, "__name__", CANDIDATE))


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


Question = Claim | Judge | Compare
