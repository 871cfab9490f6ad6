"""``diffuzz dump``: one run of a model in an engine, with all its taps, as a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    BAD_INPUT,
    FILE,
    JSON,
    MODEL,
    SECONDS,
    SEQUENCE,
    complain,
    print_json,
    print_text,
    report,
    sequence,
)

if TYPE_CHECKING:
    from diffuzz.models.dump import Dump


@click.command("dump")
@MODEL
@SEQUENCE
@click.option(
    "--engine",
    required=True,
    metavar="NAME",
    help="hf, llama.cpp, 'run:COMMAND' or FILE.py:FUNCTION; options follow a name: hf:dtype=bfloat16,threads=4.",
)
@click.option("--out", required=True, type=FILE, metavar="FILE.safetensors", help="Where the dump is saved.")
@click.option("--patch", type=FILE, metavar="DUMP", help="Put the taps of this dump in the place of the engine's own.")
@click.option(
    "--timeout", type=SECONDS, help="Time that the run may take, loading the model included [default: the engine's]."
)
@JSON
def command(
    model: Path,
    tokens: tuple[int, ...] | None,
    prompt: str | None,
    engine: str,
    out: Path,
    patch: Path | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Run a model in an engine, and save all that it computed."""
    from diffuzz.models import dump as dumps
    from diffuzz.models import engines
    from diffuzz.models import model as models
    from diffuzz.models.model import ModelError

    if out.suffix != ".safetensors":
        raise click.UsageError(f"--out {out}: a dump is a .safetensors file")
    if not out.absolute().parent.is_dir():
        raise click.UsageError(f"--out {out}: there is no folder {out.parent}")
    for each in (model, patch):
        if each is not None and each.exists() and out.exists() and out.samefile(each):
            raise click.UsageError(f"--out {out}: that is an input; choose another file")
    run = engines.get(engine)
    about = model
    try:
        opened = models.open(model)
        chosen = sequence(opened, tokens, prompt)
        replaced = None
        if patch is not None:
            about = patch
            replaced = dumps.read(patch)
            dumps.check_against(replaced, opened)
    except ModelError as error:
        return complain(f"{about}: {error}", BAD_INPUT)
    if replaced is not None and tuple(replaced.tokens.tolist()) != chosen:
        raise click.UsageError(f"--patch {patch}: it is a dump of other tokens")
    limit = {} if timeout is None or "timeout" not in engines.options_of(run) else {"timeout": timeout}
    begin = time.monotonic()
    written = run(model, chosen, patch=replaced, **limit)
    seconds = time.monotonic() - begin
    if not written.taps:
        return complain(f"engine {engine}: its dump has no taps", BAD_INPUT)
    try:
        dumps.check_against(written, opened)
    except ModelError as error:
        return complain(f"engine {engine}: its dump does not fit the model: {error}", BAD_INPUT)
    try:
        dumps.write(out, written)
    except OSError as error:
        return complain(f"--out {out}: it cannot be written: {error.strerror}", BAD_INPUT)
    if as_json:
        print_json(dump_json(written, out, seconds))
    else:
        print_text(dump_text(written, out, seconds))
    return 0


def dump_json(dump: Dump, out: Path, seconds: float) -> dict[str, object]:
    """The object of ``dump --json``."""
    return {
        "dump": str(out),
        "bytes": out.stat().st_size,
        "seconds": seconds,
        "metadata": dict(dump.metadata),
        "tokens": dump.tokens.tolist(),
        "taps": list(dump.taps),
        "unknown": list(dump.unknown),
    }


def dump_text(dump: Dump, out: Path, seconds: float) -> str:
    """What was saved."""
    from diffuzz.models.dump import layer_of

    layers = {layer for layer in map(layer_of, dump.taps) if layer is not None}
    tokens = dump.tokens.tolist()
    said = [f"{key} {value}" for key, value in dump.metadata.items() if key in ("products", "kv", "residual")]
    lines = [
        f"saved {out} ({out.stat().st_size / 1e6:.1f} MB, {seconds:.1f} s)",
        "",
        f"  engine        {dump.metadata['engine']}",
        f"  architecture  {dump.metadata['arch']}",
        *([f"  arithmetic    {', '.join(said)}  (as the engine says)"] if said else []),
        f"  tokens        {len(tokens)}: {','.join(map(str, tokens[:12]))}{',...' if len(tokens) > 12 else ''}",
        f"  taps          {len(dump.taps)}, of {len(layers)} layer{'s' if len(layers) != 1 else ''}",
    ]
    if dump.unknown:
        lines.append(f"  ignored       {', '.join(dump.unknown[:6])}: names that are not understood")
    return report(lines)
