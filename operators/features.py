"""Events to feature dicts: the plan of `plan.py`, run.

Lives here: the order of things for one event.  Never here: what a window holds (`windows.py`,
`keyed.py`), expressions over values (`calculation.py`), what a definition may say (`plan.py`),
who predicts.

Strategy: an event fills in a copy of the template, which has every feature's name in the
order of the definition: first its windows, then the expressions over fields and other
aggregates.  What is missing and has no default is taken out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from operators.calculation import NOTHING, Counts, Out, calculation, complete
from operators.fused import Output
from operators.idle import LONG_AGO
from operators.kernels import Target
from operators.language.fields import Aggregate, Default, Expression, Field, windows_of
from operators.language.plan import FeaturePlan
from operators.state import StateDelta, StateEntries
from operators.stores import GroupRun, group_run
from operators.windows import Windows
from topics.errors import CheckpointError
from topics.messages import Event, FeatureValue, LabelValue

__all__ = ["META", "Features", "JoinedLabel", "Meta", "label_entry"]

META: Final = "meta"
"""The entry that is no key's."""
_EVICTIONS: Final = ("max_events_per_key", "idle")


class JoinedLabel(NamedTuple):
    """A label that has met its event."""

    keys: tuple[str | None, ...]
    """The event's `Features.label_keys`; None, too, where the event was answered by another definition."""
    label_time: int
    value: float | str | None
    """As `label_entry` gives it; None is missing."""


