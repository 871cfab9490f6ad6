"""Rows of a model, as they are named on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_gguf import write

from diffuzz.models.model import ModelError
from diffuzz.models.rows import read
from diffuzz.targets.published import seed_matrix

DOWN = "blk.3.ffn_down.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    # A colon in the path is none of those that separate.
    folder = tmp_path / "a:b"
    folder.mkdir()
    tensors = {
        DOWN: ("q4_K", (6, 512), seed_matrix(0, rows=12)),
        "norm": ("f32", (4,), np.ones(4, np.float32)),
        "q8": ("q8_K", (1, 256), np.zeros(292, np.uint8)),
    }
    return write(folder / "m.gguf", tensors)


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [("", range(6)), ("[2]", range(2, 3)), ("[1:4]", range(1, 4)), ("[:]", range(6)), ("[4:]", range(4, 6)),
     ("[ :5:2]", range(0, 5, 2)), ("[0:6]", range(6))],
)  # fmt: skip
def test_rows_are_those_of_the_tensor(model: Path, rows: str, numbers: range) -> None:
    """With their format and their length."""
    found = read(f"{model}:{DOWN}{rows}")
    assert (numbers, "q4_K", 512, DOWN) == (found.numbers, found.format, found.columns, found.tensor)
    np.testing.assert_array_equal(seed_matrix(0, rows=12).reshape(6, 288)[list(numbers)], found.blocks)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("", "MODEL:TENSOR"),
        (f":{DOWN}[a]", "MODEL:TENSOR"),
        (":nope", "it has no tensor nope"),
        (f":{DOWN}[6]", "rows 0 to 5"),
        (f":{DOWN}[2:7]", "rows 0 to 5"),
        (f":{DOWN}[3:3]", "rows 0 to 5"),
        (f":{DOWN}[]", "one row, FIRST:LAST"),
        (f":{DOWN}[::0]", "rows 0 to 5"),
        (f":{DOWN}[1:2:3:4]", "one row, FIRST:LAST"),
        (":norm", "norm is f32: weights of a block format are needed"),
        (":q8", "q8 is q8_K: weights of a block format are needed"),
    ],
)
def test_what_cannot_be_had_is_one_line(model: Path, named: str, message: str) -> None:
    """No such tensor, no such rows, no such format, no such text."""
    with pytest.raises(ModelError, match=message.replace("[", r"\[")) as caught:
        read(f"{model}{named}" if named else "m")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    """By its path; one that is not there is an OSError."""
    (tmp_path / "m.gguf").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"m\.gguf: it begins with"):
        read(f"{tmp_path}/m.gguf:a")
    with pytest.raises(FileNotFoundError):
        read(f"{tmp_path}/none.gguf:a")
