"""What stands in the log is passed over once, and forgotten when it can be made no more."""

from __future__ import annotations

import pytest
from msgspec import Raw

from operators.claims.suppression import LoggedMessages
from topics.errors import ClaimError
from topics.rekeying import Order, Progress, RekeyedEvent, RekeyedLabel, RekeyedValues


def event(stage: int, offset: int) -> RekeyedEvent:
    return RekeyedEvent(Order.of_event(5, 0, offset)._replace(stage=stage), 0, offset, False, Raw(b"{}"))


def test_a_record_is_the_same_whoever_wrote_it_and_only_for_its_stage() -> None:
    logged = LoggedMessages()
    logged.add(event(1, 7))
    logged.add(Progress(0, 5, False))
    assert len(logged) == 1
    assert not logged.once(("event", 2, 0, 7))
    assert logged.once(("event", 1, 0, 7))
    assert not logged.once(("event", 1, 0, 7))
    assert logged.empty


def test_what_no_replay_can_make_is_forgotten() -> None:
    logged = LoggedMessages()
    logged.add(RekeyedLabel(Order.after_event(5, 0, 3)._replace(stage=1), 0, 3, "e3", ("k",), 5, 1.0))
    logged.add(RekeyedValues(1, 2, 0, 4, False, {}))
    asked: list[tuple[str, str]] = []

    def possible(found: tuple[str, int, int, int], event_id: str) -> bool:
        asked.append((found[0], event_id))
        return found[0] == "label"

    logged.forget(possible)
    assert sorted(asked) == [("label", "e3"), ("values", "")]
    assert not logged.once(("values", 1, 0, 4))
    assert logged.once(("label", 1, 0, 3))


def test_the_memory_is_bounded() -> None:
    logged = LoggedMessages(logged_max=1)
    logged.add(event(1, 1))
    with pytest.raises(ClaimError, match="since the checkpoint"):
        logged.add(event(1, 2))
