"""Running: the rounds of a night, one after the other, until its budget is spent or nothing is left to look for.

For each slice that comes back, in this order: what it found goes to the corpus, what the next one begins with into a
file, and then a line into the journal. So a campaign that is ended at any moment, in whatever way, has lost no finding,
and goes on with the slices that have no line yet.

A slice whose process ends, or that does not come back in time, is done again, elsewhere where there is an elsewhere,
twice; then it is a finding of its own.
"""

from __future__ import annotations

import base64
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs

from diffuzz import __version__, interruption
from diffuzz.campaigns import journal as journals
from diffuzz.campaigns import scheduling, versions
from diffuzz.campaigns.comparing import COMPARED, Baseline
from diffuzz.campaigns.job import Job
from diffuzz.campaigns.journal import Journal, Record
from diffuzz.campaigns.ledger import OVER, Ledger, key_of
from diffuzz.campaigns.places import Place, PlaceError
from diffuzz.corpus import files as store
from diffuzz.corpus import lost
from diffuzz.corpus.entry import loads
from diffuzz.corpus.grouping import mechanism_of
from diffuzz.corpus.strict import NeedsFileError
from diffuzz.registry import one_line
from diffuzz.replacing import replace
from diffuzz.searching.state import LARGEST_STATE, State

STATES = "states"
# How often a slice is done that does not come back, and what it may take beside its seconds: loading, compiling,
# reproducing and minimising, which are bounded by themselves.
ATTEMPTS, FACTOR, EXTRA = 3, 6.0, 150.0
# The slice that a claim gets at the end of a night, so that its case is made simpler, in seconds.
FINAL = 1.0
# Seconds in which a place that is gone may come back.
_PATIENCE, _PAUSE = 120.0, 1.0


class BudgetError(ValueError):
    """Too little time for so many jobs; one line."""


@attrs.frozen
class Asked:
    """How much is asked for: seconds of search in all and of a first slice, the seed, and which shard of how many."""

    budget: float
    slice: float
    seed: int
    shard: int = 1
    shards: int = 1


@attrs.define
class Tally:
    """What a campaign has done since it was started, for who watches it: slices and evaluations, the round that it is
    in and the slices that are left of that, what was done again, what could not be saved, and broken lines of journals.
    """

    ledger: Ledger
    total: float
    slices: int = 0
    evaluations: int = 0
    round: int | str = 0
    left: int = 0
    began: float = attrs.field(factory=time.monotonic)
    retried: list[str] = attrs.field(factory=list)
    unsaved: list[str] = attrs.field(factory=list)
    broken: list[str] = attrs.field(factory=list)

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.began


def check(jobs: Sequence[Job], asked: Asked, corpus: Path) -> None:
    """Raise BudgetError, or CorpusError, before anything is written, where a campaign could do nothing."""
    store.check_writable(corpus)
    if jobs and asked.budget / len(jobs) < scheduling.least(asked.slice):
        raise BudgetError(
            f"budget: {asked.budget:g} s for {len(jobs)} jobs are less than {scheduling.LEAST:g} s each; give more "
            "time, or name fewer things"
        )


