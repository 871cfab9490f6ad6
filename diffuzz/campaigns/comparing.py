"""Comparing two campaigns: what is new, gone, worse or better, job by job.

Two jobs are the same if their names are, which follow from what is asked and not from the build that is asked: so a
campaign of last week's library is held against one of today's. The later one begins with the best cases of the earlier
(see diffuzz.campaigns.running): what is worse or better is so on the same case, and a finding that is gone does not
show on its own witness any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from diffuzz.campaigns import journal
from diffuzz.campaigns.journal import JournalError, Record
from diffuzz.campaigns.ledger import Ledger, key_of, value_of

# Relative: what two searches of the same thing may differ by.
ALIKE = 0.01
How = Literal["new", "gone", "unsure", "worse", "better"]


# What is told of a slice of either.
COMPARED = ("verdict", "value", "why", "failure", "witness", "of", "beside")


@attrs.frozen
class Baseline:
    """Another campaign: its folder, and the last result of each of its jobs."""

    path: Path
    last: Mapping[str, Record]

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """Raises JournalError where there is none."""
        if not journal.all_of(path):
            raise JournalError(f"{path} is no folder of a campaign: it has no journal")
        last = {
            record["job"]: record
            for record in journal.records_of(path)
            if record["kind"] == "slice" and record["status"] != "failed"
        }
        return cls(path, last)

    @property
    def known(self) -> frozenset[tuple[str, str]]:
        """Its findings, as a ledger knows them."""
        found = ((name, key_of(record)) for name, record in self.last.items())
        return frozenset((name, key) for name, key in found if key is not None)


@attrs.frozen
class Change:
    """What has changed about a job: ``before`` is None where there was nothing to compare with."""

    how: How
    job: str
    title: str
    before: Mapping[str, Any] | None
    now: Mapping[str, Any]


def changes(ledgers: Sequence[Ledger], baseline: Baseline | None) -> Iterator[Change]:
    """What has changed since the nights before, and, with a ``baseline``, since that campaign; in order of the jobs.

    What is worse or better is so on the same case, that with which the first slice of a job began; what is larger
    because it was searched for longer is no change of the build. What is not found any more, and whose case could not
    be looked at, is unsure.
    """
    for ledger in ledgers:
        for name in ledger.jobs:
            now = ledger.last(name)
            if now is None or now["status"] == "failed":
                continue
            if key_of(now) is not None:
                if not ledger.is_known(now) and now["night"] == ledger.night:
                    yield Change("new", name, now["title"], None if baseline is None else baseline.last.get(name), now)
                continue
            lost = ledger.found_before(name)
            first = next((one for one in ledger.slices[name] if one.get("before")), None) if baseline else None
            old = first["before"] if first is not None else None
            if lost is not None or (old is not None and old.get("key") is not None):
                was_beside = bool((lost or old or {}).get("beside"))
                asked = now.get("verdict") in ("kept", "not invariant") or ledger.looked_again(name)
                yield Change("gone" if asked and not was_beside else "unsure", name, now["title"], lost or old, now)
            elif first is not None and old is not None and first.get("kept") is not None:
                was, kept = value_of(old), float(first["kept"])
                if kept > was * (1 + ALIKE) or kept < was * (1 - ALIKE):
                    how: How = "worse" if kept > was else "better"
                    yield Change(how, name, now["title"], old, first | {"value": first["kept"]})
