"""Where ``install.sh`` keeps what the servers need and no package manager installs for them."""

from __future__ import annotations

import os
from pathlib import Path

# Read once, at import: each test has another HOME.
CACHE = Path(
    os.environ.get("MLARTIFACTS_TEST_CACHE") or Path.home() / ".cache" / "mlartifacts-tests"
)
