"""`headrace bench`: a load test against any broker, with a verdict.

Lives here: the open loop, the account of every answer, latencies, the verdict, what differs between two runs.
Never here: peers (`job_j`).

Read in this order: `command`, `runs`, `sandbox`, `schedule`, `openloop`, `feed`, `ledger`, `slices` and
`report`, `page`; `slo` and `search_report`; `compare_command`, `compare`.
"""
