"""What the demo publishes and what comes back: an example's records, and the counts of one run.

Lives here: where examples lie, cutting flights to a number; figures for the screen and the judgement.  Never
here: records that are made up (`generated.py`), which examples there are (`scenarios.py`), the order in which
files are sent (`engine/offline/publish.py`), which answer belongs to which event
(`loadtest/bench/ledger.py`), what the worker says of itself (`engine/local/worker.py`), clocks.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct
from river import stats

from engine.definition.pipeline import Pipeline
from engine.offline.publish import FileLine, PipelineFiles, merged
from engine.shipped import shipped
from engine.watches import DeadLetters, letter_lines
from loadtest.bench.ledger import Answer, AskedEvent, Ledger
from operators.race.losses import brier
from topics.catalog import Catalog
from topics.errors import SettingsError
from topics.messages import REPORTED, Decision, Score

__all__ = ["CATALOG", "EXAMPLES", "EXAMPLE_FOLDER", "Figures", "Sample", "ServedAnswer", "read_sample"]

RECENT_MAX = 2_000
"""Label delays behind the median on the screen: about the last seconds of a run."""
DECISIONS_MAX = 10_000
"""A demo makes a handful; a loop that makes more than this must not eat the memory."""

EXAMPLES = shipped("examples")
EXAMPLE_FOLDER = EXAMPLES / "flights"
CATALOG = Catalog("flights", events="flights.departures", labels="flights.arrivals")
"""The names that its pipeline gives its topics: known before it is loaded."""


class Sample(NamedTuple):
    """The example's records in the order in which they happen."""

    lines: list[FileLine]
    events: int
    truth: dict[str, bool]
    """Label by event id."""
    times: dict[str, int]
    """Time by event id."""


class _Arrival(Struct):
    label: bool


def read_sample(pipeline: Pipeline, example: Path, events_max: int | None = None) -> Sample:
    """Return the first `events_max` flights with their labels, in time order, labels first on ties.

    Raises SettingsError where the sample is missing.
    """
    departures, arrivals = example / "departures.jsonl.gz", example / "arrivals.jsonl.gz"
    if missing := [path for path in (departures, arrivals) if not path.exists()]:
        raise SettingsError(
            f"the demo's sample {missing[0]} is missing",
            hint="install headrace anew, or make the sample with examples/flights/make_sample.py",
        )
    files = PipelineFiles(pipeline)
    events = list(itertools.islice(files.events(departures), events_max))
    times = {line.event_id: line.time_ms for line in events}
    labels = [line for line in files.labels(arrivals) if line.event_id in times]
    decode = msgspec.json.Decoder(_Arrival).decode
    truth = {line.event_id: decode(line.value).label for line in labels}
    return Sample(list(files.keyed(merged(events, labels))), len(events), truth, times)


class ServedAnswer(Struct, frozen=True, gc=False):
    """The part of a prediction that the demo looks at."""

    prediction_id: str
    event_id: str
    event_time: int
    model_name: str
    prediction_score: Score = None
    weights: dict[str, float] | None = None
    """Of a blend's answer: the weights of those that it is of."""
    claim: int = 0
    sequence: int = 0


@dataclass
class Figures:
    """Events out, answers in.  Bounded by the sample: it ends.

    `truth` and `times` are label and time by event id, known to the demo from the start and used only to
    judge answers after the fact.
    """

    ledger: Ledger
    truth: Mapping[str, bool]
    times: Mapping[str, int]
    labels: int = 0
    answers: int = 0
    superseded: int = 0
    """Records that the claims rule drops: a retry's repeat, or an owner's that had been replaced."""
    first_answer_s: float | None = None
    simulated_ms: int = 0
    """Time of the latest record published, on the sample's own clock."""
    decisions: list[Decision] = field(default_factory=list)
    dead_letters: DeadLetters = field(default_factory=DeadLetters)
    served: defaultdict[str, stats.Mean] = field(default_factory=lambda: defaultdict(stats.Mean))
    """Brier loss of the answers that each model gave."""
    weights: tuple[str, dict[str, float]] | None = None
    """Who gave the latest answer and the weights behind it; None where a single model did."""
    _delays_ms: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))

    def sent(self, line: FileLine, now_s: float) -> None:
        """An event or a label is about to go out; wall time is `now_s`."""
        self.simulated_ms = max(self.simulated_ms, line.time_ms)
        if line.is_label:
            self.labels += 1
            self._delays_ms.append(line.time_ms - self.times[line.event_id])
        else:
            asked = AskedEvent(line.key or b"", line.time_ms, 0, scheduled_ns=int(now_s * 1e9))
            self.ledger.asked(line.event_id, asked)

    def answered(self, served: ServedAnswer, key: bytes | None, partition: int, now_s: float) -> None:
        """A prediction that counts came back at wall time `now_s`."""
        self.answers += 1
        if self.first_answer_s is None:
            self.first_answer_s = now_s
        answer = Answer(served.prediction_id, served.event_id, served.event_time, key, partition)
        if self.ledger.answered(answer, at_ns=int(now_s * 1e9)) is None:
            return
        self.weights = (served.model_name, served.weights) if served.weights else None
        loss = brier(self.truth[served.event_id], served.prediction_score)
        if loss is not None:
            self.served[served.model_name].update(loss)

    def decided(self, decision: Decision) -> None:
        """A decision record came in; what is only reported from time to time decides nothing."""
        if len(self.decisions) < DECISIONS_MAX and decision.type not in REPORTED:
            self.decisions.append(decision)

    @property
    def swaps(self) -> list[Decision]:
        """The promotions among the decisions, in order."""
        return [decision for decision in self.decisions if decision.type == "model.promoted"]

    @property
    def openings(self) -> list[Decision]:
        """Who served before anything was proven, in order; nobody where a champion was named."""
        return [decision for decision in self.decisions if decision.type == "opening.started"]

    @property
    def label_delay_ms(self) -> float | None:
        """Median delay of the latest labels, None before the first."""
        return statistics.median(self._delays_ms) if self._delays_ms else None

    def refused(self) -> list[str]:
        """Return one line for each stage of dead letters, with what the first of them said."""
        return letter_lines(self.dead_letters.report({}))
