"""The pages that are made of the program itself: what ``--help``, docstrings and the registries say."""

from __future__ import annotations

import html
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import diffuzz
from diffuzz import formats, targets
from diffuzz.cli.targets import target_json

OPTIONS = """# Every option

This page is what `--help` says of every command. [Commands](/docs/commands.md) says what they do and what they print.

```{eval-rst}
.. click:: diffuzz.cli.main:commands
   :prog: python -m diffuzz
   :nested: full
```
"""
FORMATS = """# Formats, byte by byte

Every block format of the package. What they have in common is on the page [Formats](/docs/formats.md).

| format | numbers in a block | bytes | bits each | activations |
|---|---|---|---|---|
"""
TARGETS = """# Targets

Everything that `python -m diffuzz targets` lists. The proven bound is that of the target's own claim
with its default parameters.

| target | what is measured | proven bound |
|---|---|---|
"""
PYTHON = """# Python

The names that `import diffuzz` offers. It loads neither jax nor hypothesis. How they are used:
[in a test of your own](/docs/operations.md#use-it-in-a-test-of-your-own),
[a search in Python](/docs/strategies.md#a-search-in-python).
"""
ASKED_BY = {"claim": "the claim", "judge": "judging"}


def pages() -> dict[str, str]:
    """The text of each page, by its place on the site."""
    return {
        "reference/options.md": OPTIONS,
        "reference/python.md": _python(),
        "reference/formats.md": _formats(),
    } | dict(_targets())


def _python() -> str:
    sections, modules = [PYTHON], ["\n## Modules\n"]
    for name in diffuzz.__all__:
        found = getattr(diffuzz, name)
        if isinstance(found, ModuleType):
            modules.append(f"- `diffuzz.{name}`: {_text(_summary(found))}")
            continue
        kind, members = ("class", "\n   :members:") if inspect.isclass(found) else ("function", "")
        sections.append(f"\n## {name}\n\n```{{eval-rst}}\n.. auto{kind}:: diffuzz.{name}{members}\n```\n")
    return "".join(sections) + "\n".join(modules) + "\n"


def _targets() -> Iterator[tuple[str, str]]:
    lines, names = [], []
    for registry, package in ((targets.REGISTRY, "diffuzz.targets"), (targets.OF_MODELS, "diffuzz.targets.of_models")):
        modules = _modules(package, "TARGET")
        for name in registry.built_in():
            found = target_json(registry.get(name))
            lines.append(f"| [{name}]({name}.md) | {_text(str(found['summary']))} | {_number(found['bound'])} |")
            names.append(name)
            yield f"reference/targets/{name}.md", _target(found, modules[name])
    contents = "\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
    yield "reference/targets/index.md", TARGETS + "\n".join(lines) + "\n" + contents


def _target(found: dict[str, Any], module: ModuleType) -> str:
    bound = "none is known"
    if found["bound"] is not None:
        bound = f"{_number(found['bound'])}: {_text(found['bound_because'])}"
    lines = [
        f"# {found['name']}\n",
        f"{_text(found['summary'])}.\n",
        "| | |\n|---|---|",
        f"| claim | {_text(found['claim'])}: its value is above {_number(found['threshold'])} |",
        f"| measure | {_text(found['measure'])} |",
        f"| proven bound | {bound} |",
    ]
    if found["candidate"]:
        lines += [
            f"| `--candidate` | {_code(found['candidate'])} |",
            f"| `--kernels`, two of | {_codes([*found['kernels']['here'], *found['kernels']['missing']])} |",
            f"| `--fix`, `--range`, `--multiple` of | {_codes(found['narrowed_by'])} |",
        ]
    lines += ["\n## Parameters\n", "| `--param` | default | meaning | plays a part in |", "|---|---|---|---|"]
    for one in found["parameters"]:
        choices = f" ({_codes(one['choices'])})" if one["choices"] else ""
        default = str(one["default"]).lower() if isinstance(one["default"], bool) else str(one["default"])
        asked = "both" if len(one["asked_by"]) > 1 else "".join(ASKED_BY[question] for question in one["asked_by"])
        lines.append(f"| {_code(one['name'])} | {_code(default)} | {_text(one['help'])}{choices} | {asked} |")
    return "\n".join([*lines, "\n## Derivation\n", *_docstring(module)]) + "\n"


def _formats() -> str:
    rows, sections = [], []
    modules = _modules("diffuzz.formats", "FORMAT")
    for name in formats.REGISTRY.built_in():
        found = formats.get(name)
        rows.append(
            f"| [{_code(name)}](#{name.lower()}) | {found.block_size} | {found.type_size} | "
            f"{8 * found.type_size / found.block_size:g} | {found.activation or ''} |"
        )
        sections += [f"\n## {name}\n", *_docstring(modules[name])]
    return FORMATS + "\n".join([*rows, *sections]) + "\n"


def _modules(package: str, attribute: str) -> dict[str, ModuleType]:
    """The modules of a package that define a target or format, by its name."""
    found = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        defined = getattr(module, attribute, None)
        if defined is not None:
            found[getattr(defined, "target", defined).name] = module
    return found


def _docstring(module: ModuleType) -> Iterator[str]:
    """Its paragraphs, as HTML: they flow, and indented lines, which are columns and formulas, stay as they are."""
    yield f"From the docstring of `{module.__name__}`:\n"
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(module.__doc__ or "")):
        lines = paragraph.splitlines()
        items = re.split(r"^- ", paragraph, flags=re.MULTILINE)
        if len(items) > 1 and not items[0]:
            yield "<ul>" + "".join(f"<li>{_marked(item)}</li>" for item in items[1:]) + "</ul>\n"
        elif any(line.startswith(" ") for line in lines):
            yield f'<pre class="docstring">{html.escape(paragraph)}</pre>\n'
        else:
            yield f"<p>{_marked(paragraph)}</p>\n"


def _marked(text: str) -> str:
    """The few marks that docstrings have, as HTML."""
    text = html.escape(" ".join(text.split()))
    text = re.sub(r"(?::\w+:`~?|``)(.+?)``?", r"<code class='literal'>\1</code>", text)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)


def _summary(module: ModuleType) -> str:
    return " ".join((module.__doc__ or "").strip().partition("\n\n")[0].split())


def _text(text: str) -> str:
    """As text in a cell of a table, whatever is in it."""
    return re.sub(r"([\\`*_\[\]<>|$])", r"\\\1", text)


def _code(text: str) -> str:
    return "``" + text.replace("|", "\\|") + "``" if text else ""


def _codes(texts: list[str]) -> str:
    return ", ".join(map(_code, texts))


def _number(value: object) -> str:
    return "none known" if value is None else f"{value:.6g}" if isinstance(value, float | int) else str(value)
