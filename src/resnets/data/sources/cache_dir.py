"""Where this library keeps what it fetched or worked out, outside the user's data."""

from __future__ import annotations

import os
from pathlib import Path


def data_home() -> Path:
    """RESNETS_DATA, else the user's cache: downloaded sets and the indexes of large folders."""
    if given := os.environ.get("RESNETS_DATA"):
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "resnets"
