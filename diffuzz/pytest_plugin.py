"""A pytest plugin: every corpus file is one test, which replays it.

Installed with diffuzz (entry point ``pytest11``); it collects files named like a corpus entry, ``<target>/<12
hexadecimal digits>.json``, wherever pytest looks, and leaves every other file alone:

    pytest corpus/
    pytest corpus/ --diffuzz-candidate my_kernels.py:soft_max      for entries that were found with a candidate
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Nothing of diffuzz is imported here: this module is loaded in every pytest run of everyone who has diffuzz installed.
_NAME = re.compile(r"[0-9a-f]{12}\.json")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--diffuzz-candidate``."""
    group = parser.getgroup("diffuzz")
    group.addoption(
        "--diffuzz-candidate",
        metavar="FILE.py:FUNCTION",
        help="function to replay those corpus entries with that were found with a candidate",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A collector for a corpus entry, None for any other file."""
    if not _NAME.fullmatch(file_path.name):
        return None
    from diffuzz import targets

    if file_path.parent.name not in targets.names():
        return None
    return CorpusFile.from_parent(parent, path=file_path)


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
        from diffuzz.candidate import Candidate
        from diffuzz.replay import replay_file

        name = self.config.getoption("--diffuzz-candidate")
        with contextlib.ExitStack() as stack:
            result = replay_file(self.path, stack.enter_context(Candidate(name)) if name else None)
        if result.status == "needs candidate" and result.entry is not None:
            raise ReplayError(f"found with a candidate; give --diffuzz-candidate, then: {result.entry.candidate}")
        if result.status != "as recorded":
            raise ReplayError(f"{result.status}: {result.message}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A failed replay as its own words, without a traceback."""
        if isinstance(excinfo.value, ReplayError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where pytest says that the item is."""
        return self.path, None, f"replay {self.path.parent.name}/{self.path.stem}"
