"""Will this visitor take the offer?  Three models answer; the share of each follows from how well it did."""

from msgspec import Struct
from river import bandit, linear_model, naive_bayes, preprocessing, proba, tree

from headrace import Bandit, Labels, Pipeline, Topic, by, field, label


class Offer(Struct):
    event_id: str
    event_time: int  # ms since epoch
    visitor: str
    price: float
    age_days: int  # of the visitor's account
    page: str


visitor, page = by("visitor"), by("page")
pipeline = Pipeline(
    name="offers",
    events=Topic("offers.shown", Offer, key="visitor"),
    labels=Labels("offers.taken", wait="2h"),
    features={
        "price": field("price"),
        "age_days": field("age_days"),
        "seen_1h": visitor.count("1h"),
        "page_taken_1d": page.mean(label, "1d").default(0.0),
    },
    models={
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "tree": tree.HoeffdingTreeClassifier(grace_period=100),
        "bayes": naive_bayes.GaussianNB(),
    },
    champion="bayes",
    serving=Bandit(bandit.ThompsonSampling(proba.Beta(), seed=1), explore=0.03, every=100),
)
