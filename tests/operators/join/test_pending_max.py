"""The bounds of the join: what does not fit is told, label by label and answer by answer; the rest stays."""

import asyncio
from pathlib import Path

import msgspec
import pytest
import structlog
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.cli.report import bytes_per_answer, waiting_at, waiting_text
from engine.offline.backtest import Backtest
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from engine.watches import CountWatch, counted_lines
from operators import field
from topics.codec import encode_json
from topics.errors import DefinitionError
from topics.messages import Outgoing, Prediction, Record

STEP_MS = 100
START_MS = 1_700_000_000_000


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float


def definition(**bounds: int) -> Pipeline:
    return Pipeline(
        name="bounds",
        events=Topic("bounds.events", Payment, key="card"),
        labels=Labels("bounds.labels", wait="7d", **bounds),
        features={"amount": field("amount")},
        models={"lr": linear_model.LogisticRegression()},
    )


def event(number: int) -> Record:
    time = START_MS + number * STEP_MS
    row = {"event_id": f"e{number}", "event_time": time, "card": "c", "amount": 1.0}
    return Record("bounds.events", 0, number, None, b"c", encode_json(row))


def truth(offset: int, event_id: str, label_time: int) -> Record:
    row = {"event_id": event_id, "label_time": label_time, "label": True}
    return Record("bounds.labels", 0, offset, None, b"c", encode_json(row))


class Played(Backtest):
    """A backtest that keeps its dead letters."""

    def __init__(self, pipeline: Pipeline, events: list[Record], labels: list[Record]) -> None:
        super().__init__(pipeline)
        self.dead: list[Outgoing] = []
        advance = self.run.advance

        def watched() -> list[Outgoing] | None:
            out = advance()
            self.dead += [record for record in out or () if record.target == "dead-letters"]
            return out

        self.run.advance = watched  # type: ignore[method-assign, assignment]
        self.play([events] if events else [], [labels] if labels else [])
        self.counts = self.run.scorer.counts

    def reasons(self) -> list[str]:
        return [dict(record.headers)["__streams.errors.message"].decode() for record in self.dead]


def test_labels_of_answers_that_still_wait_are_all_joined_and_the_rest_is_told() -> None:
    """10,400 events, room for 10,000, labels of the first 600 after the last: the oldest 400 had to go."""
    events = [event(number) for number in range(10_400)]
    after = START_MS + 10_500 * STEP_MS
    labels = [truth(number, f"e{number}", after + number * STEP_MS) for number in range(600)]
    played = Played(definition(pending_max=10_000), events, labels)
    counts = played.counts
    assert counts["predictions_dropped", "given_up"] == counts["dead_letters", "join"] == 400
    assert counts["labels", "joined"] == played.run.learner.examples == 200
    assert counts["labels", "early"] == played.run.scorer.join.early == 400
    assert played.run.scorer.join.pending == 10_000 + 400


def test_the_dead_letter_of_an_answer_given_up_is_the_answer_as_it_was_served() -> None:
    played = Played(definition(pending_max=3), [event(number) for number in range(5)], [])
    assert played.reasons() == [
        f"answer bounds:e{number} was given up before its label came: more than 3 wait" for number in (0, 1)
    ]
    first = played.dead[0]
    found = msgspec.json.decode(first.value or b"", type=Prediction)
    assert (found.event_id, found.features, found.event_offset) == ("e0", {"amount": 1.0}, 0)
    told = dict(first.headers)
    assert told["__streams.errors.topic"] == b"bounds.events"
    assert told["__streams.errors.offset"] == b"0"
    assert told["headrace.errors.stage"] == b"join"


def test_labels_of_unknown_events_push_nothing_out_and_have_a_bound_of_their_own() -> None:
    """Far label times win nothing: who comes when there is no room is refused, whatever its time."""
    far = START_MS + 10**12
    flood = [truth(number, f"x{number}", START_MS if number % 2 else far) for number in range(1_000)]
    labels = [*flood, *(truth(1_000 + number, f"e{number}", far) for number in range(5))]
    events = [event(number) for number in range(50)]
    played = Played(definition(pending_max=50, early_max=20), events, labels)
    counts, join = played.counts, played.run.scorer.join
    assert join.early == 20
    assert counts["labels", "given_up"] == 980
    assert not counts["predictions_dropped", "given_up"]
    assert all(join.known(f"e{number}") is not None for number in range(50))
    assert counts["labels", "late"] == 5, "they found their answers"
    assert sum("no more than 20 labels" in reason for reason in played.reasons()) == 980


