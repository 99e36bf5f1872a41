"""Messages are documented from their Structs: docs/messages.md, JSON Schema, AsyncAPI, what is sent."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from brokers.ports import fresh, made
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from river import linear_model
from running import FLIGHTS
from test_readme import DOCUMENTS, assert_rows
from typer.testing import CliRunner

from engine import Labels, Pipeline, Topic
from engine.cli.export import MESSAGES, asyncapi, field_docs, json_schema
from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.kafka.sink import open_sink
from engine.offline.backtest import LocalRun
from engine.settings import KafkaSettings
from operators import by, field
from topics import headers
from topics.catalog import Role
from topics.codec import LabelMessage, encode
from topics.headers import MEANINGS
from topics.messages import (
    CalibrationBin,
    CalibrationCurve,
    Claim,
    Entrant,
    Outgoing,
    Prediction,
    Record,
    ScoreBin,
)

DOCUMENT = DOCUMENTS["docs/messages.md"]
TYPES = [*dict.fromkeys(kind for kinds in MESSAGES.values() for kind in kinds)]
PARTS = [Entrant, ScoreBin, CalibrationCurve, CalibrationBin]
"""Structs inside messages."""
DOCUMENTED = [kind for kind in (*TYPES, *PARTS) if kind.__module__ != "topics.rekeying"]
READ_DEADLINE_S = 60.0


# -- the document -------------------------------------------------------------------------------------


def type_text(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(type_text(one) for one in schema["anyOf"])
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "object":
        inner = type_text(schema["additionalProperties"])
        return (
            "object of any"
            if inner.count(" or ") > 2
            else f"object of ({inner})"
            if " " in inner
            else f"object of {inner}"
        )
    if schema["type"] == "array":
        return f"array of {type_text(schema['items'])}"
    return str(schema["type"])


def field_rows(kind: type[Struct]) -> list[str]:
    schema = json_schema()["$defs"][kind.__name__]
    rows = ["| field | type | if absent | meaning |", "|---|---|---|---|"]
    for name, one in schema["properties"].items():
        absent = "" if name in schema["required"] else f"`{json.dumps(one['default'])}`"
        rows.append(f"| `{name}` | {type_text(one)} | {absent} | {one['description']} |")
    return rows


def section(name: str) -> str:
    return DOCUMENT.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("kind", DOCUMENTED, ids=lambda kind: kind.__name__)
def test_every_message_stands_in_the_document_with_its_fields(kind: type[Struct]) -> None:
    described = json_schema()["$defs"][kind.__name__]["description"]
    assert described in section(kind.__name__).splitlines(), f"## {kind.__name__}\n\n{described}"
    assert_rows(section(kind.__name__), field_rows(kind))


def place_rows() -> list[str]:
    rows = ["| topic | messages |", "|---|---|"]
    for role, kinds in MESSAGES.items():
        if role not in {"rekey", "rekeyed"}:
            linked = (f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in kinds)
            rows.append(f"| `{role}` | {', '.join(linked)} |")
    return [*rows, "| `dead-letters` | the refused bytes, the reason in the [headers](#headers) |"]


def test_the_document_says_which_message_lies_where() -> None:
    assert_rows(DOCUMENT, place_rows())


def header_rows() -> list[str]:
    rows = ["| header | on | meaning |", "|---|---|---|"]
    return [*rows, *(f"| `{one.name}` | {', '.join(one.on)} | {one.meaning} |" for one in MEANINGS)]


def test_every_header_stands_in_the_document() -> None:
    assert_rows(DOCUMENT, header_rows())


def test_the_claim_record_shown_is_one() -> None:
    assert f"`{encode(Claim(0, -1, '5f0c')).decode()}`" in DOCUMENT


@pytest.mark.parametrize("kind", [*TYPES, LabelMessage], ids=lambda kind: kind.__name__)
def test_every_field_says_what_it_means(kind: type[Struct]) -> None:
    assert field_docs(kind).keys() == set(kind.__struct_encode_fields__)
    for name, said in field_docs(kind).items():
        assert said.endswith("."), name
        if name == "time" or name.endswith("_time"):
            assert "ms" in said, name


# -- JSON Schema --------------------------------------------------------------------------------------

TYPE_OF = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list,
    "null": type(None),
}  # fmt: skip
SAID = {"title", "description", "default"}


def wrong(value: Any, schema: dict[str, Any], defs: dict[str, Any], at: str = "$") -> Iterator[str]:
    """Yield where `value` breaks a schema: the part of draft 2020-12 that is in use, and nothing else."""
    for word, said in schema.items():
        match word:
            case "$ref":
                yield from wrong(value, defs[said.rpartition("/")[2]], defs, at)
            case "type":
                kinds = [said] if isinstance(said, str) else said
                if not any(
                    isinstance(value, TYPE_OF[kind]) and (kind == "boolean" or not isinstance(value, bool))
                    for kind in kinds
                ):
                    yield f"{at}: {value!r} is no {said}"
                    return
            case "enum":
                if value not in said:
                    yield f"{at}: {value!r} is none of {said}"
            case "anyOf":
                if all([*wrong(value, one, defs, at)] for one in said):
                    yield f"{at}: {value!r} fits nothing"
            case "properties":
                for name, one in said.items():
                    if name in value:
                        yield from wrong(value[name], one, defs, f"{at}.{name}")
            case "required":
                yield from (f"{at}: no {name}" for name in said if name not in value)
            case "additionalProperties":
                for name in value.keys() - schema.get("properties", {}).keys():
                    yield from wrong(value[name], said, defs, f"{at}.{name}")
            case "items":
                if said is not False:
                    for one in value[len(schema.get("prefixItems", ())) :]:
                        yield from wrong(one, said, defs, f"{at}[]")
            case "prefixItems":
                for one, its in zip(value, said, strict=False):
                    yield from wrong(one, its, defs, f"{at}[]")
            case "minItems" | "maxItems":
                if (len(value) < said) if word == "minItems" else (len(value) > said):
                    yield f"{at}: {len(value)} items"
            case _:
                assert word in SAID, word


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Draw a value of an annotation; numbers that JSON has."""
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if hint is msgspec.Raw:
        return st.just(msgspec.Raw(b'{"a":1}'))
    if isinstance(hint, type) and issubclass(hint, Struct):
        return st.builds(hint, **{name: values_of(part) for name, part in get_type_hints(hint).items()})
    if get_origin(hint) is list:
        return st.lists(values_of(get_args(hint)[0]))
    if get_origin(hint) is dict:
        return st.dictionaries(st.text(), values_of(get_args(hint)[1]))
    if get_origin(hint) in {UnionType, Union}:
        return st.one_of([values_of(part) for part in get_args(hint)])
    return st.from_type(hint)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_is_written_fits_its_schema(kind: type[Struct], data: st.DataObject) -> None:
    hints = get_type_hints(kind)
    message = data.draw(st.builds(kind, **{name: values_of(hint) for name, hint in hints.items()}))
    defs = json_schema()["$defs"]
    try:
        value = json.loads(encode(message))
    except (OverflowError, UnicodeEncodeError):
        return
    assert not [*wrong(value, defs[kind.__name__], defs)]
    for name in defs[kind.__name__]["required"]:
        assert [*wrong({k: v for k, v in value.items() if k != name}, defs[kind.__name__], defs)]


