"""The group of workers: what each says of itself on the status topic, and who hears it.

Lives here: how a worker's numbers become one record of bounded size, who is there, who has gone, the sums of
all.  Never here: events, what a worker does because of another one (nothing: Kafka's group assigns the
partitions), the page and the commands that show it.

Read in this order: `record` (what one worker says), `members` (who is there), `log` (the topic), `exchange`
(a worker says it, and hears the others, beside its loop), `overview` (what a person asks of it all). Others
may import everything here; commands need `log.read_members`, `members` and `overview` alone.
"""
