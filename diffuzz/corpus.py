"""The corpus: one readable JSON file per witness, ``corpus/<target>/<digest12>.json``, that any later run can measure
again.

An entry holds concrete bits, never choice sequences or pickles: target, parameters, arrays, measure, value, bound,
verdict, how it was found, and what a replay must give. Loading one runs no code and is strict: an unknown or missing
field, a wrong type, a shape outside the space, or a digest that does not match is a CorpusError of one line; so is an
entry that could not be loaded again, before it is saved. Files are written beside their place and renamed into it.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from diffuzz import __version__, encoding, targets
from diffuzz.case import Case
from diffuzz.encoding import EncodingError, hex_float, parse_hex_float
from diffuzz.space import Space
from diffuzz.target import Params, Target
from diffuzz.verdict import Verdict

SCHEMA = 1
# Parsing JSON takes up to thirty times the memory of its text.
LARGEST_FILE = 2**24
# Two cases have one mechanism if each array has the same number of distinct values, or this many in both.
MANY = 8
_LONGEST_REASON = 300
_DIGEST12 = re.compile(r"[0-9a-f]{12}")


class CorpusError(ValueError):
    """A corpus file that cannot be read, trusted or written; one line with the file, the field, and what to do."""


@attrs.frozen
class Counterexample:
    """One entry. ``value`` and ``noise`` are the measurement when it was saved, which a replay must give again within
    ``tolerance``.

    ``bound`` is ``{"value", "rounding", "because"}`` or None; ``found`` says how: engine, seed, evaluations, command;
    ``candidate`` is the ``FILE.py:FUNCTION`` that it was found with, if any.
    """

    target: str
    params: Mapping[str, Any]
    case: Case
    measure: str
    value: float
    noise: float
    limit: float
    bound: Mapping[str, Any] | None
    verdict: Verdict
    tolerance: float
    found: Mapping[str, Any]
    environment: Mapping[str, Any]
    candidate: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over target, parameters, candidate and the case's own digest, in hexadecimal."""
        key = [self.target, sorted(self.params.items()), self.candidate, self.case.digest]
        return sha256(json.dumps(key).encode()).hexdigest()

    @property
    def name(self) -> str:
        """``<target>/<digest12>.json``."""
        return f"{self.target}/{self.digest[:12]}.json"


@cache
def environment() -> dict[str, str]:
    """Where a value was measured: versions, platform, processor and the instruction sets that matter to kernels."""
    found = {
        "diffuzz": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
    }
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    found["cpu"] = fields.get("model name", found["cpu"])
    flags = set(fields.get("flags", "").split())
    found["cpu_flags"] = " ".join(
        f for f in ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni") if f in flags
    )
    return found


def device() -> dict[str, str]:
    """The accelerator and version of JAX, if this process has used JAX; replaying and listing never load it."""
    jax = sys.modules.get("jax")
    if jax is None:
        return {}
    return {"jax": jax.__version__, "device": str(jax.devices()[0].device_kind)}


def dumps(entry: Counterexample, indent: int | None = 1) -> str:
    """The entry as JSON text; floats are hexadecimal, with the decimal beside the value for people."""
    stored = {
        "diffuzz": SCHEMA,
        "target": entry.target,
        "params": dict(entry.params),
        "candidate": entry.candidate,
        "verdict": entry.verdict.value,
        "measure": entry.measure,
        "value": {"decimal": _decimal(entry.value), "hex": _float_text(entry.value)},
        "noise": _float_text(entry.noise),
        "limit": _float_text(entry.limit),
        "bound": None if entry.bound is None else dict(entry.bound),
        "tolerance": entry.tolerance,
        "arrays": {name: encoding.encode(array) for name, array in entry.case.arrays.items()},
        "found": dict(entry.found),
        "environment": dict(entry.environment),
        "digest": entry.digest,
    }
    return json.dumps(stored, indent=indent, allow_nan=False)


def _float_text(value: float) -> str:
    return hex_float(value) if math.isfinite(value) else str(value)


def _decimal(value: float) -> str:
    return f"{value:.9g}"


def load(path: Path) -> Counterexample:
    """The entry in a file. Raises CorpusError, one line."""
    text = _read_text(path)
    try:
        return _loads(text, path.stem)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: {_reason(error)}; restore the file, or delete it and search again") from error


class _FieldError(ValueError):
    """A field that is not as it must be."""


