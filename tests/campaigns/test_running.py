"""A night: it goes on wherever it was stopped, loses nothing, and does again what did not come back."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import made_up_places
import pytest
from made_up_places import Outcome, searched

from diffuzz.campaigns import folder as folders
from diffuzz.campaigns import journal, running
from diffuzz.campaigns.comparing import Baseline, changes
from diffuzz.campaigns.job import Job
from diffuzz.campaigns.journal import Record
from diffuzz.campaigns.plan import Jobs
from diffuzz.campaigns.running import Asked, BudgetError, Tally, run
from diffuzz.corpus import files
from diffuzz.searching.state import State

_JOBS = [Job("softmax", (("n", str(size)),)) for size in range(3, 12)]
_ASKED = Asked(budget=60.0, slice=2.0, seed=5)


def _slices(folder: Path) -> list[Record]:
    return [one for one in journal.records_of(folder) if one["kind"] == "slice"]


def _run(folder: Path, do: Any = searched, **others: Any) -> Tally:
    with made_up_places.place(do) as place:
        return run(_JOBS, others.pop("asked", _ASKED), folder, folder / "corpus", place, **others)


def test_a_night(tmp_path: Path) -> None:
    """Each job has a first slice, the budget is spent, states go from slice to slice, and the last two are left."""
    tally = _run(tmp_path)
    found = _slices(tmp_path)
    assert Counter(one["job"] for one in found if one["round"] == 0) == dict.fromkeys((job.name for job in _JOBS), 1)
    assert 58 < tally.ledger.spent() <= 60
    for job in _JOBS:
        values = [one["value"] for one in found if one["job"] == job.name]
        assert values == sorted(values)
        # At the end the case of a claim is made simpler.
        assert [one["round"] for one in found if one["job"] == job.name][-1] == "final"
    assert len(list((tmp_path / "states").iterdir())) == 2 * len(_JOBS)
    assert [one["kind"] for one in journal.records_of(tmp_path)][-1] == "end"


class _StopError(Exception):
    pass


@pytest.mark.parametrize("seed", range(5))
def test_it_goes_on_as_it_would_have(seed: int, tmp_path: Path) -> None:
    """A campaign that is stopped again and again, after any slice, has done the same in the end, to the bit."""
    _run(tmp_path / "whole")
    rng = random.Random(seed)

    def watch(tally: Tally, record: Record | None) -> None:
        if record is not None and rng.random() < 0.3:
            raise _StopError

    for _ in range(200):
        try:
            _run(tmp_path / "stopped", on_slice=watch)
        except _StopError:
            continue
        break
    key = ("job", "round", "seed", "seconds", "value", "state")
    whole, stopped = (
        sorted(([one[name] for name in key] for one in _slices(tmp_path / name)), key=str)
        for name in ("whole", "stopped")
    )
    assert stopped == whole


def test_the_next_night(tmp_path: Path) -> None:
    """It begins where the last one ended; what was a finding is no new one; what changed is asked again, and first."""

    def finding(task: dict[str, Any]) -> Outcome:
        outcome = searched(task)
        if dict(task["job"]["params"])["n"] == "5":
            outcome |= {"finding": True, "verdict": "CONFIRMED", "stopped": "bound reached", "judges": True}
        return outcome

    first = _run(tmp_path, finding)
    assert [one["title"] for one in first.ledger.new()] == ["softmax n=5"]
    second = _run(tmp_path, finding)
    assert second.ledger.night == 2
    assert second.ledger.new() == []
    # It is over, so it has no slice in the second night.
    assert not second.ledger.tonight(_JOBS[2].name)
    values = {one["job"]: one["value"] for one in _slices(tmp_path) if one["night"] == 1}
    assert all(one["value"] >= values[one["job"]] for one in _slices(tmp_path) if one["night"] == 2)


def test_what_changed_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose function is another is open again, though it was over."""

    def over(task: dict[str, Any]) -> Outcome:
        return searched(task) | {"stopped": "witness", "finding": True, "judges": True}

    monkeypatch.setattr("diffuzz.campaigns.versions.of", lambda job: "one")
    _run(tmp_path, over)
    assert _run(tmp_path, over).slices == 0
    monkeypatch.setattr("diffuzz.campaigns.versions.of", lambda job: "two" if job == _JOBS[0] else "one")
    third = _run(tmp_path, over)
    assert [one["title"] for one in _slices(tmp_path) if one["night"] == 3] == [_JOBS[0].title]
    # It was wrong before, in the same way.
    assert third.ledger.new() == []


