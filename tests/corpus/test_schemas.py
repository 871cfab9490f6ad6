"""Entries of all schemas: what version 0.1 wrote stays readable, and what is written now comes back."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.cli import main
from diffuzz.corpus.entry import Counterexample, dumps, loads
from diffuzz.corpus.files import CorpusError, load, save
from diffuzz.corpus.record import minimised, record
from diffuzz.corpus.replay import replay_file
from diffuzz.judging.question import Compare
from diffuzz.searching.search import search

ROOT = Path(__file__).parent.parent.parent
OLD = sorted((ROOT / "tests" / "data" / "schema-1").glob("*.json"))


def _real() -> list[Path]:
    return sorted((ROOT / "corpus").rglob("*.json"))


def _of_schema(path: Path, schema: int) -> bool:
    return bool(json.loads(path.read_text())["diffuzz"] == schema)


def _downgraded(entry: Counterexample, **more: object) -> Counterexample:
    """``entry`` with what version 0.1 wrote down beside the parameters of its question."""
    return attrs.evolve(entry, others={"candidate_max_abs": 120.0, "masked": True, "tail": True, **more})


def _old_text(entry: Counterexample) -> str:
    stored = json.loads(dumps(entry)) | {"diffuzz": 1}
    del stored["seal"]
    stored["limit"] = stored.pop("threshold")
    return json.dumps(stored)


@pytest.mark.parametrize("target", sorted({path.parent.name for path in (ROOT / "corpus").rglob("*.json")}))
def test_real_entries(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those in this repository's corpus load, are shown, and replay as recorded."""
    for path in (ROOT / "corpus" / target).glob("*.json"):
        entry, stored = load(path), json.loads(path.read_text())
        later = {one.name: one.default for one in targets.get(target).parameters if one.later}
        assert {**entry.params, **entry.others} == {**later, **stored["params"]}
        assert set(entry.params) == set(targets.get(target).params())
        assert entry.threshold == float.fromhex(stored.get("limit") or stored["threshold"])
        assert replay_file(path).status == "as recorded"
        assert main._run(["show", str(path)]) == 0
        assert f"{entry.verdict.value}: {target}, value > " in capsys.readouterr().out


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_entries_as_version_0_1_wrote_them(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of schema 1, with more than their question's parameters, load, are shown, and replay as recorded."""
    assert _of_schema(path, 1)
    assert replay_file(path).status == "as recorded"
    assert main._run(["show", str(path)]) == 0
    assert f": {path.stem}, value > " in capsys.readouterr().out


def test_there_is_one_with_other_parameters() -> None:
    """The test above is about them, too; and all of this repository's corpus is of the current schema."""
    assert any(load(path).others for path in OLD)
    assert all(_of_schema(path, 3) for path in _real())


def test_an_entry_of_schema_1(entry: Counterexample, tmp_path: Path) -> None:
    """Its limit is the threshold; its digest is over all that it had; it is written back as schema 3, with the same
    digest.
    """
    old = _downgraded(entry)
    assert old.digest != entry.digest
    path = tmp_path / f"{old.digest[:12]}.json"
    path.write_text(_old_text(old))
    assert load(path) == old
    assert load(path).threshold == entry.threshold
    assert dict(load(path).params) == dict(entry.params)
    assert replay_file(path).status == "as recorded"
    again = loads(dumps(load(path)), path.stem)
    assert again == old
    assert json.loads(dumps(again))["diffuzz"] == 3


def test_an_old_entry_of_a_candidate(entry: Counterexample, tmp_path: Path) -> None:
    """It had the parameters of the claim as well; a replay asks the question of the candidate."""
    target = targets.get("softmax")
    old = attrs.evolve(
        entry,
        candidate="mine.py:f",
        params=target.contract_params(),
        others=dict(target.params({"n": 3})),
        case=Case({"z": entry.case["z"]}),
        value=np.inf,
        bound=None,
        threshold=1.0,
    )
    path = tmp_path / "old.json"
    path.write_text(_old_text(old))
    assert load(path) == old
    assert (load(path).params["candidate_n"], load(path).others["n"]) == (target.contract_params()["candidate_n"], 3)
    assert replay_file(path).status == "needs candidate"


def test_a_simpler_case_of_an_old_entry(entry: Counterexample, tmp_path: Path) -> None:
    """It keeps what the old one had, and can be saved and replayed."""
    old = _downgraded(entry)
    new = minimised(old, 0.1, seconds=1.0)
    assert new.others == old.others
    assert replay_file(save(new, tmp_path, always=True)).status == "as recorded"


@pytest.mark.parametrize(
    ("schema", "field", "message"),
    [
        (1, "threshold", "unknown field 'threshold'"),
        (2, "limit", "unknown field 'limit'"),
        (3, "limit", "unknown field 'limit'"),
        (4, "threshold", "diffuzz: schema 4, where this version reads 1, 2 and 3"),
        (4, "anything", "diffuzz: schema 4, where this version reads 1, 2 and 3"),
    ],
)
def test_the_fields_of_a_schema(entry: Counterexample, tmp_path: Path, schema: int, field: str, message: str) -> None:
    """Each has its own, and one that is not known is called that."""
    stored = json.loads(dumps(entry)) | {"diffuzz": schema}
    if schema < 3:
        del stored["seal"]
    stored[field] = stored.pop("threshold")
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(CorpusError, match=message):
        load(path)


def test_a_parameter_that_nobody_knows(entry: Counterexample, tmp_path: Path) -> None:
    """Others are those of the target, of their types."""
    path = tmp_path / "old.json"
    for others, message in (({"candidate_min": 1.0}, "no parameter 'candidate_min'"), ({"tail": 1}, "true or false")):
        path.write_text(_old_text(attrs.evolve(entry, others=others)))
        with pytest.raises(CorpusError, match=message):
            load(path)


def test_files_come_back(entry: Counterexample, tmp_path: Path) -> None:
    """What says where a target, a format and kernels are from: written where there is any, by these names only."""
    assert "files" not in json.loads(dumps(entry))
    named = attrs.evolve(entry, files={"format": "a b.py:FORMAT", "kernels": "one.py,two.py"})
    assert load(save(named, tmp_path)) == named
    assert named.digest == entry.digest
    for files in ({"candidate": "x.py"}, {"target": 3}, {"target": "x\n.py"}):
        with pytest.raises(CorpusError, match="could not be loaded again: files: "):
            save(attrs.evolve(entry, files=files), tmp_path / "other")


def test_an_entry_from_before_a_parameter_was_there(tmp_path: Path) -> None:
    """Without a parameter that its target got later it means the default, and has the digest of an entry with it; with
    another value it is another entry. Other parameters may not be missing.
    """
    softmax = targets.get("softmax")
    entry = record(search(softmax, {"candidate_n": 2}, Compare("apr", "ggml"), seconds=1, seed=0))
    assert entry.params["policy"] == "exact"
    stored = json.loads(dumps(entry))
    del stored["params"]["policy"]
    stored.pop("seal", None)
    path = tmp_path / f"{entry.digest[:12]}.json"
    path.write_text(json.dumps(stored | {"diffuzz": 2}))
    assert load(path) == entry
    assert replay_file(path).status == "as recorded"
    other = attrs.evolve(entry, params={**entry.params, "policy": "clamp-64"})
    assert other.digest != entry.digest
    del stored["params"]["tail"]
    path.write_text(json.dumps(stored | {"diffuzz": 2}))
    with pytest.raises(CorpusError, match="params: tail is missing"):
        load(path)
