"""A model for the claims about one: opened, checked, and what several claims need of it, computed once.

    subject = model.opened(Path("model.gguf"))
    subject.downs              the ffn_down weights by layer: those in a block format
    subject.blocks             the drifts of every block of every tensor
    subject.passes             what its passes have at the taps that the claims are about

The claims were published about q4_K weights. Here the blocks are those of the model's own formats, and the activation
is the ramp around the middle of a block, which for 256 weights is the published ramp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models import running, scanning
from diffuzz.models import sequence as sequences
from diffuzz.models.model import NUMBERS, Model, ModelError, Tensor, block_of
from diffuzz.models.operations.embedding import Embedding
from diffuzz.models.operations.product import Product
from diffuzz.models.running import Opened
from diffuzz.models.scanning import Scanned
from diffuzz.models.sequence import Sequence as TokenSequence
from diffuzz.models.step import Step
from diffuzz.studies.claims import passes
from diffuzz.studies.claims.passes import Passes
from diffuzz.studies.claims.reproductions import Figures
from diffuzz.targets.outcome import Bound
from diffuzz.targets.published import ramp

if TYPE_CHECKING:
    from jaxtyping import Float32

# The tokens of the published prompt: so many, if nobody says which.
TOKENS = 7


class ClaimError(ValueError):
    """A model file that cannot be read, or does not have the tensor of a claim: one line that begins with its path."""


@attrs.frozen
class Answer:
    """What a model says of a claim: figures, the value that is held against the threshold, the measure in words, and
    the proven bound of the value, if there is one.
    """

    figures: Figures
    found: float
    measure: str
    bound: Bound | None = None


@attrs.frozen(eq=False)
class Blocks:
    """The drifts of all blocks of a tensor with the ramp: ``relative`` by block, NaN in one that is not finite."""

    scanned: Scanned
    relative: Float32[np.ndarray, " blocks"]


@attrs.frozen(eq=False, slots=False)  # cached properties need a place of their own
class Subject:
    """A model, checked, and the tokens that it runs over; see the module."""

    path: Path
    opened: Opened
    tokens: TokenSequence
    downs: Mapping[int, Tensor]

    @property
    def model(self) -> Model:
        return self.opened.model

    @cached_property
    def blocks(self) -> Mapping[str, Blocks]:
        """By tensor, those in a block format."""
        found = {}
        for scanned in scanning.scanned(self.model, ramp_of):
            if scanned.normalised is not None:
                tensor = self.model.tensors[scanned.name]
                x = ramp_of(block_of(tensor.format)[0])
                found[scanned.name] = Blocks(scanned, scanning.drifts(tensor, x).relative)
        return found

    @cached_property
    def passes(self) -> Passes:
        """Its passes over the tokens."""
        return passes.taken(self.opened, self.tokens)


def ramp_of(n: int) -> Float32[np.ndarray, " n"]:
    """The published ramp around the middle of n elements."""
    return ramp(n, c=n // 2)


def opened(path: Path, tokens: Sequence[int] | None = None, *, seed: int = 0) -> Subject:
    """The model at ``path``, to be run over ``tokens``, or over 7 tokens that the seed chooses.

    Raises ClaimError for a file that is no model, an architecture that is not supported, a model without ffn_down
    weights in a block format, and tokens that it does not have.
    """
    try:
        found = running.opened(path)
        for step in found.steps:
            _check(step)
        return Subject(path, found, _sequence(found.model, tokens, seed), _downs(found.model))
    except FileNotFoundError:
        raise ClaimError(f"{path}: there is no such file") from None
    except ModelError as error:
        raise ClaimError(f"{path}: {error}") from error
    except OSError as error:
        raise ClaimError(f"{path}: cannot be opened: {error.strerror or error}") from error


def _check(step: Step) -> None:
    operation = step.operation
    if isinstance(operation, Product | Embedding):
        tensor = operation.weight if isinstance(operation, Product) else operation.table
        if not scanning.supported(tensor):
            raise ModelError(f"{tensor.name} is {tensor.format}, which cannot be multiplied here")


def _downs(model: Model) -> dict[int, Tensor]:
    layers = range(int(model.number("block_count")))
    tensors = {layer: model.tensors[f"blk.{layer}.ffn_down.weight"] for layer in layers}
    found = {layer: tensor for layer, tensor in tensors.items() if tensor.format not in NUMBERS}
    if not found:
        kinds = ", ".join(sorted({tensor.format for tensor in tensors.values()}))
        raise ModelError(f"its ffn_down weights are {kinds}: the claims are about weights in blocks, such as q4_K")
    return found


def _sequence(model: Model, tokens: Sequence[int] | None, seed: int) -> TokenSequence:
    rows = model.tensors["token_embd.weight"].rows
    if tokens is None:
        count = min(TOKENS, int(model.number("context_length", TOKENS)))
        return sequences.of_tokens(np.random.default_rng(seed).integers(0, rows, count).astype(np.int32))
    outside = [token for token in tokens if not 0 <= token < rows]
    if outside:
        raise ModelError(f"token {outside[0]} is none: the model's vocabulary has 0 to {rows - 1}")
    return sequences.of_tokens(list(tokens))


def formats_of(tensors: Iterable[Tensor]) -> str:
    """The formats of some tensors, and how many have each: "q4_K (16), q5_0 (14)"; of one alone, its name."""
    kinds = [tensor.format for tensor in tensors]
    found = sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind))
    return found[0] if len(found) == 1 else ", ".join(f"{kind} ({kinds.count(kind)})" for kind in found)
