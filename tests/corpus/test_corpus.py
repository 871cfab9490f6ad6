"""The corpus: what is saved comes back, what was tampered with is refused in one line, and no file runs code."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.lib import format as numpy_format

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.cli import main
from diffuzz.corpus import arrays as array_files
from diffuzz.corpus import files as store
from diffuzz.corpus.arrays import load_arrays
from diffuzz.corpus.entry import Counterexample, dumps
from diffuzz.corpus.environment import environment
from diffuzz.corpus.files import CorpusError, check_writable, files, load, save
from diffuzz.corpus.replay import replay, replay_file
from diffuzz.judging.verdict import Verdict
from diffuzz.targets.outcome import Bound

Maker = Callable[..., Counterexample]


def _refused(path: Path) -> str:
    """The message of the CorpusError that loading gives: one line, printable, naming the file."""
    with pytest.raises(CorpusError) as error:
        load(path)
    message = str(error.value)
    assert message.isprintable()
    assert message.startswith(str(path))
    assert len(message) < len(str(path)) + 500
    return message


def _write(folder: Path, stored: Any) -> Path:
    path = folder / "edited.json"
    path.write_text(stored if isinstance(stored, str) else json.dumps(stored), encoding="utf-8")
    return path


def _of_candidate(entry: Counterexample, candidate: str) -> Counterexample:
    """As if found with a candidate, whose cases have no direction."""
    params = targets.get("softmax").contract_params()
    return attrs.evolve(entry, candidate=candidate, params=params, case=Case({"z": entry.case["z"]}))


def _edited(saved: Path, at: tuple[str, ...], value: Any) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(saved.read_text())
    place = stored
    for name in at[:-1]:
        place = place[name]
    place[at[-1]] = value
    return stored


def test_round_trip(entry: Counterexample, saved: Path) -> None:
    """An entry comes back equal, from the file that its digest names."""
    assert load(saved) == entry
    assert (saved.parent.name, saved.stem) == ("softmax", entry.digest[:12])
    assert dumps(load(saved)) + "\n" == saved.read_text()


@pytest.mark.parametrize("name", targets.names())
def test_what_a_target_says_can_be_stored(name: str) -> None:
    """Measure, bound and parameters of every target are printable and survive JSON."""
    target = targets.get(name)
    params = target.params()
    assert target.measure(params).isprintable()
    assert json.loads(json.dumps(dict(params))) == dict(params)
    bound = target.bound(params)
    assert bound is None or (bound.because.isprintable() and np.isfinite(bound.value))


def test_round_trip_of_infinity(entry: Counterexample, tmp_path: Path) -> None:
    """An infinite value, as of a candidate that returned NaN, is stored as such."""
    endless = attrs.evolve(_of_candidate(entry, "mine.py:f"), value=np.inf)
    assert load(save(endless, tmp_path)).value == np.inf


def test_the_digest_is_of_what_was_measured(entry: Counterexample) -> None:
    """Another case, parameter or candidate is another entry; another run that found it is not."""
    others = [
        attrs.evolve(entry, case=entry.case.replace(z=-entry.case["z"])),
        attrs.evolve(entry, params={**entry.params, "delta": 0.001}),
        _of_candidate(entry, "mine.py:f"),
    ]
    assert len({entry.digest, *(other.digest for other in others)}) == 4
    assert entry.digest == attrs.evolve(entry, found={}, value=1.0).digest


def test_what_only_a_candidate_sees_is_no_part_of_other_entries(entry: Counterexample, tmp_path: Path) -> None:
    """Parameters of a candidate's calls are neither written nor in the digest, unless there is a candidate; they come
    back as they were, or at their defaults.
    """
    target = targets.get("softmax")
    other = attrs.evolve(entry, params=target.params({"n": 3, "candidate_n": 9}))
    assert other.digest == entry.digest
    assert "candidate_n" not in json.loads(save(other, tmp_path).read_text())["params"]
    judged = attrs.evolve(_of_candidate(other, "mine.py:f"), params=target.contract_params({"n": 3, "candidate_n": 9}))
    assert "n" not in judged.params
    assert judged.digest != _of_candidate(entry, "mine.py:f").digest
    path = save(judged, tmp_path)
    assert json.loads(path.read_text())["params"]["candidate_n"] == load(path).params["candidate_n"] == 9


def test_truncated_anywhere(saved: Path, tmp_path: Path) -> None:
    """A file cut short at any byte is refused, in one line."""
    raw = saved.read_bytes()
    path = tmp_path / "cut.json"
    # The last byte is the end of the line.
    for length in range(len(raw) - 1):
        path.write_bytes(raw[:length])
        _refused(path)


def test_flipped_bits(saved: Path, tmp_path: Path) -> None:
    """A file with any one byte damaged is refused in one line, or still an entry with the same digest."""
    raw = saved.read_bytes()
    digest = load(saved).digest
    path = tmp_path / "damaged.json"
    for at in range(0, len(raw), 3):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x41]) + raw[at + 1 :])
        try:
            loaded = load(path)
        except CorpusError:
            _refused(path)
        else:
            assert loaded.digest == digest


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, 10**400, -1e308, 5e-324, "", "x", "nan", "inf", "-inf", "0x1p+0", "\x1b[2J",
    "a\nb", "\ud800", "../../etc/passwd", "__class__", "os.system:f", [], [[]], {}, {"a": 1}, {"a": {"b": []}},
)  # fmt: skip


def _places(stored: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in stored.items():
        yield (*at, name)
        if isinstance(value, dict):
            yield from _places(value, (*at, name))


def test_every_edit_of_a_single_field(saved: Path, tmp_path: Path) -> None:
    """Any field replaced, removed or added: refused in one line, or an entry that is stored, shown and replayed."""
    stored = json.loads(saved.read_text())
    for at in _places(stored):
        for value in VALUES:
            _survives(_write(tmp_path, _edited(saved, at, value)))
        _survives(_write(tmp_path, _edited(saved, (*at[:-1], "added"), 1)))
        without = json.loads(saved.read_text())
        place = without
        for name in at[:-1]:
            place = place[name]
        del place[at[-1]]
        _survives(_write(tmp_path, without))


def _survives(path: Path) -> None:
    assert "\n" not in replay_file(path).message
    try:
        loaded = load(path)
    except CorpusError:
        _refused(path)
        return
    assert json.loads(dumps(loaded))["digest"] == loaded.digest


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (("diffuzz",), 4, "schema 4, where this version reads 1, 2 and 3"),
        (("diffuzz",), True, "diffuzz has the wrong type, bool"),
        (("target",), "softmaks", "did you mean softmax?"),
        (("target",), "../softmax", "there is no target"),
        (("params", "n"), 2, "z: shape (3,) does not fit"),
        (("params", "n"), 4, "digest"),
        (("params", "n"), True, "parameter n=True"),
        (("params", "n"), "3", "params: n is not of its parameter's type, int"),
        (("params", "n"), 3.0, "params: n is not of its parameter's type, int"),
        (("params", "n"), [3], "a whole number is needed"),
        (("params", "n"), 10**400, "parameter n=1000"),
        (("params", "n"), -3, "out of range"),
        (("params", "max_abs"), 10, "params: max_abs is not of its parameter's type, float"),
        (("params", "perturbation"), "l3", "one of"),
        (("params", "unknown"), 1, "no parameter 'unknown'"),
        (("candidate",), 3, "candidate has the wrong type, int"),
        (("candidate",), "mine.py:f", "params: candidate_n is missing"),
        (("params", "candidate_n"), 9, "digest: does not match"),
        (("verdict",), "MAYBE", "none of CONFIRMED, FALSIFIED, UNRESOLVED"),
        (("value", "decimal"), "99", "decimal 99 is not"),
        (("value", "hex"), "nan", "not a hexadecimal float"),
        (("threshold",), "nan", "not a hexadecimal float"),
        (("threshold",), "-inf", "not a hexadecimal float"),
        (("noise",), 0.0, "noise has the wrong type, float"),
        (("bound", "value"), 10**400, "not finite numbers"),
        (("bound", "value"), -1, "not finite numbers"),
        (("bound", "because"), "\x1b]0;owned\x07", "cannot be printed"),
        (("tolerance",), 0.75, "not between 0 and 0.001"),
        (("tolerance",), -1, "not between 0 and 0.001"),
        (("arrays", "z", "shape"), [2**20], "z: shape (1048576,) does not fit"),
        (("arrays", "z", "dtype"), "int32", "arrays.z"),
        (("arrays", "z", "elements"), {"0": "0x1p+0"}, "digest"),
        (("arrays", "z", "elements"), {"0": "0x1p+100"}, "outside [-10, 10]"),
        (("arrays", "another"), {}, "unknown field 'another'"),
        (("found", "engine"), ["pbt"], "found: engine has the wrong type, list"),
        (("found", "a\x1b[2Jb"), 1, "cannot be printed"),
        (("digest",), "0" * 64, "the file was edited"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_line_says_what_is_wrong(saved: Path, tmp_path: Path, at: tuple[str, ...], value: Any, reason: str) -> None:
    """The message names the field and the reason."""
    assert reason in _refused(_write(tmp_path, _edited(saved, at, value)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON, or cut short"),
        ("\ufeff{}", "not JSON"),
        ("null", "an object is needed"),
        ("[]", "an object is needed"),
        ("3", "an object is needed"),
        ('"text"', "an object is needed"),
        ("{}", "missing field 'arrays'"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ('{"a": ' + "9" * 5000 + "}", "4300"),
        ('{"a": 1, "a": 1}', "duplicate field 'a'"),
        ('{"\\ud800": 1}', "unknown field"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("\x00", "not JSON"),
        ("cos\nsystem\n(S'true'\ntR.", "not JSON"),
    ],
    ids=range(17),
)
def test_what_is_no_entry(tmp_path: Path, text: str, reason: str) -> None:
    """Text that is no entry is refused in one line."""
    assert reason in _refused(_write(tmp_path, text))


def test_duplicates_inside_an_entry(saved: Path, tmp_path: Path) -> None:
    """A field that is there twice has no meaning, wherever it is."""
    text = saved.read_text()
    for name, value in (("target", '"softmax"'), ("n", "3"), ("dtype", '"float32"'), ("seed", "7")):
        line = f'"{name}": {value}'
        assert line in text
        assert f"duplicate field '{name}'" in _refused(_write(tmp_path, text.replace(line, f"{line}, {line}", 1)))


def test_nested_to_any_depth(saved: Path, tmp_path: Path) -> None:
    """Just below the interpreter's recursion limit, too, where parsing works and printing does not."""
    limit = sys.getrecursionlimit()
    text = json.dumps(_edited(saved, ("params", "n"), "NEST"))
    for depth in range(limit - 200, limit + 10, 3):
        _refused(_write(tmp_path, text.replace('"NEST"', "[" * depth + "]" * depth)))


