"""Commands over files and recorded logs: the words for what `engine/offline` finds.

Lives here: arguments in, tables and exit codes out, of the commands that need no worker.
Never here: the runs themselves (`engine/offline`).

Read in this order: `questions` (where a past comes from, and what may be asked of it), `backtest`,
`runs` (kept ones), `evaluate`, `skew`.  Only `engine/cli/main.py` imports from here.
"""
