"""A model card: one version of a model on one page, from recorded facts alone.

Lives here: which facts, in which order, and the page as Markdown and as HTML that stands alone and prints
well.  Never here: where the facts come from (`history.py`).

After Mitchell et al., "Model Cards for Model Reporting" (2019), as far as a log can say it: what the model
is, what it learned from, how it did and beside whom, when it was in use and why, how to make it again.  What
no log knows (intended use, ethics) is the owner's to add; the card does not make it up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple

from engine.definition.pipeline import Pipeline
from engine.lineage.history import History, Measurement, Reign, Version, why
from topics.durations import duration_text

__all__ = ["Section", "card", "card_html", "card_markdown"]

EVIDENCE_SHOWN = ("evidence", "threshold", "effect", "examples", "blocks", "correlation")
"""Figures of a swap by evidence that a card shows, in this order."""
_SPECIAL = re.compile(r"([\\`*\[\]<>#|]|(?<!\w)_|_(?!\w))")
"""What Markdown might read as markup; an underscore within a word is none."""
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 1.8rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; }
tr { border-bottom: 1px solid #9995; }
td { overflow-wrap: anywhere; } th { font-weight: 600; }
@media print { body { font-size: 10pt; margin: 0; max-width: none; color: #000; background: #fff; }
  h2 { break-after: avoid; } tr { break-inside: avoid; } @page { margin: 18mm; } }
""".strip()


class Section(NamedTuple):
    """A part of a card: a heading, sentences, and a table where it has rows."""

    title: str
    lines: tuple[str, ...] = ()
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def card(pipeline: Pipeline, history: History, version: Version) -> list[Section]:
    """Return the sections of a version's card; the first has the title of the page."""
    reigns = [reign for reign in history.reigns if reign.version == version.version]
    return [
        _head(pipeline, version, reigns),
        _definition(version),
        _data(pipeline, version),
        _features(pipeline, version),
        _metrics(version),
        _reigns(reigns),
        _events(version),
        _again(pipeline, version),
    ]


def _head(pipeline: Pipeline, version: Version, reigns: Sequence[Reign]) -> Section:
    serving = {"champion": "It serves now.", "challenger": "It races and does not serve."}
    first = (
        f"Version {version.version} (`{version.name}`) of pipeline `{pipeline.name}`, task {pipeline.task}."
    )
    now = serving.get(version.state, f"It is {version.state} and serves no more.")
    times = f"It has been champion {len(reigns)} times." if len(reigns) > 1 else ""
    return Section(
        f"{pipeline.name}, version {version.version}: {version.name}", (f"{first} {now} {times}".strip(),)
    )


def _definition(version: Version) -> Section:
    rows = tuple(version.parameters.items())
    lines = () if rows else ("No record and no file says how it was defined.",)
    return Section("Definition", lines, ("part", "class or value") if rows else (), rows)


def _data(pipeline: Pipeline, version: Version) -> Section:
    labels = pipeline.labels
    source = f"topic `{labels.topic}`" if labels.topic else f"field `{labels.field}` of the event"
    lines = [
        f"Events: topic `{pipeline.events.name}`, key `{pipeline.events.key}`. Labels: {source}"
        + (f", waited for {duration_text(labels.wait_ms)}." if labels.topic else "."),
    ]
    started = version.started
    begins = "the first record" if started is None else f"offset {started.offset}"
    if version.states:
        newest = max(version.states, key=lambda state: state.position)
        lines.append(
            f"It has learned {newest.updates:,} labels, from {begins} to before offset {newest.position:,} "
            f"of `{pipeline.catalog['examples']}`, as its newest recorded state says."
        )
    else:
        lines.append(f"It learns `{pipeline.catalog['examples']}` from {begins} on; no state is recorded.")
    if version.measured:
        last = version.measured[-1]
        lines.append(f"When last measured ({_when(last.time)}) it had learned {last.updates:,} labels.")
    return Section("What it learned from", tuple(lines))


def _features(pipeline: Pipeline, version: Version) -> Section:
    current = pipeline.features_version
    lines = [f"{len(pipeline.book)} features, together version `{current}`."]
    if version.features_version and version.features_version != current:
        lines.append(
            f"When it was last champion they were version `{version.features_version}`: the rows below are "
            "those of the file now."
        )
    rows = tuple(
        (entry.name, entry.type, entry.expression, entry.window, entry.version, entry.owner)
        for entry in pipeline.book
    )
    return Section(
        "Features", tuple(lines), ("feature", "type", "definition", "window", "version", "owner"), rows
    )


