"""Fixtures of the tests of exports."""

from __future__ import annotations

from tests.formats.conftest import fresh

__all__ = ["fresh"]
