"""Our own pass in float32 with dequantised weights and activations as they are, as in the APR path of aprender."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffuzz.models import running

if TYPE_CHECKING:
    from diffuzz.models.dump import Dump


def run(model: Path, tokens: Sequence[int], *, patch: Dump | None = None, batches: Sequence[int] = ()) -> Dump:
    """The dump of a run over ``tokens``, in which each tap of ``patch`` replaced its own. Raises EngineError."""
    return running.run("apr", model, tokens, arithmetic="apr", patch=patch, batches=batches)
