"""What the dashboards are made of: boards, rows, panels, and the selection that every query has.

In an expression `@` stands for that selection: the pipeline and the workers chosen at the top of the page.
"""

from __future__ import annotations

from string import ascii_uppercase

from grafana_foundation_sdk.builders import common as frame
from grafana_foundation_sdk.builders import dashboard as page
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.models import common, dashboard

SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
SELECTION = 'pipeline=~"$pipeline", instance=~"$instance"'
Panel = timeseries.Panel | stat.Panel
RATE = "$__rate_interval"
"""Grafana fills in a span that holds four scrapes at least."""
LINES_HEIGHT, NUMBER_HEIGHT = 8, 4
GREEN, AMBER, RED = "green", "orange", "red"


def asked(expression: str, legend: str, ref: str = "A") -> prometheus.Dataquery:
    """Return a query; `legend` names labels as `{{label}}`, and answers come back under `ref`."""
    query = prometheus.Dataquery().expr(expression.replace("@", SELECTION)).legend_format(legend)
    return query.range().ref_id(ref)


def lines(
    title: str, says: str, unit: str, *series: tuple[str, str], stacked: bool = False, wide: int = 8
) -> timeseries.Panel:
    """Return lines over time: each of `series` is an expression and its legend; `wide` of 24 columns."""
    legend = frame.VizLegendOptions().show_legend(True).calcs(["lastNotNull"])
    legend = legend.placement(common.LegendPlacement.BOTTOM).display_mode(common.LegendDisplayMode.LIST)
    panel = timeseries.Panel().title(title).description(says).unit(unit).datasource(SOURCE).min(0)
    panel = panel.span(wide).height(LINES_HEIGHT).legend(legend)
    panel = panel.tooltip(frame.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    panel = panel.line_width(1).fill_opacity(30 if stacked else 0).span_nulls(False)
    if stacked:
        panel = panel.stacking(frame.StackingConfig().mode(common.StackingMode.NORMAL))
    for ref, (expression, name) in zip(ascii_uppercase, series, strict=False):
        panel = panel.with_target(asked(expression, name, ref))
    return panel


def number(
    title: str,
    says: str,
    unit: str,
    expression: str,
    *,
    amber: float | None = None,
    red: float | None = None,
    wide: int = 4,
) -> stat.Panel:
    """Return one number as of now, which turns amber and red from these values on."""
    steps = [dashboard.Threshold(color=GREEN)]
    steps += [
        dashboard.Threshold(color=color, value=value)
        for color, value in ((AMBER, amber), (RED, red))
        if value is not None
    ]
    bounds = page.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)
    panel = stat.Panel().title(title).description(says).unit(unit).datasource(SOURCE).thresholds(bounds)
    panel = panel.span(wide).height(NUMBER_HEIGHT).graph_mode(common.BigValueGraphMode.AREA)
    return panel.reduce_options(frame.ReduceDataOptions().calcs(["lastNotNull"])).with_target(
        asked(expression, "")
    )


def name_of(title: str, says: str, expression: str, label: str, *, wide: int = 4) -> stat.Panel:
    """Return the value of a label as of now, as the champion's name."""
    panel = stat.Panel().title(title).description(says).datasource(SOURCE).span(wide).height(NUMBER_HEIGHT)
    panel = panel.text_mode(common.BigValueTextMode.NAME).graph_mode(common.BigValueGraphMode.NONE)
    return panel.with_target(asked(expression, f"{{{{{label}}}}}"))


def chosen(name: str, label: str, series: str, by: str) -> page.QueryVariable:
    """Return a choice at the top of the page: the values that a label of a series has, or all of them."""
    variable = page.QueryVariable(name).label(label).datasource(SOURCE).query(f"label_values({series}, {by})")
    variable = variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True)
    # A Prometheus that looks at one pipeline need not name it: `.*` is no label, too.
    variable = variable.current(dashboard.VariableOption(text="All", value="$__all"))
    return variable.include_all(True).all_value(".*").sort(dashboard.VariableSort.ALPHABETICAL_ASC)


def mark(name: str, color: str, expression: str) -> page.AnnotationQuery:
    """Return vertical marks where an expression has a value."""
    marks = page.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(color)
    return marks.expr(expression.replace("@", SELECTION))


def board(uid: str, title: str, says: str) -> page.Dashboard:
    """Return an empty dashboard with its choices, and links to the others."""
    made = page.Dashboard(title).uid(uid).description(says).tags(["headrace"]).readonly()
    made = made.time("now-1h", "now").refresh("30s").tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    made = made.with_variable(page.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    made = made.with_variable(chosen("pipeline", "Pipeline", "headrace_partitions", "pipeline"))
    made = made.with_variable(
        chosen("instance", "Worker", 'headrace_partitions{pipeline=~"$pipeline"}', "instance")
    )
    others = page.DashboardLink("Headrace").type(dashboard.DashboardLinkType.DASHBOARDS)
    return made.link(others.tags(["headrace"]).keep_time(True).include_vars(True))


def section(made: page.Dashboard, title: str, *panels: Panel) -> page.Dashboard:
    """Return the dashboard with a heading and its panels, which flow over as many lines as they need."""
    made = made.with_row(page.Row(title))
    for panel in panels:
        made = made.with_panel(panel)
    return made


def quantiles(histogram: str) -> list[tuple[str, str]]:
    """Return median and 99th percentile of a histogram, over all workers that are chosen."""
    buckets = f"sum by (le) (rate({histogram}_bucket{{@}}[{RATE}]))"
    return [(f"histogram_quantile({q}, {buckets})", f"p{100 * q:g}") for q in (0.5, 0.99)]
