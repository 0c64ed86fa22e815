"""Bytes → DatasetVersion: tracked in DVC's own files, validated, moved, checked."""
