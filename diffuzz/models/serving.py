"""Serving: a Python function as an engine command; the protocol is in :mod:`diffuzz.models.driving`.

    python -m diffuzz.models.serving my_engine.py:run --model FILE --tokens 1780,314 --dump OUT.safetensors

The function is called as ``run(model: Path, tokens: list[int], patch: Dump | None, batches: list[int])``, the last two
only where they are used, and returns a Dump, or the arrays of its taps by name. What it prints to standard output is no
answer: it goes to standard error.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from diffuzz import registry
from diffuzz.escaping import unwrapped
from diffuzz.models import dump, model
from diffuzz.models.dump import Dump
from diffuzz.models.engines import EngineError, converted, takes_batches


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve as the arguments say; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m diffuzz.models.serving", allow_abbrev=False)
    parser.add_argument("function", help="MODULE:FUNCTION or FILE.py:FUNCTION")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=lambda text: [int(token) for token in text.split(",")])
    parser.add_argument("--dump", type=Path)
    parser.add_argument("--patch", type=Path)
    parser.add_argument("--batches", type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--describe", action="store_true")
    given = parser.parse_args(arguments)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        function = _located(given.function)
        options = dict(each.split("=", 1) for each in given.option)
        run = functools.partial(function, **converted(given.function, function, options))
        if given.describe:
            print(json.dumps(_description(given.function, run)), file=answers, flush=True)
        elif given.serve and given.model:
            _serve(given.function, run, given.model, answers.write, answers.flush)
        elif given.model and given.tokens and given.dump:
            found = _ran(given.function, run, given.model, given.tokens, given.patch, given.batches)
            dump.write(given.dump, found)
        else:
            parser.error("give --model, --tokens and --dump, or --model and --serve, or --describe")
    except Exception as error:  # a function of somebody else may fail in any way
        print(_said(error), file=sys.stderr)
        return 1
    return 0


def _serve(
    name: str, run: Callable[..., object], path: Path, write: Callable[[str], object], flush: Callable[[], object]
) -> None:
    for line in sys.stdin:
        try:
            asked = json.loads(line)
            patch = None if asked.get("patch") is None else Path(asked["patch"])
            found = _ran(name, run, path, asked["tokens"], patch, asked.get("batches"))
            dump.write(Path(asked["dump"]), found)
            answer: dict[str, object] = {"ok": True}
        except Exception as error:
            answer = {"ok": False, "error": _said(error)}
        write(json.dumps(answer) + "\n")
        flush()


def _ran(
    name: str,
    run: Callable[..., object],
    path: Path,
    tokens: list[int],
    patch: Path | None,
    batches: list[int] | None,
) -> Dump:
    given: dict[str, object] = {} if patch is None else {"patch": dump.read(patch)}
    if batches:
        if not takes_batches(run):
            raise EngineError(f"{name} has no parameter batches, so it runs all tokens at once")
        given["batches"] = batches
    found = run(path, tokens, **given)
    if isinstance(found, Dump):
        return found
    if not isinstance(found, Mapping):
        raise EngineError(f"a Dump, or arrays by name, are needed; {name} returned a {type(found).__name__}")
    opened = model.open(path)
    metadata = {
        "format": dump.FORMAT,
        "version": dump.VERSION,
        "engine": name,
        "arch": opened.architecture,
        "model_sha256": opened.sha256,
    }
    return Dump(
        metadata=metadata,
        tokens=np.asarray(tokens, np.int32),
        positions=np.arange(len(tokens), dtype=np.int32),
        taps={str(tap): np.asarray(array) for tap, array in found.items()},
    )


def _located(text: str) -> Callable[..., object]:
    """The function that ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION`` names."""
    place, _, name = text.rpartition(":") if not text.endswith(".py") else (text, "", "run")
    if place.endswith(".py"):
        module = registry.load_file(Path(place), f"engine {text}")
    else:
        module = importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise EngineError(f"{place} has no function {name!r:.80}")
    found: Callable[..., object] = function
    return found


def _description(name: str, run: Callable[..., object]) -> dict[str, object]:
    return {"engine": name, "patches": "patch" in inspect.signature(run).parameters}


def _said(error: Exception) -> str:
    if isinstance(error, (EngineError, registry.RegistryError, model.ModelError)):
        return unwrapped(str(error))
    return registry.located(error)


if __name__ == "__main__":
    # As for `python -m diffuzz`: a torch.py in the working directory hides no library.
    if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
        sys.path.append(sys.path.pop(0))
    sys.exit(main())
