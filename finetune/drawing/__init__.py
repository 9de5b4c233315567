"""Pictures for people: text in them, and contact sheets."""

from __future__ import annotations

from finetune.drawing.lettering import font_for, line_height, wrapped
from finetune.drawing.sheet import Shown, contact_sheets

__all__ = ["Shown", "contact_sheets", "font_for", "line_height", "wrapped"]
