"""Opening a page in a browser, without waiting for it, and without anything that a browser may print."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

# What opens it says by then whether it can; a browser that was started goes on.
_SECONDS = 5.0
_CODE = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"


def new_file(name: str) -> Path:
    """An empty file of the user alone, for a page about ``name``, among the temporary ones. Raises OSError."""
    handle, path = tempfile.mkstemp(prefix=f"diffuzz-{name}-", suffix=".html")
    os.close(handle)
    return Path(path)


def opened(page: Path) -> bool:
    """Whether a browser took the page. False where there is none, or no screen to show it on."""
    if not _has_screen():
        return False
    try:
        # Isolated, so that no file of the user's folder is taken for a module; a session of its own, so that Ctrl-C
        # here does not end the browser.
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CODE, page.resolve().as_uri()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    try:
        return process.wait(_SECONDS) == 0
    except subprocess.TimeoutExpired:
        # A browser that was started in the foreground.
        return True


def _has_screen() -> bool:
    """Whether there is somewhere to show a page; a browser in text would take the terminal."""
    if os.environ.get("BROWSER") or sys.platform in ("win32", "darwin", "cygwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
