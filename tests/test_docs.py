"""The pages say what the program takes: every command in them is parsed, and every page opens with a run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

import diffuzz
from diffuzz import formats, targets
from diffuzz.cli.main import commands

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# They are run, too, by test_tutorials.
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
# A command may follow others in its line, and goes on where that ends with a backslash.
COMMAND = re.compile(r"^(?:\$ |    )?(?:.*&& )?python -m diffuzz ((?:.*\\\n)*.*)$", re.MULTILINE)
MOST_LINES = 150


def _blocks(page: Path) -> list[str]:
    """Blocks of commands, of which those of findings.md are indented."""
    text = page.read_text(encoding="utf-8")
    indented = re.findall(r"^    python -m diffuzz .*\n", text, re.MULTILINE)
    return re.findall(r"^```(?:console|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL) + indented


def _commands() -> list[str]:
    found = [text for page in (*PAGES, *TUTORIALS) for block in _blocks(page) for text in COMMAND.findall(block)]
    return sorted({text.replace("\\\n", " ").partition("  #")[0] for text in found})


@pytest.mark.parametrize("text", _commands())
def test_every_command_is_parsed(text: str) -> None:
    """The command, its options and the types of their values are those of the command line."""
    words = shlex.split(re.split(r" [|>] ", text)[0], comments=True)
    command: click.Group = commands
    context = commands.make_context("diffuzz", ["targets"])
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


def test_pages_that_list_all_of_something_do() -> None:
    """The formats, the operations that can be judged, and the Python names are all on their pages."""
    judged = [name for name in targets.REGISTRY.built_in() if targets.get(name).contract is not None]
    for page, names in (
        ("formats.md", formats.REGISTRY.built_in()),
        ("operations.md", judged),
        ("strategies.md", diffuzz.__all__),
    ):
        words = set(re.findall(r"\w+", (ROOT / "docs" / page).read_text(encoding="utf-8")))
        assert set(names) <= words, page


def test_the_readme_is_short() -> None:
    """What does not fit on two screens of prose has a page in docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES
