"""Draw docs/demo.svg: one frame of a real `headrace demo`, in the middle of it.

    .venv/bin/python docs/demo_picture.py

The whole demo runs (embedded broker, worker, all flights).  Only the console is another one: it
throws away what it is given, and every frame is kept beside it until the one wanted has come.
"""

import re
from io import StringIO
from pathlib import Path

from rich.console import Console, RenderableType

from loadtest.demo import race
from loadtest.demo.command import RATE, run
from loadtest.demo.race import TwoThirds
from loadtest.demo.view import Frame, live_view

PICTURE = Path(__file__).with_name("demo.svg")
WIDTH = 112
SHARE = 0.5
"""Of all flights: so many have been answered in the frame that is drawn."""
SUMMARY_CHARACTERS = 2_500
"""The end of what the demo prints: its last frame's tail and the summary."""


def main() -> int:
    """Run the demo, draw the frame, return the demo's exit code."""
    wanted: list[RenderableType] = []

    def keep(frame: Frame) -> RenderableType:
        view = live_view(frame)
        if not wanted and frame.figures.answers >= SHARE * frame.events_total > 0:
            wanted.append(view)
        return view

    race.live_view = keep
    screen = StringIO()
    code = run(TwoThirds(RATE), console=Console(file=screen, force_terminal=True, width=WIDTH))
    print(screen.getvalue()[-SUMMARY_CHARACTERS:])
    if not wanted:
        return code or 1
    picture = Console(file=StringIO(), record=True, width=WIDTH, force_terminal=True)
    picture.print(wanted[0])
    svg = picture.export_svg(title="make demo")
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))  # no font from elsewhere
    return code


if __name__ == "__main__":
    raise SystemExit(main())
