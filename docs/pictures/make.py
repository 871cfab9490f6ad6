"""Make the pictures of docs/pages.md:  python docs/pictures/make.py [NAME ...]

Each is a page that a command writes here and now, as Chromium shows it. ``check.png`` and ``trace.png`` are of a
model, and are not made here: docs/models.md has their commands.
"""

from __future__ import annotations

import html
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

HERE = Path(__file__).parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KERNEL = '''"""A kernel of eight lanes, whose tail is rounded to half precision."""
import numpy as np

def silu(x):
    y = x / (1 + np.exp(-x))
    tail = x.shape[-1] // 8 * 8
    y[..., tail:] = y[..., tail:].astype(np.float16)
    return y
'''
DARK = "@media screen and (prefers-color-scheme: dark)"


@attrs.frozen
class Frame:
    """``width`` and ``height`` pixels, from the place ``top`` on, of what ``command`` writes with --html."""

    command: str
    width: int
    height: int
    dark: bool = False
    top: int = 0


PICTURES = {
    "search": [Frame("search --target silu --candidate kernels.py:silu --fix n=19 --fix b=1 --seed 1 --largest "
                     "--budget 5s", 800, 1640)],
    "witness": [Frame("search --target matvec --param format=q4_K --seed 0 --budget 5s", 800, 1210, dark=True,
                      top=795)],
    "matrix": [Frame("matrix --target matvec --param format=q4_K --kernels exact,apr,gguf,ggml,xla --budget 2s "
                     "--seed 0", 800, 700)],
    "tree": [Frame("fingerprint --target softmax --kernels libggml --n 64", 800, 905)],
    "phones": [Frame(f"report {HERE.parents[1] / 'corpus'}", 360, 1000),
               Frame("search --target softmax --seed 0 --no-save", 360, 1000, dark=True)],
}  # fmt: skip
# Between frames, and the narrowest window.
GAP, NARROWEST = 20, 500


def main(names: list[str]) -> int:
    """Make the pictures of these names, or all of them."""
    if CHROMIUM is None:
        print("needs Chromium", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "kernels.py").write_text(KERNEL)
        for name in names or PICTURES:
            for number, frame in enumerate(PICTURES[name]):
                words = [sys.executable, "-m", "diffuzz", *frame.command.split(), "--html", f"{number}.html"]
                code = subprocess.run(words, cwd=here, stdout=subprocess.DEVNULL, check=False).returncode
                if code not in (0, 1):
                    return code
            shown(PICTURES[name], here, HERE / f"{name}.png")
    return 0


def shown(frames: list[Frame], folder: Path, file: Path) -> None:
    """Write a picture of pages. They are in frames, which may be narrower than a window."""
    drawn, left = "", 0
    for number, frame in enumerate(frames):
        text = (folder / f"{number}.html").read_text(encoding="utf-8")
        if frame.dark:
            text = text.replace(DARK, "@media screen").replace("color-scheme: light dark;", "color-scheme: dark;")
        place = f"position:absolute;left:{left}px;top:-{frame.top}px"
        size = f"width:{frame.width}px;height:{frame.height + frame.top}px"
        drawn += f'<iframe style="border:0;{place};{size}" srcdoc="{html.escape(text)}"></iframe>'
        left += frame.width + GAP
    page = folder / "frames.html"
    page.write_text(
        f'<!doctype html><meta charset=utf-8><body style="margin:0;overflow:hidden;background:#8b949e">{drawn}',
        encoding="utf-8",
    )
    size = f"{max(left - GAP, NARROWEST)},{max(frame.height for frame in frames)}"
    subprocess.run(
        [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={size}", f"--screenshot={file}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
