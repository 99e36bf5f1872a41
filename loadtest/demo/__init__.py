"""The demo: a broker, a worker, three months of flights, and a race to watch.

Lives here: what `headrace demo` starts, publishes and shows.  Never here: what a worker does, matching
answers to events (`loadtest/bench/ledger.py`).

Read in this order: `command`, `race`, `figures`, `view`.  Nobody else imports from here.
"""
