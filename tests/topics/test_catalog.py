"""Topic names, partitions and retention, by role."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topics.catalog import FOREVER_MS, NAME_MAX, Catalog, Role, check_name
from topics.errors import DefinitionError
from topics.messages import OutgoingRole


def flights(**names: str) -> Catalog:
    return Catalog("flights", events="flights.departures", labels="flights.arrivals", names=names)


def test_every_role_has_one_topic_and_every_target_is_a_role() -> None:
    catalog = Catalog(
        "flights",
        events="flights.departures",
        labels="flights.arrivals",
        rekeying=True,
        alerting=True,
        querying=True,
    )
    plan = catalog.plan(events=4)
    assert {topic.role for topic in plan} == set(get_args(Role))
    assert set(get_args(OutgoingRole)) <= set(get_args(Role))
    assert len({topic.name for topic in plan}) == len(plan)


def test_default_names_are_dotted_and_have_no_underscore() -> None:
    for topic in flights().plan(events=1):
        assert topic.name.startswith("flights.")
        assert "_" not in topic.name


def test_the_internal_topics_are_there_only_where_events_travel() -> None:
    travelling = Catalog("flights", events="flights.departures", rekeying=True).plan(events=3)
    internal = {topic.name: topic.partitions for topic in travelling if topic.role.startswith("rekey")}
    assert internal == {"flights.rekey": 3, "flights.rekeyed": 3}
    assert "rekey" not in flights()


def test_co_partitioned_topics_have_the_count_of_events() -> None:
    counts = {topic.role: topic.partitions for topic in flights().plan(events=6)}
    assert counts["events"] == counts["labels"] == counts["predictions"] == counts["dead-letters"] == 6
    assert counts["examples"] == counts["decisions"] == 1
    assert counts["models"] == counts["commands"] == 1


def test_where_each_key_has_a_race_examples_lie_beside_their_events() -> None:
    keyed = Catalog("flights", events="flights.departures", labels="flights.arrivals", keyed=True)
    counts = {topic.role: topic.partitions for topic in keyed.plan(events=6)}
    assert counts["examples"] == counts["decisions"] == 6
    assert counts["models"] == counts["commands"] == 1


def test_the_logs_that_are_the_models_and_the_audit_are_kept_for_ever() -> None:
    kept = {topic.role for topic in flights().plan(events=1) if topic.retention_ms == FOREVER_MS}
    assert kept == {"examples", "decisions"}
    compacted = {topic.role for topic in flights().plan(events=1) if topic.cleanup == "compact"}
    assert compacted == {"models"}


def test_configs_speak_kafka() -> None:
    configs = {topic.role: topic.configs for topic in flights().plan(events=1)}
    assert configs["examples"]["retention.ms"] == "-1"
    assert configs["models"]["cleanup.policy"] == "compact"
    assert "retention.ms" not in configs["predictions"]
    day, hour = str(24 * 3_600_000), str(3_600_000)
    assert configs["status"] == {
        "cleanup.policy": "compact,delete",
        "message.timestamp.type": "CreateTime",
        "retention.ms": day,
        "segment.ms": hour,
    }


def test_only_the_users_topics_are_not_created() -> None:
    assert {topic.role for topic in flights().plan(events=1) if not topic.create} == {"events", "labels"}


def test_events_may_carry_their_label() -> None:
    catalog = Catalog("sea", events="sea.rows")
    assert "labels" not in catalog
    assert "sea.rows" in {topic.name for topic in catalog.plan(events=1)}


def test_a_name_can_be_given_and_leads_back_to_its_role() -> None:
    catalog = Catalog("flights", events="a", labels="b", names={"examples": "lessons"})
    assert catalog["examples"] == "lessons"
    assert catalog.roles["lessons"] == "examples"


@pytest.mark.parametrize("role", ["exampels", "events", "labels"])
def test_unknown_roles_and_the_users_topics_cannot_be_renamed(role: str) -> None:
    with pytest.raises(DefinitionError, match=role):
        Catalog("flights", events="a", labels="b", names={role: "x"})


def test_two_roles_never_share_a_topic() -> None:
    with pytest.raises(DefinitionError, match="share the topic"):
        Catalog("flights", events="a", labels="a")


def test_counts_start_at_one() -> None:
    with pytest.raises(DefinitionError, match="starts at 1"):
        flights().plan(events=0)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=NAME_MAX + 5))
def test_names_are_checked_as_kafka_does(name: str) -> None:
    legal = bool(re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name)) and name not in {".", ".."}
    if legal:
        check_name(name)
    else:
        with pytest.raises(DefinitionError):
            check_name(name)


def test_describe_names_every_value() -> None:
    assert ("examples", "flights.examples", "the event's key", "Example") in flights().describe()