def _reason(error: BaseException) -> str:
    """An error as one line that a terminal can show, however hostile the text that it quotes."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON, or cut short (line {error.lineno}: {error.msg})"
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "..."


def _read_text(path: Path) -> str:
    try:
        _check_regular(path)
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
        if len(raw) > LARGEST_FILE:
            raise CorpusError(f"{path}: larger than {LARGEST_FILE} bytes, so no corpus entry")
        return raw.decode("utf-8")
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or _reason(error)}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text (byte {error.start}); restore the file, or delete it") from error


def _check_regular(path: Path) -> None:
    # Before it is opened: opening a named pipe would wait for a writer.
    if not stat.S_ISREG(path.stat().st_mode):
        raise CorpusError(f"{path}: is no regular file; name a corpus entry (.json) or a file of arrays")


def _loads(text: str, stem: str) -> Counterexample:
    """Inverse of ``dumps``; a stem like a digest must be the entry's. Raises ValueError or RecursionError."""
    stored = json.loads(
        text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite_from_text
    )
    return _from_json(stored, stem)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _FieldError("a field is there twice")
    return found


def _no_constant(text: str) -> Any:
    raise _FieldError(f"{text} is not a JSON number")


def _finite_from_text(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise _FieldError(f"{text} is not a finite number")
    return number


def _from_json(stored: Any, stem: str) -> Counterexample:
    wanted = {
        "diffuzz": int, "target": str, "params": dict, "candidate": (str, type(None)), "verdict": str, "measure": str,
        "value": dict, "noise": str, "limit": str, "bound": (dict, type(None)), "tolerance": (int, float),
        "arrays": dict, "found": dict, "environment": dict, "digest": str,
    }  # fmt: skip
    _check_fields(stored, wanted, "the entry")
    if stored["diffuzz"] != SCHEMA:
        raise _FieldError(f"diffuzz: schema {stored['diffuzz']}, where this version reads {SCHEMA}")
    target = targets.get(stored["target"])
    params = _params(target, stored["params"])
    if stored["candidate"] is not None and target.contract is None:
        raise _FieldError(f"candidate: target {target.name} takes none")
    if not 0 <= stored["tolerance"] <= 1e-3:
        raise _FieldError(f"tolerance: {stored['tolerance']} is not between 0 and 0.001")
    for group in ("found", "environment"):
        _check_fields(stored[group], dict.fromkeys(stored[group], (str, int, float)), group)
    if stored["verdict"] not in Verdict.__members__:
        raise _FieldError(f"verdict: {stored['verdict']!r} is none of {', '.join(Verdict.__members__)}")
    entry = Counterexample(
        target=target.name,
        params=params,
        case=_case(target, params, stored["arrays"], stored["candidate"]),
        measure=stored["measure"],
        value=_value(stored["value"]),
        noise=_float_of(stored["noise"], "noise"),
        limit=_float_of(stored["limit"], "limit"),
        bound=_bound(stored["bound"]),
        verdict=Verdict(stored["verdict"]),
        tolerance=float(stored["tolerance"]),
        found=stored["found"],
        environment=stored["environment"],
        candidate=stored["candidate"],
    )
    if entry.digest != stored["digest"]:
        raise _FieldError("digest: does not match target, params and arrays; the file was edited")
    if _DIGEST12.fullmatch(stem) and not entry.digest.startswith(stem):
        raise _FieldError(f"the file's name is not the digest {entry.digest[:12]}")
    return entry


def _check_fields(stored: Any, wanted: Mapping[str, Any], where: str) -> None:
    if not isinstance(stored, dict):
        raise _FieldError(f"{where}: an object is needed")
    unknown, missing = sorted(set(stored) - set(wanted)), sorted(set(wanted) - set(stored))
    if unknown or missing:
        what = f"unknown field {unknown[0]!r}" if unknown else f"missing field {missing[0]!r}"
        raise _FieldError(f"{where}: {what}")
    for name, kinds in wanted.items():
        if not isinstance(stored[name], kinds) or isinstance(stored[name], bool):
            raise _FieldError(f"{where}: {name} has the wrong type, {type(stored[name]).__name__}")
        # What is shown on a terminal must not control it.
        if not name.isprintable() or (isinstance(stored[name], str) and not stored[name].isprintable()):
            raise _FieldError(f"{where}: {name!r} has characters that cannot be printed")


def _params(target: Target, stored: dict[str, Any]) -> Params:
    params = target.params(stored)
    for name, value in params.items():
        if name not in stored:
            raise _FieldError(f"params: {name} is missing")
        if type(stored[name]) is not type(value) or stored[name] != value:
            raise _FieldError(f"params: {name} is not of its parameter's type, {type(value).__name__}")
    return params


def _value(stored: dict[str, Any]) -> float:
    _check_fields(stored, {"decimal": str, "hex": str}, "value")
    value = _float_of(stored["hex"], "value")
    if stored["decimal"] != _decimal(value):
        raise _FieldError(f"value: decimal {stored['decimal']} is not {_decimal(value)}, which hex says")
    return value


def _bound(stored: dict[str, Any] | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    _check_fields(stored, {"value": (int, float), "rounding": (int, float), "because": str}, "bound")
    if not 0 <= stored["value"] <= sys.float_info.max or not 0 <= stored["rounding"] <= sys.float_info.max:
        raise _FieldError("bound: value and rounding are not finite numbers of at least 0")
    return {"value": float(stored["value"]), "rounding": float(stored["rounding"]), "because": stored["because"]}


def _case(target: Target, params: Params, stored: dict[str, Any], candidate: str | None) -> Case:
    admissible = space(target, params, candidate)
    _check_fields(stored, {spec.name: dict for spec in admissible.tensors}, "arrays")
    arrays = {}
    for spec in admissible.tensors:
        try:
            # The shape first: a few characters may ask for any amount of memory.
            spec.sizes(np.broadcast_to(np.float32(0), encoding.decoded_shape(stored[spec.name])))
            arrays[spec.name] = encoding.decode(stored[spec.name])
        except EncodingError as error:
            raise _FieldError(f"arrays.{spec.name}: {error}") from error
    case = Case(arrays)
    admissible.check(case)
    return case


def space(target: Target, params: Params, candidate: str | None) -> Space:
    """The space of the cases of an entry: the contract's, where it was found with a candidate."""
    if candidate is not None and target.contract is not None and target.contract.space is not None:
        return target.contract.space(params)
    return target.space(params)


def _float_of(text: str, where: str) -> float:
    if text == "inf":
        return math.inf
    try:
        return parse_hex_float(text)
    except EncodingError as error:
        raise _FieldError(f"{where}: {error}") from error


def load_arrays(path: Path) -> Case:
    """The case in a ``.npz`` or ``.safetensors`` file of named arrays. Raises CorpusError, or ImportError without
    safetensors.
    """
    if path.suffix not in (".npz", ".safetensors"):
        raise CorpusError(f"{path}: a case is a .json corpus entry, a .npz or a .safetensors file")
    try:
        _check_regular(path)
        return Case(_npz(path) if path.suffix == ".npz" else _safetensors(path))
    except (ImportError, CorpusError):
        raise
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: {error.strerror}") from error
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise CorpusError(
            f"{path}: not a readable {path.suffix} file of float32, int32 or uint8 arrays: {_reason(error)}"
        ) from error


def _npz(path: Path) -> dict[str, np.ndarray]:
    # np.load leaves a file that it opened itself open when the archive is damaged.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise ImportError("reading .safetensors needs the package safetensors: pip install safetensors") from error
    loaded: dict[str, np.ndarray] = load_file(path)
    return loaded


def check_writable(directory: Path) -> None:
    """Raise CorpusError now, rather than after a search, if nothing can be saved in ``directory``."""
    existing = next(p for p in (directory, *directory.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise CorpusError(f"{directory}: cannot be written; choose another folder with --corpus, or --no-save")


def save(entry: Counterexample, directory: Path, *, always: bool = False) -> Path:
    """Write an entry to ``directory`` and return its path, or that of the entry there to which it adds nothing.

    An entry adds something unless the corpus has one of the same target, parameters and candidate with at least its
    value, by the same mechanism (see ``mechanism``). ``always`` writes it anyway. Raises CorpusError if it cannot be
    written, or could not be loaded again.
    """
    path = directory / entry.name
    known = None if always else _as_good(entry, directory)
    if known is not None:
        return known
    text = _checked_text(entry, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(text, path)
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be written ({error.strerror}); choose another folder with --corpus"
        ) from error
    return path


def _checked_text(entry: Counterexample, path: Path) -> str:
    try:
        text = dumps(entry) + "\n"
        if len(text) > LARGEST_FILE:
            raise _FieldError(f"it has {len(text)} bytes, where {LARGEST_FILE} may be loaded; search smaller shapes")
        _loads(text, path.stem)
    except ValueError as error:
        raise CorpusError(f"{path}: not saved, because it could not be loaded again: {_reason(error)}") from error
    return text


def _write(text: str, path: Path) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _as_good(entry: Counterexample, directory: Path) -> Path | None:
    """An entry of the corpus that leaves nothing to add, or None."""
    key = (dict(entry.params), entry.candidate, mechanism(entry.case))
    for path in files([directory / entry.target]) if (directory / entry.target).is_dir() else ():
        try:
            other = load(path)
        except CorpusError:
            continue
        if (dict(other.params), other.candidate, mechanism(other.case)) == key and other.value >= entry.value:
            return path
    return None


def mechanism(case: Case) -> tuple[tuple[str, int], ...]:
    """What makes two witnesses alike: by array, the number of distinct values, capped at MANY."""
    return tuple((name, min(MANY, len(np.unique(array)))) for name, array in case.arrays.items())


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The corpus files that ``paths`` name: files as they are, folders with every ``.json`` below them, sorted.

    Raises CorpusError for a path that does not exist.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(_below(path))
        elif path.exists():
            yield path
        else:
            raise CorpusError(f"{path}: there is no such file or folder")


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        # A folder that cannot be listed would otherwise be skipped without a word.
        raise CorpusError(f"{error.filename}: {error.strerror}") from error

    for at, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(at, name) for name in names if name.endswith(".json") and not name.startswith("."))