def run(
    jobs: Sequence[Job],
    asked: Asked,
    folder: Path,
    corpus: Path,
    place: Place,
    *,
    baseline: Baseline | None = None,
    limit: Callable[[float], float] = lambda seconds: FACTOR * seconds + EXTRA,
    on_begin: Callable[[], None] | None = None,
    on_slice: Callable[[Tally, Record | None], None] = lambda tally, record: None,
) -> Tally:
    """Run a night, or what is left of one, and return what was done. ``on_begin`` is called once nobody else can write
    to the journal, ``on_slice`` after each slice. Raises KeyboardInterrupt after the journal has all
    that has come back; PlaceError; JournalError; what ``check`` raises.
    """
    check(jobs, asked, corpus)
    with Journal(folder / journals.name(asked.shard, asked.shards)) as journal:
        of = {job.name: versions.of(job) for job in jobs}
        if on_begin is not None:
            on_begin()
        records = journals.merged(journals.read_all(folder), asked.shard, asked.shards)
        ledger = Ledger.of_records(jobs, of, records, frozenset() if baseline is None else baseline.known)
        seed = asked.seed if ledger.begun is None else ledger.begun["seed"]
        if ledger.unfinished and seed != asked.seed:
            raise BudgetError(
                f"seed: night {ledger.night} was begun with seed {seed}, and has not ended: go on with that"
            )
        if not ledger.unfinished:
            begin = {
                "kind": "begin", "schema": journals.SCHEMA, "night": 1 + max(ledger.night, _night_of_others(ledger)),
                "version": __version__, "jobs": len(jobs), **attrs.asdict(asked),
                "baseline": None if baseline is None else str(baseline.path),
            }  # fmt: skip
            journal.add(begin)
            ledger.take(begin)
        broken = [f"{journal.path}: line {number}" for number in journal.before.broken]
        tally = Tally(ledger, asked.budget, broken=broken)
        night = _Night(asked, folder, corpus, place, journal, tally, baseline, limit, on_slice)
        night.run()
        end = {"kind": "end", "night": ledger.night}
        journal.add(end)
        ledger.take(end)
        return night.tally


def _night_of_others(ledger: Ledger) -> int:
    return max((int(one.get("was", 0)) for slices in ledger.slices.values() for one in slices), default=0)


