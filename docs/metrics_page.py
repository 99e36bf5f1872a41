"""Write the tables of docs/metrics.md: every metric of a worker and of `headrace skew`, from the code.

    .venv/bin/python docs/metrics_page.py          # writes them anew
    .venv/bin/python docs/metrics_page.py --check  # exit code 1 where they are not those of the code

Names, types, labels and meanings are those of a scrape.  A unit follows from the name, as Prometheus has it;
`UNITS` has the metrics whose names say none.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

from prometheus_client.metrics_core import Metric

from engine.definition.file import load_pipeline
from engine.metrics import COUNTERS, Metrics, ModelStatus, ShiftStatus, Status
from engine.monitor_view import MonitorFigures
from engine.offline.skew import SkewCounts, SkewMetrics
from operators.monitor.acks import Precision

PAGE = Path(__file__).with_name("metrics.md")
FLIGHTS = Path(__file__).resolve().parents[1] / "examples" / "flights" / "pipeline.py"
HEAD = ("| metric | unit | labels | meaning |", "|---|---|---|---|")
TITLES = {"counter": "## Counters", "gauge": "## Gauges", "histogram": "## Histograms"}
"""By type: under which heading its table stands."""
SUFFIXES = {
    "_timestamp_seconds": "UNIX s",
    "_seconds": "s",
    "_bytes": "bytes",
    "_records": "records",
    "_info": "1",
    "_share": "ratio",
    "_precision": "ratio",
}
"""The first that fits tells the unit."""
UNITS = {
    "headrace_pending_predictions": "predictions",
    "headrace_window_keys": "keys",
    "headrace_partitions": "partitions",
    "headrace_leader": "0 or 1",
    "headrace_learning_paused": "0 or 1",
    "headrace_champion_pinned": "0 or 1",
    "headrace_champion_quarantined": "0 or 1",
    "headrace_examples_unlearned": "examples",
    "headrace_unsaved_events": "events",
    "headrace_races": "races",
    "headrace_races_in_memory": "races",
    "headrace_alerts_firing": "alerts",
    "headrace_alerts_acked": "alerts",
    "headrace_model_updates": "labels",
    "headrace_model_evidence": "of the bar",
    "headrace_evidence_correlation": "-1 to 1",
    "headrace_model_score": "of its metric",
    "headrace_policy_revision": "number",
    "headrace_shift_open": "0 or 1",
    "headrace_shift_unusual": "deviations",
    "headrace_shift_evidence": "of the budget",
    "headrace_shift_silent_partitions": "partitions",
    "headrace_monitor": "of its figure",
    "headrace_monitor_left_out": "figures",
}


@cache
def families() -> tuple[Metric, ...]:
    """Return every metric family that there is, with at least one series of each."""
    metrics = Metrics(load_pipeline(FLIGHTS))
    for family in COUNTERS:
        metrics.counts[family.counted_as, " ".join("x" * len(family.labels))] += 1
    status = Status(
        lag={("flights.departures", 0): 3},
        pending=1,
        examples=7,
        unlearned=0,
        checkpoint_time_s=1.0,
        partitions=1,
        leading=True,
        paused=False,
        models=[ModelStatus("linear", 1, "LogisticRegression", "champion", 7, 0.5, 0.1)],
        scores={("linear", "ROCAUC", "all"): 0.6},
        shares=(("linear", 1.0),),
        learning_log=(("bayes", 0.5),),
        figures=MonitorFigures({("slices", "loss", "origin: HNL"): 0.2}, {"slices": 3}),
        shift=ShiftStatus("label_shift", 1.0, {"scores": 4.0}, 0),
        firing=(("lag_records", 1),),
        acked=(("lag_records", Precision(2, 1)),),
    )
    metrics.status = lambda: status
    counts = SkewCounts(())
    counts.features["x", "match"] = counts.events["checked"] = 1
    return (*metrics.collect(), *SkewMetrics(counts).collect())


def unit(family: Metric) -> str:
    """Return the unit of a family's values.

    Raises:
        LookupError: its name says none, and `UNITS` does not have it.
    """
    for suffix, told in SUFFIXES.items():
        if family.name.endswith(suffix):
            return told
    if family.type == "counter":
        return "count"
    if family.name not in UNITS:
        raise LookupError(f"{family.name}: the name says no unit; tell it in UNITS of {Path(__file__).name}")
    return UNITS[family.name]


def rows(kind: str) -> list[str]:
    """Return the table of the metrics of one type, line by line."""
    lines = list(HEAD)
    for family in families():
        if family.type == kind:
            name = family.name + ("_total" if kind == "counter" else "")
            labels = ", ".join(label for label in family.samples[0].labels if label != "le")
            lines.append(f"| `{name}` | {unit(family)} | {labels} | {family.documentation} |")
    return lines


def written(page: str) -> str:
    """Return the page with the tables that the code has.

    Raises:
        LookupError: there are metrics of a type that the page has no heading for.
    """
    lines = page.splitlines()
    if strange := {family.type for family in families()} - TITLES.keys():
        raise LookupError(f"metrics of the types {sorted(strange)}: give them a heading in TITLES")
    for kind, title in TITLES.items():
        start = lines.index(HEAD[0], lines.index(title))
        end = next(n for n in range(start, len(lines)) if not lines[n].startswith("|"))
        lines[start:end] = rows(kind)
    return "\n".join([*lines, ""])


def main() -> int:
    """Write the page, or say whether it is current."""
    parser = argparse.ArgumentParser(description="The tables of docs/metrics.md, from the code.")
    parser.add_argument("--check", action="store_true", help="Write nothing; 1 where the page is old.")
    page = PAGE.read_text()
    new = written(page)
    if parser.parse_args().check:
        is_old = new != page
        print(f"{PAGE.name}: {'old: run it without --check' if is_old else 'current'}")
        return int(is_old)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
