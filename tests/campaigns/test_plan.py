"""Plans: the product of what is named, names that stay, and complaints that say where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffuzz.campaigns import plan
from diffuzz.campaigns.folder import shard_of
from diffuzz.campaigns.job import Job
from diffuzz.campaigns.plan import Part, Plan, PlanError
from diffuzz.registry import RegistryError


def _jobs(**given: Any) -> list[Job]:
    return list(Plan((plan.part(given, "test"),)).jobs().jobs)


def test_a_product() -> None:
    """Of a target with the formats and parameters that it has; of another without them."""
    jobs = _jobs(targets=["matvec", "softmax"], formats=["q4_K", "q8_0"], params={"n": [256, 512], "delta": 1e-6})
    assert [job.title for job in jobs] == [
        "matvec n=256 format=q4_K", "matvec n=256 format=q8_0", "matvec n=512 format=q4_K", "matvec n=512 format=q8_0",
        "softmax n=256 delta=1e-06", "softmax n=512 delta=1e-06",
    ]  # fmt: skip


def test_pairs_and_properties() -> None:
    """Kernels are compared two by two; a property is asked of each of them, and of each candidate."""
    jobs = _jobs(targets="softmax", kernels=["exact", "apr", "ggml"], properties=["repeat"], require=["batch"])
    assert [job.title for job in jobs] == [
        "softmax exact against apr", "softmax exact against ggml", "softmax apr against ggml",
        "softmax apr repeat", "softmax apr batch", "softmax ggml repeat", "softmax ggml batch",
    ]  # fmt: skip
    assert [job.required for job in jobs] == [False] * 3 + [False, True] * 2


def test_candidates(tmp_path: Path) -> None:
    """Each function is judged, under the name that is given to it."""
    file = tmp_path / "k.py"
    file.write_text("def soft_max(z): return z\n")
    (one, other) = _jobs(targets="softmax", candidates=[f"{file}:soft_max", f"mine={file}:soft_max"])
    assert (one.called, other.called, other.candidate) == (None, "mine", f"{file}:soft_max")
    moved = tmp_path / "moved.py"
    moved.write_text(file.read_text())
    (again,) = _jobs(targets="softmax", candidates=f"mine={moved}:soft_max")
    assert again.name == other.name != one.name


def test_names_follow_from_what_is_asked() -> None:
    """They are the same in every process and version: a journal is read by them. Order and builds do not count."""
    job = Job("matvec", (("n", "256"), ("format", "q4_K")), kernels=("ggml", "libggml"))
    assert job.name == "468291829725471c"
    other = Job("matvec", (("format", "q4_K"), ("n", "256")), kernels=("ggml", "libggml"), library="build", timeout=1.0)
    assert other.name == job.name
    assert Job("matvec", kernels=("ggml", "libggml")).name != job.name
    assert Job.of_json(other.as_json()) == other


def test_no_job_takes_the_place_of_another(tmp_path: Path) -> None:
    """Of several builds that have one name each is a job; of one that is asked twice, what one requires is required."""
    for name in "ab":
        (tmp_path / f"{name}.py").write_text("def f(z): return z\n")
    one, other = f"mine={tmp_path / 'a.py'}:f", f"mine={tmp_path / 'b.py'}:f"
    jobs = _jobs(targets="softmax", candidates=[one, other])
    assert len({job.name for job in jobs}) == len({job.title for job in jobs}) == 2
    assert {job.candidate for job in jobs} == {f"{tmp_path / name}.py:f" for name in "ab"}
    parts = [
        plan.part({"targets": "softmax", "candidates": one, **more}, "test")
        for more in ({"properties": "batch"}, {"require": "batch"}, {"engine": "random"})
    ]
    found = Plan(tuple(parts)).jobs().jobs
    assert [(job.keeps, job.required, job.engine) for job in found] == [
        (None, False, "auto"), (None, False, "random"), ("batch", True, "auto"),
    ]  # fmt: skip


def test_everything() -> None:
    """All targets, formats and kernels: every job can be asked, and what is left out is said."""
    found = Plan((Part("all"), Part("all", formats="all", kernels="all"))).jobs()
    names = {job.target for job in found.jobs}
    from diffuzz import formats, targets

    assert names == set(targets.names())
    assert {value for job in found.jobs for key, value in job.params if key == "format"} == set(formats.names())
    assert len({job.name for job in found.jobs}) == len(found.jobs)
    assert any("its claim is about the arithmetic" in line for line in found.left_out)


def test_shards_are_a_partition() -> None:
    """Each job is in one of them, and none has two more than another."""
    jobs = list(Plan((Part("all"),)).jobs().jobs)
    for shards in (1, 3, 8):
        parts = [shard_of(jobs, shard, shards) for shard in range(1, shards + 1)]
        assert sorted(job.name for part in parts for job in part) == sorted(job.name for job in jobs)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert shard_of(jobs[::-1], 1, shards)[::-1] == parts[0]


def test_a_file(tmp_path: Path) -> None:
    """Time and seed, and parts."""
    file = tmp_path / "p.toml"
    file.write_text(
        'budget = "2h"\nslice = 2\nseed = 3\ninto = "c"\n[[jobs]]\ntargets = "softmax"\nparams = {n = [3, 4]}\n'
    )
    found = plan.read(file)
    assert (found.budget, found.slice, found.seed, found.into, found.corpus) == (7200.0, 2.0, 3, Path("c"), None)
    assert [job.title for job in found.jobs().jobs] == ["softmax n=3", "softmax n=4"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("targets = [", "is no TOML"),
        ("seed = 1", r"has no \[\[jobs\]\]"),
        ("jobs = 3", r"has no \[\[jobs\]\]"),
        ("[[jobs]]\ntarget = 'softmax'", "there is no key 'target'; there are targets"),
        ("budgets = 1\n[[jobs]]\ntargets = 'softmax'", "there is no key 'budgets'"),
        ("budget = 'soon'\n[[jobs]]\ntargets = 'softmax'", "budget: 'soon' is not a duration"),
        ("seed = -1\n[[jobs]]\ntargets = 'softmax'", "seed: an integer of at least 0"),
        ("[[jobs]]\ntargets = []", "targets: at least one name"),
        ("[[jobs]]\ntargets = [3]", "targets: a name, or a list of names"),
        ("[[jobs]]\ntargets = 'softmax'\nparams = 3", r"\[\[jobs\]\] 1: params: a table"),
        ("[[jobs]]\ntargets = 'softmax'\nparams = {n = []}", "params: n: a number or a word"),
        ("[[jobs]]\ntargets = 'softmax'\ntimeout = 'never'", "timeout: 'never' is not a duration"),
        ("[[jobs]]\ntargets = 'softmax'\nproperties = 'all'", "give candidates or kernels"),
        ("[[jobs]]\ntargets = 'softmax'\narrays = 'torch'", "arrays: they are for candidates"),
    ],
)
def test_complaints(text: str, said: str, tmp_path: Path) -> None:
    """One line, with the file, the part and the key."""
    file = tmp_path / "p.toml"
    file.write_text(text)
    with pytest.raises(PlanError, match=said) as caught:
        plan.read(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"targets": "soft"}, "unknown|there is no"),
        ({"targets": "softmax", "formats": "q4_K"}, "format: none of the targets softmax has this parameter"),
        ({"targets": ["softmax", "rope"], "params": {"k": 3}}, "k: none of the targets softmax, rope"),
        ({"targets": "softmax", "params": {"n": -3}}, "the plan has no job: softmax n=-3"),
        ({"targets": "chain", "kernels": "all"}, "the plan has no job: chain: .*judges no implementation"),
        ({"targets": "softmax", "kernels": "exact"}, "two kernels are needed"),
        ({"targets": "softmax", "kernels": ["exact", "apr", "nope"]}, "kernels nope: none of the targets softmax has"),
        ({"targets": "softmax", "kernels": "all", "properties": "odd"}, "odd"),
        ({"targets": "softmax", "candidates": "nowhere.py:f"}, "nowhere.py"),
    ],
)
def test_what_cannot_be_asked(given: dict[str, Any], said: str) -> None:
    """A plan of which nothing can be asked says why, in one line."""
    with pytest.raises((PlanError, RegistryError, ValueError), match=said) as caught:
        _jobs(**given)
    assert "\n" not in str(caught.value)


def test_part_of_a_product_may_be_left_out() -> None:
    """What one target cannot do is said, and the others are asked."""
    found = Plan((plan.part({"targets": ["softmax", "chain"], "kernels": ["exact", "apr"]}, "test"),)).jobs()
    assert [job.title for job in found.jobs] == ["softmax exact against apr"]
    assert any(line.startswith("chain") for line in found.left_out)
