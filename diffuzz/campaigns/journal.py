"""The journal of a campaign: what was done, one line of JSON for each slice, appended and never changed.

Each line ends with a checksum of the rest, so that what a crash has cut short, or a disk has spoilt, is seen: such a
line counts for nothing: its slice is done again, and it is said. Lines reach the disk in batches, once a second and at
the end; a process that is killed loses none, a machine that loses power those of the last second.

Each shard has a journal of its own, ``journal-2-of-8.jsonl``, in the folder that they share; whoever writes to one has
locked it. Slices that were done in another number of shards count, too. Records have the time at which they were added.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import attrs

try:
    import fcntl
except ImportError:  # Windows, where a second campaign in one folder is not noticed
    fcntl = None  # type: ignore[assignment]

Record = dict[str, Any]
SCHEMA = 1
# Stands for numbers that JSON does not have.
_NUMERAL = type(None)
_WORD, _WHOLE, _NUMBER, _VALUE = (str,), (int,), (int, float), (int, float, _NUMERAL)
# By kind, what a record has, and what it may have.
_NEEDS: dict[str, tuple[dict[str, tuple[type, ...]], dict[str, tuple[type, ...]]]] = {
    "begin": ({"night": _WHOLE, "seed": _WHOLE}, {"baseline": _WORD, "time": _NUMBER}),
    "end": ({"night": _WHOLE}, {"time": _NUMBER}),
    "witness": ({"job": _WORD, "witness": _WORD}, {"mechanism": _WORD, "time": _NUMBER}),
    "slice": (
        {
            "job": _WORD, "title": _WORD, "night": _WHOLE, "round": (int, str), "seconds": _NUMBER, "spent": _NUMBER,
            "evaluations": _WHOLE, "status": _WORD,
        },
        {
            "of": _WORD, "value": _VALUE, "kept": _VALUE, "bound": _VALUE, "threshold": _VALUE, "verdict": _WORD,
            "judges": (bool,), "finding": (bool,), "stopped": _WORD, "witness": _WORD, "state": _WORD, "why": _WORD,
            "failure": _WORD, "agreement": _WORD, "mechanism": _WORD, "command": _WORD, "code": _WHOLE,
            "before": (dict,), "beside": (bool,), "unsaved": _WORD, "time": _NUMBER,
        },
    ),
}  # fmt: skip
_NAME = re.compile(r"journal-([0-9]+)-of-([0-9]+)\.jsonl")
_EACH = 1.0
_LONGEST_LINE = 2**24


class JournalError(ValueError):
    """A journal that cannot be read or written; one line with the file, and what to do."""


def name(shard: int, shards: int) -> str:
    """The name of the file of a shard."""
    return f"journal-{shard}-of-{shards}.jsonl"


def line(record: Record) -> str:
    """A record as its line."""
    text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    return f'{text[:-1]},"sum":"{_sum(text)}"}}\n'


def _sum(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def parsed(text: str) -> Record | None:
    """The record of a line; None for one that is not whole."""
    body, mark, rest = text.rpartition(',"sum":"')
    if not mark or not rest.endswith('"}') or _sum(body + "}") != rest.removesuffix('"}'):
        return None
    try:
        found = json.loads(body + "}")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and is_record(found) else None


def is_record(found: Record) -> bool:
    """Whether a record has what one of its kind needs, of the right types: a journal may come from anywhere."""
    wanted, perhaps = _NEEDS.get(str(found.get("kind")), (None, {}))
    if found.get("kind") == "slice" and not (
        (isinstance(found.get("round"), int) or found.get("round") == "final")
        and (found.get("status") != "searched" or isinstance(found.get("stopped"), str))
    ):
        return False
    return (
        wanted is not None
        and all(_is(found.get(name), kinds) for name, kinds in wanted.items())
        and all(found.get(name) is None or _is(found[name], kinds) for name, kinds in perhaps.items())
    )


def _is(value: object, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, str) and _NUMERAL in kinds:
        return value in ("inf", "-inf", "nan")
    return isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)


@attrs.frozen
class Read:
    """The records of a file, in order, and the numbers of the lines that are not whole."""

    records: tuple[Record, ...]
    broken: tuple[int, ...] = ()


def read(path: Path) -> Read:
    """The records of a journal; none of one that is not there. Raises JournalError."""
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except FileNotFoundError:
        return Read(())
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error


def _read(file: IO[bytes], path: Path) -> Read:
    found: list[Record] = []
    broken: list[int] = []
    number = 0
    while text := file.readline(_LONGEST_LINE):
        number += 1
        record = parsed(text.decode("utf-8", "replace").removesuffix("\n")) if text.endswith(b"\n") else None
        if record is None:
            broken.append(number)
            continue
        if record.get("schema", SCHEMA) != SCHEMA:
            raise JournalError(f"{path}: is of another version of diffuzz (schema {record['schema']})")
        found.append(record)
    return Read(tuple(found), tuple(broken))


def all_of(folder: Path) -> dict[tuple[int, int], Path]:
    """The journals of a folder, by shard and number of shards, in this order. Raises JournalError."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise JournalError(f"{folder}: {error.strerror}") from error
    found = [(match, entry) for entry in names if (match := _NAME.fullmatch(entry))]
    return dict(sorted(((int(match[1]), int(match[2])), folder / entry) for match, entry in found))


