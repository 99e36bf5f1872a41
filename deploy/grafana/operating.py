"""The processes and what they lean on: memory, restarts, rebalances, broker, store, snapshots, pages."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from parts import RATE, board, lines, mark, number, quantiles, section


def operating() -> Dashboard:
    """Return the dashboard of those who keep it running."""
    made = board(
        "headrace-operations", "Headrace: operations", "Processes, memory, rebalances, broker, store."
    )
    made = made.annotation(
        mark(
            "starts",
            "blue",
            "changes(process_start_time_seconds{@}[1m]) > 0 and on (instance) headrace_partitions{@}",
        )
    )
    return _limits(_others(_store(_processes(_now(made)))))


def _now(made: Dashboard) -> Dashboard:
    return section(
        made,
        "Now",
        number("Workers", "That can be scraped.", "short", "count(headrace_partitions{@})"),
        number("Partitions", "Of events, that somebody owns.", "short", "sum(headrace_partitions{@})"),
        number(
            "Broker away",
            "For the worker that has waited longest.",
            "s",
            "max(headrace_broker_outage_seconds{@})",
            amber=1,
            red=60,
        ),
        number(
            "Store away",
            "For the worker that has waited longest.",
            "s",
            "max(headrace_store_outage_seconds{@})",
            amber=1,
            red=30,
        ),
        number(
            "No progress",
            "For how long there has been work and no progress.",
            "s",
            "max(headrace_stalled_seconds{@})",
            amber=30,
            red=120,
        ),
        number(
            "Unsaved",
            "Events answered that no checkpoint holds, of the worker with most.",
            "short",
            "max(headrace_unsaved_events{@})",
            amber=100_000,
            red=400_000,
        ),
    )


def _processes(made: Dashboard) -> Dashboard:
    ours = "and on (instance) headrace_partitions{@}"
    return section(
        made,
        "Processes",
        lines(
            "Processor",
            "Cores in use.",
            "short",
            (f"rate(process_cpu_seconds_total{{@}}[{RATE}]) {ours}", "{{instance}}"),
        ),
        lines("Memory", "Resident.", "bytes", (f"process_resident_memory_bytes{{@}} {ours}", "{{instance}}")),
        lines(
            "Open files",
            "And connections, beside how many there may be.",
            "short",
            (f"process_open_fds{{@}} {ours}", "{{instance}}"),
            (f"min(process_max_fds{{@}} {ours})", "limit"),
        ),
        lines(
            "Partitions",
            "Of events, by worker; who leads.",
            "short",
            ("headrace_partitions{@}", "{{instance}}"),
            ("headrace_leader{@} > 0", "leader: {{instance}}"),
        ),
        lines(
            "Takeovers",
            "In five minutes: `claimed` partitions changed hands, `kept` ones came back.",
            "short",
            ("sum by (instance, how) (increase(headrace_takeovers_total{@}[5m]))", "{{instance}} {{how}}"),
        ),
        lines(
            "Starts and standstills",
            "Starts in an hour; seconds without progress.",
            "short",
            (f"changes(process_start_time_seconds{{@}}[1h]) {ours}", "starts: {{instance}}"),
            ("headrace_stalled_seconds{@} > 0", "no progress: {{instance}}"),
        ),
        lines(
            "Group",
            "Records by which workers tell each other how they are, by what became of them.",
            "eps",
            (f"sum by (outcome) (rate(headrace_status_records_total{{@}}[{RATE}]))", "{{outcome}}"),
        ),
        lines(
            "Versions",
            "Workers by version of Headrace and River.",
            "short",
            ("count by (version, river) (headrace_build_info{@})", "{{version}}, River {{river}}"),
        ),
    )


def _store(made: Dashboard) -> Dashboard:
    return section(
        made,
        "Broker, store and checkpoints",
        lines(
            "Away",
            "How long broker and store have not answered.",
            "s",
            ("headrace_broker_outage_seconds{@}", "broker: {{instance}}"),
            ("headrace_store_outage_seconds{@}", "store: {{instance}}"),
        ),
        lines(
            "Unsaved",
            "Events that no checkpoint holds; times that no more were taken.",
            "short",
            ("headrace_unsaved_events{@}", "{{instance}}"),
            ("sum by (reason) (increase(headrace_intake_pauses_total{@}[5m])) > 0", "paused: {{reason}}"),
        ),
        lines(
            "A checkpoint takes",
            "From its capture to its commit.",
            "s",
            *quantiles("headrace_checkpoint_duration_seconds"),
        ),
        lines(
            "A store that went back",
            "Takeovers with a store behind the logs; damaged checkpoints; in an hour.",
            "short",
            ("sum by (held) (increase(headrace_stores_behind_total{@}[1h])) > 0", "behind: {{held}}"),
            ("sum by (role) (increase(headrace_checkpoints_damaged_total{@}[1h])) > 0", "damaged: {{role}}"),
        ),
        lines(
            "Age of served models",
            "Where one worker learns for all; 0 on the leader.",
            "s",
            ("headrace_snapshot_age_seconds{@}", "{{instance}}"),
            ("max(headrace_snapshot_interval_seconds{@})", "interval"),
        ),
        lines(
            "Snapshots",
            "By what became of them; seconds for which the loop stood still.",
            "short",
            ("sum by (outcome) (increase(headrace_snapshots_total{@}[5m])) > 0", "{{outcome}}"),
            ("max(headrace_snapshot_seconds{@})", "seconds"),
        ),
        lines(
            "Size of a snapshot",
            "Of the models that had changed.",
            "bytes",
            ("headrace_snapshot_bytes{@}", "{{instance}}"),
        ),
    )


def _others(made: Dashboard) -> Dashboard:
    return section(
        made,
        "Features of others, commands, pages",
        lines(
            "Static features",
            "Look-ups, by what was found.",
            "eps",
            (f"sum by (outcome) (rate(headrace_lookups_total{{@}}[{RATE}]))", "{{outcome}}"),
        ),
        lines(
            "Served features",
            "Writes for other services, by outcome.",
            "eps",
            (f"sum by (outcome) (rate(headrace_feature_writes_total{{@}}[{RATE}]))", "{{outcome}}"),
        ),
        lines(
            "Commands and erasures",
            "In an hour.",
            "short",
            ("max by (outcome) (increase(headrace_commands_total{@}[1h]))", "command {{outcome}}"),
            ("sum by (outcome) (increase(headrace_erasures_total{@}[1h]))", "erasure {{outcome}}"),
        ),
        lines(
            "Alert deliveries",
            "By channel and outcome, in five minutes.",
            "short",
            (
                "sum by (channel, outcome) (increase(headrace_alert_deliveries_total{@}[5m]))",
                "{{channel}} {{outcome}}",
            ),
        ),
        lines(
            "Refused requests",
            "Of the pages, by why, in five minutes.",
            "short",
            ("sum by (reason) (increase(headrace_page_refusals_total{@}[5m]))", "{{reason}}"),
        ),
        lines(
            "Posted events",
            "Requests to /predict by outcome, in five minutes.",
            "short",
            ("sum by (outcome) (increase(headrace_predict_requests_total{@}[5m]))", "{{outcome}}"),
        ),
        lines(
            "Posted events: time",
            "From a valid request to /predict to what it was told.",
            "s",
            *quantiles("headrace_predict_duration_seconds"),
        ),
        lines(
            "Keys",
            "Records under another key than their own; moves of quiet partitions' time.",
            "short",
            ("sum by (kind) (increase(headrace_key_mismatches_total{@}[5m]))", "mismatch: {{kind}}"),
            (
                "sum by (outcome) (increase(headrace_watermark_moves_total{@}[5m])) > 0",
                "watermark {{outcome}}",
            ),
        ),
    )


def _limits(made: Dashboard) -> Dashboard:
    return section(
        made,
        "What is kept, and what had to go",
        lines(
            "Keys in windows",
            "In each group of windows.",
            "short",
            ("headrace_window_keys{@}", "{{instance}}"),
        ),
        lines(
            "Window evictions",
            "Entries and keys that left early.",
            "eps",
            (f"sum by (reason) (rate(headrace_window_evictions_total{{@}}[{RATE}]))", "{{reason}}"),
        ),
        lines(
            "Cut dead letters",
            "By what their topic takes.",
            "short",
            ("sum by (reason) (increase(headrace_dead_letters_cut_total{@}[5m]))", "{{reason}}"),
        ),
    )
