"""The tables of `docs/learning-results.md`: made from figures, put between their marks.

Lives here: Markdown.  Never here: how figures come about.

    <!-- made: NAME (COMMAND) -->      a part of the page that one command writes; what stands outside
    ...                                of all parts is written by people
    <!-- end: NAME -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.learning.bad_slices import PLANTS, RUNS, Sighted, Wrong
from loadtest.learning.calibrated import CORRECTIONS, Honesty
from loadtest.learning.delays import LEARNED_BY, Bias, Corrected
from loadtest.learning.estimates import Errors, Stretch
from loadtest.learning.hostile import Hit
from loadtest.learning.imbalance import PRICED, Rare
from loadtest.learning.monitor_cost import MonitorCost
from loadtest.learning.positions import Placed
from loadtest.learning.releases import Released
from loadtest.learning.rules import METRICS, Answers, Worth
from operators.race.evaluation import SERVED
from topics.errors import SettingsError
from topics.messages import Task

__all__ = [
    "biases_table",
    "calibrated_table",
    "corrections_table",
    "costs_table",
    "estimates_table",
    "freshness_table",
    "goals_table",
    "hostile_table",
    "imbalance_table",
    "planted_table",
    "positions_table",
    "put",
    "releases_table",
    "stationary_table",
    "streams_table",
]

SWAPS_MAX = 6
"""The goal: at most so many swaps on a stream."""
SWAPS_NAMED_MAX = 6
"""Swaps of a stream whose times are written out."""


def streams_table(found: Mapping[str, tuple[Task, Answers]]) -> str:
    """Return the table of all streams: loss, and in brackets what a user reads."""
    head = [
        "stream", "rows", "served", "first champion", "best single", "last label", "window rule",
        "swaps (after so many labels)", "swaps of the window rule",
    ]  # fmt: skip
    rows = []
    for title, (task, answers) in found.items():
        told = [
            _outcome(task, outcome) for outcome in (answers.first, answers.best, answers.last, answers.window)
        ]
        told[1] = f"{told[1]} {answers.best_name}"
        rows.append(
            [title, f"{answers.rows:,}", f"**{_outcome(task, answers.served)}**", *told,
             _swaps(answers.served), str(len(answers.window.swaps))]
        )  # fmt: skip
    return _table(head, rows)


def biases_table(found: Mapping[str, Mapping[str, Bias]]) -> str:
    """Return how far what was served lies from the truth, by stream and way of learning, in two hours."""
    head = ["stream", *(f"`{how}`" for how in LEARNED_BY)]
    rows = [
        [name, *(f"{by[how].early:+.3f}, then {by[how].late:+.3f}" for how in LEARNED_BY)]
        for name, by in found.items()
    ]
    return _table(head, rows)


def corrections_table(found: Mapping[str, Corrected]) -> str:
    """Return what is reported of a run with corrections, and what is true."""
    rows = [[f"`{how}`", f"{one.reported:.3f}", f"{one.true:.3f}"] for how, one in found.items()]
    return _table(["`correct=`", "Brier score as reported", "against the last labels"], rows)


def goals_table(found: Mapping[str, tuple[Task, Answers]]) -> str:
    """Return the two goals that streams decide, stream by stream: met or missed."""
    rows = []
    for title, (_, answers) in found.items():
        margin = answers.served.loss / answers.best.loss - 1.0
        swaps = len(answers.served.swaps)
        rows.append(
            [title, f"{_met(margin <= 0.0)} ({margin:+.1%})", f"{_met(swaps <= SWAPS_MAX)} ({swaps})"]
        )
    return _table(["stream", "served loss below the best single", f"at most {SWAPS_MAX} swaps"], rows)


def freshness_table(report: Mapping[str, Any]) -> str:
    """Return loss and accuracy of what was served, and each candidate's loss, by what was withheld."""
    runs = report["runs"]
    names = report["candidates"]
    rows = []
    for run in runs:
        served, others = run["series"][SERVED], [run["series"].get(name) for name in names]
        rows.append(
            [
                run["withheld"],
                f"**{_share(served['loss'], 4)} ({_share(served['metrics']['Accuracy'], 3)})**",
                *("" if one is None else _share(one["loss"], 4) for one in others),
            ]
        )
    return _table(["withheld", "served", *names], rows)


def releases_table(found: Mapping[str, Mapping[str, Released]]) -> str:
    """Return what it costs to serve released versions, and what the gate is worth, by stream and model."""
    head = ["stream", "model", "learns always", "released", "released without the gate", "versions", "held",
            "set back"]  # fmt: skip
    rows = [
        [title, name, *(_share(loss, 4) for loss in one[:3]), *map(str, one[3:])]
        for title, by_name in found.items()
        for name, one in by_name.items()
    ]
    return _table(head, rows)


def hostile_table(found: Mapping[str, Mapping[str, Hit]]) -> str:
    """Return the accuracy on honest events, by model and defence, beside what the defence left out."""
    head = [
        "model", "defence", "before", "during", "after", "not learned", "hostile among the labels",
        "hostile sources quarantined", "honest ones",
    ]  # fmt: skip
    models = list(next(iter(found.values())))
    return _table(
        head,
        [
            [model, defence, *(_share(share, 3) for share in (hit.before, hit.during, hit.after)),
             f"{hit.left_out:,}", f"{hit.hostile:,}", str(hit.quarantined), str(hit.wronged)]
            for model in models
            for defence, hit in ((defence, of_models[model]) for defence, of_models in found.items())
        ],
    )  # fmt: skip


