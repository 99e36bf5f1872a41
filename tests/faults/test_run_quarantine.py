"""A running worker whose models fail, one after the other: what its log and its page say."""

from __future__ import annotations

import asyncio
from pathlib import Path

from running import until
from test_run_observed import APART, BATCH, Told, told_by

from engine.settings import KafkaSettings

MOODY = APART.replace(
    "class Reading(Struct):",
    '''class Moody(base.Classifier):
        """Fails at the first reading of 5 or more: made-up ones are never so high."""

        def __init__(self, step: str):
            self.step = step

        def learn_one(self, x, y):
            if self.step == "learn" and x["value"] >= 5:
                raise OverflowError("cannot learn this")

        def predict_proba_one(self, x):
            if self.step == "score" and x["value"] >= 5:
                raise OverflowError("cannot score this")
            return {True: 0.5, False: 0.5}


    class Reading(Struct):''',
).replace("import linear_model, tree", "import base")
MODELS = '{"linear": linear_model.LogisticRegression(), "tree": tree.HoeffdingTreeClassifier()}'
ONE_AFTER_THE_OTHER = MOODY.replace(MODELS, '{"first": Moody("score"), "last": Moody("learn")}').replace(
    'champion="linear"', 'champion="first"'
)


def test_a_worker_tells_that_its_models_fail(tansu: KafkaSettings, tmp_path: Path) -> None:
    async def scenario(told: Told) -> None:
        worker = told.worker
        await told.metric("headrace_champion_quarantined", 0)
        assert worker.metrics()["headrace_model_failures_total{first,score}"] == 0
        answers = await told.readings(reports=1)
        await told.metric("headrace_champion_quarantined", 1)
        found = worker.metrics()
        infos = {name for name in found if name.startswith("headrace_model_info{quarantined,")}
        assert len(infos) == 2, found
        assert found["headrace_model_failures_total{first,score}"] == 1
        assert found["headrace_model_failures_total{last,learn}"] == 1
        scored = {name for name in found if name.startswith("headrace_model_score{")}
        assert not {name for name in scored if "served" not in name}
        assert found["headrace_predictions_total{prior}"] > 0
        assert {answer["served_by"] for answer in answers} >= {"champion", "prior"}
        assert found["headrace_model_seconds_total{first,score}"] > 0
        assert found["headrace_model_seconds_total{last,learn}"] > 0
        for step in ("decode", "features", "score", "answer", "shadows", "join", "learn", "send"):
            assert found[f"headrace_step_seconds_total{{{step}}}"] > 0, step
        await until(
            lambda: worker.logged("no model could answer: the prior did"), "the prior is told", worker=worker
        )
        assert [kind for kind, _, _ in await told.decisions(3)] == [
            "model.quarantined",
            "model.promoted",
            "model.quarantined",
        ]
        calls = lambda: [one for one in worker.lines() if one["event"].startswith("alert firing")]  # noqa: E731
        await until(calls, "somebody is called", worker=worker)
        levels = {
            (line["event"].partition(":")[0], line.get("model", ""), line["level"])
            for line in worker.complaints()
        }
        assert {one for one in levels if one[0] != "alert firing"} == {
            ("model.quarantined", "first", "error"),
            ("model.quarantined", "last", "error"),
            ("every candidate is in quarantine", "", "error"),
            ("no model could answer", "", "error"),
        }
        assert len(answers) == BATCH

    asyncio.run(told_by(tansu, tmp_path, ONE_AFTER_THE_OTHER, scenario))
