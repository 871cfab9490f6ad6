"""The equations of a function in one list: calls are replaced by what they call, and what is computed twice is shared.

jax.numpy wraps many of its functions in calls (pjit, custom_jvp), and several forms of a formula have most of their
equations in common. A rule of error analysis costs as much as the arithmetic, so each equation is walked once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

# Where the parameters of an equation have the function that is called.
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@attrs.define(eq=False)
class Variable:
    """What an equation computes; ``aval`` is its shape and dtype."""

    aval: Any


@attrs.frozen(eq=False)
class Program:
    """A function: ``invars`` are its arguments, ``constvars`` stand for ``consts``, and ``outvars`` are its results.

    ``within`` has the calls, from the outside, that an equation came from, by its id: a message names the line of one.
    """

    constvars: Sequence[Any]
    invars: Sequence[Any]
    outvars: Sequence[Any]
    eqns: Sequence[Any]
    consts: Sequence[Any]
    within: Mapping[int, Sequence[Any]]


def inlined(closed: Any, known: Collection[str]) -> Program:
    """The program of a closed jaxpr. Primitives that are ``known`` stay as they are, and so do calls with constants
    that are none of the jaxpr's.
    """
    maker = _Maker(known)
    jaxpr = closed.jaxpr
    for variable in (*jaxpr.constvars, *jaxpr.invars):
        maker.stands_for[variable] = variable
    maker.add(jaxpr)
    outvars = [maker.read(atom) for atom in jaxpr.outvars]
    needed = list(_needed(maker.equations, outvars))
    consts = [*closed.consts, *maker.consts]
    return Program([*jaxpr.constvars, *maker.constvars], jaxpr.invars, outvars, needed, consts, maker.within)


@attrs.define
class _Maker:
    known: Collection[str]
    equations: list[Any] = attrs.field(factory=list)
    # What a variable of a jaxpr is in the program.
    stands_for: dict[Any, Any] = attrs.field(factory=dict)
    constvars: list[Any] = attrs.field(factory=list)
    consts: list[Any] = attrs.field(factory=list)
    within: dict[int, Sequence[Any]] = attrs.field(factory=dict)
    _calls: list[Any] = attrs.field(init=False, factory=list)
    _computed: dict[object, list[Any]] = attrs.field(init=False, factory=dict)

    def read(self, atom: Any) -> Any:
        return atom if hasattr(atom, "val") else self.stands_for[atom]

    def add(self, jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            operands = [self.read(atom) for atom in equation.invars]
            inner = None if equation.primitive.name in self.known else called(equation.params, len(operands))
            if inner is None:
                results = self._equation(equation, operands)
            else:
                self._calls.append(equation)
                results = self._call(inner, operands)
                self._calls.pop()
            self.stands_for.update(zip(equation.outvars, results, strict=True))

    def _call(self, inner: Any, operands: list[Any]) -> list[Any]:
        jaxpr, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
        for variable, value in zip(jaxpr.constvars, consts, strict=True):
            stand = Variable(variable.aval)
            self.constvars.append(stand)
            self.consts.append(value)
            self.stands_for[variable] = stand
        self.stands_for.update(zip(jaxpr.invars, operands, strict=True))
        self.add(jaxpr)
        return [self.read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, operands: list[Any]) -> list[Any]:
        key = _key(equation, operands)
        if key is not None and key in self._computed:
            return self._computed[key]
        results: list[Any] = [Variable(each.aval) for each in equation.outvars]
        made = equation.replace(invars=operands, outvars=results)
        self.equations.append(made)
        if self._calls:
            self.within[id(made)] = tuple(self._calls)
        if key is not None:
            self._computed[key] = results
        return results


def called(params: Any, operands: int) -> Any:
    """The jaxpr, closed or not, that an equation with these parameters calls with all of its operands; None if none."""
    for key in CALLS:
        inner = params.get(key)
        if inner is not None and len(getattr(inner, "jaxpr", inner).invars) == operands:
            return inner
    return None


def _key(equation: Any, operands: list[Any]) -> object:
    """What two equations have in common that compute the same; None for one that contains a function."""
    if any("jaxpr" in name or callable(value) for name, value in equation.params.items()):
        return None
    atoms = tuple(_literal(atom) if hasattr(atom, "val") else id(atom) for atom in operands)
    return equation.primitive.name, atoms, tuple(sorted((name, repr(value)) for name, value in equation.params.items()))


def _literal(atom: Any) -> tuple[str, str, bytes]:
    value = np.asarray(atom.val)
    return str(atom.aval.dtype), str(value.shape), value.tobytes()


def _needed(equations: Sequence[Any], outvars: Sequence[Any]) -> Iterator[Any]:
    """The equations that results depend on, in order."""
    wanted, kept = {id(atom) for atom in outvars}, []
    for equation in reversed(equations):
        if any(id(variable) in wanted for variable in equation.outvars):
            kept.append(equation)
            wanted |= {id(atom) for atom in equation.invars}
    return iter(reversed(kept))
