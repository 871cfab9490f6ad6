"""``diffuzz campaign``, as a user types it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_KERNELS = """
import numpy as np

def right(z):
    wide = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return (wide / wide.sum(axis=1, keepdims=True)).astype(np.float32)

def kernel(z):
    out = right(z)
    out[:, -1] *= {factor}
    return out
"""
_PLAN = """
budget = "1200ms"
slice = "200ms"
seed = 1

[[jobs]]
targets = "softmax"
candidates = ["mine=k.py:kernel", "k.py:nothing"]
require = "repeat"
"""


def _diffuzz(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "diffuzz", "campaign", *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A folder with a plan, of a function that is wrong."""
    (tmp_path / "k.py").write_text(_KERNELS.format(factor=0.9))
    (tmp_path / "p.toml").write_text(_PLAN)
    return tmp_path


def test_night_after_night(plan: Path) -> None:
    """The first night finds what is wrong, exit code 1; the second knows it; once mended it is gone."""
    first = _diffuzz(plan, "p.toml", "--json")
    said = json.loads(first.stdout.splitlines()[-1])
    assert first.returncode == 1, first.stderr
    assert (said["new"], said["findings"], said["planned"], said["begun"]) == (1, 1, 4, 4)
    (new,) = [one for one in said["jobs"] if one["new"]]
    assert (new["title"], new["verdict"], new["candidate"]) == ("softmax mine", "CONFIRMED", "mine")
    assert (plan / new["witness"]).is_file()
    assert new["command"] == f"python -m diffuzz replay --judge {new['witness']} --candidate mine=k.py:kernel"
    failed = {one["title"]: one["why"] for one in said["jobs"] if one["status"] == "failed"}
    assert set(failed) == {"softmax k.py:nothing", "softmax k.py:nothing repeat"}
    shutil.copytree(plan / "campaign", plan / "old")
    second = _diffuzz(plan, "p.toml")
    # What cannot be asked is bad input, and no finding.
    assert second.returncode == 2, second.stderr
    assert "nothing new, 1 known in 4 jobs (night 2" in second.stdout
    assert "known  softmax mine: CONFIRMED" in second.stdout
    assert (
        "failed  softmax k.py:nothing and 1 more: candidate k.py:nothing: k.py has no function nothing" in second.stdout
    )
    (plan / "p.toml").write_text(_PLAN.replace(', "k.py:nothing"', ""))
    (plan / "k.py").write_text(_KERNELS.format(factor=1.0))
    same = _diffuzz(plan, "p.toml")
    assert "gone  softmax mine: " in same.stdout, same.stdout
    assert "properties  softmax mine: kept repeat" in same.stdout
    third = _diffuzz(plan, "p.toml", "--into", "mended", "--baseline", "old", "--html", "page.html")
    assert third.returncode == 0, third.stdout + third.stderr
    assert "gone  softmax mine" in third.stdout
    assert "softmax mine" in (plan / "page.html").read_text()
    (plan / "k.py").write_text(_KERNELS.format(factor=0.9))
    fourth = _diffuzz(plan, "p.toml", "--into", "broken", "--baseline", "mended", "--json")
    assert fourth.returncode == 1
    assert [one["how"] for one in json.loads(fourth.stdout.splitlines()[-1])["changes"]] == ["new"]


def test_status_and_report(plan: Path) -> None:
    """What has been found so far, at any time; as a page, in SARIF, and with the exit code of what is new."""
    _diffuzz(plan, "p.toml")
    status = _diffuzz(plan, "status", "--json")
    said = json.loads(status.stdout.splitlines()[-1])
    assert status.returncode == 0
    assert (said["campaign"], said["new"], said["finished"]) == ("campaign", 1, True)
    (plan / "status.json").write_text(status.stdout)
    for results in ("campaign", "status.json"):
        line = [sys.executable, "-m", "diffuzz", "report", results, "--html", "r.html", "--sarif", "r.sarif", "--json"]
        done = subprocess.run(line, cwd=plan, capture_output=True, text=True, check=False)
        # Worse than a finding: two jobs could not be asked.
        assert done.returncode == 2, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])["findings"]
        assert sorted((one["level"], one["code"]) for one in found if one["level"] != "none") == [
            ("error", 1), ("warning", 2), ("warning", 2),
        ]  # fmt: skip
        assert "softmax mine" in (plan / "r.html").read_text()
        # As of a search: what is wrong, at the line of the function.
        sarif = (plan / "r.sarif").read_text()
        assert "softmax mine is wrong: element" in sarif
        assert '"k.py"' in sarif


