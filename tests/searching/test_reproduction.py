"""What a case does not show every time, alone: beside other rows, by chance, or never again."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.cli.search_json import search_json
from diffuzz.cli.search_text import search_text
from diffuzz.cli.show import entry_text
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample, dumps, loads
from diffuzz.corpus.record import minimised, record
from diffuzz.corpus.replay import Replayed, exit_code, replay_file
from diffuzz.judging.company import MOST_CALLS, Chance, Company
from diffuzz.judging.evidence import Judged
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict
from diffuzz.searching.reproduction import fewest
from diffuzz.searching.result import SearchResult
from diffuzz.searching.search import search

RMSNORM = targets.get("rmsnorm")
# A function of rows and a few statistics of all rows, each of which stands for a kind of mix-up.
SOURCE = """import os
import numpy as np

calls, cache = [0], {}
# The same in every process, so that these tests are: seeds whose first calls are right.
seldom, often = np.random.default_rng(6), np.random.default_rng(48)


def right(x, eps):
    return scaled(x, eps, squares(x))


def scaled(x, eps, squares):
    return x / np.sqrt(squares + np.float32(eps))


def squares(x):
    return (x * x).mean(axis=1, keepdims=True)


def f(x, eps):
    calls[0] += 1
    y = right(x, eps)
    BODY
    return y
"""
MIXED_UP = {
    "first": "y = scaled(x, eps, squares(x)[:1])",
    "last": "y = scaled(x, eps, squares(x)[-1:])",
    "largest": "y = scaled(x, eps, squares(x).max())",
    "least": "y = scaled(x, eps, squares(x).min())",
    "mean": "y = scaled(x, eps, squares(x).mean())",
    "next": "y = scaled(x, eps, np.roll(squares(x), -1, axis=0))",
    "previous": "y = scaled(x, eps, np.roll(squares(x), 1, axis=0))",
    "stride": "y = scaled(x, eps, np.roll(squares(x), 2, axis=0))",
    "from the fifth row": "y[4:] *= 2",
    # What the company that every case is given does not show: its neighbours in the batch are kept.
    "far stride": "y = scaled(x, eps, np.roll(squares(x), 9, axis=0)) if len(x) > 9 else y",
    "from row 13": "y[12:] *= 2",
    "third of four": "y[2:3] *= 1 if len(x) < 4 else np.nan",
    "of row 512 from row 513": "y[512:] = scaled(x[512:], eps, squares(x)[511:512])",
}
# Mixed up as others are.
ALIKE = ("last", "largest", "least", "previous", "stride", "third of four")
KEPT = {"far stride": 9, "from row 13": 12, "third of four": 3, "of row 512 from row 513": 512}


def _searched(folder: Path, body: str, seconds: float = 5.0) -> tuple[SearchResult, Judge]:
    file = folder / "mine.py"
    file.write_text(SOURCE.replace("BODY", body))
    judge = Judge(f"{file}:f")
    return search(RMSNORM, {"candidate_n": 64}, judge, seconds=seconds, seed=0), judge


def _saved(folder: Path, result: SearchResult) -> tuple[Path, Counterexample]:
    path = files.save(record(result), folder / "corpus")
    return path, files.load(path)


def _replayed(path: Path, judge: Judge) -> Replayed:
    result = replay_file(path, judge)
    assert exit_code([result]) == (0 if result.status == "as recorded" else 1)
    return result


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in ALIKE else kind for kind in MIXED_UP]
)
def test_rows_that_get_mixed_up_are_saved_minimised_and_replayed(tmp_path: Path, kind: str) -> None:
    """Whichever row's statistics are used for others: a short case, where need be with the fewest neighbours."""
    result, judge = _searched(tmp_path, MIXED_UP[kind])
    assert (result.verdict, result.stopped, result.chance, result.unsteady) == (
        Verdict.CONFIRMED,
        "witness",
        None,
        None,
    )
    assert result.case is not None
    assert result.case["x"].size <= 3
    kept = None if result.company is None else result.company.rows
    assert KEPT.get(kind) == kept
    assert isinstance(result.measurement.evidence, Judged)
    assert result.measurement.evidence.wrong == "candidate"
    path, entry = _saved(tmp_path, result)
    assert (result.company, result.case) == (entry.company, entry.case)
    assert _replayed(path, judge).status == "as recorded"
    text = search_text(result, path)
    assert "mixes up the rows of a batch" in text
    for shown in (text, entry_text(entry, path)):
        assert ("before it: " in shown or "after it: " in shown) == (kept is not None)
    Path(judge.name.partition(":")[0]).write_text(SOURCE.replace("BODY", "pass"))
    assert _replayed(path, judge).status == "changed"


