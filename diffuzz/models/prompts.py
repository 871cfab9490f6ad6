r"""Two arithmetics after many prompts: the logits of the last token on the APR path, and on ggml's, some of them moved.

    pair = pair_of(model)
    after = pair.after(tokens)                      # Logits of int32[b, n]: apr [b, V], ggml [b, r, V]
    past = pair.past(tokens[0, :5])                 # keys and values of both paths
    pair.after(others, past=past)                   # the same for prompts that begin with these five

**Replicates.** ggml's path rounds activations to 8 bits, so its result is a step function of the embeddings: one that
moved by its last bit may turn a code, and after thirty layers the logits are others. What such a move does away with is
noise. So a prompt is looked at in replicates, in each of which every number of the embeddings is its neighbour above or
below; which one is fixed by the replicate, the position and the place. The APR path moves by 1e-6 of itself, so it runs
once.

**Prefixes.** Keys and values of a prefix do not depend on what follows, in either arithmetic. Sums are NumPy's, whose
order depends on the number of rows; so a prompt alone, in a batch, and after a cached prefix has the same logits on the
APR path to within its rounding, and on ggml's to within its noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Several
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models import architectures, blas, forward
from diffuzz.models.architectures import decoder
from diffuzz.models.model import Model
from diffuzz.models.operations.product import Product
from diffuzz.models.sequence import Sequence, of_tokens
from diffuzz.models.step import Step

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int32

REPLICATES = 8
_PATHS = ("apr", "ggml")
# Tokens that run at a time, all replicates counted: their widest activations take a few MiB.
TOKENS_AT_ONCE = 256


@attrs.frozen(eq=False)
class Past:
    """A prefix that was run: its tokens, and by path the keys and values of each layer.

    Arrays of the APR path are [n, G c], those of ggml's [r, n, G c], for the ``replicates`` r in their order.
    """

    tokens: Int32[np.ndarray, " n"]
    replicates: tuple[int, ...]
    taps: Mapping[str, Mapping[str, np.ndarray]]


@attrs.frozen(eq=False)
class Logits:
    """The logits after each of b prompts: ``apr`` float32[b, V], ``ggml`` float32[b, r, V]."""

    apr: Float32[np.ndarray, "b V"]
    ggml: Float32[np.ndarray, "b r V"]


@attrs.frozen(eq=False)
class Pair:
    """Both paths of one model; see the module. ``vocabulary`` and ``context`` are what its file says."""

    vocabulary: int
    context: int
    _first: tuple[Step, ...]
    _following: tuple[Step, ...]
    _weights: forward.Weights

    def past(self, tokens: Int32[np.ndarray, " n"], replicates: Several[int] = (0,), after: Past | None = None) -> Past:
        """Keys and values of a prefix, which begins with that of ``after`` and goes on with ``tokens``."""
        replicates = tuple(replicates)

        def run(path: str) -> dict[str, np.ndarray]:
            return self._run(path, tokens[None], replicates, after)[1]

        with blas.one_thread(), ThreadPoolExecutor(1) as other:
            waiting = other.submit(run, "apr")
            taps = {"ggml": run("ggml"), "apr": waiting.result()}
        whole = tokens if after is None else np.concatenate((after.tokens, tokens))
        return Past(whole, replicates, taps)

    def after(
        self, tokens: Int32[np.ndarray, "b n"], replicates: Several[int] = (0,), past: Past | None = None
    ) -> Logits:
        """The logits after ``tokens``, which follow those of ``past``; that has to have the same replicates."""
        replicates = tuple(replicates)

        def run(path: str) -> np.ndarray:
            runs = 1 if path == "apr" else len(replicates)
            rows = max(1, TOKENS_AT_ONCE // (tokens.shape[1] * runs))
            parts = [tokens[start : start + rows] for start in range(0, len(tokens), rows)]
            return np.concatenate([self._run(path, part, replicates, past)[0] for part in parts])

        with blas.one_thread(), ThreadPoolExecutor(1) as other:
            waiting = other.submit(run, "apr")
            ggml = run("ggml")
            return Logits(waiting.result()[:, 0], ggml)

    def exact(self, tokens: Int32[np.ndarray, " n"]) -> Float64[np.ndarray, " V"]:
        """The logits after one prompt in float64."""
        *_, (_, logits) = forward.run(self._first, of_tokens(tokens), "exact", weights=self._weights)
        return np.asarray(logits[-1])

    def _run(
        self, path: str, tokens: Int32[np.ndarray, "b n"], replicates: tuple[int, ...], past: Past | None
    ) -> tuple[Float32[np.ndarray, "b r V"], dict[str, np.ndarray]]:
        """The logits of the last token, and all keys and values of the first prompt, those of ``past`` before."""
        before = 0 if past is None else len(past.tokens)
        steps = self._first if past is None else self._following
        n = tokens.shape[1]
        sequence = Sequence(tokens[0], np.arange(before, before + n, dtype=np.int32), before)
        embedded = self._embedded(tokens)[:, None]
        if path != "apr":
            embedded = np.stack([moved(embedded[:, 0], replicate, before) for replicate in replicates], axis=1)
        given = {} if past is None else dict(past.taps[path])
        made: dict[str, np.ndarray] = {}
        last = None
        for step, result in forward.run(
            steps[:-2], sequence, path, weights=self._weights, taps={steps[0].tap: embedded, **given}
        ):
            if step.op in ("k_rope", "v"):
                made[step.tap.replace("k_rope", "k") + "_past"] = result[0] if path != "apr" else result[0, 0]
            last = result
        assert last is not None
        norm, head = steps[-2:]
        assert isinstance(head.operation, Product)
        normed = norm.operation.value((np.ascontiguousarray(last[..., -1, :]),), "f32", sequence).astype(np.float32)
        arithmetic = forward.arithmetic_of(head, path)
        logits = self._weights.multiplied(head.operation, normed, arithmetic, sequence)
        if given:
            made = {name: np.concatenate((given[name], array), axis=-2) for name, array in made.items()}
        return logits, made

    def _embedded(self, tokens: Int32[np.ndarray, "b n"]) -> Float32[np.ndarray, "b n d"]:
        value = self._first[0].operation.value((), "f32", of_tokens(tokens.reshape(-1)))
        return value.astype(np.float32).reshape(*tokens.shape, -1)


def pair_of(model: Model) -> Pair:
    """Both paths of a model. Raises ModelError for one that is not supported."""
    size = decoder.sizes(model)
    return Pair(
        size.vocabulary,
        size.context,
        architectures.steps(model),
        architectures.steps(model, past=True),
        forward.Weights(),
    )


def moved(x: Float32[np.ndarray, "b n d"], replicate: int, before: int) -> Float32[np.ndarray, "b n d"]:
    """Each number its neighbour above or below, by the bits of a generator that is the same everywhere."""
    n, d = x.shape[1:]
    up = np.stack([_bits(replicate, before + position, d) for position in range(n)])
    return np.asarray(np.nextafter(x, np.where(up, np.float32(np.inf), np.float32(-np.inf))))


def _bits(replicate: int, position: int, count: int) -> np.ndarray:
    raw = np.random.Philox(key=np.array([replicate, position], np.uint64)).random_raw(-(-count // 64))
    return np.unpackbits(raw.astype("<u8").view(np.uint8))[:count].astype(bool)


def divergence(
    p: Float[np.ndarray, "... V"], q: Float[np.ndarray, "... V"], dtype: type = np.float64
) -> Float[np.ndarray, " ..."]:
    """KL(p || q) in nats, of the distributions that logits stand for; computed in ``dtype``."""
    a, b = _log_softmax(p.astype(dtype)), _log_softmax(q.astype(dtype))
    return np.asarray(np.maximum((np.exp(a) * (a - b)).sum(axis=-1), 0.0))


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)))


def flip(p: Float[np.ndarray, "... V"], q: Float[np.ndarray, "... V"]) -> Float[np.ndarray, " ..."]:
    r"""By how much two sets of logits disagree on the first token: max_j min(p_i - p_j, q_j - q_i), i the first of p.

    It is positive if q has another first token, and then both sides have at least this margin for theirs against the
    other's; if both have the same, it is how far the nearest one is from being the first of q, as a negative number.
    """
    p, q = (np.asarray(each, np.float64) for each in np.broadcast_arrays(p, q))
    first = p.argmax(axis=-1)[..., None]
    margins = np.minimum(np.take_along_axis(p, first, -1) - p, q - np.take_along_axis(q, first, -1))
    np.put_along_axis(margins, first, -np.inf, -1)
    return np.asarray(margins.max(axis=-1))
