"""Pages of searches, entries, matrices, claims and whole reports: what they say, and that they are fit to be sent."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pages.html_text import Page

from diffuzz import open_problem, targets
from diffuzz.cases.case import unstack
from diffuzz.cases.draws import structured
from diffuzz.cli import drawn_json, main, opening, search_json
from diffuzz.cli.claims import claims_json
from diffuzz.judging.evidence import Compared, Judged
from diffuzz.judging.question import Compare, Judge
from diffuzz.pages import campaign, claims, figures, fingerprint, index, matrix, search
from diffuzz.pages.figures import plain, real, ruler
from diffuzz.searching.objective import Found
from diffuzz.studies.claims import settling

HOSTILE = "\"'></title></style><script>alert(1)</script><img src=//x onerror=alert(1)>\x1b[31m\u202e&lt;\u2028"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGES = ("claim", "judged", "pair", "entry", "matrix", "claims", "index", "tree", "dense", "none", "campaign")
MAKERS = {"claim": search, "judged": search, "pair": search, "entry": search, "matrix": matrix, "claims": claims,
          "index": index, "tree": fingerprint, "dense": fingerprint, "none": fingerprint,
          "campaign": campaign}  # fmt: skip
KERNEL = """
import numpy as np

def soft_max(z):
    e = np.exp(z)
    return e / e.sum(axis=-1, keepdims=True)

def in_turn(x):
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 4)])
    total = np.zeros(x.shape[:-1], np.float64)
    for k in range(0, x.shape[-1], 4):
        total += (x[..., k] + x[..., k + 1]) + (x[..., k + 2] + x[..., k + 3])
    return total.astype(np.float32)

def ordered(x):
    return np.sort(x, axis=-1).sum(axis=-1)
