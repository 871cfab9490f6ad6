"""Folders as llama.cpp is released with: of many builds of the CPU backend the one that runs here is taken, and what a
build does not have is named. The libraries are miniatures, compiled here.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from diffuzz import formats, kernels
from diffuzz.cli import main
from diffuzz.kernels import libggml
from diffuzz.kernels.names import MissingKernelsError
from diffuzz.targets.matvec import WEIGHT_FORMATS

COMPILER = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")

# As much of ggml as one graph takes: a tensor is an array, and computing a graph is doing it.
BASE = r"""
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
struct tensor { size_t bytes; float *data; struct tensor *from; struct tensor *next; };
struct context { struct tensor *first; };
struct init { size_t size; void *buffer; bool no_alloc; };
struct context *ggml_init(struct init how) { return calloc(1, sizeof(struct context)); }
void ggml_free(struct context *c) {}
struct tensor *ggml_new_tensor(struct context *c, int type, int n, const int64_t *sizes) {
    struct tensor *made = calloc(1, sizeof *made);
    made->bytes = 4;
    for (int i = 0; i < n; i++) made->bytes *= sizes[i];
    made->next = c->first;
    return c->first = made;
}
size_t ggml_nbytes(struct tensor *t) { return t->bytes; }
struct tensor *ggml_get_first_tensor(struct context *c) { return c->first; }
struct tensor *ggml_get_next_tensor(struct context *c, struct tensor *t) { return t->next; }
void *ggml_backend_cpu_buffer_from_ptr(void *at, size_t bytes) { return at; }
void ggml_backend_buffer_free(void *buffer) {}
void ggml_backend_tensor_alloc(void *buffer, struct tensor *t, void *at) { t->data = at; }
void *ggml_new_graph(struct context *c) { return calloc(1, sizeof(void *)); }
void ggml_build_forward_expand(struct tensor **graph, struct tensor *t) { *graph = t; }
struct tensor *ggml_silu(struct context *c, struct tensor *x) {
    struct tensor *made = calloc(1, sizeof *made);
    made->bytes = x->bytes; made->from = x; made->next = c->first;
    return c->first = made;
}
void dequantize_row_q8_0(const void *blocks, float *out, int64_t n) { for (int64_t i = 0; i < n; i++) out[i] = 7; }
const char *ggml_version(void) { return "9.8.7"; }
const char *ggml_commit(void) { return "abc"; }
"""
BACKEND = r"""
#include <stddef.h>
#include <stdlib.h>
struct tensor { size_t bytes; float *data; struct tensor *from; struct tensor *next; };
void ggml_cpu_init(void) {}
void *ggml_backend_cpu_init(void) { return "cpu"; }
void ggml_backend_cpu_set_n_threads(void *backend, int n) {}
/* Every result is the number of the build. */
int ggml_backend_graph_compute(void *backend, struct tensor **graph) {
    for (size_t i = 0; i < (*graph)->bytes / 4; i++) (*graph)->data[i] = NUMBER;
    return 0;
}
"""
SWIGLU = """
struct tensor *ggml_swiglu_split(struct context *c, struct tensor *a, struct tensor *b) { return ggml_silu(c, a); }
"""
SCORE = "int ggml_backend_score(void) { return %s; }\n"
Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Compiles a library of a folder: its name, its source, and the number that it computes."""
    folder = tmp_path / "release"
    folder.mkdir()

    def made(name: str, source: str, number: int = 0, *flags: str) -> Path:
        (tmp_path / "source.c").write_text(source)
        command = [str(COMPILER), "-w", "-shared", "-fPIC", f"-DNUMBER={number}", str(tmp_path / "source.c")]
        subprocess.run([*command, "-o", str(folder / name), *flags], check=True, capture_output=True, timeout=60)
        return folder

    made("libggml-base.so", BASE)
    yield made
    for path, library in list(libggml._libraries.items()):
        if path[0] and path[0].startswith(str(tmp_path)):
            library.close()
            del libggml._libraries[path]


def silu(folder: Path) -> float:
    """What the build at a path computes: its number."""
    return float(kernels.get(f"libggml@{folder}").silu(np.ones((1, 4), np.float32))[0, 0])