@pytest.mark.parametrize(
    ("body", "rate"),
    [
        # One call in three hundred; one in five; one in two, with another value each time.
        ("y *= 1 + (calls[0] % 300 == 299)", 1 / 300),
        ("y *= 1 + (seldom.random() < 0.2)", 0.2),
        pytest.param(
            "y *= np.float32(1 + (often.random() < 0.5) * (1 + calls[0] / 1000))", 0.5, marks=pytest.mark.slow
        ),
    ],
)
def test_what_is_wrong_now_and_then(tmp_path: Path, body: str, rate: float) -> None:
    """The search stops, and the entry says how often it was seen, which a replay repeats."""
    result, judge = _searched(tmp_path, body, seconds=60)
    assert (result.verdict, result.stopped) == (Verdict.CONFIRMED, "witness")
    assert result.chance is not None
    # Three sightings say little more of a rate.
    assert rate / 3 < result.chance.seen / result.chance.calls < 3 * rate
    path, entry = _saved(tmp_path, result)
    assert (result.chance, result.case) == (entry.chance, entry.case)
    assert json.loads(path.read_text())["chance"] == attrs.asdict(result.chance) == search_json(result, path)["chance"]
    again = _replayed(path, judge)
    assert (again.status, again.verdict) == ("as recorded", Verdict.CONFIRMED)
    assert f"{entry.chance}; now seen in" in again.message
    assert f"{entry.chance}" in search_text(result, path)
    assert f"{entry.chance}" in entry_text(entry, path)
    assert minimised(entry, 0.9, candidate=judge).chance is not None
    Path(judge.name.partition(":")[0]).write_text(SOURCE.replace("BODY", "pass"))
    gone = _replayed(path, judge)
    assert (gone.status, gone.verdict) == ("changed", Verdict.UNRESOLVED)
    assert f"now not seen in {result.chance.patience} call" in gone.message


@pytest.mark.parametrize(
    "body",
    [
        # A cache by shape, a file that is left behind, a count of calls: each in the process of the search only.
        "seen = cache.setdefault(x.shape, squares(x)) if len(x) == 8 else squares(x)\n    y = scaled(x, eps, seen)",
        "mark = os.path.join(os.path.dirname(__file__), 'mark')\n"
        "    y *= 1 + (not os.path.exists(mark) and calls[0] > 1)\n"
        "    calls[0] == 8 and open(mark, 'w').close()",
        "y *= 1 + (1 < calls[0] < 60)",
    ],
    ids=["cache", "file", "static"],
)
def test_a_state_is_said_and_not_saved(tmp_path: Path, body: str) -> None:
    """Wrong results were returned more than once, but not in a fresh process: CONFIRMED, and no entry."""
    result, _ = _searched(tmp_path, body, seconds=3)
    if result.replays and result.verdict is Verdict.CONFIRMED:
        # A cache may show in a fresh process, too: then it replays.
        path, _ = _saved(tmp_path, result)
        assert _replayed(path, Judge(f"{tmp_path / 'mine.py'}:f")).status == "as recorded"
        return
    assert result.verdict is Verdict.CONFIRMED
    assert result.unsteady is not None
    assert result.unsteady.seen > 1
    assert not result.unsteady.again > 1
    text = search_text(result, None)
    assert "So the function keeps a state between calls" in text
    assert "Nothing is saved: it would not replay." in text
    assert search_json(result, None)["unsteady"] is not None
    with pytest.raises(ValueError, match="no case that has its value again"):
        record(result)


def test_a_result_that_was_wrong_once_confirms_nothing(tmp_path: Path) -> None:
    """It is reported, and the verdict stays what can be shown."""
    # The first two calls are those with ones.
    result, _ = _searched(tmp_path, "y *= 1 + (calls[0] == 3)", seconds=1)
    assert (result.verdict, result.unsteady is not None) == (Verdict.UNRESOLVED, True)
    assert result.unsteady is not None
    assert result.unsteady.seen == 1
    assert "Seen once, it is not called wrong" in search_text(result, None)


def test_right_functions_are_not_flagged(tmp_path: Path) -> None:
    """Chance within the bound, and results that depend on the company within it, are as right as ever."""
    result, _ = _searched(tmp_path, "y = np.nextafter(y, y * np.float32(calls[0] % 2 + len(x) % 3))", seconds=2)
    assert (result.verdict, result.unsteady, result.chance) == (Verdict.UNRESOLVED, None, None)


