"""Alembic's scripts, one folder per store. A migration runs whole or not at all, in one process at a time."""
