"""What a worker tells is shown to somebody: every metric is on a dashboard."""

from __future__ import annotations

import metrics_page
from boards import BOARDS, queries
from promql import metrics


def test_every_metric_is_on_a_dashboard() -> None:
    """But the sums of histograms, of which there are quantiles."""
    shown = {
        name
        for board in BOARDS.values()
        for _, expression, _ in queries(board)
        for name in metrics(expression)
    }
    told = {
        {"counter": f"{family.name}_total", "histogram": f"{family.name}_bucket"}.get(
            family.type, family.name
        )
        for family in metrics_page.families()
    }
    how = (
        "show it in deploy/grafana/overview.py, learning.py or operating.py, and run deploy/grafana/build.py"
    )
    assert told - shown == set(), how
