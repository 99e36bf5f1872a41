"""A backtest from Python: `headrace.backtest(pipeline, events=..., labels=...)`, for notebooks and scripts.

Lives here: inputs as files or as rows, the report as tables, their HTML, the plot.  Never here: the run
(`backtest.py`), the command (`engine/cli/offline/backtest.py`).

A table is a list of plain dicts with the same names in each, which `polars.DataFrame` and `pandas.DataFrame`
take as it is; neither is needed here.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from engine.definition.file import load_pipeline
from engine.definition.notebook import html_table
from engine.definition.pipeline import Pipeline
from engine.machines.learner import Learner
from engine.offline.backtest import backtest
from engine.offline.json_lines import read_static, writing
from engine.offline.rerun import model_factory_of
from engine.offline.runs.curves import curve_rows
from engine.settings import load_settings
from operators.race.evaluation import SERVED
from operators.windows.asof import AsOf
from topics.codec import encode_json
from topics.errors import SettingsError

__all__ = ["BacktestResult", "Messages", "run_backtest"]

Messages = str | Path | Iterable[Mapping[str, Any]]
"""A file of JSON lines (.gz too), or messages as mappings: a list, `frame.to_dicts()` of polars,
`frame.to_dict("records")` of pandas."""
Table = list[dict[str, Any]]
SWAP_COLUMNS = ("time", "examples", "from", "to", "type", "reason")
"""Evidence is an object of its own shape: it is in the report."""


class BacktestResult:
    """What came of a backtest: the report of `headrace backtest --json`, and its parts as tables."""

    def __init__(self, name: str, report: dict[str, Any], curves: Table) -> None:
        self.name = name
        """Of the pipeline."""
        self.report = report
        """All of it, as one plain object."""
        self.curves = curves
        """The loss over time, one row a bucket: `by` (`event_time` or `label_time`), `model`, `start_ms`,
        `rows`, `loss`, `rolling`, `fading`."""

    @property
    def models(self) -> Table:
        """Return one row for what was served, for each model and for each baseline, all on the same rows."""
        report = self.report
        metrics = list(report["served"])
        groups = {"served": {SERVED: report["served"]}, "model": report["models"]}
        return [
            {
                "model": name,
                "kind": kind,
                "champion": name == report["champion"] and kind == "model",
                "loss": report["losses"].get(name),
                **{metric: scores.get(metric) for metric in metrics},
                "rows": report["rows"].get(name),
                "seconds": report["model_seconds"].get(name),
            }
            for kind, found in (*groups.items(), ("baseline", report["baselines"]))
            for name, scores in found.items()
        ]

    @property
    def swaps(self) -> Table:
        """Return the changes of champion: `time` (ms), `examples`, `from`, `to`, `type`, `reason`."""
        return [{name: swap[name] for name in SWAP_COLUMNS} for swap in self.report["swaps"]]

    @property
    def drifts(self) -> Table:
        """Return the alarms of the detectors: `time` (ms), `examples`, `type`, `model`, `reason`."""
        return list(self.report["drifts"])

    @property
    def starts(self) -> Table:
        """Return which challengers have started by themselves, by reason, with the last of each."""
        return list(self.report["starts"])

    def plot(self, by: str = "event_time", ax: Any = None) -> Any:
        """Draw the rolling loss of every series over time, a line at each swap; return matplotlib's axes.

        `by` is `event_time` or `label_time`; `ax` are axes to draw on, None makes some.  Raises SettingsError
        where matplotlib is not installed, and for another `by`.
        """
        if by not in {"event_time", "label_time"}:
            raise SettingsError(f"plot by {by!r}", hint='give "event_time" or "label_time"')
        try:
            from matplotlib import pyplot  # noqa: PLC0415 - an extra
        except ImportError:
            raise SettingsError(
                "plots need matplotlib, which is not installed", hint="pip install 'headrace[plots]'"
            ) from None
        ax = pyplot.subplots()[1] if ax is None else ax
        rows = [row for row in self.curves if row["by"] == by]
        for name in dict.fromkeys(row["model"] for row in rows):
            own = [row for row in rows if row["model"] == name]
            width = 2.5 if name == SERVED else 1.0
            times = [_utc(row["start_ms"]) for row in own]
            ax.plot(times, [row["rolling"] for row in own], label=name, linewidth=width)
        for swap in self.swaps:
            ax.axvline(_utc(swap["time"]), color="grey", linestyle=":")
        ax.set(title=self.name, xlabel=by.replace("_", " "), ylabel=f"{self.report['judged_by']}, rolling")
        ax.legend()
        return ax

    def __repr__(self) -> str:
        served = ", ".join(f"{name} {value:.6g}" for name, value in self.report["served"].items())
        return f"<backtest of {self.name}: {self._counts()}; served {served or 'nothing'}>"

    def _repr_html_(self) -> str:
        diagnosis = self.report["diagnosis"]
        failed = "" if diagnosis is None else f"<p>failed: {escape('; '.join(diagnosis['failures']))}</p>"
        return (
            f"<div><p><b>{escape(self.name)}</b>: {escape(self._counts())}</p>{failed}"
            f"{html_table('models', self.models)}{html_table('swaps', self.swaps)}</div>"
        )

    def _counts(self) -> str:
        report = self.report
        return (
            f"{report['events']:,} events, {report['labels']['read']:,} labels, "
            f"{report['examples']:,} examples, {report['dead_letters']:,} dead letters"
        )


def run_backtest(
    pipeline: Pipeline | str | Path,
    *,
    events: Messages,
    labels: Messages | None = None,
    static: str | Path | None = None,
    warmup: int = 0,
    config: str | Path | None = None,
    predictions_out: str | Path | None = None,
) -> BacktestResult:
    """Run a pipeline over files or rows, as `headrace backtest` does, and return what came of it.

    `pipeline`
        A `Pipeline`, or the file of one.
    `events`, `labels`
        A file of JSON lines, or messages as mappings; labels are left out where they are inside the events.
    `static`
        A file of what look-ups find as of each event.
    `warmup`
        Leave the first so many events out of the metrics.
    `config`
        The file of settings; None is `headrace.toml`, where there is one.
    `predictions_out`
        Write each prediction here, one JSON object a line.

    A run that came to nothing is no error: `report["diagnosis"]` says why.  Raises DefinitionError for a
    pipeline that cannot run, SettingsError for files that cannot be read or written and for races per key.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = load_pipeline(Path(pipeline))
    if pipeline.per is not None:
        raise SettingsError(
            f"{pipeline.name} has a race for each `{pipeline.per}`: those have no tables in Python",
            hint="headrace backtest PIPELINE.py --events EVENTS --labels LABELS --json",
        )
    learners: list[Learner] = []
    looked_up = None if static is None else AsOf(read_static(Path(static)))
    settings = load_settings(None if config is None else Path(config))
    with contextlib.ExitStack() as files:
        report = backtest(
            pipeline,
            files.enter_context(_as_file(events)),
            None if labels is None else files.enter_context(_as_file(labels)),
            warmup=warmup,
            static=looked_up,
            predictions_out=files.enter_context(
                writing(None if predictions_out is None else Path(predictions_out))
            ),
            source=model_factory_of(pipeline, settings),
            on_end=learners.append,
        )
    curves = [row._asdict() for row in curve_rows(learners[0].evaluation)]
    return BacktestResult(pipeline.name, report, curves)


def _utc(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1_000, UTC)


@contextlib.contextmanager
def _as_file(rows: Messages) -> Iterator[Path]:
    """Give rows a file for as long as they are read.  Raises SettingsError for one that is no mapping."""
    if isinstance(rows, str | Path):
        yield Path(rows)
        return
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("wb") as file:
            for number, row in enumerate(rows):
                if not isinstance(row, Mapping):
                    raise SettingsError(
                        f"row {number} is {type(row).__name__}, no mapping of names to values",
                        hint='give `to_dicts()` of polars, `to_dict("records")` of pandas, or a file',
                    )
                try:
                    file.write(encode_json(dict(row)) + b"\n")
                except TypeError as error:
                    raise SettingsError(
                        f"row {number} is no JSON: {error}",
                        hint="give text, numbers, booleans, None and datetimes with a time zone",
                    ) from None
        yield path