@attrs.define(eq=False)
class _Night:
    asked: Asked
    folder: Path
    corpus: Path
    place: Place
    journal: Journal
    tally: Tally
    baseline: Baseline | None
    limit: Callable[[float], float]
    on_slice: Callable[[Tally, Record | None], None]
    # Tasks that are out: the job and its round, how often it was tried, and until when it may take.
    _out: dict[Future[str], _Task] = attrs.field(init=False, factory=dict)

    def run(self) -> None:
        ledger = self.tally.ledger
        for name in ledger.jobs:
            if (text := ledger.unwritten(name)) is not None and "witness" in (found := self._saved(text)):
                # There is room for it now.
                record = {"kind": "witness", "job": name} | found
                self.journal.add(record)
                ledger.take(record)
        for number, seconds in self._rounds():
            self.tally.round = number
            self._do(
                [self._task(name, number, each) for name, each in seconds.items() if not ledger.done(name, number)]
            )
        unsaved = [name for name in ledger.jobs if ledger.unsaved(name) and not ledger.done(name, "final")]
        self.tally.round = "final"
        self._do([self._task(name, "final", FINAL) for name in unsaved])

    def _rounds(self) -> Iterator[tuple[int, Mapping[str, float]]]:
        """The numbers of rounds and the seconds of each job in them, as long as there is something to do."""
        number = 0
        while seconds := self._allotted(number):
            yield number, seconds
            number += 1

    def _allotted(self, number: int) -> Mapping[str, float]:
        """The seconds of each job in a round. They follow from the rounds before, so what this round has brought so far
        is left out.
        """
        ledger = self.tally.ledger
        standings = [ledger.standing(name, number) for name in ledger.jobs if ledger.open_before(name, number)]
        return scheduling.allotted(standings, number, self.asked.slice, self.asked.budget - ledger.spent(number))

    def _task(self, name: str, number: int | str, seconds: float) -> _Task:
        job = self.tally.ledger.jobs[name]
        text = f"{self.asked.seed} {name} {self.tally.ledger.night} {number}"
        return _Task(job, number, seconds, int.from_bytes(sha256(text.encode()).digest()[:4]))

    def _do(self, tasks: Sequence[_Task]) -> None:
        """Have tasks done, as many at once as the place has slots, and keep what comes of them."""
        waiting = deque(tasks)
        self.tally.left = len(tasks)
        self.on_slice(self.tally, None)
        try:
            while waiting or self._out:
                interruption.check()
                while waiting and len(self._out) < self.place.slots:
                    self._submit(waiting)
                finished, _ = wait(self._out, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._take(future, self._out.pop(future), waiting)
                for future in [one for one, task in self._out.items() if time.monotonic() > task.until]:
                    # It may be at work still, somewhere; what comes of it is not waited for.
                    future.cancel()
                    task = self._out.pop(future)
                    self._again(task, f"did not come back within {task.limit:.0f} s", waiting)
        finally:
            for future in self._out:
                future.cancel()
            self._out.clear()

    def _submit(self, waiting: deque[_Task]) -> None:
        """Hand in the next task. A place that is gone may come back; after a while that is an error, and what was
        handed in is done again by the next run.
        """
        task, began = waiting[0], time.monotonic()
        limit = self.limit(task.seconds)
        state, old = self._state(task.job.name)
        text = json.dumps(
            {
                "job": task.job.as_json(), "seconds": task.seconds, "seed": task.seed, "final": task.round == "final",
                "state": state,
            }
        )  # fmt: skip
        while True:
            try:
                future = self.place.submit(text, limit)
                break
            except PlaceError:
                if time.monotonic() - began > _PATIENCE or not self.tally.slices:
                    raise
                self.place.reopen()
                _pause(_PAUSE)
        waiting.popleft()
        # The process ends what takes too long; what is waited for here is a machine that has gone.
        self._out[future] = attrs.evolve(task, limit=limit, until=time.monotonic() + limit + EXTRA, old=old)

    def _state(self, name: str) -> tuple[str | None, Record | None]:
        """What the next slice of a job begins with, as text; of a new one what the campaign has that this one is
        compared with, and that record.
        """
        record, folder, old = self.tally.ledger.last(name), self.folder, None
        if record is None and self.baseline is not None:
            record = old = self.baseline.last.get(name)
            folder = self.baseline.path
        path = None if record is None else _place(folder, record)
        data = None if path is None else _bytes(path)
        if data is None and record is not None:
            # It is lost; but the witness may be there still.
            data = _of_witness(record.get("witness") or self.tally.ledger.witness(name))
        return (None if data is None else base64.b64encode(data).decode()), old

    def _take(self, future: Future[str], task: _Task, waiting: deque[_Task]) -> None:
        try:
            text = future.result()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # An executor may raise anything, and some of that is no Exception.
            # The place has lost it: its worker, its scheduler, or the way there.
            if not self._out:
                self.place.reopen()
            self._again(task, f"was lost: {one_line(error)}", waiting)
            return
        outcome = _outcome(text)
        if outcome is None:
            self._again(task, "what it answered is no outcome of a slice", waiting)
        elif outcome["status"] == "died":
            self._again(task, str(outcome.get("why")), waiting)
        else:
            self._keep(task, outcome)

    def _again(self, task: _Task, why: str, waiting: deque[_Task]) -> None:
        if task.attempts + 1 < ATTEMPTS:
            self.tally.retried.append(f"{task.job.title}: {why}")
            # After the others, so that it is done elsewhere where there is an elsewhere.
            waiting.append(attrs.evolve(task, attempts=task.attempts + 1))
            return
        self._keep(
            task,
            {
                "status": "died", "why": f"{ATTEMPTS} times; the last one {why}", "finding": True,
                "spent": task.seconds, "evaluations": 0,
            },
        )  # fmt: skip

    def _keep(self, task: _Task, outcome: dict[str, Any]) -> None:
        """Save what a slice found, then what the next one begins with, then say so in the journal."""
        entry, state = outcome.pop("entry", None), outcome.pop("state", None)
        ledger, name = self.tally.ledger, task.job.name
        record: Record = {"spent": 0.0, "evaluations": 0} | outcome | {
            "kind": "slice", "job": name, "title": task.job.title, "night": ledger.night, "round": task.round,
            "seconds": task.seconds, "seed": task.seed, "of": ledger.of[name],
        }  # fmt: skip
        if record["status"] == "searched" and record["stopped"] not in OVER:
            # A budget that is never spent would have no end.
            record["spent"] = max(float(record["spent"]), task.seconds)
        if entry is not None:
            record |= self._saved(str(entry))
        if task.old is not None:
            record["before"] = {key: task.old.get(key) for key in COMPARED} | {"key": key_of(task.old)}
        if state is not None:
            shard = f".{self.asked.shard}-{self.asked.shards}" if self.asked.shards > 1 else ""
            file = f"{name}{shard}.{ledger.night}.{task.round}.npz"
            try:
                (self.folder / STATES).mkdir(parents=True, exist_ok=True)
                replace(self.folder / STATES / file, (base64.b64decode(state),), mode=0o644)
                record["state"] = file
            except OSError as error:
                self.tally.unsaved.append(f"{self.folder / STATES / file}: cannot be written ({error.strerror})")
        self.journal.add(record)
        ledger.take(record)
        self._forget(name)
        self.tally.slices += 1
        self.tally.evaluations += int(record["evaluations"])
        self.tally.left -= 1
        self.on_slice(self.tally, record)

    def _forget(self, name: str) -> None:
        """Remove the states of a job but the last two: where the last line is spoilt, its slice is done again from the
        one before.
        """
        places = [place for one in self.tally.ledger.slices[name] if (place := _place(self.folder, one)) is not None]
        different = list(dict.fromkeys(reversed(places)))
        if len(different) < 3:
            return
        self.journal.sync()
        try:
            different[2].unlink(missing_ok=True)
        except OSError as error:
            self.tally.unsaved.append(f"{different[2]}: cannot be removed ({error.strerror})")

    def _saved(self, text: str) -> Record:
        """What a record says of an entry that was saved; all of it, where it cannot be."""
        try:
            stored = json.loads(text)
            entry = lost.of_json(stored, "") if lost.is_lost(stored) else loads(text, "")
            if isinstance(entry, lost.Lost):
                path = store.save_lost(entry, self.corpus)
            else:
                path = store.save(entry, self.corpus)
            known = mechanism_of(entry)
            return {"witness": str(path), "mechanism": "; ".join(filter(None, attrs.astuple(known)))}
        except (ValueError, NeedsFileError, RecursionError) as error:
            self.tally.unsaved.append(str(error))
            return {"unsaved": text, "mechanism": "not saved"}


@attrs.frozen
class _Task:
    job: Job
    round: int | str
    seconds: float
    seed: int
    attempts: int = 0
    limit: float = 0.0
    until: float = 0.0
    # The slice of another campaign that this one goes on from.
    old: Record | None = None


def _place(folder: Path, record: Record) -> Path | None:
    """The file of the state of a slice; None for none, and for a name that leads elsewhere."""
    name = record.get("state")
    return folder / STATES / name if isinstance(name, str) and name and Path(name).name == name else None


def _bytes(path: Path) -> bytes | None:
    """What a file of a state has; None for none, and for what is none: a pipe, or more than any search leaves."""
    try:
        with store.open_regular(path) as file:
            data = file.read(LARGEST_STATE + 1)
    except (OSError, ValueError):
        return None
    return data if len(data) <= LARGEST_STATE else None


def _of_witness(witness: object) -> bytes | None:
    """A state that has the case of a witness, and nothing else."""
    if not isinstance(witness, str):
        return None
    try:
        entry = store.load_any(Path(witness))
    except (ValueError, ImportError, OSError):
        return None
    return None if isinstance(entry, lost.Lost) else State(entry.case, entry.value).dumps()


def _outcome(text: object) -> dict[str, Any] | None:
    """What came of a slice; None for what is no outcome of one, whoever sent it."""
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("status") not in ("searched", "failed", "died"):
        return None
    known = {
        "kind": "slice",
        "job": "",
        "title": "",
        "night": 1,
        "round": 0,
        "seconds": 1.0,
        "spent": 0.0,
        "evaluations": 0,
    }
    texts = all(found.get(name) is None or isinstance(found[name], str) for name in ("entry", "state", "why"))
    return found if texts and journals.is_record(known | found | {"kind": "slice"}) else None


def _pause(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        interruption.check()
        time.sleep(0.05)
