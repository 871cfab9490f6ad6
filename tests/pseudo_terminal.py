"""A terminal that is a program: it runs a command in a size that is given, and keeps what a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest

pyte = pytest.importorskip("pyte")

ROWS = 24
# The terminal is its own, so that Ctrl-C reaches it; pytest may have been started with SIGINT ignored.
OWN_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@attrs.frozen
class Seen:
    """What was displayed: each screen that differed from the one before, the last one, all bytes, and the exit code."""

    screens: tuple[tuple[str, ...], ...]
    last: tuple[str, ...]
    raw: bytes
    code: int

    def lines(self) -> list[str]:
        """Every line of every screen."""
        return [line for screen in self.screens for line in screen]


def run(
    command: Sequence[str],
    *,
    columns: int,
    cwd: Path,
    environment: dict[str, str] | None = None,
    press: Callable[[tuple[str, ...]], bool] | None = None,
    timeout: float = 60.0,
) -> Seen:
    """Run a command in a terminal. Ctrl-C is pressed once on the first screen of which ``press`` says so."""
    given = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS", "LINES")}
    given |= {"TERM": "xterm-256color"} | (environment or {})
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    # Not by os.fork(), of which JAX, where another test has imported it, warns.
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, *command],
        stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=given, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    screen = pyte.Screen(columns, ROWS)
    stream = pyte.ByteStream(screen)
    screens: list[tuple[str, ...]] = []
    raw, ends = b"", time.monotonic() + timeout
    try:
        while time.monotonic() < ends:
            if not select.select([master], [], [], 0.05)[0]:
                continue
            try:
                data = os.read(master, 65536)
            except OSError:
                # Nobody has the other end any more.
                break
            if not data:
                break
            raw += data
            stream.feed(data)
            shown = displayed(screen)
            if not screens or shown != screens[-1]:
                screens.append(shown)
            if press is not None and press(shown):
                os.write(master, b"\x03")
                press = None
        else:
            process.kill()
    finally:
        os.close(master)
    return Seen(tuple(screens), displayed(screen), raw, process.wait())


def displayed(screen: object) -> tuple[str, ...]:
    """The lines of a screen, without what is blank at its end."""
    lines = [line.rstrip() for line in screen.display]  # type: ignore[attr-defined]
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)
