"""Kernels and devices, tried: each by a call whose result is known, in a process of its own, which is ended in time.

A driver that is broken may hang when a device is opened, or end the process; then this is what is found out. A process
answers with a line of JSON for each thing that it tried, so what was found before it ended is not lost.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import attrs

import diffuzz
from diffuzz import interruption
from diffuzz.registry import one_line

# Of a softmax of four numbers in float32.
_CLOSE = 1e-5
# Seconds between two looks at the processes, and those that one which was killed has to end.
_LOOK, _DYING = 0.05, 2.0
_LONGEST_TEXT = 300


@attrs.frozen
class Probe:
    """What was tried, whether it works (None: it is not installed), how long it took, and what is known about it, or
    why it does not.
    """

    kind: str
    name: str
    works: bool | None
    seconds: float = 0.0
    text: str = ""


# What each process tries, in order: pairs of kind and name.
_CORE = (("kernels", "exact"), ("kernels", "apr"), ("kernels", "gguf"), ("kernels", "ggml"))
GROUPS = (_CORE, (("devices", "jax"), ("kernels", "xla")), (("kernels", "gguf-py"),), (("kernels", "libggml"),),
          (("devices", "torch"),))  # fmt: skip
# What a search cannot do without.
NEEDED = (*_CORE, ("devices", "jax"), ("kernels", "xla"))
_PACKAGES = {("devices", "jax"): "jax", ("kernels", "xla"): "jax", ("kernels", "gguf-py"): "gguf",
             ("kernels", "libggml"): "ggml", ("devices", "torch"): "torch"}  # fmt: skip


def probed(seconds: float, on_probe: Callable[[Probe], None] | None = None) -> tuple[Probe, ...]:
    """All probes, in the order of GROUPS; each process has so many ``seconds``, and all run side by side.

    ``on_probe`` is called with each as it comes. Raises KeyboardInterrupt, and leaves no process behind.
    """
    found: dict[tuple[str, str], Probe] = {}

    def note(probe: Probe) -> None:
        found[probe.kind, probe.name] = probe
        if on_probe is not None:
            on_probe(probe)

    running: list[_Running] = []
    try:
        for group in GROUPS:
            here = [one for one in group if not _missing(one)]
            for kind, name in group:
                if (kind, name) not in here:
                    note(Probe(kind, name, None, text=f"the package {_PACKAGES[kind, name]} is not installed"))
            if here:
                running.append(_Running.begun(here, seconds))
        while running:
            interruption.check()
            running = [one for one in running if not one.looked_at(note)]
            time.sleep(_LOOK)
    finally:
        for one in running:
            one.end()
    return tuple(found[one] for group in GROUPS for one in group)


def _missing(one: tuple[str, str]) -> bool:
    package = _PACKAGES.get(one)
    return package is not None and importlib.util.find_spec(package) is None


@attrs.define(eq=False)
class _Running:
    """A process, what it is to try, and the lines that it has written so far."""

    things: list[tuple[str, str]]
    deadline: float
    seconds: float
    process: subprocess.Popen[bytes]
    answers: IO[bytes]
    errors: IO[bytes]
    begun_at: float
    done: int = 0

    @classmethod
    def begun(cls, things: Sequence[tuple[str, str]], seconds: float) -> _Running:
        """A process that has begun. What it writes goes to files: a pipe may be held open by what it has started."""
        folder = str(Path(diffuzz.__file__).parents[1])
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), folder]))
        # Open as long as the process is looked at.
        answers, errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        words = [f"{kind}:{name}" for kind, name in things]
        code = f"from diffuzz.installation import probes; probes.answer({words!r})"
        process = subprocess.Popen(
            # No file of the current folder takes the place of a library.
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=answers,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": path},
            # Not by Ctrl-C, but by ``end``, with all that it has started.
            start_new_session=True,
        )
        now = time.monotonic()
        return cls(list(things), now + seconds, seconds, process, answers, errors, now)

    def looked_at(self, note: Callable[[Probe], None]) -> bool:
        """Whether it is over; what it has answered since the last look is noted, and then what it has not."""
        code = self.process.poll()
        for probe in self._answers():
            note(probe)
        if code is None and time.monotonic() < self.deadline and self.done < len(self.things):
            return False
        waited = time.monotonic() - self.begun_at
        if code is None:
            why = f"gave no answer in {self.seconds:g} s"
        else:
            why = f"its process ended with {_code(code)}{self._said()}"
        self.end()
        for kind, name in self.things[self.done :]:
            note(Probe(kind, name, False, waited, why))
        return True

    def _answers(self) -> Iterator[Probe]:
        self.answers.seek(0)
        for line in self.answers.read().split(b"\n")[self.done : -1]:
            kind, name = self.things[self.done] if self.done < len(self.things) else ("", "")
            try:
                answer = json.loads(line)
                probe = Probe(kind, name, bool(answer["works"]), float(answer["seconds"]), str(answer["text"]))
            except (ValueError, KeyError, TypeError):
                # Something that a library printed.
                probe = Probe(kind, name, False, 0.0, f"wrote {line[:_LONGEST_TEXT]!r}")
            self.done += 1
            yield probe

    def _said(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read()[-4096:].decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1][:_LONGEST_TEXT]}" if lines else ""

    def end(self) -> None:
        """End the process, and what it has started. One that cannot be killed, in the middle of a driver, is left."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_DYING)
        self.answers.close()
        self.errors.close()


def _code(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def answer(words: Sequence[str]) -> None:
    """What a process does: try each of ``KIND:NAME``, and write a line of JSON for it on the standard output that it
    began with; what libraries print goes to standard error.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for word in words:
        kind, _, name = word.partition(":")
        began = time.monotonic()
        try:
            text, works = _TRIED[kind](name), True
        except BaseException as error:
            text, works = one_line(error, _LONGEST_TEXT), False
        out.write(json.dumps({"works": works, "seconds": time.monotonic() - began, "text": text}) + "\n")
        out.flush()
    # Threads of a driver, and what it does at exit, do not matter any more.
    os._exit(0)


def _kernels(name: str) -> str:
    """Call the kernels of that name. Raises whatever they raise, and ValueError for a wrong result."""
    import numpy as np

    from diffuzz import kernels

    found, exact = kernels.get(name), kernels.get("exact")
    if hasattr(found, "soft_max"):
        x = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
        got, wanted = np.asarray(found.soft_max(x), np.float64), exact.soft_max(x)
    else:
        # A block of q8_0: a scale of one in f16, and the codes 0 to 31.
        block = np.concatenate([np.array([0x00, 0x3C], np.uint8), np.arange(32, dtype=np.uint8)])[None]
        got, wanted = np.asarray(found.dequantize("q8_0", block), np.float64), np.arange(32.0)[None]
    if got.shape != wanted.shape or not np.allclose(got, wanted, rtol=_CLOSE, atol=0):
        raise ValueError("it gives a wrong result")
    if not hasattr(found, "about"):
        return ""
    about = found.about()
    return f"{about['library']} {about['version']}"


def _devices(name: str) -> str:
    """The devices that JAX or torch sees."""
    if name == "jax":
        import jax

        return ", ".join(f"{one.platform} {one.id} ({one.device_kind})" for one in jax.devices())
    import torch

    seen = ["cpu"]
    seen += [f"cuda {index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    seen += ["mps"] if torch.backends.mps.is_available() else []
    return ", ".join(seen)


_TRIED = {"kernels": _kernels, "devices": _devices}
