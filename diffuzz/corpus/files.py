"""The corpus: one readable JSON file per witness, ``corpus/<target>/<digest12>.json``, that any later run can measure
again.

What a file holds is in diffuzz.corpus.entry, or of a property in diffuzz.corpus.lost. One that cannot be read, or not
trusted, is a CorpusError of one line; so is an entry that could not be loaded again, before it is saved. Files are
written beside their place and renamed into it; what a process that was killed has left there is removed by a later one.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from diffuzz.cases.case import Case
from diffuzz.corpus import lost
from diffuzz.corpus.entry import Counterexample, EditedError, dumps, loads, of_json
from diffuzz.corpus.lost import Lost
from diffuzz.corpus.strict import SCHEMA, NeedsFileError, checked_length, parsed
from diffuzz.escaping import unwrapped
from diffuzz.replacing import replace

# Parsing JSON takes up to thirty times the memory of its text.
LARGEST_FILE = 2**24
# Two cases have one mechanism if each array has the same number of distinct values, or this many in both.
MANY = 8
_LONGEST_REASON = 300
# A file that is being written is ".DIGEST12.PID.RANDOM.tmp", and was ".DIGEST12.RANDOM.tmp" in version 0.1.
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}(?:\.(?P<pid>[0-9]{1,10})\.[0-9a-f]{8}|\.[0-9a-z_]{8})\.tmp")
# Seconds. Writing takes less than the first, so that the process is gone, and not one of another machine with the same
# disk; after the second it does not matter which.
_WRITTEN, _FORGOTTEN = 60.0, 86400.0


class CorpusError(ValueError):
    """A corpus file that cannot be read, trusted or written; one line with the file, the field, and what to do."""


class SealError(CorpusError):
    """A file whose entry was edited after it was saved: all is as it must be but the seal; ``entry`` as it is now."""

    def __init__(self, message: str, entry: Counterexample) -> None:
        super().__init__(message)
        self.entry = entry


def load(path: Path) -> Counterexample:
    """The entry in a file, of a value. Raises CorpusError (SealError where nothing but the seal is wrong), or
    NeedsFileError, one line.
    """
    entry = load_any(path)
    if isinstance(entry, Lost):
        raise CorpusError(f"{path}: is about the property {entry.name}, and has no case; show and replay take it")
    return entry


def load_any(path: Path) -> Counterexample | Lost:
    """The entry in a file, whether of a value or of a property. Raises what ``load`` raises."""
    if path.suffix not in (".json", ""):
        raise CorpusError(f"{path}: is no corpus entry; a corpus entry (.json), or a folder of them, is needed")
    text = _read_text(path)
    try:
        stored = parsed(text)
        return lost.of_json(stored, path.stem) if lost.is_lost(stored) else of_json(stored, path.stem)
    except EditedError as error:
        raise SealError(f"{path}: {error}; restore the file, or delete it and search again", error.entry) from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: {reason(error)}; restore the file, or delete it and search again") from error


def candidate_of(path: Path) -> str | None:
    """The name of the candidate that the entry in a file recorded; None without one, and for what is no entry."""
    try:
        stored = json.loads(checked_length(_read_text(path)))
    except (ValueError, RecursionError):
        return None
    found = stored.get("candidate") if isinstance(stored, dict) else None
    return found if isinstance(found, str) else None


def reason(error: BaseException) -> str:
    """An error as one line that a terminal can show, however hostile the text that it quotes."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON, or cut short (line {error.lineno}: {error.msg})"
    line = unwrapped(str(error))
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "..."


def _read_text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            raw = file.read(LARGEST_FILE + 1)
        if len(raw) > LARGEST_FILE:
            raise CorpusError(f"{path}: larger than {LARGEST_FILE} bytes, so no corpus entry")
        return raw.decode("utf-8")
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or reason(error)}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text (byte {error.start}); restore the file, or delete it") from error


