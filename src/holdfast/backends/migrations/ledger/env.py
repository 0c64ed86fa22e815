"""Alembic's environment for the ledger: runs on the connection, and in the transaction, that the caller opened."""

from __future__ import annotations

from alembic import context

from holdfast.backends.ledger_schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
context.run_migrations()
