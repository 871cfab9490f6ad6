"""The journal loses nothing that is whole, and takes nothing that is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from diffuzz.campaigns import journal
from diffuzz.campaigns.comparing import changes
from diffuzz.campaigns.job import Job
from diffuzz.campaigns.journal import Journal, JournalError
from diffuzz.campaigns.ledger import Ledger
from diffuzz.cli.campaign_json import campaign_json

_RECORD = {
    "kind": "slice", "job": "a", "title": "α\n\"x\"", "night": 1, "round": 0, "seconds": 1.0, "spent": 1,
    "evaluations": 3, "status": "searched", "stopped": "work", "value": 1.5, "kept": "inf", "sum": "looks like one",
}  # fmt: skip


def test_records_come_back(tmp_path: Path) -> None:
    """In their order, whatever text they have."""
    path = tmp_path / journal.name(1, 1)
    with Journal(path) as one:
        for number in range(3):
            one.add(_RECORD | {"number": number})
    with Journal(path) as one:
        one.add(_RECORD | {"number": 3})
    found = journal.read(path)
    assert [record["number"] for record in found.records] == [0, 1, 2, 3]
    assert found.records[0] == _RECORD | {"number": 0, "time": found.records[0]["time"]}
    assert not found.broken


@given(place=st.integers(0, 10_000), byte=st.binary(min_size=1, max_size=1), cut=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_what_is_spoilt_is_left_out(tmp_path: Path, place: int, byte: bytes, cut: bool) -> None:
    """Of a journal with one byte changed, or cut off anywhere, every other line is there; and it can be written on."""
    path = tmp_path / journal.name(1, 1)
    whole = "".join(journal.line(_RECORD | {"number": number}) for number in range(5)).encode()
    place %= len(whole)
    path.write_bytes(whole[:place] if cut else whole[:place] + byte + whole[place + 1 :])
    spoilt = whole[:place].count(b"\n")
    numbers = [record["number"] for record in journal.read(path).records]
    wanted = list(range(spoilt)) if cut else [number for number in range(5) if number != spoilt]
    changed = cut or byte != whole[place : place + 1]
    # Where it was a line break that changed, the next line is spoilt, too.
    if changed and not cut and whole[place : place + 1] == b"\n":
        wanted = [number for number in wanted if number != spoilt + 1]
    assert numbers == (wanted if changed else list(range(5)))
    with Journal(path) as one:
        one.add(_RECORD | {"number": 9})
    assert [record["number"] for record in journal.read(path).records] == [*numbers, 9]
    path.unlink()


def test_one_process_writes_to_it(tmp_path: Path) -> None:
    """Another one is told so; and what cannot be written, where."""
    path = tmp_path / journal.name(1, 1)
    with Journal(path), pytest.raises(JournalError, match="another process writes to it"):
        Journal(path)
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.jsonl")


def test_another_version_is_told(tmp_path: Path) -> None:
    """A journal of a later schema is not read as one of this."""
    path = tmp_path / journal.name(1, 1)
    path.write_text(journal.line({"kind": "begin", "night": 1, "seed": 1, "schema": 99}))
    with pytest.raises(JournalError, match="another version"):
        journal.read(path)


@given(
    name=st.sampled_from([*_RECORD, "finding", "state", "before", "of"]),
    value=st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=2)),
)
@example("before", {})
@example("before", {"value": []})
@example("round", "one")
@example("stopped", None)
def test_a_forged_record_is_no_record(name: str, value: object) -> None:
    """What has other types than a campaign writes counts for nothing, whatever its checksum; nothing else is asked."""
    found = journal.parsed(journal.line(_RECORD | {name: value}).removesuffix("\n"))
    if found is not None:
        ledger = Ledger.of_records([], {}, [found | {"job": "a"}])
        assert ledger.others in (0, 1)
        job = Job("softmax")
        ledger = Ledger.of_records([job], {job.name: "x"}, [found | {"job": job.name}])
        ledger.standing(job.name, 3)
        ledger.open_before(job.name, 3)
        ledger.new()
        ledger.failed()
        ledger.unsaved(job.name)
        list(changes([ledger], None))
        campaign_json(Path(), [ledger], planned=1)