def test_labels_that_wait_for_their_events_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from operators.join import join

    labels = [truth(number, f"x{number}", START_MS) for number in range(10)]
    size = sum(len(label.value or b"") + len(label.key or b"") for label in labels[:4])
    monkeypatch.setattr(join, "EARLY_BYTES_MAX", size)
    played = Played(definition(), [event(0)], labels)
    assert (played.run.scorer.join.early, played.counts["labels", "given_up"]) == (4, 6)


def test_what_met_its_event_leaves_no_trace_though_its_deadline_is_far() -> None:
    """A label before its event, again and again: the list of deadlines does not grow."""
    from operators.join.join import PASSED_MAX, Join
    from operators.join.pending import WaitingAnswer
    from topics.messages import Label

    join = Join(wait_ms=100, implicit=None)
    for number in range(3 * PASSED_MAX):
        join.label(Label(f"e{number}", True, number + 100, number), key=None, value=None)
        answer = Prediction(
            "p", f"e{number}", number, 0, "m", 1, 0, "champion", 0.5, True, "champion", {}, number, 1, 0
        )
        waiting = WaitingAnswer.of(answer, "k", (), 0, {})
        join.open(waiting)
        assert join.meet_early(waiting)
    assert join.early == 0
    assert len(join._early_due) <= PASSED_MAX + 1


@pytest.mark.parametrize(("name", "bound"), [("pending_max", 0), ("early_max", -1)])
def test_bounds_that_leave_no_room_are_refused(name: str, bound: int) -> None:
    with pytest.raises(DefinitionError, match=f"`{name}` of labels is {bound}"):
        definition(**{name: bound})


def test_the_log_tells_once_a_minute_how_many_were_given_up() -> None:
    told = CountWatch(counted_lines(Labels("l", wait="1d", pending_max=7, early_max=2)))
    answers, labels = ("predictions_dropped", "given_up"), ("labels", "given_up")
    with structlog.testing.capture_logs() as lines:
        told.tell({}, 0.0)
        told.tell({answers: 3}, 1.0)
        told.tell({answers: 10, labels: 4}, 2.0)
        told.tell({answers: 11, labels: 4}, 61.5)
        told.tell({answers: 11, labels: 4}, 200.0)
    assert [(line["count"], line.get("pending_max"), line.get("early_max")) for line in lines] == [
        (3, 7, None),
        (4, None, 2),
        (8, 7, None),
    ]
    assert {line["log_level"] for line in lines} == {"warning"}


def test_check_says_what_a_rate_comes_to() -> None:
    waiting = waiting_at(definition(pending_max=1_000_000))
    at_rate = {row["events_per_s"]: row for row in waiting["at_rate"]}
    assert at_rate[1]["waiting"] == 7 * 86_400
    assert [rate for rate, row in at_rate.items() if row["given_up"]] == [10, 100, 1_000]
    assert at_rate[1_000]["disk_bytes"] == 2 * 1_000_000 * waiting["bytes_per_answer"]
    lines = list(waiting_text(waiting, "7d"))
    assert lines[3] == "  wait 7d: 100 events/s are 60,480,000 waiting answers, more than pending_max"


def test_the_bytes_that_check_says_are_those_of_a_file(tmp_path: Path) -> None:
    """Three thousand answers in a checkpoint: the estimate is within a third."""
    pipeline = definition()
    played = Played(pipeline, [event(number) for number in range(3_000)], [])
    store = SqliteCheckpoints(tmp_path, "p", "scorer", 0, apart=("w/", "i/"))

    async def save() -> None:
        claim = await store.fence()
        await store.save(claim, b"", played.run.scorer.join.delta())
        await store.close()

    asyncio.run(save())
    assert 0.66 < store.path.stat().st_size / 3_000 / bytes_per_answer(pipeline) < 1.5
