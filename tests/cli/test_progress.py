"""What is shown while a command works: looked at in a terminal of 60 and of 100 columns, in logs, and with --quiet."""

from __future__ import annotations

import io
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import click
import pseudo_terminal
import pytest

from diffuzz import telling
from diffuzz.cli import main, progress
from diffuzz.cli.progress_text import Line, Log, State, cells, duration, fitted, lines
from diffuzz.telling import Count, Part, Phase, Smaller, Standing

# No screen, so nothing is compiled; and no bound that is reached, so it searches for all of its time.
SEARCH = ("search", "--target", "dot-order", "--param", "n=64", "--engine", "random", "--seed", "3", "--no-save")
LONG = {
    "bisect", "campaign run", "campaign status",
    "search", "matrix", "claims", "check", "trace", "dump", "scan", "replay", "export", "measure", "minimise",
    "verify", "doctor", "report", "bench mutants", "bench engines", "bench witnesses", "bench kernelbench",
    "bench tolerances", "bench faults", "bench vectors", "bench properties", "fingerprint",
}  # fmt: skip
STANDING = Standing(0.25, 7.5, 12345, 34.98765, "evolution", 5.0, 35.0, False)

# Tells what a search of a pair of a matrix tells, without any work.
TELLS = """
import sys, time
from diffuzz.cli import options, progress
from diffuzz.telling import *
with progress.shown("softmax", quiet={quiet}, verbose={verbose}):
    for done, name in enumerate(("apr, ggml:avx2", "exact, libggml@/a/very/long/path/to/a/library/of/ggml/build")):
        tell(Part(name, done, 2, "pairs"))
        tell(Phase("compiling"))
        time.sleep(0.15)
        tell(Phase("searching"))
        for step in range(4):
            tell(Standing(0.2 * step, 10 - 2.0 * step, 1000 * step, 0.5 + step, "evolution", 1.0, None, True))
            time.sleep(0.12)
        options.print_error("one pair is done\\n")
    tell(Part("", 2, 2, "pairs"))
    tell(Standing(1.0, 0.0, 4000, 3.5, "evolution", 1.0, None, True))
    tell(Phase("minimising"))
    tell(Smaller(0.125, 3.25))
    time.sleep(0.25)
    options.print_text("the result\\n")
"""


def _shown(columns: int, tmp_path: Path, quiet: bool = False, verbose: bool = False, **environment: str) -> Any:
    command = [sys.executable, "-c", TELLS.format(quiet=quiet, verbose=verbose)]
    return pseudo_terminal.run(command, columns=columns, cwd=tmp_path, environment=environment)


def _text(line: Line) -> str:
    bar = [] if line.bar is None else ["#" * line.bar_cells]
    return "  ".join([*(text for text, _ in line.fields[: line.before]), *bar,
                      *(text for text, _ in line.fields[line.before :])])  # fmt: skip


def _states() -> list[State]:
    """States with everything that can be told, one after another."""
    told = [
        [],
        [Phase("compiling")],
        [Phase("searching"), STANDING],
        [Phase("searching"), attrs.evolve(STANDING, value=None)],
        [Phase("searching"), attrs.evolve(STANDING, judges=True, bound=None, value=float("inf"))],
        [Phase("checking steps"), Count(100, 513)],
        [Phase("minimising"), Smaller(0.03, 34.5)],
        [Phase("searching"), STANDING, Phase("minimising"), Smaller(0.03, 34.5)],
    ]
    parts: list[list[telling.Message]] = [
        [], [Part("apr, ggml", 3, 21, "pairs")], [Part("\u4e2d\u6587\x1b[2J" * 20, 99, 100, "functions")]
    ]  # fmt: skip
    made = []
    for label, before, after in itertools.product(("softmax", "my ops.py:\x1b[1m" * 6), parts, told):
        state = State(label, began=0.0)
        for at, message in enumerate([*before, *after]):
            state.take(message, 1.0 + at)
        made.append(state)
    return made


@pytest.mark.parametrize("state", _states(), ids=str)
def test_no_line_is_wider_than_the_terminal(state: State) -> None:
    """Whatever was told, and however narrow it is: nothing wraps, nothing controls, and no number is cut."""
    for width in (1, 5, 12, 20, 30, 40, 59, 60, 80, 99, 200):
        made = lines(state, width, now=10.0)
        assert 1 <= len(made) <= 2
        for line in made:
            text = _text(line)
            assert text.isprintable()
            assert cells(text) <= width
    (first, *second) = (_text(line) for line in lines(state, 200, now=10.0))
    if state.standing is STANDING and state.smaller is None:
        assert "largest 34.98765 of bound 35 (99.96 %)" in second[0]
    if state.part is None and state.phase:
        assert state.phase in first


