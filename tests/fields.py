"""A source of models and fields for learners of tests: all that was ever made is in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from operators.models.artefacts import model_codec
from operators.models.digest import digest
from operators.models.signing import SigningKeys
from operators.race.blend import Blend
from operators.race.evaluation import default_metrics
from operators.race.field import RaceField
from topics.errors import ModelError
from topics.messages import Task

__all__ = ["Source"]


class Source:
    """Clones of models as they are, without guards; fields and states by digest."""

    def __init__(self, task: Task = "binary", fields: Sequence[RaceField] = ()) -> None:
        self.task: Task = task
        self.fields = {field.field_id: field for field in fields}
        self.models: dict[str, Any] = {}
        """Functions that return a state, by its digest."""

    def fresh(self, field: RaceField, name: str) -> Any:
        model = field.candidates[name].model
        return model.mixture(self.task) if isinstance(model, Blend) else model.clone()

    def codec(self, field: RaceField) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
        parts = (
            *(self.fresh(field, name) for name in field.candidates),
            *(field.metrics or default_metrics(self.task)),
            *(drift.detector for drift in field.drift),
        )
        return model_codec(SigningKeys({"": b"k" * 32}), parts)

    def field(self, field_id: str) -> RaceField:
        if field_id not in self.fields:
            raise ModelError(f"there is no field {field_id}")
        return self.fields[field_id]

    def put(self, field: RaceField, model: Any) -> str:
        """Store a state; return its digest."""
        name = digest(model)
        self.models[name] = self.codec(field)[0](model)
        return name

    def model(self, field: RaceField, artefact: str) -> Any:
        return self.codec(field)[1](self.models[artefact])
