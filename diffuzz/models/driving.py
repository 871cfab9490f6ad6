"""Driving: an engine that is a command, in processes of its own.

    CMD --model FILE --tokens 1780,314 --dump OUT.safetensors [--patch IN.safetensors] [--batches 1,1]
                                        one run; exits with 0
    CMD --model FILE --serve            several: a request and an answer are one JSON object on a line each
                                        {"tokens": [1780, 314], "dump": PATH, "patch": PATH or null}
                                        and "batches": [1, 1], if they are not one
                                        {"ok": true} or {"ok": false, "error": TEXT}
    CMD --describe                      {"engine": TEXT, "taps": [NAME, ...], "patches": true or false}

Only the first is needed: a command that ends before it answers a first request is run anew for every run. Where a patch
is to be used, ``--describe`` is asked whether the engine takes patches; one that has no ``--describe`` is believed to.

Whatever goes wrong is an EngineError of one line. Nothing waits for a command without a deadline, and when a session is
closed, what its command has started ends as well (what stayed in its process group).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import attrs
import numpy as np

from diffuzz import interruption
from diffuzz.escaping import escaped, unwrapped
from diffuzz.kernels.process.files import last_lines, log_file
from diffuzz.models.engines import EngineError, checked_batches

if TYPE_CHECKING:
    from diffuzz.models.dump import Dump

# Seconds: loading a model of a few billion weights on a slow disk is the most of it.
TIMEOUT = 300.0
# Seconds between two looks at a process, for a process to end by itself, and for --describe.
_GLANCE, _ENDS_BY_ITSELF, _DESCRIBES = 0.02, 1.0, 60.0
# Bytes of an answer, and of what a command may print before it is cut.
_LONGEST_ANSWER, _MOST_OUTPUT = 2**16, 2**24
_LONGEST_QUOTE = 300


@attrs.define
class Session:
    """An engine command and one model.

    ``name`` is what messages call it; ``timeout`` is in seconds for one run, loading included; with ``several`` a
    process is kept, if the command has ``--serve``.
    """

    name: str
    command: tuple[str, ...]
    model: Path
    timeout: float = attrs.field(default=TIMEOUT, kw_only=True)
    several: bool = attrs.field(default=True, kw_only=True)
    _process: _Process | None = attrs.field(init=False, default=None)
    _answered: bool = attrs.field(init=False, default=False)
    _patches: bool | None = attrs.field(init=False, default=None)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one; the next run starts another."""
        self._end(_ENDS_BY_ITSELF)

    def _end(self, patience: float) -> None:
        if self._process is not None:
            self._process.close(patience)
            self._process = None

    def run(self, tokens: Sequence[int], patch: Dump | None = None, batches: Sequence[int] = ()) -> Dump:
        """The dump of one run over ``tokens``, in which the taps of ``patch`` replace those of the engine. Of
        ``batches`` see diffuzz.models.engines.

        Raises EngineError: no such command; it crashed, hung or refused; there is no dump, one that cannot be read, or
        one of other tokens; it takes no patches. Raises OSError where there is no room for the files.
        """
        from diffuzz.models import dump

        numbers = [int(token) for token in tokens]
        sizes = checked_batches(self.name, numbers, batches, patch)
        with tempfile.TemporaryDirectory(prefix="diffuzz-") as folder:
            written, patched = Path(folder, "dump.safetensors"), None
            if patch is not None:
                self._check_patches()
                patched = Path(folder, "patch.safetensors")
                try:
                    dump.write(patched, patch)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, str(patched)) from error
            if not (self.several and self._ask(numbers, written, patched, sizes)):
                self._run_once(numbers, written, patched, sizes)
            if not written.is_file():
                raise self._error("reports success, but wrote no dump")
            try:
                found = dump.read(written)
            except (ValueError, OSError) as error:
                raise self._error(f"its dump cannot be read: {unwrapped(str(error))}") from error
        wanted = numbers[len(numbers) - sizes[-1] :]
        if found.tokens.tolist() == numbers != wanted:
            raise self._error("runs all tokens at once, where it was asked for batches")
        if found.tokens.tolist() != wanted:
            raise self._error(f"its dump is one of other tokens: {_some(found.tokens)} instead of {_some(wanted)}")
        if found.positions[0] != len(numbers) - len(wanted):
            raise self._error(f"its dump begins at position {found.positions[0]}, and not {len(numbers) - len(wanted)}")
        return found

    def _run_once(self, tokens: list[int], written: Path, patched: Path | None, batches: tuple[int, ...]) -> None:
        words = ["--model", str(self.model), "--tokens", ",".join(map(str, tokens)), "--dump", str(written)]
        words += [] if patched is None else ["--patch", str(patched)]
        words += [] if len(batches) == 1 else ["--batches", ",".join(map(str, batches))]
        with self._started(*words) as process:
            code = process.ended(time.monotonic() + self.timeout)
            if code is None:
                raise self._error(self._late())
            if code:
                raise self._error(_end(code) + process.last_words())

    def _ask(self, tokens: list[int], written: Path, patched: Path | None, batches: tuple[int, ...]) -> bool:
        """One run of the process that is kept. False if the command ends without an answer to its first request."""
        request: dict[str, object] = {"tokens": tokens, "dump": str(written)}
        request["patch"] = None if patched is None else str(patched)
        if len(batches) > 1:
            request["batches"] = batches
        if self._process is None:
            self._process = self._started("--serve", "--model", str(self.model), serves=True)
        process = self._process
        try:
            line = process.answer(json.dumps(request), time.monotonic() + self.timeout)
            if line is None:
                raise self._error(self._late())
            answer = _answer(line)
            if answer is None:
                code = process.ended(time.monotonic() + _ENDS_BY_ITSELF)
                if not self._answered and code is not None:
                    self._end(0.0)
                    self.several = False
                    return False
                self._fail(line, code, process)
        except BaseException:
            self._end(0.0)
            raise
        self._answered = True
        if answer:
            raise self._error(answer)
        return True

    def _fail(self, line: bytes, code: int | None, process: _Process) -> NoReturn:
        if line:
            quoted = unwrapped(line[:_LONGEST_QUOTE].decode(errors="backslashreplace"))
            raise self._error(f'answered "{quoted}" where {{"ok": true}} or {{"ok": false, "error": ...}} is due')
        ended = "closed its standard output" if code is None else _end(code)
        raise self._error(f"{ended} before it answered{process.last_words()}")

    def _check_patches(self) -> None:
        if self._patches is None:
            with self._started("--describe") as process:
                code = process.ended(time.monotonic() + min(self.timeout, _DESCRIBES))
                self._patches = code != 0 or process.described().get("patches") is not False
        if not self._patches:
            raise self._error("takes no patches (its --describe says so)")

    def _started(self, *arguments: str, serves: bool = False) -> _Process:
        try:
            return _Process((*self.command, *arguments), serves=serves)
        except OSError as error:
            raise self._error(f"{self.command[0]!r:.100} cannot be started: {error.strerror}") from error

    def _late(self) -> str:
        return f"no result after {self.timeout:g} s, so it was ended; raise the limit with --timeout if it is only slow"

    def _error(self, what: str) -> EngineError:
        return EngineError(f"engine {escaped(self.name)}: {what}")


