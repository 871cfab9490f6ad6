"""What the fixture ``diffuzz`` of the pytest plugin gives to a test: a search, and the line that makes it again."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from diffuzz import targets
from diffuzz.corpus.record import Keeper, command_of
from diffuzz.escaping import escaped
from diffuzz.judging.handing import CPU, NUMPY, Handing
from diffuzz.judging.question import Function, Judge
from diffuzz.judging.tolerance import assert_within_bound
from diffuzz.judging.verdict import Verdict
from diffuzz.registry import RegistryError
from diffuzz.searching.check import searched, witness_text
from diffuzz.searching.result import SearchResult
from diffuzz.targets.operation import Operation
from diffuzz.targets.target import Target

_SECONDS = 5.0


@attrs.frozen
class Searches:
    """The searches of the test with the id ``test``.

    ``budget`` is the time in seconds of each, in the place of what the test says, and so is ``device`` for arrays of
    torch and jax; ``corpus`` is the folder that witnesses are saved in, if there is one. The time is that of one check
    and not of all: so a test that failed finds the same when it runs alone.
    """

    test: str
    budget: float | None = None
    corpus: Path | None = None
    device: str | None = None

    def check(
        self,
        implementation: Function | str,
        operation: Operation | Target | str,
        *,
        seconds: float = _SECONDS,
        seed: int = 0,
        params: Mapping[str, object] | None = None,
        arrays: str = NUMPY,
        device: str = CPU,
    ) -> None:
        """Search for an input on which ``implementation`` leaves the error bound of ``operation``; see diffuzz.check.

        Raises AssertionError with the minimised witness and the lines that find and replay it; ValueError, one line,
        for arguments that do not fit.
        """
        __tracebackhide__ = True
        place = implementation if isinstance(implementation, str) else _place(implementation)
        if self.device is not None and Handing(arrays).packages:
            device = self.device
        judge = Judge(implementation, arrays=arrays, device=device)
        judge = judge if place is None else attrs.evolve(judge, name=escaped(place))
        seconds = seconds if self.budget is None else self.budget
        result = searched(judge, operation, seconds=seconds, seed=seed, params=params)
        if result.verdict is not Verdict.CONFIRMED:
            return
        named = _named(result, operation)
        again = f"search again:  python -m pytest {shlex.quote(escaped(self.test))} --diffuzz-budget {seconds:g}"
        lines = [witness_text(result), "", again]
        if place is not None and named is not None:
            lines.append(f"               {command_of(named)}")
        raise AssertionError("\n".join([*lines, *self._saved(named, place)]))

    def assert_within_bound(self, got: object, f: Callable[..., Any] | Operation, *inputs: object, **how: Any) -> None:
        """diffuzz.assert_within_bound: raise AssertionError, one line, unless ``got`` is ``f(*inputs)`` up to what the
        arithmetic allows.
        """
        __tracebackhide__ = True
        assert_within_bound(got, f, *inputs, **how)

    def _saved(self, result: SearchResult | None, place: str | None) -> list[str]:
        """Save the witness; where it is, and the line that replays it."""
        if self.corpus is None:
            return ["save it:       --diffuzz-corpus DIR"]
        if result is None:
            return ["not saved:     the operation is not one that a file has as FILE.py:NAME"]
        if not result.replays:
            return ["not saved:     it does not have its value again"]
        keeper = Keeper(self.corpus)
        path = keeper(result)
        if path is None:
            return [f"not saved:     {reason}" for reason in keeper.failures]
        # A function that nothing names can be put into a file.
        name = shlex.quote(place or f"{result.candidate}=FILE.py:FUNCTION")
        words = f"python -m diffuzz replay {shlex.quote(escaped(str(path)))} --candidate {name}"
        source = targets.REGISTRY.source(result.target.name)
        return [f"replay:        {words}" + (f" --target {shlex.quote(source)}" if source else "")]


def _place(function: Function) -> str | None:
    """``FILE.py:FUNCTION`` of a function that is the one of that name in its module; None of any other."""
    name, module = getattr(function, "__name__", ""), sys.modules.get(getattr(function, "__module__", None) or "")
    file = getattr(module, "__file__", None) or ""
    if getattr(module, name, None) is not function or not file.endswith(".py") or not name.isidentifier():
        return None
    return f"{_near(file)}:{name}"


def _near(file: str) -> str:
    """A file as it is named from here, if it is below."""
    try:
        near = os.path.relpath(file)
    except (OSError, ValueError):
        # No working directory, or another drive.
        return file
    return file if near.startswith(os.pardir) else near


def _named(result: SearchResult, operation: Operation | Target | str) -> SearchResult | None:
    """The result, of a target that has its name in another process, too: an operation of a file is loaded from there.

    None where there is no such name.
    """
    name = result.target.name
    if isinstance(operation, str) or (targets.REGISTRY.known(name) and targets.get(name) is result.target):
        return result
    if not isinstance(operation, Operation) or (place := _place_of(operation)) is None:
        return None
    try:
        target = targets.get(targets.load(place))
    except RegistryError:
        return None
    return attrs.evolve(result, problem=attrs.evolve(result.problem, target=target))


def _place_of(operation: Operation) -> str | None:
    """``FILE.py:NAME`` of an operation, which has the place of its function in the module."""
    module, name = sys.modules.get(operation.function.__module__), operation.function.__name__
    file = getattr(module, "__file__", None) or ""
    return f"{_near(file)}:{name}" if getattr(module, name, None) is operation and file.endswith(".py") else None