def label_entry(label: LabelValue) -> float | str:
    """Return a label as windows take it: 1.0 or 0.0, the value of a regression, the name of a class."""
    return label if isinstance(label, str) else float(label)


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered besides the logs."""

    watermark: int
    evicted: tuple[tuple[int, int], ...]


class Features:
    """Features of events in log order, with all their windows.

    >>> from operators import by
    >>> from operators.language.plan import compile_features
    >>> class Payment(msgspec.Struct):
    ...     card: str
    ...     amount: float
    >>> definition = {"n": by("card").count("1h"), "mean": by("card").mean("amount", "1h")}
    >>> plan = compile_features(definition, Payment, grace_ms=0, max_events_per_key=100, task="binary")
    >>> features = Features(plan)
    >>> events = [
    ...     Event(str(n), n * 60_000, "a", Payment("a", amount), offset=n, watermark=n * 60_000)
    ...     for n, amount in enumerate([1.0, 4.0])
    ... ]
    >>> features.step_events(events)
    [{'n': 1, 'mean': 1.0}, {'n': 2, 'mean': 2.5}]
    """

    def __init__(self, plan: FeaturePlan, counts: Counts | None = None, *, compiled: bool = True) -> None:
        """`counts` gets failures of the user's functions, and evictions; they are no part of the state.

        `compiled`: where Numba is installed, compiled code (`columns.py`) keeps what it can.
        """
        self.plan = plan
        targets: dict[Aggregate, list[Target]] = {}
        self._template: Out = {}
        later: list[tuple[str, Expression]] = []
        for name, expression in plan.features:
            self._template[name] = default = expression.value if isinstance(expression, Default) else None
            of = expression.of if isinstance(expression, Default) else expression
            if isinstance(of, Aggregate):
                targets.setdefault(of, []).append(Target(name, of, default is not None))
            else:
                later.append((name, expression))
        # Aggregates inside other expressions go under numbers, which are taken out at the end.
        inner = dict.fromkeys(window for _, expression in later for window in windows_of(expression))
        numbers = {aggregate: number for number, aggregate in enumerate(inner)}
        for aggregate, number in numbers.items():
            targets.setdefault(aggregate, []).append(Target(number, aggregate))
        self._numbers = tuple(numbers.values())
        self._later = [(name, calculation(expression, numbers, counts)) for name, expression in later]
        self._event_groups: list[GroupRun] = []
        self._label_groups: list[GroupRun] = []
        for group in plan.groups:
            mine = [target for aggregate in group.aggregates for target in targets[aggregate]]
            run = group_run(group, mine, plan.max_events_per_key, counts, compiled=compiled and plan.is_fused)
            (self._event_groups if group.source == "events" else self._label_groups).append(run)
        self._windows = [run.windows for run in (*self._event_groups, *self._label_groups)]
        self._counts = counts
        self._evictions_counted = (0, 0)
        self._watermark = LONG_AGO
        self._meta_changed = True
        self._fused = self._fuse()

    def _fuse(self) -> Windows | None:
        """Let a plan with one group of plain windows run as one loop; return these windows."""
        if not self.plan.is_fused:
            return None
        (group,), (run,) = self.plan.groups, self._event_groups
        assert isinstance(run.windows, Windows)
        fields = {
            name: expression.name
            for name, expression in self.plan.features
            if isinstance(expression, Field) and expression.name in group.columns
        }
        later = [(name, evaluate) for name, evaluate in self._later if name not in fields]
        text_key = group.keys[0] if len(group.keys) == 1 and group.keys_are_text else None
        run.windows.fuse(
            Output(
                self._template,
                fields,
                text_key,
                run.key_of,
                run.row_of,
                later,
                self._numbers,
                looks_up=bool(self.plan.lookups),
            )
        )
        return run.windows

    @property
    def evicted_events(self) -> int:
        """Return how many entries made room for newer ones of their key."""
        return sum(windows.evicted_events for windows in self._windows)

    @property
    def evicted_keys(self) -> int:
        """Return how many idle keys were forgotten."""
        return sum(windows.evicted_keys for windows in self._windows)

    def count_evictions(self) -> None:
        """Count what was evicted since the last call; of a restored state only what comes after it."""
        evicted = self.evicted_events, self.evicted_keys
        if self._counts is not None and evicted != self._evictions_counted:
            for reason, now, before in zip(_EVICTIONS, evicted, self._evictions_counted, strict=True):
                self._counts["window_evictions", reason] += now - before
        self._evictions_counted = evicted

    @property
    def key_count(self) -> int:
        """Return how many keys are kept, over all groups."""
        return sum(map(len, self._windows))

    def step_events(
        self, events: Sequence[Event], lookups: Sequence[Mapping[str, object]] | None = None
    ) -> list[dict[str, FeatureValue]]:
        """Enter `events` one after the other and return each one's features, as of its own time.

        `lookups` has one mapping per event, from `Lookup.address` to the stored value.
        """
        rows: list[dict[str, FeatureValue]] = []
        while self._fused is not None and (run := self._fused.run) is not None:
            done = len(rows)
            more, watermark = run(
                events[done:] if done else events,
                lookups[done:] if done and lookups else lookups,
                self._watermark,
                self._row,
            )
            if watermark > self._watermark:
                self._watermark = watermark
                self._meta_changed = True
            rows = rows + more if done else more
            if len(rows) == len(events):
                return rows
        for place in range(len(rows), len(events)):
            self._advance(events[place].watermark)
            rows.append(self._row(events[place], NOTHING if lookups is None else lookups[place]))
        return rows

    def step_labels(self, labels: Sequence[JoinedLabel]) -> None:
        """Enter labels that have joined their events."""
        for keys, label_time, value in labels:
            for run, key in zip(self._label_groups, keys, strict=True):
                if key is not None:
                    run.windows.enter(key, label_time, self._watermark, run.row_of(value))

    def label_keys(self, event: Event) -> tuple[str | None, ...]:
        """Return the keys under which the label of `event` will be kept, to be stored with its prediction.

        None where the event does not meet the group's condition.
        """
        return tuple(run.label_key_of(event.value) for run in self._label_groups)

    def _advance(self, watermark: int) -> None:
        """Forget what is over at `watermark`."""
        if watermark > self._watermark:
            self._watermark = watermark
            self._meta_changed = True
            for windows in self._windows:
                if watermark >= windows.idle.due_ms:
                    windows.forget(watermark)

    def _row(self, event: Event, looked_up: Mapping[str, object]) -> dict[str, FeatureValue]:
        """Enter one event and return its features."""
        value = event.value
        out = self._template.copy()
        for _, step, key_of, row_of, _ in self._event_groups:
            step(key_of(value), event, row_of(value), out)
        for windows, _, key_of, _, _ in self._label_groups:
            windows.read(key_of(value), event, out)
        complete(out, value, looked_up, self._later, self._numbers)
        return out

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: one entry per group and key, and one for all."""
        entries = {META: self._encode_meta()}
        for number, windows in enumerate(self._windows):
            entries.update((f"{number}/{key}", data) for key, data in windows.entries())
        return entries

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        changes: StateDelta = {}
        if self._meta_changed or any(windows.changed for windows in self._windows):
            changes[META] = self._encode_meta()
            self._meta_changed = False
        for number, windows in enumerate(self._windows):
            changes.update((f"{number}/{key}", data) for key, data in windows.changes())
        return changes

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state.  Raises CheckpointError if `entries` are not of this plan."""
        logs: list[list[tuple[str, bytes]]] = [[] for _ in self._windows]
        try:
            for name, data in entries.items():
                number, slash, key = name.partition("/")
                if slash:
                    logs[int(number)].append((key, data))
            meta = msgspec.msgpack.decode(entries[META], type=Meta)
            for windows, found, (events, keys) in zip(self._windows, logs, meta.evicted, strict=True):
                windows.load(found)
                windows.evicted_events, windows.evicted_keys = events, keys
        except (KeyError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"feature state cannot be read: {error}", hint="restore it with the definition that wrote it"
            ) from error
        self._watermark = meta.watermark
        self._evictions_counted = self.evicted_events, self.evicted_keys
        self._meta_changed = False

    def _encode_meta(self) -> bytes:
        evicted = tuple((windows.evicted_events, windows.evicted_keys) for windows in self._windows)
        return msgspec.msgpack.encode(Meta(self._watermark, evicted))
