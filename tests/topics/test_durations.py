"""Spans of time: text to milliseconds and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topics.durations import DURATION_MAX_MS, duration_ms, duration_text
from topics.errors import DefinitionError


@given(st.integers(0, DURATION_MAX_MS))
def test_every_span_survives_its_text(span_ms: int) -> None:
    assert duration_ms(duration_text(span_ms)) == duration_ms(span_ms) == span_ms


@pytest.mark.parametrize(
    "wrong", ["", "1", "h", "1.5h", "-1s", "1 h", "1w", "1H", "٣h", -1, 2.5, True, None, "99999d"]
)
def test_what_is_no_span_is_refused_with_a_fix(wrong: object) -> None:
    with pytest.raises(DefinitionError) as refusal:
        duration_ms(wrong)  # type: ignore[arg-type]
    assert refusal.value.hint