def test_what_does_not_fit_is_left_out_whole() -> None:
    """From a wide terminal to a narrow one: the engine, digits, the number of cases, words; never half of a number."""
    state = State("softmax", began=0.0)
    state.take(Phase("searching"), 0.0)
    for at in range(3):
        state.take(attrs.evolve(STANDING, evaluations=1000 * (at + 1)), float(at))
    seen = dict.fromkeys(_text(lines(state, width, now=2.0)[1]) for width in range(100, 14, -1))
    assert list(seen)[:5] == [
        "largest 34.98765 of bound 35 (99.96 %)  by evolution  3,000 cases  1,000/s",
        "largest 34.98765 of bound 35 (99.96 %)  3,000 cases  1,000/s",
        "34.99 of bound 35 (99.96 %)  3,000 cases  1,000/s",
        "34.99 of bound 35 (99.96 %)  1,000/s",
        "34.99, 99.96 %  1,000/s",
    ]


def test_time_left() -> None:
    """Of a search what ends first, its clock or its work; of parts and steps as long as those before took."""
    state = State("softmax", began=0.0)
    assert state.left(5.0) is None
    state.take(Phase("searching"), 0.0)
    state.take(attrs.evolve(STANDING, spent=0.5, seconds=9.0), 1.0)
    assert state.left(1.0) == pytest.approx(1.0)
    assert state.share(1.0) == pytest.approx(0.5)
    state.take(attrs.evolve(STANDING, spent=0.1, seconds=9.0), 1.0)
    # Nothing is told for a while, and the clock goes on.
    assert (state.left(4.0), state.share(4.0)) == (pytest.approx(6.0), pytest.approx(0.4))
    state.take(Part("b", 1, 4, "pairs"), 10.0)
    assert state.left(10.0) == pytest.approx(30.0)
    state = State("check", began=0.0)
    state.take(Phase("checking steps"), 2.0)
    state.take(Count(10, 40), 4.0)
    assert state.left(4.0) == pytest.approx(6.0)
    assert [duration(each) for each in (0.2, 59.4, 83, 3599, 7500)] == [
        "0 s",
        "59 s",
        "1:23 min",
        "59:59 min",
        "2:05 h",
    ]


def test_counts_of_threads_do_not_go_back() -> None:
    """The bar of a check does not jump."""
    state = State("check", began=0.0)
    for done in (3, 5, 4):
        state.take(Count(done, 10), 1.0)
    assert state.count == Count(5, 10)


def test_a_text_is_cut_where_it_ends() -> None:
    """By cells, of which some characters take two, with dots."""
    assert [fitted("abcdef", width) for width in (6, 5, 3, 2)] == ["abcdef", "ab...", "...", ".."]
    assert cells(fitted("\u4e2d" * 9, 10)) <= 10


@pytest.mark.parametrize("columns", [60, 100])
def test_in_a_terminal(columns: int, tmp_path: Path) -> None:
    """Two lines, the name cut and the numbers whole; what is printed stays; the display is gone in the end."""
    seen = _shown(columns, tmp_path)
    assert (0, ("one pair is done", "one pair is done", "the result")) == (seen.code, seen.last)
    every = seen.lines()
    assert any(re.match(r"softmax  1 of 2 pairs", line) for line in every)
    assert any(re.match(r"apr, ggml:avx2  searching  ", line) for line in every)
    assert any("3.5, wrong above 1" in line for line in every)
    assert any(re.match(r"exact, libggml@/.*\.\.\.  searching  ", line) for line in every)
    assert any(re.match(r"softmax  minimising  ", line) for line in every)
    # Minimising changes the value, too.
    assert any("3.25, wrong above 1  12.5 % of its first size" in line for line in every)
    # Two lines of a display, and one that is printed for each pair and for the result.
    assert max(map(len, seen.screens)) <= 4
    assert all(len(line) < columns for line in every)
    # A command that is stopped or killed leaves its cursor.
    assert b"\x1b[?25l" not in seen.raw


def test_without_colours(tmp_path: Path) -> None:
    """With NO_COLOR the display moves, and has no styles; with TERM=dumb, and in CI, there is none."""
    with_colours, without = _shown(60, tmp_path), _shown(60, tmp_path, NO_COLOR="1")
    assert re.search(rb"\x1b\[[\d;]*m", with_colours.raw)
    assert not re.search(rb"\x1b\[[\d;]*m", without.raw)
    assert any("1 of 2 pairs" in line for line in without.lines())
    for environment in ({"TERM": "dumb"}, {"CI": "true"}):
        # No line of it, and no escape.
        plain = _shown(60, tmp_path, **environment)
        assert b"\x1b" not in plain.raw
        assert (("one pair is done", "one pair is done", "the result"), 0) == (plain.last, plain.code)


def test_quiet_shows_nothing(tmp_path: Path) -> None:
    """Not on a terminal either."""
    assert _shown(60, tmp_path, quiet=True).raw == b"one pair is done\r\none pair is done\r\nthe result\r\n"