def test_the_build_with_the_highest_score_is_taken(build: Build) -> None:
    """Of several builds the best that runs here computes, and is named; not the first, nor the plain one."""
    build("libggml-cpu-haswell.so", BACKEND + SCORE % 55, 1)
    build("libggml-cpu-icelake.so", BACKEND + SCORE % 1023, 2)
    build("libggml-cpu-zen4.so", BACKEND + SCORE % 0, 3)
    build("libggml-cpu-sse42.so", BACKEND + SCORE % 5, 4)
    folder = build("libggml-cpu.so", BACKEND, 5)
    assert silu(folder) == 2
    assert kernels.get(f"libggml@{folder}").about()["library"] == "release/libggml-cpu-icelake.so"
    assert kernels.get(f"libggml@{folder}").about()["version"] == "9.8.7 (abc)"


def test_a_build_that_crashes_or_does_not_load_is_passed_over(build: Build) -> None:
    """An illegal instruction when it is loaded, a missing library, no library at all: the others are still there."""
    crash = "__attribute__((constructor)) static void start(void) { __builtin_trap(); }\n"
    build("libggml-cpu-alderlake.so", BACKEND + SCORE % 4000 + crash, 1)
    build("libggml-cpu-cooperlake.so", BACKEND + SCORE % "absent()" + "int absent(void);", 2, "-Wl,-z,now")
    folder = build("libggml-cpu-haswell.so", BACKEND + SCORE % 55, 3)
    (folder / "libggml-cpu-zen4.so").write_text("no library")
    assert silu(folder) == 3


def test_without_a_build_for_here_the_plain_one_is_taken(build: Build) -> None:
    """As by ggml's own loader."""
    build("libggml-cpu-zen4.so", BACKEND + SCORE % 0, 1)
    assert silu(build("libggml-cpu.so", BACKEND, 2)) == 2


def test_no_build_for_here_is_one_line(build: Build) -> None:
    """In a folder, and where the build itself is named: which, and why not."""
    folder = build("libggml-cpu-zen4.so", BACKEND + SCORE % 0, 1)
    for path in (folder, folder / "libggml-cpu-zen4.so"):
        with pytest.raises(ValueError, match=r"libggml-cpu-zen4.so does not run on this processor: .* is 0$"):
            silu(path)


def test_a_score_that_crashes_is_none(build: Build) -> None:
    """It ends a process of its own, and is said; so is how many others there are."""
    build("libggml-cpu-zen4.so", BACKEND + SCORE % 0, 1)
    folder = build("libggml-cpu-sse42.so", BACKEND + SCORE % "(abort(), 9)", 1)
    with pytest.raises(
        ValueError, match=r"-sse42.so does not run on this processor: it ends with SIGABRT; nor do 1 oth"
    ):
        silu(folder)


def test_a_build_may_be_named(build: Build) -> None:
    """One that is not the best computes where its file is named, and needs no score."""
    folder = build("libggml-cpu-icelake.so", BACKEND + SCORE % 1023, 2)
    build("libggml-cpu-haswell.so", BACKEND + SCORE % 55, 1)
    assert silu(folder / "libggml-cpu-haswell.so") == 1
    build("libggml-cpu-mine.so", BACKEND, 4)
    assert silu(folder / "libggml-cpu-mine.so") == 4


def test_an_older_library_is_named(build: Build) -> None:
    """Without the function that begins everything: which function, and how old the library must be."""
    folder = build("libggml-cpu.so", BACKEND.replace("ggml_cpu_init", "ggml_other"))
    with pytest.raises(
        ValueError, match=r"libggml-base.so, libggml-cpu.so: no function ggml_cpu_init: it is older than N"
    ):
        silu(folder)


def test_an_operation_that_a_build_does_not_have_is_no_failure_of_it(build: Build) -> None:
    """An older library without swiglu, a format or a row function is not called wrong: what it lacks is named."""
    folder = build("libggml-cpu-haswell.so", BACKEND + SCORE % 55, 1)
    library, x = kernels.get(f"libggml@{folder}"), np.ones((1, 32), np.float32)
    with pytest.raises(
        MissingKernelsError, match=r"haswell.so has no function ggml_swiglu_split, which swiglu needs: it is"
    ):
        library.swiglu(x, x)
    with pytest.raises(MissingKernelsError, match=r"dequantize_row_mxfp4, which dequantize of mxfp4 needs"):
        library.dequantize("mxfp4", np.zeros((1, 17), np.uint8))
    assert (library.dequantize("q8_0", np.zeros((1, 34), np.uint8)) == 7).all()
    # Its type would not be known to an older ggml, which aborts.
    with pytest.raises(MissingKernelsError, match=r"ggml_mul_mat|dequantize_row_mxfp4"):
        library.vec_dot_rows("mxfp4", np.zeros((1, 17), np.uint8), x)
    with pytest.raises(MissingKernelsError, match=r"libggml:generic at .*ggml_vec_dot_q8_0_q8_0_generic"):
        kernels.get(f"libggml:generic@{folder}").vec_dot_rows("q8_0", np.zeros((1, 34), np.uint8), x)


