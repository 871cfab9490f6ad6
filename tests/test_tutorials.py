"""The tutorials are run as their readers would run them: files are written, commands are run in order by one shell, in
an empty folder, and what they print is what the page shows.

    ```console   lines after "$ " are commands, what follows is what they print: a line "..." stands for any lines,
                 and "..." within a line for any text. They exit with 0; with 1 where something was
                 found, or with 3 where an option is missing, and say so
    ```sh        each line is a command that exits with 0
    a block that begins with a comment that is a path, such as "# my_kernels.py", is that file; and so is what
    "$ cat my_kernels.py" prints

What is not run says so on the page, in italics right before the block, and says why: "The tests do not run this: ...",
"The tests run this only with `--slow`: ...". A page that needs something says "The tests run this page where `rustc`
and `torch` are installed."
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(
    r"^(?P<mark>\*The tests [^*]*\*\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
FILE = re.compile(r"(?:#|//) ([\w./-]+\.\w+)\n")
NEEDS = re.compile(r"The tests run this page where (.*?) (?:is|are) installed", re.DOTALL)
NOT_RUN, SLOW = "*The tests do not run this: ", "*The tests run this only with `--slow`: "
LONGEST_S = 300
# Each page; and those with something that takes long once more, with it.
RUNS = [
    *(pytest.param(path, False, id=path.stem) for path in PAGES),
    *(pytest.param(path, True, id=f"{path.stem}-slow") for path in PAGES if SLOW in path.read_text(encoding="utf-8")),
]
# Between the commands, in what the shell prints.
MARK = "\x1e"


@attrs.frozen
class Command:
    """A command of a page, and what it prints: None where the page does not say."""

    text: str
    printed: str | None


def of_block(language: str, text: str) -> Iterator[Command | tuple[Path, str]]:
    """The commands of a block of a page, and files that it shows."""
    if language == "sh":
        yield from (Command(line, None) for line in text.replace("\\\n", "").splitlines() if line.strip())
        return
    for piece in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:.*\\\n)*.*\n", piece)
        assert command is not None
        if name := re.fullmatch(r"cat ([\w.]+)\n", command[0]):
            yield Path(name[1]), piece[command.end() :]
            continue
        yield Command(command[0].rstrip("\n"), piece[command.end() :])


def _steps(page: str, slow: bool) -> Iterator[Command | tuple[Path, str]]:
    """What a reader does, in order: files with their text, and commands."""
    for block in BLOCK.finditer(page):
        mark = block["mark"] or ""
        assert mark.startswith((NOT_RUN, SLOW)) or not mark, f"not understood: {mark}"
        if mark.startswith(NOT_RUN) or (mark.startswith(SLOW) and not slow):
            continue
        if block["language"] in ("console", "sh"):
            yield from of_block(block["language"], block["text"])
        elif name := FILE.match(block["text"]):
            yield Path(name[1]), block["text"]


def _pattern(printed: str) -> str:
    """A regular expression of what a page shows; columns may be of another width."""
    lines = []
    for line in printed.rstrip().splitlines():
        text = re.sub(r"(?:\\ )+", " +", re.escape(line.rstrip())).replace(r"\.\.\.", ".*")
        lines.append(r"(?:.*\n)*?" if line.strip() == "..." else text + r" *\n")
    return "".join(lines)


def _run(steps: list[Command | tuple[Path, str]], folder: Path) -> list[tuple[int, str]]:
    """Exit code and output of each command, of one shell."""
    script = ["exec 2>&1"]
    for step in steps:
        if isinstance(step, Command):
            script.append(f"{step.text}\n__code=$?; printf '{MARK}%d{MARK}' $__code; (exit $__code)")
        else:
            # As if it were saved between two commands.
            path, text = step
            script.append(f"mkdir -p {path.parent} && cat >{path} <<'{MARK}'\n{text}{MARK}\n")
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=folder, env=told(), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=LONGEST_S,
    )  # fmt: skip
    pieces = done.stdout.split(MARK)
    return [(int(code), printed) for printed, code in zip(pieces[::2], pieces[1::2], strict=False)]


def told() -> dict[str, str]:
    """The environment of a reader's shell."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return environment | {"OPENBLAS_NUM_THREADS": "1", "DIFFUZZ": str(ROOT)}


def _missing(page: str) -> list[str]:
    names = [name for found in NEEDS.findall(page) for name in re.findall(r"`([\w-]+)`", found)]
    found = (shutil.which(name) or importlib.util.find_spec(name.replace("-", "_")) for name in names)
    return [name for name, place in zip(names, found, strict=True) if place is None]


@pytest.mark.parametrize(("path", "slow"), RUNS)
def test_every_command_prints_what_the_page_shows(
    path: Path, slow: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Files, commands and output of a tutorial are what they are said to be."""
    page = path.read_text(encoding="utf-8")
    if slow and not request.config.getoption("--slow"):
        pytest.skip("takes long: give --slow")
    if missing := _missing(page):
        pytest.skip(f"the page needs {', '.join(missing)}")
    _compare(path.name, list(_steps(page, slow)), tmp_path)


def _compare(page: str, steps: list[Command | tuple[Path, str]], folder: Path) -> None:
    commands = [step for step in steps if isinstance(step, Command)]
    done = _run(steps, folder)
    for command, (code, printed) in zip(commands, done, strict=False):
        said = "\n".join(line.rstrip() for line in printed.splitlines()) + "\n"
        if command.printed is None:
            assert code == 0, f"{command.text}\nexits with {code}:\n{said}"
            continue
        assert code in (0, 1, 3), f"{command.text}\nexits with {code}:\n{said}"
        if not shows(command.printed, said):
            pytest.fail(f"{command.text}\nprints\n{said}\nwhere {page} shows\n{command.printed}", pytrace=False)
    assert len(done) == len(commands), "the shell has ended before the page does"


def shows(shown: str, printed: str) -> bool:
    """Whether what a page shows is what is printed, but for times."""
    return re.fullmatch(_pattern(_timeless(shown)) + r"\s*", _timeless(printed)) is not None


def _timeless(text: str) -> str:
    """Without what depends on how fast a machine is."""
    text = re.sub(r"[\d.,]+ s(?=\.?(?: \(|\n|$))", "T s", text, flags=re.MULTILINE)
    return re.sub(r"\([\d.,]+ per second\)", "(T per second)", text)


@pytest.mark.parametrize("path", [path for path in PAGES if path.stem != "index"], ids=lambda path: path.stem)
def test_every_tutorial_says_what_it_gives_and_takes(path: Path) -> None:
    """It begins with what its reader has at the end and needs, ends with where to go, and the index has it."""
    page = path.read_text(encoding="utf-8")
    opening, sections = page.partition("\n## ")[0], re.findall(r"^## (.*)", page, re.MULTILINE)
    assert "**At the end you have**" in opening
    assert "**You need**" in opening
    assert sections[-1] == "Where next"
    assert f"]({path.name})" in (path.parent / "index.md").read_text(encoding="utf-8")


def test_a_page_that_shows_something_else_is_noticed(tmp_path: Path) -> None:
    """Text that is not printed, an exit code above 1 and a shell that ends are each told apart from what is right."""
    steps = list(_steps("# a\n```console\n$ echo one two\none ...\n$ echo $?\n0\n```\n```sh\nfalse\n```\n", False))
    done = _run(steps, tmp_path)
    assert [(0, "one two\n"), (0, "0\n"), (1, "")] == done
    assert re.fullmatch(_pattern("one ...\n"), "one two\n")
    assert re.fullmatch(_pattern("one two\n"), "one   two\n")
    assert re.fullmatch(_pattern("...\nend\n"), "a\nb\nend\n")
    assert not re.fullmatch(_pattern("one\n"), "one two\n")
    assert not re.fullmatch(_pattern("...\nend\n"), "a\nend\nb\n")
    assert [] == _run([Command("exit 0", None)], tmp_path)
