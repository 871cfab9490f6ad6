"""Pages of ``check`` and ``trace``: what they say, that nothing in them is fetched or run, and how wide they are."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages.html_text import Page

from diffuzz.cli import main
from diffuzz.models import architectures, dump, forward, random_model, sequence
from diffuzz.models import model as models
from diffuzz.models.dump import Dump
from diffuzz.pages import check, trace
from diffuzz.pages.charts import axis, lines
from diffuzz.pages.figures import Levels, Scale, real, short
from diffuzz.pages.markup import Markup, element

TOKENS = (65, 66, 100, 3, 9)
LAYERS = 3
HOSTILE = "\"'></title></style><script>alert(1)</script><img src=//x onerror=alert(1)>\x1b[31m\u202e&lt;"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The narrowest phones in use, and a desktop.
WIDTHS = (320, 360, 1280)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    random_model.write(path, architecture="llama", layers=LAYERS)
    return path


def _run_of(model: Path, path: Path, arithmetic: str, **wrong: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A run of our own pass in which a tap is changed, and read as it is by what follows."""
    taps: dict[str, np.ndarray] = {}

    def touch(tap: str, made: np.ndarray) -> np.ndarray:
        taps[tap] = wrong[tap](made.copy()) if tap in wrong else made
        return taps[tap]

    for _ in forward.run(architectures.steps(models.open(model)), sequence.of_tokens(TOKENS), arithmetic, touch=touch):
        pass
    metadata = {"format": "diffuzz-dump", "version": "1", "engine": f"<{arithmetic}> & co", "arch": "llama"}
    dump.write(path, Dump(metadata, np.array(TOKENS, np.int32), np.arange(len(TOKENS), dtype=np.int32), taps))
    return path


def _tail_lost(made: np.ndarray) -> np.ndarray:
    made[3, -8:] = 0
    return made


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pages of a wrong run: check.html and trace.html."""
    folder = tmp_path_factory.mktemp("pages")
    right = _run_of(model, folder / "right.safetensors", "apr")
    wrong = _run_of(model, folder / "wrong.safetensors", "ggml", **{"blk.1.glu": _tail_lost})
    given = ["--model", str(model)]
    args = ["check", *given, "--dump", str(wrong), "--corpus", str(folder / "corpus")]
    assert main._run([*args, "--html", str(folder / "check.html")]) == 1
    args = ["trace", *given, "--dumps", str(right), "--dumps", str(wrong), "--attribute"]
    assert main._run([*args, "--html", str(folder / "trace.html")]) == 1
    return folder


@pytest.fixture(params=["check", "trace"])
def page(request: pytest.FixtureRequest, made: Path) -> Page:
    """Each of the pages; reading one asserts that it is well-formed."""
    return Page((made / f"{request.param}.html").read_text(encoding="utf-8"))


def test_nothing_is_fetched_or_run(page: Page) -> None:
    """No script, no address, no file but what the page itself holds; and the browser is told so."""
    page.nothing_is_fetched_or_run()


def test_the_page_holds_what_json_prints(
    model: Path, made: Path, capsys: pytest.CaptureFixture[str], page: Page
) -> None:
    """The numbers that can be downloaded are those of --json, whose keys and lengths are the same for the same run."""
    kind = "check" if "judged" in page.data else "trace"
    runs = ["--dump", made / "wrong.safetensors", "--no-save"] if kind == "check" else [
        "--dumps", made / "right.safetensors", "--dumps", made / "wrong.safetensors", "--attribute"]  # fmt: skip
    assert main._run([kind, "--model", str(model), *map(str, runs), "--json"]) == 1
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    held = page.data
    for each in printed.get("culprits", []), held.get("culprits", []):
        for culprit in each:
            culprit.pop("witness")
    assert printed == held


def _words(shown: str) -> set[str]:
    return {word.strip(".,:;()") for word in shown.split()}


def test_all_numbers_of_a_check_are_shown(made: Path) -> None:
    """Every step's ratio, every arithmetic, every token, and all that is known of a culprit."""
    page = Page((made / "check.html").read_text(encoding="utf-8"))
    shown, data = page.text, page.data
    words = _words(shown)
    assert {short(real(each["ratio"])) for each in data["judged"]} <= words
    assert set(data["policies"].values()) <= words
    assert all(text.strip() in shown for text in data["texts"])
    (culprit,) = data["culprits"]
    assert "blk.1.glu" in words
    for name, digits in (("got", 9), ("expected", 9), ("allowed", 3), ("relative", 3), ("ratio", 3)):
        assert short(real(culprit[name]), digits) in words
    assert culprit["witness"] in shown
    assert Path(culprit["witness"]).is_file()
    assert data["answer"].partition(": ")[2] in shown
    assert "<ggml> & co" in shown


