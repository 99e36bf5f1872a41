"""One of equal lines is enough, and nothing of our own is ever left out."""

from __future__ import annotations

import logging

import pytest

from engine.host import logging as engine_logging
from engine.host.logging import CHATTY, Repeats
from engine.settings import Settings


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def line(
    text: str, *args: object, name: str = "aiokafka.conn", level: int = logging.ERROR
) -> logging.LogRecord:
    return logging.makeLogRecord({"name": name, "msg": text, "args": args, "levelno": level})


def test_a_storm_shows_once_in_a_while_and_says_how_many_it_was() -> None:
    clock = Clock()
    repeats = Repeats(clock=clock)
    shown = []
    for number in range(10_000):
        clock.now_s = number / 100
        record = line("Unable to request metadata from node %s: %s", number, "no")
        if repeats.filter(record):
            shown.append(record.getMessage())
    assert shown[0] == "Unable to request metadata from node 0: no"
    assert shown[1:] == [
        f"Unable to request metadata from node {number}: no (999 more like it left out)"
        for number in range(1_000, 10_000, 1_000)
    ]


@pytest.mark.parametrize(
    "other", [line("b"), line("a", name="aiokafka.consumer"), line("a", level=logging.WARNING)]
)
def test_what_differs_is_shown(other: logging.LogRecord) -> None:
    repeats = Repeats(clock=Clock())
    assert [repeats.filter(record) for record in (line("a"), other, line("a"), other)] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("name", ["headrace", "asyncio", "aiokafkaesque"])
def test_what_no_chatty_library_says_is_always_shown(name: str) -> None:
    repeats = Repeats(clock=Clock())
    assert all(repeats.filter(line("a", name=name)) for _ in range(3))


def test_a_line_that_was_quiet_for_long_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered is bounded; a line that goes on all the time is not forgotten for it."""
    monkeypatch.setattr(engine_logging, "REMEMBERED_MAX", 3)
    repeats = Repeats(clock=Clock())
    assert repeats.filter(line("quiet"))
    assert repeats.filter(line("storm"))
    for text in "abc":
        assert repeats.filter(line(text))
        assert not repeats.filter(line("storm"))
    assert repeats.filter(line("quiet"))


def test_records_pass_the_filter_on_their_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level, {name: logging.getLogger(name).level for name in CHATTY}
    try:
        engine_logging.configure_logging(Settings(log_format="json"))
        for _ in range(5):
            logging.getLogger("aiokafka.conn").error("gone")
            logging.getLogger("elsewhere").error("kept")
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        for name, level in before[2].items():
            logging.getLogger(name).setLevel(level)
    said = capsys.readouterr().err
    assert (said.count("gone"), said.count("kept")) == (1, 5)
