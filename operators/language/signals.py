"""The numbers that an alert can be about: who keeps each, what it is, and what somebody is told of it.

Lives here: the table of signals.  Never here: their values (`operators/monitor`,
`engine/alerts/surroundings.py`), bounds and conditions (`alerts.py`).

A signal is a number that somebody keeps, for the whole pipeline or for each of some subjects (`quarantined`
is kept for each candidate).  Those of the learner follow from the log alone: a backtest, a run and a replay
tell the same; `MONITOR.NAME` is kept by the monitor of that name.  Those of a worker are of its surroundings,
by its clock; that of `headrace skew`, of the logs as they stand when it looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

__all__ = ["SIGNALS", "SignalMeaning", "SignalScope", "monitor_of"]

SignalScope = Literal["learner", "worker", "skew"]
"""`skew` is the process `headrace skew`, which runs beside workers or not at all."""


class SignalMeaning(NamedTuple):
    """What a signal is, and what an alert about it says to whoever is called."""

    scope: SignalScope
    unit: str
    meaning: str
    costs: str
    act: str
    look: str


SIGNALS: Mapping[str, SignalMeaning] = {
    "loss_ratio": SignalMeaning(
        "learner",
        "ratio",
        "mean loss of the last 1,000 examples, less what is usual chance, over that of the last 20,000",
        "answers are worse than they were",
        "look whether the inputs have changed, and whether another candidate is better",
        "`headrace models list PIPELINE.py`, headrace_model_score, the decisions topic",
    ),
    "prior_share": SignalMeaning(
        "learner",
        "ratio",
        "share of the last 500 examples that no model could answer, so that the prior did",
        "these answers ignore the event: they are the mean of all labels",
        "look why the models fail: quarantined ones say it in their decision",
        "`headrace models history PIPELINE.py`, headrace_model_failures_total",
    ),
    "quarantined": SignalMeaning(
        "learner",
        "count",
        "1 for each candidate that is quarantined",
        "the race goes on without it, and answers too where it was champion",
        "read the reason in its decision; mend it and `release` it, or `retire` it",
        "`headrace models history PIPELINE.py`",
    ),
    "shift": SignalMeaning(
        "learner",
        "count",
        "1 for each verdict of shift that is open",
        "models answer for a world that they have not learned",
        "follow the act that the decision suggests",
        "the decision `shift.found` and its evidence",
    ),
    "worst.found": SignalMeaning(
        "learner",
        "count",
        "slices whose loss is so much worse than that of the rest that it is hardly chance",
        "some get worse answers than the mean shows",
        "look at the slices and their rows; a feature or more data of them may help",
        "`worst` in `headrace backtest PIPELINE.py --json`",
    ),
    "worst.loss": SignalMeaning(
        "learner",
        "loss",
        "mean loss of the worst of those slices; 0 where there is none",
        "some get worse answers than the mean shows",
        "look at the slices and their rows; a feature or more data of them may help",
        "`worst` in `headrace backtest PIPELINE.py --json`",
    ),
    "calibration.error": SignalMeaning(
        "learner",
        "share",
        "recent calibration error of what is served: how far scores lie from the share that is true",
        "who acts on a score acts on a wrong chance",
        "give the candidate `recalibrate=`, or look whether the share of true labels has changed",
        "`calibration` in `headrace backtest PIPELINE.py --json`",
    ),
    "estimate.accuracy": SignalMeaning(
        "learner",
        "share",
        "accuracy of what is served as estimated from the scores of the newest block, before its labels",
        "more answers are wrong, if the scores are right about themselves",
        "look whether the inputs have changed; the true accuracy follows with the labels",
        "`estimate` in `headrace backtest PIPELINE.py --json`",
    ),
    "estimate.error": SignalMeaning(
        "learner",
        "share",
        "mean distance of the estimated from the true accuracy",
        "what is estimated before labels come is off by as much",
        "trust labels, not estimates; look whether the scores are calibrated",
        "`estimate` in `headrace backtest PIPELINE.py --json`",
    ),
    "tests.failing": SignalMeaning(
        "learner",
        "count",
        "tests of models that the champion fails",
        "it answers in a way that the definition says it must not",
        "look at the worst row of the test; pin or promote a candidate that passes",
        "`tests` in `headrace backtest PIPELINE.py --json`",
    ),
    "feedback.gini": SignalMeaning(
        "learner",
        "ratio",
        "Gini index of how often each item was shown in the last block",
        "few items are shown to all, and the next labels are of these alone",
        "let chance answer for some: a bandit, or a share of exploration",
        "`feedback` in `headrace backtest PIPELINE.py --json`",
    ),
    "feedback.coverage": SignalMeaning(
        "learner",
        "share",
        "share of the known items that were shown in the last block",
        "items that are not shown get no labels",
        "let chance answer for some: a bandit, or a share of exploration",
        "`feedback` in `headrace backtest PIPELINE.py --json`",
    ),
    "feedback.tail_share": SignalMeaning(
        "learner",
        "share",
        "share of what was shown in the last block that is not of the most popular fifth of the items",
        "items that are not popular get no labels",
        "let chance answer for some: a bandit, or a share of exploration",
        "`feedback` in `headrace backtest PIPELINE.py --json`",
    ),
    "feedback.trend": SignalMeaning(
        "learner",
        "per block",
        "by how much the Gini index grows from block to block",
        "what is shown narrows: the model learns from what it showed",
        "let chance answer for some: a bandit, or a share of exploration",
        "`feedback` in `headrace backtest PIPELINE.py --json`",
    ),
    "fairness.broken": SignalMeaning(
        "learner",
        "count",
        "bounds between groups that are broken",
        "a group is answered in another way than the definition allows",
        "look which groups differ; another candidate or threshold may keep the bound",
        "`fairness` in `headrace backtest PIPELINE.py --json`",
    ),
    "skew": SignalMeaning(
        "skew",
        "share",
        "share of the last 1,000 compared values of a feature that are not what the raw events say",
        "models answer and learn for values that nothing but a fault has made",
        "look at the differences: which feature, and since which version of worker or definition",
        "`headrace skew PIPELINE.py --once`, headrace_skew_features_total",
    ),
    "lag_records": SignalMeaning(
        "worker",
        "records",
        "events and labels that lie unread in the partitions of one worker",
        "answers and lessons come later by as much",
        "start another worker, or look what holds this one up",
        "headrace_lag_records, headrace_step_seconds_total",
    ),
    "dead_letter_share": SignalMeaning(
        "worker",
        "ratio",
        "share of the records of the last minutes that were refused",
        "refused events get no answer, refused labels are not learned",
        "read the reasons, mend the sender, then `headrace dlq replay PIPELINE.py`",
        "`headrace dlq list PIPELINE.py`, headrace_dead_letters_total",
    ),
    "label_completeness": SignalMeaning(
        "worker",
        "ratio",
        "share of the answers whose wait has ended lately that got their label",
        "models learn from a selection",
        "look whether labels are late, lost, or have other ids",
        "headrace_labels_total, headrace_predictions_dropped_total",
    ),
    "checkpoint_age_ms": SignalMeaning(
        "worker",
        "ms",
        "time since the last checkpoint was written",
        "a crash repeats that much work; beyond unsaved_max events no more are taken",
        "look at the store, the disk and the broker",
        "headrace_checkpoint_last_success_timestamp_seconds, headrace_store_outage_seconds",
    ),
    "store_away_ms": SignalMeaning(
        "worker",
        "ms",
        "time since the store of checkpoints was seen last",
        "nothing is saved; beyond unsaved_max events no more are taken",
        "bring the store back; the worker goes on by itself",
        "headrace_store_outage_seconds",
    ),
}
"""Every signal, by name."""


def monitor_of(name: str) -> str:
    """Return the monitor that keeps a signal; empty for what needs none.

    >>> monitor_of("tests.failing"), monitor_of("loss_ratio")
    ('tests', '')
    """
    monitor, dot, _ = name.partition(".")
    return monitor if dot else ""
