"""``diffuzz campaign``: many searches, night after night."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffuzz.cli.annotating import ANNOTATIONS, annotate
from diffuzz.cli.options import (
    BAD_INPUT,
    CONFIRMED,
    DEFAULT_CORPUS,
    FOLDER,
    INTERRUPTED,
    JSON,
    LIBRARY,
    MISSING,
    SECONDS,
    SEED,
    VERBOSITY,
    answer_of,
    complain,
    completed,
    print_json,
    print_text,
)
from diffuzz.cli.parts import Parts
from diffuzz.cli.saving import HTML, check_writable, written

if TYPE_CHECKING:
    from diffuzz.campaigns.folder import Folder
    from diffuzz.campaigns.journal import Record
    from diffuzz.campaigns.plan import Plan
    from diffuzz.campaigns.running import Asked, Tally

DEFAULT_FOLDER = Path("campaign")
# Seconds of a job's first slice, and how many of them a job has on average, where nothing is said of them.
SLICE, SLICES = 5.0, 4
# Rows of the table that is shown while it works.
_MOST_ROWS = 12
# Seconds between two tables.
_TICK = 0.5


class _Campaign(Parts):
    """``campaign PLAN.toml`` is ``campaign run PLAN.toml``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._named(ctx, args))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, self._named(ctx, args))

    def _named(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The words, the first of which is a command."""
        given = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return args if given else ["run", *args]


class _Shard(click.ParamType):  # type: ignore[type-arg]
    name = "i/n"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", str(value))
        if found is None or not 1 <= (shard := int(found[1])) <= (shards := int(found[2])):
            self.fail(f"{value!r} is not I/N with 1 <= I <= N, such as 3/8", param, ctx)
        return shard, shards


@click.group("campaign", cls=_Campaign, no_args_is_help=False)
def command() -> None:
    """Search many jobs, in rounds, night after night, on one machine or many.

    `campaign PLAN.toml` runs a plan, or goes on with it where it was; so does `campaign --targets NAME,...`, without a
    file. `campaign run --help` says what its options are.
    """


@command.command("run")
@click.argument("plan_file", required=False, metavar="[PLAN.toml]", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--targets", "--target", "targets", metavar="T,...", help="Targets, or all.")
@click.option(
    "--params", "--param", "settings", multiple=True, metavar="KEY=V,...", help="Values of a parameter (repeatable)."
)
@click.option("--formats", "--format", "formats", metavar="F,...", help="Block formats, or all.")
@click.option(
    "--candidates",
    "--candidate",
    "candidates",
    multiple=True,
    metavar="[NAME=]FUNCTION",
    shell_complete=completed("files"),
    help="A function to judge (repeatable); NAME stands for it in the next campaign, too.",
)
@click.option("--kernels", metavar="A,B,...", help="Implementations, of which every pair is compared, or all.")
@click.option(
    "--properties",
    "--property",
    "properties",
    metavar="P,...",
    help="Properties of the candidates and kernels, or all.",
)
@click.option("--require", metavar="P,...", help="Properties of which it is a finding that they are not kept.")
@LIBRARY
@click.option(
    "--budget",
    type=SECONDS,
    help=f"Time of all searches of a night together; eight processes are through in an eighth of it "
    f"[default: the plan's, or {SLICE * SLICES:g}s a job].",
)
@click.option(
    "--slice", "first", type=SECONDS, help=f"Time of the first slice of a job [default: the plan's, or {SLICE:g}s]."
)
@click.option("--seed", type=SEED, help="Random seed [default: the plan's, or a random one, which is printed].")
@click.option("--jobs", type=click.IntRange(1, 4096), help="Slices at once [default: one for each core].")
@click.option(
    "--executor",
    default="local",
    show_default=True,
    metavar="PLACE",
    help="Where they are done: local, dask:local, dask://HOST:PORT, or MODULE:FUNCTION, which returns an executor.",
)
@click.option("--shard", type=_Shard(), default="1/1", help="Do the I-th of N parts of the jobs, without any server.")
@click.option(
    "--into",
    type=FOLDER,
    help=f"Folder of the journal, from which a campaign goes on [default: the plan's, or {DEFAULT_FOLDER}].",
)
@click.option("--corpus", type=FOLDER, help=f"Where witnesses are saved [default: the plan's, or {DEFAULT_CORPUS}].")
@click.option(
    "--baseline",
    type=FOLDER,
    metavar="OLD",
    help="Folder of another campaign: begin with its best cases, and say what is new, gone, worse and better.",
)
@HTML
@ANNOTATIONS
@VERBOSITY
@JSON
def run(
    plan_file: Path | None,
    targets: str | None,
    settings: tuple[str, ...],
    formats: str | None,
    candidates: tuple[str, ...],
    kernels: str | None,
    properties: str | None,
    require: str | None,
    library: str | None,
    budget: float | None,
    first: float | None,
    seed: int | None,
    jobs: int | None,
    executor: str,
    shard: tuple[int, int],
    into: Path | None,
    corpus: Path | None,
    baseline: Path | None,
    html: Path | None,
    annotations: bool | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
) -> int:
    """Run a plan, or go on with it: a night of rounds, of which each gives time to the jobs where it pays.

    The exit code is 1 for what is new, and 0 for what was found in an earlier night, or is in OLD.
    """
    from diffuzz.campaigns import comparing, places, running
    from diffuzz.campaigns import folder as folders
    from diffuzz.campaigns.journal import JournalError

    given = {
        "targets": _list(targets), "formats": _list(formats), "kernels": _list(kernels), "params": _settings(settings),
        "properties": _list(properties), "require": _list(require), "candidates": candidates, "library": library,
    }  # fmt: skip
    named = {key: value for key, value in given.items() if value}
    planned = _plan(plan_file, named)
    folder, corpus = into or planned.into or DEFAULT_FOLDER, corpus or planned.corpus or DEFAULT_CORPUS
    if html is not None:
        check_writable("--html", html, *([] if plan_file is None else [plan_file]))
        _check_own(html, folder)
    old = None if baseline is None else comparing.Baseline.read(baseline)
    found = planned.jobs()
    own = folders.shard_of(found.jobs, *shard)
    asked = _asked(planned, len(found.jobs), len(own), budget, first, seed, shard, folder)
    running.check(own, asked, corpus)
    interrupted, broken = False, None
    tally: Tally | None = None
    shown = -math.inf

    def watch(now: Tally, record: Record | None) -> None:
        nonlocal tally, shown
        tally = now
        _say(now, record)
        # With thousands of jobs a table takes as long as a slice.
        if time.monotonic() - shown > _TICK or not now.left:
            shown = time.monotonic()
            _show(now)

    with places.place(executor, jobs) as place:
        try:
            tally = running.run(
                own, asked, folder, corpus, place, baseline=old, on_begin=lambda: folders.write(folder, found),
                on_slice=watch,
            )  # fmt: skip
        except JournalError as error:
            if tally is None:
                raise
            # What has come back is told, whatever becomes of the journal.
            broken = str(error)
        except KeyboardInterrupt:
            interrupted = True
        except places.PlaceError as error:
            done = tally is not None and tally.slices
            rest = f"; what has come back is in {folder}, and the same command goes on" if done else ""
            return complain(f"{error}{rest}", MISSING if done else BAD_INPUT)
    if tally is None:
        return INTERRUPTED
    from diffuzz.cli.campaign_json import campaign_json

    said = campaign_json(
        folder, [tally.ledger], planned=len(own), left_out=found.left_out, retried=tally.retried,
        broken=tally.broken, seconds=tally.seconds, changes=comparing.changes([tally.ledger], old),
        interrupted=interrupted or broken is not None,
    )  # fmt: skip
    unsaved = [*([] if broken is None else [broken]), *tally.unsaved]
    return _told(said, unsaved, html, annotations, quiet=quiet, verbose=verbose, as_json=as_json)


@command.command("status")
@click.argument("folder", type=FOLDER, default=DEFAULT_FOLDER)
@click.option("--baseline", type=FOLDER, metavar="OLD", help="Folder of another campaign, to compare with.")
@HTML
@VERBOSITY
@JSON
def status(folder: Path, baseline: Path | None, html: Path | None, quiet: bool, verbose: bool, as_json: bool) -> int:
    """Say how far a campaign is, all its shards together, and what it has found [default: campaign/].

    The campaign may be running. The exit code is 0 however many findings there are.
    """
    from diffuzz.campaigns import folder as folders

    if html is not None:
        check_writable("--html", html)
        _check_own(html, folder)
    said = status_json(folders.read(folder), baseline)
    _told(said, (), html, False, quiet=quiet, verbose=verbose, as_json=as_json)
    return 0


def _check_own(html: Path, folder: Path) -> None:
    """Raise click.UsageError where a page would take the place of a file of the campaign."""
    from diffuzz.campaigns import folder as folders

    own = html.name == folders.FILE or re.fullmatch(r"journal-.*\.jsonl", html.name)
    if own and html.parent.resolve() == folder.resolve():
        raise click.UsageError(f"--html {html}: that is a file of the campaign; choose another file")


def status_json(found: Folder, baseline: Path | None) -> dict[str, Any]:
    """What a campaign has found so far, all its shards together. Raises JournalError."""
    from diffuzz.campaigns import comparing
    from diffuzz.cli.campaign_json import campaign_json

    if baseline is None:
        # That of the last night, if it is there still.
        named = next((one.begun.get("baseline") for one in found.ledgers if one.begun), None)
        baseline = Path(named) if named and Path(named).is_dir() else None
    old = None if baseline is None else comparing.Baseline.read(baseline)
    return campaign_json(
        found.path, found.ledgers, planned=len(found.jobs), left_out=found.left_out, broken=found.broken,
        changes=comparing.changes(found.ledgers, old),
    )  # fmt: skip


def _told(
    said: dict[str, Any],
    unsaved: Sequence[str],
    html: Path | None,
    annotations: bool | None,
    *,
    quiet: bool,
    verbose: bool,
    as_json: bool,
) -> int:
    """Print what a campaign has found, and return its exit code."""
    from diffuzz.cli.campaign_text import campaign_text

    if as_json:
        print_json(said)
    else:
        print_text(answer_of(campaign_text(said, verbose=verbose), quiet))
    annotate(annotations, as_json, lambda: [said])
    if html is not None:
        from diffuzz.pages import campaign as pages

        if failed := written("--html", html, pages.page(said)):
            return failed
    if unsaved:
        different = list(dict.fromkeys(unsaved))
        rest = f"; and {len(different) - 3} more like these" if len(different) > 3 else ""
        return complain("; ".join(different[:3]) + rest, BAD_INPUT)
    if said["new"]:
        return CONFIRMED
    if said["interrupted"]:
        return INTERRUPTED
    codes = {one["code"] for one in said["jobs"] if one["status"] == "failed"}
    return max(codes, default=0)


def _list(text: str | None) -> list[str]:
    return [] if text is None else [name.strip() for name in text.split(",")]


def _settings(given: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in given:
        key, equals, values = text.partition("=")
        if not (key.strip() and equals and values.strip()):
            raise click.UsageError(f"--params {text}: KEY=VALUE,VALUE,... is needed, such as n=7,64")
        found[key.strip()] = _list(values)
    return found


def _plan(file: Path | None, named: dict[str, Any]) -> Plan:
    """The plan of a file, or of what options name. Raises PlanError, click.UsageError."""
    from diffuzz.campaigns import plan

    if file is None:
        if not named:
            raise click.UsageError("give a plan, PLAN.toml, or --targets; see docs/campaigns.md")
        return plan.Plan((plan.part(named, "campaign"),))
    if named:
        raise click.UsageError(f"--{next(iter(named))} and {file}: what is asked for is in the plan; give one of them")
    return plan.read(file)


def _asked(
    planned: Plan,
    count: int,
    own: int,
    budget: float | None,
    first: float | None,
    seed: int | None,
    shard: tuple[int, int],
    folder: Path,
) -> Asked:
    """How much of what is asked for: what is given, or else what the plan says, or else what is usual."""
    import secrets

    from diffuzz.campaigns import journal
    from diffuzz.campaigns.running import Asked

    slice_ = first or planned.slice or SLICE
    whole = budget or planned.budget or slice_ * SLICES * count
    if seed is None:
        # A night goes on with the seed that it was begun with.
        begun = [one for one in journal.records_of(folder) if one["kind"] == "begin"]
        begun.sort(key=lambda one: (one.get("shard"), one.get("shards")) == shard)
        seed = planned.seed if planned.seed is not None else begun[-1]["seed"] if begun else secrets.randbelow(2**31)
    return Asked(whole * own / max(count, 1), slice_, seed, *shard)


def _say(tally: Tally, record: Record | None) -> None:
    """Tell of what is new at once."""
    from diffuzz.cli.progress import line_printer

    say = line_printer()
    if say is not None and record is not None and tally.ledger.is_first(record):
        say(f"new finding: {record['title']}: {record.get('verdict', record['status'])}")


def _show(tally: Tally) -> None:
    """Tell how far it is."""
    from diffuzz.cli.campaign_json import campaign_json
    from diffuzz.cli.campaign_text import HEADINGS, target_row
    from diffuzz.telling import Phase, Table, listened, tell

    if not listened():
        return
    said = campaign_json(Path(), [tally.ledger], planned=len(tally.ledger.jobs))
    rows = sorted(said["targets"], key=lambda one: (-one["new"], -one["findings"], -(one["share"] or 0.0)))
    seconds = max(tally.seconds, 1e-3)
    tell(Phase(f"round {tally.round}" if isinstance(tally.round, int) else "making cases simpler"))
    tell(
        Table(
            tally.ledger.spent() / max(tally.total, 1e-9),
            f"{tally.left} slices left in it, {tally.slices:,} done, {tally.evaluations / seconds:,.0f} cases/s",
            (HEADINGS, *map(target_row, rows[:_MOST_ROWS])),
        )
    )
