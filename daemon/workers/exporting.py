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
from ...policies.task import ExportFormat
from .lifetime import tie_to_parent
from .protocol import Exported, WorkerError

NICE = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Write one model and print an `Exported` or a `WorkerError`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="patchd-exporting-worker", description="Writes one patched model to a file.")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to die with")
    parser.add_argument("--base", required=True, help="the base's name")
    parser.add_argument("--patch", type=Path, required=True, help="the patch file")
    parser.add_argument("--format", choices=tuple(ExportFormat), required=True, help="what to write")
    parser.add_argument("--output", type=Path, required=True, help="where to")
    options = parser.parse_args(argv)
    tie_to_parent(options.parent)
    os.nice(NICE)
    said: Exported | WorkerError
    try:
        base = load_base(options.base)
        report = export(base, load_patch(options.patch, base), ExportFormat(options.format), options.output)
        said = Exported(report=report)
    except PatchdError as error:
        said = WorkerError(id=0, code=error.code, message=error.message, hint=error.hint)
    print(said.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
