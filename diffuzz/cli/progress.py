"""What is shown on stderr while a command works, of what it tells (see diffuzz.telling).

On a terminal that can draw it is a display of two lines, which is gone when there is a result. Everywhere else nothing
is shown, unless the user asks for a log with ``--verbose``: a line for each part, phase and improvement, with its time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from diffuzz.escaping import escaped

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

    from diffuzz.cli.progress_text import Log, State
    from diffuzz.telling import Message

# Seconds between two drawings, and before the first: what is over by then shows nothing.
_TICK = 0.1
# Columns that are left free: some terminals begin a new line after the last, and a Ctrl-C is shown as ^C.
_FREE = 3
_STYLES = {"label": "bold", "phase": "cyan", "part": "cyan", "value": "green", "wrong": "bold red", "": "none"}
_BARS = (("\N{BOX DRAWINGS HEAVY HORIZONTAL}", "\N{BOX DRAWINGS LIGHT HORIZONTAL}"), ("#", "-"))

_shown: _Shown | None = None


@contextlib.contextmanager
def shown(label: str, *, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """A context in which what is told is shown, under the name ``label``: nothing if ``quiet``, and a log, too, if
    ``verbose``.
    """
    global _shown
    terminal = not quiet and sys.stderr.isatty()
    if quiet or not (terminal or verbose):
        yield
        return
    from diffuzz import telling

    before, _shown = _shown, _Shown(label, draws=terminal and _can_draw(), verbose=verbose)
    try:
        with _shown.drawing(), telling.listening(_shown.take):
            yield
    finally:
        _shown = before


def _can_draw() -> bool:
    """Whether the terminal has a cursor that can be moved; that of a CI system is kept as a log."""
    return os.environ.get("TERM", "") not in ("dumb", "unknown") and os.environ.get("CI", "") in ("", "0", "false")


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """A context in which the display is away, for text that stays."""
    if _shown is None:
        yield
    else:
        with _shown.aside():
            yield


def line_printer() -> Callable[[str], None] | None:
    """What prints a line for each part of the work that is done; None where nothing is shown."""
    return None if _shown is None else _shown.say


class _Shown:
    """The display and the log of one command."""

    def __init__(self, label: str, *, draws: bool, verbose: bool) -> None:
        from diffuzz.cli.progress_text import Log, State

        self._began = time.monotonic()
        self._state: State = State(label, self._began)
        self._log: Log | None = Log() if verbose else None
        self._draws = draws
        self._lock = threading.RLock()
        self._live: Live | None = None
        # Whether anything was told since text was printed: what comes last is followed by no display.
        self._news = True

    def take(self, message: Message) -> None:
        """What is told."""
        now = time.monotonic()
        with self._lock:
            self._state.take(message, now)
            self._news = True
            for line in () if self._log is None else self._log.lines(message):
                self._print(self._timed(line))

    def say(self, line: str) -> None:
        """Print a line above the display, or into the log."""
        with self._lock:
            self._print(self._timed(line) if self._log is not None else line)

    def _timed(self, line: str) -> str:
        return f"{time.monotonic() - self._began:8.2f} s  {line}"

    def _print(self, line: str) -> None:
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(escaped(line)), soft_wrap=True)
        else:
            _write(f"{escaped(line)}\n")

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """The display is away, and comes back with the next message."""
        with self._lock:
            self._hide()
            self._news = False
            yield

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """The display is drawn, again and again."""
        if not self._draws:
            yield
            return
        done = threading.Event()

        def draw() -> None:
            while not done.wait(_TICK):
                with self._lock:
                    if not done.is_set():
                        self._draw()

        thread = threading.Thread(target=draw, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            with self._lock:
                self._hide()

    def _draw(self) -> None:
        from rich.live import Live

        from diffuzz import interruption

        if self._live is None:
            if not self._news:
                return
            self._live = Live(
                self,
                console=_console(),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._state.stopping = interruption.requested()
        self._live.refresh()

    def _hide(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        from diffuzz.cli.progress_text import lines

        full, empty = _BARS[not options.encoding.lower().startswith("utf")]
        for line in lines(self._state, max(options.max_width - _FREE, 1), time.monotonic()):
            text = Text(no_wrap=True, overflow="crop", end="\n")
            for place, (said, kind) in enumerate(line.fields):
                if place and place == line.before and line.bar is not None:
                    done = int(line.bar * line.bar_cells)
                    text.append("  ").append(full * done, "green")
                    text.append(empty * (line.bar_cells - done), "dim")
                text.append("  " if place else "").append(escaped(said), _STYLES[kind])
            yield text


def _console() -> Console:
    """A console on stderr, whatever happens to that, without styles where the user wants no colours."""
    from rich.console import Console

    class Steady(Console):
        """The cursor stays visible: a command that is stopped or killed would leave none behind."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    return Steady(
        file=_Shielded(),  # type: ignore[arg-type]  # what a Console needs of a file
        force_terminal=True,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        markup=False,
        emoji=False,
        highlight=False,
    )


class _Shielded:
    """stderr, of which the reader may have gone."""

    encoding = property(lambda self: sys.stderr.encoding)

    def write(self, text: str) -> int:
        """Write, or do not."""
        _write(text)
        return len(text)

    def flush(self) -> None:
        """Written is flushed."""

    def isatty(self) -> bool:
        """It was, when this was made."""
        return True

    def fileno(self) -> int:
        """The number of the file."""
        return sys.stderr.fileno()


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
