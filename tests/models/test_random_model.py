"""Small random models, read back by the package gguf, which shares no code with diffuzz."""

from pathlib import Path

import numpy as np
import pytest

from diffuzz import formats
from diffuzz.models import random_model

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'diffuzz-kernels[gguf]'")


@pytest.mark.parametrize("architecture", random_model.ARCHITECTURES)
def test_another_reader_agrees(architecture: str, tmp_path: Path) -> None:
    """The file is a GGUF file to others: architecture, vocabulary, formats and values of its tensors."""
    path = tmp_path / "random.gguf"
    random_model.write(path, architecture=architecture)
    read = gguf.GGUFReader(path)
    assert architecture == read.get_field("general.architecture").contents()
    tokens = read.get_field("tokenizer.ggml.tokens").contents()
    assert len(set(tokens)) == len(tokens) == read.get_field(f"{architecture}.vocab_size").contents()
    kinds = {tensor.tensor_type.name for tensor in read.tensors}
    assert {"F32", "Q4_K", "Q5_K", "Q6_K"} == kinds
    for tensor in read.tensors:
        name = tensor.tensor_type.name.replace("_K", "_K")
        if name == "F32":
            continue
        format = formats.get(name[0].lower() + name[1:])
        values = format.dequantize(tensor.data.reshape(-1, format.type_size)).reshape(tensor.shape[::-1])
        np.testing.assert_array_equal(gguf.dequantize(tensor.data, tensor.tensor_type), values)
        # A variance of about 1 / inputs, or a few times that.
        assert 0.3 < values.std() * tensor.shape[0] ** 0.5 < 3


def test_the_seed_decides(tmp_path: Path) -> None:
    """The same arguments give the same bytes, another seed others."""
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(paths, (3, 3, 4), strict=True):
        random_model.write(path, seed=seed, layers=1)
    one, same, other = (path.read_bytes() for path in paths)
    assert one == same
    assert one != other


def test_formats_are_chosen_by_role_and_layer(tmp_path: Path) -> None:
    """Formats are used in turns; roles that are not named keep theirs."""
    path = tmp_path / "random.gguf"
    random_model.write(path, layers=3, formats={"attn_q": ("q8_0", "f32"), "ffn_up": ("f16",)})
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert ["Q8_0", "F32", "Q8_0"] == [kinds[f"blk.{layer}.attn_q.weight"] for layer in range(3)]
    assert ["Q6_K", "Q4_K", "Q6_K"] == [kinds[f"blk.{layer}.ffn_down.weight"] for layer in range(3)]
    assert kinds["blk.1.ffn_up.weight"] == "F16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "gpt2"}, "architecture 'gpt2': qwen2, llama, gemma3 are possible"),
        ({"layers": 0}, "layers 0: at least 1 is needed"),
        ({"formats": {"attn_q": ("nf4",)}}, "format 'nf4' of attn_q: a format of GGUF is needed"),
        ({"formats": {"attn_q": ("q8_1",)}}, "format 'q8_1' of attn_q: a format of weights is needed"),
        ({"formats": {"attn": ("q4_K",)}}, "formats has attn: roles are token_embd"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    """What cannot be written is one line that names it, and no file."""
    with pytest.raises(ValueError, match=message):
        random_model.write(tmp_path / "random.gguf", **arguments)
    assert not list(tmp_path.iterdir())
