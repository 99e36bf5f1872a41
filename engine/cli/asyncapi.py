"""A pipeline's topics as an AsyncAPI document: channels, messages, keys, headers.

Lives here: the document.  Never here: the messages' schemas (`schemas.py`), names and keys of topics
(`topics/catalog.py`), printing (`export.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from msgspec import Struct

from engine.cli.schemas import components, messages_of
from engine.definition.pipeline import Pipeline
from topics.catalog import Role, TopicPlan
from topics.headers import MEANINGS
from topics.messages import Claim

__all__ = ["asyncapi"]

ASYNCAPI = "3.0.0"
KAFKA_BINDING = "0.5.0"
JSON = "application/json"
GIVEN: frozenset[Role] = frozenset({"events", "labels", "commands"})
"""Topics that Headrace reads and others write."""


def asyncapi(pipeline: Pipeline) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of a pipeline: what it receives and what it sends."""
    catalog = pipeline.catalog
    described = {role: (key, value) for role, _, key, value in catalog.describe()}
    plans = catalog.plan(events=pipeline.events.partitions)
    schemas, names = components(
        (message_type for plan in plans for message_type in messages_of(pipeline, plan.role)),
        "#/components/schemas/{name}",
        pipeline,
    )
    messages = {
        plan.role: _messages(
            plan.role,
            described[plan.role][0],
            {message_type: names[message_type] for message_type in messages_of(pipeline, plan.role)},
        )
        for plan in plans
    }
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": pipeline.name,
            "version": version("headrace"),
            "description": f"Topics of the pipeline {pipeline.name}, features {pipeline.features_version}.",
        },
        "defaultContentType": JSON,
        "channels": {plan.role: _channel(plan, messages[plan.role]) for plan in plans},
        "operations": {_operation(plan.role): _described_operation(plan.role) for plan in plans},
        "components": {
            "messages": {name: one for role in messages.values() for name, one in role.items()},
            "schemas": schemas,
        },
    }


def _channel(plan: TopicPlan, messages: dict[str, Any]) -> dict[str, Any]:
    topic: dict[str, Any] = {"cleanup.policy": [plan.cleanup]}
    if plan.retention_ms is not None:
        topic["retention.ms"] = plan.retention_ms
    return {
        "address": plan.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "kafka": {
                "partitions": plan.partitions,
                "topicConfiguration": topic,
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _operation(role: Role) -> str:
    return f"{'receive' if role in GIVEN else 'send'}-{role}"


def _described_operation(role: Role) -> dict[str, Any]:
    return {
        "action": "receive" if role in GIVEN else "send",
        "channel": {"$ref": f"#/channels/{role}"},
    }


def _messages(role: Role, key: str, names: Mapping[type[Struct], str]) -> dict[str, Any]:
    """Return the messages of one topic by name; the same type on two topics has other keys and headers."""
    if not names:
        return {role: _message(role, key, {"description": "The refused bytes, as they came."})}
    return {
        f"{role}-{message_type.__name__}": _message(
            role,
            None if message_type is Claim or key.startswith("none") else key,
            {"$ref": f"#/components/schemas/{name}"},
        )
        for message_type, name in names.items()
    }


def _message(role: Role, key: str | None, payload: dict[str, Any]) -> dict[str, Any]:
    headers = {one.name: {"type": "string", "description": one.meaning} for one in MEANINGS if role in one.on}
    return {
        "payload": payload,
        **({"headers": {"type": "object", "properties": headers}} if headers else {}),
        "bindings": {
            "kafka": {
                "key": {"type": "null"} if key is None else {"type": "string", "description": key},
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }
