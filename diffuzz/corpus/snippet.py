"""An entry of the corpus as a Python program that needs NumPy only, for those who do not have diffuzz.

It has the arguments of the function to the bit, the exact result, and how large the error of each element may be; it
calls the function and prints the worst elements. Nothing of diffuzz is imported, and nothing runs while it is written
but diffuzz's own implementations.
"""

from __future__ import annotations

import base64
import keyword
import zlib
from collections.abc import Iterable, Iterator

import attrs
import numpy as np

from diffuzz import kernels, targets
from diffuzz.cases.encoding import READABLE_RUNS, hex_float
from diffuzz.cases.text import blocks_text, runs_text
from diffuzz.corpus.entry import Counterexample
from diffuzz.escaping import escaped
from diffuzz.judging import company
from diffuzz.judging.handing import Handing
from diffuzz.judging.opening import is_python
from diffuzz.judging.pair import EXACT
from diffuzz.judging.question import CANDIDATE, Judge
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Call, Contract
from diffuzz.targets.outcome import Arrays

_LARGEST = float(np.finfo(np.float32).max)
_WIDTH = 100
# Names that the program has for itself.
_TAKEN = frozenset({
    "np", "base64", "importlib", "sys", "zlib", "Path", "runs", "packed", "load", "compare", "apart", "together",
    "ml_dtypes", "torch", "jax", "of_torch", "of_jax", "DEVICE", "WIDE",
    "function", "exact", "allowance", "promised", "nan_is_right", "rounding", "FILE", "FUNCTION", "result",
})  # fmt: skip

