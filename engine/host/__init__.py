"""The process: Faust as host, pages, logging.

Lives here: lifecycle, signals, the web pages, the log, the end of what does not get on.  Never here: events
(`engine/worker` carries them past Faust).

Read in this order: `app` (Faust, what the pages say), `commands`, `pages`, `watchdog`, `progress`, `logging`,
`garbage`.  Others may import everything here.
"""
