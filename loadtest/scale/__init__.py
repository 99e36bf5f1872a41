"""`python -m loadtest.scale`: what one event costs, and what a second worker brings.

Lives here: a pipeline of two partitions, one or two workers on a core each, their processor time, how old the
models are that a follower serves.  Never here: whether answers are right (the tests say so).

Read in this order: `__main__`, `pipeline`, `rounds` (workers over a broker), `parts` (one event, in process).
"""