_RUNS = '''
def runs(dtype, shape, text):
    """An array of runs of equal numbers, in hexadecimal so that each bit is as it was: "0x1p+0 x 3, -inf"."""
    parts = [part.split(" x ") for part in text.split(", ")]
    read = float.fromhex if np.dtype(dtype).kind == "f" else int
    counts = [int(part[1]) if len(part) > 1 else 1 for part in parts]
    return np.repeat(np.array([read(part[0]) for part in parts], dtype), counts).reshape(shape)
'''
_PACKED = '''
def packed(dtype, shape, text):
    """An array of its bytes."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).reshape(shape).copy()
'''
_LOAD = '''
def load(file, name):
    """The function of a file, which is run now."""
    spec = importlib.util.spec_from_file_location("under_test", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["under_test"] = module
    sys.path.append(str(Path(file).resolve().parent))
    spec.loader.exec_module(module)
    return getattr(module, name)
'''
_WITHIN = '''
def compare(title, result):
    """Print the elements of a result that are farthest from the exact one, in terms of what is allowed there."""
    result = np.asarray(result)
    if result.size != exact.size:
        return print(f"{title}: {result.dtype}{list(result.shape)} has {result.size} elements, not {exact.size}")
    given = result.astype(np.float64).ravel()
    error = np.where(given == exact, 0.0, np.abs(given - exact))
    ratio = np.where(np.isfinite(error), np.where(error > 0, error / allowance, 0.0), np.inf)
    # Where a number overflows nothing is promised.
    ratio[~(np.isfinite(allowance) & (np.abs(exact) <= np.finfo(np.float32).max))] = 0.0
    print(f"{title}: at most {ratio.max():.9g} times the error that is allowed")
    for i in np.argsort(-ratio, kind="stable")[:5]:
        print(
            f"  element {i}: {given[i]:.9g}, exact {exact[i]:.9g}, difference {error[i]:.3g}, "
            f"allowed {allowance[i]:.3g}, {ratio[i]:.9g} times that"
        )
'''
_TORCH = '''
def of_torch(function):
    """A function of arrays of NumPy that calls one of tensors, to the bit."""

    def given(value):
        if not isinstance(value, np.ndarray):
            return value
        name = value.dtype.name
        if not name.startswith(("bfloat16", "float8")):
            return torch.from_numpy(value).to(DEVICE)
        bits = torch.from_numpy(value.view(np.int16 if value.itemsize == 2 else np.uint8))
        return bits.view(getattr(torch, name)).to(DEVICE)

    def taken(result):
        if isinstance(result, (tuple, list)):
            return tuple(map(taken, result))
        if not isinstance(result, torch.Tensor):
            return result
        here, name = result.detach().cpu(), str(result.dtype).removeprefix("torch.")
        if not name.startswith(("bfloat16", "float8")):
            return here.numpy()
        import ml_dtypes

        return here.view(torch.int16 if here.itemsize == 2 else torch.uint8).numpy().view(getattr(ml_dtypes, name))

    def called(*rest, **named):
        return taken(function(*map(given, rest), **{name: given(one) for name, one in named.items()}))

    return called
'''
_JAX = '''
def of_jax(function):
    """A function of arrays of NumPy that calls one of arrays of JAX, of 64 bits too."""
    jax.config.update("jax_enable_x64", WIDE)
    device = jax.devices(DEVICE.partition(":")[0])[int(DEVICE.partition(":")[2] or 0)]

    def given(value):
        return jax.device_put(value, device) if isinstance(value, np.ndarray) else value

    return lambda *rest, **named: function(*map(given, rest), **{name: given(one) for name, one in named.items()})
'''
_FIXED = '''
def compare(title, result):
    """Print the first elements of a result that are not the right ones."""
    result = np.asarray(result)
    if result.size != exact.size:
        return print(f"{title}: {result.dtype}{list(result.shape)} has {result.size} elements, not {exact.size}")
    given = result.ravel()
    wrong = (given != exact) & ~((given != given) & ((exact != exact) | nan_is_right)) & promised
    print(f"{title}: {wrong.sum()} of {exact.size} elements are not the right ones")
    for i in np.flatnonzero(wrong)[:5]:
        print(f"  element {i}: {given[i]!s}, right is {exact[i]!s}")
'''
_TOGETHER = '''
def together(title, result, wanted):
    """The numbers of all results; says so where they are not what is wanted. An index may be of any integer type."""
    several = [np.asarray(one) for one in (result if isinstance(result, (tuple, list)) else (result,))]
    given = [(str(one.dtype), one.shape) for one in several]
    alike = [("int32" if one.dtype.kind in "iub" else str(one.dtype), one.shape) for one in several]
    if alike != wanted:
        said, needed = (" ".join(str(part) for one in each for part in one) for each in (given, wanted))
        print(title, "returns", said, "and not", needed)
    return np.concatenate([one.astype(np.float64).ravel() for one in several])
'''
_APART = '''
def apart(one, other):
    """Print where two results are farthest apart, in terms of what rounding alone allows."""
    a, b = (np.asarray(each).astype(np.float64).ravel() for each in (one, other))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    ratio = np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b) / rounding, np.inf)
    ratio = np.where(same | ~(np.isfinite(allowance) & (np.abs(exact) <= np.finfo(np.float32).max)), 0.0, ratio)
    i = int(ratio.argmax())
    print(f"apart: {ratio[i]:.9g} times what rounding allows, at element {i}: {a[i]:.9g} and {b[i]:.9g}")
'''


@attrs.frozen
class _Batch:
    """What one call shows: a title, its arrays, and the places of the case in it."""

    title: str
    arrays: Arrays
    places: tuple[int, ...]


def snippet(entry: Counterexample, candidate: Judge | None = None) -> str:
    """The program of an entry. ``candidate`` is the function to call, if it is not where the entry says."""
    contract = targets.get(entry.target).contract
    if contract is None or not entry.judges:
        return _program(
            _head(entry, "its claim is about the arithmetic, so there is no function to call"), _claim(entry)
        )
    called = entry.candidate if candidate is None else candidate.name
    placed = called is None or not is_python(called)
    how = "it has a place for a function" if placed else "run it where the file of the function is"
    return _program(_head(entry, how), _judged(entry, contract, candidate))


def _head(entry: Counterexample, how: str) -> list[str]:
    who = entry.candidate or (" against ".join(entry.kernels) if entry.kernels else "the claim")
    who = who if entry.result is None else entry.result.engine
    params = ", ".join(f"{name}={value}" for name, value in entry.params.items())
    said = [
        f"{entry.target}: {who}, {entry.value:.9g} on this input, where at most {entry.threshold:.9g} is right.",
        "",
        f"Measure: {entry.measure}.",
        f"Parameters: {params}.",
        f"Entry {entry.digest[:12]} of a corpus of diffuzz. This program needs NumPy only; {how}.",
    ]
    # A text of others is no code: neither the end of a string, nor an escape.
    text = "\n".join(said).replace("\\", "\\\\").replace('"""', "'''")
    return [f'"""{text}\n"""']


