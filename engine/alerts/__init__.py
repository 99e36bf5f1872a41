"""The way of an alert to people: what a worker sees of its surroundings, the topic, the channels.

Lives here: the signals of a worker, who reads the alerts topic, what is sent where and how often.
Never here: when an alert begins and ends (`operators/monitor/alerts.py`), what a definition says.

Read in this order: `surroundings` (a worker's signals), `reading` (what lies on the topic), `channels` (what
is sent), `delivery` (by whom, how often, until when), `alerting` (both beside a worker's loop), `skewed`
(what `headrace skew` tells).  Others may import everything here.
"""