def open_regular(path: Path) -> BinaryIO:
    """The file at ``path``, opened for reading. Raises CorpusError for a folder, a pipe or a device; OSError.

    What was opened is looked at, and not what had the name before. A named pipe is opened without waiting for who
    would write to it.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise CorpusError(f"{path}: is a folder, and no regular file; name a file in it")
    raise CorpusError(f"{path}: is no regular file")


def check_writable(directory: Path) -> None:
    """Raise CorpusError now, rather than after a search, if nothing can be saved in ``directory``."""
    existing = next(p for p in (directory, *directory.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise CorpusError(f"{directory}: cannot be written; choose another folder with --corpus, or --no-save")


def save(entry: Counterexample, directory: Path, *, always: bool = False) -> Path:
    """Write an entry to ``directory`` and return its path, or that of the entry there to which it adds nothing.

    An entry adds something unless the corpus has one of the same target, parameters, candidate, kernels and weights of
    a model with at least its value, by the same mechanism (see ``mechanism``). ``always`` writes it anyway. Raises
    CorpusError if it cannot be written, or could not be loaded again.
    """
    try:
        path = directory / entry.name
    except KeyError as error:
        # Without it nobody knows which arrays a case has.
        raise CorpusError(
            f"{directory}: not saved, because it could not be loaded again: params: {error} is missing"
        ) from error
    known = None if always else _as_good(entry, directory)
    if known is not None:
        return known
    _put(_checked_text(entry, path), path)
    return path


def save_lost(entry: Lost, directory: Path) -> Path:
    """Write an entry of a property to ``directory`` and return its path. Raises CorpusError."""
    path = directory / entry.path
    text = lost.dumps(entry) + "\n"
    try:
        lost.loads(text, path.stem)
    except (ValueError, NeedsFileError) as error:
        raise CorpusError(f"{path}: not saved, because it could not be loaded again: {reason(error)}") from error
    _put(text, path)
    return path


def lost_like(entry: Lost, directory: Path) -> Iterator[tuple[Path, Lost]]:
    """The entries of ``directory`` to which ``entry`` adds nothing, if they still show: the same is lost in calls that
    are no larger.
    """
    folder = directory / entry.target
    for path in files([folder]) if folder.is_dir() else ():
        try:
            known = load_any(path)
        except (CorpusError, NeedsFileError):
            continue
        if isinstance(known, Lost) and known.is_at_least(entry):
            yield path, known


def _put(text: str, path: Path) -> None:
    """Raises CorpusError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(text, path)
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be written ({error.strerror}); choose another folder with --corpus"
        ) from error


def upgrade(path: Path) -> bool:
    """Write the entry in a file again, in the current schema, if it is of an older one; whether it was.

    Nothing else changes: what was recorded stays as it is. Raises CorpusError, NeedsFileError.
    """
    entry = load_any(path)
    if isinstance(entry, Lost) or entry.schema == SCHEMA:
        return False
    text = _checked_text(entry, path)
    try:
        _write(text, path)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be written ({error.strerror})") from error
    return True


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
    _remove_stale(path.parent)
    temporary = f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    replace(path, (text.encode(),), temporary=temporary, mode=0o644)


def _remove_stale(folder: Path) -> None:
    """Remove what a process that was killed while it wrote to ``folder`` has left there."""
    try:
        found = [(path, match) for path in folder.iterdir() if (match := _TEMPORARY.fullmatch(path.name))]
    except OSError:
        # A folder may be written to, and not listed.
        return
    for path, match in found:
        # Another process may be removing the same.
        with suppress(OSError):
            age = time.time() - path.lstat().st_mtime
            if age > _FORGOTTEN or (age > _WRITTEN and match["pid"] is not None and not _runs(int(match["pid"]))):
                path.unlink()


def _runs(pid: int) -> bool:
    """Whether there is a process of this number on this machine, as far as can be told."""
    if os.name != "posix":
        # There kill would end it.
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def add(path: Path, directory: Path) -> tuple[Path, bool]:
    """The entry in a file, in ``directory`` too, byte for byte, and True; or the entry there to which it adds nothing,
    and False. Raises CorpusError, also where something else has its place; NeedsFileError.
    """
    entry = load_any(path)
    place = directory / (entry.path if isinstance(entry, Lost) else entry.name)
    if isinstance(entry, Counterexample) and (known := _as_good(entry, directory)) is not None:
        return known, False
    if os.path.lexists(place):
        # Raises CorpusError for what is no entry. Of another one the digest would be another, and so would its name.
        load_any(place)
        return place, False
    _put(_read_text(path), place)
    return place, True


def _as_good(entry: Counterexample, directory: Path) -> Path | None:
    """An entry of the corpus that leaves nothing to add, or None."""
    key = _likeness(entry)
    for path in files([directory / entry.target]) if (directory / entry.target).is_dir() else ():
        try:
            other = load_any(path)
        except (CorpusError, NeedsFileError):
            # What cannot be read here is of another target, format or kernels, or of none.
            continue
        if isinstance(other, Counterexample) and _likeness(other) == key and other.value >= entry.value:
            return path
    return None


def _likeness(entry: Counterexample) -> tuple[object, ...]:
    """What two entries have in common of which the one with the larger value is enough."""
    # A witness that shows every time, alone, says more than one that needs company or chance.
    sort = (entry.company is None, entry.chance is None)
    engine = None if entry.result is None else entry.result.engine
    weights = entry.found.get("weights")
    return dict(entry.params), entry.candidate, entry.kernels, engine, mechanism(entry.case), sort, weights


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
