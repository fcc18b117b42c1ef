"""An inference worker as a process, with the test as its control plane; rungs and patches to ask it for."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import torch
from patchd.daemon.workers.channel import Channel
from patchd.daemon.workers.protocol import InferRequest, Message, RungRef
from patchd.models.bases import Base
from patchd.models.patches import Patch, save_patch
from patchd.policies.task import PatchKind, PatchMetadata, Preprocessing


class WorkerProcess:
    """A worker with this process as its control plane."""

    def __init__(self, engine: str = "auto") -> None:
        self.engine = engine
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        command = [
            sys.executable,
            "-m",
            "patchd.daemon.workers.inference",
            "--fd",
            str(theirs.fileno()),
            "--engine",
            engine,
        ]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
        theirs.close()
        self.socket = ours
        self.channel = Channel(ours)
        self.ready = self.receive()
        self._next = 0

    def receive(self) -> Message:
        frame = self.channel.receive()
        assert frame is not None, self.process.stderr
        return frame[0]

    def ask(self, message: Message, payload: bytes = b"") -> Message:
        self.channel.send(message, payload)
        return self.receive()

    def infer(self, rung: RungRef, payload: bytes, form: str = "image", **fields: object) -> Message:
        self._next += 1
        answer = self.ask(InferRequest(id=self._next, rung=rung, form=form, **fields), payload)
        assert answer.id == self._next
        return answer

    def end(self) -> tuple[int, str]:
        self.socket.close()
        _, stderr = self.process.communicate(timeout=20)
        return self.process.returncode, stderr


def rung(resolution: int = 224, **fields: object) -> RungRef:
    return RungRef(
        **{"task": "imagenet", "base": "lite0", "resolution": resolution, "labels": 1000,
           "preprocessing": Preprocessing(), **fields}
    )  # fmt: skip


def head_patch(base: Base, labels: int, seed: int, **changes: object) -> Patch:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "classifier.weight": torch.randn(labels, 1280, generator=generator),
        "classifier.bias": torch.randn(labels, generator=generator),
    }
    fields = {
        "base": base.name, "base_hash": base.hash, "task": "t", "labels": tuple(map(str, range(labels))),
        "kinds": (PatchKind.HEAD,), "resolution": 96, "preprocessing": Preprocessing(), "parameters": 1281 * labels,
        "base_parameters": base.parameters_count, "created_s": 0.0,
    }  # fmt: skip
    return Patch(PatchMetadata(**{**fields, **changes}), tensors)


def patch_rung(patch: Patch, folder: Path, **fields: object) -> RungRef:
    patch_id, path = save_patch(patch, folder)
    labels = len(patch.metadata.labels)
    return rung(96, **{"task": "t", "patch_file": str(path), "patch_id": patch_id, "labels": labels, **fields})