@pytest.mark.parametrize("how", ["died", "lost"])
def test_what_does_not_come_back(how: str, tmp_path: Path) -> None:
    """It is tried three times; then it is a finding of its own, and the others are done."""
    tries: Counter[str] = Counter()

    def dying(task: dict[str, Any]) -> Outcome:
        size = dict(task["job"]["params"])["n"]
        tries[size] += 1
        if size == "4" or (size == "6" and tries[size] < 3):
            if how == "lost":
                raise OSError("the network is gone")
            return {"status": "died", "why": "was ended by signal 9"}
        return searched(task)

    tally = _run(tmp_path, dying)
    assert tries["4"] == 3
    (new,) = tally.ledger.new()
    assert (new["title"], new["status"]) == ("softmax n=4", "died")
    assert ("signal 9" if how == "died" else "the network is gone") in new["why"]
    # The third time it was there.
    assert tally.ledger.last(_JOBS[3].name)["status"] == "searched"  # type: ignore[index]
    assert len(tally.retried) == 4
    # It is tried again the next night, and is no new finding then.
    assert _run(tmp_path, dying).ledger.new() == []
    assert tries["4"] == 6


def test_what_fails_is_told(tmp_path: Path) -> None:
    """A job that cannot be asked is not asked for long, is no finding, and does not stop the others."""

    def failing(task: dict[str, Any]) -> Outcome:
        if dict(task["job"]["params"])["n"] == "4":
            return {"status": "failed", "why": "no such thing", "code": 2}
        return searched(task)

    tally = _run(tmp_path, failing)
    assert [one["why"] for one in tally.ledger.failed()] == ["no such thing"]
    assert len(tally.ledger.slices[_JOBS[1].name]) == 1
    assert tally.ledger.new() == []


def test_a_baseline(tmp_path: Path) -> None:
    """The states of another campaign are what this one begins with; what is worse or better is so on the same case."""
    _run(tmp_path / "old")
    old = {one["job"]: one["value"] for one in _slices(tmp_path / "old")}
    baseline = Baseline.read(tmp_path / "old")
    changed = {"3": 2.0, "4": 0.5}

    def other(task: dict[str, Any]) -> Outcome:
        outcome = searched(task)
        factor = changed.get(dict(task["job"]["params"])["n"], 1.0)
        return outcome | {"kept": old[Job.of_json(task["job"]).name] * factor}

    tally = _run(tmp_path / "new", other, baseline=baseline, asked=Asked(18.0, 2.0, 77))
    first = {one["job"]: one["value"] for one in _slices(tmp_path / "new") if one["round"] == 0}
    assert all(first[name] >= old[name] for name in old)
    # However much longer the old one is searched meanwhile.
    _run(tmp_path / "old")
    found = [(one.how, one.title) for one in changes([tally.ledger], Baseline.read(tmp_path / "old"))]
    assert found == [("worse", "softmax n=3"), ("better", "softmax n=4")]


def test_a_property_that_is_kept_now(tmp_path: Path) -> None:
    """It is gone, though there is no state from which one could begin."""

    def asked(found: bool) -> Any:
        return lambda task: searched(task) | {
            "state": None, "judges": True, "finding": found, "verdict": "broken" if found else "kept", "value": None,
        }  # fmt: skip

    _run(tmp_path / "old", asked(True))
    tally = _run(tmp_path / "new", asked(False), baseline=Baseline.read(tmp_path / "old"))
    assert {one.how for one in changes([tally.ledger], Baseline.read(tmp_path / "old"))} == {"gone"}


def test_shards(tmp_path: Path) -> None:
    """Several of them write to one folder, at any time, and their status is one; other numbers of shards go on, too,
    and back again, and no job is counted twice.
    """
    folders.write(tmp_path, Jobs(tuple(_JOBS), ()))
    best: dict[str, float] = {}
    for turn, shards in enumerate((2, 1, 3, 2)):
        for shard in range(1, shards + 1):
            own = folders.shard_of(_JOBS, shard, shards)
            with made_up_places.place() as place:
                run(own, Asked(30.0, 2.0, turn, shard, shards), tmp_path, tmp_path / "corpus", place)
        found = folders.read(tmp_path)
        assert len(found.ledgers) == shards
        names = [name for ledger in found.ledgers for name in ledger.jobs]
        assert sorted(names) == sorted(job.name for job in _JOBS)
        assert {ledger.night for ledger in found.ledgers} == {turn + 1}
        for ledger in found.ledgers:
            for name in ledger.jobs:
                last = ledger.last(name)
                assert last is not None
                # Nothing that was reached is lost.
                assert last["value"] >= best.get(name, 0.0)
                best[name] = last["value"]
                assert (tmp_path / "states" / last["state"]).is_file()


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    """What cannot be saved in the corpus is in the journal, to the bit."""
    text = saved.read_text()

    def finding(task: dict[str, Any]) -> Outcome:
        return searched(task) | {"finding": True, "entry": text, "stopped": "witness"}

    def full(*_: object, **__: object) -> Path:
        raise running.store.CorpusError("corpus: cannot be written (No space left on device)")

    monkeypatch.setattr(running.store, "save", full)
    tally = _run(tmp_path / "c", finding)
    assert "No space left" in tally.unsaved[0]
    assert {one["unsaved"] for one in _slices(tmp_path / "c")} == {text}


