"""The demo: a broker, a worker, three months of flights, and a race to watch.

Lives here: what `headrace demo` starts, counts and shows.  Never here: what a worker does.

Read in this order: `command`, `sample`, `worker`, `account`, `view`, `hints`.  Nobody else imports from here.
"""
