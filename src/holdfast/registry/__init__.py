"""Run → model version → approval: packages, numbers, stages and aliases, and their history."""
