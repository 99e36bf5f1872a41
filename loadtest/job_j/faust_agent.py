"""Job J as a plain Faust agent: one event at a time, deques in memory, nothing durable.

Lives here: what a Faust user writes, as a program of its own.  Never here: measuring.

Run as `python -m loadtest.job_j.faust_agent NAME FOLDER`: it reads `NAME.transactions` and answers on
`NAME.predictions` of the Kafka in `KAFKA_BOOTSTRAP_SERVERS`; Faust's own files lie in the folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterable
from typing import Any

import faust

from loadtest.job_j.data import NaiveWindows, new_model

__all__ = ["make_app"]


def make_app(name: str, bootstrap_servers: str, folder: str) -> Any:
    """Return the Faust app of the job."""
    app = faust.App(
        name,
        broker=f"kafka://{bootstrap_servers}",
        env_prefix="JOB_J_FAUST_",
        datadir=folder,
        consumer_auto_offset_reset="earliest",
        topic_disable_leader=True,
        web_enabled=False,
    )
    transactions = app.topic(f"{name}.transactions")
    predictions = app.topic(f"{name}.predictions")
    windows, model = NaiveWindows(), new_model()

    @app.agent(transactions)
    async def answer(events: AsyncIterable[dict[str, Any]]) -> None:
        async for event in events:
            features = windows.step(event)
            score = model.predict_proba_one(features)[True]
            model.learn_one(features, event["label"])
            await predictions.send(key=event["card"], value={"id": event["id"], "p": score})

    return app


def main() -> None:
    """Run the worker until it is told to stop."""
    app = make_app(sys.argv[1], os.environ["KAFKA_BOOTSTRAP_SERVERS"], sys.argv[2])
    faust.Worker(app, loglevel="warning").execute_from_commandline()


if __name__ == "__main__":
    main()
