"""Where the tokens of a run stand: their positions, and those of the keys that they attend to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


@attrs.frozen(eq=False)
class Sequence:
    """n tokens at ``positions``, after ``past`` tokens whose keys and values are in a cache (at 0..past-1)."""

    tokens: Int32[np.ndarray, " n"]
    positions: Int32[np.ndarray, " n"]
    past: int = 0

    @property
    def keys(self) -> Int32[np.ndarray, " keys"]:
        """Positions of the keys: those of the cache, and those of the tokens."""
        return np.concatenate((np.arange(self.past, dtype=np.int32), self.positions))

    def visible(self, window: int | None) -> Bool[np.ndarray, "n keys"]:
        """Which keys a token attends to: none of a later position, and with a window w only those less than w before
        it.
        """
        apart: np.ndarray = self.positions[:, None].astype(np.int64) - self.keys[None, :]
        seen = apart >= 0
        return np.asarray(seen if window is None else seen & (apart < window))


def of_tokens(tokens: Int32[np.ndarray, " n"] | list[int] | tuple[int, ...], *, past: int = 0) -> Sequence:
    """Tokens one after the other, from position 0 on, or after ``past`` tokens in a cache."""
    array = np.asarray(tokens, np.int32)
    return Sequence(array, np.arange(past, past + len(array), dtype=np.int32), past)
