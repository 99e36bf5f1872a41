"""Packed keys: what goes in comes out, with its types; the rest is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from operators.quiet import QUIET_MAX, QuietLogs

times = st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=QUIET_MAX).map(sorted)


@given(times=times)
def test_entries_come_back_as_they_were(times: list[int]) -> None:
    logs = QuietLogs(stride=2, entries_max=QUIET_MAX)
    values = [kind(place) for place in range(len(times)) for kind in (float, int)]
    assert logs.put("a", times, values)
    found_times, found = logs.times_and_values("a")
    assert (list(found_times), repr(found), logs.newest("a")) == (times, repr(values), times[-1])


def test_other_types_and_too_many_are_refused() -> None:
    logs = QuietLogs(stride=1, entries_max=2)
    assert not logs.put("none", [1], [None])
    assert not logs.put("mixed", [1, 2], [1, 2.0])
    assert not logs.put("many", [1, 2, 3], [1, 2, 3])
    assert logs.put("ints", [1], [7])
    assert not logs.put("floats", [1], [7.0])
    assert not logs.put("bool", [1], [True])
    assert list(logs.packed) == ["ints"]
    logs.packed.clear()
    assert logs.put("floats", [1], [7.0])
