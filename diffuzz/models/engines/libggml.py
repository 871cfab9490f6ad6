"""Our own pass with what the real ggml library computes: products, norms, softmax, rope and gated activations.

    run("model.gguf", [1780, 314, 216])                        # the library of the package ggml-python
    run("model.gguf", [1780, 314, 216], library="build/bin")   # another build

Scores of attention, the sum of values, residuals and biases are NumPy's, in float32, as are rotations of some elements
of a head only.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Several
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.kernels import libggml
from diffuzz.kernels.libggml import Library
from diffuzz.kernels.names import MissingKernelsError
from diffuzz.kernels.process.worker import RowsFailedError
from diffuzz.models import running
from diffuzz.models.engines import EngineError, MissingEngineError
from diffuzz.models.operations.attention import Probs
from diffuzz.models.operations.glu import Glu
from diffuzz.models.operations.norm import Norm
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.rope import Rope
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Estimate, Operation, Step

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

    from diffuzz.models.dump import Dump

# Bytes of rows of weights that are handed to the library at a time.
_AT_ONCE = 1 << 26
_Compute = Callable[[Several[np.ndarray], Sequence], np.ndarray]


def run(
    model: Path,
    tokens: Several[int],
    *,
    patch: Dump | None = None,
    batches: Several[int] = (),
    library: str = "",
) -> Dump:
    """The dump of a run over ``tokens``, in which each tap of ``patch`` replaced its own.

    Raises EngineError, and MissingEngineError where ggml-python is not installed.
    """
    try:
        build = libggml.native.at(library) if library else libggml.native
        return running.run(
            "libggml", model, tokens, arithmetic="ggml", patch=patch, batches=batches,
            replaced=lambda steps: _replaced(steps, build),
        )  # fmt: skip
    except (MissingKernelsError, ImportError) as error:
        raise MissingEngineError(f"engine libggml: {error}") from error
    except RowsFailedError as error:
        raise EngineError(f"engine libggml: {error}") from error
    except EngineError:
        raise
    except ValueError as error:
        raise EngineError(f"engine libggml: {error}") from error


@attrs.frozen(eq=False)
class _ByLibrary:
    """An operation whose value is the library's."""

    operation: Operation
    compute: _Compute

    @property
    def arithmetics(self) -> tuple[str, ...]:
        return self.operation.arithmetics

    def value(self, inputs: Several[np.ndarray], arithmetic: str, sequence: Sequence) -> np.ndarray:
        return self.compute(inputs, sequence)

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, " ..."]],
        errors: Several[Float64[np.ndarray, " ..."] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, " ..."] | None,
    ) -> Estimate:
        return self.operation.estimate(inputs, errors, arithmetic, sequence, got)


def _replaced(steps: tuple[Step, ...], library: Library) -> tuple[Step, ...]:
    found = [(step, _compute(step.operation, library)) for step in steps]
    return tuple(
        step if compute is None else attrs.evolve(step, operation=_ByLibrary(step.operation, compute))
        for step, compute in found
    )


def _compute(operation: Operation, library: Library) -> _Compute | None:
    """How the library computes an operation; None if it does not."""
    if isinstance(operation, Product):
        product = operation
        return lambda inputs, sequence: _product(product, library, inputs[0])
    if isinstance(operation, Norm):
        norm = operation
        return lambda inputs, sequence: _by_rows(
            inputs[0], len(norm.gain), lambda rows: library.rms_norm(rows, norm.eps, norm.gain)
        )
    if isinstance(operation, Glu):
        if operation.activation == "silu":
            return lambda inputs, sequence: library.swiglu(inputs[0], inputs[1])
        return lambda inputs, sequence: library.gelu(inputs[0]) * inputs[1]
    if isinstance(operation, Probs):
        probs = operation
        return lambda inputs, sequence: _softmax(probs, library, inputs[0], sequence)
    if isinstance(operation, Rope) and operation.dimensions == operation.size and operation.scale == 1:
        rope = operation
        return lambda inputs, sequence: library.rope(
            inputs[0].reshape(len(inputs[0]), rope.heads, rope.size),
            sequence.positions, rope.base, rope.layout, rope.factors,
        ).reshape(inputs[0].shape)  # fmt: skip
    return None


def _product(product: Product, library: Library, x: Float32[np.ndarray, "n k"]) -> Float32[np.ndarray, "n rows"]:
    blocks = product.weight.blocks()
    step = max(1, _AT_ONCE // max(1, len(x) * blocks.shape[1]))
    made = np.concatenate([
        library.vec_dot(product.weight.format, blocks[start : start + step], x).T
        for start in range(0, len(blocks), step)
    ], axis=1)  # fmt: skip
    return made if product.bias is None else made + product.bias


def _by_rows(x: np.ndarray, width: int, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return compute(np.ascontiguousarray(x.reshape(-1, width))).reshape(x.shape)


def _softmax(probs: Probs, library: Library, scores: np.ndarray, sequence: Sequence) -> np.ndarray:
    hidden = np.where(sequence.visible(probs.window), np.float32(0), np.float32(-np.inf))
    mask = np.broadcast_to(hidden, scores.shape).reshape(-1, scores.shape[-1])
    return _by_rows(scores, scores.shape[-1], lambda rows: library.soft_max(rows, mask, probs.scale))
