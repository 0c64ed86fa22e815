"""Definitions to values, the same offline and online."""
