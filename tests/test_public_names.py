"""What other code may import: a list that changes on purpose only, all of it explained and typed."""

from __future__ import annotations

import ast
import importlib.resources
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import diffuzz

NAMES = [
    "Bound",
    "Case",
    "Claim",
    "Compare",
    "Judge",
    "Keep",
    "Verdict",
    "assert_within_bound",
    "check",
    "evaluate",
    "formats",
    "kernels",
    "minimise",
    "open_problem",
    "operation",
    "replay",
    "search",
    "targets",
    "tensor",
    "tolerance",
]


def test_the_names() -> None:
    """A name that goes, or comes, is a decision: it changes this list, and the changelog."""
    assert sorted(diffuzz.__all__) == NAMES
    assert importlib.resources.files("diffuzz").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_explained(name: str) -> None:
    """Each has a docstring of its own, and so have the public methods of a class and the functions of a module."""
    found = getattr(diffuzz, name)
    assert found.__doc__
    assert inspect.getdoc(found)
    for public, member in _public(found):
        assert inspect.getdoc(member), f"{name}.{public}"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_typed(name: str) -> None:
    """Each function, method and constructor says what it takes and returns, in types that exist."""
    found = getattr(diffuzz, name)
    for public, function in [(name, found), *_public(found)]:
        if isinstance(function, property):
            function = function.fget
        if not inspect.isroutine(function) or inspect.ismethoddescriptor(function):
            continue
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, public
        untyped = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.name not in ("self", "cls") and parameter.annotation is inspect.Parameter.empty
        ]
        assert not untyped, public
    assert all(field.type is not None for field in getattr(found, "__attrs_attrs__", ()))


def _public(found: Any) -> list[tuple[str, Any]]:
    """The public functions of a module, methods and properties of a class."""
    if isinstance(found, ModuleType):
        return [(name, member) for name, member in vars(found).items() if _is_own(found, name, member)]
    if inspect.isclass(found):
        return [
            (name, member)
            for name, member in vars(found).items()
            if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property))
        ]
    return []


def _is_own(module: ModuleType, name: str, member: Any) -> bool:
    return not name.startswith("_") and inspect.isfunction(member) and member.__module__.startswith(module.__name__)


TESTS = Path(__file__).parent
# What strangers write, as they write it.
OUTSIDE = TESTS / "outside" / "files"


@pytest.mark.parametrize(
    "file",
    [file for file in sorted(TESTS.rglob("*.py")) if OUTSIDE not in file.parents],
    ids=lambda file: str(file.relative_to(TESTS)),
)
def test_helpers_of_tests_are_typed(file: Path) -> None:
    """A function that tests share says what it takes and what it gives."""
    untyped = [
        node.name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("test")
        and (node.returns is None or any(a.annotation is None for a in (*node.args.args, *node.args.kwonlyargs)
                                         if a.arg not in ("self", "cls")))
    ]  # fmt: skip
    assert [] == untyped
