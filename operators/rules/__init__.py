"""The check of rules, their application to runs of events and rows of features, and novelty.

Lives here: the check of rules against the events' type, their application, what has never been seen before.
Never here: what a rule says (`operators/language/rules.py`), dead letters (`engine/machines/outbox.py`).

Read in this order: `check`, `apply`, `novelty`.  Others may import everything here.
"""
