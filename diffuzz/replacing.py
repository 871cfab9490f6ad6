"""Files that are written whole or not at all: beside their place first, and renamed into it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def replace(path: Path, parts: Iterable[bytes | memoryview], *, temporary: str = "", mode: int | None = None) -> None:
    """Write ``parts``, one after the other, to a file: all of them or nothing, whatever interrupts it.

    The file is first called ``temporary``, without one a name of its own that begins with a dot; nothing that has that
    name is written to. ``mode`` is that of the file, without one that of the process's new files. Raises OSError.
    """
    beside = path.with_name(temporary or f".{path.name}.{secrets.token_hex(4)}.tmp")
    # "x": never a file, nor a link, that is there already.
    with beside.open("xb") as file:
        try:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            if mode is not None:
                os.chmod(beside, mode)
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
