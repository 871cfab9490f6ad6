"""Two paths after many prompts: they are those of the forward pass, however prompts are put together."""

from pathlib import Path

import numpy as np
import pytest

from diffuzz.models import architectures, forward, model, prompts, random_model, sequence
from diffuzz.models.prompts import Pair

TOKENS = np.random.default_rng(0).integers(0, 300, (12, 5)).astype(np.int32)
# What sums in another order make of logits, where they turn no code.
NEAR = 1e-4


def _same(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for rounding in most rows; in the others it may have turned a code of an activation."""
    assert got.shape == expected.shape
    assert np.median(np.abs(got - expected).reshape(len(got), -1).max(axis=1)) < NEAR


@pytest.fixture(scope="module", params=random_model.ARCHITECTURES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> model.Model:
    """A random model of each architecture."""
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    random_model.write(path, architecture=request.param, layers=1)
    return model.open(path)


@pytest.fixture(scope="module")
def pair(opened: model.Model) -> Pair:
    return prompts.pair_of(opened)


def test_the_paths_are_those_of_the_forward_pass(opened: model.Model, pair: Pair) -> None:
    """Of the APR path, of float64, and of ggml's path with the embeddings of the replicate."""
    steps = architectures.steps(opened)
    after = pair.after(TOKENS, (0, 5))
    orders = [sequence.of_tokens(tokens) for tokens in TOKENS]
    weights = forward.Weights()
    for row, order in enumerate(orders[:3]):
        exact = forward.taps_of(steps, order, "exact", weights=weights)["logits"][-1]
        np.testing.assert_array_equal(pair.exact(TOKENS[row]), exact)
        np.testing.assert_allclose(after.apr[row], exact, atol=NEAR)
    embedded = np.stack([forward.taps_of(steps[:1], order, "ggml")["embd"] for order in orders])
    moved = {"embd": np.stack([prompts.moved(embedded, replicate, 0) for replicate in (0, 5)], axis=1)}
    *_, (_, ggml) = forward.run(steps, orders[0], "ggml", weights=weights, taps=moved)
    np.testing.assert_allclose(after.ggml, ggml[:, :, -1], atol=NEAR)
    assert (after.ggml[:, 0] != after.ggml[:, 1]).any(), "replicates differ"
    assert np.abs(after.ggml - after.apr[:, None]).max(axis=-1).min() > NEAR


@pytest.mark.parametrize("cuts", [(3,), (1, 4), (1, 2, 3, 4)])
def test_a_prefix_is_run_once(pair: Pair, cuts: tuple[int, ...]) -> None:
    """Keys and values of a prefix, made in pieces, give the logits of the whole prompt, in each replicate."""
    tails = TOKENS[:, 4:]
    past, start = None, 0
    for cut in cuts:
        past = pair.past(TOKENS[0, start:cut], (1, 2), past)
        start = cut
    assert past is not None
    np.testing.assert_array_equal(TOKENS[0, :start], past.tokens)
    tails = np.concatenate((np.tile(TOKENS[:1, start:4], (len(tails), 1)), tails), axis=1)
    after = pair.after(tails, (1, 2), past)
    whole = pair.after(np.concatenate((np.tile(TOKENS[:1, :start], (len(tails), 1)), tails), axis=1), (1, 2))
    np.testing.assert_allclose(after.apr, whole.apr, atol=NEAR)
    _same(after.ggml, whole.ggml)


def test_a_replicate_moves_each_number_by_its_last_bit() -> None:
    """To a neighbour, as many up as down, differently in each replicate and position; the same for every length."""
    x = np.random.default_rng(0).standard_normal((1, 6, 256)).astype(np.float32)
    moved = [prompts.moved(x, replicate, 0) for replicate in range(prompts.REPLICATES)]
    up, down = np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))
    for each in moved:
        assert ((each == up) | (each == down)).all()
        assert 0.4 < (each == up).mean() < 0.6
    ups = {(each == up)[0, position].tobytes() for each in moved for position in range(6)}
    assert len(ups) == 6 * prompts.REPLICATES
    np.testing.assert_array_equal(moved[3][:, 2:], prompts.moved(x[:, 2:], 3, 2))


def test_a_large_batch_runs_in_pieces(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of a batch that does not run at once are those of its prompts."""
    whole = pair.after(TOKENS)
    monkeypatch.setattr(prompts, "TOKENS_AT_ONCE", 1)
    apart = pair.after(TOKENS)
    np.testing.assert_allclose(apart.apr, whole.apr, atol=NEAR)
    _same(apart.ggml, whole.ggml)


def test_products_have_one_thread_each() -> None:
    """While two passes run, if NumPy has the BLAS of its wheels; then what it was."""
    from diffuzz.models import blas

    found = blas._library()
    if found is None:
        pytest.skip("NumPy has no OpenBLAS of its own here")
    get, put = found
    before = get()
    try:
        put(2)
        with blas.one_thread():
            assert get() == 1
        assert get() == 2
    finally:
        put(before)


def test_divergence() -> None:
    """Of p = (1/2, 1/4, 1/4) and q uniform: ln 3 - 1.5 ln 2; shifts of logits change nothing."""
    p = np.log([0.5, 0.25, 0.25]) + 7
    expected = np.log(3) - 1.5 * np.log(2)
    np.testing.assert_allclose(prompts.divergence(p, np.zeros(3)), expected, rtol=1e-12)
    assert prompts.divergence(p, p - 1) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("q", "expected"),
    [((0.0, 3.0, 0.0), 2.0), ((1.0, 1.5, 9.0), 1.0), ((5.0, 4.5, -9.0), -0.5), ((2.0, 2.0, -9.0), 0.0)],
)
def test_flip(q: tuple[float, ...], expected: float) -> None:
    """Both margins count, the less of them; without a flip, what is missing."""
    assert expected == prompts.flip(np.array([3.0, 1.0, 2.0]), np.array(q))


def test_names_say_nothing_of_places(tmp_path: Path) -> None:
    """A model is known by name and digest wherever it is, and whatever its file is called when it is named again."""
    from diffuzz.models import named

    path = tmp_path / "one" / "random.gguf"
    path.parent.mkdir()
    random_model.write(path, layers=1, seed=11)
    unknown = f"random.gguf@{'0' * 64}"
    assert not named.known(unknown)
    with pytest.raises(named.UnknownModelError, match=r"model random\.gguf: give the file"):
        named.get(unknown)
    name = named.name_of(path)
    assert str(tmp_path) not in name
    assert named.known(name)
    assert name == named.name_of(name)
    other = path.rename(tmp_path / "another.gguf")
    assert named.get(named.name_of(other)) is named.get(name)
    with pytest.raises(model.ModelError, match=r"absent\.gguf: No such file"):
        named.name_of(tmp_path / "absent.gguf")
