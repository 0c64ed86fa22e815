"""The ledger: entries that nobody may change, the current-state rows, the leases.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

REFUSE_SQLITE = [
    """CREATE TRIGGER ledger_entries_no_update BEFORE UPDATE ON ledger_entries
       BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END""",
    """CREATE TRIGGER ledger_entries_no_delete BEFORE DELETE ON ledger_entries
       BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END""",
    # INSERT OR REPLACE would delete without firing the trigger above.
    """CREATE TRIGGER ledger_entries_in_order BEFORE INSERT ON ledger_entries
       WHEN NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM ledger_entries)
       BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END""",
]
REFUSE_POSTGRES = [
    """CREATE FUNCTION ledger_entries_refuse() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN RAISE EXCEPTION 'ledger entries are append-only'; END $$""",
    """CREATE TRIGGER ledger_entries_no_change BEFORE UPDATE OR DELETE ON ledger_entries
       FOR EACH ROW EXECUTE FUNCTION ledger_entries_refuse()""",
    """CREATE TRIGGER ledger_entries_no_truncate BEFORE TRUNCATE ON ledger_entries
       FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_refuse()""",
]


def upgrade() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column(
            "sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False
        ),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("subject", TEXT, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("body", TEXT, nullable=False),
        sa.Column("previous", TEXT, nullable=False),
        sa.Column("hash", TEXT, nullable=False, unique=True),
    )
    op.create_index("ledger_entries_kind", "ledger_entries", ["kind", "sequence"])
    op.create_index("ledger_entries_subject", "ledger_entries", ["subject", "sequence"])
    op.create_index("ledger_entries_at", "ledger_entries", ["at", "sequence"])
    op.create_table(
        "ledger_state",
        sa.Column("tab", TEXT, primary_key=True),
        sa.Column("key", TEXT, primary_key=True),
        sa.Column("value", TEXT, nullable=False),
    )
    op.create_table(
        "ledger_leases",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("ruler", TEXT, nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
    )
    postgres = op.get_bind().dialect.name == "postgresql"
    for statement in REFUSE_POSTGRES if postgres else REFUSE_SQLITE:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is append-only; a store is never taken back to an older schema")