def test_a_spoilt_line_costs_one_slice(tmp_path: Path) -> None:
    """Its slice is done again, from the state that it began with, and comes out the same."""
    _run(tmp_path)
    path = tmp_path / journal.name(1, 1)
    lines = path.read_text().splitlines(keepends=True)
    spoilt = max(number for number, line in enumerate(lines) if '"kind":"slice"' in line)
    before = journal.parsed(lines[spoilt].removesuffix("\n"))
    path.write_text("".join([*lines[:spoilt], "spoilt\n"]))
    _run(tmp_path)
    assert before is not None
    (again,) = [one for one in _slices(tmp_path) if (one["job"], one["round"]) == (before["job"], before["round"])]
    assert {**again, "time": 0} == {**before, "time": 0}


def test_a_plan_may_grow(tmp_path: Path) -> None:
    """With the same number of shards, which then have other jobs: what was found is known, and nothing is lost."""

    def finding(task: dict[str, Any]) -> Outcome:
        return searched(task) | {"judges": True, "finding": True, "stopped": "work"}

    best: dict[str, float] = {}
    for count in (6, 7, 9):
        for shard in (1, 2):
            own = folders.shard_of(_JOBS[:count], shard, 2)
            with made_up_places.place(finding) as place:
                tally = run(own, Asked(20.0, 2.0, 1, shard, 2), tmp_path, tmp_path / "corpus", place)
            assert {one["job"] for one in tally.ledger.new()} == {job.name for job in own} - set(best)
            for name in tally.ledger.jobs:
                last = tally.ledger.last(name)
                assert last is not None
                assert last["value"] >= best.get(name, 0.0)
        best = {one["job"]: one["value"] for one in _slices(tmp_path)}


@pytest.mark.parametrize(
    ("kept", "new"), [(7.0, False), (7.5, False), (30.0, True), (1.0, True), (None, False), ("inf", True)]
)
def test_another_fault_is_new(kept: float | str | None, new: bool, tmp_path: Path) -> None:
    """A finding of last night is known while its case is as wrong; where that is right, or wrong by another amount,
    what is found is new. What was not looked at is known by its kind.
    """

    def finding(more: dict[str, Any]) -> Any:
        return lambda task: searched(task) | {"judges": True, "finding": True, "stopped": "work", "value": 7.0} | more

    _run(tmp_path, finding({}))
    tally = _run(tmp_path, finding({"kept": kept, "value": 7.0}))
    assert bool(tally.ledger.new()) is new


def test_states_may_be_lost(tmp_path: Path, saved: Path) -> None:
    """Then a slice begins with the witness; and without one nothing is said to be gone that nobody looked at."""
    text = saved.read_text()
    jobs = [Job("softmax", (("n", "3"),))]
    states: list[str | None] = []

    def finding(found: bool, **more: Any) -> Any:
        def do(task: dict[str, Any]) -> Outcome:
            states.append(task["state"])
            task = task | {"state": None}
            return searched(task) | {"judges": True, "finding": found, "entry": text if found else None} | more

        return do

    def night(do: Any) -> Tally:
        with made_up_places.place(do) as place:
            return run(jobs, Asked(2.0, 2.0, 5), tmp_path / "c", tmp_path / "found", place)

    night(finding(True))
    shutil.rmtree(tmp_path / "c" / "states")
    night(finding(True))
    assert states[-1] is not None
    began = State.loads(base64.b64decode(states[-1]))
    assert began.best == files.load(saved).case
    shutil.rmtree(tmp_path / "c" / "states")
    shutil.rmtree(tmp_path / "found")
    tally = night(finding(False, kept=None))
    assert states[-1] is None
    assert [one.how for one in changes([tally.ledger], None)] == ["unsure"]


