"""`python -m finetune` is the same as the command `finetune`."""

from __future__ import annotations

import sys

from finetune.cli import main

sys.exit(main())
