"""Measuring: a load test against any broker, the demo that is measured, and benchmarks against peers.

Lives here: what makes load, counts answers and compares.  Never here: anything a worker needs.

Read in this order: `bench` (a load test of any pipeline), `demo` (a race to watch), `signals` (how a
command is ended), `learning` (real streams beside simple rules), `evidence` (simulated races), `shift`
(planted shifts and false alarms), `false_alerts` (how often a worse loss is told where none is), `job_j`
(beside peers, in one run), `windows` (windows alone), `restore` (a large state in a Redis), `soak` (what a
worker takes, for as long as you like), `fuzz` (bytes of any kind), `keyed` (one race per key, learned by
one worker and by two), `scale` (what a second worker brings where one learns for all), `looked_at` (what
its page costs). Nobody else imports from here.
"""