def _program(head: list[str], body: list[str]) -> str:
    """The program, with those helpers and imports that it uses."""
    text = "\n".join(body)
    helpers = [
        helper
        for name, helper in (
            ("runs(", _RUNS), ("packed(", _PACKED), ("load(", _LOAD), ("of_torch(", _TORCH), ("of_jax(", _JAX),
            ("promised", _FIXED), ("allowance", _WITHIN),
            ("apart(", _APART), ("together(", _TOGETHER),
        )
        if name in text
    ]  # fmt: skip
    used = "\n".join(helpers)
    plain = [name for name in ("base64", "importlib.util", "sys", "zlib") if f"{name}." in used]
    packages = [
        name for name, mark in (("jax", "of_jax("), ("ml_dtypes", "ml_dtypes."), ("torch", "of_torch(")) if mark in text
    ]
    others = [f"import {name}" for name in packages]
    if packages:
        listed = " and ".join([", ".join(["NumPy", *packages[:-1]]), packages[-1]])
        head = [line.replace("needs NumPy only", f"needs {listed} only") for line in head]
    imports = [f"import {name}" for name in plain] + (["from pathlib import Path"] if "Path(" in used else [])
    return "\n".join([*head, "", *imports, *([""] if imports else []), *others, "import numpy as np", used, text, ""])


def _claim(entry: Counterexample) -> list[str]:
    """The arrays of the case and, where the claim is about a small move, what they move to."""
    question, arrays = targets.get(entry.target).question, dict(entry.case.arrays)
    space = entry.space
    lines = [""]
    for name, array in arrays.items():
        spec = space[name]
        comments = blocks_text(spec, array) if spec.kind == "blocks" else []
        lines += [*(f"# {line}" for line in comments), *_assigned(name, array)]
    names = [*arrays]
    if isinstance(question, Amplification):
        moved = question.move(entry.params, entry.case.batch())[0]
        lines.append("# The inputs, moved.")
        for name in question.inputs(entry.params):
            lines += _assigned(f"{name}_moved", np.asarray(moved[name])[0])
            names.append(f"{name}_moved")
    return [*lines, "", *(f'print("{name}", {name}.dtype, {name})' for name in names)]


def _judged(entry: Counterexample, contract: Contract, candidate: Judge | None) -> list[str]:
    params, batch = entry.params, entry.space.filled(entry.case.batch())
    with np.errstate(all="ignore"):
        lines = ["", 'np.seterr(all="ignore")', "", *_right(entry, contract, batch)]
        lines += ["", *_function(entry, candidate)]
        for place, one in enumerate(_batches(entry, contract)):
            lines += ["", f"# {one.title[0].upper()}{one.title[1:]}."]
            calls = contract.calls(params, one.arrays)
            lines += list(_called(entry, calls, one, suffix="" if place == 0 else f"_{place + 1}"))
        lines += _sides(entry, contract, batch)
    return lines


def _right(entry: Counterexample, contract: Contract, batch: Arrays) -> Iterator[str]:
    """The right result, and what else is right."""
    params = entry.params
    if contract.allowance is not None:
        yield "# The exact result, in float64, and the a-priori bound of the error of each element."
        yield from _assigned("exact", np.asarray(contract.exact(params, batch), np.float64).ravel())
        yield from _assigned("allowance", np.asarray(contract.allowance(params, batch), np.float64).ravel())
        return
    reference = np.asarray(contract.reference(params, batch))
    truth = np.asarray(contract.exact(params, batch)) if EXACT in contract.kernels(params) else reference
    yield "# The result, which is fixed, and the elements for which it is."
    yield from _assigned("exact", truth.astype(reference.dtype).ravel())
    promised, nan = np.ones(truth.size, np.uint8), np.zeros(truth.size, np.uint8)
    if contract.accepts is not None:
        # What takes two opposite results takes any.
        low, high = (contract.accepts(params, batch, np.full_like(reference, bits)).ravel() for bits in (0, 255))
        promised = (~(low & high)).astype(np.uint8)
        if reference.dtype.kind == "f":
            nan = contract.accepts(params, batch, np.full_like(reference, np.nan)).ravel().astype(np.uint8)
    if params.get("ties") == "any":
        yield "# With ties=any the other code of an exact half is right as well, which is not seen here."
    yield from _assigned("promised", promised, " != 0")
    yield from _assigned("nan_is_right", nan, " != 0")


