"""The ground: identity, records, definitions, ports, errors. Imports nothing of ours and nothing heavy."""
