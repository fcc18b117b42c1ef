"""TuneD, the daemon that tunes Linux machines, as an idle peer: its own loop, under a profile that changes nothing.

Run by the system's Python, because Debian's TuneD is made for it: tuned_peer.py ROOT FOLDER. ROOT is where the packages
are: /, or a folder that they were unpacked into. All that TuneD writes goes to FOLDER; it attaches to no bus.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

PROFILE = "[main]\nsummary=changes nothing\n"
MAIN = "daemon = 1\ndynamic_tuning = 1\nsleep_interval = 1\nupdate_interval = 10\nrecommend_command = 0\n"


def main() -> None:
    """Run TuneD until SIGTERM."""
    root, folder = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path.insert(0, str(root / "usr/lib/python3/dist-packages"))
    consts: Any = import_module("tuned.consts")
    profile = folder / "profiles" / "still"
    profile.mkdir(parents=True)
    (profile / "tuned.conf").write_text(PROFILE)
    (folder / "tuned-main.conf").write_text(MAIN)
    consts.LOAD_DIRECTORIES = [str(folder / "profiles")]
    for name, file in (
        ("GLOBAL_CONFIG_FILE", "tuned-main.conf"),
        ("ACTIVE_PROFILE_FILE", "active_profile"),
        ("PROFILE_MODE_FILE", "profile_mode"),
        ("POST_LOADED_PROFILE_FILE", "post_loaded_profile"),
        ("DEFAULT_STORAGE_FILE", "save.pickle"),
        ("PERSISTENT_STORAGE_DIR", "persistent"),
        ("BOOT_CMDLINE_FILE", "bootcmdline"),
        ("LOG_FILE", "tuned.log"),
    ):
        setattr(consts, name, str(folder / file))
    daemon: Any = import_module("tuned.daemon")
    configuration: Any = import_module("tuned.utils.global_config")
    application = daemon.Application("still", configuration.GlobalConfig(str(folder / "tuned-main.conf")))
    application.run(True)


if __name__ == "__main__":
    main()
