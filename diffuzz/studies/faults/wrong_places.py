"""Faults of what is read and written where: residuals, gates, rows that are stale and numbers that are none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffuzz.models.operations.glu import Glu
from diffuzz.studies.faults.site import Fault, Site

_SUMS = ("ffn_inp", "l_out")
_ANY = ("attn_norm", "q", "k", "v", "attn", "attn_out", "ffn_inp", "ffn_norm", "gate", "up", "glu", "down", "l_out")


def _residual_before(site: Site) -> np.ndarray | None:
    """The residual of a layer before."""
    earlier = [tap for tap in site.taps if tap.endswith(site.step.op) and tap not in site.step.inputs]
    if not earlier:
        return None
    return site.computed((site.taps[earlier[site.below(len(earlier))]], site.inputs[1]))


def _residual_twice(site: Site) -> np.ndarray:
    return site.computed((2 * site.inputs[0], site.inputs[1]))


def _residual_of_network(site: Site) -> np.ndarray | None:
    """The residual before attention, in the place of the one after it."""
    if site.step.op != "l_out":
        return None
    before = site.steps[site.step.inputs[0]].inputs[0]
    return site.computed((site.taps[before], site.inputs[1]))


def _not_added(site: Site) -> np.ndarray:
    """To the residual of one token nothing is added."""
    made = site.computed()
    token = site.token()
    made[token] = site.inputs[0][token]
    return made


def _twice_added(site: Site) -> np.ndarray:
    branch = site.inputs[1].copy()
    branch[site.token()] *= 2
    return site.computed((site.inputs[0], branch))


def _glu(site: Site) -> Glu:
    assert isinstance(site.step.operation, Glu)
    return site.step.operation


def _activation(site: Site) -> np.ndarray:
    return site.computed(operation=Glu("gelu" if _glu(site).activation == "silu" else "silu"))


def _quick(site: Site) -> np.ndarray:
    """x / (1 + exp(-1.702 x)), for gelu or silu."""
    gate, up = site.inputs
    with np.errstate(all="ignore"):
        return np.asarray((gate / (1 + np.exp(-np.float32(1.702) * gate)) * up).astype(np.float32))


def _swapped(site: Site) -> np.ndarray:
    return site.computed(site.inputs[::-1])


def _clipped(site: Site) -> np.ndarray:
    """The activation ends at 1."""
    made = site.computed()
    gate, up = site.inputs
    return np.where(gate > 1.5, np.float32(1) * up, made)


def _stale(site: Site) -> np.ndarray:
    """The row of a token is that of the token before."""
    made = site.computed()
    token = site.token(first=1)
    made[token] = made[token - 1]
    return made


def _unwritten(site: Site) -> np.ndarray:
    """A tile of 16 elements is 0 in all tokens."""
    made = site.computed()
    start = 16 * site.below(made.shape[1] // 16)
    made[:, start : start + 16] = 0
    return made


def _tail_unwritten(site: Site) -> np.ndarray:
    """The last token has the last 4 elements of the token before."""
    made = site.computed()
    made[-1, -4:] = made[-2, -4:]
    return made


def _number(value: float) -> Callable[[Site], np.ndarray]:
    def plant(site: Site) -> np.ndarray:
        made = site.computed()
        made[site.token(), site.below(made.shape[1])] = value
        return made

    return plant


def _uninitialised(site: Site) -> np.ndarray:
    """One element is a number from elsewhere, of the usual size."""
    made = site.computed()
    place = site.token(), site.below(made.shape[1])
    made[place] = made.std() * site.rng.normal()
    return made


def _halved(site: Site) -> np.ndarray:
    """What is stored is rounded to f16."""
    return site.computed().astype(np.float16).astype(np.float32)


def _bit(site: Site) -> np.ndarray:
    """One bit of one mantissa, the seventh from the top, is turned."""
    made = site.computed()
    token, place = site.token(), site.below(made.shape[1])
    made[token : token + 1].view(np.uint32)[0, place] ^= np.uint32(1 << 16)
    return made


def _sliced(site: Site) -> np.ndarray | None:
    """Rows of the first and the last token are exchanged."""
    if site.step.op in _SUMS:
        return None
    made = site.computed()
    made[[0, -1]] = made[[-1, 0]]
    return made


def _off_by_a_place(site: Site) -> np.ndarray:
    """A token's numbers are one place late."""
    made = site.computed()
    token = site.token()
    made[token] = np.roll(made[token], 1)
    return made


FAULTS = (
    Fault("residual of a layer before", _SUMS, _residual_before),
    Fault("residual twice", _SUMS, _residual_twice),
    Fault("residual from before attention", ("l_out",), _residual_of_network),
    Fault("nothing added to one token", _SUMS, _not_added),
    Fault("added twice to one token", _SUMS, _twice_added),
    Fault("the other activation", ("glu",), _activation),
    Fault("x sigmoid(1.702 x)", ("glu",), _quick),
    Fault("gate and up swapped", ("glu",), _swapped),
    Fault("activation ends at 1", ("glu",), _clipped),
    Fault("row of the token before", _ANY, _stale),
    Fault("tile not written", _ANY, _unwritten),
    Fault("last elements of the last token not written", _ANY, _tail_unwritten),
    Fault("a NaN", _ANY, _number(float("nan"))),
    Fault("an infinity", _ANY, _number(float("inf"))),
    Fault("an element not initialised", _ANY, _uninitialised),
    Fault("rounded to f16", _ANY, _halved),
    Fault("a bit turned", _ANY, _bit),
    Fault("first and last row exchanged", _ANY, _sliced),
    Fault("one place late", _ANY, _off_by_a_place),
)