def test_all_numbers_of_a_trace_are_shown(made: Path) -> None:
    """Drift and floor by layer, isolated drift of each step, what is said next, and the attribution."""
    page = Page((made / "trace.html").read_text(encoding="utf-8"))
    shown, data = page.text, page.data
    words = _words(shown)
    assert data["answer"][1:] in shown
    for tap in data["taps"]:
        assert short(max(map(real, tap["isolated"]))) in words
        if tap["op"] in ("l_out", "final_norm", "logits"):
            usual = [place for place in range(len(TOKENS)) if place not in tap["massive"]]
            assert short(float(np.median([tap["accumulated"][place] for place in usual]))) in words
            assert short(max(tap["accumulated"][place] for place in usual)) in words
            assert short(float(np.median([tap["floor"][place] for place in usual]))) in words
    outputs, found = data["outputs"], data["attribution"]
    for name in ("kl", "variation"):
        assert {short(real(each)) for each in outputs[name]} <= words
    assert set(" ".join((*outputs["texts_a"], *outputs["texts_b"])).split()) <= set(shown.split())
    for part in (found, found["replicate"]):
        for key in ("by_op", "by_layer"):
            assert {f"{number:.3f}" for number in part[key]["energy"].values()} <= words
            assert {f"{number:+.3f}".replace("-", "−") for number in part[key]["share"].values()} <= words
    assert {f"{each['energy']:.3f}" for each in found["steps"]} <= words


def test_pictures_have_words_and_numbers(page: Page) -> None:
    """What is drawn says what it shows, and a table with its numbers can be reached by keyboard."""
    pictures = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert pictures
    assert all(len(attributes["aria-label"] or "") > 20 for attributes in pictures)
    # A picture is either part of one with words, or beside its numbers.
    assert all(attributes.get("aria-hidden") == "true" for attributes in page.of("svg"))
    boxes = [attributes for _, attributes in page.elements if attributes.get("role") == "region"]
    assert len(boxes) == len(page.of("table"))
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in boxes)
    assert len(page.of("details")) == len(page.of("summary")) == len(page.of("figure")) + (
        1 if "outputs" in page.data else 0) + ("attribution" in page.data)  # fmt: skip


