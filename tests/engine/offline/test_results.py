"""A backtest from Python: the report of the command, tables for data frames, HTML, a plot."""

from __future__ import annotations

import datetime as dt
import gzip
import itertools
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from msgspec import Struct
from river import linear_model
from running import FLIGHTS
from typer.testing import CliRunner

import headrace
from engine.cli.main import app
from engine.definition.notebook import ROWS_MAX, html_table
from engine.offline.runs.results import BacktestResult
from operators import by, field
from topics.errors import SettingsError

DEPARTURES = 1_500


class Tags(HTMLParser):
    """The tags of a text; it must be closed as it is opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first flights of the sample, as files."""
    folder = tmp_path_factory.mktemp("flights")
    with gzip.open(FLIGHTS / "departures.jsonl.gz") as lines:
        events = list(itertools.islice(lines, DEPARTURES))
    ids = {json.loads(line)["event_id"] for line in events}
    with gzip.open(FLIGHTS / "arrivals.jsonl.gz") as lines:
        labels = [line for line in lines if json.loads(line)["event_id"] in ids]
    paths = folder / "events.jsonl", folder / "labels.jsonl"
    for path, part in zip(paths, (events, labels), strict=True):
        path.write_bytes(b"".join(part))
    return paths


@pytest.fixture(scope="module")
def result(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> BacktestResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("state"))
        return headrace.backtest(FLIGHTS / "pipeline.py", events=files[0], labels=files[1])


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report as JSON has it, without how long it took."""
    plain: dict[str, Any] = json.loads(json.dumps(report, default=str))
    plain.pop("seconds")
    plain["model_seconds"] = sorted(plain["model_seconds"])
    return plain


def as_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_the_report_is_that_of_the_command(
    result: BacktestResult, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["backtest", str(FLIGHTS / "pipeline.py"), "--events", str(files[0]), "--labels", str(files[1])]
    curves = tmp_path / "curves.json"
    done = CliRunner().invoke(app, [*words, "--json", "--curves-out", str(curves)], catch_exceptions=False)
    assert done.exit_code == 0
    assert untimed(result.report) == untimed(json.loads(done.stdout))
    assert result.report["examples"] == DEPARTURES
    assert result.curves == json.loads(curves.read_bytes())["curves"]


def test_rows_of_a_frame_and_a_pipeline_of_before_give_the_same(tmp_path: Path) -> None:
    pipeline = small_pipeline()
    events = [
        {
            "event_id": f"e{n}",
            "event_time": 1_700_000_000_000 + n * 1_000,
            "card": f"c{n % 3}",
            "size": n * 0.5,
        }
        for n in range(200)
    ]
    labels = [
        {"event_id": f"e{n}", "label": n % 7 < 3, "label_time": 1_700_000_000_500 + n * 1_000}
        for n in range(200)
    ]
    paths = tmp_path / "e.jsonl", tmp_path / "l.jsonl"
    for path, rows in zip(paths, (events, labels), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    frames = pl.DataFrame(events).to_dicts(), pl.DataFrame(labels).to_dicts()
    out = tmp_path / "predictions.jsonl"
    first = headrace.backtest(pipeline, events=paths[0], labels=paths[1])
    again = headrace.backtest(pipeline, events=frames[0], labels=iter(frames[1]), predictions_out=out)
    assert first.report["examples"] == 200
    assert untimed(first.report) == untimed(again.report)
    assert [row["event_id"] for row in as_rows(out)] == [event["event_id"] for event in events]


def test_tables_are_taken_by_a_data_frame(result: BacktestResult) -> None:
    models = pl.DataFrame(result.models)
    assert models.height == 1 + len(result.report["models"]) + len(result.report["baselines"])
    assert models.filter(pl.col("champion"))["model"].to_list() == [result.report["champion"]]
    served = models.row(0, named=True)
    assert (served["kind"], served["loss"]) == ("served", result.report["losses"]["served"])
    assert served["ROCAUC"] == result.report["served"]["ROCAUC"]
    curves = pl.DataFrame(result.curves)
    counted = curves.filter((pl.col("by") == "event_time") & (pl.col("model") == "served"))["rows"].sum()
    assert counted == result.report["examples"]
    for table in (result.swaps, result.drifts, result.starts):
        assert pl.DataFrame(table).height == len(table)
    assert len(result.drifts) == len(result.report["drifts"]) > 0


# -- what a notebook shows ----------------------------------------------------------------------------


class Payment(Struct):
    event_id: str
    event_time: int
    card: str
    size: float


def small_pipeline() -> headrace.Pipeline:
    return headrace.Pipeline(
        name="pay",
        events=headrace.Topic("pay.events", Payment, key="card"),
        labels=headrace.Labels("pay.labels", wait="1h"),
        features={
            "n<b>": by("card").count("1h"),
            "size": field("size"),
            "large": by("card").count("1h", where=field("size") > 3),
        },
        models={"linear": linear_model.LogisticRegression()},
    )


def test_a_pipeline_and_its_features_are_shown_escaped() -> None:
    pipeline = small_pipeline()
    shown = Tags(pipeline._repr_html_())
    assert shown.seen <= {"div", "p", "b", "table", "caption", "tr", "th", "td"}
    for said in ("pay.events", "n<b>", 'by("card").count("1h")', "LogisticRegression"):
        assert said in shown.text
    assert pipeline.features["large"]._repr_html_() == (
        "<code>by(&quot;card&quot;).count(&quot;1h&quot;, where=field(&quot;size&quot;) &gt; 3)</code>"
    )


def test_a_result_is_shown_small(result: BacktestResult) -> None:
    html = result._repr_html_()
    assert len(html) < 20_000
    shown = Tags(html)
    assert shown.seen <= {"div", "p", "b", "table", "caption", "tr", "th", "td"}
    assert f"{result.report['served']['ROCAUC']:.6g}" in shown.text
    assert re.fullmatch(r"<backtest of flights: 1,500 events, .*ROCAUC 0\.\d+.*>", repr(result))


def test_a_long_table_says_how_much_is_left_out() -> None:
    rows = [{"name": f"<script>{n}", "text": "x" * 1_000} for n in range(ROWS_MAX + 7)]
    html = html_table("long", rows)
    assert html.endswith("<p>... and 7 more</p>")
    assert "<script" not in html
    assert len(html) < ROWS_MAX * 300
    assert html_table("none", []) == ""


def test_a_run_that_came_to_nothing_says_so() -> None:
    failed = headrace.backtest(small_pipeline(), events=[{"event_id": "e"}], labels=[])
    assert failed.report["diagnosis"] is not None
    assert "no example was learned" in Tags(failed._repr_html_()).text


# -- the plot -----------------------------------------------------------------------------------------


def test_a_plot_has_a_line_for_every_series(result: BacktestResult) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import dates, pyplot

    ax = result.plot(by="label_time")
    try:
        lines = {line.get_label(): line for line in ax.lines}
        rows = [row for row in result.curves if row["by"] == "label_time"]
        assert lines.keys() == {row["model"] for row in rows}
        for name, line in lines.items():
            own = [row for row in rows if row["model"] == name]
            assert list(line.get_ydata()) == [row["rolling"] for row in own]
            first = dates.num2date(line.get_xdata(orig=False)[0])
            assert first == dt.datetime.fromtimestamp(own[0]["start_ms"] / 1_000, dt.UTC)
        assert result.plot(ax=ax) is ax
    finally:
        pyplot.close(ax.figure)


def test_a_plot_without_matplotlib_says_what_to_install(
    result: BacktestResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match="matplotlib") as caught:
        result.plot()
    assert caught.value.hint == "pip install 'headrace[plots]'"


# -- mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"events": [("e1", 1)], "labels": []}, "row 0 is tuple"),
        ({"events": [{"event_id": object()}], "labels": []}, "row 0 is no JSON"),
        ({"events": "nowhere.jsonl", "labels": []}, "cannot read nowhere.jsonl"),
        ({"events": []}, "no labels file"),
        ({"events": [], "labels": [], "predictions_out": "no/such/folder"}, "cannot write no/such/folder"),
    ],
)
def test_what_cannot_be_read_or_written_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        headrace.backtest(small_pipeline(), **given)
    assert caught.value.hint


def test_a_plot_by_another_time_is_refused(result: BacktestResult) -> None:
    with pytest.raises(SettingsError, match="arrival"):
        result.plot(by="arrival")


def test_races_per_key_are_told_where_to_go() -> None:
    pipeline = headrace.Pipeline(
        name="pay",
        events=headrace.Topic("pay.events", Payment, key="card"),
        labels=headrace.Labels("pay.labels", wait="1h"),
        features={"size": field("size")},
        models={"linear": linear_model.LogisticRegression()},
        per="card",
    )
    with pytest.raises(SettingsError, match="race for each `card`"):
        headrace.backtest(pipeline, events=[], labels=[])
