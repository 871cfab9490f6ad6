"""``diffuzz dump``: one run of a model in an engine, with all its taps, as a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from diffuzz.cli.options import (
    BAD_INPUT,
    FILE,
    JSON,
    MODEL,
    SECONDS,
    SEQUENCE,
    TOKENS,
    VERBOSITY,
    answer_of,
    complain,
    completed,
    print_json,
    print_text,
    report,
    sequence,
)
from diffuzz.cli.tables import folded

if TYPE_CHECKING:
    from diffuzz.models.dump import Dump

# Files that one command writes.
_MOST_STEPS = 256


@click.command("dump")
@MODEL
@SEQUENCE
@click.option(
    "--engine",
    required=True,
    shell_complete=completed("model_engines"),
    metavar="NAME",
    help="hf, llama.cpp, 'run:COMMAND' or FILE.py:FUNCTION; options follow a name: hf:dtype=bfloat16,threads=4.",
)
@click.option("--out", required=True, type=FILE, metavar="FILE.safetensors", help="Where the dump is saved.")
@click.option("--patch", type=FILE, metavar="DUMP", help="Put the taps of this dump in the place of the engine's own.")
@click.option(
    "--timeout", type=SECONDS, help="Time that the run may take, loading the model included [default: the engine's]."
)
@click.option(
    "--decode",
    type=click.IntRange(1, _MOST_STEPS),
    metavar="N",
    help="Then decode so many tokens, each the most probable one, and save each step as OUT.1.safetensors and so on.",
)
@click.option("--decode-tokens", type=TOKENS, metavar="N,N,...", help="Then decode these tokens, in the same way.")
@VERBOSITY
@JSON
def command(
    model: Path,
    tokens: tuple[int, ...] | None,
    prompt: str | None,
    engine: str,
    out: Path,
    patch: Path | None,
    timeout: float | None,
    decode: int | None,
    decode_tokens: tuple[int, ...] | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run a model in an engine, and save all that it computed."""
    from diffuzz.models import dump as dumps
    from diffuzz.models import engines
    from diffuzz.models import model as models
    from diffuzz.models.model import ModelError
    from diffuzz.telling import Phase, tell

    if out.suffix != ".safetensors":
        raise click.UsageError(f"--out {out}: a dump is a .safetensors file")
    if not out.absolute().parent.is_dir():
        raise click.UsageError(f"--out {out}: there is no folder {out.parent}")
    if decode is not None and decode_tokens is not None:
        raise click.UsageError("give --decode or --decode-tokens, not both")
    steps = decode or len(decode_tokens or ())
    if steps and patch is not None:
        raise click.UsageError("--patch replaces the taps of a run over a whole prompt: leave it out to decode")
    places = [out, *(out.with_name(f"{out.stem}.{step}{out.suffix}") for step in range(1, steps + 1))]
    for place in places:
        for each in (model, patch):
            if each is not None and each.exists() and place.exists() and place.samefile(each):
                raise click.UsageError(f"--out {place}: that is an input; choose another file")
    run = engines.get(engine)
    if steps and not engines.takes_batches(run):
        raise click.UsageError(f"--engine {engine} runs whole prompts only, so it cannot decode")
    about = model
    try:
        opened = models.open(model)
        chosen = sequence(opened, tokens, prompt)
        replaced = None
        if patch is not None:
            about = patch
            replaced = dumps.read(patch)
            dumps.check_against(replaced, opened)
        if decode_tokens is not None:
            sequence(opened, (*chosen, *decode_tokens), None)
    except ModelError as error:
        return complain(f"{about}: {error}", BAD_INPUT)
    if replaced is not None and tuple(replaced.tokens.tolist()) != chosen:
        raise click.UsageError(f"--patch {patch}: it is a dump of other tokens")
    limit = {} if timeout is None or "timeout" not in engines.options_of(run) else {"timeout": timeout}
    saved: list[Saved] = []
    with engines.opened(engine, model, **limit) as running:
        for place in places:
            tell(Phase(f"running {engine}, token {len(saved)}" if saved else f"running {engine}"))
            begin = time.monotonic()
            batches = (len(chosen) - len(saved), *[1] * len(saved)) if saved else ()
            written = running.run(chosen, replaced, batches)
            seconds = time.monotonic() - begin
            if not written.taps:
                return complain(f"engine {engine}: its dump has no taps", BAD_INPUT)
            try:
                dumps.check_against(written, opened)
            except ModelError as error:
                return complain(f"engine {engine}: its dump does not fit the model: {error}", BAD_INPUT)
            try:
                dumps.write(place, written)
            except OSError as error:
                return complain(f"--out {place}: it cannot be written: {error.strerror}", BAD_INPUT)
            saved.append(Saved(written, place, seconds))
            if len(saved) < len(places):
                token = decode_tokens[len(saved) - 1] if decode_tokens else _most_probable(written)
                if token is None:
                    return complain(
                        f"engine {engine}: {place} has no logits of its last token, or such that are no numbers, so no "
                        "token can be chosen; give --decode-tokens", BAD_INPUT
                    )  # fmt: skip
                chosen = (*chosen, token)
    if as_json:
        print_json(dump_json(saved))
    else:
        print_text(answer_of(dump_text(saved), quiet))
    return 0


