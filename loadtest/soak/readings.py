"""What a worker takes, read from the outside every few seconds, and how fast it grows.

Lives here: one reading of `/proc` and `/metrics`, medians and slopes of many.  Never here: when to read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression, median

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from loadtest.soak.course import Phase

__all__ = ["FIGURES", "PhaseFigures", "WorkerReading", "figures_by_phase", "reading_of"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
FIGURES = (
    "rss_mb", "descriptors", "lag", "unlearned", "waiting", "window_keys", "checkpoint_ms", "store_mb",
)  # fmt: skip
SETTLED_SHARE = 0.5
"""The last part of a phase: what came before it has left windows and waits by then."""
HOUR_S = 3_600.0


class WorkerReading(Struct, frozen=True, kw_only=True):
    """One reading."""

    seconds: float
    """Since the first event was due."""
    phase: str
    rss_mb: float
    descriptors: int
    """Files and sockets that the process has open."""
    lag: int
    """Records of events and labels not read yet."""
    unlearned: int
    """Examples in their log that are not learned."""
    waiting: int
    """Answers and early labels that are held."""
    window_keys: int
    """Keys that windows hold."""
    checkpoint_ms: float
    """Mean of the checkpoints since the last reading; of all before the first of them 0."""
    store_mb: float
    """Files of the state directory."""
    answered: int
    refused: int
    """Dead letters."""
    checkpoints: tuple[float, float]
    """How many were written, and in how many seconds."""


class PhaseFigures(Struct, frozen=True):
    """What a phase came to, in its last half."""

    phase: str
    medians: dict[str, float]
    slopes_per_hour: dict[str, float]
    """Of the straight line with the least squares."""


def reading_of(
    pid: int, text: str, state_dir: Path, *, seconds: float, phase: str, before: WorkerReading | None
) -> WorkerReading:
    """Return a reading of the process `pid` whose `/metrics` page is `text`."""
    totals: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] += sample.value  # type: ignore[assignment]
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    written, took_s = (totals[f"headrace_checkpoint_duration_seconds_{name}"] for name in ("count", "sum"))
    written_before, took_before_s = (0.0, 0.0) if before is None else before.checkpoints
    more, longer_s = written - written_before, took_s - took_before_s
    return WorkerReading(
        seconds=round(seconds, 1),
        phase=phase,
        rss_mb=round(pages * PAGE_BYTES / 1e6, 1),
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        lag=int(totals["headrace_consumer_lag_records"]),
        unlearned=int(totals["headrace_examples_unlearned"]),
        waiting=int(totals["headrace_pending_predictions"]),
        window_keys=int(totals["headrace_window_keys"]),
        checkpoint_ms=round(1e3 * longer_s / more, 1) if more else (before.checkpoint_ms if before else 0.0),
        store_mb=round(sum(path.stat().st_size for path in _files(state_dir)) / 1e6, 2),
        answered=int(totals["headrace_predictions_total"]),
        refused=int(totals["headrace_dead_letters_total"]),
        checkpoints=(written, took_s),
    )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def figures_by_phase(readings: Sequence[WorkerReading], course: Sequence[Phase]) -> list[PhaseFigures]:
    """Return what each phase came to, where it was read twice at least."""
    found = []
    for phase in course:
        begins_s = phase.ends_s - (phase.ends_s - phase.begins_s) * SETTLED_SHARE
        settled = [one for one in readings if begins_s <= one.seconds < phase.ends_s]
        if len(settled) < 2:
            continue
        times_h = [one.seconds / HOUR_S for one in settled]
        values = {name: [float(getattr(one, name)) for one in settled] for name in FIGURES}
        found.append(
            PhaseFigures(
                phase.name,
                {name: round(median(line), 1) for name, line in values.items()},
                {name: round(linear_regression(times_h, line).slope, 1) for name, line in values.items()},
            )
        )
    return found
