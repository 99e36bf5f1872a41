"""The page of alerts lists the signals and the usual alerts that there are."""

from __future__ import annotations

from paths import CHECKOUT

from operators.language.alerts import USUAL_ALERTS
from operators.language.signals import SIGNALS

PAGE = (CHECKOUT / "docs" / "alerts.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading."""
    table = PAGE.split(f"\n## {heading}\n")[1].split("\n|---")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[1:]]


def test_every_signal_is_on_the_page() -> None:
    assert rows("Signals") == [
        [f"`{name}`", told.scope, told.unit, told.meaning] for name, told in SIGNALS.items()
    ]


def test_the_usual_alerts_are_on_the_page() -> None:
    told = {row[0]: row[2:] for row in rows("The usual ones")}
    assert told == {f"`{one.name}`": [str(one.for_), one.severity] for one in USUAL_ALERTS}
    bounds = {row[0]: row[1] for row in rows("The usual ones")}
    assert bounds == {f"`{one.name}`": f"`{one.when!r}`" for one in USUAL_ALERTS} | {
        "`model.over_budget`": '`decided("model.over_budget")`'
    }
