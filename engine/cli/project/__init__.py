"""Commands around a project: one is begun from a sample, developed, and tried.

Lives here: options, words and exit codes.  Never here: what they do (`engine/project`, `engine/local`,
`engine/doctor`, `engine/simulation`).

Read in this order: `init`, `dev`, `doctor`, `simulate`, `deployment` (`export
grafana`, `alerts` and `k8s`).
"""
