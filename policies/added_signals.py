"""Names of the signals that others add: applications post `app.NAME`, plug-ins give `plugin.NAME`.

Which of them exist changes while the daemon runs, so a policy may name any that could.
"""

from __future__ import annotations

import re

POSTED, PLUGGED = "app", "plugin"
MAX_NAME = 64  # characters
NAME_RULE = f"two or more words of a-z, 0-9, _ and - joined by dots, at most {MAX_NAME} characters"
ADDED = r"(?:app|plugin)(?:\.[a-z0-9][a-z0-9_-]*)+"
_NAME = re.compile(ADDED)


def claims_to_be_added(name: str) -> bool:
    """Whether a name begins as those of added signals do."""
    return name.partition(".")[0] in (POSTED, PLUGGED) and "." in name


def is_added(name: str) -> bool:
    """Whether a signal of this name can be added by an application or a plug-in."""
    return len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None


def whose(name: str) -> str:
    """What a signal of this name is, as long as nothing has told more of it."""
    return "a plug-in gives it" if name.startswith(f"{PLUGGED}.") else "an application posts it"
