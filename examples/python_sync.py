"""Classify a photograph, ask why it was done so, and say what it really shows: python_sync.py TASK IMAGE [LABEL]"""

from __future__ import annotations

import sys
from pathlib import Path

from patchd.client import Client
from patchd.policies.errors import PatchdError


def main(task: str, file: str, label: str | None = None) -> None:
    """Print the answer and its reasons; an answer other than `label` is corrected."""
    with Client() as patchd:  # the socket of PATCHD_SOCKET, else the usual one
        answer = patchd.infer(task, Path(file).read_bytes(), top_k=3)
        for guess in answer.predictions:
            print(f"{guess.probability:6.1%}  {guess.label}")
        print(f"{answer.base} at {answer.resolution} px in {answer.timing.total_ms:.1f} ms: {answer.why}")
        print(*patchd.explain(request=answer.request_id).sentences, sep="\n")
        if label is not None and answer.predictions[0].label != label:
            example = patchd.correct(task, label, request=answer.request_id)
            print(f"corrected: example {example.id} shows '{label}'")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except PatchdError as error:
        sys.exit(str(error))
