"""qwen2: Qwen 2 and 2.5."""

from __future__ import annotations

import math

from diffuzz.models.architectures import decoder
from diffuzz.models.architectures.decoder import Decoder
from diffuzz.models.model import Model
from diffuzz.models.step import Step


def steps(model: Model, past: bool) -> tuple[Step, ...]:
    """Pairs of rope lie in the halves of a head; q, k and v have biases; SwiGLU. Raises ModelError."""
    base = decoder.base_of(model)
    scale = 1 / math.sqrt(decoder.sizes(model).head)
    return decoder.stacked(model, Decoder(decoder.layout_of(model, "neox"), "silu", scale, lambda layer: base), past)
