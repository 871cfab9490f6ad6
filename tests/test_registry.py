"""The registry: names of what is built in, installed or in a file, errors of one line, and nothing runs unasked."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from diffuzz import formats, kernels, registry, targets
from diffuzz.formats import Format
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.registry import Registry, RegistryError, UnknownNameError, is_file_name
from diffuzz.searching import engines
from diffuzz.targets.target import Target

ALL: tuple[Registry[Any], ...] = (targets.REGISTRY, formats.REGISTRY, kernels.REGISTRY, engines.REGISTRY)
TARGET = 'import attrs\nfrom diffuzz import targets\nTARGET = attrs.evolve(targets.get("softmax"), name="mine")\n'
FORMAT = 'import attrs\nfrom diffuzz import formats\nFORMAT = attrs.evolve(formats.get("q8_0"), name="q8_mine")\n'
ENGINE = "def rounds(objective, rng):\n    return iter(())\n"
KERNELS = "def soft_max(x):\n    return x\nclass other:\n    soft_max = staticmethod(lambda x: -x)\n"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written and imported here, and forgotten after a test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry, "_MODULES", {})
    monkeypatch.setattr(registry, "_FOLDERS", set())
    monkeypatch.setattr(registry, "_APPENDED", [])


def written(text: str, name: str = "mine.py") -> str:
    Path(name).write_text(text)
    return name


def said(ask: Callable[[], object], error: type[Exception] = RegistryError) -> str:
    """The one line that ``ask`` raises."""
    with pytest.raises(error) as raised:
        ask()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def fresh() -> Registry[Target]:
    """A registry like that of the targets, which has not looked for entry points yet."""
    one = targets.REGISTRY
    return Registry(one.kind, one.group, one.check, one.folder, one.attribute, one.name_of)


# Built in


@pytest.mark.parametrize("one", [targets.REGISTRY, formats.REGISTRY, engines.REGISTRY], ids=lambda one: one.kind)
def test_all_that_is_built_in_is_found_by_its_name(one: Registry[Any]) -> None:
    """Each name is known, gives an object of the kind, the same one each time, and comes from no file."""
    assert list(one.names()) == sorted(one.names(), key=one.order)
    for name in one.names():
        assert one.known(name)
        assert one.get(name) is one.get(name)
        assert one.check(one.get(name)) is one.get(name)
        assert one.name_of is None or one.name_of(one.get(name)) == name
        assert one.source(name) is None
        assert one.load(name) == name


def test_names_that_need_a_module_of_another_spelling() -> None:
    """A dash, or a capital, is no letter of a module's name."""
    assert targets.get("dot-order").name == "dot-order"
    assert formats.get("q4_K").name == "q4_K"


@pytest.mark.parametrize(
    ("one", "name"),
    [
        (targets.REGISTRY, "dot_order"),
        (targets.REGISTRY, "Softmax"),
        (targets.REGISTRY, "error_bounds"),
        (targets.REGISTRY, "__init__"),
        (targets.REGISTRY, "target.Target"),
        (formats.REGISTRY, "q4_k"),
        (engines.REGISTRY, "Random"),
        (engines.REGISTRY, "__init__"),
        (engines.REGISTRY, ""),
        (kernels.REGISTRY, "apr"),
    ],
)
def test_what_only_looks_like_a_name(one: Registry[Any], name: str) -> None:
    """Another spelling of a name, or a module without such an object, is no name; the message lists those there are."""
    assert not one.known(name)
    message = said(lambda: one.get(name), UnknownNameError)
    assert message.startswith(f"there is no {one.kind} {name!r}")
    assert ", ".join(one.names()) in message
    assert f"{one.folder}.__init__" not in sys.modules


def test_a_hint() -> None:
    """A misspelt name is told the right one."""
    assert "; did you mean softmax?" in said(lambda: targets.get("sofmax"), UnknownNameError)


# Files


def test_a_target_in_a_file() -> None:
    """It is known by its own name from then on, also under another spelling of the path, and has its source."""
    file = written(TARGET)
    assert targets.load(f"{file}:TARGET") == "mine"
    assert targets.get("mine").name == "mine"
    assert "mine" in targets.names()
    assert targets.REGISTRY.source("mine") == "mine.py:TARGET"
    assert targets.load("mine") == targets.load(file) == targets.load(f"./{file}:TARGET") == "mine"
    assert targets.load(f"{Path(file).resolve()}:TARGET") == "mine"


def test_a_format_in_a_file() -> None:
    """It is one of all formats, and does what it says."""
    assert formats.load(written(FORMAT)) == "q8_mine"
    assert "q8_mine" in formats.names()
    mine = formats.get("q8_mine")
    assert isinstance(mine, Format)
    assert not mine.dequantize(np.zeros((1, mine.type_size), np.uint8)).any()