def test_a_log(tmp_path: Path) -> None:
    """With --verbose a line for each part, phase and improvement, with times, where stderr is no terminal; the display
    stays where it is one.
    """
    done = subprocess.run(
        [sys.executable, "-c", TELLS.format(quiet=False, verbose=True)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "the result\n" == done.stdout
    logged = [
        re.fullmatch(r" *(\d+\.\d\d) s  (.*)", line) for line in done.stderr.splitlines() if "one pair" not in line
    ]
    assert all(logged)
    times = [float(line[1]) for line in logged if line]
    assert times == sorted(times)
    said = [line[2] for line in logged if line]
    assert said[:4] == [
        "1 of 2 pairs: apr, ggml:avx2", "compiling", "searching",
        "largest 0.5, wrong above 1, by evolution after 0 cases",
    ]  # fmt: skip
    seen = _shown(100, tmp_path, verbose=True)
    assert "largest 3.5, wrong above 1, by evolution" in seen.last[-3]
    assert "minimising" in seen.last[-2]
    assert any(line.startswith("softmax  1 of 2 pairs") for line in seen.lines())


def test_the_log_says_how_far_minimising_came() -> None:
    """Once, when it is over, and not at every step."""
    log = Log()
    told = (Phase("minimising"), Smaller(0.5, 2.0), Smaller(0.25, 1.0), Phase("explaining"))
    assert [line for message in told for line in log.lines(message)] == [
        "minimising", "minimised to 25 % of its first size", "explaining",
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [60, 100])
def test_a_search(columns: int, tmp_path: Path) -> None:
    """Phases and value while it works, and in the end the report alone."""
    command = [sys.executable, "-m", "diffuzz", *SEARCH, "--budget", "10s"]
    seen = pseudo_terminal.run(command, columns=columns, cwd=tmp_path)
    assert seen.code in (0, 1)
    every = seen.lines()
    assert any(re.match(r"dot-order  searching  \S+  \d+ s left", line) for line in every), every
    assert any(re.match(r"(largest )?[\d.]+ of bound 73 \([\d.]+ %\)  ", line) for line in every), every
    assert any(line.startswith("dot-order  minimising") for line in every) or "searching" in str(every)
    assert not any("s left" in line for line in seen.last)
    quiet = pseudo_terminal.run([*command, "--quiet"], columns=100, cwd=tmp_path)
    assert re.fullmatch(rb"[A-Z]+: [^\n]*\r\n", quiet.raw)
    assert quiet.code == seen.code


def test_ctrl_c_leaves_a_clean_terminal(tmp_path: Path) -> None:
    """What was found is printed, and no line of the display is left."""
    command = [sys.executable, "-m", "diffuzz", *SEARCH, "--budget", "1min"]
    seen = pseudo_terminal.run(command, columns=60, cwd=tmp_path, press=lambda shown: "of bound 73" in str(shown))
    assert seen.code in (0, 1)
    assert not re.search(r"\d (s|min) (left|so far)|searching|minimising  |Traceback", "\n".join(seen.last))
    assert "interrupt" in " ".join(seen.last)


def test_a_terminal_that_has_gone() -> None:
    """Drawing into it raises nothing; the work goes on."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    shielded = progress._Shielded()
    before, sys.stderr = sys.stderr, Gone()
    try:
        assert 3 == shielded.write("abc")
        with progress.shown("softmax", verbose=True):
            telling.tell(Phase("compiling"))
    finally:
        sys.stderr = before


def test_who_listens_is_told_and_nobody_else() -> None:
    """Listeners come and go, one within another; without one nothing is told."""
    outer: list[telling.Message] = []
    inner: list[telling.Message] = []
    telling.tell(Phase("for nobody"))
    with telling.listening(outer.append):
        for each in telling.parts(["a", "b"], "pairs"):
            with telling.listening(inner.append):
                telling.tell(Phase(each))
        assert ["x", "y"] == list(telling.counted(["x", "y"]))
        assert telling.listened()
    assert not telling.listened()
    assert inner == [Phase("a"), Phase("b")]
    assert outer == [
        Part("a", 0, 2, "pairs"), Part("b", 1, 2, "pairs"), Part("", 2, 2, "pairs"),
        Count(0, 2), Count(1, 2), Count(2, 2),
    ]  # fmt: skip


def _commands() -> dict[str, click.Command]:
    found = {}
    context = main.commands.make_context("diffuzz", ["targets"])
    for name in main.COMMANDS:
        command = main.commands.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {part}": each for part, each in command.commands.items()}
        else:
            found[name] = command
    return found


def test_all_that_takes_long_can_be_quiet_and_verbose() -> None:
    """The same two options, with the same letters and words, and no command has another of that name."""
    for name, command in _commands().items():
        options = {option: one.help for one in command.params if isinstance(one, click.Option) for option in one.opts}
        assert ("--quiet" in options, "-v" in options) == (name in LONG, name in LONG), name
        if name in LONG:
            assert options["-q"] == options["--quiet"]
            assert options["-v"] == options["--verbose"]


def test_not_both(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one line."""
    assert 2 == main._run([*SEARCH, "-q", "-v"])
    assert "diffuzz: --quiet and --verbose: give one of them\n" == capsys.readouterr().err