def test_what_is_no_file(tmp_path: Path) -> None:
    """Folders, named pipes, loops of links, and what is not there: one line, and no waiting."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "dangling.json").symlink_to(tmp_path / "nothing.json")
    assert "no regular file" in _refused(tmp_path / "pipe.json")
    assert "no regular file" in _refused(tmp_path / "folder.json")
    assert "no regular file" in _refused(Path(os.devnull))
    assert "symbolic link" in _refused(tmp_path / "loop.json")
    assert "No such file" in _refused(tmp_path / "dangling.json")
    assert "No such file" in _refused(tmp_path / "missing.json")
    for name in ("pipe.npz", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(CorpusError, match="no regular file"):
            load_arrays(tmp_path / name)


@pytest.mark.parametrize("suffix", [".json", ".npz", ".safetensors"])
def test_what_becomes_a_pipe_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """A file that another process swaps for a named pipe at the last moment is refused, without waiting for a writer:
    what was opened is looked at.
    """
    path, opened = tmp_path / f"file{suffix}", os.open
    path.write_bytes(b"{}")

    def swapping(name: Any, flags: int, *more: Any, **others: Any) -> int:
        if Path(name) == path and path.is_file():
            path.unlink()
            os.mkfifo(path)
        return opened(name, flags, *more, **others)

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(CorpusError, match="no regular file"):
        load(path) if suffix == ".json" else load_arrays(path)


def test_an_empty_path_is_none(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a variable that is not set: an error, and not the current folder."""
    monkeypatch.chdir(saved.parent)
    for words in (
        ("replay", ""),
        ("show", ""),
        ("minimise", ""),
        ("measure", ""),
        ("replay", str(saved), "--junit", ""),
    ):
        assert main._run([*words]) == 2
        assert "an empty path names no file and no folder" in capsys.readouterr().err
    with pytest.raises(CorpusError, match="an empty path"):
        replay("")