def test_an_engine_in_a_file() -> None:
    """It is called like its file; a function of another name like both."""
    assert engines.load(written(ENGINE)) == "mine"
    assert engines.load(written(ENGINE.replace("rounds", "others"), "more.py") + ":others") == "more:others"
    assert {"mine", "more:others"} <= set(engines.names())
    assert callable(engines.get("more:others"))


def test_kernels_in_a_file() -> None:
    """A module, or a variant in it."""
    file = written(KERNELS)
    assert (kernels.load(file), kernels.load(f"{file}:other")) == ("mine", "mine:other")
    assert kernels.get("mine").soft_max(1) == 1
    assert kernels.get("mine:other").soft_max(1) == -1
    assert (kernels.source("mine"), kernels.source("mine:other")) == ("mine.py", "mine.py:other")
    assert kernels.source("apr") is None
    assert "mine.py has no third" in said(lambda: kernels.load(f"{file}:third"))


def test_a_file_is_run_once_for_all_that_is_in_it() -> None:
    """A target and a format of one file are of one module; what lies beside it may be imported."""
    written("SEEN = []\n", "beside_mine.py")
    file = written(f"import beside_mine\nbeside_mine.SEEN.append(1)\n{TARGET}{FORMAT}")
    targets.load(file)
    formats.load(file)
    import beside_mine  # type: ignore[import-not-found]

    assert beside_mine.SEEN == [1]


@pytest.mark.parametrize(
    ("one", "text", "message"),
    [
        (targets.REGISTRY, TARGET.replace("mine", "softmax"), "its name 'softmax' is that of one that diffuzz has"),
        (formats.REGISTRY, FORMAT.replace("q8_mine", "q4_K"), "its name 'q4_K' is that of one that diffuzz has"),
    ],
)
def test_a_name_that_is_taken(one: Registry[Any], text: str, message: str) -> None:
    """What is built in stays what it is."""
    before = one.names()
    assert message in said(lambda: one.load(written(text)))
    assert one.names() == before


