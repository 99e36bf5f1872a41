"""Events on their way to the owners of their other keys, and back.

Lives here: the machines of the internal topics.  Never here: which windows are computed where
(`operators/rekeying`), Kafka.

Read in this order: `router`, `enricher`, `rekeying`.  Others may import everything here.
"""
