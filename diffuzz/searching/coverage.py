"""What a search that judges implementations has looked at: sizes of dimensions, and numbers of cases in a call."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from diffuzz.cases import sizes
from diffuzz.cases.space import Dim


@attrs.frozen
class Coverage:
    """``sizes`` are those of each dimension, by name, and as ``b`` the numbers of cases in one call."""

    sizes: Mapping[str, frozenset[int]] = attrs.field(factory=dict)

    def of_models(self, dim: Dim) -> tuple[int, int]:
        """How many of the sizes that models have were looked at, and how many there are."""
        return self._share(dim, sizes.of_models(dim))

    def edges(self, dim: Dim) -> tuple[int, int]:
        """The same of powers of two and their neighbours."""
        return self._share(dim, sizes.edges(dim))

    def _share(self, dim: Dim, wanted: list[int]) -> tuple[int, int]:
        return len(self.sizes.get(dim.name, frozenset()) & set(wanted)), len(wanted)
