"""What freshness is worth: the same past with every update withheld for an hour, a day, a week.

Lives here: the runs and their losses side by side, as plain values and as a picture.  Never here: when an
event was answered (`rerun.py`), how a picture is drawn (`chart.py`).

Withheld is all that a learner tells those who answer: lessons, swaps, weights.  An event of time t is
answered by models as they were at t minus the span; labels are learned and judged at their real times.  So
the curve says what it costs to learn so much later, and when learning faster gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.definition.pipeline import Pipeline
from engine.offline.backtest import race_report
from engine.offline.chart import line_chart
from engine.offline.paired_comparison import paired_series
from engine.offline.rerun import Past, Rerun, rerun
from engine.worker.model_factory import ModelFactory
from operators.race.evaluation import SERVED
from topics.errors import ModelError

__all__ = ["SPANS", "freshness_report", "picture"]

SPANS = ("1h", "1d", "7d")
"""What is withheld where nothing else is asked."""
FRESH = "0"
"""Nothing withheld: the run as it was."""


def freshness_report(
    pipeline: Pipeline,
    past: Past,
    spans_ms: Mapping[str, int],
    *,
    on_run: Callable[[str], object] | None = None,
    source: ModelFactory | None = None,
) -> dict[str, Any]:
    """Return the race for each span withheld, and for none, as one plain object.

    `on_run` is told each span before its run, `source` has the states that the log names.

    Raises ModelError where nothing was learned in time.
    """
    source = source or ModelFactory(pipeline)
    in_order = sorted(spans_ms.items(), key=lambda one: one[1])
    runs: dict[str, Rerun] = {}
    for span, span_ms in [(FRESH, 0), *in_order]:
        if on_run is not None:
            on_run(span)
        names = () if span_ms else tuple(pipeline.models)
        runs[span] = rerun(pipeline, past, past.withheld(span_ms), as_recorded=names, source=source)
    rows, series = paired_series(pipeline, [run.examples for run in runs.values()])
    if not rows:
        raise ModelError(
            f"no event was answered by a model that had learned, with updates withheld for {span}",
            hint="withhold less: a shorter span than the past is long",
        )
    return {
        "examples": len(past.examples),
        "rows": rows,
        "candidates": list(pipeline.models),
        "scores_compared": runs[FRESH].compared,
        "scores_same": runs[FRESH].same,
        "runs": [
            {
                "withheld": span,
                "withheld_ms": spans_ms.get(span, 0),
                **race_report(run.learner.roster.champion, run.decisions),
                "series": of_run,
            }
            for (span, run), of_run in zip(runs.items(), series, strict=True)
        ],
    }


def picture(report: dict[str, Any], title: str) -> str:
    """Return loss against what is withheld as SVG, a line for what was served and one for each candidate.

    Challengers that started by themselves are others in each run: they have no line.
    """
    runs = report["runs"]
    names = [SERVED, *report["candidates"]]
    return line_chart(
        title,
        x_title="updates withheld for",
        y_title="mean loss",
        columns=[run["withheld"] for run in runs],
        lines={name: [run["series"].get(name, {}).get("loss") for run in runs] for name in names},
    )
