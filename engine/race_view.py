"""The race for operators: a log line and a count for each decision, the candidates in a scrape.

Lives here: the log level of each decision, what a scrape shows of every candidate.  Never here: the decisions
(`operators/race/arena.py`), names of metrics (`engine/metrics.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from engine.machines.learner import Learner
from engine.machines.snapshots import SnapshotHead
from engine.metrics import Metrics, ModelStatus, ShiftStatus
from engine.monitor_view import MonitorFigures, figures_of
from engine.page.rings import Rings
from operators.models.guards import last_step
from operators.models.mixture import Mixture
from operators.models.scoring import Roster
from operators.race.arena import THE_FILE
from operators.race.blend import Blend
from operators.race.evaluation import SERVED
from topics.messages import REPORTED, Decision

__all__ = ["RaceView"]

RECENT_EVERY_S = 10.0
"""A recent window of 1,000 examples and four metrics takes some 20 ms for each four models."""
DECISION_LEVELS: dict[str, int] = {
    "model.quarantined": logging.WARNING,
    "source.quarantined": logging.WARNING,
    "candidate.refused": logging.WARNING,
    "learning.backlog": logging.WARNING,
    "command.refused": logging.WARNING,
    "proposal.opened": logging.WARNING,
    "shift.found": logging.WARNING,
    "drift.improved": logging.DEBUG,
    "version.released": logging.DEBUG,
}
"""What waits for a person and a lost model must be found among a hundred alarms; other decisions are INFO,
and all are on the topic."""

log = structlog.get_logger("headrace")


def _kind(model: Any) -> str:
    """Return the class of a model, by the name that a pipeline's file has for it."""
    return Blend.__name__ if isinstance(model, Mixture) else type(last_step(model)).__name__


class RaceView:
    """The race of one worker in `metrics`, the log and the page's rings."""

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rings = Rings()
        """What the page remembers."""
        self._metrics = metrics
        self._clock = clock
        self._recent: dict[str, dict[str, float]] = {}
        self._recent_at_s = float("-inf")
        self._figures = MonitorFigures()
        self._figures_at_s = float("-inf")

    def decided(self, decisions: Sequence[Decision], roster: Roster) -> None:
        """Count, log and remember decisions; `roster` is as they left it."""
        self.rings.decided(decisions)
        counts = self._metrics.counts
        for decision in decisions:
            level = (
                logging.DEBUG
                if decision.type in REPORTED
                else DECISION_LEVELS.get(decision.type, logging.INFO)
            )
            if decision.type.startswith("drift."):
                direction = "worse" if decision.type == "drift.detected" else "better"
                detector, _, subject = decision.reason.partition(" on ")
                counts["drifts", f"{detector} {direction} {subject}"] += 1
            elif decision.type in {"model.promoted", "model.rolled_back"}:
                counts["promotions", _promoted_by(decision)] += 1
            elif decision.type == "candidate.refused":
                counts["candidates_refused", decision.model_name] += 1
            elif decision.type == "model.quarantined" and decision.evidence.get("alias") == "champion":
                level = logging.ERROR
            log.log(
                level,
                decision.type,
                model=decision.model_name,
                reason=decision.reason,
                examples=decision.examples,
                decision=decision.decision_id,
                **({"fix": decision.evidence["fix"]} if "fix" in decision.evidence else {}),
            )
            if "block_wanted" in decision.evidence:
                log.warning(
                    "losses are correlated from block to block: swaps come more often than promised",
                    model=decision.model_name,
                    correlation=decision.evidence["correlation"],
                    fix=f"evidence_block={decision.evidence['block_wanted']!r}",
                )
        for _, outcome in {_answered(decision) for decision in decisions} - {(-1, "")}:
            counts["commands", outcome] += 1
        if decisions and roster.champion in roster.quarantined:
            log.error("every candidate is in quarantine: the prior answers", champion=roster.champion)

    def candidates(self, learner: Learner) -> list[ModelStatus]:
        """Return every candidate, those in quarantine too."""
        roster = learner.roster
        standing = learner.evidence.standing()
        correlations = {duel.name: duel.correlation for duel in learner.evidence.compared()}
        return [
            ModelStatus(
                name=candidate.name,
                version=candidate.version,
                class_name=_kind(candidate.model),
                alias=learner.arena.states[candidate.name],
                updates=candidate.updates,
                evidence=standing.get(candidate.name, 0.0),
                correlation=correlations.get(candidate.name, 0.0),
            )
            for candidate in roster.racers.values()
        ]

    def served(self, snapshot: SnapshotHead, roster: Roster) -> list[ModelStatus]:
        """Return every candidate of a snapshot that this process serves; how they stand the leader tells."""
        return [
            ModelStatus(
                name=racer.name,
                version=racer.version,
                class_name=_kind(roster.racers[racer.name].model),
                alias=racer.alias,
                updates=racer.updates,
                evidence=0.0,
                correlation=0.0,
            )
            for racer in snapshot.racers
        ]

    def scores(self, learner: Learner) -> dict[tuple[str, str, str], float]:
        """Return the value by (model, metric, window) of every racing candidate, and of what was served.

        A candidate in quarantine has none: the metrics of its last good example would stand still beside
        those that go on.
        """
        overall = learner.evaluation.model_scores()
        overall[SERVED] = learner.evaluation.served_scores()
        sick = learner.roster.quarantined
        return {
            (name, metric, window): value
            for window, by_model in (("all", overall), ("recent", self._recent_scores(learner)))
            for name, values in by_model.items()
            if name not in sick
            for metric, value in values.items()
        }

    def shift(self, learner: Learner) -> ShiftStatus | None:
        """Return what is said of shift; None where nobody watches."""
        if (watching := learner.watching) is None:
            return None
        lasting = watching.watcher.open
        told, signals = watching.watcher.report(), watching.watcher.signals()
        unusual = told.get("unusual")
        return ShiftStatus(
            "" if lasting is None else lasting.verdict,
            signals["shift_evidence"],
            unusual if isinstance(unusual, dict) else {},
            int(signals["shift_silent"]),
        )

    def figures(self, learner: Learner) -> MonitorFigures:
        """Return what monitors have seen, at most RECENT_EVERY_S old: many slices take a while."""
        now_s = self._clock()
        if now_s - self._figures_at_s > RECENT_EVERY_S:
            self._figures, self._figures_at_s = figures_of(learner.monitors), now_s
        return self._figures

    def _recent_scores(self, learner: Learner) -> dict[str, dict[str, float]]:
        """Return the recent window's metrics, at most RECENT_EVERY_S old: counting them holds the loop."""
        now_s = self._clock()
        if now_s - self._recent_at_s > RECENT_EVERY_S:
            self._recent = learner.evaluation.recent_scores()
            for name, told in learner.monitors.report_of("calibration").items():
                self._recent.setdefault(name, {})["calibration_error"] = told["recent_calibration_error"]
            self._recent_at_s = now_s
        return self._recent


def _promoted_by(decision: Decision) -> str:
    """Return why a champion was swapped, as a label of the counter."""
    if "command_id" in decision.evidence:
        return "command"
    return "file" if decision.reason == THE_FILE else decision.reason


def _answered(decision: Decision) -> tuple[int, str]:
    """Return the offset of the command that a decision answers, and whether it was done; else (-1, "")."""
    if decision.type == "command.refused":
        return decision.offset, "refused"
    return (decision.offset, "done") if "command_id" in decision.evidence else (-1, "")
