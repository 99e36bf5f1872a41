"""What a worker's log says of records that were refused."""

from __future__ import annotations

from collections import Counter

from structlog.testing import capture_logs

from engine.watches.dead_letters import LetterWatch
from topics.headers import dead_letter
from topics.messages import Outgoing, Record


def letter(offset: int, stage: str) -> Outgoing:
    refused = Record("e", 3, offset, None, None, b"x")
    headers = dead_letter(refused, stage=stage, exception="ValueError", message=f"wrong {offset}")
    return Outgoing("dead-letters", None, None, b"x", headers, 0)


def test_the_first_is_told_at_once_and_a_flood_once_a_minute() -> None:
    watch, nothing = LetterWatch("p.dead-letters"), Counter[tuple[str, str]]()
    with capture_logs() as lines:
        watch.tell(nothing, 0.0)
        assert lines == []
        watch.see([letter(7, "decode")])
        watch.tell(nothing, 1.0)
        for offset in range(100, 200):
            watch.see([letter(offset, "label" if offset % 4 else "decode")])
            watch.tell(nothing, 2.0)
        assert len(lines) == 1
        watch.tell(nothing, 61.0)
        watch.tell(nothing, 200.0)
    first, flood = lines
    assert first["log_level"] == flood["log_level"] == "warning"
    place = "topic e partition 3 offset {}"
    assert first["stages"] == {"decode": {"count": 1, "first": "wrong 7", "place": place.format(7)}}
    assert (first["count"], flood["count"]) == (1, 100)
    assert flood["stages"] == {
        "decode": {"count": 25, "first": "wrong 100", "place": place.format(100)},
        "label": {"count": 75, "first": "wrong 101", "place": place.format(101)},
    }
    assert "headrace tail p.dead-letters" in first["fix"]
