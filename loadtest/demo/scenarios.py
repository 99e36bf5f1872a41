"""What `headrace demo --scenario` can show: an example's file, and a stream for it.

Lives here: the table of scenarios; a made-up stream as the records of a pipeline's two topics.  Never here:
what is made up (`generated.py`), the run (`race.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from engine.definition.pipeline import Pipeline
from engine.offline.publish import FileLine, merged
from loadtest.demo.figures import CATALOG, EXAMPLES, Sample, read_sample
from loadtest.demo.generated import Happening, card_payments, offers, pump_readings
from topics.catalog import Catalog
from topics.codec import encode_json

__all__ = ["FLIGHTS", "SCENARIOS", "Scenario"]


class Scenario(NamedTuple):
    """One demo: which file a worker runs, and what is sent to it."""

    name: str
    shows: str
    """What there is to see."""
    counted: str
    """What its events are."""
    folder: Path
    catalog: Catalog
    """The names that its pipeline gives its topics: known before it is loaded."""
    sample: Callable[[Pipeline, Path, int | None], Sample]
    """Of the loaded pipeline, from this folder, of so many events at most."""


def _made_up(
    make: Callable[[int], Iterator[Happening]],
    usual: int,
    pipeline: Pipeline,
    _: Path,
    events_max: int | None,
) -> Sample:
    """Return a stream of `events_max` events with their labels, in time order; of `usual` without a bound."""
    key = pipeline.events.key
    events: list[FileLine] = []
    labels: list[FileLine] = []
    truth: dict[str, bool] = {}
    for event, label in make(events_max or usual):
        name, keyed = event["event_id"], str(event[key]).encode()
        truth[name] = label["label"]
        events.append(FileLine(False, event["event_time"], name, keyed, encode_json(event)))
        labels.append(FileLine(True, label["label_time"], name, keyed, encode_json(label)))
    labels.sort(key=lambda line: line.time_ms)
    times = {line.event_id: line.time_ms for line in events}
    return Sample(list(merged(events, labels)), len(events), truth, times)


FLIGHTS: Final = Scenario(
    "flights",
    "three months of flights: labels some hours late, a blend that serves until one model is proven better",
    "flights",
    EXAMPLES / "flights",
    CATALOG,
    read_sample,
)
SCENARIOS: Final[Mapping[str, Scenario]] = {
    "flights": FLIGHTS,
    "fraud": Scenario(
        "fraud",
        "card payments: few frauds, a verdict a week later, risk of a terminal from those of its past",
        "payments",
        EXAMPLES / "fraud",
        Catalog("fraud", events="fraud.transactions", labels="fraud.verdicts"),
        partial(_made_up, card_payments, 12_000),
    ),
    "drift": Scenario(
        "drift",
        "pumps: halfway the reason of trips changes, so the champion fails and the other model takes over",
        "readings",
        EXAMPLES / "drift",
        Catalog("pumps", events="pumps.readings", labels="pumps.trips"),
        partial(_made_up, pump_readings, 12_000),
    ),
    "bandit": Scenario(
        "bandit",
        "offers: three models answer, and the shares follow from how well each does",
        "offers",
        EXAMPLES / "bandit",
        Catalog("offers", events="offers.shown", labels="offers.taken"),
        partial(_made_up, offers, 10_000),
    ),
}
"""By the name that the command takes."""
