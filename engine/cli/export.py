"""`headrace export`: what the messages of a pipeline look like, for those who read or write its topics.

Lives here: the messages of each topic as JSON Schemas, made from their Structs field by field, with the
meaning that the docstring behind a field gives; topics, keys and headers as an AsyncAPI document.  Never
here: what a message is (`topics/messages.py`), names and keys of topics (`topics/catalog.py`).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer
from msgspec import Struct

from engine.cli.options import PipelineFile, print_json
from engine.definition.file import load_pipeline
from topics.catalog import Role, TopicPlan
from topics.codec import LabelMessage, label_message
from topics.headers import MEANINGS
from topics.messages import (
    AlertRecord,
    Block,
    CalibrationBin,
    CalibrationCurve,
    Claim,
    Command,
    Decision,
    Entrant,
    Example,
    FieldChange,
    ModelPointer,
    Prediction,
    Quarantine,
    Query,
    ScoreBin,
    Slow,
    WorkerStatus,
)
from topics.rekeying import Progress, RekeyedEvent, RekeyedLabel, RekeyedValues

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline

__all__ = ["MESSAGES", "Components", "asyncapi", "components", "export_app", "field_docs", "json_schema"]

export_app = typer.Typer(help="Messages as schemas; dashboards, alert rules, a chart.", no_args_is_help=True)

DRAFT = "https://json-schema.org/draft/2020-12/schema"
MESSAGES: Mapping[Role, tuple[type[Struct], ...]] = {
    "predictions": (Prediction, Claim),
    "shadow-predictions": (Prediction,),
    "examples": (Example, Quarantine, Block, Command, FieldChange, Slow, Claim),
    "decisions": (Decision,),
    "models": (ModelPointer,),
    "commands": (Command,),
    "alerts": (AlertRecord,),
    "queries": (Query,),
    "status": (WorkerStatus,),
    "rekey": (RekeyedEvent, RekeyedLabel, Progress, Claim),
    "rekeyed": (RekeyedValues, Claim),
}
"""The message types of each topic of ours; dead letters are the bytes of others."""
_PARTS: Mapping[type[Struct], tuple[type[Struct], ...]] = {
    FieldChange: (Entrant,),
    Block: (ScoreBin,),
    Decision: (CalibrationCurve, CalibrationBin),
}
"""Structs that lie inside a message, by the message."""
_CLASSES: Mapping[type | None, Any] = {None: ["string", "integer", "boolean"], str: "string", int: "integer"}
ASYNCAPI = "3.0.0"
KAFKA_BINDING = "0.5.0"
JSON = "application/json"
GIVEN: frozenset[Role] = frozenset({"events", "labels", "commands"})
"""Topics that Headrace reads and others write."""


@export_app.command("jsonschema")
def export_jsonschema(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="PIPELINE.py", help="Adds its events and labels, leaves out what it has not."),
    ] = None,
) -> None:
    """Print one JSON Schema; its $defs are all messages."""
    print_json(json_schema(None if file is None else load_pipeline(file)))


@export_app.command("asyncapi")
def export_asyncapi(file: PipelineFile) -> None:
    """Print an AsyncAPI 3.0 document: topics, messages, keys, headers."""
    print_json(asyncapi(load_pipeline(file)))


class Components(NamedTuple):
    """A set of schemas that refer to each other."""

    schemas: dict[str, Any]
    """By name: that of the type, or with its module before it where two types have one name."""
    names: Mapping[type[Struct], str]


def json_schema(pipeline: Pipeline | None = None) -> dict[str, Any]:
    """Return one JSON Schema whose `$defs` are all messages; with a pipeline, its events and labels too."""
    if pipeline is None:
        types = [one for on_topic in MESSAGES.values() for one in on_topic]
        name = "Headrace"
    else:
        types = [one for role in pipeline.catalog.roles.values() for one in messages_of(pipeline, role)]
        name = pipeline.name
    return {
        "$schema": DRAFT,
        "title": f"Messages of {name}",
        "$defs": components(types, "#/$defs/{name}", pipeline).schemas,
    }


def messages_of(pipeline: Pipeline, role: Role) -> tuple[type[Struct], ...]:
    """Return the types of what lies on a topic of a pipeline; none for dead letters."""
    if role == "events":
        return (pipeline.events.type,)
    if role == "labels":
        return (label_message(pipeline.labels.names),)
    return MESSAGES.get(role, ())


def components(
    types: Iterable[type[Struct]], ref_template: str, pipeline: Pipeline | None = None
) -> Components:
    """Return the schemas of these types and of what they refer to, with every field's meaning."""
    types = list(dict.fromkeys(types))
    types += [part for one in types for part in _PARTS.get(one, ())]
    refs, schemas = msgspec.json.schema_components(types, ref_template=ref_template)
    names = {
        message_type: ref["$ref"].rpartition("/")[2] for message_type, ref in zip(types, refs, strict=True)
    }
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = _first(schema["description"])
    for message_type in types:
        properties = schemas[names[message_type]].get("properties", {})
        for name, said in field_docs(message_type).items():
            if name in properties:
                properties[name] = {"description": said} | properties[name]
        if pipeline is not None and issubclass(message_type, LabelMessage):
            name = pipeline.labels.label
            properties[name] = {"description": properties[name]["description"], **_label(pipeline)}
    return Components(schemas, names)


def _label(pipeline: Pipeline) -> dict[str, Any]:
    """Return what the label of a pipeline may be (`topics.codec.label_value`)."""
    if pipeline.task == "binary":
        return {"enum": [True, False, 1, 0]}
    return {"type": _CLASSES[pipeline.label_classes] if pipeline.task == "multiclass" else "number"}


@cache
def field_docs(message_type: type[Struct]) -> Mapping[str, str]:
    """Return the docstring behind each field of a Struct, by the field's name on the wire.

    Empty where the source is not there to be read.
    """
    names = {field.name: field.encode_name for field in msgspec.structs.fields(message_type)}
    docs: dict[str, str] = {}
    for owner in reversed(message_type.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except (OSError, TypeError, SyntaxError, ValueError):
            continue
        assert isinstance(tree, ast.ClassDef)
        for field, said in pairwise(tree.body):
            match field, said:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ) if name in names:
                    docs[names[name]] = _first(text)
    return docs


def _first(text: str) -> str:
    """Return a docstring as one line of text, without its examples."""
    return " ".join(text.partition(">>>")[0].split())


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
        "operations": dict(_operation(plan.role) for plan in plans),
        "components": {
            "messages": {name: one for role in messages.values() for name, one in role.items()},
            "schemas": schemas,
        },
    }


def _channel(plan: TopicPlan, messages: dict[str, Any]) -> dict[str, Any]:
    topic: dict[str, Any] = {"cleanup.policy": plan.cleanup.split(",")}
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


def _operation(role: Role) -> tuple[str, dict[str, Any]]:
    action = "receive" if role in GIVEN else "send"
    return f"{action}-{role}", {"action": action, "channel": {"$ref": f"#/channels/{role}"}}


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
