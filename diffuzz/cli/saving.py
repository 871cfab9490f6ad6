"""Files that a command writes beside what it prints, such as ``--junit`` and ``--html``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from diffuzz.cli.options import BAD_INPUT, FILE, complain
from diffuzz.replacing import replace

HTML = click.option(
    "--html", type=FILE, metavar="FILE", help="Write a page, too: one file for a browser, which needs no network."
)


def files_named(*texts: str | None) -> list[Path]:
    """The files that arguments such as FILE.py:NAME, ENTRY=FILE.so:NAME and 'run: PROGRAM ARGUMENT' name, if there are
    any: what a command reads, and must not write.
    """
    words = [word for text in texts if text for word in (text, *text.split())]
    found = []
    for word in dict.fromkeys(part for each in words for part in (each, each.partition("=")[2])):
        for name in (word, word.rpartition(":")[0], word.partition(":")[0]):
            with contextlib.suppress(OSError, ValueError):
                if name and Path(name).is_file():
                    found.append(Path(name))
    return found


def check_writable(option: str, file: Path, *inputs: Path) -> None:
    """Raise click.UsageError before any work is done for a file that cannot be written, or is one of the inputs; leaves
    none behind.
    """
    for each in inputs:
        if each.exists() and file.exists() and file.samefile(each):
            raise click.UsageError(f"{option} {file}: that is an input; choose another file")
    if not file.parent.is_dir():
        raise click.UsageError(f"{option} {file}: there is no folder {file.parent}; make it first")
    writable = os.access(file, os.W_OK) if os.path.lexists(file) else os.access(file.parent, os.W_OK | os.X_OK)
    if not writable:
        raise click.UsageError(f"{option} {file}: cannot be written; choose another file")


def written(option: str, file: Path, text: str) -> int:
    """Write a file; 0, or the exit code, with a line on stderr."""
    try:
        if os.path.lexists(file) and not file.is_file():
            # A pipe or a device is written to, and not replaced.
            file.write_text(text, encoding="utf-8")
        else:
            replace(file.resolve(), (text.encode(),))
    except OSError as error:
        return complain(f"{option} {file}: cannot be written ({error.strerror})", BAD_INPUT)
    return 0
