"""A pytest plugin: every corpus file is one test, which replays it; and the fixture ``diffuzz``, to search in tests.

Installed with diffuzz (entry point ``pytest11``); it collects files named like a corpus entry, ``<target>/<12
hexadecimal digits>.json``, wherever pytest looks, and leaves every other file alone (``replay`` reads them all):

    pytest corpus/
    pytest corpus/ --diffuzz-candidate my_kernels.py:soft_max      for entries that were found with a candidate; of
                                                                   several, once for each
    pytest corpus/ --diffuzz-target my_norm.py:TARGET              for entries of a target in a file
    pytest corpus/ --diffuzz-candidate ... --diffuzz-judge         fails where the function is wrong now, and passes
                                                                   where it is right, whatever was recorded

    def test_soft_max(diffuzz):
        diffuzz.check(soft_max, "softmax")

    pytest tests/ --diffuzz-budget 30 --diffuzz-corpus corpus      seconds for each check; where witnesses are saved
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffuzz.corpus.recognising import begins_like_an_entry, named_like_an_entry

if TYPE_CHECKING:
    from diffuzz.corpus.candidates import Candidates
    from diffuzz.corpus.in_tests import Searches
    from diffuzz.corpus.replay import Replayed

# Nothing else of diffuzz is imported here: this module is loaded in every pytest run of everyone who has it installed.
_FILES = ("target", "format", "kernels")
_CANDIDATES: pytest.StashKey[Candidates | None] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a corpus entry may name, and never loads by itself; and how the checks of tests search."""
    group = parser.getgroup("diffuzz")
    group.addoption(
        "--diffuzz-budget",
        metavar="SECONDS",
        type=float,
        help="time that each check of the fixture diffuzz searches, whatever the test says [that of the test, or 5]",
    )
    group.addoption(
        "--diffuzz-corpus",
        metavar="DIR",
        type=Path,
        help="folder that the fixture diffuzz saves the witnesses of failed checks in [they are printed only]",
    )
    group.addoption(
        "--diffuzz-candidate",
        metavar="[NAME=]FILE.py:FUNCTION",
        action="append",
        default=[],
        help="function to replay those corpus entries with that were found with the candidate NAME (repeatable); also "
        "FILE.so:SYMBOL, or 'run: PROGRAM'; see --candidate of diffuzz replay",
    )
    group.addoption(
        "--diffuzz-arrays",
        metavar="KIND",
        choices=("numpy", "torch", "jax", "dlpack"),
        help="arrays that the candidates of corpus entries get: numpy, torch, jax, dlpack [what each entry recorded]",
    )
    group.addoption(
        "--diffuzz-device",
        metavar="NAME",
        help="device of arrays of torch and jax, for corpus entries and checks: cpu, cuda:0 [what each says, or cpu]",
    )
    group.addoption(
        "--diffuzz-judge",
        action="store_true",
        help="corpus entries of a candidate fail where the function is wrong now, and pass where it is right, whatever "
        "was recorded",
    )
    group.addoption(
        "--diffuzz-longest",
        metavar="SECONDS",
        type=float,
        help="time that the case of one corpus entry may be expected to take [2]",
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
    budget = config.getoption("--diffuzz-budget")
    if budget is not None and not 0 < budget < math.inf:
        raise pytest.UsageError(f"--diffuzz-budget {budget:g}: a positive number of seconds is needed")
    named = {kind: config.getoption(f"--diffuzz-{kind}") for kind in (*_FILES, "candidate")}
    if not any(named.values()):
        return
    from diffuzz import formats, kernels, targets
    from diffuzz.corpus import candidates
    from diffuzz.judging.handing import HandingError
    from diffuzz.judging.opening import CandidateError
    from diffuzz.registry import RegistryError

    try:
        arrays, device = config.getoption("--diffuzz-arrays"), config.getoption("--diffuzz-device")
        config.stash[_CANDIDATES] = candidates.parse(named["candidate"], arrays=arrays, device=device)
        for load, kind in ((formats.load, "format"), (targets.load, "target"), (kernels.load, "kernels")):
            for name in named[kind]:
                load(name)
    except (CandidateError, HandingError, RegistryError) as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(name="diffuzz")
def searches(request: pytest.FixtureRequest) -> Searches:
    """Searches in a test: ``diffuzz.check(my_kernel, "softmax")``, ``diffuzz.assert_within_bound(got, f, x)``."""
    from diffuzz.corpus.in_tests import Searches

    option = request.config.getoption
    return Searches(
        request.node.nodeid, option("--diffuzz-budget"), option("--diffuzz-corpus"), option("--diffuzz-device")
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say which candidate is for which entries, now that it is known which entries there are."""
    if (given := config.stash.get(_CANDIDATES, None)) is None:
        return
    from diffuzz.corpus import candidates, files

    entries = [item for item in items if isinstance(item, CorpusItem)]
    config.stash[_CANDIDATES] = candidates.by_name(given, (files.candidate_of(item.path) for item in entries))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A collector for a corpus entry, None for any other file."""
    if not named_like_an_entry(file_path):
        return None
    if not begins_like_an_entry(file_path):
        from diffuzz import targets

        # One that is damaged is a failure, and not left out.
        if not targets.REGISTRY.known(file_path.parent.name):
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
        from diffuzz.corpus.replay import GOOD, LONGEST, replay_file

        longest = self.config.getoption("--diffuzz-longest")
        candidates = self.config.stash.get(_CANDIDATES, None)
        judge = self.config.getoption("--diffuzz-judge")
        result = replay_file(self.path, candidates, longest=LONGEST if longest is None else longest, judge=judge)
        if result.status not in GOOD:
            raise ReplayError(_message(result))

    # The types of ``style`` and of the result are private to pytest.
    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A failed replay as its own words, without a traceback."""
        if isinstance(excinfo.value, ReplayError):
            from diffuzz.escaping import escaped

            return escaped(str(excinfo.value))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where pytest says that the item is."""
        return self.path, None, f"replay {self.path.parent.name}/{self.path.stem}"


def _message(result: Replayed) -> str:
    """What is wrong, with the options as they are called here."""
    said = result.message.removeprefix(f"{result.path}: ")
    if result.status == "needs candidate" and result.entry is not None and said.startswith("found with a candidate"):
        return f"give --diffuzz-candidate {result.entry.candidate}: found with a candidate"
    if result.status == "needs time":
        said, _, option = said.partition(": give --longest ")
        return f"give --diffuzz-longest {option.removesuffix('s')}: {said}"
    if result.status == "needs file":
        # pytest's summary has room for a few words: the option first.
        said, _, option = said.partition(": give --")
        return f"give --diffuzz-{option}: {said}"
    return f"{result.status}: {result.message}"
