"""The `headrace` command: one file a group of commands.

Lives here: arguments in, words, tables and exit codes out.  Never here: the work itself.

Read in this order: `main` and `options`; `report` (what several print with, and `check`); then the
commands: `offline` (over files: `backtest`, `freshness`, `evaluate`, `skew`), `features`, `export`,
`static`, `records` (`send` and `tail`), `dlq`, `models` (reads), `deciding` (acts), `explain`, `config`,
`state`, `erase`, `watching` (`alerts`, `drift`, `status`), `project` (`init`, `dev`, `doctor`, `simulate`);
`reference` (what `--help` says beside it). Only `headrace` imports from here.
"""