"""


def _run(*words: object, code: int | None = None) -> None:
    got = main._run([str(word) for word in words])
    assert code is None or got == code, words


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page of each kind, and the JSON that some are made of."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "kernels.py").write_text(KERNEL)
    before = Path.cwd()
    os.chdir(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", printed := io.StringIO())
            softmax = ("search", "--target", "softmax", "--seed", 0, "--corpus", "corpus")
            _run(*softmax, "--html", "claim.html", "--json", code=1)
            (folder / "claim.json").write_text(printed.getvalue())
            _run(*softmax, "--candidate", "kernels.py:soft_max", "--fix", "b=1", "--html", "judged.html", code=1)
            _run("search", "--target", "matvec", "--kernels", "apr,ggml", "--param", "format=q4_K", "--seed", 3,
                 "--budget", "1s", "--corpus", "corpus", "--html", "pair.html", code=1)  # fmt: skip
            printed.truncate(0)
            _run("matrix", "--target", "softmax", "--kernels", "apr,ggml,exact", "--budget", "100ms", "--html",
                 "matrix.html", "--json", code=0)  # fmt: skip
            (folder / "matrix.json").write_text(printed.getvalue().lstrip("\0"))
            rows = [settling.Settled(row, {"rel_l2": 0.5, "bits": "0x0"}, 2.0, 4.0, None, "CONFIRMED", Path("w.json"))
                    for row in settling.ROWS[:5]]  # fmt: skip
            settled = claims_json(rows) | {"budget_s": 1.0, "seed": 0, "command": "python -m diffuzz claims"}
            (folder / "claims.json").write_text(json.dumps(settled))
            _run("report", "claims.json", "--html", "claims.html", code=0)
            entry = json.loads((folder / "claim.json").read_text())["witness"]
            _run("report", entry, "--html", "entry.html", code=0)
            of = ("fingerprint", "--target", "sum", "--candidate")
            _run(*of, "kernels.py:in_turn", "--n", 24, "--html", "tree.html", code=0)
            _run(*of, "kernels.py:in_turn", "--n", 300, "--html", "dense.html", code=0)
            _run(*of, "kernels.py:ordered", "--n", 24, "--html", "none.html", code=0)
            _run("campaign", "--targets", "softmax,sum", "--candidates", "kernels.py:soft_max", "--slice", "100ms",
                 "--budget", "1s", "--seed", 1, "--corpus", "found", "--html", "campaign.html", code=1)  # fmt: skip
            _run("report", "corpus", "claim.json", "matrix.json", "--html", "index.html", code=1)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(params=PAGES)
def kind(request: pytest.FixtureRequest) -> str:
    """The name of each page."""
    name: str = request.param
    return name


@pytest.fixture
def page(made: Path, kind: str) -> Page:
    """Each of the pages; reading one asserts that it is well-formed."""
    return Page((made / f"{kind}.html").read_text(encoding="utf-8"))


def _searched(made: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made / "claim.json").read_text())
    return found


def test_pages_are_fit_to_be_sent(page: Page) -> None:
    """Nothing is fetched or run, links lead somewhere, pictures have words, headings are in order."""
    page.nothing_is_fetched_or_run()
    page.links_resolve()
    page.pictures_have_words()
    page.headings_are_in_order()


def test_a_search_tells_its_history(made: Path) -> None:
    """--json has each improvement, of which the last is the largest before minimising."""
    found = _searched(made)
    values = [one["value"] for one in found["history"]]
    assert sorted(values) == values
    assert found["largest_before_minimising"] == values[-1]
    assert all(one["seconds"] <= found["seconds"] and one["evaluations"] for one in found["history"])


def test_a_history_is_bounded() -> None:
    """Of very many improvements a few hundred are told, the first and the last among them."""

    @attrs.frozen
    class _Result:
        history: tuple[Any, ...]

    for count in (0, 1, 200, 201, 5000):
        steps = tuple(Found(None, float(i), 0.0, "e", i, float(i)) for i in range(count))  # type: ignore[arg-type]
        told = [one["value"] for one in search_json._history_json(_Result(steps))]  # type: ignore[arg-type]
        assert len(told) == min(count, 200)
        assert told == sorted(set(told))
        assert told[:1] + told[-1:] == [float(i) for i in range(count)][:1] + [float(i) for i in range(count)][-1:]


def test_a_page_holds_what_json_prints(made: Path) -> None:
    """The numbers that can be downloaded are those of --json, and what is drawn beside them."""
    held = Page((made / "claim.html").read_text(encoding="utf-8")).data
    found = _searched(made)
    assert {name: held[name] for name in found} == found
    assert Page((made / "matrix.html").read_text(encoding="utf-8")).data == json.loads(
        (made / "matrix.json").read_text()
    )


def test_what_a_search_says_is_shown(made: Path) -> None:
    """Verdict, claim, value, threshold, bound and its reason, the case, its terms, and the lines to run again."""
    page, found = Page((made / "claim.html").read_text(encoding="utf-8")), _searched(made)
    shown = page.text
    for said in (found["verdict"], found["claim"], found["measure"], found["bound_because"], found["command"]):
        assert said in shown
    for number in (found["value"], found["threshold"], found["bound"], *found["detail"].values()):
        assert plain(number, 7)[:7] in shown
    assert "z = -10 x 5, 10 x 2" in shown
    assert f"python -m diffuzz replay {found['witness']}" in shown
    assert f"python -m diffuzz show {found['witness']} --python" in shown


def test_a_page_holds_its_entry(made: Path, tmp_path: Path) -> None:
    """What the page gives to be saved is the entry, which replays."""
    held = Page((made / "judged.html").read_text(encoding="utf-8"))
    (link,) = [each for each in held.of("a") if (each.get("download") or "").endswith(".json")]
    saved = tmp_path / str(link["download"])
    saved.write_bytes(base64.b64decode(str(link["href"]).partition(",")[2]))
    given = ["--candidate", f"kernels.py:soft_max={made / 'kernels.py'}:soft_max"]
    assert main._run(["replay", str(saved), *given]) == 0


def test_a_tree_is_drawn(made: Path) -> None:
    """Each addition once, in the colour of its precision; a long sum without lines of its summands; no picture where
    there is no order; and what ran it, to be run again.
    """
    page, data = (made / "tree.html").read_text(encoding="utf-8"), Page((made / "tree.html").read_text()).data
    across = {kind: _drawn(page, kind).count("H") for kind in ("node", "node other")}
    assert across == {"node": 18, "node other": len(data["tree"]) - 18}
    stems = _drawn(page, "node").count("V") + _drawn(page, "node other").count("V")
    assert stems == 24 + len(data["tree"]) - 1
    assert "verified to the bit on" in page
    words = shlex.split(str(data["command"]))[3:]
    assert words[-4:] == ["--n", "24", "--seed", "0"]
    assert words[1:5] == ["--target", "sum", "--candidate", "kernels.py:in_turn"]
    dense = (made / "dense.html").read_text(encoding="utf-8")
    assert _drawn(dense, "node").count("V") < 300
    none = (made / "none.html").read_text(encoding="utf-8")
    assert "shows no order: its order depends on the numbers" in none
    assert 'class="node"' not in none


def _drawn(page: str, kind: str) -> str:
    """All paths of a kind."""
    return "".join(re.findall(rf'<path class="{kind}" d="(M\d[^"]*V[^"]*)"', page))


def test_who_is_wrong_is_shown(made: Path) -> None:
    """Of a wrong function: what is exact, what the reference gave, what it gave, and what is allowed."""
    page = Page((made / "judged.html").read_text(encoding="utf-8"))
    detail, (worst, *_) = page.data["detail"], page.data["drawn"]["result"]["worst"]
    assert page.data["candidate"] == "kernels.py:soft_max"
    assert {"reference", "candidate"} == set(worst["sides"])
    assert {detail["exact"], detail["allowance"]} == {worst["exact"], worst["allowed"]}
    for number in (detail["exact"], detail["reference"], detail["candidate"]):
        assert plain(number) in page.text
    assert "kernels.py:soft_max is wrong" in page.text


def test_codes_are_beside_their_steps(made: Path) -> None:
    """Weights are their codes times their steps; of what is rounded to codes, places are within half a step."""
    arrays = Page((made / "pair.html").read_text(encoding="utf-8")).data["drawn"]["arrays"]
    weights = next(one for one in arrays if one["kind"] == "blocks")
    codes, steps, low = (np.array(weights["codes"][name]) for name in ("codes", "steps", "minimums"))
    assert np.array_equal((steps * codes - low).astype(np.float32), np.array(weights["values"]["low"], np.float32))
    x = next(one for one in arrays if one["kind"] == "activations")
    assert x["codes"]["format"] == "q8_K"
    assert max(map(abs, x["codes"]["places"])) <= 0.5 + 1e-6


def test_every_element_is_in_the_evidence() -> None:
    """The value of a case is the largest share of what is allowed; the worst element has the numbers of the report."""

    def soft_max(z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max(axis=-1, keepdims=True))
        return (e / e.sum(axis=-1, keepdims=True)).astype(np.float16).astype(np.float32)

    rng = np.random.default_rng(0)
    target = targets.get("softmax")
    for question in (Judge(soft_max, name="f"), Compare("apr", "ggml")):
        with open_problem(target, {"fix:n": 33}, question) as problem:
            measured = problem.measured(unstack(structured(problem.space, rng, 1), 0))
        found = measured.evidence
        assert isinstance(found, Judged | Compared)
        elements = found.elements
        assert elements is not None
        assert elements.ratio.max() == measured.value
        assert elements.ratio.argmax() == found.element
        assert elements.exact is not None
        assert elements.exact[found.element] == found.exact
        worst = [side[found.element] for side in elements.sides.values()]
        assert worst == ([found.reference, found.candidate] if isinstance(found, Judged) else [found.a, found.b])


@given(st.lists(st.floats(width=32) | st.just(math.nan), min_size=1, max_size=40), st.integers(1, 60))
def test_a_series_loses_no_extreme(numbers: list[float], times: int) -> None:
    """However long an array is, what is drawn of it is bounded and has its least and its largest number."""
    array = np.array(numbers * times)
    found = drawn_json.series(array)
    low, high = ([real(one) for one in found[name] or found["low"]] for name in ("low", "high"))  # type: ignore[union-attr]
    assert len(low) == len(high) == -(-array.size // found["per"]) <= drawn_json.MOST  # type: ignore[operator]
    for drawn, wanted in ((np.nanmin, np.nanmin), (np.nanmax, np.nanmax)):
        if np.isnan(array).all():
            assert all(map(math.isnan, low))
        else:
            assert drawn(low if drawn is np.nanmin else high) == wanted(array)


@example([5e-324])
@example([1.5000000005000003e308])
@example([-1.7e308, 1.7e308])
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=30))
def test_scales_hold_every_number(numbers: list[float]) -> None:
    """Numbers are where their order is, between the ends; so are zero and what is written beside the scale."""
    scale = ruler(numbers)
    places = [scale.at(number) for number in sorted([*numbers, 0.0])]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= 1
    ticks = [place for place, _ in scale.ticks]
    assert ticks == sorted(ticks)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in ticks)
    assert 2 <= len(ticks) <= 14
    beyond = scale.with_infinity()
    assert beyond.at(math.inf) == 1
    assert all(beyond.at(number) < 1 for number in numbers if number < math.inf)


def test_numbers_far_apart_are_drawn_in_decades() -> None:
    """A scale is linear for numbers alike, and else has decades on the sides where there are numbers."""
    assert not ruler([1.0, -3.0, 2.0]).wide
    scale = ruler([1e-6, -1e4, 3.0])
    assert scale.wide
    assert [text for _, text in scale.ticks if text.startswith("−")]
    assert "0" in [text for _, text in scale.ticks]
    assert scale.at(-1e4) < scale.at(0.0) < scale.at(1e-6) < scale.at(3.0)
    assert not any(text.startswith("−") for _, text in ruler([1e-6, 1e4]).ticks)
    assert "∞" == figures.ruler([1.0]).with_infinity().ticks[-1][1]


_LOOKED_UP = {"verdict", "agreement", "kind", "level", "stopped_by", "href", "status", "how"}


def _hostile(value: Any, key: str = "") -> Any:
    """The same object with hostile text in the place of every string but those by which a page looks things up."""
    if isinstance(value, dict):
        if key in ("params", "environment", "reproduced"):
            return {**value, HOSTILE: HOSTILE}
        return {name: _hostile(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_hostile(each, key) for each in value]
    return (
        HOSTILE if isinstance(value, str) and key not in _LOOKED_UP and value not in ("inf", "nan", "-inf") else value
    )


def test_text_of_others_is_no_markup(made: Path, kind: str) -> None:
    """With hostile text wherever there is text, a page has the elements that it has without, and shows the text."""
    usual = Page((made / f"{kind}.html").read_text(encoding="utf-8"))
    page = Page(MAKERS[kind].page(_hostile(usual.data)))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in usual.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace("\u2028", "\\u2028") in page.text
    assert not {"\x1b", "\u202e", "\u2028"} & set(page.source)
    page.links_resolve()


def test_each_filter_hides_what_was_not_chosen(made: Path) -> None:
    """A choice for each target, verdict and kind, and a rule for each choice that names the rows to be left."""
    page = Page((made / "index.html").read_text(encoding="utf-8"))
    results = page.data["results"]
    rows = [attributes["class"].split() for tag, attributes in page.elements if tag == "tr" and attributes.get("class")]  # type: ignore[union-attr]
    assert len(rows) == len(results)
    for name in ("target", "verdict", "kind"):
        choices = list(dict.fromkeys(each[name] for each in results))
        assert len(choices) > 1
        for place, choice in enumerate(choices):
            rule = f"body:has(#by-{name} option:nth-child({place + 2}):checked) .result:not(.{name}-{place})"
            assert rule in page.style
            assert sum(f"{name}-{place}" in row for row in rows) == sum(each[name] == choice for each in results)
    # The worst is first.
    assert results[0]["level"] == "error"


def _report(here: Path, *words: str) -> int:
    return main._run(["report", *words, "--html", str(here / "page.html")])


def test_what_cannot_be_read_is_in_the_report(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that is broken has a row, and says why; one that needs its function shows what is known without."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "corpus", "corpus")
    first = min(Path("corpus").glob("softmax/*.json"))
    Path("corpus/softmax/0123456789ab.json").write_text(first.read_text().replace("softmax", "sortmax"))
    assert _report(tmp_path, "corpus") == 2
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    assert "broken" in page.text
    assert "needs candidate" in page.text
    page.nothing_is_fetched_or_run()
    page.links_resolve()
    assert _report(tmp_path, "corpus/softmax/0123456789ab.json") == 2
    assert "0 CONFIRMED" not in Page(Path("page.html").read_text(encoding="utf-8")).text


def test_a_result_of_standard_input(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its witness at hand, a page shows what the line has, and says so."""
    monkeypatch.chdir(tmp_path)
    line = (made / "claim.json").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))
    assert _report(tmp_path, "-") == 1
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    assert "was not at hand" in page.text
    assert page.data == _searched(made)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("claim", {"history": 3}), ("claim", {"value": "much"}), ("claim", {"threshold": None, "measure": []}),
        ("claim", {"environment": 3}), ("claim", {"detail": [1]}), ("claim", {"kernels": [1]}),
        ("claim", {"history": [{"seconds": "inf", "value": 1, "evaluations": 1, "engine": "e"}]}),
        ("claim", {"history": [{"seconds": -1, "value": "nan", "evaluations": 1, "engine": "e"}]}),
        ("claim", {"drawn": {"arrays": 3}}), ("claim", {"bound": "nan", "efficiency": "x"}), ("claim", {"entry": 5}),
        ("matrix", {"cells": [{"kernels": 3, "agreement": "to the bit", "value": 1}]}), ("matrix", {"params": 3}),
        ("claims", {"claims": [{"claim": "c", "verdict": "v"}]}), ("claims", {"budget_s": "x"}),
    ],
)  # fmt: skip
def test_a_result_that_is_none_is_said(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: dict[str, Any]
) -> None:
    """Whatever a line of JSON has, the answer is a page that is well-formed, or one line; no traceback."""
    stored = json.loads((made / f"{name}.json").read_text()) | change
    (tmp_path / "given.jsonl").write_text(json.dumps(stored))
    code = _report(tmp_path, str(tmp_path / "given.jsonl"))
    err = capsys.readouterr().err
    if code == 2:
        assert len(err.splitlines()) == 1
        assert "given.jsonl: line 1: " in err
        assert not (tmp_path / "page.html").exists()
    else:
        Page((tmp_path / "page.html").read_text(encoding="utf-8")).nothing_is_fetched_or_run()