class Card(Struct, rename="camel"):
    """A payment by card."""

    event_id: str
    """Id of the payment."""
    event_time: int
    card_number: str
    amount: float
    shop: str = ""


def cards(**more: Any) -> Pipeline:
    return Pipeline(
        name="cards",
        events=Topic("cards.payments", Card, key="card_number", partitions=4),
        labels=Labels("cards.labels", wait="1d", id="payment", label="fraud", time="at"),
        features={"n": by("card_number").count("1h"), "by_shop": by("shop").count("1h")},
        models={"linear": linear_model.LogisticRegression()},
        **more,
    )


def test_a_pipeline_adds_its_own_messages() -> None:
    defs = json_schema(cards())["$defs"]
    assert defs["Card"]["properties"]["eventId"] == {"type": "string", "description": "Id of the payment."}
    label = {"payment": "p1", "fraud": True, "at": 1_700_000_000_000}
    assert not [*wrong(label, defs["LabelMessage"], defs)]
    assert [*wrong(label | {"fraud": "yes"}, defs["LabelMessage"], defs)]
    assert {"Prediction", "RekeyedEvent", "RekeyedValues"} <= defs.keys()
    assert "Alert" not in defs


def test_a_type_of_the_user_may_have_a_name_of_ours() -> None:
    class Prediction(Struct):
        event_id: str
        event_time: int
        who: str

    pipeline = Pipeline(
        name="odd",
        events=Topic("odd.events", Prediction, key="who"),
        labels=Labels(field="who"),
        features={"n": by("who").count("1h")},
        models={"linear": linear_model.LogisticRegression()},
        task="multiclass",
    )
    document = asyncapi(pipeline)
    theirs, ours = (
        document["components"]["messages"][f"{role}-Prediction"]["payload"]["$ref"].rpartition("/")[2]
        for role in ("events", "predictions")
    )
    assert "who" in document["components"]["schemas"][theirs]["properties"]
    assert "prediction_id" in document["components"]["schemas"][ours]["properties"]


