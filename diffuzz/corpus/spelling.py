"""How commands, durations and numbers are written down, for whoever writes or reads them: the command line, entries of
the corpus, and campaigns. It loads nothing heavy, because --help does not either.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping

_UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
# Seconds: eleven days.
LONGEST = 1e6


def command_line(*words: object) -> str:
    """A command of diffuzz as it is typed into a shell."""
    return shlex.join(("python", "-m", "diffuzz", *map(str, words)))


def given_words(settings: Iterable[tuple[str, str]], others: Mapping[str, str | None]) -> list[str]:
    """The words of a command that give these parameters, and those ``others`` of its options that have a value."""
    from diffuzz.cases import domain

    words = [word for key, value in dict(settings).items() for word in domain.option(key, value)]
    return words + [word for name, value in others.items() if value is not None for word in (f"--{name}", value)]


def seconds(text: object) -> float:
    """A duration above zero, at most LONGEST: 10s, 500ms, 2min, 1h, or a number of seconds. Raises ValueError."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(ms|s|m|min|h|)", str(text).strip())
    if isinstance(text, bool) or found is None or not 0 < (number := float(found[1]) * _UNITS[found[2]]) <= LONGEST:
        raise ValueError(f"{text!r} is not a duration above zero; 10s, 500ms, 2min or 1h are")
    return number


def json_number(value: float) -> float | str:
    """A number for JSON, which has no infinities: those are the strings "inf", "-inf", "nan"."""
    return value if math.isfinite(value) else str(value)
