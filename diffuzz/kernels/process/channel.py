"""The connection between a client and the process of a worker, which runs code that may do anything to it.

    to the process      length, uint64; then as many bytes: a pickle, which only the client writes
    from the process    the process's token, 16 random bytes; the number of the request, uint64; length, uint32; then
                        as many bytes of JSON: ``true``, or ``[kind, text]`` of a failure

Nothing that comes from the process is unpickled, so that it cannot make code run in the client. Bytes that do not begin
with the token and the number, such as those of a function that writes to descriptors it has not opened, are told from
an answer and left out. The client never waits without a deadline, neither to read nor to write, and sees the end of the
process also where somebody else holds the other end of the connection.

The process keeps its end at a high number (see ``raised``), which neither a loop over the first few hundred descriptors
nor a program that the function starts gets at.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from typing import Literal

import attrs

from diffuzz.escaping import escaped

Kind = Literal["crashed", "hung", "out of memory", "raised", "garbage", "skipped"]
KINDS: tuple[Kind, ...] = ("crashed", "hung", "out of memory", "raised", "garbage", "skipped")
TOKEN_BYTES = 16
# Of what a failure says, in characters.
LONGEST_TEXT = 1000
_REQUEST, _ANSWER = struct.Struct("<Q"), struct.Struct(f"<{TOKEN_BYTES}sQI")
_LONGEST_ANSWER = 2**16
# How long either side polls before it sleeps, in seconds: waking a processor takes as long as a small batch.
_AWAKE = 2e-4
# The descriptors of a process are raised to just below this number, or its limit if that is less. From here on, they
# are of no use to select().
_HIGHEST = 1024


class ResultError(ValueError):
    """A function returned something else than was expected, or did what it must not; one line that begins with a verb,
    mostly ``returns``.
    """


class SkippedError(ValueError):
    """A function says that a call is not for it; one line, which says why."""


class EndedError(ConnectionError):
    """The process has ended, or has closed its end of the connection."""


class GarbageError(ValueError):
    """What the process has said in the form of an answer is none."""


@attrs.frozen
class Failure:
    """Why a row has no result: its kind, and one line of text with the signal, the exception or the wrong result.

    ``wrote`` is what the code wrote last to standard output and error, line by line; it does not tell failures apart.
    """

    kind: Kind
    text: str
    wrote: tuple[str, ...] = attrs.field(default=(), eq=False)

    @property
    def killed(self) -> bool:
        """Whether the process was killed by SIGKILL, which is probably not the fault of the code that ran in it."""
        return self.kind == "crashed" and self.text.startswith("SIGKILL")

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def kept(file: int) -> int:
    """``file``, or another descriptor of the same above those of the standard streams, which may be closed."""
    if file > 2:
        return file
    import fcntl

    other = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(file)
    return other


def raised(file: int) -> int:
    """Another descriptor of the same file, of a number as high as this process may have; ``file`` is closed."""
    import fcntl
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    top = _HIGHEST if limit == resource.RLIM_INFINITY else min(limit, _HIGHEST)
    try:
        other = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, max(3, top - 16))
    except OSError:
        return file
    os.close(file)
    return other


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection between processes. It is a stream: not every system has packets for local sockets."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    one, other = (socket.socket(fileno=kept(end.detach())) for end in ends)
    return one, other


def _ready(poll: select.poll, seconds: float) -> bool:
    """Whether there is something within ``seconds``; polls for _AWAKE seconds before it sleeps."""
    until = time.perf_counter() + min(_AWAKE, seconds)
    while time.perf_counter() < until:
        if poll.poll(0):
            return True
        # The writer of the message may be waiting for this processor.
        os.sched_yield()
    return bool(poll.poll(1000 * seconds))


@attrs.define
class Client:
    """The client's end; ``pid`` is the number of the process, for which nobody has waited yet."""

    end: socket.socket
    pid: int
    token: bytes = attrs.field(factory=lambda: os.urandom(TOKEN_BYTES))
    _requests: int = attrs.field(init=False, default=0)
    _got: bytes = attrs.field(init=False, default=b"")
    # Becomes readable when the process ends, whoever else has its end of the connection; None where there is no such.
    _life: int | None = attrs.field(init=False, default=None)
    _poll: select.poll = attrs.field(init=False, factory=lambda: select.poll())

    def __attrs_post_init__(self) -> None:
        self.end.setblocking(False)
        self._poll.register(self.end.fileno(), select.POLLIN)
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._life = kept(os.pidfd_open(self.pid))
                self._poll.register(self._life, select.POLLIN)

    def close(self) -> None:
        """Close this end."""
        if self._life is not None:
            os.close(self._life)
            self._life = None
        self.end.close()

    def kill(self) -> None:
        """Kill the process, and nothing else that may have its number by now."""
        if self._life is not None:
            import signal

            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._life, signal.SIGKILL)

    def send(self, message: bytes, seconds: float) -> bool:
        """Send a request; False if the process does not take it within ``seconds``. Raises EndedError."""
        self._requests += 1
        rest = memoryview(_REQUEST.pack(len(message)) + message)
        until = time.monotonic() + seconds
        while True:
            try:
                rest = rest[self.end.send(rest) :]
            except BlockingIOError:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                poll = select.poll()
                poll.register(self.end.fileno(), select.POLLOUT)
                poll.poll(1000 * left)
            except OSError as error:
                raise EndedError(str(error)) from error
            if not rest:
                return True

    def receive(self, seconds: float) -> Failure | Literal[True] | None:
        """The answer to the last request; None if there is none within ``seconds``. Raises EndedError, GarbageError."""
        if not _ready(self._poll, seconds):
            return None
        try:
            more = self.end.recv(_LONGEST_ANSWER)
        except BlockingIOError:
            # The process has ended, and what it said before has been read.
            raise EndedError("ended") from None
        except OSError as error:
            raise EndedError(str(error)) from error
        if not more:
            raise EndedError("closed")
        self._got += more
        begin = self.token + self._requests.to_bytes(8, "little")
        found = self._got.find(begin)
        # What is no answer is not kept, but for its end, where one may begin.
        self._got = self._got[found if found >= 0 else 1 - len(begin) :]
        if found < 0:
            return None
        if len(self._got) < _ANSWER.size:
            return None
        length = _ANSWER.unpack_from(self._got)[2]
        if length > _LONGEST_ANSWER:
            raise GarbageError("an answer that is too long")
        if len(self._got) < _ANSWER.size + length:
            return None
        body, self._got = self._got[_ANSWER.size : _ANSWER.size + length], self._got[_ANSWER.size + length :]
        return True if body == b"true" else _failure(body)


