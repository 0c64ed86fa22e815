"""The ledger's tables: entries that nobody may change, the current-state rows, the leases."""

from __future__ import annotations

_TABLES = """
CREATE TABLE ledger_entries (
  sequence {sequence} NOT NULL PRIMARY KEY, kind TEXT {binary} NOT NULL, subject TEXT {binary} NOT NULL, at BIGINT NOT NULL,
  actor TEXT {binary} NOT NULL, body TEXT {binary} NOT NULL, previous TEXT {binary} NOT NULL,
  hash TEXT {binary} NOT NULL, UNIQUE (hash));
CREATE INDEX ledger_entries_kind ON ledger_entries (kind, sequence);
CREATE INDEX ledger_entries_subject ON ledger_entries (subject, sequence);
CREATE INDEX ledger_entries_at ON ledger_entries (at, sequence);
CREATE TABLE ledger_state (
  tab TEXT {binary} NOT NULL, key TEXT {binary} NOT NULL, value TEXT {binary} NOT NULL, PRIMARY KEY (tab, key));
CREATE TABLE ledger_leases (
  name TEXT {binary} NOT NULL PRIMARY KEY, holder TEXT {binary} NOT NULL, ruler TEXT {binary} NOT NULL, expires BIGINT NOT NULL);
"""

# INSERT OR REPLACE would delete without firing the trigger on deletes, hence the one on order.
_GUARDS_SQLITE = """
CREATE TRIGGER ledger_entries_no_update BEFORE UPDATE ON ledger_entries
  BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END;
CREATE TRIGGER ledger_entries_no_delete BEFORE DELETE ON ledger_entries
  BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END;
CREATE TRIGGER ledger_entries_in_order BEFORE INSERT ON ledger_entries
  WHEN NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM ledger_entries)
  BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END;
"""
_GUARDS_POSTGRES = """
CREATE FUNCTION ledger_entries_refuse() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'ledger entries are append-only'; END $$;
CREATE TRIGGER ledger_entries_no_change BEFORE UPDATE OR DELETE ON ledger_entries
  FOR EACH ROW EXECUTE FUNCTION ledger_entries_refuse();
CREATE TRIGGER ledger_entries_no_truncate BEFORE TRUNCATE ON ledger_entries
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_refuse();
"""

# What each transaction did to the current-state rows, as digests, chained like the entries: the rows can be proved by it.
_CHANGES = """
CREATE TABLE ledger_changes (
  number {sequence} NOT NULL PRIMARY KEY, sequence BIGINT NOT NULL, rows TEXT {binary} NOT NULL,
  previous TEXT {binary} NOT NULL, hash TEXT {binary} NOT NULL, UNIQUE (hash));
"""
_CHANGES_SQLITE = """
CREATE TRIGGER ledger_changes_no_update BEFORE UPDATE ON ledger_changes
  BEGIN SELECT RAISE(ABORT, 'ledger changes are append-only'); END;
CREATE TRIGGER ledger_changes_no_delete BEFORE DELETE ON ledger_changes
  BEGIN SELECT RAISE(ABORT, 'ledger changes are append-only'); END;
CREATE TRIGGER ledger_changes_in_order BEFORE INSERT ON ledger_changes
  WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM ledger_changes)
  BEGIN SELECT RAISE(ABORT, 'ledger changes are append-only'); END;
"""
_CHANGES_POSTGRES = """
CREATE TRIGGER ledger_changes_no_change BEFORE UPDATE OR DELETE ON ledger_changes
  FOR EACH ROW EXECUTE FUNCTION ledger_entries_refuse();
CREATE TRIGGER ledger_changes_no_truncate BEFORE TRUNCATE ON ledger_changes
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_refuse();
"""

STEPS: tuple[str | dict[str, str], ...] = (
    {"sqlite": _TABLES + _GUARDS_SQLITE, "postgresql": _TABLES + _GUARDS_POSTGRES},
    {"sqlite": _CHANGES + _CHANGES_SQLITE, "postgresql": _CHANGES + _CHANGES_POSTGRES},
)
FIRST_TABLE = "ledger_entries"