@attrs.define(eq=False)
class Journal:
    """A journal that is written to. Used in a with statement. Raises JournalError where it cannot be, or another
    process writes to it.
    """

    path: Path
    before: Read = attrs.field(init=False)
    _file: IO[bytes] = attrs.field(init=False)
    _synced: float = attrs.field(init=False, factory=time.monotonic)
    _behind: bool = attrs.field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            self._file = os.fdopen(os.open(self.path, flags, 0o644), "ab")
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be written ({error.strerror}); choose another folder") from error
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._file.close()
                raise JournalError(
                    f"{self.path}: another process writes to it; wait for it, or choose another folder or shard"
                ) from error
        try:
            # What a crash has cut short is no line, and the next one must not become a part of it.
            text = self.path.read_bytes()
            self._file.truncate(text.rfind(b"\n") + 1)
            self.before = read(self.path)
        except OSError as error:
            self._file.close()
            raise JournalError(f"{self.path}: cannot be written ({error.strerror}); choose another folder") from error

    def add(self, record: Record) -> None:
        """Append a record. Raises JournalError."""
        try:
            self._file.write(line(record | {"time": round(time.time(), 3)}).encode())
            self._file.flush()
            self._behind = True
            if time.monotonic() - self._synced > _EACH:
                self.sync()
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be written ({error.strerror})") from error

    def sync(self) -> None:
        """Have all that was appended reach the disk."""
        if not self._behind:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be written ({error.strerror})") from error
        self._synced, self._behind = time.monotonic(), False

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.sync()
        finally:
            # Nothing is in its buffer that did not fail before.
            with contextlib.suppress(OSError):
                self._file.close()


def read_all(folder: Path) -> dict[tuple[int, int], Read]:
    """What the journals of a folder have, by shard and number of shards. Raises JournalError."""
    return {place: read(path) for place, path in all_of(folder).items()}


def records_of(folder: Path) -> list[Record]:
    """The records of all journals of a folder in the order of time. Raises JournalError."""
    return sorted((record for found in read_all(folder).values() for record in found.records), key=_time)


def merged(found: Mapping[tuple[int, int], Read], shard: int, shards: int) -> list[Record]:
    """The records of a shard's own journal, and the slices of all others, as those of a night before all its own: other
    numbers of shards may have done them, or plans of other jobs. In the order of time.
    """
    own = found[shard, shards].records
    others = [
        record | {"night": 0, "was": record["night"]}
        for place, one in found.items()
        if place != (shard, shards)
        for record in one.records
        if record["kind"] == "slice"
    ]
    return sorted([*own, *others], key=_time)


def _time(record: Record) -> float:
    return float(record.get("time", 0.0))
