"""Comparing two campaigns: what is new, gone, worse or better, job by job.

Two jobs are the same if their names are, which follow from what is asked and not from the build that is asked: so a
campaign of last week's library is held against one of today's. The later one begins with the best cases of the earlier
(see diffuzz.campaigns.running): what is worse or better is so on the same case, and a finding that is gone does not
show on its own witness any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import attrs

from diffuzz.campaigns import journal
from diffuzz.campaigns.journal import JournalError, Record
from diffuzz.campaigns.ledger import Ledger, key_of, value_of

# Relative: what two searches of the same thing may differ by.
ALIKE = 0.01
How = Literal["new", "gone", "worse", "better"]


@attrs.frozen
class Change:
    """What has changed about a job: its last slice in each campaign; ``before`` is None where there was none."""

    how: How
    job: str
    title: str
    before: Record | None
    now: Record


def last_of(folder: Path) -> dict[str, Record]:
    """The last result of each job of a campaign. Raises JournalError where there is none."""
    paths = journal.all_of(folder)
    if not paths:
        raise JournalError(f"{folder}: is no folder of a campaign (it has no journal-1-of-1.jsonl)")
    found: dict[str, Record] = {}
    for record in journal.records_of(folder):
        if record["kind"] == "slice" and record["status"] != "failed":
            found[record["job"]] = record
    return found


def known_of(folder: Path) -> frozenset[tuple[str, str]]:
    """The findings of a campaign, as a ledger knows them. Raises JournalError."""
    return frozenset((name, key) for name, record in last_of(folder).items() if (key := key_of(record)) is not None)


def changes(before: dict[str, Record], ledgers: Sequence[Ledger]) -> Iterator[Change]:
    """What has changed, in the order of the jobs."""
    for ledger in ledgers:
        for name in ledger.jobs:
            now, then = ledger.last(name), before.get(name)
            if now is None or now["status"] == "failed":
                continue
            how = _how(then, now, ledger)
            if how is not None:
                yield Change(how, name, str(now["title"]), then, now)


def _how(then: Record | None, now: Record, ledger: Ledger) -> How | None:
    if key_of(now) is not None:
        return None if ledger.is_known(now) else "new"
    if then is None:
        return None
    if key_of(then) is not None:
        return "gone"
    # On the same case: what is larger because it was searched for longer is no change of the build.
    kept = next((one["kept"] for one in ledger.slices[now["job"]] if one.get("kept") is not None), None)
    if kept is None:
        return None
    old, new = value_of(then), float(kept)
    if new > old * (1 + ALIKE):
        return "worse"
    return "better" if new < old * (1 - ALIKE) else None