def test_ctrl_c_and_on(plan: Path) -> None:
    """An interrupt prints what is known, with exit code 130, and the same command goes on."""
    words = ["--targets", "silu,layer_norm,batch", "--slice", "300ms", "--budget", "60s", "--seed", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "diffuzz", "campaign", *words, "--jobs", "2"],
        cwd=plan, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal = plan / "campaign" / "journal-1-of-1.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (journal.is_file() and '"slice"' in journal.read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (1, 130), err
    assert "interrupted: the same command goes on" in out
    assert "Traceback" not in err
    before = len(journal.read_text().splitlines())
    status = json.loads(_diffuzz(plan, "status", "--json").stdout)
    assert not status["finished"]
    done = _diffuzz(plan, *words, "--budget", "1s")
    assert done.returncode in (0, 1), done.stderr
    lines = journal.read_text().splitlines()
    assert len(lines) > before
    # It is the same night.
    assert sum('"kind":"begin"' in line for line in lines) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a plan, PLAN.toml, or --targets"),
        (["nothing.toml"], "nothing.toml: No such file"),
        (["p.toml", "--targets", "softmax"], "--targets and p.toml"),
        (["--targets", "soft"], "soft"),
        (["--targets", "softmax", "--params", "n"], "--params n: KEY=VALUE"),
        (["--targets", "softmax", "--shard", "9/8"], "'9/8' is not I/N"),
        (["--targets", "softmax", "--executor", "nowhere"], "--executor nowhere"),
        (["p.toml", "--baseline", "nowhere"], "nowhere is no folder of a campaign"),
        (["p.toml", "--html", "nowhere/page.html"], "there is no folder nowhere"),
        (["--targets", "all", "--budget", "1s"], "budget: 1 s for 31 jobs are less than 0.1 s each"),
        (["status", "nowhere"], "nowhere is no folder of a campaign"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, plan: Path) -> None:
    """With exit code 2, and nothing is written."""
    before = sorted(plan.rglob("*"))
    done = _diffuzz(plan, *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(plan.rglob("*")) == before


def test_a_page_takes_no_place_of_the_campaign(plan: Path) -> None:
    """Neither of its journal nor of its jobs, whichever command writes it."""
    words = ["--targets", "softmax", "--params", "n=3", "--budget", "300ms", "--slice", "100ms", "--seed", "1"]
    _diffuzz(plan, *words)
    before = {path: path.read_bytes() for path in (plan / "campaign").iterdir() if path.is_file()}
    for command in (["campaign", *words], ["campaign", "status"], ["report", "campaign"]):
        for name in ("journal-1-of-1.jsonl", "campaign.json"):
            line = [sys.executable, "-m", "diffuzz", *command, "--html", f"campaign/{name}"]
            done = subprocess.run(line, cwd=plan, capture_output=True, text=True, check=False)
            assert done.returncode == 2, done.stdout
            assert "choose another file" in done.stderr
    assert before == {path: path.read_bytes() for path in before}
    # What the jobs name may be elsewhere by now.
    (plan / "campaign" / "campaign.json").write_text(
        '{"campaign": 1, "left_out": [], "jobs": [{"target": "gone.py:T", "library": "gone", '
        '"kernels": ["ggml", "libggml"]}]}'
    )
    assert _diffuzz(plan, "status").returncode == 0
    (plan / "campaign" / "campaign.json").write_text('{"campaign": 1, "jobs": [{"target": 5}], "left_out": []}')
    done = _diffuzz(plan, "status")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_broken_journal_is_told(plan: Path) -> None:
    """A line that is spoilt counts for nothing, and is said; the rest is there."""
    words = ["--targets", "softmax,rope", "--budget", "2s", "--slice", "500ms", "--seed", "1"]
    _diffuzz(plan, *words)
    journal = plan / "campaign" / "journal-1-of-1.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace("CONFIRMED", "FALSIFIED").replace('"value"', '"Value"')
    journal.write_text("".join(lines))
    done = _diffuzz(plan, *words)
    assert "broken  campaign/journal-1-of-1.jsonl: line 2" in done.stdout
    assert done.returncode in (0, 1)
    assert "softmax" in done.stdout
    (plan / "campaign" / "campaign.json").write_text("{}")
    status = _diffuzz(plan, "status")
    assert (status.returncode, status.stderr.count("\n")) == (2, 1)
    assert "campaign.json is not as a campaign writes it" in status.stderr
