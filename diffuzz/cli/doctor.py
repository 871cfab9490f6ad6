"""``diffuzz doctor``: what is installed, whether it works, and what is missing."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from diffuzz import __version__
from diffuzz.cli.options import BAD_INPUT, JSON, MISSING, SECONDS, VERBOSITY, answer_of, print_json, print_text
from diffuzz.cli.tables import at_most
from diffuzz.escaping import escaped

if TYPE_CHECKING:
    from diffuzz.installation.packages import Extra
    from diffuzz.installation.places import Cache, Compiler
    from diffuzz.installation.probes import Probe

# The width of a report, at most.
_WIDTH = 100
_WORDS = {True: "ok", False: "fails", None: "missing"}
_COLOURS = {"ok": "32", "fails": "31", "missing": "33", "": "0"}


@attrs.frozen
class Found:
    """All that was found out."""

    core: Extra | None
    extras: tuple[Extra, ...]
    probes: tuple[Probe, ...]
    compilers: tuple[Compiler, ...]
    caches: tuple[Cache, ...]

    @property
    def lacking(self) -> list[str]:
        """Packages of the core that are not there, or too old."""
        if self.core is None:
            return []
        return [
            f"{one.name} {one.version} is older than {one.least}" if one.old else f"{one.name} is not installed"
            for one in self.core.packages
            if not one.good
        ]

    @property
    def broken(self) -> list[str]:
        """Parts of the core that do not work."""
        from diffuzz.installation.probes import NEEDED

        return [f"{_name(one)} {_WORDS[one.works]}" for one in self.probes
                if (one.kind, one.name) in NEEDED and one.works is not True]  # fmt: skip

    @property
    def code(self) -> int:
        """The exit code: 0 if the core works, 3 if a package of it is missing or too old, 2 if a part does not work."""
        return MISSING if self.lacking else BAD_INPUT if self.broken else 0


@click.command("doctor")
@click.option(
    "--timeout", type=SECONDS, default="60s", show_default=True, help="Time that opening kernels or a device may take."
)
@VERBOSITY
@JSON
def command(timeout: float, quiet: bool, as_json: bool) -> int:
    """Say what is installed, which kernels work, what JAX and torch see, and what each missing extra would give."""
    found = examined(timeout)
    if as_json:
        print_json(doctor_json(found))
    else:
        colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        text = answer_of(doctor_text(found, at_most(_WIDTH)), quiet)
        print_text(text, mark=_marked if colours else str)
    return found.code


def examined(timeout: float) -> Found:
    """All that is found out, with ``timeout`` seconds for each process that tries something."""
    from diffuzz.installation import packages, places, probes
    from diffuzz.telling import Count, Phase, tell

    tell(Phase("opening kernels"))
    total = sum(map(len, probes.GROUPS))
    done: list[Probe] = []

    def note(probe: Probe) -> None:
        done.append(probe)
        tell(Count(len(done), total))

    tried = probes.probed(timeout, note)
    tell(Phase("looking for compilers"))
    extras = packages.installed()
    core = next((one for one in extras if not one.name), None)
    others = tuple(one for one in extras if one.name)
    return Found(core, others, tried, places.compilers(), places.caches())


def doctor_json(found: Found) -> dict[str, object]:
    """The object of ``doctor --json``."""
    return {
        "works": found.code == 0,
        "problems": [*found.lacking, *found.broken],
        "diffuzz": __version__,
        "environment": _environment(),
        "core": [] if found.core is None else [attrs.asdict(one) for one in found.core.packages],
        "kernels": [_probe_json(one) for one in found.probes if one.kind == "kernels"],
        "devices": [_probe_json(one) for one in found.probes if one.kind == "devices"],
        "extras": [
            {
                "name": one.name,
                "gives": one.gives,
                "installed": one.good,
                "command": one.command,
                "packages": [attrs.asdict(package) for package in one.packages],
            }
            for one in found.extras
        ],
        "compilers": [attrs.asdict(one) for one in found.compilers],
        "caches": [attrs.asdict(one) | {"folder": str(one.folder), "there": one.there} for one in found.caches],
    }


def _probe_json(one: Probe) -> dict[str, object]:
    status = _WORDS[one.works]
    return {"name": one.name, "status": status, "seconds": round(one.seconds, 3), "about": escaped(one.text)}


def _environment() -> dict[str, str]:
    about = {"executable": sys.executable, "cores": str(os.cpu_count() or 1)}
    try:
        from diffuzz.corpus.environment import environment
    except ImportError:
        # Of NumPy, which this command has to say.
        import platform

        return about | {"python": platform.python_version(), "platform": platform.platform(), "cpu": platform.machine()}
    return environment() | about


Row = tuple[str, str, str]
"""A status ("ok", "fails", "missing", or none), a name, and what is said of it, in lines."""


def doctor_text(found: Found, width: int) -> str:
    """The report, in lines of at most ``width``: the answer first."""
    parts = [textwrap.wrap(_answer(found), width, break_on_hyphens=False)]
    sections = [(heading, rows) for heading, rows in _sections(found) if rows]
    name = max(len(title) for _, rows in sections for _, title, _ in rows)
    parts += [[heading, *_rows_text(rows, name, width)] for heading, rows in sections]
    return "\n\n".join("\n".join(map(escaped, lines)) for lines in parts) + "\n"


def _answer(found: Found) -> str:
    if found.lacking:
        command = "" if found.core is None else f"; {found.core.command} installs it"
        return f"diffuzz {__version__} does not work: {'; '.join(found.lacking)}{command}."
    if found.broken:
        return f"diffuzz {__version__} does not work: {'; '.join(found.broken)}."
    missing = [one.name for one in found.extras if not one.good]
    more = f"Extras that are not installed: {', '.join(missing)}." if missing else "All extras are installed."
    return f"diffuzz {__version__} works. {more}"


def _sections(found: Found) -> Iterator[tuple[str, list[Row]]]:
    about = _environment()
    machine = ", ".join(filter(None, [about["cpu"], f"{about['cores']} cores", about.get("cpu_flags", "")]))
    core = [] if found.core is None else found.core.packages
    yield (
        "Here",
        [
            ("", "Python", f"{about['python']}, {about['executable']}"),
            ("", "system", about["platform"]),
            ("", "machine", machine),
        ],
    )
    yield "Packages of the core", [
        ("ok" if one.good else "fails" if one.old else "missing", one.name,
         f"{one.version}, and {one.least} is needed" if one.old else one.version or f"{one.least} or newer is needed")
        for one in core
    ]  # fmt: skip
    for heading, kind in (("Kernels", "kernels"), ("Devices", "devices")):
        yield heading, [_probe_row(one, found.extras) for one in found.probes if one.kind == kind]
    yield (
        "Extras",
        [
            ("ok" if one.good else "missing", one.name, one.gives if one.good else f"{one.gives}\n{_remedy(one)}")
            for one in found.extras
        ],
    )
    yield (
        "Compilers, for candidates",
        [
            ("ok" if one.command else "missing", one.language, one.version or one.command or "not found")
            for one in found.compilers
        ],
    )
    yield "Caches", [("", one.holds, _cache(one)) for one in found.caches]


def _remedy(one: Extra) -> str:
    old = [f"{package.name} {package.version} is older than {package.least}" for package in one.packages if package.old]
    return "; ".join([*old, one.command])


def _probe_row(one: Probe, extras: Sequence[Extra]) -> Row:
    if one.works is None:
        extra = next((each for each in extras if one.name.replace("-", "_") in _names(each)), None)
        return ("missing", _name(one), one.text if extra is None else extra.command)
    if not one.works:
        return ("fails", _name(one), one.text)
    seconds = f"{one.seconds:.2f} s"
    return ("ok", _name(one), f"{seconds}  {one.text}" if one.text else seconds)


def _names(extra: Extra) -> set[str]:
    """What an extra makes work."""
    return {extra.name, *{"gguf": ("gguf_py",), "ggml": ("libggml",)}.get(extra.name, ())}


def _name(one: Probe) -> str:
    return {"jax": "JAX"}.get(one.name, one.name)


def _cache(one: Cache) -> str:
    place = str(one.folder)
    home = str(Path.home()) if os.environ.get("HOME") else ""
    if home and place.startswith(f"{home}{os.sep}"):
        place = "~" + place[len(home) :]
    if not one.there:
        return f"{place}: not there yet"
    return f"{place}: {one.files:,} files, {one.nbytes / 1e6:,.1f} MB"


def _rows_text(rows: Sequence[Row], name: int, width: int) -> Iterator[str]:
    """Columns: status, name, and what is said, whose further lines begin under the first."""
    status = max(map(len, _COLOURS))
    margin = 2 + status + 2 + name + 2
    for state, title, said in rows:
        head = f"  {state:{status}}  {title:{name}}  "
        first = True
        for part in map(escaped, said.split("\n")):
            if part.startswith("pip ") and margin + len(part) > width >= 2 + len(part):
                # A command can be copied: it stays in one piece, nearer to the margin.
                if first:
                    yield head.rstrip()
                    first = False
                lines, indent = [part], width - len(part)
            else:
                lines, indent = textwrap.wrap(part, max(width - margin, 12), break_on_hyphens=False) or [""], margin
            for line in lines:
                yield f"{head if first else ' ' * indent}{line}".rstrip()
                first = False


def _marked(line: str) -> str:
    """A line of the report in colours: its status, and what heads a section."""
    word = line.split("  ")[1] if line.startswith("  ") and len(line.split("  ")) > 1 else ""
    if line and not line.startswith(" "):
        return f"\x1b[1m{line}\x1b[0m"
    if word in _COLOURS and word:
        return line.replace(word, f"\x1b[{_COLOURS[word]}m{word}\x1b[0m", 1)
    return line
