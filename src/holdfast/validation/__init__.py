"""ModelVersion or live window → Evidence → Verdict."""
