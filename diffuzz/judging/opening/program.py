"""A program as a function: it reads frames from its standard input and answers on its standard output.

It is started in the process of a candidate (see diffuzz.kernels.process), as a child of it, whose limits of time and
memory are its own, too. If it ends, that process ends in the same way, so a crash of the program is reported like one
of a function. What it writes to standard error goes to the log of that process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import subprocess
from typing import NoReturn

import attrs
import numpy as np

from diffuzz.escaping import escaped, unwrapped
from diffuzz.judging.opening import frames
from diffuzz.judging.opening.foreign import Asked, RefusedError, Scalar, dtype_of
from diffuzz.judging.opening.named import CandidateError, Program
from diffuzz.kernels.process.channel import ResultError, SkippedError
from diffuzz.targets.contract import Result

PROTOCOL = 1
# Inputs begin at multiples of it in the body.
_ALIGNMENT = 64
# Seconds for a program to end that has closed its standard output.
_ENDS = 0.5
_LONGEST_TEXT = 400


def started(named: Program) -> RunningProgram:
    """The program, started, which has described itself.

    Raises CandidateError: it cannot be started, or does not speak the protocol. If it ends, so does this process.
    """
    program = RunningProgram(named)
    try:
        program.restart()
    except ResultError as error:
        raise CandidateError(f"candidate {named.specification} {error} (see docs/protocol.md)") from error
    return program


@attrs.define
class RunningProgram:
    """A program that is called. After an answer that is none it is started again for the next call."""

    named: Program
    _process: subprocess.Popen[bytes] | None = attrs.field(init=False, default=None)
    # Targets that it has, if it says so.
    _operations: tuple[str, ...] | None = attrs.field(init=False, default=None)

    def restart(self) -> None:
        """Start it, and have it describe itself. Raises CandidateError; ResultError if it does not."""
        try:
            # Unbuffered: what is read is polled for.
            self._process = subprocess.Popen(self.named.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        except OSError as error:
            raise CandidateError(
                f"candidate {self.named.specification}: {self.named.words[0]} cannot be started: {error.strerror}"
            ) from error
        for stream in (self._process.stdin, self._process.stdout):
            os.set_blocking(stream.fileno(), False)  # type: ignore[union-attr]
        answer = self._answer(frames.written({"message": "describe", "protocol": PROTOCOL}), 0).header
        if answer.get("message") != "describe":
            self._stop()
            raise ResultError(f"answers {_quoted(answer)} where it should describe itself")
        if answer.get("protocol") != PROTOCOL:
            self._stop()
            raise ResultError(
                f"speaks protocol {_quoted(answer.get('protocol'))}, and this diffuzz protocol {PROTOCOL}"
            )
        operations = answer.get("operations")
        if isinstance(operations, list) and all(isinstance(one, str) for one in operations):
            self._operations = tuple(operations)

    def __call__(self, asked: Asked) -> list[np.ndarray]:
        """Raises RefusedError, SkippedError if the program answers so, ResultError if it answers otherwise."""
        if self._process is None:
            self.restart()
        if self._operations is not None and asked.operation not in self._operations:
            raise RefusedError(
                f"it does {', '.join(map(escaped, self._operations)) or 'no operation'}, and not {asked.operation}"
            )
        header, body = _request(asked)
        sizes = [_bytes_of(one) for one in asked.results.values()]
        answer = self._answer(frames.written(header, body), sum(sizes))
        message, text = answer.header.get("message"), answer.header.get("text", "")
        said = unwrapped(str(text)[:_LONGEST_TEXT])
        if message == "skip":
            raise SkippedError(said or "it does not say why")
        if message == "error":
            raise RefusedError(said or "it does not say why")
        if message != "result":
            self._stop()
            raise ResultError(f"answers {_quoted(answer.header)}, where a result, error or skip is needed")
        if len(answer.body) != sum(sizes):
            raise ResultError(
                f"returns {len(answer.body)} bytes, where {sum(sizes)} are needed ("
                + ", ".join(f"{name} {one}" for name, one in asked.results.items())
                + ")"
            )
        results, place = [], 0
        for one, size in zip(asked.results.values(), sizes, strict=True):
            results.append(np.frombuffer(answer.body[place : place + size], dtype_of(one.dtype)).reshape(one.shape))
            place += size
        return results

    def _answer(self, request: bytes, longest: int) -> frames.Frame:
        """The answer to a request, with a body of at most so many bytes. Raises ResultError."""
        try:
            return self._exchanged(request, longest)
        except frames.FrameError as error:
            self._stop()
            raise ResultError(str(error)) from error

    def _exchanged(self, request: bytes, longest: int) -> frames.Frame:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise TypeError("the program has not been started")
        source, sink = process.stdout.fileno(), process.stdin.fileno()
        poll, rest, got = select.poll(), memoryview(request), bytearray()
        poll.register(source, select.POLLIN)
        if poll.poll(0) and (early := _read(source)):
            raise frames.FrameError(f"wrote to standard output without a request: {frames.quoted(early)}")
        poll.register(sink, select.POLLOUT)
        while True:
            # There is no deadline here: the client of this process has one, and ends both.
            for file, _ in poll.poll():
                if file == source:
                    more = _read(source)
                    if more is None:
                        continue
                    if not more:
                        self._ended()
                    got += more
                elif rest:
                    try:
                        rest = rest[os.write(sink, rest[: 2**16]) :]
                    except BlockingIOError:
                        continue
                    except OSError:
                        # It has closed its standard input; whatever it says is on its standard output.
                        rest = rest[:0]
                if not rest and file == sink:
                    poll.unregister(sink)
            if (found := frames.read(got, longest)) is None:
                continue
            frame, length = found
            after = bytes(got[length:]) or _read(source)
            if after:
                raise frames.FrameError(f"wrote to standard output after its answer: {frames.quoted(after)}")
            return frame

    def _ended(self) -> NoReturn:
        """Its standard output has ended. End as it did, or raise FrameError if it has only closed that."""
        assert self._process is not None
        try:
            status = self._process.wait(_ENDS)
        except subprocess.TimeoutExpired:
            raise frames.FrameError("closed its standard output") from None
        if status < 0:
            faulthandler.disable()
            with contextlib.suppress(OSError):
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(abs(status))

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process = None


def _read(source: int) -> bytes | None:
    """What there is to read, empty at the end; None if there is nothing now."""
    try:
        return os.read(source, 2**20)
    except BlockingIOError:
        return None


def _request(asked: Asked) -> tuple[dict[str, object], bytes]:
    """The header and the body of a message ``run``."""
    inputs, parts, place = [], [], 0
    for name, array in asked.inputs.items():
        data = np.ascontiguousarray(array).tobytes()
        inputs.append(
            {"name": name, "dtype": array.dtype.name, "shape": [*array.shape], "offset": place, "bytes": len(data)}
        )
        padding = -len(data) % _ALIGNMENT
        parts.append(data + bytes(padding))
        place += len(data) + padding
    results, at = [], 0
    for name, one in asked.results.items():
        size = _bytes_of(one)
        results.append({"name": name, "dtype": one.dtype, "shape": [*one.shape], "offset": at, "bytes": size})
        at += size
    parameters = {name: _as_json(value) for name, value in asked.parameters.items()}
    header: dict[str, object] = {
        "message": "run", "operation": asked.operation, "inputs": inputs, "results": results, "parameters": parameters,
    }  # fmt: skip
    return header, b"".join(parts)


def _as_json(value: Scalar) -> Scalar:
    """JSON has no infinities."""
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _bytes_of(one: Result) -> int:
    return int(np.prod(one.shape, dtype=np.int64)) * dtype_of(one.dtype).itemsize


def _quoted(value: object) -> str:
    return escaped(repr(value)[:_LONGEST_TEXT])