def _metrics(version: Version) -> Section:
    measured = version.measured
    if not measured:
        return Section("Metrics", ("No swap has measured it: it was neither promoted nor replaced.",))
    names = list(dict.fromkeys(name for one in measured for name in one.metrics))
    rows = tuple(
        (_when(one.time), f"{one.examples:,}", f"{one.updates:,}", *(_number(one, name) for name in names))
        for one in measured
    )
    told = "Over all examples of the version up to each time, each scored before it was learned."
    rows = tuple(dict.fromkeys(rows))  # several decisions at one place measured the same
    return Section("Metrics", (told,), ("label time", "examples", "labels learned", *names), rows)


def _reigns(reigns: Iterable[Reign]) -> Section:
    rows = []
    for reign in reigns:
        began, ended = reign.began, reign.ended
        evidence = {} if began is None else began.evidence
        figures = ", ".join(
            f"{name} {evidence[name]:.4g}"
            if isinstance(evidence[name], float)
            else f"{name} {evidence[name]}"
            for name in EVIDENCE_SHOWN
            if name in evidence
        )
        why = (
            reign.reason if began is None or began.actor == "headrace" else f"{began.reason} ({began.actor})"
        )
        rows.append(
            (
                "the start" if began is None else _when(began.time),
                "now" if ended is None else f"{_when(ended.time)}, by {ended.model_name}",
                why,
                figures,
            )
        )
    lines = () if rows else ("It never was champion.",)
    return Section("Champion", lines, ("from", "to", "why", "evidence") if rows else (), tuple(rows))


def _events(version: Version) -> Section:
    rows = tuple(
        (_when(one.time), f"{one.offset:,}", one.type, why(one), one.actor) for one in version.decisions
    )
    lines = () if rows else ("No decision is about it.",)
    return Section(
        "Decisions", lines, ("label time", "offset", "decision", "why", "who") if rows else (), rows
    )


def _again(pipeline: Pipeline, version: Version) -> Section:
    lines = [
        f"`headrace models reproduce PIPELINE.py {version.version}` folds the examples log to its states."
    ]
    if version.libraries:
        told = ", ".join(f"{name} {number}" for name, number in version.libraries.items())
        lines.append(f"Computed by {told}.")
    if pipeline.metrics:
        lines.append(f"Metrics: {', '.join(type(metric).__name__ for metric in pipeline.metrics)}.")
    records: dict[tuple[str, str, str], list[str]] = {}
    for one in version.states:
        state = f"{version.version}@{one.updates}", f"{one.position:,}", one.digest
        records.setdefault(state, []).append(one.record)
    rows = tuple((*state, ", ".join(named)) for state, named in records.items())
    headings = ("state", "learned to offset", "structural digest", "named by") if rows else ()
    return Section("To make it again", tuple(lines), headings, rows)


def card_markdown(sections: Sequence[Section]) -> str:
    r"""Return a card as Markdown; cells cannot break out of their table, nor become markup.

    >>> print(card_markdown([Section("a|b", ("x",), ("n",), (("1|2",),))]))
    # a\|b
    <BLANKLINE>
    x
    <BLANKLINE>
    | n |
    |---|
    | 1\|2 |
    <BLANKLINE>
    """
    lines: list[str] = []
    for number, section in enumerate(sections):
        lines += [f"{'##' if number else '#'} {_cell(section.title)}", ""]
        for line in section.lines:
            lines += [line, ""]
        if section.rows:
            lines.append(f"| {' | '.join(section.headings)} |")
            lines.append("|---" * len(section.headings) + "|")
            lines += [f"| {' | '.join(map(_cell, row))} |" for row in section.rows]
            lines.append("")
    return "\n".join(lines)


def card_html(sections: Sequence[Section]) -> str:
    """Return a card as one HTML page: no script, nothing loaded, every text escaped.

    >>> page = card_html([Section("<b>", ("`<i>`",))])
    >>> "<b>" in page, "<code>&lt;i&gt;</code>" in page
    (False, True)
    """
    body: list[str] = []
    for number, section in enumerate(sections):
        level = "h2" if number else "h1"
        body.append(f"<{level}>{escape(section.title)}</{level}>")
        body += [f"<p>{_coded(line)}</p>" for line in section.lines]
        if section.rows:
            heads = "".join(f"<th>{escape(heading)}</th>" for heading in section.headings)
            body.append(f"<table><thead><tr>{heads}</tr></thead><tbody>")
            for row in section.rows:
                cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
                body.append(f"<tr>{cells}</tr>")
            body.append("</tbody></table>")
    title = escape(sections[0].title if sections else "")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _coded(line: str) -> str:
    """Return a sentence as HTML, what stands between backticks as code."""
    parts = line.split("`")
    return "".join(
        f"<code>{escape(part)}</code>" if at % 2 else escape(part) for at, part in enumerate(parts)
    )


def _cell(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _number(measured: Measurement, name: str) -> str:
    metrics: Mapping[str, float] = measured.metrics
    return f"{metrics[name]:.4f}" if name in metrics else ""


def _when(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
