"""`python -m loadtest.soak`: is a worker after an hour what it was after a minute?

Lives here: a run through one kind of trouble after another, what the worker takes meanwhile, how that grows.
Never here: whether answers are right (the tests say so; here they are only counted).

Read in this order: `__main__`, `pipeline`, `course`, `readings`, `picture`; `new_keys` and `label_flood`
stand by themselves.
"""
