"""Data, features and code → run."""