def test_every_operation_says_what_it_needs(build: Build) -> None:
    """Each operation and format calls a function that this library does not have: none gets as far as to fail."""
    folder = build("libggml-cpu.so", BACKEND, 1)
    library, x = kernels.get(f"libggml@{folder}"), np.ones((1, 32), np.float32)
    calls: dict[str, Callable[[], np.ndarray]] = {
        "rms_norm": lambda: library.rms_norm(x, 1e-6),
        "norm": lambda: library.norm(x, 1e-6),
        "soft_max": lambda: library.soft_max(x),
        "gelu": lambda: library.gelu(x),
        "swiglu": lambda: library.swiglu(x, x),
        "rope": lambda: library.rope(x[:, None], np.zeros(1, np.int32), 1e4, "norm"),
        "quantize of q8_0": lambda: library.quantize("q8_0", x),
        "dequantize of q4_K": lambda: library.dequantize("q4_K", np.zeros((1, 144), np.uint8)),
    }
    for format in WEIGHT_FORMATS:
        fmt = formats.get(format)
        weights, row = np.zeros((1, fmt.type_size), np.uint8), np.ones((1, fmt.block_size), np.float32)
        calls[f"vec_dot_rows of {format}"] = partial(library.vec_dot_rows, format, weights, row)
    for name, call in calls.items():
        with pytest.raises(MissingKernelsError, match=f"which {name} needs"):
            call()


def test_reports_name_the_build(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    """A search and a matrix say which file was taken; what it does not have is exit code 3, or left out of a matrix."""
    folder = build("libggml-cpu-haswell.so", BACKEND + SCORE % 55, 1)
    common = ("--library", str(folder), "--seed", "0", "--budget", "200ms")
    with pytest.raises(SystemExit) as ended:
        main.main(["search", "--target", "swiglu", "--kernels", "ggml,libggml", *common])
    assert ended.value.code == 3
    assert capsys.readouterr().err.endswith(
        "has no function ggml_swiglu_split, which swiglu needs: it is older than July 2025\n"
    )
    with pytest.raises(SystemExit) as ended:
        main.main(["matrix", "--target", "swiglu", "--kernels", f"apr,ggml,libggml@{folder}", *common[2:]])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "has no function ggml_swiglu_split" in out
    assert out.count("Not here: ") == 1
    build("libggml-base.so", BASE + SWIGLU)
    libggml._library(str(folder.resolve()), False).close()
    libggml._library(str(folder.resolve()), False)._known.clear()
    with pytest.raises(SystemExit) as ended:
        main.main(["search", "--target", "swiglu", "--kernels", "ggml,libggml", *common, "--no-save"])
    assert ended.value.code == 1
    assert "libggml@release is libggml-cpu-haswell.so 9.8.7 (abc)." in capsys.readouterr().out


def test_names_with_a_hash(build: Build) -> None:
    """As tools for wheels rename libraries; in a folder, and the base beside a file."""
    build("libggml-base-0badc0de.so.0.13.1", BASE)
    folder = build("libggml-cpu-67036419.so.0.13.1", BACKEND, 3)
    (folder / "libggml-base.so").unlink()
    assert silu(folder) == 3


def test_a_library_that_hangs_when_it_is_asked_what_it_is(
    build: Build, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, exit 3: no case is blamed for it."""
    hangs = BASE.replace('{ return "9.8.7"; }', "{ for (;;) {} }")
    build("libggml-base.so", hangs)
    opened = libggml.native.at(str(build("libggml-cpu.so", BACKEND, 3)))
    monkeypatch.setattr(opened, "timeout", 0.5)
    asked = ("search", "--target", "swiglu", "--kernels", f"exact,libggml@{opened.path}", "--budget", "1s")
    assert main._run([*asked, "--no-save"]) == 3
    said = capsys.readouterr().err
    assert "it cannot be used: hung" in said
    assert said.count("\n") == 1