class _Process:
    """A process in a group of its own; what it prints, but for answers, goes to a log."""

    def __init__(self, words: Sequence[str], *, serves: bool) -> None:
        self._log = log_file()
        self._rest = b""
        try:
            self._popen = subprocess.Popen(
                words,
                stdin=subprocess.PIPE if serves else subprocess.DEVNULL,
                stdout=subprocess.PIPE if serves else self._log,
                stderr=self._log,
                bufsize=0,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._log)
            raise

    def __enter__(self) -> _Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(0.0)

    def close(self, patience: float) -> None:
        """End it, and what it has started; where it is served by a pipe it has so many seconds to end by itself."""
        if self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(patience)
        with contextlib.suppress(OSError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        os.close(self._log)

    def ended(self, deadline: float) -> int | None:
        """Its exit code; None at the deadline."""
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._popen.wait(_GLANCE)
            self._look()
        return None

    def answer(self, request: str, deadline: float) -> bytes | None:
        """The line that follows a request: empty where it prints no more, None at the deadline."""
        to, out = self._popen.stdin, self._popen.stdout
        assert to is not None
        assert out is not None
        left = request.encode() + b"\n"
        os.set_blocking(to.fileno(), False)
        while left:
            if time.monotonic() >= deadline:
                return None
            self._look()
            # A command that does not read fills its pipe; one that has gone shows below.
            if select.select([], [to], [], _GLANCE)[1]:
                try:
                    left = left[to.write(left) or 0 :]
                except BrokenPipeError:
                    break
        while b"\n" not in self._rest and len(self._rest) < _LONGEST_ANSWER:
            if time.monotonic() >= deadline:
                return None
            self._look()
            if select.select([out], [], [], _GLANCE)[0]:
                read = os.read(out.fileno(), _LONGEST_ANSWER)
                if not read:
                    break
                self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def last_words(self) -> str:
        """The last line that it printed, after a colon; empty if there is none."""
        lines = last_lines(self._log, 0)
        return f": {lines[-1]}" if lines else ""

    def described(self) -> dict[str, object]:
        """The last line that is a JSON object; empty if there is none."""
        for line in reversed(os.pread(self._log, _LONGEST_ANSWER, 0).splitlines()):
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(found := json.loads(line), dict):
                    return found
        return {}

    def _look(self) -> None:
        interruption.check()
        if os.fstat(self._log).st_size > _MOST_OUTPUT:
            os.ftruncate(self._log, 0)


def _answer(line: bytes) -> str | None:
    """What an answer says: nothing, or an error; None if it is no answer."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("ok"), bool):
        return None
    if found["ok"]:
        return ""
    return unwrapped(str(found.get("error") or ""))[:_LONGEST_QUOTE] or "it failed, and does not say why"


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _some(tokens: Sequence[int] | np.ndarray) -> str:
    shown = ",".join(str(token) for token in tokens[:6])
    return shown + (",..." if len(tokens) > 6 else "")
