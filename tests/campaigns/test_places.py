"""Where slices are done: processes that crash, hang and babble harm nothing, nor does a worker that dies."""

from __future__ import annotations

import importlib.util
import json
import random
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from diffuzz.campaigns import journal, places
from diffuzz.campaigns.job import Job
from diffuzz.campaigns.places import PlaceError, in_process
from diffuzz.campaigns.running import Asked, run


def _task(job: Job, seconds: float = 0.3) -> str:
    return json.dumps({"job": job.as_json(), "seconds": seconds, "seed": 1, "state": None, "final": False})


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Any:
    yield
    places.end_processes()


def test_a_slice_in_a_process() -> None:
    """What comes of it; the process does the next one, too, with one core."""
    first = json.loads(in_process(_task(Job("softmax")), 60))
    assert (first["status"], first["verdict"]) == ("searched", "CONFIRMED")
    (process,) = places._idle
    in_process(_task(Job("rope")), 60)
    assert places._idle == [process]


def test_what_cannot_be_asked_is_told(tmp_path: Path) -> None:
    """One line, and the exit code of a command that fails alike."""
    (tmp_path / "k.py").write_text("raise OSError('no disk')\n")
    for job, code, said in (
        (Job("nothing"), 2, "nothing"),
        (Job("softmax", (("n", "-1"),)), 2, "n=-1"),
        (Job("softmax", candidate=f"{tmp_path / 'k.py'}:f"), 2, "no disk"),
        (Job("softmax", kernels=("apr", "nothing")), 2, "nothing"),
    ):
        outcome = json.loads(in_process(_task(job), 60))
        assert (outcome["status"], outcome["code"]) == ("failed", code), outcome
        assert said in outcome["why"]
        assert "\n" not in outcome["why"]
    assert json.loads(in_process("no JSON", 60))["status"] == "failed"


_TARGET = """
import os, time, sys

print("babble on standard output")
{body}
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os._exit(7)", "ended with exit code 7"),
        ("os.kill(os.getpid(), 9)", "was ended by signal 9"),
        ("sys.stderr.write('the last words'); sys.stderr.flush(); os._exit(1)", "the last words"),
        ("time.sleep(1000)", "took more than 4 s"),
    ],
)
def test_a_process_that_ends(body: str, said: str, tmp_path: Path) -> None:
    """However it ends, or does not, that is said, and the next slice has another one."""
    file = tmp_path / "odd.py"
    file.write_text(_TARGET.format(body=body))
    outcome = json.loads(in_process(_task(Job(f"{file}:TARGET")), 4))
    assert outcome["status"] == "died", outcome
    assert said in outcome["why"]
    assert not places._idle
    assert not places._busy


def test_who_has_gone_is_not_worked_for() -> None:
    """A process ends when what started it does, in the middle of a task."""
    process = places._Process.started()
    assert process.running.stdin is not None
    process.running.stdin.write(_task(Job("attention"), 500.0) + "\n")
    process.running.stdin.flush()
    time.sleep(0.5)
    process.running.stdin.close()
    assert process.running.wait(timeout=20) == 0
    process.close()


def _campaign(tmp_path: Path, place: places.Place) -> dict[str, tuple[str, int]]:
    """The verdict and the number of slices of each job of a campaign in a place."""
    jobs = [Job(name) for name in ("softmax", "rope", "rmsnorm", "silu")]
    with place:
        run(jobs, Asked(4.0, 0.3, 3), tmp_path, tmp_path / "corpus", place)
    found: dict[str, tuple[str, int]] = {}
    for one in journal.records_of(tmp_path):
        if one["kind"] == "slice":
            found[one["title"]] = (one.get("verdict", one["status"]), found.get(one["title"], ("", 0))[1] + 1)
    return found


def a_pool() -> ThreadPoolExecutor:
    """What a user's function may return."""
    return ThreadPoolExecutor(2)


def processes() -> ProcessPoolExecutor:
    """Processes of the standard library, of which one that dies breaks the whole pool."""
    return ProcessPoolExecutor(2)


def leaves() -> ThreadPoolExecutor:
    """A function that ends what calls it, or would."""
    raise SystemExit(0)


def test_any_executor(tmp_path: Path) -> None:
    """Any that a function returns finds what there is."""
    found = _campaign(tmp_path / "pool", places.place("test_places:a_pool", 2))
    assert {name: verdict for name, (verdict, _) in found.items()} == {
        "softmax": "CONFIRMED", "rope": "CONFIRMED", "rmsnorm": "FALSIFIED", "silu": "CONFIRMED",
    }  # fmt: skip


@pytest.mark.slow
def test_processes_of_the_standard_library(tmp_path: Path) -> None:
    """Which are another kind of executor, that starts processes by itself."""
    wanted = _campaign(tmp_path / "local", places.place("local", 2))
    assert _campaign(tmp_path / "processes", places.place("test_places:processes", 2)) == wanted


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("somewhere", "MODULE:FUNCTION is needed"),
        ("nowhere:f", "nowhere"),
        ("test_places:nothing", "nothing"),
        ("dask://127.0.0.1", "dask://HOST:PORT is needed|needs the package distributed"),
        ("test_places:leaves", "SystemExit"),
        ("dask://127.0.0.1:1", "no scheduler answers there|needs the package distributed"),
    ],
)
def test_places_that_there_are_not(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says which."""
    monkeypatch.setattr(places, "_LONGEST_START", 1.0)
    with pytest.raises((PlaceError, ImportError), match=said) as caught, places.place(name, 1) as place:
        place.submit("", 1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="the package distributed is not installed")
@pytest.mark.slow
def test_a_cluster_whose_workers_are_killed(tmp_path: Path) -> None:
    """A Dask cluster of which a worker is killed every other second finishes with the findings of one that is not."""
    import psutil  # distributed needs it, too

    wanted = _campaign(tmp_path / "whole", places.place("local", 2))
    place = places.place("dask:local", 2)
    over, killed = threading.Event(), []

    def kill() -> None:
        rng = random.Random(1)
        while not over.wait(1.5):
            workers = [one for one in psutil.Process().children(recursive=True) if "spawn_main" in str(one.cmdline())]
            if workers:
                killed.append(rng.choice(workers))
                killed[-1].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        found = _campaign(tmp_path / "killed", place)
    finally:
        over.set()
        thread.join()
    assert killed
    assert {name: verdict for name, (verdict, _) in found.items()} == {
        name: verdict for name, (verdict, _) in wanted.items()
    }


def test_an_entry_has_the_name_that_the_plan_gives(tmp_path: Path) -> None:
    """Of a property, too: with that name it is replayed, wherever the function is then."""
    (tmp_path / "k.py").write_text("import os\n\ndef f(z):\n    os._exit(3)\n")
    job = Job("softmax", candidate=f"{tmp_path / 'k.py'}:f", called="mine", keeps="repeat")
    outcome = json.loads(in_process(_task(job), 60))
    assert outcome["finding"], outcome
    assert json.loads(outcome["entry"])["candidate"] == "mine"
