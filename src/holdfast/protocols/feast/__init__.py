"""Feast's feature server, spoken by ours: wire shapes, translation, routes."""
