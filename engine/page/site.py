"""The paths of the page: its own files, and the stream.

Lives here: which files there are, what each is; which part of the stream comes how often.  Never here: what
the parts say (`facts.py`), who may see a path (`engine/host/pages.py`).

The files hold no fact about anybody, so they are for all who reach the port; the stream takes the token.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from engine.host.pages import COUNTED_AS, AnyPage, LivePage, Page, PageText
from engine.page.facts import PageFacts
from engine.page.stream import PageStream, Part

__all__ = ["FILES", "STREAM_PATH", "page_of"]

STATIC: Final = Path(__file__).with_name("static")
STREAM_PATH: Final = "/page/stream"
FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/panels.js": ("panels.js", "text/javascript; charset=utf-8"),
    "/page/elements.js": ("elements.js", "text/javascript; charset=utf-8"),
    "/page/group.js": ("group.js", "text/javascript; charset=utf-8"),
    "/page/features.js": ("features.js", "text/javascript; charset=utf-8"),
    "/page/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/page/uPlot.js": ("uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "/page/uPlot.css": ("uPlot.min.css", "text/css; charset=utf-8"),
}
"""File and content type by path."""
GROUP_S: Final = 2.0
RACE_S: Final = 5.0
"""Between two looks at the curves: a bucket of one is minutes wide."""
ABOUT_S: Final = 3_600.0


def page_of(facts: PageFacts, counts: Counter[tuple[str, str]]) -> dict[str, AnyPage]:
    """Return the page of a worker by paths; what its clients miss is counted in `counts`."""
    stream = PageStream(
        [
            Part("about", lambda: facts.timed(facts.about), ABOUT_S),
            Part("facts", lambda: facts.timed(facts.facts)),
            Part("marks", lambda: facts.timed(facts.marks)),
            Part("group", lambda: facts.timed(facts.group), GROUP_S),
            Part("race", lambda: facts.timed(facts.race), RACE_S),
            Part("features", lambda: facts.timed(facts.features), RACE_S),
            Part("persons", lambda: facts.timed(facts.persons), of_persons=True),
            Part("slices", lambda: facts.timed(facts.slices), RACE_S, of_persons=True),
            Part("cells", lambda: facts.timed(facts.cells), RACE_S, of_persons=True),
        ],
        counts,
        counted_as=(COUNTED_AS, "behind"),
    )
    return {**{path: _file(*file) for path, file in FILES.items()}, STREAM_PATH: LivePage(stream.listen)}


def _file(name: str, content_type: str) -> Page:
    text = PageText((STATIC / name).read_bytes(), content_type=content_type)
    return Page(lambda: text, is_open=True)
