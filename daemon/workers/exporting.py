"""The exporting worker: `python -m patchd.daemon.workers.exporting`, one model written, one line of JSON said.

A process of its own, of low priority, so that no prediction waits for it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ...models.bases import load_base
from ...models.export import export
from ...models.patches.patch import load_patch
from ...policies.errors import PatchdError
from .lifetime import tie_to_parent
from .protocol import Export, Exported, WorkerError

NICE = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Write the model that the `Export` on standard input asks for; say `Exported` or `WorkerError`."""
    parser = argparse.ArgumentParser(prog="patchd-exporting-worker", description="Writes one patched model to a file.")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to die with")
    tie_to_parent(parser.parse_args(argv).parent)
    os.nice(NICE)
    request = Export.model_validate_json(sys.stdin.readline())
    said: Exported | WorkerError
    try:
        base = load_base(request.base, None if request.versions is None else Path(request.versions))
        report = export(base, load_patch(Path(request.patch_file), base), request.format, Path(request.output))
        said = Exported(report=report)
    except PatchdError as error:
        said = WorkerError(id=0, code=error.code, message=error.message, hint=error.hint)
    print(said.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
