r"""Text of a model: from text to tokens and back, by the vocabulary that the model's own file has.

    tokens_of(model, "The sky is")       [504, 6376, 314]
    text_of(model, [504, 6376, 314])     "The sky is"
    pieces_of(model, [504, 6376, 314])   ["The", " sky", " is"]

There are two kinds of vocabulary, by ``tokenizer.ggml.model``:

    gpt2     Bytes are written as printable letters. The text is cut into words by the patterns that
             ``tokenizer.ggml.pre`` names, and letters of a word are joined in the order of ``tokenizer.ggml.merges``.
             The package tokenizers does this.
    llama    Sentencepiece: spaces are "▁". Of all neighbours whose join is a token, those with the largest of
             ``tokenizer.ggml.scores`` are joined first, of equal ones the leftmost. What is no token becomes bytes,
             "<0x0A>". This needs no package.

In both, control tokens, tokens of the user and the unknown token are found in the text before anything else, the
longest first, as llama.cpp finds them if it is asked to parse special tokens.

Source: llama.cpp's llama-vocab.cpp, with whose tokens these agree; gguf's docs for the keys.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import attrs

from diffuzz.escaping import escaped
from diffuzz.models.model import Model, ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What `tokenizer.ggml.token_type` says of a token.
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
# Of no text: bytes are letters above U+0020.
_NONE = "\0"
_SPACE, _BYTE_NAME = "▁", re.compile("<0x([0-9A-F]{2})>")

_NAMES: Mapping[type, str] = MappingProxyType({str: "strings", Integral: "whole numbers", Real: "numbers"})

# How words are found, as published with the models (their tokenizer.json): each pattern cuts what the patterns before
# it have left. What a pattern does not match stays a piece of its own.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_MODERN = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2, _DIGITS = (_WORDS,), (r"\p{N}", _WORDS)
_LLAMA3, _QWEN2 = (_MODERN.replace("DIGITS", "{1,3}"),), (_MODERN.replace("DIGITS", ""),)
PATTERNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "default": (r"[\p{P}\$\+<=>\^~\|]+", _WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"),
        **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo"), _GPT2),
        **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _DIGITS),
        **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _LLAMA3),
        **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), _QWEN2),
    }
)
# In these a word that is a token is taken whole, whatever the merges say, and texts begin with the BOS token.
_WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3"})


class MissingTokenizersError(ImportError):
    """The package tokenizers is not installed."""


@attrs.frozen(eq=False)
class Vocabulary:
    """What a model says of its tokens: the text of each, its kind and its score, and what is put around a text."""

    kind: str
    words: str
    texts: Sequence[str]
    kinds: Sequence[int]
    scores: Sequence[float]
    merges: Sequence[str]
    before: tuple[int, ...]
    after: tuple[int, ...]
    unknown: int | None
    space_before: bool

    def special(self, token: int) -> bool:
        """Whether a token is found in a text as it is: it stands for itself."""
        return self.kinds[token] in (_UNKNOWN, _CONTROL, _USER_DEFINED)


def tokens_of(model: Model, text: str) -> list[int]:
    """The tokens of a text, with the BOS token before and the EOS token after it where the model's file asks for them.

    Raises ModelError for a model without a vocabulary, or with a tokenizer that is not known, and for text that is no
    Unicode; MissingTokenizersError where the model is of the kind gpt2 and the package tokenizers is missing.
    """
    vocabulary = _vocabulary(model)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ModelError("the text has half a surrogate pair, or a byte that is no UTF-8: give --tokens") from None
    number = {piece: token for token, piece in enumerate(vocabulary.texts)}
    tokens = list(vocabulary.before)
    if vocabulary.kind == "gpt2":
        encoder = _encoder(vocabulary, number)
        for part in _parts(vocabulary, text):
            found = encoder.encode(part, add_special_tokens=False).ids if isinstance(part, str) else [part]
            tokens += [token for token in found if token < len(vocabulary.texts)]
    else:
        special = True
        for part in _parts(vocabulary, text):
            if isinstance(part, str):
                tokens += _joined(vocabulary, number, f" {part}" if vocabulary.space_before and special else part)
            else:
                tokens.append(part)
            special = not isinstance(part, str)
    return tokens + list(vocabulary.after)


def text_of(model: Model, tokens: Sequence[int]) -> str:
    """The text that ``tokens`` stand for, special ones as their names, without the BOS and EOS tokens that
    :func:`tokens_of` adds. Bytes that are no UTF-8 are U+FFFD, so the text need not give the same tokens back.

    Raises ModelError for a model without a vocabulary, or with a tokenizer that is not known, and for a token beyond
    the vocabulary. It needs no package.
    """
    vocabulary = _vocabulary(model)
    _check(vocabulary, tokens)
    inner = list(tokens)
    if vocabulary.before and tuple(inner[: len(vocabulary.before)]) == vocabulary.before:
        inner = inner[len(vocabulary.before) :]
    if vocabulary.after and tuple(inner[-len(vocabulary.after) :]) == vocabulary.after:
        inner = inner[: -len(vocabulary.after)]
    special, whole = True, b""
    for token in inner:
        piece = _bytes_of(vocabulary, token)
        # The space that was put before the text, or after a special token.
        if vocabulary.space_before and special and not vocabulary.special(token):
            piece = piece.removeprefix(b" ")
        whole += piece
        special = vocabulary.special(token)
    return whole.decode(errors="replace")


def pieces_of(model: Model, tokens: Sequence[int]) -> list[str]:
    r"""Each token as printable text on one line: ``" sky"``, ``"\n"``, and ``"\xf0\x9f"`` where a token is a part of a
    character. Raises what :func:`text_of` raises. It needs no package.
    """
    vocabulary = _vocabulary(model)
    _check(vocabulary, tokens)
    return [escaped(_bytes_of(vocabulary, token).decode(errors="backslashreplace")) for token in tokens]


def _check(vocabulary: Vocabulary, tokens: Iterable[int]) -> None:
    for token in tokens:
        if not 0 <= token < len(vocabulary.texts):
            raise ModelError(f"token {token}: the vocabulary has {len(vocabulary.texts)} tokens, from 0 on")


def _vocabulary(model: Model) -> Vocabulary:
    """The vocabulary of a model, checked. Raises ModelError."""
    data = model.metadata
    kind, words = data.get("tokenizer.ggml.model"), data.get("tokenizer.ggml.pre", "default")
    if kind is None:
        raise ModelError("it has no tokenizer (tokenizer.ggml.model): give --tokens")
    if kind not in ("gpt2", "llama"):
        raise ModelError(f"its tokenizer {_shown(kind)} is not known (gpt2 and llama are): give --tokens")
    if kind == "gpt2" and (not isinstance(words, str) or words not in PATTERNS):
        known = ", ".join(PATTERNS)
        raise ModelError(f"its pre-tokenizer {_shown(words)} is not known ({known} are): give --tokens")
    texts = cast("Sequence[str]", _array(model, "tokens", str))
    kinds = cast("Sequence[int]", _array(model, "token_type", Integral, len(texts), [1] * len(texts)))
    scores: Sequence[float] = ()
    merges: Sequence[str] = ()
    if kind == "llama":
        scores = cast("Sequence[float]", _array(model, "scores", Real, len(texts)))
    else:
        merges = cast("Sequence[str]", _array(model, "merges", str))
    begins = kind == "llama" or words in _WHOLE_WORDS
    return Vocabulary(
        kind=str(kind),
        words=str(words),
        texts=texts,
        kinds=kinds,
        scores=scores,
        merges=merges,
        before=_added(model, "bos", begins, len(texts)),
        after=_added(model, "eos", False, len(texts)),
        unknown=_token(model, "unknown", len(texts)),
        space_before=kind == "llama" and bool(data.get("tokenizer.ggml.add_space_prefix", True)),
    )


def _array(
    model: Model, name: str, type: type, length: int | None = None, default: Sequence[object] | None = None
) -> Sequence[object]:
    """An array of the vocabulary, as long as it has to be. Raises ModelError."""
    key = f"tokenizer.ggml.{name}"
    found = model.metadata.get(key, default)
    if found is None:
        raise ModelError(f"it has no {key}: give --tokens")
    values = list(cast("Iterable[object]", found)) if isinstance(found, Iterable) else []
    if not values or not isinstance(values[0], type):
        raise ModelError(f"{key} is no array of {_NAMES[type]}: give --tokens")
    if length is not None and len(values) != length:
        raise ModelError(f"{key} has {len(values)} values, where there are {length} tokens: give --tokens")
    return values


def _token(model: Model, name: str, count: int) -> int | None:
    """A special token that the file names, if it does. Raises ModelError."""
    key = f"tokenizer.ggml.{name}_token_id"
    token = model.metadata.get(key)
    if token is None:
        return None
    if not isinstance(token, int) or not 0 <= token < count:
        raise ModelError(f"{key} is {_shown(token)}, where there are {count} tokens: give --tokens")
    return token


def _added(model: Model, name: str, default: bool, count: int) -> tuple[int, ...]:
    """The BOS or EOS token, if it is to be put around a text. Raises ModelError."""
    key = f"tokenizer.ggml.add_{name}_token"
    if not model.metadata.get(key, default):
        return ()
    token = _token(model, name, count)
    if token is None:
        raise ModelError(f"it asks for a token by {key}, and has no tokenizer.ggml.{name}_token_id: give --tokens")
    return (token,)


def _parts(vocabulary: Vocabulary, text: str) -> Iterator[str | int]:
    """The text in parts, of which special tokens are numbers. All places of the longest are found first."""
    named = {vocabulary.texts[token]: token for token in range(len(vocabulary.texts)) if vocabulary.special(token)}
    parts: list[str | int] = [text] if text else []
    for name in sorted((name for name in named if name and name in text), key=len, reverse=True):
        cut: list[str | int] = []
        for part in parts:
            if isinstance(part, int):
                cut.append(part)
                continue
            for place, piece in enumerate(part.split(name)):
                cut += [named[name]] if place else []
                cut += [piece] if piece else []
        parts = cut
    yield from parts


def _encoder(vocabulary: Vocabulary, number: Mapping[str, int]) -> Tokenizer:
    """The tokenizer of a vocabulary of the kind gpt2. Raises MissingTokenizersError, ModelError."""
    try:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    except ImportError as error:
        raise MissingTokenizersError(
            "the package tokenizers is missing: install diffuzz with the extra text, or give --tokens"
        ) from error
    # A letter of a merge may itself be a space.
    merges = [(merge[: (end := merge.find(" ", 1))], merge[end + 1 :]) for merge in vocabulary.merges]
    whole = vocabulary.words in _WHOLE_WORDS
    try:
        # A byte that has no token is left out in the end, and keeps its neighbours apart until then.
        known = {**number, _NONE: len(vocabulary.texts)}
        tokenizer = Tokenizer(models.BPE(vocab=known, merges=merges, unk_token=_NONE, ignore_merges=whole))
    except Exception as error:  # the package raises nothing narrower
        raise ModelError(f"its merges do not fit its tokens ({escaped(str(error))}): give --tokens") from error
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[vocabulary.words]]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, letters])
    return tokenizer


def _joined(vocabulary: Vocabulary, number: Mapping[str, int], text: str) -> list[int]:
    """The tokens of a text by sentencepiece's joining of neighbours.

    The pieces are a list linked both ways, with a heap of the joins that were possible when they were seen. One whose
    sides have changed since is passed over.
    """
    pieces: list[str | None] = list(text.replace(" ", _SPACE))
    left, right = list(range(-1, len(pieces) - 1)), list(range(1, len(pieces) + 1))
    heap: list[tuple[float, int, int, int]] = []

    def offer(a: int, b: int) -> None:
        if a < 0 or b >= len(pieces):
            return
        token = number.get(f"{pieces[a]}{pieces[b]}")
        if token is not None:
            heapq.heappush(heap, (-vocabulary.scores[token], a, b, token))

    for place in range(len(pieces) - 1):
        offer(place, place + 1)
    while heap:
        _, a, b, token = heapq.heappop(heap)
        if pieces[a] is None or pieces[b] is None or f"{pieces[a]}{pieces[b]}" != vocabulary.texts[token]:
            continue
        pieces[a], pieces[b] = vocabulary.texts[token], None
        right[a] = right[b]
        if right[a] < len(pieces):
            left[right[a]] = a
        offer(left[a], a)
        offer(a, right[a])
    return [token for piece in pieces if piece is not None for token in _known(vocabulary, number, piece)]


def _known(vocabulary: Vocabulary, number: Mapping[str, int], piece: str) -> list[int]:
    """The token of a piece, or those of its bytes. Raises ModelError."""
    if piece in number:
        return [number[piece]]
    tokens = [number.get(f"<0x{byte:02X}>", vocabulary.unknown) for byte in piece.encode()]
    if None in tokens:
        raise ModelError(f"its vocabulary has neither {_shown(piece)} nor its bytes, and no unknown token")
    return cast("list[int]", tokens)


def _bytes_of(vocabulary: Vocabulary, token: int) -> bytes:
    """The bytes that a token stands for."""
    text, kind = vocabulary.texts[token], vocabulary.kinds[token]
    if vocabulary.special(token):
        return text.encode(errors="surrogateescape")
    if vocabulary.kind == "llama":
        if kind == _BYTE and (found := _BYTE_NAME.fullmatch(text)):
            return bytes.fromhex(found[1])
        return text.replace(_SPACE, " ").encode(errors="surrogateescape")
    letters = _bytes_by_letter()
    return b"".join(bytes([letters[c]]) if c in letters else c.encode(errors="surrogateescape") for c in text)


@cache
def _bytes_by_letter() -> Mapping[str, int]:
    """The byte that each letter stands for in a vocabulary of the kind gpt2: its own where it is printable in Latin-1,
    and the others, in their order, by the letters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = itertools.count(0x100)
    return {chr(byte if byte in printable else next(others)): byte for byte in range(256)}


def _shown(value: object) -> str:
    text = str(value)
    return ascii(text if len(text) <= 64 else f"{text[:61]}...")
