"""What the demo shows: one frame of the live table, plain lines, and the summary.

Lives here: words, columns and colours.  Never here: a clock, a socket, counting
(`figures.py`): every function takes values and returns text or a Rich renderable, so
that a frame can be tested and drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from river import stats

from engine.local.worker import ModelFigures, WorkerPage
from loadtest.demo.figures import Figures
from topics.messages import Decision

__all__ = ["Frame", "decision_line", "live_view", "plain_line", "summary_lines"]

DECISIONS_SHOWN_MAX = 6
"""Lines under the table: the frame must fit a terminal of 24 lines with three candidates, their blend, and a
challenger that has started by itself."""
SCORES_SHOWN = ("LogLoss", "Brier", "ROCAUC")
"""In this order where the worker has them; the first three it has otherwise."""
_HOUR_MS = 3_600_000
BLEND_KIND = "Blend"
"""What the worker calls the class of a blend; it learns weights and is no single model."""
_TITLES = {
    "opening.started": "opens",
    "drift.detected": "drift",
    "drift.improved": "better",
    "challenger.started": "started",
    "challenger.retired": "retired",
    "model.promoted": "PROMOTED",
    "model.rolled_back": "ROLLBACK",
    "model.quarantined": "QUARANTINE",
    "champion.pinned": "pinned",
    "champion.unpinned": "unpinned",
    "learning.paused": "paused",
    "learning.resumed": "resumed",
    "learning.backlog": "waiting",
    "command.refused": "refused",
}
_STYLES = {
    "drift.detected": "yellow",
    "drift.improved": "cyan",
    "model.promoted": "bold green",
    "model.rolled_back": "bold yellow",
    "model.quarantined": "bold red",
}


class Frame(NamedTuple):
    """All that one frame shows."""

    counted: str
    """What the events are."""
    figures: Figures
    page: WorkerPage
    events_total: int
    begins_ms: int
    ends_ms: int
    elapsed_s: float
    """Wall time since the first answer came in."""
    rate: float
    """Events answered per second of late."""


def when(time_ms: int) -> str:
    """Return a simulated time as people write it.

    >>> when(1_357_017_300_000)
    'Tue 1 Jan 05:15'
    """
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return f"{moment:%a} {moment.day} {moment:%b %H:%M}"


def _latency(pair: tuple[float, float] | None) -> str:
    return "p50 - p99 -" if pair is None else f"p50 {pair[0]:.0f} ms p99 {pair[1]:.0f} ms"


def _delay(delay_ms: float | None) -> str:
    return "-" if delay_ms is None else f"{delay_ms / _HOUR_MS:.1f} h"


def _columns(candidates: Sequence[ModelFigures]) -> list[str]:
    scored = list(dict.fromkeys(name for candidate in candidates for name in candidate.scores))
    return [name for name in SCORES_SHOWN if name in scored] or scored[: len(SCORES_SHOWN)]


def evidence_text(candidate: ModelFigures) -> str:
    """Return how far a challenger's evidence has come; 100 % swaps once the cool-down is past."""
    if candidate.alias == "champion":
        return "serves"
    return "-" if candidate.evidence is None else f"{candidate.evidence:.1%}"


