"""The pipeline at one look: is it answering, how fast, how far behind, what is refused, is it saved."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from parts import RATE, board, lines, mark, name_of, number, quantiles, section


def overview() -> Dashboard:
    """Return the dashboard that one opens first."""
    made = board("headrace-overview", "Headrace: pipeline", "Answers, latency, lag, refusals, checkpoints.")
    made = made.annotation(
        mark("swaps", "green", "sum by (reason) (increase(headrace_promotions_total{@}[1m])) > 0")
    )
    made = made.annotation(
        mark("alerts", "red", 'ALERTS{alertname=~"Headrace.+", alertstate="firing", severity="critical"}')
    )
    return _time(_behind(_answers(_now(made))))


def _now(made: Dashboard) -> Dashboard:
    return section(
        made,
        "Now",
        number(
            "Answers",
            "Predictions sent a second.",
            "reqps",
            f"sum(rate(headrace_predictions_total{{@}}[{RATE}]))",
        ),
        number(
            "p99",
            "From the poll of an event to the send of its prediction.",
            "s",
            quantiles("headrace_prediction_duration_seconds")[-1][0],
            amber=0.25,
            red=1,
        ),
        number(
            "Lag",
            "Records that lie unread; of each partition the follower furthest behind.",
            "short",
            "sum(max by (pipeline, topic, partition) (headrace_consumer_lag_records{@}))",
            amber=1_000,
            red=10_000,
        ),
        number(
            "Refused",
            "Share of the records that became dead letters, over five minutes.",
            "percentunit",
            "sum(rate(headrace_dead_letters_total{@}[5m])) / (sum(rate(headrace_dead_letters_total{@}[5m]))"
            ' + sum(rate(headrace_events_total{outcome="accepted", @}[5m])))',
            amber=0.01,
            red=0.05,
        ),
        number(
            "Last checkpoint",
            "Age of the oldest one among the workers that own partitions.",
            "s",
            "max(time() - headrace_checkpoint_last_success_timestamp_seconds{@}"
            " and on (instance) (headrace_partitions{@} > 0))",
            amber=30,
            red=60,
        ),
        name_of("Champion", "Who answers.", 'headrace_model_info{alias="champion", @}', "model"),
    )


def _answers(made: Dashboard) -> Dashboard:
    return section(
        made,
        "Answers",
        lines(
            "Answers",
            "Predictions sent, by who answered.",
            "reqps",
            (f"sum by (served_by) (rate(headrace_predictions_total{{@}}[{RATE}]))", "{{served_by}}"),
            stacked=True,
        ),
        lines(
            "Latency",
            "From the poll of an event to the send of its prediction.",
            "s",
            *quantiles("headrace_prediction_duration_seconds"),
        ),
        lines(
            "End to end",
            "From an event's own time to the send of its prediction: old data looks slow.",
            "s",
            *quantiles("headrace_end_to_end_latency_seconds"),
        ),
        lines(
            "Events",
            "Valid events read, by what became of them.",
            "eps",
            (f"sum by (outcome) (rate(headrace_events_total{{@}}[{RATE}]))", "{{outcome}}"),
        ),
        lines(
            "Refused",
            "Dead letters, by the step that refused.",
            "eps",
            (f"sum by (stage) (rate(headrace_dead_letters_total{{@}}[{RATE}])) > 0", "{{stage}}"),
        ),
        lines(
            "Broken rules and failed functions",
            "By what was done and rule; by function.",
            "eps",
            (
                f"sum by (action, rule) (rate(headrace_rule_hits_total{{@}}[{RATE}])) > 0",
                "{{action}} {{rule}}",
            ),
            (f"sum by (function) (rate(headrace_function_failures_total{{@}}[{RATE}])) > 0", "{{function}}"),
        ),
        lines(
            "Abstained",
            "Predictions that say `abstain`, by why.",
            "eps",
            (f"sum by (reason) (rate(headrace_predictions_abstained_total{{@}}[{RATE}]))", "{{reason}}"),
        ),
        lines(
            "Arms",
            "Predictions as the serving policy picked, by model.",
            "reqps",
            (f"sum by (model) (rate(headrace_arm_predictions_total{{@}}[{RATE}]))", "{{model}}"),
            stacked=True,
        ),
        lines(
            "Features of other keys",
            "Events that windows of other keys took, in time or late.",
            "eps",
            (f"sum by (turn) (rate(headrace_rekeyed_events_total{{@}}[{RATE}]))", "{{turn}}"),
        ),
    )


def _behind(made: Dashboard) -> Dashboard:
    return section(
        made,
        "Behind",
        lines(
            "Lag",
            "Records that lie unread, by topic.",
            "short",
            (
                "sum by (topic) (max by (pipeline, topic, partition) (headrace_consumer_lag_records{@}))",
                "{{topic}}",
            ),
        ),
        lines(
            "Examples not learned",
            "Of each worker that learns; a pause included.",
            "short",
            ("headrace_examples_unlearned{@}", "{{instance}}"),
        ),
        lines(
            "Answers that wait for labels",
            "Held for joining, by worker.",
            "short",
            ("headrace_pending_predictions{@}", "{{instance}}"),
        ),
    )


def _time(made: Dashboard) -> Dashboard:
    return section(
        made,
        "Checkpoints, and where the time goes",
        lines(
            "Age of the last checkpoint",
            "By worker; a standby writes none.",
            "s",
            (
                (
                    "time() - headrace_checkpoint_last_success_timestamp_seconds{@}"
                    " and on (instance) (headrace_partitions{@} > 0)"
                ),
                "{{instance}}",
            ),
        ),
        lines(
            "A checkpoint takes",
            "From its capture to its commit.",
            "s",
            *quantiles("headrace_checkpoint_duration_seconds"),
        ),
        lines(
            "Steps",
            "Shares of a core; `send` is waited for.",
            "percentunit",
            (f"sum by (step) (rate(headrace_step_seconds_total{{@}}[{RATE}]))", "{{step}}"),
            stacked=True,
        ),
    )
