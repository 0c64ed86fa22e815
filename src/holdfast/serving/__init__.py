"""Requests to predictions: routing, replicas, the fleet, the prediction log, rollout steps."""
