"""What a message is: values and bytes.

Lives here: the messages and their fields, topics and headers, decoding and encoding, the errors that
everything raises.  Never here: memory between messages, I/O, a clock.

Read in this order: `messages` (every record that is written), `catalog` (the topics they lie in), `codec`
(bytes to values, with limits), `headers` (dead letters too), `letters`, `alert_records`, `signatures`,
`erasure` and `watermarks`; then `rekeying` and `stored_features`; `errors` and `durations` where they are
met.  Everybody may import everything here.
"""
