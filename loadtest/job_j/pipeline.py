"""Job J as a Headrace pipeline: the file a user would write.

`JOB_J_NAME` in the environment names the pipeline and its topics, so that every round of the
benchmark has fresh ones.
"""

import os

from msgspec import Struct
from river import linear_model, metrics, preprocessing

from engine import Labels, Pipeline, Topic
from operators import by, field
from operators.language.expressions import Expression

NAME = os.environ.get("JOB_J_NAME", "job-j")


class Transaction(Struct):
    """A card payment that carries its label."""

    id: str
    ts: int  # ms since epoch
    card: str
    merchant: str
    amount: float
    label: bool


amount, card = field("amount"), by("card")
features: dict[str, Expression] = {"amount": amount}
for span in ("1m", "10m", "1h"):
    features[f"count_{span}"] = card.count(span)
    features[f"sum_{span}"] = card.sum(amount, span)
    features[f"mean_{span}"] = card.mean(amount, span)
    features[f"max_{span}"] = card.max(amount, span)

pipeline = Pipeline(
    name=NAME,
    events=Topic(f"{NAME}.transactions", Transaction, key="card", id="id", time="ts"),
    labels=Labels(field="label"),
    features=features,
    models={"linear": preprocessing.StandardScaler() | linear_model.LogisticRegression()},
    drift=(),  # the peers' job has no detector
    metrics=[metrics.LogLoss()],  # type: ignore[no-untyped-call]  # River is typed in part
)
