"""The ledger: what the journals of a campaign say of each job."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from diffuzz.campaigns import scheduling
from diffuzz.campaigns.job import Job
from diffuzz.campaigns.journal import Record
from diffuzz.campaigns.scheduling import Standing

# Why a search ends for good: until what it asks of changes, more of it finds nothing else.
OVER = ("bound reached", "witness", "ideas")
# A case that is wrong by more than so many times as much, or as little, as before is wrong in another way.
SAME = 2.0


def value_of(record: Mapping[str, Any]) -> float:
    """The value of a slice, 0 without one."""
    value = record.get("value")
    return float(value) if isinstance(value, int | float) or value in ("inf", "-inf") else 0.0


def key_of(record: Mapping[str, Any]) -> str | None:
    """What tells a finding from others of the same job; None where a slice found nothing."""
    if not record.get("finding"):
        return None
    return str(record.get("mechanism") or record["status"])


def _alike(then: float, record: Record) -> bool:
    """Whether the case that was wrong then is as wrong in a slice that began with it: within a factor of SAME."""
    kept, threshold = (value_of({"value": record.get(name)}) for name in ("kept", "threshold"))
    if not kept > threshold:
        return False
    if math.isinf(kept) or math.isinf(then):
        return kept == then
    return then / SAME <= kept <= then * SAME


@attrs.define(eq=False)
class Ledger:
    """``jobs`` by name, and the slices that each has had, by ``records`` in their order.

    ``of`` says of each job what it asks of now: digests and versions, which a slice has recorded, too. ``known`` are
    the findings of another campaign, as (job, key).
    """

    jobs: Mapping[str, Job]
    of: Mapping[str, str]
    known: frozenset[tuple[str, str]] = frozenset()
    night: int = 0
    # Whether the last night has not come to its end.
    unfinished: bool = False
    begun: Record | None = None
    slices: dict[str, list[Record]] = attrs.field(init=False, factory=dict)
    # Slices of jobs that are not among those of the plan any more.
    others: int = 0
    # Witnesses that could be saved later only.
    saved: dict[str, Record] = attrs.field(init=False, factory=dict)

    @classmethod
    def of_records(
        cls,
        jobs: Sequence[Job],
        of: Mapping[str, str],
        records: Iterable[Record],
        known: frozenset[tuple[str, str]] = frozenset(),
    ) -> Ledger:
        """The ledger of what was recorded."""
        found = cls({job.name: job for job in jobs}, of, known)
        for record in records:
            found.take(record)
        return found

    def take(self, record: Record) -> None:
        """Take a record of the journal into account."""
        kind = record["kind"]
        if kind == "begin":
            self.night, self.unfinished, self.begun = int(record["night"]), True, record
        elif kind == "end":
            self.unfinished = False
        elif kind == "witness":
            self.saved[record["job"]] = record
        elif kind == "slice":
            if record["job"] in self.jobs:
                self.slices.setdefault(record["job"], []).append(record)
            else:
                self.others += 1

    def last(self, name: str) -> Record | None:
        """The last slice of a job that had a result, or else the last at all."""
        found = self.slices.get(name, ())
        return next((one for one in reversed(found) if one["status"] == "searched"), found[-1] if found else None)

    def tonight(self, name: str) -> list[Record]:
        """The slices of a job in this night."""
        return [one for one in self.slices.get(name, ()) if one["night"] == self.night]

    def open_before(self, name: str, number: int) -> bool:
        """Whether more time may find more, by what was known before a round of this night."""
        found = self._before(name, number)
        if not found or found[-1].get("of") != self.of.get(name):
            return True
        if found[-1]["status"] != "searched":
            # What failed, or ended its process, is tried once a night.
            return bool(found[-1]["night"] != self.night)
        return found[-1]["stopped"] not in OVER

    def _before(self, name: str, number: int) -> list[Record]:
        """The slices of a job before a round of this night, but for those that made a case simpler."""
        return [
            one
            for one in self.slices.get(name, ())
            if one["round"] != "final" and (one["night"] < self.night or one["round"] < number)
        ]

    def done(self, name: str, number: int | str) -> bool:
        """Whether a job has had its slice of a round of this night."""
        return any(one["round"] == number for one in self.tonight(name))

    def spent(self, number: float = math.inf) -> float:
        """Seconds of search in this night before a round; what makes cases simpler is not in the budget."""
        return sum(
            float(one["spent"])
            for name in self.jobs
            for one in self.tonight(name)
            if one["round"] != "final" and one["round"] < number
        )

    def standing(self, name: str, number: int) -> Standing:
        """What is known of a job before a round of this night."""
        known = self._before(name, number)
        tonight = [one for one in known if one["night"] == self.night]
        values = [value_of(one) for one in known if one["status"] == "searched"]
        last = known[-1] if known else None
        gained = 0.0
        if last is not None and values and not last.get("judges"):
            earlier = values[-2] if len(values) > 1 else 0.0
            gained = scheduling.gain(earlier, values[-1], float(last["seconds"]))
        bound = float(last.get("bound") or 0.0) if last is not None else 0.0
        return Standing(
            name,
            slices=len(tonight),
            last=max((int(one["round"]) for one in tonight), default=-1),
            gain=gained,
            valued=bool(values) and (values[-1] > 0 or bool(last and last.get("judges"))),
            reached=values[-1] / bound if values and 0 < bound < math.inf else 0.0,
            changed=last is not None and last.get("of") != self.of.get(name),
        )

    def unsaved(self, name: str) -> bool:
        """Whether a claim has a larger value than that of the case that was made simpler and kept last."""
        last = self.last(name)
        if last is None or last["status"] != "searched" or last.get("judges") or not value_of(last) > 0:
            return False
        kept = [value_of(one) for one in self.slices[name] if one.get("witness") or one["round"] == "final"]
        return not kept or value_of(last) > kept[-1] * (1 + 1e-9)

    def is_known(self, record: Record) -> bool:
        """Whether a finding was one before this night, or is one of the campaign that this one is compared with: of the
        same kind, or on the very case that was wrong then.
        """
        name, key = record["job"], key_of(record)
        before = [one for one in self.slices.get(name, ()) if one["night"] < self.night and key_of(one) is not None]
        known = {key_of(one) for one in before} | {other for job, other in self.known if job == name}
        then = before[-1] if before else next((one["before"] for one in self.tonight(name) if one.get("before")), None)
        # The first slice of the night looked at the case of then: it says whether this is the same.
        first = next((one for one in self.tonight(name) if one["status"] == "searched"), record)
        if first.get("kept") is not None and then is not None and then.get("value") is not None:
            return bool(known) and _alike(value_of(then), first)
        return key in known

    def witness(self, name: str) -> str | None:
        """The last witness of a job that was saved."""
        if name in self.saved:
            return str(self.saved[name]["witness"])
        found = (one["witness"] for one in reversed(self.slices.get(name, ())) if one.get("witness"))
        return next(found, None)

    def unwritten(self, name: str) -> str | None:
        """The entry of a job that could not be saved, if none was saved since."""
        found = [one for one in self.slices.get(name, ()) if one.get("witness") or one.get("unsaved")]
        return None if name in self.saved or not found else found[-1].get("unsaved")

    def found_before(self, name: str) -> Record | None:
        """The last finding of a job in the night before the last one in which it was asked, if it was one then and is
        none now.
        """
        found = [one for one in self.slices.get(name, ()) if one["status"] != "failed"]
        if not found or key_of(found[-1]) is not None or found[-1]["night"] != self.night:
            return None
        before = [one for one in found if one["night"] != self.night]
        return before[-1] if before and key_of(before[-1]) is not None else None

    def looked_again(self, name: str) -> bool:
        """Whether a slice of this night has evaluated the case that was best before it."""
        return any(one.get("kept") is not None for one in self.tonight(name))

    def is_first(self, record: Record) -> bool:
        """Whether a slice that was taken into account is the first of this night that has a new finding of its job."""
        found = [one for one in self.tonight(record["job"]) if key_of(one) is not None]
        return key_of(record) is not None and found[0] is record and not self.is_known(record)

    def new(self) -> list[Record]:
        """The findings of this night that are new: the last slice of each job that says so, if it could be asked."""
        said = [[one for one in self.tonight(name) if one["status"] != "failed"] for name in self.jobs]
        last = [slices[-1] for slices in said if slices]
        return [one for one in last if key_of(one) is not None and not self.is_known(one)]

    def failed(self) -> list[Record]:
        """The jobs of this night that could not be asked, by their last slice."""
        last = [found[-1] for name in self.jobs if (found := self.tonight(name))]
        return [one for one in last if one["status"] == "failed"]
