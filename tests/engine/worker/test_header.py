"""What a checkpoint says of who wrote it: what must be as it is here, what is told, what came before it."""

from __future__ import annotations

import msgspec
import pytest
from structlog.testing import capture_logs

from engine.worker.header import (
    Header,
    LearnerMeta,
    ScorerMeta,
    check_header,
    decode_learner_meta,
    decode_meta,
    tell_header,
)
from topics.errors import CheckpointError

OWN = Header(
    1, {"headrace": "0.1.0", "river": "0.26.1"}, "5c", "fe", 4, {"events": "departures", "labels": "arrivals"}
)


def changed(**fields: object) -> Header:
    return msgspec.structs.replace(OWN, **fields)


def test_another_number_of_partitions_is_refused_with_both() -> None:
    with pytest.raises(
        CheckpointError, match=r"^here was written when departures had 2 partitions, it has 4"
    ) as caught:
        check_header(changed(partitions=2), OWN, "here")
    assert "a topic of 2 partitions" in caught.value.hint
    assert "new name" in caught.value.hint


def test_another_topic_is_refused_with_both_and_one_more_is_not() -> None:
    with pytest.raises(CheckpointError, match="has its place in old, the pipeline's topic of events is dep"):
        check_header(changed(topics={"events": "old"}), OWN, "here")
    check_header(changed(topics={"events": "departures", "examples": "more"}), OWN, "here")


def test_versions_and_schema_are_told_and_nothing_is_where_all_is_equal() -> None:
    with capture_logs() as lines:
        tell_header(changed(versions={"river": "0.25.0", "headrace": "0.1.0"}, schema="0"), OWN, "here")
        tell_header(OWN, OWN, "here")
    assert [(line["event"], line["was"], line["now"]) for line in lines] == [
        (
            "checkpoint of another version",
            {"river": "0.25.0", "schema": "0"},
            {"river": "0.26.1", "schema": "5c"},
        )
    ]


def test_checkpoints_of_earlier_versions_have_no_header_and_go_on() -> None:
    assert decode_learner_meta(b'{"task":"ab","features.n":"1"}') == LearnerMeta(
        {"task": "ab", "features.n": "1"}
    )
    assert decode_meta(b'{"definition":{"task":"ab"},"logs":[]}') == ScorerMeta({"task": "ab"}, ())
    check_header(None, OWN, "here")
    with capture_logs() as lines:
        tell_header(None, OWN, "here")
    assert len(lines) == 1


def test_metas_are_read_as_they_were_written() -> None:
    for meta in (LearnerMeta({"task": "ab"}, OWN), LearnerMeta({})):
        assert decode_learner_meta(msgspec.json.encode(meta)) == meta
    scorers = ScorerMeta({"task": "ab"}, (), {}, OWN)
    assert decode_meta(msgspec.json.encode(scorers)) == scorers
