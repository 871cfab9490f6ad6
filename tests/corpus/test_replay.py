"""Replay: every entry is measured again, and what it gives is compared with what it recorded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample, dumps
from diffuzz.corpus.files import CorpusError
from diffuzz.corpus.replay import Replayed, exit_code, replay, replay_file
from diffuzz.corpus.strict import seal
from diffuzz.judging.examination import RELATIVE_NOISE
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict


def _candidate(entry: Counterexample, name: str, value: float) -> Counterexample:
    """An entry of a candidate: the logits alone, with the value that the candidate had."""
    return attrs.evolve(
        entry,
        candidate=name,
        params=targets.get("softmax").contract_params(),
        case=Case({"z": entry.case["z"]}),
        threshold=1.0,
        bound=None,
        value=value,
        noise=0.0 if np.isinf(value) else RELATIVE_NOISE * value,
        measure="max |f - exact| / a-priori bound",
        tolerance=RELATIVE_NOISE,
        verdict=Verdict.CONFIRMED if value > 1 else Verdict.UNRESOLVED,
    )


def _file(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(f"import numpy as np\ndef f(z):\n    {body}\n")
    return f"{path}:f"


def _edit(path: Path, **fields: object) -> None:
    stored = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(stored | {"seal": seal(stored)}))


def test_as_recorded(entry: Counterexample, saved: Path) -> None:
    """An untouched entry gives its own value and verdict."""
    result = replay_file(saved)
    assert (result.status, result.value, result.verdict) == ("as recorded", entry.value, entry.verdict)
    assert result.seconds > 0
    assert exit_code([result]) == 0


def test_a_changed_value(entry: Counterexample, saved: Path) -> None:
    """Another value than recorded is a change; the message has both values."""
    wrong = attrs.evolve(entry, value=entry.value * (1 + 1e-6))
    saved.write_text(dumps(wrong))
    result = replay_file(saved)
    assert result.status == "changed"
    assert f"recorded {wrong.value:.9g}" in result.message
    assert f"now {entry.value:.9g}" in result.message
    assert exit_code([result]) == 1


def test_a_value_within_the_tolerance(entry: Counterexample, saved: Path) -> None:
    """The tolerance is the target's, relative to what was recorded; that of a file allows nothing."""
    assert entry.tolerance == targets.get("softmax").tolerance == 1e-9
    saved.write_text(dumps(attrs.evolve(entry, value=entry.value * (1 + 1e-10))))
    assert replay_file(saved).status == "as recorded"
    for value in (entry.value, entry.value * (1 + 1e-6)):
        saved.write_text(dumps(attrs.evolve(entry, value=value, tolerance=1e-3)))
        result = replay_file(saved)
        assert result.status == "changed"
        assert "recorded the tolerance 0.001, now 1e-09" in result.message


def test_a_changed_verdict(entry: Counterexample, saved: Path) -> None:
    """The same value with another verdict is a change."""
    assert entry.verdict is Verdict.CONFIRMED
    _edit(saved, verdict="UNRESOLVED")
    assert replay_file(saved).status == "changed"
    assert exit_code([replay_file(saved)]) == 1


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"value": 15.1}, "; recorded the proven bound 15.1 (rounding 1e-09), now 15 (rounding 1e-09); see: "),
        ({"rounding": 1e-3}, "; recorded the proven bound 15 (rounding 0.001), now 15 (rounding 1e-09); see: "),
        (None, "; recorded the proven bound none, now 15 (rounding 1e-09); see: "),
    ],
)
def test_a_changed_bound(entry: Counterexample, saved: Path, recorded: dict[str, float] | None, message: str) -> None:
    """A proof that now says something else is a change, though value and verdict are as they were."""
    assert entry.bound is not None
    saved.write_text(
        dumps(attrs.evolve(entry, bound=None if recorded is None else attrs.evolve(entry.bound, **recorded)))
    )
    result = replay_file(saved)
    assert (result.status, result.verdict, exit_code([result])) == ("changed", entry.verdict, 1)
    assert message in result.message
    assert result.message.startswith(f"{entry.value:.9g} CONFIRMED;")


