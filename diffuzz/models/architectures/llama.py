"""llama: Llama 1 to 3, Mistral, SmolLM and what else goes by that name."""

from __future__ import annotations

import math

from diffuzz.models.architectures import decoder
from diffuzz.models.architectures.decoder import Decoder
from diffuzz.models.model import Model
from diffuzz.models.step import Step


def steps(model: Model, past: bool) -> tuple[Step, ...]:
    """Pairs of rope lie side by side; SwiGLU. Raises ModelError."""
    base = decoder.base_of(model)
    scale = 1 / math.sqrt(decoder.sizes(model).head)
    return decoder.stacked(model, Decoder(decoder.layout_of(model, "norm"), "silu", scale, lambda layer: base), past)
