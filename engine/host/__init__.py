"""The process: Faust as host, pages, logging.

Lives here: lifecycle, signals, the web pages, how lines are logged.  Never here: events
(`engine/worker` carries them past Faust).

Read in this order: `app` (Faust, what the pages say), `pages`, `logging`, `garbage`.  Others may import
everything here.
"""
