"""From a group of the plan to what keeps it at work.

Lives here: which class keeps a group, how an event's key and row are read for it, and what an event
does there.  Never here: what is kept and how (`windows.py`, `keyed.py` and its kinds), features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from operators.calculation import NOTHING, Counts, calculation, predicate
from operators.chains import Chains
from operators.columns import column_logs
from operators.exact import VALUE_MAX, as_number
from operators.fading import Fading
from operators.kernels import Target
from operators.keyed import Keyed, Row
from operators.language.fields import Field, LabelValue
from operators.language.plan import Group
from operators.settling import Settling
from operators.slices import Slices
from operators.tiles import Tiles
from operators.windows import Windows
from topics.messages import Event

__all__ = ["GroupRun", "Step", "group_run", "key_reader"]

TEXT_MAX: Final = 256
"""Characters of a text that a window keeps; texts are compared by so many."""

Step = Callable[[str, Event, Row, dict[Any, Any]], None]
"""(key, event, its row, where the values go)."""


class GroupRun(NamedTuple):
    """A group at work: its windows, what an event does there, and how its key and row are read."""

    windows: Windows | Keyed[Any]
    step: Step
    key_of: Callable[[Any], str]
    row_of: Callable[[Any], Row]
    label_key_of: Callable[[Any], str | None]
    """The key under which an event's label enters, None where the event does not meet the condition."""


def group_run(
    group: Group,
    targets: Sequence[Target],
    event_max: int,
    counts: Counts | None = None,
    *,
    compiled: bool = False,
) -> GroupRun:
    """Return `group` at work, writing its `targets`; `counts` gets the failures of the user's functions.

    `compiled`: it is kept by compiled code where that can be.
    """
    windows = _windows(group, targets, event_max, compiled=compiled)
    key_of = key_reader(group.keys, are_text=group.keys_are_text)
    row_of = _calculated_row(group, counts) if group.calculated else _row_of(group)
    if group.where is None:
        return GroupRun(windows, windows.step, key_of, row_of, key_of)
    met = predicate(group.where)
    if group.calculated and group.source == "events":
        row_of = _where_met(met, row_of)

    def entering(value: Any) -> str | None:
        return key_of(value) if met(value) else None

    return GroupRun(windows, _conditional(windows, met), key_of, row_of, entering)


def _conditional(windows: Windows | Keyed[Any], met: Callable[[Any], bool | None]) -> Step:
    """Return a step that only events enter for which the condition is known to be met."""
    enter, read = windows.step, windows.read

    def step(key: str, event: Event, row: Row, out: dict[Any, Any]) -> None:
        if met(event.value):
            enter(key, event, row, out)
        else:
            read(key, event, out)

    return step


def _windows(
    group: Group, targets: Sequence[Target], event_max: int, *, compiled: bool
) -> Windows | Keyed[Any]:
    """Return what keeps the entries of a group."""
    match group.store:
        case "windows":
            logs = column_logs(group.columns, targets, event_max) if compiled and group.are_floats else None
            return Windows(group.columns, targets, event_max, logs)
        case "slices":
            return Keyed(Slices(group.columns, targets, event_max))
        case "tiles":
            return Keyed(Tiles(group.columns, targets, step_ms=group.unit_ms, event_max=event_max))
        case "chains":
            return Keyed(Settling(Chains(group.columns, targets, gap_ms=group.unit_ms), event_max))
        case "fading":
            return Keyed(Settling(Fading(group.columns, targets), event_max))


def key_reader(keys: Sequence[str], *, are_text: bool = False) -> Callable[[Any], str]:
    """Return how an event's key is read.

    One field is its own text.  Several are joined with the length of each but the last, so that
    different values never make the same key.

    >>> from types import SimpleNamespace
    >>> key_reader(["a", "b"])(SimpleNamespace(a="xy", b=3)), key_reader([])(None)
    ('2:xy,3', '')
    """
    if not keys:
        return lambda _: ""
    get: Callable[[Any], Any] = attrgetter(*keys)
    if len(keys) == 1:
        return get if are_text else lambda value: str(get(value))

    def joined(value: Any) -> str:
        *head, last = map(str, get(value))
        return "".join([f"{len(part)}:{part}," for part in head]) + last

    return joined


def _row_of(group: Group) -> Callable[[Any], Row]:
    """Return how an event's values (a label's value) for a group's columns are read."""
    if not group.columns:
        return lambda _: ()
    if group.source == "labels":
        enters = as_number if group.store == "windows" else as_value
        return lambda value: (enters(value),)
    get: Callable[[Any], Any] = attrgetter(*(name or "" for name in group.columns))
    if group.store != "windows":
        if len(group.columns) > 1:
            return lambda value: tuple(map(as_value, get(value)))
        return lambda value: (as_value(get(value)),)
    if len(group.columns) > 1:
        return lambda value: tuple(map(as_number, get(value)))

    # The usual number first: a call of `as_number` costs as much as all else here.
    return lambda value: (
        (number,) if (number := get(value)) is not None and 1 <= number <= VALUE_MAX else (as_number(number),)
    )


def _calculated_row(group: Group, counts: Counts | None) -> Callable[[Any], Row]:
    """Return how a row is made where columns are calculated from an event's fields."""
    calculated = group.calculated
    of = [LabelValue() if name is None else calculated.get(name, Field(name)) for name in group.columns]
    found = [calculation(one, {}, counts) for one in of]
    enters: Callable[[Any], Any] = as_number if group.store == "windows" else as_value
    return lambda value: tuple([enters(evaluate(value, NOTHING, NOTHING)) for evaluate in found])


def _where_met(met: Callable[[Any], bool | None], row_of: Callable[[Any], Row]) -> Callable[[Any], Row]:
    """Return `row_of` for events that enter: for others nothing is calculated, and no function called."""
    return lambda value: row_of(value) if met(value) else ()


def as_value(value: Any) -> Any:
    """Return `value` as it enters a window that takes text, None where it may not.

    >>> as_value("a" * 300) == "a" * 256, as_value(float("inf"))
    (True, None)
    """
    return value[:TEXT_MAX] if isinstance(value, str) else as_number(value)