def test_a_name_that_another_file_has() -> None:
    """The message says which; kernels and engines are called like their files."""
    targets.load(written(TARGET))
    again = written(TARGET, "again.py")
    assert "its name 'mine' is that of the one of mine.py; give it another" in said(lambda: targets.load(again))
    assert "its name 'random' is that of one" in said(lambda: engines.load(written(ENGINE, "random.py")))
    assert "its name 'ggml' is that of one" in said(lambda: kernels.load(written(KERNELS, "ggml.py")))


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x,y", "a:b", "x.py", "x\ny", "\x1b[31m", "-x", "x" * 65, 5])
def test_names_that_cannot_be_one(name: object) -> None:
    """A target's name is a folder of the corpus, so it must not lead out of it; all names are words of reports."""
    for one, text in ((targets.REGISTRY, TARGET.replace('"mine"', repr(name))),
                      (formats.REGISTRY, FORMAT.replace('"q8_mine"', repr(name)))):  # fmt: skip
        assert "cannot be one: at most 64 letters" in said(lambda: one.load(written(text, f"{one.kind}.py")))  # noqa: B023
        assert not one.outside()


def test_kernels_whose_names_mean_something_else() -> None:
    """An at sign stands before the path of a library, and the candidate is another function."""
    assert "its name 'a@b' cannot be one" in said(lambda: kernels.load(written(KERNELS, "a@b.py")))
    assert "its name 'candidate' is that of one" in said(lambda: kernels.load(written(KERNELS, "candidate.py")))


def test_a_variant_that_kernels_do_not_have() -> None:
    """An entry of the corpus may name any: that is one line, too."""
    kernels.load(written(KERNELS, "my_kernels.py"))
    assert said(lambda: kernels.get("my_kernels:nope")) == "kernels my_kernels:nope: my_kernels has no nope"
    assert "has no np.linalg" in said(lambda: kernels.get("my_kernels:np.linalg"))


@pytest.mark.parametrize("change", ["block_size=0", "block_size=2.0", "layout=None", "half_fields=('e',)"])
def test_formats_that_are_none(change: str) -> None:
    """What cannot be searched is refused when it is loaded."""
    message = said(lambda: formats.load(written(FORMAT.replace('name="q8_mine"', f'name="q8_mine", {change}'))))
    assert message.startswith("format mine.py: a ")


def test_the_place_of_an_error() -> None:
    """The last line of a file that a user named, however deep the error was raised; None without such a file."""
    engines.load(written("import json\n\ndef rounds(objective, rng):\n    json.loads('{')\n", "failing.py"))
    with pytest.raises(ValueError, match="Expecting") as raised:
        engines.get("failing")(None, None)  # type: ignore[arg-type]
    assert registry.place_of(raised.value) == "failing.py, line 4"
    assert registry.place_of(ValueError()) is None


def test_the_place_of_an_error_beside_a_file() -> None:
    """A file that lies beside one that a user named is the user's, too; libraries and diffuzz are not."""
    Path("beside_it.py").write_text("def g():\n    raise RuntimeError('two\\nlines \\x1b[2J')\n")
    engines.load(written("import beside_it\n\ndef rounds(objective, rng):\n    beside_it.g()\n", "calling.py"))
    with pytest.raises(RuntimeError) as raised:
        engines.get("calling")(None, None)  # type: ignore[arg-type]
    assert r"RuntimeError: two lines \x1b[2J (beside_it.py, line 2)" == registry.located(raised.value)
    assert "ValueError: x" == registry.located(ValueError("x"))


@pytest.mark.parametrize("name", ["jax.py", "numpy.py", "json.py", "attrs.py"])
def test_a_file_that_is_called_like_a_library(name: str) -> None:
    """It is loaded, may import that library, and hides it from nobody; its own objects are where they say."""
    library = Path(name).stem
    before = sys.modules.get(library)
    written(f"import {library} as it\n" + KERNELS + "place = it.__file__\n", name)
    module = registry.load_file(Path(name), "kernels")
    assert module.place != module.__file__
    assert module is sys.modules[module.__name__]
    assert module is not importlib.import_module(library)
    assert before is None or before is sys.modules[library]
    assert str(Path.cwd()) == sys.path[-1]


def test_what_lies_beside_files() -> None:
    """Each file has what lies beside it, whichever other file was loaded before; libraries come first."""
    for number, folder in enumerate(("one", "two", "three")):
        Path(folder).mkdir()
        Path(folder, "of_this_folder.py").write_text(f"number = {number}\n")
        Path(folder, "mine.py").write_text("from of_this_folder import number\n")
        module = registry.load_file(Path(folder, "mine.py"), "kernels")
        assert number == module.number
        sys.modules.pop("of_this_folder")
    assert [str(Path(folder).resolve()) for folder in ("three", "two", "one")] == sys.path[-3:]
    # What a process of its own begins with, before it loads the same files.
    assert sys.path[:-3] == registry.search_path()


def test_the_working_directory_comes_last() -> None:
    """`python -m diffuzz` has put it at the end, and what lies beside a file is before it."""
    sys.path.append(str(Path.cwd()))
    Path("folder").mkdir()
    for folder in (".", "folder"):
        Path(folder, "of_two_folders.py").write_text(f"where = {folder!r}\n")
    Path("folder/mine.py").write_text("from of_two_folders import where\n")
    assert "folder" == registry.load_file(Path("folder/mine.py"), "kernels").where
    del sys.modules["of_two_folders"]
    assert [str(Path("folder").resolve()), str(Path.cwd())] == sys.path[-2:]


def test_files_of_one_name() -> None:
    """Two files of one name in two folders are two modules, and the first stays what it was."""
    modules = []
    for folder in ("one", "two"):
        Path(folder).mkdir()
        Path(folder, "same.py").write_text(f"class C: where = {folder!r}\n")
        modules.append(registry.load_file(Path(folder, "same.py"), "kernels"))
    assert ["one", "two"] == [sys.modules[module.C.__module__].C.where for module in modules]


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.kind)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file mine.py"),
        ("raise RuntimeError('first\\nsecond')\n", "mine.py fails to load: RuntimeError: first second"),
        ("import sys; sys.exit(3)\n", "mine.py fails to load: SystemExit: 3"),
        ("def f(x) return x\n", "mine.py fails to load: SyntaxError"),
        ("x = 3\n", "mine.py has no thing"),
        ("thing = 3\n", "needed, it is a int"),
    ],
)
def test_files_that_hold_no_such_object(one: Registry[Any], text: str | None, message: str) -> None:
    """One line that begins with what was asked for; nothing is known by the file's name, and it may be mended."""
    if text is not None:
        written(text)
    error = said(lambda: one.load("mine.py:thing"))
    assert error.startswith(f"{one.kind} mine.py:thing: ")
    assert message in error
    assert not one.outside()


def test_files_with_neighbours_of_the_same_name() -> None:
    """Each file imports the module beside it, such as two versions of one project."""
    for folder, value in (("old", 1), ("new", 2)):
        Path(folder).mkdir()
        written(f"VALUE = {value}\n", f"{folder}/a_neighbour.py")
        written("import a_neighbour\nclass kept:\n    value = a_neighbour.VALUE\n", f"{folder}/{folder}_kernels.py")
    names = [kernels.load(f"{folder}/{folder}_kernels.py:kept") for folder in ("old", "new")]
    assert [kernels.get(name).value for name in names] == [1, 2]