def model_table(page: WorkerPage) -> Table:
    """Return champion and challengers, one per row."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    metrics = _columns(page.candidates)
    for title in ("", "model", "v"):
        table.add_column(title, no_wrap=True)
    table.add_column("kind")  # the one column that gives way on a narrow terminal
    for title in (*metrics, "labels", "evidence"):
        table.add_column(title, justify="right", no_wrap=True)
    for candidate in sorted(page.candidates, key=lambda one: one.alias != "champion"):
        table.add_row(
            candidate.alias,
            candidate.name,
            str(candidate.version),
            Text(candidate.class_name, no_wrap=True, overflow="ellipsis"),
            *(f"{candidate.scores[name]:.4f}" if name in candidate.scores else "-" for name in metrics),
            f"{candidate.labels:,}",
            evidence_text(candidate),
            style="bold green" if candidate.alias == "champion" else "",
        )
    if not page.candidates:
        table.add_row("", "no model has learned yet")
    return table


def decision_line(decision: Decision) -> str:
    """Return one decision as one line: simulated time, what, which model, why.

    >>> decision_line(Decision("id", "drift.detected", 1_357_017_300_000, "tree", 1, 900, "ADWIN", "auto", 7))
    'Tue 1 Jan 05:15   drift      tree v1: ADWIN (900 labels)'
    """
    subject = f"{decision.model_name} v{decision.model_version}"
    if decision.type == "model.promoted" and decision.from_model:
        subject += f", champion was {decision.from_model} v{decision.from_version}"
    title = _TITLES.get(decision.type, decision.type)
    if decision.type == "opening.started":
        return f"{when(decision.time):<16}  {title:<10} {subject}: serves until something is proven better"
    return (
        f"{when(decision.time):<16}  {title:<10} {subject}: {decision.reason} ({decision.examples:,} labels)"
    )


def header_lines(frame: Frame) -> tuple[str, str]:
    """Return the two lines of figures above the table."""
    figures, page = frame.figures, frame.page
    flow = (
        f"{figures.ledger.sent:,} events  {frame.rate:,.0f}/s  {figures.answers:,} predictions  "
        f"{_latency(page.latency_ms)}  lag {page.lag:,}"
    )
    labels = (
        f"{page.joined:,} labels joined, {_delay(figures.label_delay_ms)} after their events (median)  "
        f"dead letters {page.dead_letters:,}"
    )
    return flow, labels


def weights_line(figures: Figures) -> str:
    """Return who has how much say in the answers of a blend, the heaviest first."""
    if figures.weights is None:
        return ""
    blend, weights = figures.weights
    heaviest = sorted(weights.items(), key=lambda weight: -weight[1])
    return f"{blend} answers with " + " + ".join(f"{weight:.0%} {name}" for name, weight in heaviest)


def live_view(frame: Frame) -> RenderableType:
    """Return one frame of the live screen."""
    figures = frame.figures
    title = Text.assemble(("headrace demo", "bold"), f"   {frame.counted}   {when(figures.simulated_ms)}")
    if figures.first_answer_s is not None and frame.elapsed_s > 0:
        life = (figures.simulated_ms - frame.begins_ms) / 1000 / frame.elapsed_s
        title.append(f"   {life:,.0f} times faster than life", "dim")
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    done = max(figures.simulated_ms - frame.begins_ms, 0)
    bar.add_row(
        Text(when(frame.begins_ms), "dim"),
        ProgressBar(total=max(frame.ends_ms - frame.begins_ms, 1), completed=done, complete_style="green"),
        Text(when(frame.ends_ms), "dim"),
    )
    news = [
        Text(decision_line(decision), _STYLES.get(decision.type, ""), no_wrap=True, overflow="ellipsis")
        for decision in figures.decisions[-DECISIONS_SHOWN_MAX:]
    ]
    body: list[RenderableType] = [title, *map(Text, header_lines(frame)), Text()]
    weights = Text(weights_line(figures), no_wrap=True, overflow="ellipsis")
    body += [model_table(frame.page), Text(), weights, *(news or [Text("no drift, no swap yet", "dim")])]
    body += [Text(), bar]
    return Padding(Group(*body), (1, 2))


def plain_line(frame: Frame) -> str:
    """Return the frame as one line, for pipes and logs."""
    figures, page = frame.figures, frame.page
    champion = page.champion
    return "  ".join(
        (
            f"{when(figures.simulated_ms):<16}",
            f"{figures.ledger.sent:,}/{frame.events_total:,} events",
            f"{frame.rate:,.0f}/s",
            f"{figures.answers:,} predictions",
            f"{page.joined:,} labels",
            f"lag {page.lag:,}",
            _latency(page.latency_ms),
            f"dead letters {page.dead_letters:,}",
            f"champion {champion.name} v{champion.version}" if champion else "no champion yet",
        )
    )


def summary_lines(frame: Frame, *, first_champion: str | None) -> list[str]:
    """Return what happened, in the words of a person who was asked."""
    figures, page = frame.figures, frame.page
    events, seconds = figures.ledger.sent, max(frame.elapsed_s, 1e-9)
    span = f"{when(frame.begins_ms)} to {when(frame.ends_ms)}"
    life = (frame.ends_ms - frame.begins_ms) / 1000 / seconds
    answers = figures.ledger.complaint() or "exactly one for each event, counted by an independent consumer"
    if figures.superseded:
        answers += f"; {figures.superseded:,} superseded records"
    lines = [
        f"{events:,} {frame.counted}, {span}, in {seconds:.0f} s ({life:,.0f} times faster than life)",
        f"predictions    {figures.answers:,}, {answers}",
        f"labels joined  {page.joined:,} of {figures.labels:,}; learned {page.learned:,}",
        f"dead letters   {page.dead_letters:,}",
        *(f"               {line}" for line in figures.refused()),
        f"throughput     {events / seconds:,.0f} events/s",
        f"latency        {_latency(page.latency_ms)}, from a record's poll to its prediction's send",
    ]
    return [*lines, *_race(figures, first_champion), *_losses(figures, page, first_champion)]


def _race(figures: Figures, first_champion: str | None) -> list[str]:
    """Return how the race opened, and every verdict on it."""
    openings, swaps = figures.openings, figures.swaps
    if not openings:
        opening = f"{first_champion or 'nobody'} was named champion and served from the first event on"
    elif openings[0].reason == "blend":
        opening = f"no champion is named: {openings[0].model_name} served from the first event on"
    else:
        opening = f"no champion is named: the one of the lowest loss served, {len(openings):,} in turn"
    served_last = swaps[-1].model_name if swaps else openings[-1].model_name if openings else first_champion
    verdicts = [f"verdict        {decision_line(swap)}" for swap in swaps]
    return [
        f"opening        {opening}",
        *(verdicts or [f"verdicts       none: nothing was proven better than {served_last}"]),
    ]


def _losses(figures: Figures, page: WorkerPage, first_champion: str | None) -> list[str]:
    """Return the loss as served, and what single models would have had: those that learned from the start."""
    if not figures.served:
        return []
    mean = sum((loss for loss in figures.served.values()), stats.Mean()).get()
    shares = ", ".join(f"{name} {loss.get():.4f} over {loss.n:,.0f}" for name, loss in figures.served.items())
    lines = [f"Brier loss     {mean:.4f} as served ({shares})"]
    alone = {one.name: one for one in page.candidates if _from_the_start(one, page) and "Brier" in one.scores}
    single = sorted(
        (one for one in alone.values() if one.class_name != BLEND_KIND), key=lambda one: one.scores["Brier"]
    )
    compared: dict[str, str] = {}
    if single:
        compared[single[0].name] = "the best single model"
        compared.setdefault(single[-1].name, "the worst")
    if figures.swaps and first_champion in alone:
        compared[first_champion] = f"{compared.get(first_champion, '')}, the first champion".removeprefix(
            ", "
        )
    for name, what in compared.items():
        loss = alone[name].scores["Brier"]
        change = 100 * (1 - mean / loss) if loss else 0.0
        lines.append(
            f"               {loss:.4f} if {name} had served throughout, {what} "
            f"({abs(change):.0f} % {'less' if change >= 0 else 'more'} as served)"
        )
    return lines


def _from_the_start(candidate: ModelFigures, page: WorkerPage) -> bool:
    """Return whether it has learned all labels: the losses of others are over other rows."""
    return candidate.labels == max(one.labels for one in page.candidates)
