"""Attacks on the whole program, few of them in `make test` and many by `make campaign`.

Each campaign is a class in a module of its own, entered in `tests/campaigns/__main__.py`. An attack
is a pure function of its number, so that `python -m tests.campaigns NAME --only NUMBER` repeats it.
"""
