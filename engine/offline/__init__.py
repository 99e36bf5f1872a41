"""Runs over files and logs, without a worker: backtest, the skew check, publishing, diagnosis.

Lives here: the same state machines fed from files, and the words for runs that failed.
Never here: the arguments of commands (`engine/cli`).

Read in this order: `json_lines`, `backtest`, `diagnosis`; `replay` (recorded logs); `publish` and
`skew` stand alone.  Others may
import everything here.
"""
