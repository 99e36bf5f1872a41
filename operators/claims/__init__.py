"""Exactly once by claims in the log: who may write, what counts, how a partition changes hands.

Lives here: the rule by which every reader folds a log, the order of a takeover, and what it asks of its
shell. Never here: Kafka, a checkpoint store (`engine/worker/claim.py` carries the requests out).

Read in this order: `rule` (readers, writers, what a replay must not write again), `takeover`; `answers` is
the rule for those who only read predictions.  Others may import everything here.
"""
