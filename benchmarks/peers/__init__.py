"""Other trainers, measured beside this one: `python -m benchmarks.peers`."""