def _hostile(value: Any, key: str = "") -> Any:
    """The same object with hostile text in the place of every string but those by which a page looks things up."""
    if isinstance(value, dict):
        return {name: _hostile(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_hostile(each, key) for each in value]
    return HOSTILE if isinstance(value, str) and key not in ("op", "side", "tap") and value != "inf" else value


@pytest.mark.parametrize("kind", ["check", "trace"])
def test_text_of_others_is_no_markup(made: Path, kind: str) -> None:
    """With hostile text wherever there is text, a page has the elements that it has without, and shows the text."""
    usual = Page((made / f"{kind}.html").read_text(encoding="utf-8"))
    data = _hostile(usual.data)
    for side in data.get("sides", {"": data}).values():
        side["policies"] = {HOSTILE: "q8", **side["policies"]}
    page = Page({"check": check.page, "trace": trace.page}[kind](data, HOSTILE))
    allowed = {tag for tag, _ in usual.elements}
    assert {tag for tag, _ in page.elements} <= allowed
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in page.text
    assert "\x1b" not in page.source
    assert "\u202e" not in page.source


def test_markup_and_text_are_told_apart() -> None:
    """Strings are text wherever they stand; only markup is taken as it is."""
    assert element("b", "a < b", Markup("<i></i>"), 3, None, ["&"], class_='"x"').text == (
        '<b class="&quot;x&quot;">a &lt; b<i></i>3&amp;</b>')  # fmt: skip
    assert element("td", aria_label="n", tabindex=0, hidden=False, open=True).text == (
        '<td aria-label="n" tabindex="0" open></td>')  # fmt: skip


@pytest.mark.parametrize(
    ("number", "text"),
    [(math.nan, "–"), (math.inf, "∞"), (0.0, "0"), (-1.25e-7, "−1.2e−7"), (0.5, "0.5"), (29607.0, "30,000"),
     (2e9, "2e9"), (487.0, "490"), (-999.0, "−1000")],
)  # fmt: skip
def test_numbers_are_short(number: float, text: str) -> None:
    """Two significant digits."""
    assert short(number) == text


def test_scales_hold_all_numbers() -> None:
    """Zero is at the bottom, infinity at the top, and the darkest colour is that of the largest number."""
    numbers = [0.0, 3e-9, 2e-4, math.nan, 0.7, math.inf]
    scale, levels = Scale.of(numbers), Levels.of(numbers)
    assert (-9, 0) == (scale.low, scale.high)
    assert [0.0, 1.0] == [scale.at(0.0), scale.at(math.inf)]
    assert 0 < scale.at(3e-9) < scale.at(2e-4) < scale.at(0.7) < 1
    assert [None, None, 5, 5] == [levels.colour(number) for number in (0.0, math.nan, 0.7, math.inf)]
    assert 5 > levels.colour(2e-4) > levels.colour(3e-9) >= 0
    assert len(levels.names) == len(levels.edges) <= 6
    assert ["below 1"] == list(Levels.of([1.0, 0.9]).names.values())[:1]
    assert ["from 1"] == list(Levels.of([]).names.values())


def test_zero_is_below_the_scale() -> None:
    """Two runs that are the same are not drawn as if they were a decade's bottom apart."""
    drawn = lines.chart("two lines", axis.of(["0", "1"]), [lines.Line("a", "median", [0.0, 1e-6])]).text
    assert re.findall(r'class="y" style="top:([0-9.]+)%">(.*?)<', drawn) == [
        ("0.00", "10⁻⁶"), ("50.00", "10⁻⁷"), ("100.00", "0")]  # fmt: skip
    assert 'd="M250.0 1000.0L750.0 0.0"' in drawn


def test_pages_are_loaded_where_one_is_written() -> None:
    """Nobody pays for them who does not use them."""
    code = "import sys; from diffuzz.cli import check, trace; print([m for m in sys.modules if 'diffuzz.pages' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("drop", ["isolated", "floor", "outputs", "attribution", "texts", "accumulated"])
def test_a_page_does_without(made: Path, drop: str) -> None:
    """What a run does not have is left out, and what is no number is none."""
    data = Page((made / "trace.html").read_text(encoding="utf-8")).data
    for tap in data["taps"]:
        if drop in ("isolated", "floor"):
            tap[drop] = None
        if drop == "accumulated":
            tap[drop] = [None, "inf", *tap[drop][2:]]
    if drop in data:
        data[drop] = None
    assert Page(trace.page(data, "")).of("figure")


def test_a_place_that_cannot_be_written_is_said_at_once(
    model: Path, made: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One line, exit code 2, before anything is computed."""
    args = ["check", "--model", str(model), "--dump", str(made / "wrong.safetensors"), "--html"]
    assert main._run([*args, str(tmp_path / "none" / "page.html")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "there is no folder" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast(scheme: int) -> None:
    """WCAG 2, AA: 4.5 for text on paper and on cards, and 3 for the lines of pictures and marks."""
    style = (Path(check.__file__).parent / "style.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]+)", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    for ground in ("paper", "card"):
        for name in ("ink", "soft", "blue", "good", "bad", "odd"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for name, ground in (("noise-line", "paper"), ("bad", "paper"), ("blue", "noise"), ("odd", "noise")):
        assert _contrast(colours[name], colours[ground]) >= 3, (name, ground)
    lightness = [_lightness(colours[f"l{level}"]) for level in range(6)]
    assert lightness == sorted(lightness, reverse=scheme == 0)


def _lightness(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_lightness(one), _lightness(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[str, str]]:
    """Opens a page in headless Chromium, and gives its document after scripts ran, and what the console said."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    profile = tmp_path_factory.mktemp("profile")

    def opened(path: Path) -> tuple[str, str]:
        done = subprocess.run(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--no-first-run",
             "--hide-scrollbars", f"--user-data-dir={profile}", "--window-size=1400,900", "--dump-dom", path.as_uri()],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return opened


def test_a_page_is_as_wide_as_its_screen(
    made: Path, browser: Callable[[Path], tuple[str, str]], tmp_path: Path
) -> None:
    """No page scrolls sideways on a phone, with all its tables open; the console of the browser says nothing."""
    frames = ""
    for kind in ("check", "trace"):
        text = (made / f"{kind}.html").read_text(encoding="utf-8").replace("<details>", "<details open>")
        frames += "".join(
            f'<iframe width="{width}" height="600" srcdoc="{html.escape(text)}"></iframe>' for width in WIDTHS
        )
    script = """<script>onload = () => { document.title = [...document.querySelectorAll("iframe")].map(
        frame => frame.contentDocument.documentElement.scrollWidth + "/" + frame.clientWidth).join(" "); }</script>"""
    (tmp_path / "frames.html").write_text(f"<!doctype html><title></title>{frames}{script}", encoding="utf-8")
    shown, console = browser(tmp_path / "frames.html")
    (title,) = re.findall(r"<title>([0-9/ ]+)</title>", shown)
    widths = [tuple(map(int, each.split("/"))) for each in title.split()]
    assert [width for _, width in widths] == [*WIDTHS, *WIDTHS]
    assert all(needed <= width for needed, width in widths), widths
    assert console == ""
