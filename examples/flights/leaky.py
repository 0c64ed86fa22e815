"""A colleague's careless join: the arrivals table once more, by flight, without saying when a row could be known.

In training every row finds its own delay; in production the flight has not landed yet. The gate must stop this.
"""

import definitions as ours

import holdfast as hf

outcomes = hf.Source("outcomes", "data/arrivals")  # no timestamp: "static", so always true
outcome = hf.FeatureView("outcome", [hf.Entity("flight_id")], outcomes, [hf.Field("delay")])

leaky_features = hf.FeatureService(
    "leaky_features",
    [*ours.flight_features.features, outcome],
    request=ours.flight_features.request,
    hidden=ours.flight_features.hidden,
)
leaky = hf.Model(
    "late_arrival", ours.train.function, features=leaky_features, spine=ours.flights, label=ours.train.label, group="origin",
    candidates=[{"algorithm": "boosting", "max_iter": 40}], split=ours.train.split, threshold=ours.train.threshold, seed=ours.train.seed,
)  # fmt: skip
service = hf.Service("late_arrival", model=leaky, gate=ours.late_arrival.gate)
