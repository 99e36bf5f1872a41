"""A pipeline on this one machine, for a person at work on it: a worker of one's own, reload on save.

Lives here: processes that a command starts and stops, what they tell, what a saved file leads to.
Never here: what a worker does (`engine/worker`), options and words (`engine/cli/project`).

Read in this order: `worker` (a worker as a process, and what its page says), `session` (broker, worker and
sender around one file, until told to stop).  `engine/cli/project` and `loadtest` import from here.
"""
