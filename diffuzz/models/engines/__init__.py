"""Engines: what runs a model file over tokens and says what it computed, one file for each, found by name.

    hf                       transformers and PyTorch
    hf:dtype=bfloat16        the same with an option; several are separated by commas
    llama.cpp                the real llama.cpp
    run:CMD ...              any command that keeps the protocol (diffuzz.models.driving)
    FILE.py:FUNCTION         a function run(model, tokens, patch=None) of a file (diffuzz.models.serving)

An engine is a module with

    def run(model: Path, tokens: Sequence[int], *, patch: Dump | None = None, batches: Sequence[int] = (),
            **options) -> Dump

With ``batches`` the tokens are run in batches of these sizes, one after the other, with a cache; the dump is of the
last batch, and has what the cache held before it in k_past and v_past. An engine may do without that.

Its options are keyword arguments with defaults, whose types say how the text of an option is read. One that loads a
model once for several runs also has

    def opened(model: Path, **options) -> AbstractContextManager[Running]

Engines of other packages are entry points of the group ``diffuzz.model_engines``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from diffuzz.registry import Registry, is_file_name

if TYPE_CHECKING:
    from diffuzz.models.dump import Dump

Run: TypeAlias = "Callable[..., Dump]"


class Running(Protocol):
    """An engine that has its model."""

    def run(self, tokens: Sequence[int], patch: Dump | None = None, batches: Sequence[int] = ()) -> Dump:
        """The dump of one run. Raises EngineError."""


class EngineError(ValueError):
    """An engine that is none, or that died, hung, printed garbage or wrote no dump; one line that names it."""


class MissingEngineError(EngineError, ImportError):
    """An engine whose package is not installed; one line that says how to install it."""


def _check(found: object) -> Run:
    if not callable(found):
        raise TypeError(f"a function run(model, tokens, *, patch=None) is needed, it is a {type(found).__name__}")
    return found


REGISTRY: Registry[Run] = Registry("engine", "diffuzz.model_engines", _check, folder=__name__, attribute="run")
# How users write the names of modules that are no names of their own.
_SPELLED = {"llama_cpp": "llama.cpp", "command": "run:COMMAND"}


def names() -> tuple[str, ...]:
    """What engines there are, as users write them."""
    return (*(_SPELLED.get(name, name) for name in REGISTRY.names()), "FILE.py:FUNCTION")


def get(text: str) -> Run:
    """The function ``run`` of the engine that a user names, with the options that come with the name.

    Raises EngineError for a name that nothing has, an option that the engine does not have, or a value of another type;
    RegistryError for an engine of a package that does not load.
    """
    run, options = _found(text)
    return functools.partial(run, **options)


@contextlib.contextmanager
def opened(text: str, model: Path, **options: object) -> Iterator[Running]:
    """The engine for several runs of one model, which it loads once if it can. Raises EngineError."""
    run, given = _found(text)
    opener = getattr(inspect.getmodule(run), "opened", None)
    if opener is None:
        yield _Anew(functools.partial(run, model, **given, **options))
        return
    with opener(model, **given, **options) as running:
        yield running


class _Anew:
    """An engine that has nothing to keep between two runs."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def run(self, tokens: Sequence[int], patch: Dump | None = None, batches: Sequence[int] = ()) -> Dump:
        return self._run(tokens, patch=patch, **({"batches": batches} if batches else {}))


def checked_batches(engine: str, tokens: Sequence[int], batches: Sequence[int], patch: Dump | None) -> tuple[int, ...]:
    """The sizes of the batches that ``tokens`` are run in: that of all where none are given. Raises EngineError."""
    sizes = tuple(batches) or (len(tokens),)
    if min(sizes) < 0 or sum(sizes) != len(tokens) or (batches and min(sizes) < 1):
        raise EngineError(f"engine {engine}: batches of {','.join(map(str, sizes))} are not all {len(tokens)} tokens")
    if patch is not None and len(sizes) > 1:
        raise EngineError(f"engine {engine}: a patch replaces the taps of a run in one batch")
    return sizes


def takes_batches(run: Callable[..., object]) -> bool:
    """Whether an engine runs tokens in several batches, as decoding steps are."""
    return "batches" in inspect.signature(run).parameters


def options_of(run: Callable[..., object]) -> dict[str, object]:
    """The options of an engine and their defaults."""
    parameters = inspect.signature(run).parameters.values()
    return {
        each.name: each.default
        for each in parameters
        if each.kind is each.KEYWORD_ONLY and each.default is not each.empty and each.name not in ("patch", "batches")
    }


def converted(engine: str, run: Callable[..., object], given: Mapping[str, str]) -> dict[str, object]:
    """Texts of options as values of the types of their defaults. Raises EngineError."""
    known = options_of(run)
    values: dict[str, object] = {}
    for key, text in given.items():
        if key not in known:
            offered = ", ".join(known) or "none"
            raise EngineError(f"engine {engine} has no option {key!r} (its options: {offered})")
        kind = type(known[key])
        if kind is bool and text in ("true", "false"):
            values[key] = text == "true"
            continue
        try:
            values[key] = {int: int, float: float, str: str}[kind](text)
        except (KeyError, ValueError) as error:
            wanted = {int: "an integer", float: "a number", bool: "true or false"}.get(kind, "an option")
            raise EngineError(f"engine {engine}: {key}={text!r:.80} is not {wanted}") from error
    return values


def _found(text: str) -> tuple[Run, dict[str, object]]:
    """The function of an engine, and the options that its name carries."""
    if text.startswith("run:"):
        return REGISTRY.get("command"), {"command": text.removeprefix("run:").strip()}
    if is_file_name(text):
        command = shlex.join((sys.executable, "-m", "diffuzz.models.serving", text))
        return REGISTRY.get("command"), {"command": command, "name": text}
    name, colon, settings = text.partition(":")
    module = {spelled: module for module, spelled in _SPELLED.items()}.get(name, name)
    # A command has no name but its words.
    if module == "command" or not REGISTRY.known(module):
        raise EngineError(f"there is no engine {name!r:.80} (engines: {', '.join(names())})")
    run = REGISTRY.get(module)
    return run, converted(name, run, dict(_setting(name, each) for each in settings.split(",")) if colon else {})


def _setting(engine: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key.strip() and equals):
        raise EngineError(f"engine {engine}: {text!r:.80} is no option; write {engine}:KEY=VALUE,KEY=VALUE")
    return key.strip(), value.strip()
