"""The corpus: one readable JSON file per witness, ``corpus/<target>/<digest12>.json``, that any later run can measure
again.

What a file holds is in diffuzz.corpus.entry. One that cannot be read, or not trusted, is a CorpusError of one line; so
is an entry that could not be loaded again, before it is saved. Files are written beside their place and renamed into
it.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from diffuzz.cases.case import Case
from diffuzz.cases.text import printable
from diffuzz.corpus.entry import Counterexample, NeedsFileError, dumps, loads

# Parsing JSON takes up to thirty times the memory of its text.
LARGEST_FILE = 2**24
# Two cases have one mechanism if each array has the same number of distinct values, or this many in both.
MANY = 8
_LONGEST_REASON = 300


class CorpusError(ValueError):
    """A corpus file that cannot be read, trusted or written; one line with the file, the field, and what to do."""


def load(path: Path) -> Counterexample:
    """The entry in a file. Raises CorpusError, or NeedsFileError, one line."""
    if path.suffix not in (".json", ""):
        raise CorpusError(f"{path}: is no corpus entry; a corpus entry (.json), or a folder of them, is needed")
    text = _read_text(path)
    try:
        return loads(text, path.stem)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: {reason(error)}; restore the file, or delete it and search again") from error


def reason(error: BaseException) -> str:
    """An error as one line that a terminal can show, however hostile the text that it quotes."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON, or cut short (line {error.lineno}: {error.msg})"
    line = printable(" ".join(str(error).split()))
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "..."


def _read_text(path: Path) -> str:
    try:
        check_regular(path)
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
        if len(raw) > LARGEST_FILE:
            raise CorpusError(f"{path}: larger than {LARGEST_FILE} bytes, so no corpus entry")
        return raw.decode("utf-8")
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or reason(error)}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text (byte {error.start}); restore the file, or delete it") from error


def check_regular(path: Path) -> None:
    # Before it is opened: opening a named pipe would wait for a writer.
    if not stat.S_ISREG(path.stat().st_mode):
        raise CorpusError(f"{path}: is no regular file; name a corpus entry (.json) or a file of arrays")


def check_writable(directory: Path) -> None:
    """Raise CorpusError now, rather than after a search, if nothing can be saved in ``directory``."""
    existing = next(p for p in (directory, *directory.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise CorpusError(f"{directory}: cannot be written; choose another folder with --corpus, or --no-save")


def save(entry: Counterexample, directory: Path, *, always: bool = False) -> Path:
    """Write an entry to ``directory`` and return its path, or that of the entry there to which it adds nothing.

    An entry adds something unless the corpus has one of the same target, parameters, candidate and kernels with at
    least its value, by the same mechanism (see ``mechanism``). ``always`` writes it anyway. Raises CorpusError if it
    cannot be written, or could not be loaded again.
    """
    path = directory / entry.name
    known = None if always else _as_good(entry, directory)
    if known is not None:
        return known
    text = _checked_text(entry, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(text, path)
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be written ({error.strerror}); choose another folder with --corpus"
        ) from error
    return path


def _checked_text(entry: Counterexample, path: Path) -> str:
    try:
        text = dumps(entry) + "\n"
        if len(text) > LARGEST_FILE:
            raise ValueError(f"it has {len(text)} bytes, where {LARGEST_FILE} may be loaded; search smaller shapes")
        loads(text, path.stem)
    except ValueError as error:
        raise CorpusError(f"{path}: not saved, because it could not be loaded again: {reason(error)}") from error
    return text


def _write(text: str, path: Path) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _as_good(entry: Counterexample, directory: Path) -> Path | None:
    """An entry of the corpus that leaves nothing to add, or None."""
    key = (dict(entry.params), entry.candidate, entry.kernels, mechanism(entry.case))
    for path in files([directory / entry.target]) if (directory / entry.target).is_dir() else ():
        try:
            other = load(path)
        except (CorpusError, NeedsFileError):
            # What cannot be read here is of another target, format or kernels, or of none.
            continue
        same = (dict(other.params), other.candidate, other.kernels, mechanism(other.case)) == key
        if same and other.value >= entry.value:
            return path
    return None


def mechanism(case: Case) -> tuple[tuple[str, int], ...]:
    """What makes two witnesses alike: by array, the number of distinct values, capped at MANY."""
    return tuple((name, min(MANY, len(np.unique(array)))) for name, array in case.arrays.items())


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The corpus files that ``paths`` name: files as they are, folders with every ``.json`` below them, sorted.

    Raises CorpusError for a path that does not exist.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(_below(path))
        elif path.exists():
            yield path
        else:
            raise CorpusError(f"{path}: there is no such file or folder")


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        # A folder that cannot be listed would otherwise be skipped without a word.
        raise CorpusError(f"{error.filename}: {error.strerror}") from error

    for at, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(at, name) for name in names if name.endswith(".json") and not name.startswith("."))