def test_a_bound_within_float_noise(entry: Counterexample, saved: Path) -> None:
    """Another machine's libm is no change, another derivation is one."""
    assert entry.bound is not None
    noisy = attrs.evolve(entry.bound, value=entry.bound.value * (1 + 1e-11))
    saved.write_text(dumps(attrs.evolve(entry, bound=noisy)))
    assert replay_file(saved).status == "as recorded"
    saved.write_text(dumps(attrs.evolve(entry, bound=attrs.evolve(noisy, because="otherwise"))))
    result = replay_file(saved)
    assert result.status == "changed"
    assert "recorded the reason of the bound 'otherwise', now 'TV <= " in result.message


def test_infinity_is_recorded_as_such(entry: Counterexample, saved: Path) -> None:
    """A finite value is not an infinite one."""
    saved.write_text(dumps(attrs.evolve(entry, value=np.inf)))
    assert replay_file(saved).status == "changed"


def test_a_broken_file(saved: Path) -> None:
    """A file that cannot be loaded is a result, and the worst there is."""
    saved.write_text("{")
    result = replay_file(saved)
    assert (result.status, result.entry, result.value) == ("broken", None, None)
    assert "not JSON, or cut short" in result.message
    assert exit_code([result]) == 2


def test_one_bad_file_does_not_hide_the_others(saved: Path) -> None:
    """All entries are replayed, in order."""
    (saved.parent / "000000000000.json").write_text("")
    os.mkfifo(saved.parent / "ffffffffffff.json")
    assert [result.status for result in replay([saved.parent])] == ["broken", "as recorded", "broken"]


def test_nothing_to_replay(tmp_path: Path) -> None:
    """No entry at all is an error: nothing was checked."""
    with pytest.raises(CorpusError, match="nothing was replayed"):
        replay([tmp_path])
    with pytest.raises(CorpusError, match="no such file or folder"):
        replay([tmp_path / "missing"])


def test_a_candidate_has_to_be_named_again(entry: Counterexample, tmp_path: Path) -> None:
    """An entry of a candidate runs no code unless the caller names the function."""
    marker = tmp_path / "it ran"
    name = _file(tmp_path, f"import pathlib; pathlib.Path({str(marker)!r}).touch(); return np.full_like(z, np.nan)")
    path = files.save(_candidate(entry, name, np.inf), tmp_path / "corpus")
    result = replay_file(path)
    assert result.status == "needs candidate"
    assert f"--candidate {name}" in result.message
    assert exit_code([result]) == 3
    assert not marker.exists()
    again = replay_file(path, Judge(name))
    assert (again.status, again.value) == ("as recorded", np.inf)
    assert marker.exists()


def test_a_mended_candidate(entry: Counterexample, tmp_path: Path) -> None:
    """Once the candidate is right, its entry has changed."""
    path = files.save(_candidate(entry, "mine.py:f", np.inf), tmp_path / "corpus")
    right = _file(tmp_path, "e = np.exp(z - z.max(1, keepdims=True)); return e / e.sum(1, keepdims=True)")
    result = replay_file(path, Judge(right))
    assert result.status == "changed"
    assert "recorded inf CONFIRMED, now 0." in result.message


def test_a_candidate_that_fails(entry: Counterexample, saved: Path, tmp_path: Path) -> None:
    """It is a broken entry; an entry without a candidate does not mind."""
    path = files.save(_candidate(entry, "mine.py:f", np.inf), tmp_path / "corpus")
    name = _file(tmp_path, "raise RuntimeError('no\\nGPU')")
    results = replay_file(path, Judge(name)), replay_file(saved, Judge(name))
    assert "raises RuntimeError: no GPU" in results[0].message
    assert [("broken", 2), ("as recorded", 0)] == [(result.status, exit_code([result])) for result in results]


def test_a_dangerous_name_is_quoted(entry: Counterexample, tmp_path: Path) -> None:
    """What the message tells people to type is one word, whatever the entry says."""
    path = files.save(_candidate(entry, "x.py:f; rm -rf ~", np.inf), tmp_path)
    assert "--candidate 'x.py:f; rm -rf ~'" in replay_file(path).message


def test_the_worst_first() -> None:
    """Broken, then changed, then without its candidate, then as recorded."""

    def results(*statuses: str) -> list[Replayed]:
        return [Replayed(Path("x"), status, "", 0.0) for status in statuses]  # type: ignore[arg-type]

    assert exit_code(results()) == 0
    assert exit_code(results("as recorded", "needs candidate")) == 3
    assert exit_code(results("needs candidate", "changed", "as recorded")) == 1
    assert exit_code(results("changed", "needs candidate", "broken")) == 2