def _function(entry: Counterexample, candidate: Judge | None) -> Iterator[str]:
    """The function that is called: of a file, or what is put in its place."""
    given = None if candidate is None or not isinstance(candidate.implementation, str) else candidate.implementation
    name = given or entry.candidate
    if name is None:
        yield "# Put a function of your own here, to hold it against the same."
        yield "function = None"
        return
    if not is_python(name):
        # A text of others is no code, and this is one line.
        yield f"# It was found with {escaped(name)}, which is not of Python."
        yield "# Put a function here that calls it, or one of your own, to hold it against the same."
        yield "function = None"
        return
    file, _, function = name.rpartition(":")
    yield "# The function that is judged; put another file, or a function of your own, here."
    yield f"FILE, FUNCTION = {file!r}, {function!r}"
    yield "function = load(FILE, FUNCTION)"
    asked = Judge(name) if candidate is None else candidate
    handing = asked.as_recorded(Handing.recorded(entry.environment)).handing
    if handing.packages:
        # Arrays that speak DLPack are those of NumPy here.
        yield f"DEVICE = {handing.device!r}"
        if handing.arrays == "jax":
            wide = [one for one in entry.case.arrays.values() if one.dtype.itemsize == 8]
            yield f"WIDE = {bool(wide) or entry.params.get('dtype') == 'float64'}"
        yield f"function = of_{handing.arrays}(function)"


def _batches(entry: Counterexample, contract: Contract) -> Iterator[_Batch]:
    """The case alone and, if it was worse beside other rows, beside those (see diffuzz.judging.company)."""
    batch = entry.space.filled(entry.case.batch())
    by_chance = "" if entry.chance is None else f" ({entry.chance}: call it again and again)"
    yield _Batch(f"what the function is called with{by_chance}", batch, (0,))
    scalars = [scalar.array for scalar in contract.scalars]
    if entry.company is not None:
        needed = entry.company.completed(entry.space).around(batch, scalars)
        place = len(entry.company.before)
        yield _Batch(f"the same row beside those that it needs, in one call{by_chance}", needed, (place,))
    elif contract.batched and "alone" in entry.found:
        for beside, places in zip(company.standard(entry.space, batch, scalars), company.PLACES, strict=True):
            yield _Batch("the same row beside others, in one call", beside, places)


def _called(entry: Counterexample, calls: Iterable[Call], batch: _Batch, suffix: str) -> Iterator[str]:
    """The arguments of each call, the call, and what is printed of its result."""
    contract = targets.get(entry.target).contract
    names = () if contract is None else contract.arguments
    title, results = entry.candidate or "the function", []
    for number, call in enumerate(calls):
        own = f"{suffix}{'' if number == 0 else f'_{number + 1}'}"
        arguments = call.by_name(names)
        variables = {name: _variable(f"{name}{own}") for name in arguments}
        for name, value in arguments.items():
            yield from _argument(entry, name, variables[name], value)
        words = [variables[name] for name in arguments if name not in call.named]
        words += [f"{name}={variables[name]}" for name in call.named]
        results.append(f"function({', '.join(words)})")
    yield "if function is not None:"
    yield "    try:"
    together = results[0] if len(results) == 1 else f"np.concatenate([np.ravel(one) for one in ({', '.join(results)})])"
    if contract is not None and contract.results is not None:
        rows = (len(next(iter(batch.arrays.values()))),) if contract.batched else ()
        expected = [
            ("int32" if one.dtype.startswith(("int", "uint", "bool")) else one.dtype, (*rows, *one.shape))
            for one in contract.results(entry.params, batch.arrays)
        ]
        together = f"together({title!r}, {together}, {expected})"
    yield f"        result{suffix} = np.asarray({together})"
    if contract is not None and contract.results is None and len(results) == 1:
        like = np.asarray(contract.reference(entry.params, batch.arrays))
        wanted = (str(like.dtype), like.shape if contract.batched else like.shape[1:])
        returned = f"(str(result{suffix}.dtype), result{suffix}.shape)"
        yield f"        if {returned} != {wanted}:"
        yield f"            print({title!r}, 'returns', *{returned}, 'and not', *{wanted})"
    yield "    except Exception as error:"
    yield f"        print({title!r}, 'raises', type(error).__name__, error)"
    yield "    else:"
    if not suffix:
        yield f"        compare({title!r}, result{suffix})"
    for place in batch.places if suffix else ():
        yield f"        compare({f'{title}, row {place}'!r}, result{suffix}[{place}])"


