"""Products of quantised weights: lanes, blocks, and how activations are quantised.

The codes of a block are integers and share a scale, so their products are added exactly, in one number or in some
lanes. What is rounded are the sums of blocks. So large numbers are made by scales: M is one product of a block whose
scales are large, and in every block only one activation is not 0.

    blocks of a lane    M and -M are in two blocks, and ones in the others, at the same place of each
    lanes               M and -M are at two places of blocks that are added to each other first. Where these are in one
                        lane they cancel at once, and else not before lanes are added up.
    order of lanes      M and -M are in two lanes, and ones in the lanes of a later block

An order of floating-point sums within a block does not show in this way. It would show in the verification, in which
the products of a lane are added exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.fingerprinting import masks, verifying
from diffuzz.fingerprinting import tree as trees
from diffuzz.fingerprinting.box import Box, BoxError
from diffuzz.fingerprinting.masks import NoTreeError
from diffuzz.fingerprinting.reading import Sizes
from diffuzz.fingerprinting.sums import BITS, Sum
from diffuzz.fingerprinting.tree import Nested, Tree
from diffuzz.fingerprinting.verifying import Verified
from diffuzz.fingerprinting.words import words
from diffuzz.formats import q8_0, q8_1, q8_k
from diffuzz.targets import matvec

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int64

    from diffuzz.fingerprinting.fingerprint import Fingerprint

# Scales of a large block and of a small one, which float16 holds: of weights and of activations.
_LARGE, _SMALL = 2.0**15, 2.0**-14
_TOP = 127.0
_LEAST_BLOCKS, _ROWS = 4, 256
# A quantiser of activations: (scale of each block, codes).
Quantiser: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _quantisers(partner: str, seen: str) -> dict[str, Quantiser]:
    """Those that there are, by name, which round as was ``seen``."""
    if partner == "q8_K":
        return {"ggml's": q8_k.quantise_ggml}
    if partner == "q8_1":
        return {"ggml's": lambda x: q8_1.quantise_x86(x)[::2]}
    if "to even" in seen:
        return {"ggml's on x86": lambda x: q8_0.quantise_x86(x)[1:]}
    if "float16" in seen:
        return {"ggml's, portable": lambda x: q8_0.quantise_generic(x)[1:]}
    return {"realizar's": q8_0.quantise_realizar}


def applies(box: Box) -> bool:
    """Whether activations are quantised to codes."""
    return box.params["arithmetic"] != "apr" and matvec.partner(box.params) in matvec.CODES


@attrs.frozen
class _Row:
    """One row of weights of a format, and activations: what the box is called with."""

    box: Box
    fmt: formats.Format
    blocks: int
    size: int

    @property
    def n(self) -> int:
        """Weights of a row."""
        return self.blocks * self.size

    def __call__(
        self, scales: Float64[np.ndarray, "q blocks"], codes: Int64[np.ndarray, "q n"], x: Float64[np.ndarray, "q n"]
    ) -> Float64[np.ndarray, " q"]:
        """The products of rows with these scales and codes, as weights of 1 have, and these activations."""
        return self.box(self.arrays(scales, codes, x)).reshape(len(x), -1)[:, 0]

    def arrays(
        self, scales: Float64[np.ndarray, "q blocks"], codes: Int64[np.ndarray, "q n"], x: Float64[np.ndarray, "q n"]
    ) -> dict[str, np.ndarray]:
        """The arrays of these cases. Sub-blocks have the scale 1 and no minimum."""
        zero, _, one, empty = matvec.plain_codes(self.fmt.name)
        fmt, count = self.fmt, len(x) * self.n // self.fmt.block_size
        fields = {name: np.repeat(values, count, axis=0) for name, values in empty.items()}
        each = np.repeat(scales, self.size // fmt.block_size, axis=1).reshape(-1)
        fields["d"][:] = each
        if "scales" in fields:
            fields["scales"][:] = one
        fields["codes"][:] = zero + codes.reshape(fields["codes"].shape)
        return {"weights": fmt.pack(fields).reshape(len(x), 1, -1), "x": x.astype(np.float32)}

    @property
    def largest(self) -> float:
        """The largest scale of activations: with q8_1, the sum of a block has to be a float16 number."""
        return 2.0**8 if matvec.partner(self.box.params) == "q8_1" else _LARGE

    def masked(
        self,
        large: tuple[Int64[np.ndarray, " q"], Int64[np.ndarray, " q"]],
        minus: tuple[Int64[np.ndarray, " q"], Int64[np.ndarray, " q"]],
        ones: Bool[np.ndarray, "q blocks size"],
    ) -> Float64[np.ndarray, " q"]:
        """How many ones there are in the result, with M and -M at their (block, place), and ones elsewhere."""
        q = len(ones)
        at = np.arange(q)
        scales, x = np.full((q, self.blocks), _SMALL), np.where(ones, _TOP * _SMALL, 0.0)
        for (block, place), sign in ((large, 1.0), (minus, -1.0)):
            scales[at, block] = _LARGE
            x[at, block] = 0
            x[at, block, place] = sign * _TOP * self.largest
        got = self(scales, np.ones((q, self.n), int), x.reshape(q, -1))
        counted = got / (_TOP * _SMALL * _SMALL)
        if not np.isfinite(counted).all() or not np.array_equal(counted, np.rint(counted)):
            raise NoTreeError("masks of large and small scales leave something that counts no blocks")
        return counted


@attrs.frozen
class Found:
    """Lanes of the places of a block, the blocks that are added in lanes, and the tree of lanes and blocks, whose leaf
    ``lane * blocks + block`` is a lane of a block; blocks that are added after the lanes are whole, in lane 0.
    """

    lanes: Int64[np.ndarray, " size"]
    inside: tuple[int, ...]
    tree: Tree
    leaves: tuple[tuple[int, int], ...]
    order: str


def fingerprint(box: Box, sizes: Sizes, *, seed: int) -> Fingerprint:
    """The fingerprint of a product of quantised weights."""
    from diffuzz.fingerprinting.fingerprint import NONE, Fingerprint

    fmt = formats.get(str(box.params["format"]))
    size = matvec.block_of(box.params)
    if sizes.n % size:
        raise BoxError(f"n={sizes.n}: a multiple of {size}, the block of {fmt.name} and of its activations, is needed")
    row = _Row(box, fmt, max(sizes.n // size, _LEAST_BLOCKS), size)
    sizes = attrs.evolve(sizes, n=row.n, rows=1)
    if fmt.name not in matvec.WEIGHT_FORMATS or fmt.name in matvec.LEVELS or not fmt.half_fields:
        raise BoxError(f"format={fmt.name}: weights of 0 and 1 with a float16 scale are needed for a fingerprint")
    details = {"activations": activations(row)}
    if details["activations"] == NOT_QUANTISED:
        raise BoxError(
            f"{box.name}: activations are not quantised, so this is another arithmetic: --param arithmetic=apr"
        )
    try:
        found = structure(row)
    except NoTreeError as error:
        return Fingerprint("matvec", box.name, sizes, f"{NONE}: {error}", details)
    sum_, named, verified = verify(row, found, details["activations"], seed)
    details |= named
    details["accumulator"] = "float32"
    if sum_ is None:
        order = f"{NONE}: masks show {found.order}, but random inputs do not keep to it"
        return Fingerprint("matvec", box.name, sizes, order, details, None, verified)
    return Fingerprint("matvec", box.name, sizes, found.order, details, sum_, verified)


NOT_QUANTISED = "not quantised"
_TIES = {
    (0, 2, 2, 4, 0, -2): "ties to even",
    (1, 2, 3, 4, -1, -2): "ties away from zero",
    (1, 2, 3, 4, 0, -1): "ties up",
    (0, 1, 2, 3, -1, -2): "ties down",
    (0, 1, 2, 3, 0, -1): "ties toward zero",
}


def activations(row: _Row) -> str:
    """How activations are quantised: the size of blocks, the rule for ties, and what scales are stored as."""
    size = row.n
    values = np.array([_TOP, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5])
    x = np.zeros((len(values), size))
    x[:, : len(values)] = values
    one_hot = np.zeros((len(values), size), int)
    one_hot[np.arange(len(values)), np.arange(len(values))] = 1
    scales = np.ones((len(values), row.blocks))
    got = row(scales, one_hot, x)
    if np.array_equal(got, values):
        return NOT_QUANTISED
    codes = tuple(int(one) if one == int(one) else None for one in got[1:]) if np.isfinite(got).all() else ()
    ties = _TIES.get(codes, "an unknown rule for ties")  # type: ignore[arg-type]
    # A scale that float16 does not hold: 1 + 2^-12, and one that is no multiple of 2^-11.
    odd = np.zeros((1, size))
    odd[0, 0] = np.float32(_TOP * (1 + 2.0**-12))
    read = float(row(scales[:1], one_hot[:1], odd)[0])
    stored = {_TOP: "float16", float(odd[0, 0]): "float32"}.get(read, "an unknown format")
    # Beside a large number, numbers of its block become 0.
    reach = [place for place in (16, 32, 64, 128, 256, size) if place <= size]
    far = np.ones((len(reach), size))
    far[:, 0] = _TOP * 2.0**4
    places = np.array([place - 1 for place in reach])
    picked = np.zeros((len(reach), size), int)
    picked[np.arange(len(reach)), places] = 1
    lost = row(np.ones((len(reach), row.blocks)), picked, far) == 0
    block = reach[int(lost.argmin()) - 1] if lost[0] and not lost.all() else reach[-1]
    return f"8 bits in blocks of {block}, {ties}, scales in {stored}"


def structure(row: _Row) -> Found:
    """Lanes and blocks. Raises NoTreeError where results are those of none."""
    blocks, size = row.blocks, row.size

    def of_blocks(i: Int64[np.ndarray, " q"], j: Int64[np.ndarray, " q"]) -> Int64[np.ndarray, " q"]:
        ones = np.zeros((len(i), blocks, size), bool)
        ones[:, :, 0] = True
        zero = np.zeros(len(i), int)
        return blocks - row.masked((i, zero), (j, zero), ones).astype(int)

    chain = masks.from_sizes(blocks, of_blocks)
    i, j, later = _cherry(chain)
    lanes = _lanes(row, i, j, later)
    count = int(lanes.max()) + 1
    places = [int(np.flatnonzero(lanes == lane)[0]) for lane in range(count)]
    if count == 1:
        return Found(lanes, (), chain, tuple((0, block) for block in range(blocks)), f"{_blocks(row)}{words(chain)}")
    inside = _inside(row, i, j, places)

    def of_lanes(a: Int64[np.ndarray, " q"], b: Int64[np.ndarray, " q"]) -> Int64[np.ndarray, " q"]:
        ones = np.zeros((len(a), blocks, size), bool)
        ones[:, later, places] = True
        where = np.array(places)
        at = np.full(len(a), i), where[a]
        return count - row.masked(at, (np.full(len(a), j), where[b]), ones).astype(int)

    combined = masks.from_sizes(count, of_lanes)
    return _joined(row, chain, lanes, combined, inside)


def _blocks(row: _Row) -> str:
    return f"blocks of {row.size} with exact sums; "


def _cherry(chain: Tree) -> tuple[int, int, int]:
    """Two blocks that are added to each other first, and one that is added right after."""
    k = next(k for k, node in enumerate(chain.nodes) if all(child < chain.n for child in node))
    i, j, *_ = sorted(chain.nodes[k])
    parent = int(chain.parents[chain.n + k])
    if parent < 0:
        raise NoTreeError("the sums of all blocks are added at once")
    other = next(child for child in chain.children(parent) if child != chain.n + k)
    return i, j, int(chain.first[other])


def _lanes(row: _Row, i: int, j: int, later: int) -> Int64[np.ndarray, " size"]:
    """The lane of each place of a block."""
    lanes = np.full(row.size, -1)
    count = 0
    while (lanes < 0).any():
        open_ = np.flatnonzero(lanes < 0)
        first = int(open_[0])
        q = len(open_)
        ones = np.zeros((q, row.blocks, row.size), bool)
        ones[np.arange(q), later, open_] = True
        same = row.masked((np.full(q, i), np.full(q, first)), (np.full(q, j), open_), ones) == 1
        if not same[0]:
            raise NoTreeError("two blocks that are added first are not, at some of their places")
        lanes[open_[same]] = count
        count += 1
    return lanes


def _inside(row: _Row, i: int, j: int, places: list[int]) -> tuple[int, ...]:
    """The blocks that are added before lanes are added up."""
    others = np.array([block for block in range(row.blocks) if block not in (i, j)])
    q = len(others)
    ones = np.zeros((q, row.blocks, row.size), bool)
    ones[np.arange(q), others, places[1]] = True
    lost = row.masked((np.full(q, i), np.full(q, places[0])), (np.full(q, j), np.full(q, places[1])), ones) == 0
    return tuple(sorted([i, j, *others[lost].tolist()]))


def _joined(
    row: _Row, chain: Tree, lanes: Int64[np.ndarray, " size"], combined: Tree, inside: tuple[int, ...]
) -> Found:
    """The tree of lanes and blocks."""
    top = [node for node in range(chain.n, chain.root + 1) if _leaves(chain, node) == set(inside)]
    if not top:
        raise NoTreeError("the blocks whose lanes are added up are no part of the sum of all")
    count = combined.n
    leaves = [(lane, block) for lane in range(count) for block in inside]
    leaves += [(0, block) for block in range(row.blocks) if block not in inside]
    number = {leaf: place for place, leaf in enumerate(leaves)}
    whole = _nested(combined, combined.root, lambda lane: _nested(chain, top[0], lambda block: number[lane, block]))
    nested = _nested(chain, chain.root, lambda block: number[0, block], {top[0]: whole})
    tree = trees.of(nested)
    each = words(trees.of(_nested(chain, top[0], {block: place for place, block in enumerate(inside)}.__getitem__)))
    how = f"{count} lanes{_where(lanes)}, each of {each.replace('summands', 'blocks')}; lanes combined as "
    how += combined.text()[1:-1]
    after = [block for block in range(row.blocks) if block not in inside]
    how += f"; then block {', '.join(map(str, after))}" if after else ""
    return Found(lanes, inside, tree, tuple(leaves), _blocks(row) + how)


def _where(lanes: Int64[np.ndarray, " size"]) -> str:
    """Which places of a block the lanes have."""
    count = int(lanes.max()) + 1
    size = len(lanes)
    if np.array_equal(lanes, np.arange(size) * count // size):
        return f" of {size // count} places that lie together"
    if np.array_equal(lanes, np.arange(size) % count):
        return f" of places {count} apart"
    first = np.flatnonzero(lanes == 0)
    shown = ", ".join(map(str, first[:8].tolist())) + (", ..." if len(first) > 8 else "")
    return f" (the first has places {shown})"


def _leaves(tree: Tree, node: int) -> set[int]:
    stack, found = [node], set()
    while stack:
        one = stack.pop()
        if one < tree.n:
            found.add(one)
        stack += tree.children(one)
    return found


def _nested(tree: Tree, top: int, leaf: Callable[[int], Nested], instead: dict[int, Nested] | None = None) -> Nested:
    """A tree as nested sequences, from the node ``top`` down, with ``instead`` of some nodes."""
    made: dict[int, Nested] = {}
    for node in sorted(_below(tree, top)):
        if instead and node in instead:
            made[node] = instead[node]
        elif node < tree.n:
            made[node] = leaf(node)
        else:
            made[node] = [made[child] for child in tree.children(node)]
    return made[top]


def _below(tree: Tree, top: int) -> list[int]:
    found = [top]
    for node in found:
        found += tree.children(node)
    return found


def verify(row: _Row, found: Found, seen: str, seed: int) -> tuple[Sum | None, dict[str, str], Verified]:
    """The sum in which products of a lane are exact, with one of the quantisers and ways to multiply with scales."""
    rng = np.random.default_rng(seed)
    q = _ROWS
    fmt = row.fmt
    least, most = _codes_of(fmt)
    codes = rng.integers(least, most + 1, (q, row.n))
    scales = rng.standard_normal((q, row.blocks)).astype(np.float16).astype(np.float64)
    if not fmt.name.startswith("q"):
        scales = np.abs(scales)
    x = rng.standard_normal((q, row.n)).astype(np.float32).astype(np.float64)
    arrays = row.arrays(scales, codes, x)
    got, again = (row.box(arrays).reshape(q, -1)[:, 0] for _ in range(2))
    if not np.array_equal(got, again):
        raise NoTreeError("two calls with the same numbers differ")
    decoded = fmt.decode(arrays["weights"].reshape(-1, fmt.type_size))
    whole = (decoded.code * decoded.sub_scale).astype(np.int64).reshape(q, row.blocks, row.size)
    best: tuple[Sum | None, dict[str, str], Verified] = (None, {}, Verified(0, q))
    for name, quantise in _quantisers(matvec.partner(row.box.params), seen).items():
        step, y = _quantised(quantise, x, row, q)
        lanes = _lane_sums(found, whole * y.reshape(whole.shape))
        for how, sum_, a, b in _ways(found, lanes, scales.astype(np.float32), step):
            verified = Verified(int((sum_(a, b) == got).sum()), q)
            if verified.agree > best[2].agree:
                named = {"products": how, "quantiser": name}
                best = (sum_ if verified.all else None, named if verified.all else {}, verified)
            if verified.all:
                return best
    return best


def _codes_of(fmt: formats.Format) -> tuple[int, int]:
    """The least and the largest code, less that of 0."""
    if fmt.name == "q8_0":
        return -127, 127
    zero, *_ = matvec.plain_codes(fmt.name)
    width = {"q6_K": 6, "q5_K": 5, "q5_0": 5, "q5_1": 5, "q3_K": 3, "q2_K": 2}.get(fmt.name, 4)
    return -zero, (1 << width) - 1 - zero


def _quantised(
    quantise: Quantiser, x: Float64[np.ndarray, "q n"], row: _Row, q: int
) -> tuple[Float32[np.ndarray, "q blocks"], Int64[np.ndarray, "q n"]]:
    block = formats.get(matvec.partner(row.box.params)).block_size
    step, codes = quantise(x.astype(np.float32).reshape(-1, block))
    if row.size != block:
        raise NoTreeError(f"blocks of {row.size} weights meet blocks of {block} activations")
    return np.asarray(step, np.float32).reshape(q, -1), np.asarray(codes, np.int64).reshape(q, -1)


def _lane_sums(found: Found, products: Int64[np.ndarray, "q blocks size"]) -> Float64[np.ndarray, "q leaves"]:
    inside = set(found.inside)
    columns = [
        products[:, block][:, found.lanes == lane].sum(axis=1) if block in inside else products[:, block].sum(axis=1)
        for lane, block in found.leaves
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _ways(
    found: Found,
    lanes: Float64[np.ndarray, "q leaves"],
    d: Float32[np.ndarray, "q blocks"],
    step: Float32[np.ndarray, "q blocks"],
) -> Iterator[tuple[str, Sum, Float64[np.ndarray, "q leaves"], Float64[np.ndarray, "q leaves"]]]:
    """Ways to multiply the sum of a lane with two scales: (words, sum, one factor, the other)."""
    blocks = [block for _, block in found.leaves]
    of_weights, of_x = d[:, blocks], step[:, blocks]
    both = (of_weights * of_x).astype(np.float64)
    bits = np.full(len(found.tree.nodes), BITS["float32"])
    chained = verifying.chained(found.tree)
    kept = np.zeros(found.tree.n, bool)
    sums = lanes.astype(np.float32)
    with_w, with_x = (sums * of_weights).astype(np.float64), (sums * of_x).astype(np.float64)
    whole = sums.astype(np.float64)
    w, x = of_weights.astype(np.float64), of_x.astype(np.float64)
    for fused, name in ((chained, "fused multiply-adds of"), (kept, "rounded before they are added:")):
        yield f"{name} the sum of a lane and (scale * scale)", Sum(found.tree, bits, fused), whole, both
        yield f"{name} (the sum of a lane * scale of weights) and scale of x", Sum(found.tree, bits, fused), with_w, x
        yield f"{name} (the sum of a lane * scale of x) and scale of weights", Sum(found.tree, bits, fused), with_x, w
