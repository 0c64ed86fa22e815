"""One file per printed promise: `python -m benchmarks NAME`."""