def imbalance_table(found: Mapping[str, Mapping[str, tuple[Rare | None, Rare]]]) -> str:
    """Return what remedies for a rare class are worth, by model and remedy, each at two bars of the score."""
    told = ("F1", "recall", "precision", "MCC", "cost")
    head = ["model", "remedy", "ROCAUC", *told, *(f"{name} at {_share(PRICED, 3)}" for name in told)]
    rows = []
    for model, by_remedy in found.items():
        for remedy, bars in by_remedy.items():
            area = bars[1].roc_auc
            figures = [
                figure
                for one in bars
                for figure in (
                    [""] * len(told)
                    if one is None
                    else [*(_share(share, 3) for share in one[:4]), f"{one.cost:.1f}"]
                )
            ]
            rows.append([model, remedy, "" if area is None else _share(area, 3), *figures])
    return _table(head, rows)


def calibrated_table(found: Mapping[str, Mapping[str, Mapping[str, Honesty]]]) -> str:
    """Return the calibration error, and in brackets the Brier score, by stream, model and correction."""
    rows = [
        [title, name, *(f"{_share(by[way].error, 3)} ({_share(by[way].brier, 4)})" for way in CORRECTIONS)]
        for title, by_model in found.items()
        for name, by in by_model.items()
    ]
    return _table(["stream", "model", *CORRECTIONS], rows)


def estimates_table(found: Mapping[str, Mapping[str, Errors]]) -> str:
    """Return estimated and true accuracy, and how far blocks are off, by model, change and span."""
    head = ["model", "change", "before", "no label of the new law yet", "labels have come"]
    rows = [
        [name, law, *map(_span, errors)] for name, by_law in found.items() for law, errors in by_law.items()
    ]
    return _table(head, rows)


def _span(span: Stretch) -> str:
    off = f"{_share(span.error, 3)} off (chance {_share(span.chance, 3)})"
    return f"{_share(span.estimated, 3)}, was {_share(span.true, 3)}; {off}"


def planted_table(found: Mapping[str, Sighted]) -> str:
    """Return how often and how soon each planted slice is found."""
    head = ["planted", "share of rows", "loss", f"found in {RUNS} runs", "after rows (median)", "others told"]
    rows = [
        [
            name,
            f"{PLANTS[name].share:.0%}",
            f"x {PLANTS[name].worse:g}",
            str(one.found),
            "" if one.after is None else f"{one.after:,.0f}",
            str(one.besides),
        ]
        for name, one in found.items()
    ]
    return _table(head, rows)


def stationary_table(found: Mapping[int, Wrong]) -> str:
    """Return how many slices were told where none is worse."""
    rows = [
        [f"{every:,}", f"{one.rows:,}", f"{one.promised:g}", f"{one.told} ({_met(one.told <= one.promised)})"]
        for every, one in found.items()
    ]
    return _table(["`false_slice_every`", "rows", "promised at most", "told"], rows)


def positions_table(found: Mapping[str, Placed]) -> str:
    """Return what scores are worth, by what the model is told of positions."""
    rows = [[name, _share(one.distance, 3), f"{one.right:.1%}"] for name, one in found.items()]
    return _table(["the rank is", "distance from the truth", "pairs in the right order"], rows)


def costs_table(found: Mapping[str, MonitorCost]) -> str:
    """Return what each monitor costs."""
    rows = [[title, f"{one.example_us:.1f}", f"{one.longest_ms:.1f}"] for title, one in found.items()]
    return _table(["monitor", "us an example", "longest at once, ms"], rows)


def put(page: Path, name: str, text: str, command: str) -> None:
    """Replace the part `name` of the page, which then says when it was made, and by which command.

    Raises SettingsError where the page has no such part.
    """
    part = re.compile(
        rf"(<!-- made: {re.escape(name)} .*?-->\n).*?(<!-- end: {re.escape(name)} -->)", re.DOTALL
    )
    try:
        before = page.read_text()
    except OSError as error:
        raise SettingsError(f"cannot read {page}: {error.strerror}", hint="give --page FILE") from None
    made = f"Made on {datetime.now(UTC).date().isoformat()} by `{command}`."
    after, count = part.subn(lambda found: f"{found[1]}\n{text.strip()}\n\n{made}\n\n{found[2]}", before)
    if count != 1:
        raise SettingsError(
            f"{page} has {count} parts called `{name}`",
            hint=f"write `<!-- made: {name} -->` and `<!-- end: {name} -->` where it belongs, once",
        )
    page.write_text(after)


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _outcome(task: Task, outcome: Worth) -> str:
    metric = f"{outcome.metric:.1f}" if METRICS[task] == "MAE" else _share(outcome.metric, 3)
    return f"{_share(outcome.loss, 4)} ({metric})"


def _share(value: float, digits: int) -> str:
    """Return a number without the zero before its point, as tables of losses have it."""
    return f"{value:.{digits}f}".removeprefix("0")


def _swaps(served: Worth) -> str:
    named = " ".join(f"{after:,}" for after in served.swaps[:SWAPS_NAMED_MAX])
    more = f" and {len(served.swaps) - SWAPS_NAMED_MAX} more" if len(served.swaps) > SWAPS_NAMED_MAX else ""
    return f"{len(served.swaps)}" + (f" ({named}{more})" if named else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
