"""Differing: in what the arithmetic of two implementations differs, as far as their fingerprints show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from diffuzz import kernels
from diffuzz.fingerprinting import box
from diffuzz.fingerprinting.fingerprint import Fingerprint, fingerprint
from diffuzz.fingerprinting.reading import Sizes
from diffuzz.judging.question import CANDIDATE, Judge
from diffuzz.targets.target import Target

# Summands of sums that are compared, and of products of the formats whose blocks are longer; sums in a call.
_LENGTH, _LONGER, _ROWS = 256, 1280, 16
_EXACT = "exact"
_NOT_SEEN = "not seen"


def differences(a: Fingerprint, b: Fingerprint) -> dict[str, tuple[str, str]]:
    """The fields in which they differ, with what each has; "not seen" where one has none."""
    one, other = a.fields, b.fields
    names = [*one, *(name for name in other if name not in one)]
    found = {name: (one.get(name, _NOT_SEEN), other.get(name, _NOT_SEEN)) for name in names}
    found = {name: pair for name, pair in found.items() if pair[0] != pair[1]}
    # A quantiser of another name rounds, or stores its scales, otherwise.
    return {name: pair for name, pair in found.items() if name != "quantiser" or "activations" not in found}


def why(a: Fingerprint, b: Fingerprint) -> str:
    """In what they differ, in one line."""
    found = differences(a, b)
    return "; ".join(f"{name}: {one} | {other}" for name, (one, other) in found.items()) or "nothing that shows"


def fingerprints(
    target: Target,
    given: Mapping[str, object],
    names: Iterable[str],
    library: str | None = None,
    candidate: Judge | None = None,
) -> tuple[dict[str, Fingerprint], dict[str, str]]:
    """The fingerprints of kernels and of a candidate, by name, and why there are none of others; ``exact`` is left out,
    as it does not round.
    """
    found, missing = {}, {}
    params = target.contract_params(given)
    for name in names:
        if name == _EXACT:
            continue
        try:
            if name == CANDIDATE and candidate is not None:
                opened = box.opened(
                    target, params, candidate.implementation, timeout=candidate.timeout, given=candidate.handing
                )
            else:
                opened = box.of_kernels(target, params, kernels.located(name, library))
            with opened:
                length = _LONGER if str(params.get("format", "")).endswith("_K") else _LENGTH
                found[name] = fingerprint(opened, Sizes(length, _ROWS))
        except ValueError as error:
            missing[name] = str(error)
    return found, missing


def explained(found: Mapping[str, Fingerprint], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each pair of which both have a fingerprint."""
    return [f"{a} and {b} differ in {why(found[a], found[b])}." for a, b in pairs if a in found and b in found]
