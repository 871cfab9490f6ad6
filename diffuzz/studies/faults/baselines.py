"""What is used elsewhere: two runs are compared tap by tap, and the first that is too far is blamed.

A run is held against a healthy one of another build or another arithmetic. The thresholds are those in use: a relative
distance of 1e-3, the 5e-4 of ggml's tests (mean squared error over mean square), a cosine of 0.99; or no threshold, and
the tap is blamed at which the distance grows most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from diffuzz.models.step import Step

_RELATIVE, _NMSE, _COSINE = 1e-3, 5e-4, 0.99
# A distance that is less is rounding.
_NOTHING = 1e-7


def _relative(got: np.ndarray, healthy: np.ndarray) -> float:
    apart = np.linalg.norm(got - healthy) / max(float(np.linalg.norm(healthy)), 1e-300)
    return float(np.inf if np.isnan(apart) else apart)


def _cosine(got: np.ndarray, healthy: np.ndarray) -> float:
    size = float(np.linalg.norm(got) * np.linalg.norm(healthy))
    cosine = float(got.reshape(-1) @ healthy.reshape(-1)) / max(size, 1e-300)
    return -1.0 if np.isnan(cosine) else cosine


def _first(
    too_far: Callable[[np.ndarray, np.ndarray], bool],
) -> Callable[[list[tuple[str, np.ndarray, np.ndarray]]], str | None]:
    def blamed(pairs: list[tuple[str, np.ndarray, np.ndarray]]) -> str | None:
        return next((tap for tap, got, healthy in pairs if too_far(got, healthy)), None)

    return blamed


def _jump(pairs: list[tuple[str, np.ndarray, np.ndarray]]) -> str | None:
    grown, before, found = 1.0, _NOTHING, None
    for tap, got, healthy in pairs:
        now = max(_relative(got, healthy), _NOTHING)
        if now / before > grown:
            grown, found = now / before, tap
        before = now
    return found


METHODS: Mapping[str, Callable[[list[tuple[str, np.ndarray, np.ndarray]]], str | None]] = {
    "relative > 1e-3": _first(lambda got, healthy: _relative(got, healthy) > _RELATIVE),
    "NMSE > 5e-4": _first(lambda got, healthy: _relative(got, healthy) ** 2 > _NMSE),
    "cosine < 0.99": _first(lambda got, healthy: _cosine(got, healthy) < _COSINE),
    "largest jump": _jump,
}


def blamed(
    steps: tuple[Step, ...], got: Mapping[str, np.ndarray], healthy: Mapping[str, np.ndarray]
) -> dict[str, str | None]:
    """The tap that each method blames. Scores are left out: masked places may hold anything."""
    with np.errstate(all="ignore"):
        pairs = [
            (step.tap, np.asarray(got[step.tap], np.float64), np.asarray(healthy[step.tap], np.float64))
            for step in steps
            if step.tap in got and step.tap in healthy and step.op != "scores"
        ]
        return {name: method(pairs) for name, method in METHODS.items()}
