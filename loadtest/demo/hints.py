"""What to try beside the demo and after it: commands that work as they are printed.

Lives here: their text, with the paths and addresses of this run.  Never here: the run (`race.py`).
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from topics.catalog import Catalog

__all__ = ["commands_after", "commands_beside"]

DECISIONS_SHOWN_MAX = 5
"""`tail` waits for as many as it is asked for: never more than there are."""


def commands_beside(catalog: Catalog, servers: str, port: int, *, decisions: int) -> list[str]:
    """Return commands for a broker at `servers` and a worker whose pages are on `port`."""
    headrace, where = _headrace(), f"--from-beginning --bootstrap-servers {servers}"
    found = [
        f"{headrace} tail {catalog['predictions']} -n 3 {where}",
        f"curl -s http://127.0.0.1:{port}/metrics | grep headrace_model_score",
    ]
    if decisions:
        count = min(decisions, DECISIONS_SHOWN_MAX)
        found.insert(0, f"{headrace} tail {catalog['decisions']} -n {count} {where}")
    return found


def commands_after(pipeline: Path) -> list[str]:
    """Return commands for the pipeline file of an example, with its two files beside it."""
    headrace = _headrace()
    file, events, labels = (
        shlex.quote(_from_here(path))
        for path in (
            pipeline,
            pipeline.with_name("departures.jsonl.gz"),
            pipeline.with_name("arrivals.jsonl.gz"),
        )
    )
    return [
        f"{headrace} check {file}",
        f"{headrace} backtest {file} --events {events} --labels {labels} --warmup 10000",
        f"{headrace} demo --keep",
    ]


def _headrace() -> str:
    """Return how a shell finds this `headrace`: it need not be on the path."""
    script = Path(sys.executable).with_name("headrace")
    found = shutil.which("headrace")
    if found is not None and Path(found).absolute() == script.absolute():
        return "headrace"
    if not script.exists():
        return shlex.join([sys.executable, "-m", "headrace"])
    return shlex.quote(_from_here(script))


def _from_here(path: Path) -> str:
    """Return a path as short as the working directory allows."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
