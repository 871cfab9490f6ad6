"""The registry: one way from a name to a target, a format, a kernel module or an engine.

Three places, in this order:

    the built-in folder     a module of it that defines the kind's attribute: ``diffuzz/targets/rope.py`` has ``TARGET``
    entry points            of a package that is installed: the groups ``diffuzz.targets``, ``.formats``, ``.kernels``,
                            ``.engines``
    FILE.py:NAME            an object in a file, which is loaded where a user names it, and only there

What is loaded from a file is known by its own name from then on (a target's and a format's ``name``; the file's stem
for a kernel module and an engine), so parameters, reports and corpus entries hold plain names. A corpus entry never
makes code run: it may name what is known, and says which file it came from.

A process of its own, such as a candidate's, is told what this one has loaded: ``outside()`` there, ``adopt`` here.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from diffuzz.escaping import escaped, unwrapped

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
# A name is a word of reports and command lines, and of a target also a folder of the corpus.
_NAME = re.compile(r"\w[\w.+-]{0,63}")
_LONGEST_TEXT = 400
_MODULES: dict[Path, ModuleType] = {}
# Of the files that were loaded.
_FOLDERS: set[Path] = set()
# Those of them that were put at the end of sys.path, the last one first.
_APPENDED: list[str] = []


class RegistryError(ValueError):
    """A name that nothing has, or a file that does not hold what it is said to; one line."""


class UnknownNameError(RegistryError):
    """No built-in, installed or loaded object has this name; the message lists those that there are."""


def is_file_name(text: str) -> bool:
    """Whether ``text`` names an object in a file: ``FILE.py:NAME``, or ``FILE.py``."""
    return text.rpartition(":")[0].endswith(".py") or text.endswith(".py")


@attrs.define
class Registry(Generic[T]):
    """The objects of one kind.

    ``kind`` is the word for one of them in messages, and ``plural`` for several where it is not that with an s;
    ``folder`` is the package of the built-in ones and ``attribute`` what their modules define; in a file it is looked
    for if no name is given. ``check`` returns the object if it is of the kind, and raises TypeError, in words, if it is
    not. ``name_of(object)`` is its name; without it every module of the folder counts and has its own name, an object
    in a file that of the file. ``reserved`` are names that are taken otherwise, and names are listed by ``order``.
    ``inspect`` looks more closely at an object of somebody else, and raises TypeError, in words, too.
    """

    kind: str
    group: str
    check: Callable[[object], T]
    folder: str | None = None
    attribute: str | None = None
    name_of: Callable[[T], str] | None = None
    reserved: tuple[str, ...] = ()
    plural: str = attrs.field(default="", kw_only=True)
    inspect: Callable[[T], None] = attrs.field(default=lambda found: None)
    order: Callable[[str], tuple[object, ...]] = attrs.field(default=lambda name: (name,))
    # Module names by the names of what they hold.
    _builtin: dict[str, str] | None = attrs.field(init=False, default=None)
    _installed: dict[str, EntryPoint] | None = attrs.field(init=False, default=None)
    _found: dict[str, T] = attrs.field(init=False, factory=dict)
    # By name: the absolute FILE.py:NAME, and what the user wrote.
    _files: dict[str, tuple[str, str]] = attrs.field(init=False, factory=dict)

    def names(self) -> tuple[str, ...]:
        """Names of all that are known here, in order."""
        return self._ordered({*self._builtins(), *self._entry_points(), *self._files})

    def built_in(self) -> tuple[str, ...]:
        """Names of the built-in ones, in order."""
        return self._ordered(self._builtins())

    def _ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(names, key=self.order))

    def known(self, name: str) -> bool:
        """Whether there is one of that name, without a look at the others."""
        return name in self._found or self._module(name) is not None or name in self._entry_points()

    def is_built_in(self, name: str) -> bool:
        """Whether it is one of the built-in folder."""
        return self._module(name) is not None

    def get(self, name: str) -> T:
        """The object called ``name``. Raises UnknownNameError; RegistryError if an installed package's is not one."""
        if name in self._found:
            return self._found[name]
        if (module := self._module(name)) is not None:
            found = self.check(getattr(module, self.attribute or ""))
        elif name in (points := self._entry_points()):
            found = self._from_entry_point(points[name])
        else:
            close = difflib.get_close_matches(name, self.names(), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UnknownNameError(
                f"there is no {self.kind} {name!r}{hint} ({self.plural or self.kind + 's'}: {', '.join(self.names())})"
            )
        self._found[name] = found
        return found

    def load(self, text: str) -> str:
        """The name of what a user wrote: a known name as it is, or that of the object in ``FILE.py:NAME``, loaded now.

        Raises UnknownNameError; RegistryError, one line, where the file is not there, fails to load, holds no such
        object, or one with the name of another.
        """
        if not is_file_name(text):
            self.get(text)
            return text
        file, attribute = (
            (text, self.attribute) if text.endswith(".py") else (text.rpartition(":")[0], text.rpartition(":")[2])
        )
        path = Path(file)
        place = str(path.resolve()) + (f":{attribute}" if attribute else "")
        known = next((name for name, (loaded, _) in self._files.items() if loaded == place), None)
        if known is not None:
            return known
        module = _module_of(path, f"{self.kind} {text}")
        try:
            found = self.check(getattr(module, attribute) if attribute else module)
            self.inspect(found)
        except AttributeError:
            raise RegistryError(f"{self.kind} {text}: {file} has no {attribute}") from None
        except TypeError as error:
            raise RegistryError(f"{self.kind} {text}: {error}") from error
        own = path.stem if attribute in (None, self.attribute) else f"{path.stem}:{attribute}"
        name = own if self.name_of is None else _checked_name(self.name_of(found), f"{self.kind} {text}")
        if self.name_of is None:
            _checked_name(path.stem, f"{self.kind} {text}")
        if name in self._files or name in self.reserved or self.known(name):
            owner = self._owner(name)
            raise RegistryError(f"{self.kind} {text}: its name {name!r} is that of {owner}; give it another")
        self._files[name], self._found[name] = (place, text), found
        return name

    def _owner(self, name: str) -> str:
        """Who has an object of that name, in words."""
        if name in self._files:
            return f"the one of {self._files[name][1]}"
        if name in self._builtins() or name in self.reserved:
            return "one that diffuzz has"
        return "one of " + _offered(self._entry_points()[name])

    def source(self, name: str) -> str | None:
        """The ``FILE.py:NAME`` that a user wrote for an object, None for one of a package."""
        return self._files[name][1] if name in self._files else None

    def outside(self) -> tuple[str, ...]:
        """``FILE.py:NAME``, with absolute paths, of all that has been loaded from files."""
        return tuple(place for place, _ in self._files.values())

    def _module(self, name: str) -> ModuleType | None:
        """The built-in module that has the object of that name; the others are not imported for it."""
        if self.folder is None or not name.replace("-", "_").isidentifier() or name.startswith("_"):
            return None
        if self.name_of is None and name not in self._builtins():
            return None
        full = f"{self.folder}.{name.replace('-', '_').lower()}"
        if importlib.util.find_spec(full) is None:
            return None
        module = importlib.import_module(full)
        found = getattr(module, self.attribute or "", None)
        if found is None or (self.name_of is not None and self.name_of(found) != name):
            return None
        return module

    def _builtins(self) -> dict[str, str]:
        if self._builtin is None:
            self._builtin = {}
            folder = None if self.folder is None else importlib.import_module(self.folder)
            for found in () if folder is None else pkgutil.iter_modules(folder.__path__, f"{self.folder}."):
                if self.name_of is None:
                    self._builtin[found.name.rpartition(".")[2]] = found.name
                elif not found.ispkg and hasattr(module := importlib.import_module(found.name), self.attribute or ""):
                    self._builtin[self.name_of(getattr(module, self.attribute or ""))] = found.name
        return self._builtin

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._installed is None:
            # Takes as long to import as all of the command line.
            import importlib.metadata

            self._installed = {point.name: point for point in importlib.metadata.entry_points(group=self.group)}
        return self._installed

    def _from_entry_point(self, point: EntryPoint) -> T:
        try:
            found = self.check(point.load())
            self.inspect(found)
        except Exception as error:  # a package of somebody else may fail in any way
            raise RegistryError(
                f"{self.kind} {point.name}: {point.value} fails to load: {one_line(error)} (of {_offered(point)})"
            ) from error
        _checked_name(point.name, f"{self.kind} of {point.value}")
        if self.name_of is not None and (own := self.name_of(found)) != point.name:
            # Reports and corpus entries would name what nobody could find again.
            raise RegistryError(f"{self.kind} {point.name}: {point.value} has another name, {own!r}")
        return found


def _offered(point: EntryPoint) -> str:
    return "a package" if point.dist is None else f"the package {point.dist.name}"


def _checked_name(name: object, what: str) -> str:
    """``name``. Raises RegistryError, a line that begins with ``what``, unless it can be one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith(".py"):
        raise RegistryError(
            f"{what}: its name {name!r:.80} cannot be one: at most 64 letters, digits and . _ - + are needed, the "
            "first of them a letter or a digit"
        )
    return name


def load_file(path: Path, what: str) -> ModuleType:
    """The module in a file, which is run now, under a name of our own.

    What lies beside it can be imported, but hides no library: a file may be called ``jax.py``, or lie beside one.

    Raises RegistryError, one line that begins with ``what``: no such file, no Python file, an exception while it ran.
    """
    if not path.is_file():
        raise RegistryError(f"{what}: there is no file {path}")
    if path.suffix != ".py":
        raise RegistryError(f"{what}: {path} is not a Python file (its name must end in .py)")
    resolved = path.resolve()
    name = f"diffuzz_file_{path.stem}"
    while name in sys.modules:
        # A file of the same name in another folder, whose objects still refer to their module.
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RegistryError(f"{what}: {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _append(str(resolved.parent))
    hidden = _namesakes(resolved.parent)
    for other in hidden:
        del sys.modules[other]
    _FOLDERS.add(resolved.parent)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RegistryError(f"{what}: {path} fails to load: {located(error)}") from error
    finally:
        sys.modules.update(hidden)
    return module


def _append(folder: str) -> None:
    """Make what lies in a folder importable: after all libraries, but before what lies in other such folders."""
    if folder in sys.path and folder not in _APPENDED:
        return
    libraries = search_path()
    _APPENDED[:] = [folder, *(other for other in _APPENDED if other != folder)]
    # `python -m diffuzz` has put the working directory last.
    last = [libraries.pop()] if libraries and libraries[-1] == os.getcwd() else []
    sys.path[:] = [*libraries, *_APPENDED, *last]


def search_path() -> list[str]:
    """``sys.path`` without the folders of files that were loaded: what another process begins with."""
    return [folder for folder in sys.path if folder not in _APPENDED]


def _namesakes(folder: Path) -> dict[str, ModuleType]:
    """Modules that files of other folders have imported from beside them, and of which ``folder`` has its own."""
    found = {}
    for name, module in tuple(sys.modules.items()):
        top = name.partition(".")[0]
        file = getattr(sys.modules.get(top), "__file__", None)
        if file is None or not ((folder / f"{top}.py").is_file() or (folder / top).is_dir()):
            continue
        if any(parent in _FOLDERS and parent != folder for parent in Path(file).parents[:2]):
            found[name] = module
    return found


def _module_of(path: Path, what: str) -> ModuleType:
    """The same, but each file is run once for all that is in it."""
    key = path.resolve()
    if key not in _MODULES:
        _MODULES[key] = load_file(path, what)
    return _MODULES[key]


def place_of(error: BaseException) -> str | None:
    """The line of a file that a user named, or of one beside it, in which an exception was raised, or the call that led
    to it: ``k.py, line 7``. None if no such file takes part.
    """
    place, trace = None, error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.suffix == ".py" and (file.parent in _FOLDERS or file.resolve().parent in _FOLDERS):
            place = f"{escaped(file.name)}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place


def located(error: BaseException) -> str:
    """``one_line``, and in brackets the ``place_of`` it, if there is one."""
    place = place_of(error)
    return one_line(error) if place is None else f"{one_line(error)} ({place})"


def one_line(error: BaseException, longest: int = _LONGEST_TEXT) -> str:
    """Type and message of an exception as one line that can be printed, its end cut off if it goes on and on."""
    try:
        said = str(error)
    except Exception as another:  # an exception of somebody else may fail to say what it is
        said = f"(its message cannot be had: {type(another).__name__})"
    # Cut first: an exception may quote a whole array.
    text, name = unwrapped(said[: 2 * longest]), escaped(type(error).__name__[:longest])
    cut = text if len(text) <= longest and len(said) <= 2 * longest else f"{text[:longest]} ..."
    return f"{name}: {cut}" if text else name


def adopt(places: Iterable[tuple[str, str]]) -> None:
    """Load what another process has loaded: pairs of a package with a ``REGISTRY``, and ``FILE.py:NAME``."""
    for package, place in places:
        registry: Registry[object] = importlib.import_module(package).REGISTRY
        registry.load(place)


def outside() -> tuple[tuple[str, str], ...]:
    """What ``adopt`` takes: all that this process has loaded from files, by the packages that have been imported."""
    packages = ("diffuzz.formats", "diffuzz.kernels", "diffuzz.targets", "diffuzz.searching.engines")
    loaded = [package for package in packages if package in sys.modules]
    return tuple((package, place) for package in loaded for place in sys.modules[package].REGISTRY.outside())
