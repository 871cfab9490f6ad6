"""Our own pass in ggml's arithmetic: activations quantised to the format that ggml pairs with the weights'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffuzz.models import running

if TYPE_CHECKING:
    from diffuzz.models.dump import Dump


def run(model: Path, tokens: Sequence[int], *, patch: Dump | None = None, batches: Sequence[int] = ()) -> Dump:
    """The dump of a run over ``tokens``, in which each tap of ``patch`` replaced its own. Raises EngineError."""
    return running.run("ggml", model, tokens, arithmetic="ggml", patch=patch, batches=batches)
