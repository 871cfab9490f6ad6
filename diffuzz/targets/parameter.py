"""Parameters: the settings of a question that a user may change. They are checked before anything runs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs

from diffuzz.cases import domain

# Values by parameter name. They are Any because a value is an int, float, bool or str, as the default of its parameter
# is: the type of p["n"] depends on the name, which no type of a mapping with open names can say.
Params: TypeAlias = Mapping[str, Any]


class ParameterError(ValueError):
    """An unknown parameter, or a value outside its range or choices; the message is one line."""


@attrs.frozen
class Parameter:
    """A parameter of a question: its name, default value, range or choices, and meaning (``help``).

    The type of ``default`` is the type of the parameter. ``low`` and ``high`` are inclusive. ``choices`` may be a
    function that returns them, for names that can be registered at any time (see diffuzz.registry); ``accepts`` then
    says whether a value is one of them without making them all. ``later`` marks a parameter that a target did not have
    from the beginning: a corpus entry without it is older, and means the default. ``names`` is for what lies in a file:
    it gives, for the file that a user names, what is written down, and raises ParameterError.
    """

    name: str
    default: int | float | bool | str
    help: str
    low: float | None = attrs.field(default=None, kw_only=True)
    high: float | None = attrs.field(default=None, kw_only=True)
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] = attrs.field(default=(), kw_only=True)
    accepts: Callable[[str], bool] | None = attrs.field(default=None, kw_only=True)
    later: bool = attrs.field(default=False, kw_only=True)
    names: Callable[[str], str] | None = attrs.field(default=None, kw_only=True)

    @property
    def options(self) -> tuple[str, ...]:
        """The current choices; empty if every value in range is admissible."""
        return self.choices() if callable(self.choices) else self.choices

    def meaning(self, option: str) -> str:
        """What ``help`` says of a choice, in a help of the form ``one: this | another: that``; "" in others."""
        said = (part.strip().partition(": ") for part in self.help.split(" | "))
        return next((text for name, _, text in said if name == option), "")

    def parse(self, value: object) -> int | float | bool | str:
        """``value`` (text or number) as the parameter's type.

        Raises ParameterError for text that is no such value, and for a value outside the range or the choices.
        """
        if self.names is not None:
            return self.names(str(value))
        parsed = _converted(type(self.default), value)
        if parsed is None:
            kind = type(self.default)
            wanted = "true or false" if kind is bool else {int: "a whole number", float: "a number"}.get(kind, "text")
            raise ParameterError(f"parameter {self.name}={value!s}: {wanted} is needed")
        if self.choices and not (parsed in self.options if self.accepts is None else self.accepts(str(parsed))):
            raise ParameterError(f"parameter {self.name}={value!s}: one of {', '.join(self.options)} is needed")
        low, high = self.low, self.high
        if isinstance(parsed, (int, float)) and not isinstance(parsed, bool):
            below, above = low is not None and not parsed >= low, high is not None and not parsed <= high
            if below or above or not math.isfinite(parsed):
                raise ParameterError(
                    f"parameter {self.name}={value!s} is out of range: "
                    f"{-math.inf if low is None else low:g} <= {self.name} <= {math.inf if high is None else high:g}"
                )
        return parsed


def _converted(kind: type, value: object) -> int | float | bool | str | None:
    """``value`` as a value of type ``kind``, or None if it is not one."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is str:
            return str(value)
        if isinstance(value, (str, int, float)):
            number = float(value)
            if kind is float:
                return number
            whole = int(value) if isinstance(value, str) else int(number)
            return whole if whole == number else None
    except (ValueError, KeyError, OverflowError):
        pass
    return None


def parsed(
    owner: str, parameters: Sequence[Parameter], declared: Sequence[Parameter], given: Mapping[str, object]
) -> Params:
    """The values of all ``parameters``: the given ones parsed and checked, the others at their defaults; read-only.

    ``declared`` are all parameters of the target ``owner``. A given parameter that is declared but not among
    ``parameters`` is checked and left out. Restrictions of the domain (see diffuzz.cases.domain) come last, by name.
    Raises ParameterError for an unknown name or a value out of range.
    """
    known = {parameter.name: parameter for parameter in declared}
    checked, restrictions = {}, {}
    for name, value in given.items():
        if domain.is_domain(name):
            try:
                restrictions[name] = domain.parsed(name, value)
            except domain.DomainError as error:
                raise ParameterError(str(error)) from error
            continue
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ParameterError(f"target {owner} has no parameter {name!r} (it has {', '.join(known)}){hint}")
        checked[name] = known[name].parse(value)
    values = {one.name: checked[one.name] if one.name in checked else one.parse(one.default) for one in parameters}
    return MappingProxyType(values | dict(sorted(restrictions.items())))