def _failure(body: bytes) -> Failure:
    try:
        kind, text = json.loads(body)
    except (ValueError, TypeError) as error:
        raise GarbageError("an answer that is no JSON") from error
    if kind not in KINDS or not isinstance(text, str):
        raise GarbageError("an answer of another kind")
    return Failure(kind, escaped(text[:LONGEST_TEXT]))


@attrs.define
class Served:
    """The process's end of the connection. The first request brings the token."""

    end: socket.socket
    token: bytes = attrs.field(init=False, default=b"")
    _requests: int = attrs.field(init=False, default=0)
    _poll: select.poll = attrs.field(init=False, factory=lambda: select.poll())

    def __attrs_post_init__(self) -> None:
        self._poll.register(self.end.fileno(), select.POLLIN)

    def receive(self) -> bytes:
        """The next request. Raises EndedError if the client has gone."""
        _ready(self._poll, _AWAKE)
        got = self.end.recv(2**16)
        while len(got) < _REQUEST.size or len(got) < _REQUEST.size + _REQUEST.unpack_from(got)[0]:
            more = self.end.recv(2**20)
            if not more:
                raise EndedError("closed")
            got += more
        self._requests += 1
        return got[_REQUEST.size :]

    def send(self, said: Failure | Literal[True]) -> None:
        """Answer the last request."""
        body = b"true" if said is True else json.dumps([said.kind, said.text[:LONGEST_TEXT]]).encode()
        self.end.sendall(_ANSWER.pack(self.token, self._requests, len(body)) + body)
