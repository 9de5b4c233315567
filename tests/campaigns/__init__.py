"""Attacks on the whole program: a few in `make test`, many in `make campaign`.

Each campaign is a class in its own module, listed in `tests/campaigns/__main__.py`. An attack
is a pure function of its number, so `python -m tests.campaigns NAME --only NUMBER` repeats it.
"""
