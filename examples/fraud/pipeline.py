"""Is this card transaction fraud?  Predict at once; investigators tell a week later."""

from msgspec import Struct
from river import linear_model, preprocessing, tree

from headrace import Labels, Pipeline, Topic, by, field, indicator, label


class Transaction(Struct):
    event_id: str
    event_time: int  # ms since epoch
    customer: str
    terminal: str
    amount: float


time, customer, terminal = field("event_time"), by("customer"), by("terminal")
features = {
    "amount": field("amount"),
    "weekend": time.is_weekend(),
    "night": indicator(time.hour() < 7),
}
for span in ("1d", "7d", "30d"):
    features[f"customer_count_{span}"] = customer.count(span)
    features[f"customer_mean_{span}"] = customer.mean("amount", span)
    # What is known of a terminal ends a week ago: how much went through it, and how much of that was fraud.
    features[f"terminal_count_{span}"] = terminal.count(span, shift="7d")
    features[f"terminal_risk_{span}"] = terminal.mean(label, span).default(0.0)

pipeline = Pipeline(
    name="fraud",
    events=Topic("fraud.transactions", Transaction, key="customer"),
    labels=Labels("fraud.verdicts", wait="8d"),
    features=features,
    models={
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "tree": tree.HoeffdingTreeClassifier(),
    },
)
