"""The version of a definition is what a model pins: moving code about, or reading it on another day, changes none."""

from __future__ import annotations

import holdfast as hf
from holdfast.core.identity import digest

payments = hf.Source(
    "payments", "data/payments.parquet", timestamp="paid_at", arrival="known_at", schema={"amount": float, "card": str}
)
orders = hf.Source("orders", url="postgresql://app:${PASSWORD}@db/shop", query="SELECT * FROM orders", timestamp="at")
card = hf.Entity("card", join_keys=["card_id"])
fields = [hf.Field("country", str), hf.Aggregation("amount", ["count", "mean", "max"], windows=["1h", "1d", "30d"])]
view = hf.FeatureView("card_activity", entities=[card], source=payments, ttl="30d", features=fields)


@hf.on_demand
def ratio(amount, card_activity__amount_mean_1d):
    # A comment, which no hash sees.
    return amount / card_activity__amount_mean_1d


features = hf.FeatureService("fraud_v1", [view, ratio], request={"amount": float})


@hf.model(
    "fraud", features=features, spine=payments, label=hf.Label(payments, "amount", matures="30d"), params={"depth": 3},
    candidates=[{"depth": 2}, {"depth": 5}], split=hf.TimeSplit(test=0.2), threshold=hf.Threshold(), seed=7,
)  # fmt: skip
def train(data, params):
    return None


fraud = hf.Service(
    "fraud", model=train, gate=hf.Gate(hf.at_least("accuracy", 0.9), hf.fairness("group", max_gap=0.05), hf.latency(mean="100ms"), decision_record=True),
    rollout=hf.Rollout(shadow="1h", canary=[1, 5, 25], bake="30m"), monitor=hf.Monitor(every="1h", drift=hf.Drift(ks_floor=0.1)),
    retrain=hf.Retrain(schedule="0 2 * * *", on_drift=True, when_below=("accuracy", 0.95), cooldown="1d"),
)  # fmt: skip

EXPECTED = {
    "payments": "acf2b5e8296ba2b56fa79a98166da5110e47c8dd438c2bb587a17028ecf0f98f",
    "orders": "15a064558aee80045c02ac21b3f69c9ef5e89680485407e543cb9ce1be54dafb",
    "card": "b0adfcd6bf74e4b05936c53b76e2a7a9af135ce587e0a1de7c24900f9949cbd8",
    "card_activity": "f2b5a4131a91a7fb01eea278cc892dd44f008e232da748f8c4abac5013ea2508",
    "ratio": "0cfe3bf1a69463e44fc04c07bd411d1c13a7c4b4d2ca3b4a87ba2fb407bfd953",
    "fraud_v1": "27c42e22bb03204bb410fd10314656140c13e645c847b8e36a8d4c0161fbc7ac",
    "fraud": "a923ae3c9a5cb955a09ce0d6927c963a2d72a964da9c9462fcfa8d06b2c1d1c8",
    "service": "37587315038cd449c98fa8a334e29d4fd31dbe4fbd49605ff52718997ebc497d",
    "gate": "dc1f3cf54c4e7df2f508e7d2c9b7201befc69b893797e990d4f7b2f034548700",
    "rollout": "d355fdeaad321a8f71b45abb111d9afa3f55a0e63c55a3b44f1cb04ed3cac92a",
    "field": "7d84aaaca632a86e3299380cde4372eb0181630dbf506ac87bd1f7928ffccad1",
    "aggregation": "bd6fc7c01760e7e71b18911797a18ef1415ab804fdf26a2e86355378aff887f9",
}


def hashes() -> dict[str, str]:
    """Of each definition of this page, and of the parts that are hashed with their owner."""
    whole = {d.name: d.version for d in (payments, orders, card, view, ratio, features, train)}
    parts = {
        "service": fraud.version, "gate": digest(fraud.gate.spec()), "rollout": digest(fraud.rollout.spec()),
        "field": digest(fields[0].spec()), "aggregation": digest(fields[1].spec()),
    }  # fmt: skip
    return whole | parts


def test_no_version_changed() -> None:
    assert hashes() == EXPECTED


def test_the_public_face_is_whole() -> None:
    from holdfast.core import definitions

    for name in hf.__all__:
        assert getattr(hf, name) is not None
    missing = [n for n in PUBLIC if not hasattr(definitions, n)]
    assert missing == []


PUBLIC = [
    "ABTest", "Aggregation", "BadDefinition", "Definition", "Drift", "Entity", "FeatureService", "FeatureView",
    "Field", "Gate", "Label", "Model", "Monitor", "OnDemand", "PredictionLog", "Project", "Retrain", "Rollout",
    "Rule", "Service", "Source", "Steps", "Threshold", "TimeSplit", "ablation", "api", "at_least", "at_most",
    "better_than", "calibrated", "check", "deterministic", "digest_of", "equalised_odds", "fairness", "four_fifths",
    "latency", "model", "no_leakage", "not_worse_than_champion", "on_demand", "pipeline", "ranking", "resources",
    "robust", "service", "signature", "size_bytes", "slices", "unit_tests",
]  # fmt: skip