def test_what_could_not_be_saved_is_saved_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    """The next night, if there is room."""
    text = saved.read_text()

    def finding(task: dict[str, Any]) -> Outcome:
        return searched(task) | {"finding": True, "entry": text, "stopped": "witness", "judges": True}

    def full(*_: object, **__: object) -> Path:
        raise running.store.CorpusError("corpus: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(running.store, "save", full)
        _run(tmp_path / "c", finding)
    tally = _run(tmp_path / "c", finding)
    for job in _JOBS:
        assert Path(str(tally.ledger.witness(job.name))).read_text() == text


@pytest.mark.parametrize(
    "answer",
    ["5", "[]", "no JSON", '{"status": "odd"}', '{"status": "searched"}', '{"status": "searched", "stopped": "work", '
     '"value": "abc"}', '{"status": "searched", "stopped": "work", "entry": 3}'],
)  # fmt: skip
def test_what_is_no_outcome_is_none(answer: str, tmp_path: Path) -> None:
    """Whoever sends it: it is asked for again, and does not get into the journal."""
    tries: Counter[str] = Counter()

    def odd(task: dict[str, Any]) -> Any:
        tries[task["seed"]] += 1
        return searched(task) if tries[task["seed"]] > 1 else made_up_places.Raw(answer)

    tally = _run(tmp_path, odd)
    assert len(tally.retried) == len(tries)
    assert all(one["status"] == "searched" for one in _slices(tmp_path))


def test_a_budget_comes_to_its_end(tmp_path: Path) -> None:
    """Though what comes back says that nothing was spent, and claims to be another job."""

    def free(task: dict[str, Any]) -> Outcome:
        return searched(task) | {"spent": 0, "job": "zzz", "night": 77, "kind": "end"}

    tally = _run(tmp_path, free)
    assert 58 < tally.ledger.spent() <= 60
    assert {one["job"] for one in _slices(tmp_path)} == {job.name for job in _JOBS}


def test_a_night_has_one_seed(tmp_path: Path) -> None:
    """One that was stopped goes on with that seed, or not at all; and who has not the lock changes nothing."""

    def stop(tally: Tally, record: Record | None) -> None:
        if record is not None:
            raise _StopError

    with pytest.raises(_StopError):
        _run(tmp_path, on_slice=stop)
    with pytest.raises(BudgetError, match="was begun with seed 5"):
        _run(tmp_path, asked=attrs.evolve(_ASKED, seed=6))
    begun: list[int] = []
    with journal.Journal(tmp_path / journal.name(1, 1)), pytest.raises(journal.JournalError, match="another process"):
        _run(tmp_path, on_begin=lambda: begun.append(1))
    assert not begun


def test_a_forged_state_leads_nowhere(tmp_path: Path) -> None:
    """A journal that names a file elsewhere has none of it read or removed."""
    precious = tmp_path / "precious.npz"
    precious.write_bytes(b"mine")
    _run(tmp_path / "c")
    path = tmp_path / "c" / journal.name(1, 1)
    found = [
        one | ({"state": "../../precious.npz"} if one["kind"] == "slice" else {}) for one in journal.read(path).records
    ]
    path.write_text("".join(map(journal.line, found)))
    states: list[str | None] = []

    def watching(task: dict[str, Any]) -> Outcome:
        states.append(task["state"])
        return searched(task | {"state": None})

    _run(tmp_path / "c", watching)
    assert states[0] is None
    assert precious.read_bytes() == b"mine"


def _campaign(folder: Path, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "diffuzz", "campaign", "--targets", "softmax,rope,rmsnorm", "--params", "n=3,7,9",
        "--slice", "300ms", "--budget", "4s", "--seed", "4", "--into", str(folder / "c"),
        "--corpus", str(folder / "corpus"), *words,
    ]  # fmt: skip


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_9_loses_no_finding(kills: int, tmp_path: Path) -> None:
    """Killed at random moments, again and again, it ends with the findings of a campaign that was not disturbed, and
    with all of its entries in the corpus.
    """
    rng = random.Random(kills)
    undisturbed = tmp_path / "undisturbed"
    subprocess.run(_campaign(undisturbed), capture_output=True, check=False)
    killed = tmp_path / "killed"
    for _ in range(kills):
        # The folder is new now and then, so that it is killed at its beginning, too.
        process = subprocess.Popen(_campaign(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 2.0))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        _no_finding_is_lost(killed)
    done = subprocess.run(_campaign(killed), capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    whole, after = ({one["job"]: one["verdict"] for one in _slices(place / "c")} for place in (undisturbed, killed))
    assert after == whole
    assert _no_finding_is_lost(killed) == _no_finding_is_lost(undisturbed)


def _no_finding_is_lost(place: Path) -> set[str]:
    """The jobs of which the journal says that something was found, each with its entry in the corpus."""
    found = [one for one in _slices(place / "c") if one["finding"] and one["round"] != "final" and one.get("witness")]
    for one in found:
        assert json.loads(Path(one["witness"]).read_text())["verdict"] == "CONFIRMED"
    return {one["job"] for one in found}