def test_what_a_killed_process_left_is_removed(entry: Counterexample, saved: Path) -> None:
    """A later save removes files that were being written by a process that is gone, or a day ago; nobody else's."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    pid = int(gone.stdout)
    now = time.time()
    left = {
        f".0123456789ab.{pid}.01234567.tmp": (now - 100, True),
        f".0123456789ac.{os.getpid()}.01234567.tmp": (now - 100000, True),
        ".0123456789ad.q_3xyz78.tmp": (now - 100000, True),
        f".0123456789ae.{pid}.01234567.tmp": (now, False),
        f".0123456789af.{os.getpid()}.01234567.tmp": (now - 100, False),
        ".0123456789b0.q_3xyz78.tmp": (now - 100, False),
        f"0123456789ab.{pid}.01234567.tmp": (now - 100000, False),
        ".notes.tmp": (now - 100000, False),
    }
    for name, (when, _) in left.items():
        (saved.parent / name).write_text("{")
        os.utime(saved.parent / name, (when, when))
    save(entry, saved.parent.parent, always=True)
    kept = {name for name, (_, goes) in left.items() if not goes}
    assert {path.name for path in saved.parent.iterdir()} == kept | {saved.name}


def test_a_process_that_is_killed_while_it_writes(entry: Counterexample, saved: Path) -> None:
    """kill -9 leaves a file of a name that is known as such, and the entry as it was."""
    program = (
        "import os, signal, sys; from pathlib import Path; from diffuzz.corpus import files\n"
        "entry = files.load(Path(sys.argv[1])); os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.save(entry, Path(sys.argv[1]).parent.parent, always=True)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(saved)], timeout=60)
    assert done.returncode == -9
    assert load(saved) == entry
    (left,) = (path for path in saved.parent.iterdir() if path != saved)
    os.utime(left, (time.time() - 100,) * 2)
    save(entry, saved.parent.parent, always=True)
    assert list(saved.parent.iterdir()) == [saved]


def test_a_file_that_may_not_be_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system's reason, in one line."""

    def refuse(path: Any, *arguments: Any, **more: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    assert "Permission denied" in _refused(saved)


def test_bytes_that_are_no_text(saved: Path, tmp_path: Path) -> None:
    """Not UTF-8: the place is named."""
    path = tmp_path / "binary.json"
    for raw in (b"\xff\xfe{\x00}\x00", b"\x80\x04\x95", saved.read_bytes().replace(b"softmax", b"softm\xe4x", 1)):
        path.write_bytes(raw)
        assert "not UTF-8" in _refused(path)


def test_a_file_too_large_to_be_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than any entry is not read to its end."""
    monkeypatch.setattr(store, "LARGEST_FILE", 1000)
    assert "larger than 1000 bytes" in _refused(_write(tmp_path, " " * 1001))


def test_the_file_has_the_name_of_its_digest(saved: Path, tmp_path: Path) -> None:
    """A file named like another digest is refused; a copy with a name of its own is not."""
    wrong = tmp_path / "0123456789ab.json"
    wrong.write_bytes(saved.read_bytes())
    assert f"the file's name is not the digest {saved.stem}" in _refused(wrong)
    for name in ("copy.json", "my-witness-1.json"):
        (tmp_path / name).write_bytes(saved.read_bytes())
        assert load(tmp_path / name) == load(saved)


def test_a_candidate_where_there_can_be_none(saved: Path, tmp_path: Path) -> None:
    """A target that takes no candidate has no entries of one."""
    stored = _edited(saved, ("candidate",), "mine.py:f") | {"target": "chain"}
    stored["params"] = dict(targets.get("chain").params())
    assert "candidate: target chain takes none" in _refused(_write(tmp_path, stored))


def test_loading_runs_no_code(entry: Counterexample, tmp_path: Path) -> None:
    """The file that a candidate names is not even looked at."""
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\ndef f(z): return z\n")
    path = save(_of_candidate(entry, f"{tmp_path / 'evil.py'}:f"), tmp_path)
    assert load(path).candidate == f"{tmp_path / 'evil.py'}:f"
    assert replay_file(path).status == "needs candidate"
    assert not marker.exists()


def test_save_adds_what_is_new(make_entry: Maker, tmp_path: Path) -> None:
    """No larger a value by the same mechanism is not written, the path of the known one comes back; all else is."""
    large, small = make_entry((9.5, 9.5, -10.0)), make_entry((3.0, -2.0, -2.0))
    assert large.value > small.value
    first = save(large, tmp_path)
    assert save(large, tmp_path) == first
    assert save(small, tmp_path) == first
    assert save(attrs.evolve(small, value=large.value), tmp_path) == first
    another_mechanism = make_entry((3.0, -2.0, -1.0))
    another_domain = attrs.evolve(small, params={**small.params, "delta": 0.0005})
    another_candidate = _of_candidate(small, "mine.py:f")
    paths = {save(each, tmp_path) for each in (another_mechanism, another_domain, another_candidate)}
    assert len(paths | {first}) == 4
    assert save(small, tmp_path, always=True) not in paths | {first}


def test_save_writes_a_larger_value(make_entry: Maker, tmp_path: Path) -> None:
    """A larger value is kept beside a smaller one."""
    small, large = make_entry((3.0, -2.0, -2.0)), make_entry((9.5, 9.5, -10.0))
    assert save(small, tmp_path) != save(large, tmp_path)
    assert sorted(files([tmp_path])) == sorted([tmp_path / small.name, tmp_path / large.name])


def test_save_beside_a_broken_file(entry: Counterexample, tmp_path: Path) -> None:
    """A damaged file in the corpus does not stop another entry from being saved."""
    (tmp_path / "softmax").mkdir()
    (tmp_path / "softmax" / "0123456789ab.json").write_text("{")
    assert load(save(entry, tmp_path)) == entry


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_crash_while_saving(
    saved: Path, make_entry: Maker, monkeypatch: pytest.MonkeyPatch, function: str, failure: BaseException
) -> None:
    """What was there stays as it was, and no temporary file is left."""

    def fail(*arguments: Any) -> None:
        raise failure

    before = saved.read_bytes()
    monkeypatch.setattr(os, function, fail)
    wanted = CorpusError if isinstance(failure, OSError) else KeyboardInterrupt
    old = load(saved)
    for each in (old, make_entry((1.0, 2.0, 3.0))):
        with pytest.raises(wanted):
            save(each, saved.parent.parent, always=True)
    assert [saved] == list(saved.parent.iterdir())
    assert saved.read_bytes() == before


def test_nowhere_to_save(entry: Counterexample, tmp_path: Path) -> None:
    """A path below a file, a dangling link, or a folder that must not be written: one line, before and at saving."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for folder in (tmp_path / "file", tmp_path / "file" / "corpus", tmp_path / "link"):
        with pytest.raises(CorpusError, match="cannot be written"):
            check_writable(folder)
        with pytest.raises(CorpusError, match=r"cannot be written .*; choose another folder with --corpus"):
            save(entry, folder)
    check_writable(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_must_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions are asked for before a search, not after it."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CorpusError, match="choose another folder with --corpus, or --no-save"):
        check_writable(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"candidate": "new\nline.py:f"},
        {"measure": "\x1b[2J"},
        {"value": float("nan")},
        {"threshold": float("-inf")},
        {"tolerance": 0.75},
        {"bound": Bound(float("inf"), "none")},
        {"params": {"n": 4}},
        {"case": Case({"z": np.zeros(3, np.float32)})},
    ],
    ids=str,
)
def test_nothing_is_saved_that_could_not_be_loaded(entry: Counterexample, tmp_path: Path, change: Any) -> None:
    """An entry that the reader would refuse is refused by the writer, and leaves no file."""
    with pytest.raises(CorpusError, match="could not be loaded again"):
        save(attrs.evolve(entry, **change), tmp_path)
    assert list(files([tmp_path])) == []


