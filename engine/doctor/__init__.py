"""Is this machine, and are its servers, fit to run a pipeline?  Findings, each with what to do.

Lives here: what is asked of Python, the state directory, Kafka and Redis, and when an answer is a fault.
Never here: printing (`engine/cli/project/doctor.py`), mending anything.

Read in this order: `findings` (what a finding is), `machine` (Python, libraries, directory, port),
`broker` (Kafka: topics, retention, rights, clock), `stores` (Redis).  `engine/cli/project` imports from here.

Nothing is changed, unless writing is asked for: then a topic is made, written once and deleted, and a script
is run in Redis that does nothing.
"""
