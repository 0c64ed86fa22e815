"""MLflow's REST protocol: tracking, registry, artifacts. Translates and never decides."""
