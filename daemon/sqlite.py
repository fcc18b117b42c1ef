"""sqlite-utils, imported without the numpy and pandas it looks for.

It uses them for conversions that the control plane never makes; numpy alone would make the daemon 13 MB heavier.
A module that is None in `sys.modules` cannot be imported, which sqlite-utils provides for.
"""

from __future__ import annotations

import sys

_HEAVY = [name for name in ("numpy", "pandas") if name not in sys.modules]
for _name in _HEAVY:
    sys.modules[_name] = None  # type: ignore[assignment]
try:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations
finally:
    for _name in _HEAVY:
        del sys.modules[_name]

__all__ = ["Database", "Migrations"]
