"""Runs over files and logs, without a worker: backtest, questions to a past, skew, publishing, diagnosis.

Lives here: the same state machines fed from files, and the words for runs that failed.
Never here: the arguments of commands (`engine/cli`).

Read in this order: `json_lines`, `backtest`, `score_table`, `diagnosis`; then `replay` and `recording`
(recorded logs), `rerun` (a past raced once more), `paired_comparison`, `what_if`, `freshness` with `chart`;
`off_policy`, `publish`, `skew`, `keyed` (one race per key) and `runs` (what is kept of a backtest) stand
alone.  Others may import everything here.
"""
