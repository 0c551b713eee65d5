"""``python -m mlserver``."""

from __future__ import annotations

import sys

from mlserver.cli import main

sys.exit(main())
