"""The ledger's tables as the newest migration leaves them, and the step that brings a store there.

Imported only when a store has to be made or migrated: opening a current one needs neither SQLAlchemy nor Alembic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()
VERSION_TABLE = "ledger_version"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

entries = sa.Table(
    "ledger_entries",
    metadata,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("kind", TEXT, nullable=False),
    sa.Column("subject", TEXT, nullable=False),
    sa.Column("at", sa.BigInteger(), nullable=False),
    sa.Column("actor", TEXT, nullable=False),
    sa.Column("body", TEXT, nullable=False),
    sa.Column("previous", TEXT, nullable=False),
    sa.Column("hash", TEXT, nullable=False, unique=True),
    sa.Index("ledger_entries_kind", "kind", "sequence"),
    sa.Index("ledger_entries_subject", "subject", "sequence"),
    sa.Index("ledger_entries_at", "at", "sequence"),
)

state = sa.Table(
    "ledger_state",
    metadata,
    sa.Column("tab", TEXT, primary_key=True),
    sa.Column("key", TEXT, primary_key=True),
    sa.Column("value", TEXT, nullable=False),
)

leases = sa.Table(
    "ledger_leases",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    sa.Column("holder", TEXT, nullable=False),
    sa.Column("ruler", TEXT, nullable=False),
    sa.Column("expires", sa.BigInteger(), nullable=False),
)


def migrate(dialect: str, connect: Callable[[], Any], *, begin: Sequence[str], finish: str | None = None) -> None:
    """Bring the store to the newest schema in one transaction; an error leaves it as it was.

    Args:
        dialect: SQLAlchemy's name of the database, e.g. ``sqlite`` or ``postgresql+psycopg``.
        connect: opens a driver connection that is in autocommit mode.
        begin: the statements that open the transaction and keep every other migration out.
        finish: a last statement of the same transaction.
    """
    from alembic import command
    from alembic.config import Config

    engine = sa.create_engine(f"{dialect}://", creator=connect, poolclass=sa.pool.NullPool)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations" / "ledger").replace("%", "%%"))
    with engine.begin() as connection:
        for statement in begin:
            connection.exec_driver_sql(statement)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if finish:
            connection.exec_driver_sql(finish)
