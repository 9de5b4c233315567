"""Mutation testing: is every small change of the code noticed? `make mutants` runs it.

mutmut makes the changes (mutants) and runs the tests that reach them; `[tool.mutmut]` in `pyproject.toml`
says where. What survives is killed by a new test, or listed in `known.txt` with the reason why no test
can tell it from the original.
"""
