"""sqlite-utils, imported without what it looks for and the control plane never uses.

numpy and pandas, for conversions, would make the daemon 13 MB heavier; dateutil, for recipes of its command line, 2 MB.
"""

from __future__ import annotations

from .lean_imports import hollow, without

with without("numpy", "pandas"), hollow("dateutil", "parser"):
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

__all__ = ["Database", "Migrations"]
