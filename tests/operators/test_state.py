"""Changes and composites: a delta holds what differs from what was stored, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from operators.state import Changes, Composite

ACTS = st.lists(st.tuples(st.sampled_from(("set", "remove", "delta")), st.integers(0, 3), st.integers(0, 9)))


class Numbers:
    """The smallest operator with entries: a number per key."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.changes = Changes[int]()

    def set(self, key: int, value: int) -> None:
        if key in self.held:
            self.changes.change(key)
        else:
            self.changes.add(key)
        self.held[key] = value

    def remove(self, key: int) -> None:
        if self.held.pop(key, None) is not None:
            self.changes.remove(key)

    def snapshot(self) -> dict[str, bytes]:
        return {str(key): b"%d" % value for key, value in self.held.items()}

    def delta(self) -> dict[str, bytes | None]:
        return self.changes.delta(self.held, str, lambda value: b"%d" % value)

    def restore(self, entries: object) -> None:
        assert isinstance(entries, dict)
        self.held = {int(name): int(data) for name, data in entries.items()}
        self.changes.clear()


@given(ACTS)
def test_deltas_add_up_and_remove_only_what_is_stored(acts: list[tuple[str, int, int]]) -> None:
    numbers, stored = Numbers(), dict[str, bytes]()
    for act, key, value in [*acts, ("delta", 0, 0)]:
        if act == "set":
            numbers.set(key, value)
        elif act == "remove":
            numbers.remove(key)
        else:
            for name, data in numbers.delta().items():
                if data is None:
                    del stored[name]
                else:
                    stored[name] = data
            assert not numbers.changes
    assert stored == numbers.snapshot()


class Place(Struct):
    offset: int = 0


def test_a_composite_keeps_its_parts_apart() -> None:
    one, other = (Composite(Place(), {"a": Numbers(), "b": Numbers()}) for _ in range(2))
    one.position.offset = 7
    for number, part in enumerate(one._parts.values()):
        assert isinstance(part, Numbers)
        part.set(1, number)
    assert one.delta() == one.snapshot() == {"position": b'{"offset":7}', "a/1": b"0", "b/1": b"1"}
    assert one.delta() == {"position": b'{"offset":7}'}
    other.restore(one.snapshot())
    assert other.snapshot() == one.snapshot()
