"""Our own pass in float64: what a run would be without rounding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffuzz.models import running

if TYPE_CHECKING:
    from diffuzz.models.dump import Dump


def run(model: Path, tokens: Sequence[int], *, patch: Dump | None = None, batches: Sequence[int] = ()) -> Dump:
    """The dump of a run over ``tokens``, in which each tap of ``patch`` replaced its own. Raises EngineError."""
    return running.run("exact", model, tokens, arithmetic="exact", patch=patch, batches=batches)
