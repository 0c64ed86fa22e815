"""Will a flight that is due to depart from New York arrive more than 15 minutes late?

Everything Holdfast needs to know to answer that in production, for as long as the question is asked.
"""

import numpy as np

import holdfast as hf

# --- sources: where rows come from, when they happened, when they could be known --------------------------------------

flights = hf.Source("flights", "data/flights", timestamp="scheduled_departure", owner="scheduling")
arrivals = hf.Source(
    "arrivals", "data/arrivals", timestamp="landed_at", arrival="known_at", sequence="flight_id", owner="operations"
)
weather = hf.Source("weather", "data/weather", timestamp="observed_at", arrival="known_at", owner="operations")
planes = hf.Source("planes", "data/planes", owner="fleet")

# --- features: defined once, the same in training and in serving ------------------------------------------------------

origin, carrier, dest, tailnum = (hf.Entity(name) for name in ("origin", "carrier", "dest", "tailnum"))
recent = hf.Aggregation("delay", ["mean", "count"], windows=["3h", "24h", "7d"])

origin_delay = hf.FeatureView(
    "origin_delay", [origin], arrivals, [recent], description="Delays of arrivals that left here"
)
carrier_delay = hf.FeatureView(
    "carrier_delay", [carrier], arrivals, [recent], description="Delays of this carrier's arrivals"
)
dest_delay = hf.FeatureView("dest_delay", [dest], arrivals, [recent], description="Delays of arrivals there")
plane_delay = hf.FeatureView(
    "plane_delay", [tailnum], arrivals, [hf.Aggregation("delay", ["mean", "count"], windows=["7d"])]
)

sky = hf.FeatureView("sky", [origin], weather, ttl="6h", description="Latest weather at the origin", features=[
    hf.Field(name) for name in ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
])  # fmt: skip
plane = hf.FeatureView("plane", [tailnum], planes, [hf.Field("built"), hf.Field("seats")])

HOUR, DAY = 3_600_000_000, 86_400_000_000  # microseconds


@hf.on_demand
def hour(scheduled_local):
    """Hour of the day at the origin."""
    return scheduled_local // HOUR % 24


@hf.on_demand
def weekday(scheduled_local):
    """0 = Monday."""
    return (scheduled_local // DAY + 3) % 7


@hf.on_demand
def distance_band(distance):
    """0: under 500 miles … 4: over 2,000."""
    return np.digitize(distance, [500.0, 1000.0, 1500.0, 2000.0]).astype(float)


@hf.on_demand
def plane_age(scheduled_local, plane__built):
    """Years since the plane was built."""
    return 1970 + scheduled_local // (365.2425 * DAY) - plane__built


flight_features = hf.FeatureService(
    "flight_features",
    [origin_delay, carrier_delay, dest_delay, plane_delay, sky, plane, hour, weekday, distance_band, plane_age],
    request={"scheduled_local": int, "distance": float},
    hidden=["scheduled_local", "plane__built"],
)

# --- the model: what is learnt, from what, and how the rows are split in time -----------------------------------------


@hf.model(
    "late_arrival",
    features=flight_features,
    spine=flights,
    label=hf.Label(arrivals, "late", key="flight_id", matures="2d"),
    group="origin",
    candidates=[
        {"algorithm": "forest", "n_estimators": 30, "max_depth": 12, "min_samples_leaf": 20},
        {
            "algorithm": "boosting",
            "max_iter": 250,
            "learning_rate": 0.05,
            "l2_regularization": 5.0,
            "max_features": 0.4,
        },
    ],
    split=hf.TimeSplit(test="7d", tune="3d"),
    threshold=hf.Threshold(miss=3.0, false_alarm=1.0),  # a missed late flight costs three false alarms
    seed=2013,
)
def train(data, params):
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    params = dict(params)
    if params.pop("algorithm") == "forest":
        forest = RandomForestClassifier(
            **params, max_features=0.3, max_samples=40_000 / max(len(data.y), 40_001), n_jobs=-1
        )
        return make_pipeline(SimpleImputer(strategy="median"), forest).fit(data.X, data.y)
    return HistGradientBoostingClassifier(**params, min_samples_leaf=100).fit(data.X, data.y)


# --- production: what it must show, how it is released, watched and renewed -------------------------------------------

late_arrival = hf.Service(
    "late_arrival",
    model=train,
    replicas=2,
    gate=hf.Gate(
        hf.at_least("roc_auc", 0.66, sample=1000),
        hf.at_least("precision", 0.20, sample=50),
        hf.at_least("recall", 0.10, sample=300),
        hf.fairness("origin", metric="roc_auc", max_gap=0.15, sample=500),
        hf.better_than("constant", "log_loss", sample=1000),
        hf.better_than("linear", "roc_auc", by=-0.01, sample=1000),
        hf.not_worse_than_champion("roc_auc", margin=0.005, sample=1000),
        hf.no_leakage(),
        hf.deterministic(),
        hf.latency(mean="20ms"),
        policy="enforce",
        decision_record=True,
    ),
    rollout=hf.Rollout(canary=[10, 50], bake="1d", minimum=60, max_latency_ratio=5.0),
    monitor=hf.Monitor(
        every="2d", window="7d", parity="28d", drift=hf.Drift(window="7d"), metrics=["roc_auc", "precision", "recall"]
    ),
    retrain=hf.Retrain(on_drift=True, when_drops=("roc_auc", 0.03), cooldown="31d", backoff=1.0, budget=8),
)
