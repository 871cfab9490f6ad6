"""The folder of a campaign: its jobs, its journals, and the states of its searches.

campaign.json           the jobs of the plan, and what was left out of it
journal-1-of-1.jsonl    what was done, one file for each shard
states/                 what the next slice of each job begins with
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import attrs

from diffuzz.campaigns import journal
from diffuzz.campaigns.job import Job, JobError
from diffuzz.campaigns.journal import JournalError
from diffuzz.campaigns.ledger import Ledger
from diffuzz.campaigns.plan import Jobs
from diffuzz.replacing import replace

FILE, SCHEMA = "campaign.json", 1


@attrs.frozen
class Folder:
    """What a campaign has done, as far as it was written down: a ledger for each shard, and lines that are broken."""

    path: Path
    jobs: tuple[Job, ...]
    left_out: tuple[str, ...]
    ledgers: tuple[Ledger, ...]
    broken: tuple[str, ...]


def shard_of(jobs: Sequence[Job], shard: int, shards: int) -> list[Job]:
    """The jobs of one of several shards: each job is in one, and they differ by one job at most."""
    chosen = {job.name for job in sorted(jobs, key=lambda one: one.name)[shard - 1 :: shards]}
    return [job for job in jobs if job.name in chosen]


def files(path: Path) -> list[Path]:
    """The files of a campaign that nothing else may be written to, whether they are there or not."""
    return [path / FILE, *journal.all_of(path).values()]


def is_campaign(path: Path) -> bool:
    """Whether a folder is one of a campaign."""
    return (path / FILE).is_file()


def write(path: Path, planned: Jobs) -> None:
    """Write down the jobs of a campaign. Raises JournalError."""
    stored = {"campaign": SCHEMA, "jobs": [job.as_json() for job in planned.jobs], "left_out": list(planned.left_out)}
    try:
        path.mkdir(parents=True, exist_ok=True)
        replace(path / FILE, (json.dumps(stored, indent=1).encode() + b"\n",), mode=0o644)
    except OSError as error:
        raise JournalError(
            f"{path}: cannot be written ({error.strerror}); choose another folder with --into"
        ) from error


def read(path: Path) -> Folder:
    """What is written down of a campaign. Raises JournalError."""
    file = path / FILE
    try:
        stored = json.loads(file.read_bytes())
        if stored["campaign"] != SCHEMA:
            raise JournalError(f"{file} is of another version of diffuzz (schema {stored['campaign']})")
        jobs = tuple(map(Job.of_json, stored["jobs"]))
        left_out = tuple(map(str, stored["left_out"]))
    except OSError as error:
        raise JournalError(f"{path} is no folder of a campaign ({FILE}: {error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError, JobError) as error:
        if isinstance(error, JournalError):
            raise
        raise JournalError(f"{file} is not as a campaign writes it; run the campaign again ({error})") from error
    found = journal.read_all(path)
    broken = [f"{path / journal.name(*place)}: line {number}" for place, one in found.items() for number in one.broken]
    # Of several numbers of shards the one that was at work last; the slices of the others count in its ledgers.
    times = {place: max((one.get("time", 0.0) for one in read.records), default=0.0) for place, read in found.items()}
    last = max(times, key=lambda place: times[place], default=(0, 0))[1]
    ledgers = [
        # What the jobs ask of now may be elsewhere, and does not matter here.
        Ledger.of_records(shard_of(jobs, shard, shards), {}, journal.merged(found, shard, shards))
        for shard, shards in found
        if shards == last
    ]
    return Folder(path, jobs, left_out, tuple(ledgers), tuple(broken))
