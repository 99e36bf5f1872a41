"""Will this pump trip within half a minute?  Halfway through, the reason why pumps trip changes."""

from msgspec import Struct
from river import drift, linear_model, preprocessing, tree

from headrace import Drift, Labels, Pipeline, Promotion, Topic, Watch, by, field


class Reading(Struct):
    event_id: str
    event_time: int  # ms since epoch
    pump: str
    load: float  # deviations from what it was built for
    heat: float
    noise: float


pump = by("pump")
pipeline = Pipeline(
    name="pumps",
    events=Topic("pumps.readings", Reading, key="pump"),
    labels=Labels("pumps.trips", wait="5m"),
    features={
        "load": field("load"),
        "heat": field("heat"),
        "noise": field("noise"),
        "heat_mean_10m": pump.mean("heat", "10m"),
        "readings_10m": pump.count("10m"),
    },
    models={
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "tree": tree.HoeffdingAdaptiveTreeClassifier(grace_period=100, seed=1),
    },
    champion="linear",
    drift=[Drift(drift.ADWIN(), on="loss")],
    watch=Watch(block="15m", reference_span="4h", false_alarm_every="7d"),
    promotion=Promotion(false_swap_every=100_000, evidence_block=20, min_examples=500, cooldown="1h"),
)
