"""The pipeline that is scaled: card payments, twelve windows a card, two models, labels on a topic.

`SCALE_NAME` names it and its topics; `SCALE_PARTITIONS`, `SCALE_FOLLOW` and `SCALE_LEARN_SHARE` are its
options of these names.
"""

import os

from msgspec import Struct
from river import linear_model, preprocessing, tree

from engine import Labels, Pipeline, Topic
from operators import by, field
from operators.language.expressions import Expression

NAME = os.environ.get("SCALE_NAME", "scale")
PARTITIONS = int(os.environ.get("SCALE_PARTITIONS", "2"))


class Payment(Struct):
    """A card payment; whether it was a fraud is known later."""

    event_id: str
    event_time: int  # ms since epoch
    card: str
    amount: float


amount, card = field("amount"), by("card")
features: dict[str, Expression] = {"amount": amount}
for span in ("1m", "10m", "1h"):
    features[f"count_{span}"] = card.count(span)
    features[f"sum_{span}"] = card.sum(amount, span)
    features[f"mean_{span}"] = card.mean(amount, span)
    features[f"max_{span}"] = card.max(amount, span)

pipeline = Pipeline(
    name=NAME,
    events=Topic(f"{NAME}.payments", Payment, key="card", partitions=PARTITIONS),
    labels=Labels(f"{NAME}.frauds", wait="10m"),
    features=features,
    models={
        "tree": tree.HoeffdingTreeClassifier(max_size=10.0),
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    },
    champion="linear",
    follow=os.environ.get("SCALE_FOLLOW") or None,
    learn_share=float(os.environ.get("SCALE_LEARN_SHARE", "1.0")),
)
