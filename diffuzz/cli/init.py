"""``diffuzz init``: a workflow, a corpus and a test for a repository that has none of them."""

from __future__ import annotations

import json
import re
from importlib import metadata, resources
from pathlib import Path
from urllib.parse import urlsplit

import click

from diffuzz import __version__
from diffuzz.cli.options import BAD_INPUT, FOLDER, JSON, complain, print_json, print_text, report

# By its place in the repository, the file of the folder starter/ that is written there.
FILES = {
    ".github/workflows/diffuzz.yml": "workflow.yml",
    "corpus/README.md": "corpus.md",
    "tests/test_diffuzz.py": "test_diffuzz.py.txt",
}
_ACTION = re.compile(r"[\w.-]+/[\w.-]+@[\w./-]+")
_UNKNOWN = f"OWNER/diffuzz@v{__version__}"


@click.command("init")
@click.argument("folder", type=FOLDER, default=".")
@click.option(
    "--action",
    metavar="OWNER/REPOSITORY@REF",
    help="The action that the workflow uses [default: where diffuzz was installed from, if that is on GitHub].",
)
@JSON
def command(folder: Path, action: str | None, as_json: bool) -> int:
    """Write a workflow of GitHub, a folder for the corpus and a sample test into the repository in FOLDER [default: .].

    Asks nothing, and leaves every file as it is that is there.
    """
    if not folder.is_dir():
        raise click.UsageError(f"{folder}: there is no such folder; name that of a repository")
    if action is not None and not _ACTION.fullmatch(action):
        raise click.UsageError(f"--action {action}: OWNER/REPOSITORY@REF is needed")
    uses = action or installed_from() or _UNKNOWN
    written: list[str] = []
    left: list[str] = []
    failures: list[str] = []
    for place, source in FILES.items():
        text = (resources.files("diffuzz") / "starter" / source).read_text(encoding="utf-8")
        path = folder / place
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # "x": never a file, nor a link, that is there already.
            with path.open("x", encoding="utf-8") as file:
                file.write(text.replace("OWNER/diffuzz@REF", uses))
            written.append(str(path))
        except FileExistsError:
            # Of the file itself, or of a file where a folder is needed.
            (left if path.parent.is_dir() else failures).append(str(path))
        except OSError as error:
            failures.append(f"{path} ({error.strerror})")
    if as_json:
        print_json({"written": written, "left": left, "failed": failures, "action": uses})
    else:
        print_text(_text(folder, written, left, uses))
    if failures:
        return complain(f"cannot be written: {', '.join(failures)}", BAD_INPUT)
    return 0


def installed_from() -> str | None:
    """The action of the repository on GitHub that pip has installed diffuzz from (PEP 610), None without one."""
    try:
        found = json.loads(metadata.distribution("diffuzz-kernels").read_text("direct_url.json") or "{}")
        url, about = urlsplit(found["url"]), found["vcs_info"]
        place, ref = url.path.strip("/").removesuffix(".git"), about.get("requested_revision") or about["commit_id"]
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError, AttributeError, OSError):
        return None
    action = f"{place}@{ref}"
    return action if url.hostname == "github.com" and _ACTION.fullmatch(action) else None


def _text(folder: Path, written: list[str], left: list[str], uses: str) -> str:
    """What was written, what was left, and what is to do."""
    lines = [*(f"wrote  {path}" for path in written), *(f"left   {path}, which is there" for path in left)]
    workflow = str(folder / next(iter(FILES)))
    if workflow in written and uses == _UNKNOWN:
        lines.append(f"In {workflow}, write the owner of the repository of diffuzz in the place of OWNER.")
    if test := [path for path in written if path.endswith(".py")]:
        lines.append(f"Next: put a kernel of yours into {test[0]}, and run: python -m pytest {test[0]}")
    return report(lines)