def test_a_file_may_be_mended() -> None:
    """One that failed is run again."""
    said(lambda: targets.load(written("import nothing_of_that_name\n")))
    assert targets.load(written(TARGET)) == "mine"


def test_what_names_a_file() -> None:
    """A suffix of Python says so, before a colon or at the end."""
    for text in ("mine.py", "mine.py:TARGET", "/a b/mine.py:x", "./mine.py"):
        assert is_file_name(text)
    for text in ("mine", "apr:simd", "libggml@build/bin", "mine.pyc", "mine.txt:x"):
        assert not is_file_name(text)
    assert "there is no target 'mine.txt:x'" in said(lambda: targets.load("mine.txt:x"), UnknownNameError)


@pytest.mark.parametrize("name", ["mine.py", "mine.py:TARGET", "./mine.py:TARGET"])
@pytest.mark.parametrize("one", ALL, ids=lambda one: one.kind)
def test_a_name_never_loads_a_file(one: Registry[Any], name: str) -> None:
    """What a corpus entry says is looked up: only ``load``, with what a user wrote, runs code."""
    written("import pathlib; pathlib.Path('ran').touch()\n" + TARGET)
    assert not one.known(name)
    said(lambda: one.get(name), UnknownNameError)
    assert not Path("ran").exists()
    with pytest.raises(ImportError):
        kernels.get(name)
    assert not Path("ran").exists()


# Entry points


def installed(monkeypatch: pytest.MonkeyPatch, **points: str) -> Registry[Target]:
    """A registry of targets where packages offer ``points``."""

    def entry_points(*, group: str) -> list[EntryPoint]:
        assert group == "diffuzz.targets"
        return [EntryPoint(name, value, group) for name, value in points.items()]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    return fresh()


def module_of_a_package(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    module = ModuleType(name)
    exec(text, module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)


def test_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by its name beside what is built in, is loaded when it is asked for, and comes from no file."""
    written("import pathlib; pathlib.Path('ran').touch()\n" + TARGET, "a_package_of_targets.py")
    one = installed(monkeypatch, mine="a_package_of_targets:TARGET", softmax="nowhere:TARGET")
    assert set(one.names()) == {*targets.names(), "mine"}
    assert one.known("mine")
    assert not Path("ran").exists()
    assert one.get("mine").name == "mine"
    assert Path("ran").exists()
    assert (one.source("mine"), one.outside()) == (None, ())
    assert one.load("mine") == "mine"
    # What is built in comes first.
    assert one.get("softmax") is targets.get("softmax")


def test_what_is_installed_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the entry point; the others are not touched by it."""
    module_of_a_package(monkeypatch, "a_bad_package", TARGET + "x = 3\n")
    one = installed(
        monkeypatch, gone="a_package_that_is_not_there:T", odd="a_bad_package:x", other="a_bad_package:TARGET"
    )
    assert "target gone: a_package_that_is_not_there:T fails to load: ModuleNotFoundError" in said(
        lambda: one.get("gone")
    )
    assert "target odd: a_bad_package:x fails to load: TypeError: a diffuzz" in said(lambda: one.get("odd"))
    assert said(lambda: one.get("other")) == "target other: a_bad_package:TARGET has another name, 'mine'"
    assert "softmax" in one.names()


# Other processes


def test_what_another_process_is_told() -> None:
    """``outside`` lists all that was loaded from files, with absolute paths, and ``adopt`` loads it."""
    assert registry.outside() == ()
    folder = Path.cwd()
    targets.load(written(TARGET))
    kernels.load(written(KERNELS, "my_kernels.py"))
    engines.load(written(ENGINE, "my_engine.py"))
    told = registry.outside()
    assert set(told) == {
        ("diffuzz.targets", f"{folder}/mine.py:TARGET"),
        ("diffuzz.kernels", f"{folder}/my_kernels.py"),
        ("diffuzz.searching.engines", f"{folder}/my_engine.py:rounds"),
    }
    for one in ALL:
        one._files, one._found = {}, {}
    registry._MODULES.clear()
    assert not targets.REGISTRY.known("mine")
    registry.adopt(told)
    assert registry.outside() == told
    assert targets.get("mine").name == "mine"
    # Twice is once.
    registry.adopt(told)
    assert registry.outside() == told


def test_a_candidate_knows_the_target_of_a_file() -> None:
    """The process that calls a function has the target, too."""
    targets.load(written(TARGET))
    file = written(
        "import numpy as np\ndef f(z):\n    e = np.exp(z - z.max(1, keepdims=True))\n"
        "    return e / e.sum(1, keepdims=True)\n",
        "my_softmax.py",
    )
    with open_problem(targets.get("mine"), {}, Judge(f"{file}:f")) as problem:
        values = problem.evaluate({"z": np.zeros((2, 3), np.float32)}).value
    assert (values < 1).all()
