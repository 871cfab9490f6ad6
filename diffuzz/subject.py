"""What a search, a replay or the minimiser is about: a target as it is, with a candidate, or with two of its kernels.

subject = Subject.of(target, params, candidate=None, kernels=("ggml", "libggml"))
subject.target, subject.failure, subject.environment()
"""

from __future__ import annotations

from pathlib import Path

import attrs

from diffuzz import kernels as modules
from diffuzz.candidate import Candidate, with_candidate
from diffuzz.pair import CANDIDATE, PairError, with_pair
from diffuzz.target import Params, Target
from diffuzz.worker import Failure

Kernels = tuple[str, str]


class MissingKernelsError(ImportError):
    """Kernels that are not here, and what to do to have them; one line."""


@attrs.define
class Subject:
    """``target`` is what is evaluated; ``failure`` the last one of an implementation in a process of its own."""

    target: Target
    kernels: Kernels | None = None
    candidate: Candidate | None = None
    _failure: str | None = None

    @classmethod
    def of(
        cls,
        target: Target,
        params: Params,
        *,
        candidate: Candidate | None = None,
        kernels: Kernels | None = None,
        library: str | None = None,
        recorded: bool = False,
    ) -> Subject:
        """The subject; ``library`` is the folder or file that ``libggml`` stands for.

        The kernels are ``recorded`` if an entry names them: ``libggml@...`` is then no place, and needs ``library``.

        Raises CandidateError, PairError, MissingKernelsError, ValueError (no such library): one line each.
        """
        if kernels is None:
            return cls(target if candidate is None else with_candidate(target, params, candidate), None, candidate)
        if candidate is not None and CANDIDATE not in kernels:
            raise PairError(f"kernels {','.join(kernels)}: name {CANDIDATE} as one of them, or give no --candidate")
        subject = cls(target, kernels, candidate)

        def remember(name: str, failure: Failure) -> None:
            subject._failure = f"{name} {failure}"

        names = [_located(name, library, recorded) for name in kernels]
        try:
            subject.target = with_pair(target, params, *names, candidate=candidate, on_failure=remember)
        except ImportError as error:
            raise MissingKernelsError(str(error)) from error
        subject.kernels = (names[0], names[1])
        return subject

    @property
    def failure(self) -> str | None:
        """How the candidate, or which of the two kernels and how, failed last; None if none did."""
        if self.kernels is None and self.candidate is not None and self.candidate.failure is not None:
            return str(self.candidate.failure)
        return self._failure

    @property
    def passing(self) -> str | None:
        """A failure of the candidate that did not come again."""
        return None if self.candidate is None or self.candidate.passing is None else str(self.candidate.passing)

    def environment(self) -> dict[str, str]:
        """Version, compiler and CPU features of each library that took part, from the library itself."""
        found = {}
        for name in self.kernels or ():
            if name.partition("@")[0].partition(":")[0] == "libggml":
                about = modules.get(name).about()
                found[unlocated(name)] = f"{about['version']}; {about['compiler']}; {about['features']}"
        return found


def unlocated(name: str) -> str:
    """A name as it is written into an entry: of a path, only its last part."""
    name, at, path = name.partition("@")
    return f"{name}@{Path(path).name}" if at else name


def _located(name: str, library: str | None, recorded: bool) -> str:
    base, at, _ = name.partition("@")
    if base.partition(":")[0] != "libggml" or (library is None and not at):
        return name
    if library is not None:
        return f"{base}@{library}"
    if recorded:
        raise MissingKernelsError(f"kernels {name}: give the folder of that library with --library")
    return name
