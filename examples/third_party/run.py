"""Judge the kernels of released libraries with diffuzz, and print one table.

    python examples/third_party/run.py                       all libraries that are installed
    python examples/third_party/run.py torch onnxruntime     those whose package is named

What is run is in runs.toml: a library, its package, its file here, and its functions with the target and parameters by
which each is judged. A library that is not installed is named in one line and left out.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent


def missing(packages):
    """Those of the packages that are not installed."""
    absent = []
    for package in packages:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            absent.append(package)
    return absent


def judged(library, run, budget):
    """A row of the table: library, version, target with its parameters, function, verdict, value / bound, class."""
    candidate = f"{HERE / library['file']}:{run['function']}"
    options = [word for param in run.get("params", []) for word in ("--param", param)]
    command = [sys.executable, "-m", "diffuzz", "search", "--target", run["target"], "--candidate", candidate]
    command += [*options, *run.get("options", []), "--seed", "0", "--budget", budget]
    # Some libraries take half a minute to load. What is wrong is known at its first witness.
    command += ["--timeout", "60s", "--first", "--no-save", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    what = " ".join([run["target"], *run.get("params", []), *run.get("options", [])])
    start = [library["name"], metadata.version(library["packages"][0]), what, run["function"]]
    if not done.stdout.strip():
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return [*start, f"no verdict: {reason}", "", ""]
    found = json.loads(done.stdout)
    confirmed = found["verdict"] == "CONFIRMED"
    known = run.get("class", "unclassified") if confirmed else ("not found" if "class" in run else "")
    return [*start, found["verdict"], f"{float(found['value']):.6g}", known]


def main(words=None):
    parser = argparse.ArgumentParser(description="Judge the kernels of released libraries with diffuzz.")
    parser.add_argument("packages", nargs="*", help="run only these packages (default: all that are installed)")
    parser.add_argument("--budget", default="10s", help="time for each search (default: 10s)")
    given = parser.parse_args(words)
    libraries = tomllib.loads((HERE / "runs.toml").read_text(encoding="utf-8"))["library"]
    names = [library["packages"][0] for library in libraries]
    if unknown := sorted(set(given.packages) - set(names)):
        sys.exit(f"run.py: no runs for {', '.join(unknown)}; there are {', '.join(names)}")
    print("| library | version | target | function | verdict | value / bound | class |")
    print("|---|---|---|---|---|---|---|")
    for library in libraries:
        if given.packages and library["packages"][0] not in given.packages:
            continue
        if absent := missing(library["packages"]):
            print(f"{library['name']}: not run, needs pip install {' '.join(absent)}", file=sys.stderr)
            continue
        for run in library["run"]:
            print(f"| {' | '.join(judged(library, run, given.budget))} |", flush=True)


if __name__ == "__main__":
    main()