def _most_probable(dump: Dump) -> int | None:
    """The token that follows the last one; None where the dump does not say."""
    import numpy as np

    logits = dump.taps.get("logits")
    if logits is None:
        return None
    rows = np.asarray(dump.rows.get("logits", np.arange(len(dump.tokens))))
    last = (rows == len(dump.tokens) - 1).nonzero()[0]
    if not len(last):
        return None
    row = np.asarray(logits[last[0]]).astype(np.float64)
    return None if np.isnan(row).any() else int(row.argmax())


@attrs.frozen(eq=False)
class Saved:
    """A dump, where it was saved, and the seconds that the engine took."""

    dump: Dump
    place: Path
    seconds: float


def dump_json(saved: Sequence[Saved]) -> dict[str, object]:
    """The object of ``dump --json``."""
    first, *decoded = saved
    return {
        **_saved_json(first),
        "metadata": dict(first.dump.metadata),
        "taps": list(first.dump.taps),
        "unknown": list(first.dump.unknown),
        "decoded": [_saved_json(each) for each in decoded],
    }


def _saved_json(one: Saved) -> dict[str, object]:
    return {
        "dump": str(one.place),
        "bytes": one.place.stat().st_size,
        "seconds": one.seconds,
        "tokens": one.dump.tokens.tolist(),
    }


def dump_text(saved: Sequence[Saved]) -> str:
    """What was saved."""
    from diffuzz.models.dump import layer_of

    first, *decoded = saved
    dump = first.dump
    layers = {layer for layer in map(layer_of, dump.taps) if layer is not None}
    tokens = dump.tokens.tolist()
    said = [f"{key} {value}" for key, value in dump.metadata.items() if key in ("products", "kv", "residual")]
    lines = [
        f"saved {_place_text(first)}",
        "",
        f"  engine        {dump.metadata['engine']}",
        f"  architecture  {dump.metadata['arch']}",
        *([f"  arithmetic    {', '.join(said)}  (as the engine says)"] if said else []),
        f"  tokens        {len(tokens)}: {','.join(map(str, tokens[:12]))}{',...' if len(tokens) > 12 else ''}",
        f"  taps          {len(dump.taps)}, of {len(layers)} layer{'s' if len(layers) != 1 else ''}",
    ]
    if dump.unknown:
        lines.append(f"  ignored       {', '.join(dump.unknown[:6])}: names that are not understood")
    if decoded:
        lines.append("")
        lines += [f"  token {each.dump.tokens[0]} at position {each.dump.positions[0]}: {_place_text(each)}"
                  for each in decoded]  # fmt: skip
    return report(folded(lines))


def _place_text(one: Saved) -> str:
    return f"{one.place} ({one.place.stat().st_size / 1e6:.1f} MB, {one.seconds:.1f} s)"
