"""Job J: Headrace beside bare River and a plain Faust agent, in one run (`python -m loadtest.job_j`).

Lives here: the data, the contestants, rounds and ratios.  Never here: load tests of a user's pipeline
(`bench`).

Read in this order: `__main__`, `plain` (what the peers do), `pipeline` (the same as a user of Headrace
writes it), `in_process`, `over_kafka`.
"""
