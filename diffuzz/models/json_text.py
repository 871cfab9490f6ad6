"""JSON of others: a limited length, depth and number of values, so that parsing takes little time and memory, and
nothing that is not JSON (NaN, Infinity).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

from diffuzz.models.mapped import shown
from diffuzz.models.model import ModelError

# Bytes, and characters that part or open values. While it is parsed, text takes up to 4 times its bytes, twice, and a
# value less than 100 bytes for each such character: in all less than 64 MB beyond the text. The largest vocabulary with
# its merges that is kept in JSON has some 300 000 words.
LONGEST, MOST_SEPARATORS = 6 * 2**20, 3 * 2**17
# Digits of a whole number; those of a u64 have 20.
_MOST_DIGITS = 20


def parsed(raw: bytes, what: str, *, repeated: bool = False) -> dict[str, Any]:
    """The object that ``raw`` holds; where a key is ``repeated`` the last one counts, if that is allowed.

    Raises ModelError.
    """
    if len(raw) > LONGEST:
        raise ModelError(f"{what} has {len(raw)} bytes: at most {LONGEST} can be read")
    separators = sum(map(raw.count, (b",", b":", b"[", b"{")))
    if separators > MOST_SEPARATORS:
        raise ModelError(f"{what} has {separators} commas, colons and brackets: at most {MOST_SEPARATORS} can be read")
    hook: Callable[[list[tuple[str, Any]]], dict[str, Any]] = dict if repeated else _unique
    try:
        found = json.loads(raw.decode(), object_pairs_hook=hook, parse_constant=_no_constant, parse_int=_whole_number)
    except RecursionError:
        raise ModelError(f"{what} is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ModelError(f"{what} is not UTF-8 (its byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ModelError(f"{what} is not JSON, or cut short ({error.msg}, its character {error.pos})") from None
    if not isinstance(found, dict):
        raise ModelError(f"{what} is no JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ModelError(f"it has two keys {shown(key)}")
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise ModelError(f"it has the number {name}, which JSON does not have")


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS + 1:
        raise ModelError(f"it has a whole number of {len(digits)} digits")
    return int(digits)