def test_the_commands_print_both_documents() -> None:
    printed = {
        words: json.loads(CliRunner().invoke(app, ["export", *words], catch_exceptions=False).stdout)
        for words in (
            ("jsonschema",),
            ("jsonschema", str(FLIGHTS / "pipeline.py")),
            ("asyncapi", str(FLIGHTS / "pipeline.py")),
        )
    }
    first, second, third = printed.values()
    assert "Departure" not in first["$defs"]
    assert "Departure" in second["$defs"]
    assert third["asyncapi"] == "3.0.0"


# -- AsyncAPI -----------------------------------------------------------------------------------------

ALLOWED = {
    "": {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"},
    "channel": {"address", "messages", "bindings"},
    "operation": {"action", "channel"},
    "message": {"payload", "headers", "bindings"},
}  # fmt: skip


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from refs(one)
    elif isinstance(value, list):
        for one in value:
            yield from refs(one)


@pytest.mark.parametrize(
    "pipeline", [cards(), load_pipeline(FLIGHTS / "pipeline.py")], ids=lambda one: one.name
)
def test_the_asyncapi_document_has_every_topic_and_leads_nowhere_else(pipeline: Pipeline) -> None:
    document = json.loads(json.dumps(asyncapi(pipeline)))
    assert document.keys() == ALLOWED[""]
    for found in refs(document):
        place = document
        for step in found.removeprefix("#/").split("/"):
            place = place[step]
    plans = {plan.role: plan for plan in pipeline.catalog.plan(events=pipeline.events.partitions)}
    assert document["channels"].keys() == plans.keys()
    for role, channel in document["channels"].items():
        assert channel.keys() == ALLOWED["channel"]
        assert channel["address"] == plans[role].name
        assert channel["bindings"]["kafka"]["partitions"] == plans[role].partitions
        for name, one in channel["messages"].items():
            assert one == {"$ref": f"#/components/messages/{name}"}
    operations = document["operations"].values()
    assert all(one.keys() == ALLOWED["operation"] for one in operations)
    actions = {one["channel"]["$ref"].rpartition("/")[2]: one["action"] for one in operations}
    received = {role for role, action in actions.items() if action == "receive"}
    assert actions.keys() == plans.keys()
    assert received == {"events", "labels", "commands"}
    messages = document["components"]["messages"]
    assert all(one.keys() <= ALLOWED["message"] for one in messages.values())
    used = {name for channel in document["channels"].values() for name in channel["messages"]}
    assert used == messages.keys()
    keys = {name: one["bindings"]["kafka"]["key"]["type"] for name, one in messages.items()}
    assert {name for name, kind in keys.items() if kind == "null"} == {
        name for name in messages if name.endswith("-Claim") or name.startswith("rekeyed-")
    }


# -- what is really sent ------------------------------------------------------------------------------


def sent_by_a_scorer() -> list[Outgoing]:
    pipeline = Pipeline(
        name="cards",
        events=Topic("cards.payments", Card, key="card_number"),
        labels=Labels("cards.labels", wait="1d"),
        features={"n": by("card_number").count("1h"), "amount": field("amount")},
        models={"linear": linear_model.LogisticRegression(), "other": linear_model.Perceptron()},
        champion="linear",
        shadow_predictions=True,
    )
    run = LocalRun(pipeline)
    start = 1_700_000_000_000
    events = [
        json.dumps({"eventId": f"e{n}", "eventTime": start + n, "cardNumber": "c", "amount": 2.0}).encode()
        for n in range(3)
    ]
    labels = [
        json.dumps({"event_id": f"e{n}", "label": True, "label_time": start + 50 + n}).encode()
        for n in range(3)
    ]
    trace = (("traceparent", b"00-1-1-01"), ("other", b"x"))
    intake, sent = run.scorer.intake, []
    intake.offer_events(
        Record("cards.payments", 0, n, start, b"c", value, trace) for n, value in enumerate([*events, b"{"])
    )
    intake.offer_labels(Record("cards.labels", 0, n, start, b"c", value) for n, value in enumerate(labels))
    while (taken := intake.next_run(events_unread=False, labels_unread=False)) is not None:
        sent += chain.from_iterable(run.scorer.step(taken, start))
    return sent


def test_what_a_scorer_sends_fits_schema_and_headers() -> None:
    sent, defs = sent_by_a_scorer(), json_schema()["$defs"]
    meant = {(role, one.name) for one in MEANINGS for role in one.on}
    seen = set()
    for record in sent:
        seen.add(record.target)
        for name, _ in record.headers:
            kept = record.target == "dead-letters" and name in {"traceparent", "other"}
            assert kept or (record.target, name) in meant, (record.target, name)
        if record.target != "dead-letters":
            role: Role = record.target
            value = json.loads(record.value or b"")
            assert not [*wrong(value, defs[MESSAGES[role][0].__name__], defs)]
    assert seen == {"predictions", "shadow-predictions", "examples", "dead-letters"}
    letter = next(record for record in sent if record.target == "dead-letters")
    named = {one.name for one in MEANINGS if "dead-letters" in one.on}
    assert named - {name for name, _ in letter.headers} <= OPTIONAL
    prediction = next(record for record in sent if record.target == "predictions")
    assert {one.name for one in MEANINGS if "predictions" in one.on} - {
        name for name, _ in prediction.headers
    } == {headers.RECORD_TYPE, "tracestate"}


OPTIONAL = {
    "headrace-replayed",
    "headrace-origin",
    "headrace.errors.headers-dropped",
    "headrace.errors.key-bytes",
    "headrace.errors.key-sha256",
    "headrace.errors.unreadable",
    "headrace.errors.value-bytes",
    "headrace.errors.value-sha256",
}
"""Headers of dead letters that only some have."""


def prediction(event_id: str, sequence: int) -> Outgoing:
    answer = Prediction(
        f"p:{event_id}", event_id, 1, 1, "m", 1, 0, "champion", 0.5, True, "champion", {}, 0, 1, sequence
    )
    return Outgoing("predictions", 0, b"k", encode(answer), (), 1_700_000_000_000)


async def publish_answers(kafka: KafkaSettings, topic: str) -> None:
    claim = Outgoing("predictions", 0, None, encode(Claim(0, -1)), headers.CLAIM, 1_700_000_000_000)
    await made(kafka, topic)
    async with open_sink(kafka) as sink:
        await sink.send(topic, 0, [claim, prediction("a", 0), prediction("a", 1), claim, prediction("b", 2)])
        await sink.flush()


def test_the_consumer_of_the_document_sees_each_answer_once(tansu: KafkaSettings) -> None:
    topic = fresh("consumed")
    asyncio.run(publish_answers(tansu, topic))
    process = subprocess.Popen(
        [sys.executable, str(FLIGHTS / "consumer.py"), topic, tansu.bootstrap_servers],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["a 0.5\n", "b 0.5\n"]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("claims", [False, True])
def test_tail_leaves_claim_records_out_unless_asked(tansu: KafkaSettings, claims: bool) -> None:
    topic = fresh("tailed")
    asyncio.run(publish_answers(tansu, topic))
    count = 5 if claims else 3
    arguments = ["--from-beginning", "-n", str(count), *(["--claims"] if claims else [])]
    result = CliRunner().invoke(
        app,
        ["tail", topic, *arguments, "--bootstrap-servers", tansu.bootstrap_servers],
        catch_exceptions=False,
    )
    shown = [json.loads(line)["value"].get("event_id") for line in result.stdout.splitlines()]
    assert shown == ([None, "a", "a", None, "b"] if claims else ["a", "a", "b"])
    assert ("left out: 2 claim records" in result.stderr) == (not claims)
