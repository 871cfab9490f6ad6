"""One row of the table of claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from diffuzz.studies.claims.reproductions import Figures
from diffuzz.targets.parameter import Params

if TYPE_CHECKING:
    from diffuzz.studies.claims.model import Answer, Subject

# The threshold of the published claims: more than 5x is an amplification.
AMPLIFIES = 5.0


@attrs.frozen
class Row:
    """One claim: what was published, how to reproduce it, and the search that settles it.

    id, claim, published   the published name, the claim in words, and the published figure and verdict
    reproduce              computes the figures of the published input; None for a variant
    target, params         what is searched; a row without a target is about a model
    threshold              the T of "value > T"; None for the default of the target, or of a model: 5
    variant                whether the row asks the claim before it in another measure or on another domain
    from_model(subject)    asks a model
    """

    id: str
    claim: str
    published: str
    reproduce: Callable[[], Figures] | None = None
    target: str | None = None
    params: Params = attrs.field(factory=dict)
    threshold: float | None = None
    variant: bool = attrs.field(default=False, kw_only=True)
    from_model: Callable[[Subject], Answer] | None = attrs.field(default=None, kw_only=True)
