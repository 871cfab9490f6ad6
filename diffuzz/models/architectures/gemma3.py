"""gemma3: the text models of Gemma 3."""

from __future__ import annotations

import math

from diffuzz.models.architectures import decoder
from diffuzz.models.architectures.decoder import Decoder
from diffuzz.models.model import Model
from diffuzz.models.step import Step

# Every sixth layer attends to all keys, unless the file says otherwise.
_PATTERN = 6
_LOCAL_BASE = 1e4
# The model of 27 billion parameters, which scales scores by the width of a head that the width would give.
_LAYERS_OF_27B = 62


def steps(model: Model, past: bool) -> tuple[Step, ...]:
    """Norms of each head of q and k and after attention and network; local layers with a window and a base of their
    own; GeGLU; the embedding times the root of the width. Raises ModelError.
    """
    size = decoder.sizes(model)
    pattern = decoder.whole(model, "attention.sliding_window_pattern", _PATTERN)
    window = decoder.whole(model, "attention.sliding_window")
    base = decoder.base_of(model)
    local = float(model.number("rope.freq_base_swa", _LOCAL_BASE)), 1.0

    def is_local(layer: int) -> bool:
        return layer % pattern < pattern - 1

    width = size.width / size.heads if size.layers == _LAYERS_OF_27B else size.head
    made = Decoder(
        layout=decoder.layout_of(model, "neox"),
        activation="gelu",
        attention=1 / math.sqrt(width),
        base=lambda layer: local if is_local(layer) else base,
        window=lambda layer: window if is_local(layer) else None,
        head_norms=True,
        post_norms=True,
        scale=math.sqrt(size.width),
    )
    return decoder.stacked(model, made, past)