def test_a_page_is_no_input(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page does not take the place of what it is made of."""
    given = str(made / "claim.json")
    assert main._run(["report", given, "--html", given]) == 2
    assert "that is an input" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["kernels.py:silu", "x=kernels.py:silu"])
def test_files_that_arguments_name_are_inputs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a page nor a report takes the place of a file with the function that is tested."""
    monkeypatch.chdir(tmp_path)
    kernels = tmp_path / "kernels.py"
    kernels.write_text("def silu(x): return x\n")
    asked = ["--candidate", name, "--html", "kernels.py"]
    named = ["--candidate", name, "--junit", "kernels.py"]
    program = ["--candidate", "run: ./kernels.py 1", "--html", "./kernels.py"]
    for words in (
        ["search", "--target", "silu", *asked],
        ["search", "--target", "silu", *program],
        ["search", "--target", name, "--html", "kernels.py"],
        ["matrix", "--target", "silu", *asked],
        ["report", *asked],
        ["replay", *named],
    ):
        assert main._run(words) == 2
        assert "that is an input" in capsys.readouterr().err
    assert kernels.read_text() == "def silu(x): return x\n"


_SEARCH = ("search", "--target", "softmax", "--seed", "0", "--no-save", "--json")


def _browser(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = folder / "browser"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("BROWSER", f"{program} %s")


@pytest.mark.skipif(sys.platform == "win32", reason="the browser is a script of sh")
def test_a_search_opens_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The browser gets the address of the page; what it prints is in nobody's way, and its failure is none."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(opening.tempfile, "tempdir", None)
    _browser(tmp_path, monkeypatch, f'echo "opened $1"; echo "$1" > {tmp_path}/address')
    assert main._run([*_SEARCH, "--open"]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out)["verdict"] == "CONFIRMED"
    (file,) = tmp_path.glob("diffuzz-softmax-*.html")
    assert (tmp_path / "address").read_text().strip() == file.as_uri()
    assert f"page: {file} (opened in the browser)\n" == err.splitlines(keepends=True)[-1]
    Page(file.read_text(encoding="utf-8")).nothing_is_fetched_or_run()
    _browser(tmp_path, monkeypatch, "exit 3")
    assert main._run([*_SEARCH, "--open", "--html", str(tmp_path / "own.html")]) == 1
    assert f"page: {tmp_path / 'own.html'} (open it in a browser" in capfd.readouterr().err


def test_without_a_screen_it_says_where_the_page_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No browser is asked for where none can show it."""
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(opening.sys, "platform", "linux")
    monkeypatch.setattr(opening.subprocess, "Popen", None)
    assert not opening.opened(tmp_path / "page.html")


def test_a_page_that_cannot_be_made_fails_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--open leaves the exit code as it is, and --html says that its file is missing."""
    monkeypatch.setattr(search, "page", lambda data: 1 / 0)
    monkeypatch.setattr(opening, "opened", lambda page: pytest.fail("there is no page"))
    assert main._run([*_SEARCH, "--open"]) == 1
    assert main._run([*_SEARCH, "--html", str(tmp_path / "page.html")]) == 2
    out, err = capsys.readouterr()
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == ["CONFIRMED"] * 2
    assert err.count("the page could not be made") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_pages_in_a_browser(made: Path, tmp_path: Path) -> None:
    """No page scrolls sideways on a phone; text has the contrast of WCAG AA in both schemes; all that can be used is
    reached by keyboard; choices and links do what they say; the console says nothing.
    """
    frames, probe = "", (Path(__file__).parent / "probe.js").read_text(encoding="utf-8")
    for name, dark in itertools.product(PAGES, (False, True)):
        text = (made / f"{name}.html").read_text(encoding="utf-8").replace("<details", "<details open")
        if dark:
            wanted = "@media screen and (prefers-color-scheme: dark)"
            assert wanted in text
            text = text.replace(wanted, "@media screen").replace("color-scheme: light dark;", "color-scheme: dark;")
        (tmp_path / f"{name}-{dark}.html").write_text(text, encoding="utf-8")
        frames += f'<iframe data-name="{name}" width="360" height="500" src="{name}-{dark}.html"></iframe>'
    (tmp_path / "probe.html").write_text(
        f"<!doctype html><meta charset=utf-8><title>probe</title>{frames}<p id=seen></p><script>{probe}</script>",
        encoding="utf-8",
    )
    done = subprocess.run(
        [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--no-first-run",
         "--hide-scrollbars", "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1400,900", "--virtual-time-budget=20000", "--dump-dom", (tmp_path / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    (told,) = re.findall(r'<p id="seen">([A-Za-z0-9+/=]+)</p>', done.stdout)
    seen = json.loads(base64.b64decode(told))
    assert len(seen) == 2 * len(PAGES)
    for one in seen:
        assert one["needs"] <= one["width"], one
        assert one["faint"] == [], one
        assert one["lost"] == [], one
    filtered = [one for one in seen if "rows" in one]
    assert filtered
    for one in filtered:
        every, chosen, again = one["rows"]
        assert 0 < chosen < every == again
        assert one["opened"]
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
