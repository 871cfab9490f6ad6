"""Cases and entries as text that a person can read, on a screen that they cannot take over."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuzz import formats, targets
from diffuzz.cases import text
from diffuzz.cases.case import Case
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.cases.text import case_text, decimal, runs_text, space_text
from diffuzz.cli.progress import line_printer, shown
from diffuzz.cli.replay import junit_xml, replay_json, replay_text
from diffuzz.cli.show import entry_text
from diffuzz.cli.targets import target_json, targets_text
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample
from diffuzz.corpus.replay import Replayed
from diffuzz.corpus.spelling import json_number
from diffuzz.judging.verdict import Verdict
from diffuzz.targets.outcome import Bound


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_decimal_reads_back(value: float) -> None:
    """The decimal of a float32 reads back as the same bits."""
    assert np.float32(decimal(value)).tobytes() == np.float32(value).tobytes()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (10.0, "10"),
        (-0.5, "-0.5"),
        (0.1, "0.1"),
        (2**31 - 1, "2147483647"),
        (2.0**-149, "1e-45"),
    ],
)
def test_decimal(value: float, text: str) -> None:
    """Short where it can be, whole numbers without a point, both zeros told apart, integers in full."""
    assert decimal(float(np.float32(value)) if isinstance(value, float) else value) == text


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([10, 10, -10], np.float32), "10 x 2, -10"),
        (np.array([0.0, -0.0, -0.0], np.float32), "0, -0 x 2"),
        (np.array([16777217, 16777217], np.int32), "16777217 x 2"),
        (np.array([[1, 2], [2, 3]], np.uint8), "1, 2 x 2, 3"),
    ],
)
def test_runs(array: np.ndarray, text: str) -> None:
    """Runs of equal elements in C order."""
    assert runs_text(array) == text


def test_long_arrays_are_summarised() -> None:
    """The first runs, how many there are, and the range."""
    text = runs_text(np.arange(100, dtype=np.float32))
    assert text.startswith("0, 1, 2,")
    assert text.endswith("... (100 elements in 100 runs, 100 distinct, 0 to 99)")


def test_blocks_are_shown_by_field() -> None:
    """A block of quantised weights is its scale, minimum and quants, not its bytes."""
    spec = TensorSpec("weights", kind="blocks", shape=(Dim("m", 1), Dim("n", 64)), format="q4_0")
    fmt = formats.get("q4_0")
    blocks = np.zeros((2, fmt.type_size), np.uint8)
    blocks.view(fmt.layout)["d"] = 0.5
    text = case_text(Space((spec,)), Case({"weights": blocks.reshape(1, -1)}))
    assert text.splitlines()[0] == "weights = 1 row of 2 blocks of q4_0"
    assert "  d = 0.5 x 2" in text.splitlines()


def test_a_judged_entry_has_the_parameters_of_its_question(entry: Counterexample) -> None:
    """Those of the amplification, which an old entry has as well, do not stand above what a candidate did."""
    target = targets.get("softmax")
    assert target.contract is not None
    judged = attrs.evolve(
        entry,
        candidate="mine.py:f",
        params=target.contract_params(),
        others=dict(target.params()),
        case=Case({"z": entry.case["z"]}),
    )
    (line,) = [line for line in entry_text(judged, Path("1.json")).splitlines() if line.startswith("  parameters")]
    shown = [text.partition("=")[0] for text in line.split(None, 1)[1].split(", ")]
    assert shown == list(target.contract_params())
    assert not {"delta", "perturbation", "n"} & set(shown)


def test_scalar_arguments_are_shown_as_their_values() -> None:
    """What the function was called with, and not the exponent that stands for it in the case; in a domain as well."""
    target = targets.get("rmsnorm")
    contract, params = target.contract, target.contract_params()
    assert contract is not None
    case = Case({"x": np.ones(2, np.float32), "eps_exponent": np.array([-1], np.int32)})
    space = contract.space(params)
    assert case_text(space, case, contract.instead(params, case.batch())) == "x = 1 x 2\neps = 1e-07"
    assert space_text(space, contract.domain(params)).endswith("; eps in [1e-09, 0.001]")


def test_lines_end() -> None:
    """No line is longer than four times the width, whatever the array."""
    spec = TensorSpec("x", kind="activations", shape=(Dim("n", 10),), low=-1e38, high=1e38)
    x = np.float32(1.2345678e-30) * np.arange(10, dtype=np.float32)
    assert len(case_text(Space((spec,)), Case({"x": x}))) <= 4 * text.WIDTH + 4
    assert case_text(Space((spec,)), Case({"x": x})).startswith("x = 0, 1.2345")


def test_an_entry_says_what_where_and_how(entry: Counterexample) -> None:
    """Verdict, value to the bit, bound with its reason, measure, domain, case, provenance."""
    text = entry_text(entry, Path("softmax/1.json"))
    for part in (
        "CONFIRMED: softmax, value > 5",
        entry.value.hex(),
        str(entry.bound and entry.bound.because),
        entry.measure,
        "n=3, max_abs=10,",
        "z = 9.5 x 2, -10",
        "z_direction = 1, -1 x 2",
        "engine hand, seed 7",
        entry.digest[:12],
    ):
        assert part in text
    assert "  candidate  " not in text
    assert "none known" in entry_text(attrs.evolve(entry, bound=None), Path("softmax/1.json"))


@pytest.mark.parametrize("name", targets.names())
def test_every_target_is_listed(name: str) -> None:
    """Text and JSON for every target, with its parameters and its bound; strict JSON, without infinities."""
    target = targets.get(name)
    stored = json.loads(json.dumps(target_json(target), allow_nan=False))
    assert stored["name"] == name
    assert [parameter["name"] for parameter in stored["parameters"]] == [p.name for p in target.declared]
    text = targets_text([target])
    assert text.startswith(f"{name}\n")
    for parameter in target.declared:
        assert f"  {parameter.name}=" in text
        shown = text.split(f"  {parameter.name}=")[1].split()[0]
        assert parameter.parse(shown) == parameter.default


def test_json_has_no_infinities() -> None:
    """What JSON cannot say is a string."""
    assert [json_number(value) for value in (1.5, math.inf, -math.inf)] == [1.5, "inf", "-inf"]
    assert json_number(math.nan) == "nan"
    measured = attrs.evolve(targets.get("softmax"), bound=lambda p: Bound(math.inf, "none"))
    assert json.loads(json.dumps(target_json(measured), allow_nan=False))["bound"] == "inf"


def _replayed(entry: Counterexample) -> list[Replayed]:
    path = files.Path("corpus/softmax/0123456789ab.json")
    return [
        Replayed(path, "as recorded", "1 CONFIRMED", 0.25, entry, 1.0, Verdict.CONFIRMED),
        Replayed(path, "changed", 'recorded <1> & "2"', 0.25, entry, math.inf, Verdict.UNRESOLVED),
        Replayed(path.with_name("bad\x00\x1b\ud800\ufffe.json"), "broken", "cut\x00 \x1b[2J \ud800", 0.0),
        Replayed(path, "needs candidate", "found with a candidate", 0.0, entry),
    ]


def test_junit(entry: Counterexample) -> None:
    """One test case an entry; changed ones are failures, what could not be replayed is an error; any text is valid."""
    text = junit_xml(_replayed(entry))
    suite = ElementTree.fromstring(text.encode("utf-8"))
    assert ("testsuite", "4", "1", "2", "0.500") == (
        suite.tag,
        *(suite.get(k) for k in ("tests", "failures", "errors", "time")),
    )
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["error"], ["error"]]
    assert ("softmax", "0123456789ab") == (suite[0].get("classname"), suite[0].get("name"))
    assert suite[1][0].get("message") == 'recorded <1> & "2"'
    assert suite[2][0].get("message") == r"cut\x00 \x1b[2J \ud800"


def test_replay_as_json(entry: Counterexample) -> None:
    """Counts, and each entry with its status; strict JSON."""
    stored = json.loads(json.dumps(replay_json(_replayed(entry)), allow_nan=False))
    assert (4, 1) == (stored["replayed"], stored["as_recorded"])
    assert ["as recorded", "changed", "broken", "needs candidate"] == [one["status"] for one in stored["results"]]
    assert [1.0, "inf", None, None] == [one["value"] for one in stored["results"]]


def test_replay_as_text(entry: Counterexample) -> None:
    """One line an entry, and the count last."""
    lines = replay_text(_replayed(entry)[:2]).splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("1 of 2 entries replayed as recorded, in 0.50 s")


def test_hostile_file_names_are_shown_as_text(entry: Counterexample) -> None:
    """The name of a file neither controls the terminal nor makes another line, in a replay or where it is shown."""
    results = [attrs.evolve(one, path=one.path.with_name("bad\x00\x1b\ud800\ufffe.json")) for one in _replayed(entry)]
    text = replay_text(results)
    assert text.replace("\n", "").isprintable()
    # One for each but the broken one, which is said on stderr, and the count.
    assert len(text.splitlines()) == len(results)
    assert text.count(r"bad\x00\x1b\ud800\ufffe.json") == len(results) - 1
    shown = entry_text(entry, Path("softmax/bad\x1b[2J\nCONFIRMED: nothing.json"))
    assert r"softmax/bad\x1b[2J\nCONFIRMED: nothing.json" == shown.splitlines()[0]
    assert shown.replace("\n", "").isprintable()


def test_progress_is_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a line on a terminal quotes is neither markup nor an emoji, and controls nothing."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with shown("matrix"):
        say = line_printer()
        assert say is not None
        say("libggml@[/bold]:smile:\n\x1b[2J, exact: by policy")
    assert capsys.readouterr().err.endswith("libggml@[/bold]:smile:\\n\\x1b[2J, exact: by policy\n")
