"""The pages say what the program takes: every command in them is parsed, and every page opens with a run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from diffuzz.cli.main import commands

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# A command may follow others in its line, and goes on where that ends with a backslash.
COMMAND = re.compile(r"^(?:\$ )?(?:.*&& )?python -m diffuzz ((?:.*\\\n)*.*)$", re.MULTILINE)
MOST_LINES = 150


def _blocks(page: Path) -> list[str]:
    return re.findall(r"^```(?:console|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    found = [text for page in PAGES for block in _blocks(page) for text in COMMAND.findall(block)]
    return sorted({text.replace("\\\n", " ").partition("  #")[0] for text in found})


@pytest.mark.parametrize("text", _commands())
def test_every_command_is_parsed(text: str) -> None:
    """The command, its options and the types of their values are those of the command line."""
    words = shlex.split(text.partition(" | ")[0], comments=True)
    command: click.Group = commands
    context = click.Context(command)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        if not isinstance(found, click.Group):
            # Not the build of ggml, which only the reader has.
            words = [word for word in words if not word.startswith("--library")]
            found.make_context(name, words, parent=context)
            return
        command = found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_opens_with_a_run(page: Path) -> None:
    """Before any other heading there is a command and what it prints, or the line to run."""
    opening = re.split(r"^## ", page.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
    assert re.search(r"^```(?:console|sh)\n(?:\$ )?\S", opening, re.MULTILINE)


def test_the_readme_is_short() -> None:
    """What does not fit on two screens of prose has a page in docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES
