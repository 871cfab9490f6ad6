"""A pytest plugin: every corpus file is one test, which replays it.

Installed with diffuzz (entry point ``pytest11``); it collects files named like a corpus entry, ``<target>/<12
hexadecimal digits>.json``, wherever pytest looks, and leaves every other file alone (``replay`` reads them all):

    pytest corpus/
    pytest corpus/ --diffuzz-candidate my_kernels.py:soft_max      for entries that were found with a candidate
    pytest corpus/ --diffuzz-target my_norm.py:TARGET              for entries of a target in a file
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from diffuzz.corpus.replay import Replayed

# Nothing of diffuzz is imported here: this module is loaded in every pytest run of everyone who has diffuzz installed.
_NAME = re.compile(r"[0-9a-f]{12}\.json")
# Every entry begins with this field.
_BEGINS = re.compile(rb'\s*\{\s*"diffuzz"')
_FILES = ("target", "format", "kernels")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a corpus entry may name, and never loads by itself."""
    group = parser.getgroup("diffuzz")
    group.addoption(
        "--diffuzz-candidate",
        metavar="FILE.py:FUNCTION",
        help="function to replay those corpus entries with that were found with a candidate",
    )
    for kind in _FILES:
        group.addoption(
            f"--diffuzz-{kind}",
            metavar="FILE.py" if kind == "kernels" else "FILE.py:NAME",
            action="append",
            default=[],
            help=f"{kind} in a file, for those corpus entries that were found with it (repeatable)",
        )


def pytest_configure(config: pytest.Config) -> None:
    """Load the files that the options name. Raises pytest.UsageError where one cannot be loaded."""
    named = {kind: config.getoption(f"--diffuzz-{kind}") for kind in _FILES}
    if not any(named.values()):
        return
    from diffuzz import formats, kernels, targets
    from diffuzz.registry import RegistryError

    try:
        for load, kind in ((formats.load, "format"), (targets.load, "target"), (kernels.load, "kernels")):
            for name in named[kind]:
                load(name)
    except RegistryError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A collector for a corpus entry, None for any other file."""
    if not _NAME.fullmatch(file_path.name):
        return None
    if not _is_entry(file_path):
        from diffuzz import targets

        # One that is damaged is a failure, and not left out.
        if not targets.REGISTRY.known(file_path.parent.name):
            return None
    return CorpusFile.from_parent(parent, path=file_path)


def _is_entry(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _BEGINS.match(file.read(64)) is not None
    except OSError:
        return False


class CorpusFile(pytest.File):
    """A corpus file: one item."""

    def collect(self) -> Iterator[pytest.Item]:
        """The item that replays the file."""
        yield CorpusItem.from_parent(self, name="replay")


class ReplayError(Exception):
    """A replay that did not give what the entry recorded; the message says what it gave."""


class CorpusItem(pytest.Item):
    """The replay of one corpus entry."""

    def runtest(self) -> None:
        """Replay, and raise ReplayError unless everything is as recorded."""
        from diffuzz.corpus.replay import replay_file
        from diffuzz.judging.question import Judge

        name = self.config.getoption("--diffuzz-candidate")
        result = replay_file(self.path, Judge(name) if name else None)
        if result.status != "as recorded":
            raise ReplayError(_message(result))

    # The types of ``style`` and of the result are private to pytest.
    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A failed replay as its own words, without a traceback."""
        if isinstance(excinfo.value, ReplayError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where pytest says that the item is."""
        return self.path, None, f"replay {self.path.parent.name}/{self.path.stem}"


def _message(result: Replayed) -> str:
    """What is wrong, with the options as they are called here."""
    if result.status == "needs candidate" and result.entry is not None:
        return f"give --diffuzz-candidate {result.entry.candidate}: found with a candidate"
    if result.status == "needs file":
        # pytest's summary has room for a few words: the option first.
        said, _, option = result.message.removeprefix(f"{result.path}: ").partition(": give --")
        return f"give --diffuzz-{option}: {said}"
    return f"{result.status}: {result.message}"
