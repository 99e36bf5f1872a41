"""A chart is well-formed, shows every value inside its frame, and text of users as text."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from engine.offline.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart

SVG = "{http://www.w3.org/2000/svg}"
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20)
VALUES = st.none() | st.floats(-1e6, 1e6)


@given(
    st.lists(NAMES, min_size=1, max_size=5).flatmap(
        lambda columns: st.tuples(
            st.just(columns),
            st.dictionaries(
                NAMES, st.lists(VALUES, min_size=len(columns), max_size=len(columns)), max_size=4
            ),
        )
    )
)
def test_every_value_is_a_dot_inside_the_frame(
    drawn: tuple[list[str], dict[str, list[float | None]]],
) -> None:
    columns, lines = drawn
    svg = ElementTree.fromstring(line_chart("<&>", x_title="x", y_title="y", columns=columns, lines=lines))
    dots = svg.findall(f".//{SVG}circle")
    assert len(dots) == sum(value is not None for line in lines.values() for value in line)
    for dot in dots:
        assert LEFT <= float(dot.attrib["cx"]) <= WIDTH - RIGHT
        assert TOP - 0.1 <= float(dot.attrib["cy"]) <= HEIGHT - BOTTOM + 0.1
    texts = [text.text for text in svg.findall(f".//{SVG}text")]
    assert {"<&>", *columns}.issubset(texts)
    assert {name for name, line in lines.items() if any(value is not None for value in line)}.issubset(texts)


def test_higher_is_higher() -> None:
    chart = line_chart("t", x_title="x", y_title="y", columns=["a", "b"], lines={"m": [0.1, 0.3]})
    first, second = (
        float(dot.attrib["cy"]) for dot in ElementTree.fromstring(chart).findall(f".//{SVG}circle")
    )
    assert first > second
