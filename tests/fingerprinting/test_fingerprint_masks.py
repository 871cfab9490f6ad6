"""From answers to trees, without a kernel; and trees in words."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from planted import Nested, blocks, halved, in_sequence, lanes, random_nested

from diffuzz.fingerprinting import masks, tree
from diffuzz.fingerprinting.words import words


def _common(found: tree.Tree) -> Callable[[int, int], int]:
    """A function that gives the smallest sum that has two summands."""
    above = []
    for leaf in range(found.n):
        way, node = [], leaf
        while found.parents[node] >= 0:
            node = int(found.parents[node])
            way.append(node)
        above.append(way)
    return lambda i, j: next(node for node in above[i] if node in set(above[j]))


def _sizes(planted: tree.Tree) -> masks.Sizes:
    common = _common(planted)
    return lambda i, j: np.array([planted.sizes[common(a, b)] for a, b in zip(i, j, strict=True)], int)


def _meets(planted: tree.Tree) -> masks.Meets:
    common, sizes = _common(planted), planted.sizes

    def meets(i: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        nodes = [(common(b, c), common(a, b), common(a, c)) for a, b, c in zip(i, j, k, strict=True)]
        return np.array([len({*each}) == 1 or sizes[each[0]] < sizes[each[1]] for each in nodes], bool)

    return meets


@pytest.mark.parametrize("at_once", [False, True])
def test_both_kinds_of_masks_give_the_planted_tree(at_once):
    """Sizes of common sums, and which two of three come together first."""
    rng = random.Random(2)
    for _ in range(60):
        planted = tree.of(random_nested(rng.randint(1, 30), rng, at_once=at_once))
        assert masks.from_sizes(planted.n, _sizes(planted)) == planted
        assert masks.from_meetings(planted.n, _meets(planted)) == planted


def test_vectors_that_are_added_in_a_wider_format_are_found_at_once():
    """Many children of one node, each a run of summands, take as many answers as a few rounds do."""
    planted = tree.of(tuple(halved(range(k, k + 8)) for k in range(0, 400, 8)))
    asked = []
    meets = _meets(planted)

    def counted(i: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        asked.append(len(i))
        return meets(i, j, k)

    assert masks.from_meetings(400, counted) == planted
    assert sum(asked) < 40 * 400


def test_answers_of_no_tree_are_refused():
    """Sizes that contradict each other."""
    with pytest.raises(masks.NoTreeError):
        masks.from_sizes(6, lambda i, j: np.full(len(i), 3))


def test_a_tree_is_the_same_however_it_is_numbered():
    """The order of two summands, and the numbers of nodes, are no part of it."""
    assert tree.of(((0, 1), (2, 3))) == tree.of(((3, 2), (1, 0)))
    assert tree.of(((0, 1), (2, 3))) != tree.of(((0, 2), (1, 3)))
    assert tree.of(((0, 2), 1)).text() == "((0+2)+1)"
    for wrong in (((0, 0), 1), ((0, 1), 3)):
        with pytest.raises(ValueError, match="are needed"):
            tree.of(wrong)


def _by_halves(parts: Sequence[Nested]) -> Nested:
    parts = list(parts)
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [(parts[i], parts[i + half]) for i in range(half)]
    return parts[0]


@pytest.mark.parametrize(
    ("nested", "said"),
    [
        (in_sequence(range(5000)), "5000 summands, in sequence"),
        (in_sequence(range(99, -1, -1)), "100 summands, in sequence backwards"),
        (halved(range(64)), "64 summands, pairwise (neighbours first)"),
        (tuple(range(9)), "9 summands, all at once"),
        (
            lanes(4096, 8, _by_halves, tail=True),
            "4096 summands, 8 lanes, each 512 in sequence with stride 8, combined as ((0+4)+(2+6))+((1+5)+(3+7)) "
            "(halves first)",
        ),
        (
            lanes(4099, 8, _by_halves, tail=True),
            "4099 summands, 8 lanes, each 512 in sequence with stride 8, combined as ((0+4)+(2+6))+((1+5)+(3+7)) "
            "(halves first); then summands 4096 to 4098 in sequence",
        ),
        (
            lanes(37, 8, halved, tail=False),
            "37 summands, 8 lanes, each 4 or 5 in sequence with stride 8, combined as ((0+1)+(2+3))+((4+5)+(6+7)) "
            "(neighbours first)",
        ),
        (blocks(4096, 1024, in_sequence), "4096 summands, 4 blocks in sequence, each 1024 in sequence"),
        (blocks(256, 32, halved), "256 summands, 8 blocks, each 32 in sequence, combined as "
         "((0+1)+(2+3))+((4+5)+(6+7)) (neighbours first)"),
    ],
)  # fmt: skip
def test_periodic_trees_are_one_line(nested, said):
    """Thousands of summands in words."""
    assert words(tree.of(nested)) == said


def test_any_tree_has_words():
    """Random trees, too, and no more words than a line or two have."""
    rng = random.Random(4)
    for n in (2, 3, 7, 40, 400, 3000):
        assert len(words(tree.of(random_nested(n, rng, at_once=n % 2 == 0)))) < 900
