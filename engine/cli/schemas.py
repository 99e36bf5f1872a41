"""JSON Schemas of all messages, made from their Structs field by field.

Lives here: which messages lie on which topic, fields, types, and the meaning that the docstring behind a
field gives.  Never here: topics' addresses and keys (`asyncapi.py`), printing (`export.py`).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from engine.definition.pipeline import Pipeline
from topics.catalog import Role
from topics.codec import LabelMessage, label_message
from topics.messages import (
    Alert,
    Claim,
    Command,
    Decision,
    Example,
    ModelPointer,
    Prediction,
    Quarantine,
)
from topics.rekeying import Progress, RekeyedEvent, RekeyedLabel, RekeyedValues

__all__ = ["MESSAGES", "Components", "components", "field_docs", "json_schema", "messages_of"]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
MESSAGES: Mapping[Role, tuple[type[msgspec.Struct], ...]] = {
    "predictions": (Prediction, Claim),
    "shadow-predictions": (Prediction,),
    "examples": (Example, Quarantine, Command, Claim),
    "decisions": (Decision,),
    "models": (ModelPointer,),
    "commands": (Command,),
    "alerts": (Alert,),
    "rekey": (RekeyedEvent, RekeyedLabel, Progress, Claim),
    "rekeyed": (RekeyedValues, Claim),
}
"""What lies on each topic of ours; dead letters are the bytes of others."""
_CLASSES: Mapping[type | None, Any] = {None: ["string", "integer", "boolean"], str: "string", int: "integer"}


class Components(NamedTuple):
    """A set of schemas that refer to each other."""

    schemas: dict[str, Any]
    """By name: that of the type, or with its module before it where two types have one name."""
    names: Mapping[type[msgspec.Struct], str]


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


def messages_of(pipeline: Pipeline, role: Role) -> tuple[type[msgspec.Struct], ...]:
    """Return the types of what lies on a topic of a pipeline; none for dead letters."""
    if role == "events":
        return (pipeline.events.type,)
    if role == "labels":
        return (label_message(pipeline.labels.names),)
    return MESSAGES.get(role, ())


def components(
    types: Iterable[type[msgspec.Struct]], ref_template: str, pipeline: Pipeline | None = None
) -> Components:
    """Return the schemas of these types and of what they refer to, with every field's meaning."""
    types = list(dict.fromkeys(types))
    refs, found = msgspec.json.schema_components(types, ref_template=ref_template)
    names = {
        message_type: ref["$ref"].rpartition("/")[2] for message_type, ref in zip(types, refs, strict=True)
    }
    for schema in found.values():
        if "description" in schema:
            schema["description"] = _first(schema["description"])
    for message_type in types:
        properties = found[names[message_type]].get("properties", {})
        for name, said in field_docs(message_type).items():
            if name in properties:
                properties[name] = {"description": said} | properties[name]
        if pipeline is not None and issubclass(message_type, LabelMessage):
            name = pipeline.labels.label
            properties[name] = {"description": properties[name]["description"], **_label(pipeline)}
    return Components(found, names)


def _label(pipeline: Pipeline) -> dict[str, Any]:
    """Return what the label of a pipeline may be (`topics.codec.label_value`)."""
    if pipeline.task == "binary":
        return {"enum": [True, False, 1, 0]}
    return {"type": _CLASSES[pipeline.label_classes] if pipeline.task == "multiclass" else "number"}


@cache
def field_docs(message_type: type[msgspec.Struct]) -> Mapping[str, str]:
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