def test_a_case_too_large_to_be_saved(entry: Counterexample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said when it is saved, not when it is read."""
    monkeypatch.setattr(store, "LARGEST_FILE", 100)
    with pytest.raises(CorpusError, match="search smaller shapes"):
        save(entry, tmp_path)


def test_files(saved: Path, tmp_path: Path) -> None:
    """Folders are searched for ``.json`` in order; hidden files are left alone; what is not there is an error."""
    (saved.parent / ".hidden.json").write_text("")
    (saved.parent / "notes.txt").write_text("")
    (tmp_path / "corpus" / "a.json").write_text("")
    (tmp_path / "corpus" / "dangling.json").symlink_to("nothing")
    found = list(files([tmp_path / "corpus", saved]))
    assert found == [tmp_path / "corpus" / "a.json", tmp_path / "corpus" / "dangling.json", saved, saved]
    with pytest.raises(CorpusError, match="no such file or folder"):
        list(files([tmp_path / "missing"]))


def test_a_folder_that_cannot_be_listed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error, because its entries would be skipped."""

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CorpusError, match="Permission denied"):
        list(files([saved.parent]))


def test_arrays_of_a_file(entry: Counterexample, tmp_path: Path) -> None:
    """Named arrays from .npz and .safetensors, bit for bit."""
    from safetensors.numpy import save_file

    np.savez(tmp_path / "case.npz", **entry.case.arrays)
    np.savez_compressed(tmp_path / "small.npz", **entry.case.arrays)
    save_file({name: array.copy() for name, array in entry.case.arrays.items()}, tmp_path / "case.safetensors")
    for name in ("case.npz", "small.npz", "case.safetensors"):
        assert load_arrays(tmp_path / name) == entry.case


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_hostile_files_of_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles are not run; what is damaged, of another type or no archive at all is refused in one line."""
    monkeypatch.chdir(tmp_path)
    np.savez("pickled.npz", z=np.array([_Evil()], object))
    np.savez("double.npz", z=np.zeros(3))
    np.save("one.npy", np.zeros(3, np.float32))
    Path("one.npy").rename("one.npz")
    np.savez("good.npz", z=np.arange(3, dtype=np.float32))
    raw = Path("good.npz").read_bytes()
    Path("empty.npz").write_bytes(b"")
    Path("text.npz").write_text("z = 3")
    Path("text.safetensors").write_text("z = 3")
    Path("header.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    for length in range(0, len(raw), 7):
        Path(f"cut{length}.npz").write_bytes(raw[:length])
    for path in [*Path().glob("*.npz"), *Path().glob("*.safetensors")]:
        if path.name == "good.npz":
            continue
        with pytest.raises(CorpusError) as error:
            load_arrays(path)
        assert str(error.value).isprintable()
        assert str(error.value).startswith(f"{path}: not a readable {path.suffix} file")
    assert not Path("executed").exists()
    for name in ("case.bin", "case.npy", "case"):
        with pytest.raises(CorpusError, match=r"a case is a \.json corpus entry"):
            load_arrays(Path(name))
    with pytest.raises(CorpusError, match="No such file"):
        load_arrays(Path("missing.npz"))


def test_arrays_that_unpack_to_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive of large arrays is refused before anything of their size is allocated, and so is a large file."""
    from safetensors.numpy import save_file

    zeros = {"z": np.zeros(2**16, np.float32), "w": np.zeros(2**16, np.float32)}
    np.savez_compressed(tmp_path / "bomb.npz", **zeros)
    save_file(zeros, tmp_path / "large.safetensors")
    assert (tmp_path / "bomb.npz").stat().st_size < 2**12
    monkeypatch.setattr(array_files, "LARGEST_ARRAYS", 2**18 + 2**17)
    for name in ("bomb.npz", "large.safetensors"):
        tracemalloc.start()
        with pytest.raises(CorpusError, match=f"{name}: .* bytes of arrays, where 393216 may be loaded"):
            load_arrays(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**18
    monkeypatch.setattr(array_files, "LARGEST_ARRAYS", 2**20)
    assert load_arrays(tmp_path / "bomb.npz") == load_arrays(tmp_path / "large.safetensors") == Case(zeros)


def _declaring(path: Path, **shapes: tuple[int, ...]) -> Path:
    """A small .npz file whose arrays declare these shapes, and hold zeros up to a gigabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                numpy_format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
                for _ in range(min(math.prod(shape) * 4, 2**30) // 2**24):
                    stream.write(bytes(2**24))
    return path


def test_headers_are_read_before_data(tmp_path: Path) -> None:
    """An archive that declares a gigabyte, or a case that is not of the space, is refused without unpacking it."""
    space = targets.get("softmax").space(targets.get("softmax").params({"n": 3}))
    large = _declaring(tmp_path / "large.npz", z=(2**28,), z_direction=(3,))
    endless = _declaring(tmp_path / "endless.npz", z=(10**18, 10**18))
    other = _declaring(tmp_path / "other.npz", z=(2**22,), z_direction=(2**22,))
    started = time.perf_counter()
    for path, within, said in (
        (large, None, "where 16777216 elements in four dimensions may be loaded"),
        (endless, None, "where 16777216 elements in four dimensions may be loaded"),
        (other, space, "z: shape (4194304,) does not fit (n<=3)"),
        (_declaring(tmp_path / "more.npz", z=(3,), w=(3,)), space, "are needed"),
        (_declaring(tmp_path / "many.npz", **{f"a{i}": (1,) for i in range(65)}), None, "at most 64"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            load_arrays(path, within)
    assert time.perf_counter() - started < 5
    np.savez(tmp_path / "columns.npz", z=np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)))
    assert (load_arrays(tmp_path / "columns.npz")["z"] == [[0, 1, 2], [3, 4, 5]]).all()
    short = _declaring(tmp_path / "short.npz", z=(2**10,))
    with pytest.raises(CorpusError, match="has not the 4096 bytes that it declares"):
        load_arrays(short)


def test_safetensors_is_not_needed_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, an ImportError that says how to get it."""
    (tmp_path / "case.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        load_arrays(tmp_path / "case.safetensors")


def test_environment_says_where() -> None:
    """Versions, platform and processor; JAX only if it has been used."""
    assert {"diffuzz", "python", "numpy", "platform", "cpu"} <= set(environment())
    assert all(isinstance(value, str) and value.isprintable() for value in environment().values())


def test_a_processor_with_a_strange_name(
    entry: Counterexample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a virtual machine calls its processor, the entry can be saved."""
    information = "model name\t: Virtual\tCPU\x00 \x1b[2J v2\nflags\t\t: fpu fma avx2\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: information)
    found = environment.__wrapped__()
    monkeypatch.undo()
    assert (r"Virtual CPU\x00 \x1b[2J v2", "avx2 fma") == (found["cpu"], found["cpu_flags"])
    save(attrs.evolve(entry, environment=found), tmp_path)


def test_verdicts_are_stored(entry: Counterexample, tmp_path: Path) -> None:
    """Each of the three verdicts comes back."""
    for verdict in Verdict:
        changed = attrs.evolve(entry, verdict=verdict)
        assert load(save(changed, tmp_path / verdict.value)).verdict is verdict
