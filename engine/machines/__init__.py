"""The two state machines, scorer and learner, and their parts: synchronous, deterministic, time an argument.

Lives here: the order of things: what an event, a label, an example does, and what leaves.
Never here: a clock, a socket, a file, a task; how a thing is computed (`operators`).

Read in this order: `admission` (one order for two topics; what counts, and as of when), `scorer`, `checks`,
`asking`, `outbox` (what leaves), `blocks`, `deadline_scorer`; then `race`, `watching` (shift), `positions`
(where a log is folded to), `learner` (its log), `field_records`;
`beside` (the log once more, for who is to enter); `snapshots` (one learner's models in other processes);
`prequential` (labels inside events); `keyed` (one race per key) last.  Others may import everything here.
"""
