"""The readers under damaged files: ``--cases 100000`` for as many of each kind, which takes half a minute each."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from models.mutating import mutants
from models.test_damaged_files import READERS

pytestmark = pytest.mark.quality

# Mutants of a test by default are this part of the cases that libggml is held against.
SHARE = 10
# Bytes that looking at a file may take beyond the file itself.
MOST_MEMORY = 64 * 2**20


@pytest.fixture
def deadline() -> Iterator[None]:
    """What takes a second of wall clock is interrupted by an exception where it is."""

    def late(*_: object) -> None:
        raise TimeoutError("a reader took longer than a second")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _memory(*, reset: bool = False) -> int:
    """Bytes of this process at the most since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files(reader: str, tmp_path: Path, deadline: None, pytestconfig: pytest.Config) -> None:
    """No other exception than ModelError, none slower than a second, and 64 MB of memory at most."""
    cases = int(pytestconfig.getoption("cases"))
    make, fields, look = READERS[reader]
    raw = make(tmp_path)
    path, outcomes, slowest = tmp_path / "mutant", Counter[str](), 0.0
    path.write_bytes(raw)
    look(path)
    before = _memory(reset=True)
    for mutant in mutants(raw, fields(raw), cases if cases >= 100_000 else cases // SHARE, seed=1):
        path.write_bytes(mutant)
        signal.setitimer(signal.ITIMER_REAL, 1)
        began = time.monotonic()
        outcomes["refused" if look(path) else "read"] += 1
        slowest = max(slowest, time.monotonic() - began)
        signal.setitimer(signal.ITIMER_REAL, 0)
    memory = _memory() - before
    print(f"{reader}: {dict(outcomes)}, slowest {slowest:.3f} s, {memory / 2**20:.1f} MB more")
    assert memory < MOST_MEMORY
    assert outcomes["refused"] > outcomes.total() / 2
