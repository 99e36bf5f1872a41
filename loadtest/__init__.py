"""Measuring: a load test against any broker, and benchmarks against peers.

Lives here: what makes load, counts answers and compares.  Never here: anything a worker needs.

Read in this order: `bench` (a load test of any pipeline), `job_j` (beside peers, in one run), `windows`
(windows alone).  Nobody else imports from here.
"""
