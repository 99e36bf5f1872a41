"""What the demo shows, from fixed values: no clock, no broker, no terminal."""

from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from engine.local.worker import ModelFigures, WorkerPage
from engine.offline.publish import FileLine
from loadtest.bench.ledger import Ledger
from loadtest.demo.figures import Figures, ServedAnswer
from loadtest.demo.view import Frame, decision_line, evidence_text, live_view, plain_line, summary_lines
from topics.headers import dead_letter
from topics.messages import Decision, Record

DAY_MS = 86_400_000
BEGIN_MS = 1_357_017_300_000  # Tue 1 Jan 2013 05:15
LAST_MS = BEGIN_MS + 20 * DAY_MS - 3 * 3_600_000
DRIFT = Decision("d1", "drift.detected", BEGIN_MS + DAY_MS, "adaptive", 1, 900, "ADWIN on loss", "auto", 7)
SWAP = Decision(
    "d2",
    "model.promoted",
    BEGIN_MS + 20 * DAY_MS,
    "linear",
    2,
    18_304,
    "e-detector",
    "auto",
    9,
    from_model="adaptive",
    from_version=1,
)
LINEAR = ModelFigures(
    "linear", 2, "LogisticRegression", "champion", 18_304, {"ROCAUC": 0.66, "Brier": 0.19}, None
)
ADAPTIVE = ModelFigures("adaptive", 1, "HAT", "challenger", 18_304, {"ROCAUC": 0.59, "Brier": 0.25}, 0.125)
BLEND = ModelFigures("blend", 4, "Blend", "champion", 18_304, {"ROCAUC": 0.68, "Brier": 0.1}, None)
LATE = ModelFigures("linear-5", 5, "LogisticRegression", "challenger", 304, {"Brier": 0.05}, 0.0)
OPENING = Decision("d0", "opening.started", BEGIN_MS, "blend", 4, 1, "blend", "headrace", 0)
PAGE = WorkerPage(joined=3, learned=3, lag=12, latency_ms=(4.2, 11.7), candidates=(LINEAR, ADAPTIVE))


def answer(known: Figures, event_id: str, model: str, score: float) -> None:
    known.answered(
        ServedAnswer(f"flights:{event_id}", event_id, LAST_MS, model, score), b"JFK", 0, now_s=1.004
    )


def figures() -> Figures:
    known = Figures(Ledger("flights"), {"a": True, "b": False, "c": False, "d": True}, {"a": LAST_MS})
    for event_id in "abcd":
        known.sent(FileLine(False, LAST_MS, event_id, b"JFK", b""), 1.0)
    for event_id, model, score in (("a", "adaptive", 0.5), ("b", "adaptive", 0.5), ("c", "linear", 0.0)):
        answer(known, event_id, model, score)
    known.sent(FileLine(True, LAST_MS + 3 * 3_600_000, "a", b"JFK", b""), 1.0)
    known.decided(DRIFT)
    known.decided(SWAP)
    return known


def opened() -> Figures:
    """Return the figures of a run in which a blend answers and nothing is proven."""
    known = figures()
    known.decisions[:] = [OPENING, DRIFT]
    known.answered(
        ServedAnswer("flights:d", "d", LAST_MS, "blend", 0.5, {"adaptive": 0.25, "linear": 0.75}),
        *(b"JFK", 0, 1.004),
    )
    return known


def frame(page: WorkerPage = PAGE, known: Figures | None = None) -> Frame:
    return Frame(
        "flights",
        known or figures(),
        page,
        40,
        BEGIN_MS,
        BEGIN_MS + 40 * DAY_MS,
        elapsed_s=20.0,
        rate=1_234.4,
    )


def drawn(shown: Frame, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=24, force_terminal=False)
    with console.capture() as captured:
        console.print(live_view(shown))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_live_view_shows_flow_models_news_and_progress() -> None:
    text = "\n".join(drawn(frame()))
    assert "4 events  1,234/s  3 predictions  p50 4 ms p99 12 ms  lag 12" in text
    assert "3 labels joined, 3.0 h after their events (median)  dead letters 0" in text
    assert "86,400 times faster than life" in text
    assert "Mon 21 Jan 05:15  PROMOTED   linear v2, champion was adaptive v1: e-detector" in text
    assert "Wed 2 Jan 05:15   drift      adaptive v1: ADWIN on loss" in text
    assert "Tue 1 Jan 05:15" in text
    assert "Sun 10 Feb 05:15" in text


def test_models_are_rows_under_the_metrics_they_have() -> None:
    rows = [line.split() for line in drawn(frame())]
    assert ["model", "v", "kind", "Brier", "ROCAUC", "labels", "evidence"] in rows
    assert ["champion", "linear", "2", "LogisticRegression", "0.1900", "0.6600", "18,304", "serves"] in rows
    assert ["challenger", "adaptive", "1", "HAT", "0.2500", "0.5900", "18,304", "12.5%"] in rows


def test_a_busy_frame_fits_a_small_terminal() -> None:
    known = figures()
    for _ in range(100):
        known.decided(SWAP)
    scores = {"LogLoss": 0.5, "Brier": 0.2, "ROCAUC": 0.6}
    long = ADAPTIVE._replace(class_name="HoeffdingAdaptiveTreeClassifier", scores=scores)
    known.weights = "blend", {"adaptive": 0.25, "linear": 0.75}
    lines = drawn(frame(PAGE._replace(candidates=(LINEAR, long, long, LATE, BLEND)), known), width=80)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert sum("0.5000  0.2000  0.6000  18,304     12.5%" in line for line in lines) == 2


