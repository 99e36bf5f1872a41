"""Which records of a predictions topic are answers: the client beside the rule written a second time."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from claims_world import SOURCES, World
from reading import Fold
from test_claims_model import run

from operators.claims.answers import AnswerReader, PartitionRead
from topics import headers
from topics.codec import encode
from topics.messages import Claim, Headers, Prediction

WORLDS = 120
Written = tuple[int, bytes, Headers]
"""Offset, value and headers of a record."""


def predictions_of(world: World, source: int) -> list[Written]:
    """Return the predictions log of a world of owners, zombies and lost acknowledgements, as bytes."""
    return [
        (offset, encode(value), headers.CLAIM if isinstance(value, Claim) else ())
        for offset, value in enumerate(world.logs.values["predictions", source])
    ]


def by_the_ledger(log: list[Written], partition: int = 0) -> list[int]:
    """Return the offsets that count."""
    fold, counted = Fold(), []
    for offset, value, sent in log:
        read = fold.read(SimpleNamespace(value=value, headers=sent, partition=partition))
        if read is not None and read.counts:
            counted.append(offset)
    return counted


def by_the_client(log: list[Written], answers: AnswerReader, partition: int = 0) -> list[int]:
    return [offset for offset, value, sent in log if answers.take(partition, offset, value, sent) is not None]


def test_a_reader_of_the_whole_log_counts_what_the_ledger_counts() -> None:
    happened: Counter[str] = Counter()
    for seed in range(WORLDS):
        world = World(seed)
        run(world)
        answers = AnswerReader()
        for source in range(SOURCES):
            log = predictions_of(world, source)
            assert by_the_client(log, answers, source) == by_the_ledger(log, source), seed
            assert answers.read[source].position == len(log)
        happened += answers.counts
    assert happened["dropped"] > WORLDS
    assert happened["claims"] > WORLDS
    assert happened.keys() == {"answers", "claims", "dropped"}


def test_a_reader_goes_on_where_another_stood() -> None:
    for seed in range(WORLDS // 4):
        world = World(seed)
        run(world)
        log, rng = predictions_of(world, 0), world.rng
        answers, counted, at = AnswerReader(), [], 0
        while at < len(log):
            part = log[max(0, at - rng.randrange(3)) : at + rng.randrange(1, 9)]
            counted += by_the_client(part, answers)  # some are handed in again, as after a rebalance
            at = answers.read[0].position
            answers = AnswerReader(answers.read)
        assert counted == by_the_ledger(log), seed


def test_a_reader_that_begins_within_the_log_is_right_from_the_first_claim_that_it_meets() -> None:
    late = 0
    for seed in range(WORLDS // 4):
        world = World(seed)
        run(world)
        log = predictions_of(world, 0)
        begins = world.rng.randrange(len(log))
        whole, found = by_the_ledger(log), by_the_client(log[begins:], AnswerReader())
        missed = set(whole[len(whole) - sum(offset >= begins for offset in whole) :]) - set(found)
        assert not missed, "an answer that counts was passed over"
        effective = [
            offset
            for offset, value, sent in log[begins:]
            if sent == headers.CLAIM and by_claim(log[: offset + 1], offset)
        ]
        if effective:
            late += 1
            assert [offset for offset in found if offset > effective[0]] == [
                offset for offset in whole if offset > effective[0]
            ], seed
    assert late > WORLDS / 16


def by_claim(log: list[Written], offset: int) -> bool:
    """Return whether the claim record at the end of `log` is the highest of all."""
    fold = Fold()
    for _, value, sent in log:
        fold.read(SimpleNamespace(value=value, headers=sent, partition=0))
    return bool(fold.claims) and f'"claim":{fold.claims[-1]},'.encode() in log[offset][1]


def answer(claim: int, sequence: int) -> bytes:
    return encode(
        Prediction(
            "p:e", "e", 0, 0, "m", 1, 0, "champion", 0.5, True, "champion", {}, sequence, claim, sequence
        )
    )


def test_where_the_claim_record_was_deleted_the_rest_of_it_counts() -> None:
    answers = AnswerReader()
    log: list[Any] = [answer(6, 3), answer(7, 10), answer(6, 4), answer(7, 11), answer(7, 13), answer(7, 14)]
    counted = [answers.take(0, 100 + n, value, None) is not None for n, value in enumerate(log)]
    assert counted == [True, True, False, True, False, False]
    assert answers.read == {0: PartitionRead(106, 7, -1)}


@pytest.mark.parametrize(
    ("value", "sent"),
    [(None, ()), (b"{", ()), (b'{"event_id":"e"}', ()), (b"[]", headers.CLAIM), (None, headers.CLAIM)],
)
def test_what_is_no_message_of_ours_is_counted_and_left_out(value: bytes | None, sent: Headers) -> None:
    answers = AnswerReader()
    assert answers.take(0, 0, value, sent) is None
    assert answers.counts == {"foreign": 1}