def _argument(entry: Counterexample, name: str, variable: str, value: object) -> Iterator[str]:
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        spec = next((spec for spec in entry.space.tensors if spec.name == name and spec.kind == "blocks"), None)
        if spec is not None and array.ndim:
            yield from (f"# {line}" for line in blocks_text(spec, array))
        if array.dtype.kind == "V" or array.dtype.name.startswith("float8"):
            yield from _assigned(variable, array.astype(np.float32), f".astype(ml_dtypes.{array.dtype.name})")
        else:
            yield from _assigned(variable, array)
    else:
        yield f"{variable} = {value!r}"


def _sides(entry: Counterexample, contract: Contract, batch: Arrays) -> list[str]:
    """Of two kernels that are compared, what each of them gives, as far as they are here, and how far it is apart."""
    if entry.kernels is None:
        return []
    lines, known = [""], []
    for side, name in zip("ab", entry.kernels, strict=True):
        if name == CANDIDATE:
            known.append("result")
            continue
        result, why = _of_kernels(entry, contract, batch, name)
        if result is None:
            lines.append(f"# What {name} gives is not known here: {why}")
            continue
        lines += [f"# What {name} gives.", *_assigned(f"result_{side}", result), f"compare({name!r}, result_{side})"]
        known.append(f"result_{side}")
    if len(known) == 2 and contract.allowance is not None:
        rounding = np.asarray((contract.rounding or contract.allowance)(entry.params, batch), np.float64).ravel()
        shares = max(sum(name != EXACT for name in entry.kernels), 1)
        lines += [*_assigned("rounding", shares * rounding), f"apart({known[0]}, {known[1]})"]
    return lines


def _of_kernels(entry: Counterexample, contract: Contract, batch: Arrays, name: str) -> tuple[np.ndarray | None, str]:
    if "@" in name:
        return None, "it is of a build of the library that is elsewhere"
    if (why := kernels.missing(name)) is not None:
        return None, why
    try:
        return np.asarray(contract.run(entry.params, batch, kernels.get(name))), ""
    except Exception as error:  # it crashes, hangs or raises on this case, which is the finding
        return None, f"{type(error).__name__} on this input"


def _variable(name: str) -> str:
    return f"{name}_" if name in _TAKEN or keyword.iskeyword(name) else name


def _assigned(variable: str, array: np.ndarray, after: str = "") -> Iterator[str]:
    """``variable = array``, each bit as it is: runs of numbers where they are few, or else bytes."""
    little = array.dtype.newbyteorder("<")
    dtype, shape = np.dtype(little).str, array.shape
    flat = np.ascontiguousarray(array).astype(little).ravel()
    edges = np.flatnonzero(_bits(flat)[1:] != _bits(flat)[:-1]) + 1
    starts, ends = [0, *edges.tolist()], [*edges.tolist(), flat.size]
    if len(starts) > READABLE_RUNS:
        text = base64.b64encode(zlib.compress(flat.tobytes(), 9)).decode("ascii")
        yield f"{variable} = packed({dtype!r}, {shape}, ("
        yield from (f"    {text[at : at + _WIDTH]!r}" for at in range(0, len(text), _WIDTH))
        yield f")){after}"
        return
    written = [
        _number(flat[start]) + (f" x {end - start}" if end - start > 1 else "")
        for start, end in zip(starts, ends, strict=True)
    ]
    comment = "" if flat.dtype.kind != "f" else f"  # {runs_text(array)}"
    yield f'{variable} = runs({dtype!r}, {shape}, "{", ".join(written)}"){after}{comment}'


def _bits(flat: np.ndarray) -> np.ndarray:
    return flat.view(f"u{flat.dtype.itemsize}")


def _number(value: np.generic) -> str:
    if value.dtype.kind != "f":
        return str(int(value))
    return hex_float(float(value)) if np.isfinite(value) else str(float(value))
