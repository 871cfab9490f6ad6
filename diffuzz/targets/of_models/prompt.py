r"""Prompt: the tokens after which two arithmetics of one model differ most.

    P = softmax of the logits after the last token, on the APR path: float32, weights dequantised
    Q_r = the same on ggml's path, activations quantised to 8 bits, with embeddings moved by one ULP as replicate r says

    measure=kl      min_r KL(P || Q_r), in nats
    measure=flip    min_r max_j min(P's margin of its first token over j, Q_r's of j over that token), in logits: above
                    zero if the first token is another one in every replicate

**Replicates.** ggml's path is a step function: the same prompt may have 2 nats, and 0.1 once the embeddings have moved
by their last bit. Such a value shows noise, so the value of a prompt is the least of eight replicates. They are the
same for everyone, and so is the value, up to the order of sums: another BLAS makes another draw of the same noise. A
replay on another machine therefore has the value to within half of it, and on the same one to the bit.

**Bound.** None is known for KL: a logit of 8-bit codes is off by a bound that grows by a factor from layer to layer, so
that nothing useful is left of it after a few.

What has been found in SmolLM2-135M (Q4_1): two to five tokens are worse than many. Between layers 10 and 14 the first
token's residual gets numbers of 20 000 (a massive activation), those of others one of 100. A few tokens lie between:
the last of " tanning eq" gets 2005 on the APR path and 1090 on ggml's, where the two were 5 % apart before. It has 7.5
nats in the least of eight replicates, and 9.1 in llama.cpp; the median random prompt has 0.008.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.models import named, prompts, text
from diffuzz.models.engines import EngineError
from diffuzz.models.model import ModelError
from diffuzz.models.prompts import REPLICATES
from diffuzz.targets.drift import Drift
from diffuzz.targets.of_models.given import MODEL, pair
from diffuzz.targets.outcome import Arrays, Outcome
from diffuzz.targets.parameter import Parameter, ParameterError, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64

PARAMETERS = (
    MODEL,
    Parameter("tokens", 16, "most tokens of the prompt", low=1, high=2**20),
    Parameter("measure", "kl", "kl: KL divergence | flip: margin of another first token", choices=("kl", "flip")),
)
# Far above the noise that is left of a prompt in eight replicates: a tenth of a nat, a tenth of a logit.
THRESHOLD = 0.1


def space(p: Params) -> Space:
    """One to ``tokens`` tokens of the vocabulary."""
    found = pair(p["model"])
    if p["tokens"] > found.context:
        raise ParameterError(
            f"parameter tokens={p['tokens']}: the context of {named.file_of(p['model'])} is {found.context} tokens"
        )
    return Space((TensorSpec("tokens", kind="tokens", shape=(Dim("n", p["tokens"]),), high=found.vocabulary - 1),))


def value(
    p: Params, apr: Float32[np.ndarray, "... V"], ggml: Float32[np.ndarray, "... V"], dtype: type = np.float64
) -> Float[np.ndarray, " ..."]:
    """The measure of one replicate, of logits."""
    return prompts.flip(apr, ggml) if p["measure"] == "flip" else prompts.divergence(apr, ggml, dtype)


def replicates(p: Params, arrays: Arrays) -> Float64[np.ndarray, "b r"]:
    """The measure of each prompt in each replicate. A prompt runs alone, so its sums have one order."""
    rows = []
    for tokens in np.asarray(arrays["tokens"]):
        after = pair(p["model"]).after(tokens[None], range(REPLICATES))
        rows.append(value(p, after.apr[:, None], after.ggml)[0])
    return np.array(rows)


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """The least of the replicates; 0 where one of them has the same first token."""
    least = np.maximum(replicates(p, arrays).min(axis=1), 0.0)
    return Outcome(least, np.zeros(len(least)))


def explain(p: Params, arrays: Arrays) -> Mapping[str, Float64[np.ndarray, " b"]]:
    """The other replicates, and what another evaluation says: the APR path against float64, and the real llama.cpp
    against float64, where it is installed.
    """
    values = replicates(p, arrays)
    shown = {"median": np.median(values, axis=1), "largest": values.max(axis=1)}
    found = pair(p["model"])
    tokens = np.asarray(arrays["tokens"])
    exact = np.stack([found.exact(row) for row in tokens])
    apr = np.stack([found.after(row[None]).apr[0] for row in tokens])
    shown["apr/exact"] = prompts.divergence(exact, apr)
    if (real := _llama_cpp(p, tokens)) is not None:
        shown["llama.cpp"] = np.array([value(p, a, b) for a, b in zip(exact, real, strict=True)])
    return shown


def _llama_cpp(p: Params, tokens: np.ndarray) -> np.ndarray | None:
    """The logits of the real llama.cpp, or None where it is not installed, or does not run the model."""
    from diffuzz.models.engines import llama_cpp

    try:
        with llama_cpp.opened(named.get(p["model"]).path) as engine:
            return np.stack([engine.logits(row.tolist())[-1] for row in tokens])
    except EngineError:
        return None


def reading(p: Params, case: Mapping[str, np.ndarray]) -> list[str]:
    """The text of a prompt, and whether it has the same tokens again."""
    model, tokens = named.get(p["model"]), [int(token) for token in case["tokens"]]
    try:
        said = text.text_of(model, tokens)
        lines = [f"text = {said!r}"]
        again = text.tokens_of(model, said)
    except ModelError as error:
        return [f"no text: {error}"]
    except text.MissingTokenizersError as error:
        return [*lines, f"whether that text has these tokens was not looked at: {error}"]
    if again == tokens:
        return [*lines, "That text has these tokens."]
    return [*lines, f"That text has other tokens, {', '.join(map(str, again))}: give the tokens themselves."]


TARGET = Target(
    name="prompt",
    summary="a prompt to a model, APR path against GGUF path: what they say next",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, explain=explain),
    measure=lambda p: (
        f"least of {REPLICATES} one-ULP replicates of "
        + ("the margin of another first token, in logits" if p["measure"] == "flip" else "KL(APR || GGUF), in nats")
    ),
    bound=lambda p: None,
    claim="some prompt makes the quantised path say something else than the float path, whatever the last bits are",
    threshold=lambda p: THRESHOLD,
    # Another order of sums is another draw of the noise that the replicates have.
    tolerance=0.5,
    # Nine runs of a model of 135 million parameters take 30 ms for a token, on two cores.
    cost=2.0**19,
    engine="prompts",
    keep=0.9,
    reading=reading,
)
