"""What the models do: losses and metrics of each candidate, evidence, swaps, drift, labels."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from parts import RATE, Panel, board, chosen, lines, mark, name_of, number, quantiles, section


def learning() -> Dashboard:
    """Return the dashboard of the race."""
    made = board("headrace-learning", "Headrace: learning", "Candidates, evidence, swaps, drift, labels.")
    made = made.with_variable(chosen("metric", "Metric", "headrace_model_score", "metric"))
    made = made.annotation(
        mark("swaps", "green", "sum by (reason) (increase(headrace_promotions_total{@}[1m])) > 0")
    )
    made = made.annotation(
        mark(
            "drift",
            "orange",
            "sum by (detector, subject)"
            ' (increase(headrace_drift_detections_total{direction="worse", @}[1m])) > 0',
        )
    )
    return _work(_labels(_drift(_field(_race(_now(made))))))


def _now(made: Dashboard) -> Dashboard:
    return section(
        made,
        "Now",
        name_of("Champion", "Who answers.", 'headrace_model_info{alias="champion", @}', "model"),
        number(
            "Learned",
            "Examples learned a second, by the quickest worker.",
            "eps",
            f"max(rate(headrace_examples_total{{@}}[{RATE}]))",
        ),
        number(
            "Swaps in a day",
            "Whoever or whatever made them.",
            "short",
            "max(sum by (instance) (increase(headrace_promotions_total{@}[1d])))",
        ),
        number("Open shifts", "Verdicts that last.", "short", "sum(headrace_shift_open{@})", amber=1),
        number(
            "Labels in time",
            "Share of the answers that got their label within the wait, over six hours.",
            "percentunit",
            'sum(increase(headrace_predictions_labelled_total{age="1", @}[6h]))'
            ' / (sum(increase(headrace_predictions_aged_total{age="1", @}[6h])) > 0)',
        ),
        number(
            "Paused",
            "1 while learning is paused, the champion pinned (1) or in quarantine (2).",
            "short",
            "max(headrace_learning_paused{@}) + max(headrace_champion_pinned{@})"
            " + 2 * max(headrace_champion_quarantined{@})",
            amber=1,
            red=2,
        ),
    )


def _race(made: Dashboard) -> Dashboard:
    score = 'avg by (model, metric) (headrace_model_score{window="%s", metric=~"$metric", @})'
    return section(
        made,
        "Race",
        lines(
            "Lately",
            "Each candidate's metrics over the last 1,000 examples; `served` is what was answered.",
            "short",
            (score % "recent", "{{model}} {{metric}}"),
            wide=12,
        ),
        lines(
            "From the beginning",
            "The same over all examples.",
            "short",
            (score % "all", "{{model}} {{metric}}"),
            wide=12,
        ),
        lines(
            "Evidence",
            "Against the champion: at 1 a challenger takes its place.",
            "short",
            ("max by (model) (headrace_model_evidence{@})", "{{model}}"),
        ),
        lines(
            "Correlation of blocks",
            "Of neighbouring blocks of a duel; high ones make evidence slower.",
            "short",
            ("max by (model) (headrace_evidence_correlation{@})", "{{model}}"),
        ),
        lines(
            "Serving shares",
            "For which share of the events the policy picks whom, and its revision.",
            "short",
            ("max by (model) (headrace_serving_share{@})", "{{model}}"),
            ("max(headrace_policy_revision{@})", "revision"),
        ),
        lines(
            "Swaps and challengers",
            "In an hour, by reason and by what became of it.",
            "short",
            ("max by (reason) (increase(headrace_promotions_total{@}[1h])) > 0", "swap: {{reason}}"),
            ("max by (outcome) (increase(headrace_challengers_total{@}[1h])) > 0", "challenger: {{outcome}}"),
        ),
    )


def _field(made: Dashboard) -> Dashboard:
    return section(
        made,
        "Field",
        lines(
            "Warm-up",
            "Share of the log learned by those that wait to enter; refused ones.",
            "short",
            ("max by (model) (headrace_candidate_log_share{@})", "{{model}}"),
            ("max by (model) (increase(headrace_candidates_refused_total{@}[1h])) > 0", "refused: {{model}}"),
        ),
        lines(
            "Labels learned",
            "By each candidate.",
            "short",
            ("max by (model) (headrace_model_updates{@})", "{{model}}"),
        ),
        lines(
            "Failures",
            "Candidates that raised or gave no number; values too far out for a blend.",
            "short",
            (
                "sum by (model, step) (increase(headrace_model_failures_total{@}[1h])) > 0",
                "{{model}} {{step}}",
            ),
            (
                "sum by (blend, model) (increase(headrace_blend_left_out_total{@}[1h])) > 0",
                "{{blend}}: {{model}}",
            ),
        ),
        lines(
            "Races per key",
            "Begun and in memory; moves an hour.",
            "short",
            ("sum(headrace_races{@})", "begun"),
            ("sum(headrace_races_in_memory{@})", "in memory"),
            ("sum by (move) (increase(headrace_race_moves_total{@}[1h]))", "{{move}}"),
        ),
        lines(
            "Versions",
            "Of every model that runs.",
            "short",
            (
                "count by (model, version, kind, alias) (headrace_model_info{@})",
                "{{alias}} {{model}} {{version}} {{kind}}",
            ),
        ),
    )


def _drift(made: Dashboard) -> Dashboard:
    return section(made, "Drift and monitors", *_of_drift(), *_of_monitors())


def _of_drift() -> tuple[Panel, ...]:
    return (
        lines(
            "Drift alarms",
            "In an hour, by detector and what it looks at.",
            "short",
            (
                (
                    "max by (detector, subject, direction)"
                    " (increase(headrace_drift_detections_total{@}[1h])) > 0"
                ),
                "{{detector}} {{subject}} {{direction}}",
            ),
        ),
        lines(
            "Evidence of shift",
            "Of the budget: at 1 a verdict opens; 1 for each verdict that is open.",
            "short",
            ("max(headrace_shift_evidence{@})", "evidence"),
            ("max by (verdict) (headrace_shift_open{@}) > 0", "{{verdict}}"),
        ),
        lines(
            "How unusual",
            "The ten most unusual features or statistics of the last block.",
            "short",
            ("topk(10, max by (statistic) (headrace_shift_unusual{@}))", "{{statistic}}"),
        ),
        lines(
            "Silent partitions",
            "Partitions of events that stopped sending while others went on.",
            "short",
            ("max by (pipeline) (headrace_shift_silent_partitions{@})", "{{pipeline}}"),
        ),
        lines(
            "Blocks of the watcher",
            "By what became of them.",
            "eps",
            (f"sum by (outcome) (rate(headrace_shift_blocks_total{{@}}[{RATE}]))", "{{outcome}}"),
        ),
    )


def _of_monitors() -> tuple[Panel, ...]:
    return (
        lines(
            "Monitors",
            "The twenty highest figures of slices, calibration, fairness, ...",
            "short",
            (
                "topk(20, max by (monitor, figure, subject) (headrace_monitor{@}))",
                "{{monitor}} {{figure}} {{subject}}",
            ),
            ("max by (monitor) (headrace_monitor_left_out{@}) > 0", "left out: {{monitor}}"),
        ),
        lines(
            "Alerts of the pipeline",
            "That fire, by policy; records of them in an hour.",
            "short",
            ("max by (policy) (headrace_alerts_firing{@}) > 0", "{{policy}}"),
            ("sum by (policy, event) (increase(headrace_alerts_total{@}[1h])) > 0", "{{policy}} {{event}}"),
        ),
        lines(
            "Judged alerts",
            "How many somebody has judged, and the share that told of something.",
            "short",
            ("max by (policy) (headrace_alerts_acked{@})", "judged: {{policy}}"),
            ("max by (policy) (headrace_alerts_precision{@})", "precision: {{policy}}"),
        ),
        lines(
            "Skew",
            "Served features that are not what the raw events say, in an hour.",
            "short",
            (
                (
                    "sum by (feature, outcome)"
                    ' (increase(headrace_skew_features_total{outcome=~"mismatch|missing|extra"}[1h])) > 0'
                ),
                "{{feature}} {{outcome}}",
            ),
            ("sum by (outcome) (increase(headrace_skew_events_total[1h]))", "events {{outcome}}"),
        ),
    )


def _labels(made: Dashboard) -> Dashboard:
    return section(
        made,
        "Labels",
        lines(
            "Labels",
            "By what became of them.",
            "eps",
            (f"sum by (outcome) (rate(headrace_labels_total{{@}}[{RATE}])) > 0", "{{outcome}}"),
        ),
        lines(
            "Delay",
            "From an event to its label, in event time.",
            "s",
            *quantiles("headrace_label_delay_seconds"),
        ),
        lines(
            "Completeness",
            "Share of the answers of an age, in parts of the wait, that have their label.",
            "percentunit",
            (
                (
                    "sum by (age) (increase(headrace_predictions_labelled_total{@}[1h]))"
                    " / (sum by (age) (increase(headrace_predictions_aged_total{@}[1h])) > 0)"
                ),
                "{{age}}",
            ),
        ),
        lines(
            "Forgotten",
            "Predictions that no label came for, or that made room.",
            "eps",
            (f"sum by (reason) (rate(headrace_predictions_dropped_total{{@}}[{RATE}]))", "{{reason}}"),
        ),
        lines(
            "Not learned",
            "Labelled events left out by their share or source; sources that found no room.",
            "eps",
            (f"sum by (reason) (rate(headrace_examples_left_out_total{{@}}[{RATE}]))", "{{reason}}"),
            (f"sum by (outcome) (rate(headrace_label_sources_total{{@}}[{RATE}]))", "source {{outcome}}"),
        ),
        lines(
            "Asked and voted",
            "Doubtful events whose label was asked for; votes of labelling functions.",
            "eps",
            (f"sum by (outcome) (rate(headrace_queries_total{{@}}[{RATE}])) > 0", "query {{outcome}}"),
            (
                f"sum by (function, outcome) (rate(headrace_weak_votes_total{{@}}[{RATE}])) > 0",
                "{{function}} {{outcome}}",
            ),
        ),
    )


def _work(made: Dashboard) -> Dashboard:
    return section(
        made,
        "What models cost",
        lines(
            "Models",
            "Shares of a core, by model and what it does.",
            "percentunit",
            (f"sum by (model, step) (rate(headrace_model_seconds_total{{@}}[{RATE}]))", "{{model}} {{step}}"),
            stacked=True,
            wide=12,
        ),
        lines(
            "Examples",
            "Learned by each worker that learns.",
            "eps",
            (f"rate(headrace_examples_total{{@}}[{RATE}])", "{{instance}}"),
            wide=12,
        ),
    )