def test_patience() -> None:
    """A replay misses a fault of the rate that was seen with a probability below 0.001, or ends after MOST_CALLS."""
    for seen, calls in ((1, 1), (3, 2000), (3, 7), (999, 1000), (1, 2000)):
        rate, patience = seen / calls, Chance(seen, calls).patience
        assert (1 - rate) ** patience < 1e-3
        assert patience == 1 or (1 - rate) ** (patience - 1) >= 1e-3
    assert Chance(1, 10**6).patience == MOST_CALLS
    assert [str(Chance(*each)) for each in ((1, 1), (2, 9), (3, 2000))] == [
        "seen once in 1 call",
        "seen twice in 9 calls",
        "seen 3 times in 2 000 calls",
    ]
    with pytest.raises(ValueError, match="seen 0 times in 3 calls"):
        Chance(0, 3)


@pytest.mark.parametrize(
    ("needed", "wanted"),
    [({0}, [0]), ({15}, [15]), ({3, 9}, [3, 9]), ({1, 2, 3, 14}, [1, 2, 3, 14]), (set(range(16)), list(range(16)))],
)
def test_fewest_rows(needed: set[int], wanted: list[int]) -> None:
    """Only those rows stay without which it does not show."""
    assert fewest(list(range(16)), lambda rows: needed <= set(rows)) == wanted


def _row(*numbers: float) -> Case:
    return Case({"x": np.array(numbers, np.float32), "eps_exponent": np.zeros(1, np.int32)})


def test_company_is_cut_to_the_case() -> None:
    """Rows beside a case have its shapes and its scalar arguments, so that all are in one call."""
    company = Company((_row(1, 2, 3),), (_row(4, 5, 6), _row(7, 8, 9)))
    case = {"x": np.array([[0, -1]], np.float32), "eps_exponent": np.array([[2]], np.int32)}
    batch = company.around(case, ("eps_exponent",))
    assert batch["x"].tolist() == [[1, 2], [0, -1], [4, 5], [7, 8]]
    assert batch["eps_exponent"].tolist() == [[2]] * 4
    with pytest.raises(ValueError, match="company: x has the shape"):
        company.around({"x": np.zeros((1, 4), np.float32), "eps_exponent": case["eps_exponent"]}, ())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chance": {"seen": 0, "calls": 3}}, "chance: seen 0 times in 3 calls"),
        ({"chance": {"seen": 4, "calls": 3}}, "chance: seen 4 times in 3 calls"),
        ({"chance": {"seen": 1}}, "chance: missing field 'calls'"),
        ({"chance": {"seen": True, "calls": 3}}, "chance: seen has the wrong type, bool"),
        ({"company": {"before": []}}, "company: missing field 'after'"),
        ({"company": {"before": [], "after": []}}, "company: 0 different rows, where 1 to 64 are kept"),
        ({"company": {"before": [3], "after": []}}, "company: an object is needed for each row"),
        ({"company": {"before": [{"x": {}}], "after": []}}, "company: unknown field 'x'"),
        ({"company": {"before": [{"times": 1, "arrays": {"x": {}}}], "after": []}}, "missing field 'eps_exponent'"),
        ({"company": {"before": [{"times": 0, "arrays": {}}], "after": []}}, "company: 1 to 65536 rows are kept"),
        ({"company": {"before": [{"times": 65537, "arrays": {}}], "after": []}}, "company: 1 to 65536 rows are kept"),
    ],
)
def test_damaged_entries(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    """What says how a value is had again is checked as strictly as the rest; the company is a part of the digest."""
    result, _ = _searched(tmp_path, MIXED_UP["from row 13"])
    entry = record(result)
    stored = json.loads(dumps(entry))
    with pytest.raises(ValueError, match=message):
        loads(json.dumps(stored | fields), "entry")
    assert loads(json.dumps(stored), "entry").company == entry.company
    del stored["company"]
    with pytest.raises(ValueError, match="digest: does not match"):
        loads(json.dumps(stored), "entry")


def test_every_kind_of_row_stands_beside_a_case() -> None:
    """None of the other rows of the first batch is like the case, so no distance from it is left out; in the second
    the case is first and last.
    """
    seen: list[np.ndarray] = []

    def f(x: np.ndarray, eps: float) -> np.ndarray:
        seen.append(x.copy())
        return np.asarray(x / np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(eps)))

    with open_problem(RMSNORM, {}, Judge(f)) as problem:
        problem.measured(_row(0.5, 0.5, 0.5))
    alone, middle, ends = (x.tolist() for x in seen[-3:])
    case = [0.5] * 3
    assert alone == [case]
    assert [row == case for row in middle] == [i == 4 for i in range(8)]
    assert [row == case for row in ends] == [True, False, False, False, True]
    assert [row in middle for row in ([1e5] * 3, [-1e5] * 3, [0.0] * 3)] == [True] * 3
