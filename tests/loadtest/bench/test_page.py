"""The page of a run stands alone, says what the report says, and draws where the figures are."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.bench.page import HEIGHT, WIDTH, load_page
from loadtest.bench.slices import Slicer, Usage, usage_figures

VOID = {"meta", "line", "polyline"}


class _Tags(HTMLParser):
    """Checks that every tag is closed, and keeps what a page says."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.shapes: list[dict[str, str | None]] = []
        self.said: list[str] = []
        self.addresses: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "polyline":
            self.shapes.append(dict(attrs))
        self.addresses += [value for name, value in attrs if name in {"href", "src", "xlink:href"}]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def report_of(latencies_ms: list[list[float]]) -> dict[str, Any]:
    usage = Usage(0.0, 80.0)
    slicer = Slicer(1.0, lambda: usage)
    slicer.begin()
    for second, found in enumerate(latencies_ms):
        usage = Usage(usage.cpu_s + 0.5, 80.0 + second)
        for value in found:
            slicer.answered(int(value * 1e6))
        slicer.turn(second + 1.0, waiting=second)
    return {
        "verdict": {"text": "sustained: <offered> 10/s"}, "scenario": "burst", "rate": 10.0,
        "duration_s": float(len(latencies_ms)), "latency_ms": {"p50": 5.25}, "sender_late_ms": {},
        "events": 30, "answered": 30, "lost": 0, "duplicated": 0, "mismatched": 0, "foreign": 0, "labels": 7,
        "learned": 7, "behind": 3, "throughput_per_s": 10.0, "knee_per_s": None, "machine": "2 x <chip>",
        "workers": usage_figures(slicer.slices), "slices": msgspec.to_builtins(slicer.slices),
    }  # fmt: skip


def parsed(page: str) -> _Tags:
    tags = _Tags()
    tags.feed(page)
    tags.close()
    assert not tags.open
    return tags


@settings(max_examples=25)  # a slice costs a histogram
@given(st.lists(st.lists(st.floats(0.001, 1e6), max_size=3), max_size=5))
def test_any_run_is_drawn_within_its_frame(latencies_ms: list[list[float]]) -> None:
    tags = parsed(load_page("fraud", report_of(latencies_ms)))
    for shape in tags.shapes:
        for pair in (shape["points"] or "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_the_page_says_the_figures_and_draws_a_point_a_slice() -> None:
    tags = parsed(load_page("fr<aud", report_of([[4.0, 6.0], [5.0], [900.0]])))
    said = " ".join(tags.said)
    for words in ("fr<aud: 10 events/s for 3 s, burst", "sustained: <offered>", "5.25 ms", "2 x <chip>"):
        assert words in said
    points = [len((shape["points"] or "").split()) for shape in tags.shapes]
    assert points[:6] == [3] * 6, "two lines of latency, answers, waiting, processors, memory"
    latency = [float(pair.split(",")[1]) for pair in (tags.shapes[1]["points"] or "").split()]
    assert latency[2] < latency[1], "the slow second is drawn higher"
    curve = [float(pair.split(",")[1]) for pair in (tags.shapes[6]["points"] or "").split()]
    assert curve == sorted(curve, reverse=True), "a percentile curve never falls"


def test_the_page_loads_nothing() -> None:
    page = load_page("fraud", report_of([[4.0], [5.0]]))
    assert not parsed(page).addresses
    assert not re.search(r"https?:|url\(|@import|<script", page)