def test_a_blend_stands_first_and_says_what_it_is_made_of() -> None:
    lines = [line.strip() for line in drawn(frame(PAGE._replace(candidates=(ADAPTIVE, BLEND)), opened()))]
    first = next(n for n, line in enumerate(lines) if line.startswith("model"))
    assert lines[first + 1].split() == [
        "champion",
        "blend",
        "4",
        "Blend",
        "0.1000",
        "0.6800",
        "18,304",
        "serves",
    ]
    assert "blend answers with 75% linear + 25% adaptive" in lines
    assert "Tue 1 Jan 05:15   opens      blend v4: serves until something is proven better" in lines


def test_the_first_frame_has_nothing_to_show_and_says_so() -> None:
    text = "\n".join(
        drawn(
            Frame(
                "flights", Figures(Ledger("flights"), {}, {}), WorkerPage(), 40, BEGIN_MS, BEGIN_MS, 0.0, 0.0
            )
        )
    )
    assert "no model has learned yet" in text
    assert "no drift, no swap yet" in text
    assert "p50 - p99 -" in text


def test_plain_lines_say_the_same_in_one_line() -> None:
    line = plain_line(frame())
    assert "\n" not in line
    for part in ("Mon 21 Jan 05:15", "4/40 events", "3 predictions", "lag 12", "champion linear v2"):
        assert part in line
    assert "no champion yet" in plain_line(frame(WorkerPage()))


@pytest.mark.parametrize(("evidence", "text"), [(None, "-"), (0.0, "0.0%"), (0.5, "50.0%"), (1.25, "125.0%")])
def test_evidence_reads_as_a_share_of_what_a_swap_needs(evidence: float | None, text: str) -> None:
    assert evidence_text(ADAPTIVE._replace(evidence=evidence)) == text


def test_a_decision_of_any_type_is_a_line() -> None:
    for kind, word in (("model.quarantined", "QUARANTINE"), ("drift.improved", "better")):
        line = decision_line(Decision("d", kind, BEGIN_MS, "tree", 3, 5, "why", "auto", 1))  # type: ignore[arg-type]
        assert line.split()[4] == word
        assert line.endswith("tree v3: why (5 labels)")


def test_the_summary_counts_answers_and_compares_losses() -> None:
    known = figures()
    answer(known, "d", "linear", 1.0)
    text = "\n".join(summary_lines(frame(known=known), first_champion="adaptive"))
    assert "exactly one for each event, counted by an independent consumer" in text
    assert "opening        adaptive was named champion and served from the first event on" in text
    assert "verdict        Mon 21 Jan 05:15  PROMOTED   linear v2" in text
    assert "0.1250 as served (adaptive 0.2500 over 2, linear 0.0000 over 2)" in text
    assert "0.1900 if linear had served throughout, the best single model (34 % less as served)" in text
    assert (
        "0.2500 if adaptive had served throughout, the worst, the first champion (50 % less as served)"
        in text
    )


def test_the_summary_of_a_blend_is_measured_by_the_models_it_is_of() -> None:
    page = PAGE._replace(candidates=(BLEND, LINEAR, ADAPTIVE, LATE))
    text = "\n".join(summary_lines(frame(page, opened()), first_champion="blend"))
    assert "opening        no champion is named: blend served from the first event on" in text
    assert "verdicts       none: nothing was proven better than blend" in text
    assert "0.1900 if linear had served throughout, the best single model" in text
    assert "0.2500 if adaptive had served throughout, the worst (" in text
    assert "if blend" not in text, "it is what was served"
    assert "linear-5" not in text, "a loss over fewer rows"


def test_the_summary_of_a_leader_counts_who_led() -> None:
    known = figures()
    known.decisions[:] = [replace(OPENING, model_name=name, reason="leader") for name in ("tree", "linear")]
    text = "\n".join(summary_lines(frame(known=known), first_champion="tree"))
    assert "no champion is named: the one of the lowest loss served, 2 in turn" in text
    assert "verdicts       none: nothing was proven better than linear" in text


def test_the_summary_names_what_is_missing() -> None:
    text = "\n".join(summary_lines(frame(), first_champion=None))
    assert "1 events without a prediction (d)" in text
    assert "exactly one" not in text


def test_the_summary_shows_dead_letters_by_stage_with_the_first_message() -> None:
    known = figures()
    for offset, stage in enumerate(("decode", "join", "decode")):
        refused = Record("flights.arrivals", 0, offset, None, None, b"")
        known.dead_letters.add(dead_letter(refused, stage=stage, exception="E", message=f"reason {offset}"))
    lines = [line.strip() for line in summary_lines(frame(known=known), first_champion=None)]
    assert "2 decode: reason 0 (topic flights.arrivals partition 0 offset 0)" in lines
    assert "1 join: reason 1 (topic flights.arrivals partition 0 offset 1)" in lines


def test_a_run_without_answers_has_a_summary_too() -> None:
    lines = summary_lines(frame(WorkerPage(), Figures(Ledger("flights"), {}, {})), first_champion="adaptive")
    assert "verdicts       none: nothing was proven better than adaptive" in lines
    assert not any(line.startswith("Brier") for line in lines)
