"""The run store's tables."""

from __future__ import annotations

# `points` are clustered by series and time, so a history is one range read; the primary key makes a repeated point one
# point. NaN has a column of its own because SQLite stores NaN as null.
_FIRST = """
CREATE TABLE experiments (
  id {serial}, name TEXT NOT NULL UNIQUE, artifact_uri TEXT NOT NULL, deleted BIGINT,
  created BIGINT NOT NULL, updated BIGINT NOT NULL);
CREATE TABLE experiment_tags (
  experiment BIGINT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (experiment, key)) {clustered};
CREATE TABLE runs (
  number {serial}, run_id TEXT NOT NULL UNIQUE, experiment BIGINT NOT NULL, name TEXT NOT NULL, author TEXT NOT NULL,
  status TEXT NOT NULL, started BIGINT NOT NULL, ended BIGINT, artifact_uri TEXT NOT NULL, deleted BIGINT);
CREATE INDEX runs_newest ON runs (experiment, started DESC, run_id);
CREATE TABLE series (
  id {serial}, run BIGINT NOT NULL, key TEXT NOT NULL, value {double} NOT NULL, nan INTEGER NOT NULL,
  at BIGINT NOT NULL, step BIGINT NOT NULL, UNIQUE (run, key));
CREATE TABLE points (
  series BIGINT NOT NULL, at BIGINT NOT NULL, step BIGINT NOT NULL, nan INTEGER NOT NULL, value {double} NOT NULL,
  PRIMARY KEY (series, at, step, nan, value)) {clustered};
CREATE TABLE params (
  run BIGINT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, key)) {clustered};
CREATE TABLE tags (
  run BIGINT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, key)) {clustered};
CREATE TABLE datasets (
  id {serial}, experiment BIGINT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, source_type TEXT NOT NULL,
  source TEXT NOT NULL, schema TEXT, profile TEXT, UNIQUE (experiment, name, digest));
CREATE TABLE inputs (
  run BIGINT NOT NULL, dataset BIGINT NOT NULL, context TEXT, tags TEXT NOT NULL,
  PRIMARY KEY (run, dataset)) {clustered};
CREATE TABLE model_inputs (
  run BIGINT NOT NULL, model_id TEXT NOT NULL, PRIMARY KEY (run, model_id)) {clustered};
CREATE TABLE model_outputs (
  run BIGINT NOT NULL, model_id TEXT NOT NULL, step BIGINT NOT NULL, PRIMARY KEY (run, model_id)) {clustered};
CREATE TABLE models (
  model_id TEXT NOT NULL PRIMARY KEY, experiment BIGINT NOT NULL, name TEXT NOT NULL, artifact_uri TEXT NOT NULL,
  status TEXT NOT NULL, message TEXT NOT NULL, type TEXT NOT NULL, run_id TEXT, created BIGINT NOT NULL,
  updated BIGINT NOT NULL, deleted BIGINT);
CREATE INDEX models_newest ON models (experiment, created DESC, model_id);
CREATE TABLE model_params (
  model_id TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (model_id, key)) {clustered};
CREATE TABLE model_tags (
  model_id TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (model_id, key)) {clustered};
CREATE TABLE model_metrics (
  model_id TEXT NOT NULL, key TEXT NOT NULL, at BIGINT NOT NULL, step BIGINT NOT NULL, nan INTEGER NOT NULL,
  value {double} NOT NULL, dataset_name TEXT NOT NULL, dataset_digest TEXT NOT NULL, run_id TEXT NOT NULL,
  PRIMARY KEY (model_id, key, at, step, nan, value, dataset_name, dataset_digest, run_id)) {clustered};
CREATE TABLE artifacts (
  path TEXT {binary} NOT NULL PRIMARY KEY, sha256 TEXT NOT NULL, size BIGINT NOT NULL, at BIGINT NOT NULL) {clustered};
CREATE INDEX artifacts_bytes ON artifacts (sha256);
CREATE TABLE requests (id TEXT NOT NULL PRIMARY KEY, at BIGINT NOT NULL, answer {bytes} NOT NULL);
CREATE INDEX requests_age ON requests (at);
INSERT INTO experiments (id, name, artifact_uri, created, updated) VALUES (0, 'Default', 'mlflow-artifacts:/0', 0, 0)
"""

# A search reads an experiment's runs from the index alone, so the index also says which of them are deleted.
_COVERING = """
DROP INDEX runs_newest;
CREATE INDEX runs_newest ON runs (experiment, started DESC, run_id, deleted)
"""

STEPS: tuple[str, ...] = (_FIRST, _COVERING)
