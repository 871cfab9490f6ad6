"""Build the documentation as a site:  python docs/site/build.py [FOLDER]

The pages are those of the repository, laid out as they are there, so that one link is right on GitHub and here; and
``reference/``, which is made of the program (``reference.py``). Everything that Sphinx warns of is an error, links and
anchors that lead nowhere above all, and so is anything that a browser would fetch from elsewhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import reference

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / "build" / "site"
# What pages are, and what they link to.
PARTS = ("docs", "examples", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
SECTIONS = {
    "Tutorials": (
        "docs/tutorials/index",
        "docs/tutorials/torch-kernel",
        "docs/tutorials/rust-kernel",
        "docs/tutorials/own-operation",
        "docs/tutorials/read-a-witness",
        "docs/tutorials/into-ci",
        "docs/tutorials/hunt-in-a-model",
    ),
    "How to": (
        "docs/candidates",
        "docs/protocol",
        "docs/operations",
        "docs/torch",
        "docs/implementations",
        "docs/fingerprint",
        "docs/campaigns",
        "docs/ci",
        "docs/pages",
        "docs/vectors",
        "docs/models",
        "docs/prompts",
        "docs/properties",
        "docs/strategies",
        "docs/extending",
    ),
    "Reference": (
        "docs/commands",
        "reference/options",
        "reference/python",
        "reference/targets/index",
        "docs/formats",
        "reference/formats",
        "docs/corpus",
        "docs/dump-format",
    ),
    "Explanation": (
        "docs/verdicts",
        "docs/tolerances",
        "docs/how-it-searches",
        "docs/measured",
        "docs/claims",
        "docs/findings",
        "docs/third-party",
    ),
    "Project": ("ARCHITECTURE", "CONTRIBUTING", "CHANGELOG", "benchmarks/README"),
}
# Elements, by the attribute that names what a browser fetches to show them.
FETCHED = {
    "link": "href",
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}
ELSEWHERE = re.compile(r"(?:https?:)?//")


def main(folder: Path) -> int:
    """Build the site into ``folder``, which is replaced; the number of the exit code."""
    with tempfile.TemporaryDirectory() as temporary:
        source, built = Path(temporary, "source"), Path(temporary, "built")
        lay_out(source)
        command = ["-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-j", "2", "-c", ROOT / "docs" / "site"]
        if code := subprocess.run([sys.executable, *map(str, command), str(source), str(built)]).returncode:
            return code
        fetched = list(fetched_from_elsewhere(built))
        for line in fetched:
            print(line, file=sys.stderr)
        if fetched:
            return 1
        shutil.copy(built / "README.html", built / "index.html")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(built, folder, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo*"))
    print(f"{folder / 'index.html'}")
    return 0


def lay_out(source: Path) -> None:
    """All that the site is made of, in a folder: the repository's files at their places, and the reference."""
    for part in PARTS:
        (source / part).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source / part)
    for name, text in reference.pages().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text, encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (source / "README.md").write_text(readme + "".join(map(_contents, SECTIONS)), encoding="utf-8")


def _contents(section: str) -> str:
    lines = "\n".join(f"/{name}" for name in SECTIONS[section])
    return f"\n```{{toctree}}\n:hidden:\n:titlesonly:\n:caption: {section}\n\n{lines}\n```\n"


def fetched_from_elsewhere(folder: Path) -> Iterator[str]:
    """A line for each thing that a browser would fetch from another place to show a page of ``folder``."""
    for path in sorted(folder.rglob("*.html")):
        reader = _Fetched()
        reader.feed(path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(folder)} fetches {url}" for url in reader.urls)
    for path in sorted(folder.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        for url in re.findall(r"""(?:url\(\s*["']?|@import\s*["'])((?:https?:)?//[^"')]*)""", text):
            yield f"{path.relative_to(folder)} fetches {url}"


class _Fetched(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        url = dict(attrs).get(FETCHED.get(tag, "")) or ""
        if ELSEWHERE.match(url):
            self.urls.append(url)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT))
