"""Will this flight land more than 15 minutes late?  Predict at departure, learn at arrival."""

from msgspec import Struct
from river import compose, drift, linear_model, optim, preprocessing, tree

from headrace import Drift, Labels, Pipeline, Promotion, Topic, by, field, label


class Departure(Struct):
    event_id: str
    event_time: int  # ms since epoch, or an RFC 3339 string with datetime
    carrier: str
    origin: str
    dest: str
    distance: float


words, numbers = compose.SelectType(str), compose.SelectType(int, float)
encode = (words | preprocessing.OneHotEncoder()) + (numbers | preprocessing.StandardScaler())

features = {
    "distance": field("distance"),
    "hour": field("event_time").hour(),
    "weekday": field("event_time").weekday(),
    "carrier": field("carrier"),
    "origin": field("origin"),
}
for name, key in {"origin": by("origin"), "carrier": by("carrier"), "dest": by("dest"), "all": by()}.items():
    for span in ("3h", "24h"):
        late, landed = key.mean(label, span).default(0.0), key.count(label, span)
        features[f"{name}_late_{span}"] = late.describe(f"share late, by {name}", owner="operations")
        features[f"{name}_landed_{span}"] = landed.describe(f"landed, by {name}", owner="operations")

pipeline = Pipeline(
    name="flights",
    events=Topic("flights.departures", Departure, key="origin", id="event_id", time="event_time"),
    labels=Labels("flights.arrivals", wait="36h", on_timeout="drop"),
    features=features,
    models={
        "adaptive": tree.HoeffdingAdaptiveTreeClassifier(seed=42),
        "tree": tree.HoeffdingTreeClassifier(),
        "linear": encode | linear_model.LogisticRegression(optimizer=optim.SGD(0.01)),
    },
    # No champion is named: from the first flight on a blend answers, the mean of the three, weighted by
    # how well each has done of late, until a model is proven better than the blend.
    drift=[Drift(drift.ADWIN(), on="loss")],
    promotion=Promotion(false_swap_every=100_000, cooldown="1d"),
)
