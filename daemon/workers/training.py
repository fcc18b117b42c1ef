"""The training worker: `python -m patchd.daemon.workers.training --fd N`.

A process of lowest priority that trains one job in slices. It may be killed at any moment: what it had not
checkpointed is done again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ...models.bases import Base, load_base
from ...models.training import SharedTrainer, Trainer
from ...models.training.augmentation import augmentation_of
from ...models.training.checkpoint import Finished
from ...models.training.memory import exhausted_words, is_exhausted
from ...models.training.outline import added_layers
from ...policies.base_name import packaged
from ...policies.errors import PatchdError, StateError
from ...policies.task import JobProgress
from ..training_records import JobFacts
from .channel import Channel
from .lifetime import tie_to_parent
from .measure_messages import JobOutlined, MeasureImportance, MeasureTraining, MeasuringEnded, TrainingMeasuring
from .measuring import Measuring, measured_importance
from .protocol import (
    JobDone,
    JobFailed,
    MemberDone,
    Note,
    OutOfMemory,
    Progress,
    Ready,
    RungDone,
    RunSlice,
    SliceDone,
    SliceFailed,
    StartJob,
    VersionDone,
)

LOWEST_NICE = 19


class TrainingWorker:
    """Runs the slices of one job on one channel until told to stop or the other end is gone."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._trainer: Trainer | SharedTrainer | None = None
        self._base: Base | None = None
        self._job: StartJob | None = None
        self._facts: JobFacts | None = None
        self._measuring = Measuring()

    def serve(self) -> None:
        """Send `Ready`, then follow the control plane's messages."""
        self._channel.send(Ready(engine="torch"))
        while (frame := self._channel.receive()) is not None:
            message, _ = frame
            try:
                if isinstance(message, MeasureTraining):
                    self._measure(message)
                elif isinstance(message, MeasureImportance):
                    self._measure_importance(message)
                elif isinstance(message, StartJob):
                    self._start(message)
                elif isinstance(message, RunSlice):
                    self._run(message)
                elif message.type == "stop":
                    return
            except StateError as error:  # a full disk, most likely; the last checkpoint stands
                self._channel.send(SliceFailed(message=str(error)))
            except PatchdError as error:
                self._channel.send(JobFailed(code=error.code, message=str(error)))
            except (MemoryError, RuntimeError) as error:
                if is_exhausted(error):
                    # What half a step has left in memory is worth nothing: the next process begins with the checkpoint.
                    self._trainer = None
                    self._channel.send(OutOfMemory(message=exhausted_words(error)))
                    return
                self._channel.send(JobFailed(code="training_failed", message=f"Training stopped: {error}"))

    def _start(self, message: StartJob) -> None:
        versions = None if message.versions is None else Path(message.versions)
        base = self._loaded(message.spec.base or message.task.base, versions)
        checkpoints, patches = Path(message.checkpoint_dir), Path(message.patches_dir)
        if message.further:
            assert versions is not None
            tasks, directories = (message.task, *message.further), (checkpoints, patches, versions)
            self._trainer = SharedTrainer(base, tasks, message.spec, message.job_id, directories, message.examples)
            self._tell_version(self._trainer)
        else:
            self._trainer = Trainer(
                base, message.task, message.spec, message.job_id, checkpoints, patches, message.examples
            )
        self._tell_notes()
        self._outline(message, base)
        for finished in self._trainer.finished:  # the control plane may not have heard of the last one
            self._tell(finished)

    def _outline(self, message: StartJob, base: Base) -> None:
        """Tell what the planner must know of the job and only its network and data tell."""
        assert self._trainer is not None
        train, validation = self._trainer.images
        added = added_layers(base.network, message.spec, len(message.task.labels))
        self._job = message
        tasks = (message.task, *message.further)
        augmented = any(augmentation_of(task, message.spec) is not None for task in tasks)
        self._facts = JobFacts(train_images=train, validation_images=validation, added=added, augmented=augmented)
        self._channel.send(JobOutlined(facts=self._facts))

    def _loaded(self, name: str, versions: Path | None = None) -> Base:
        if self._base is None or self._base.name != name:
            self._base = load_base(name, versions)
        return self._base

    def _measure(self, message: MeasureTraining) -> None:
        try:
            held = self._base  # a version of it costs the same
            base = held if held is not None and packaged(held.name) == message.base else self._loaded(message.base)
            measured = self._measuring.costs(message, base, self._channel.waiting, self._tell_share)
        except (PatchdError, MemoryError, RuntimeError) as error:  # the job stands: it trains by the costs as shipped
            self._channel.send(MeasuringEnded(message=str(error)))
            return
        self._channel.send(measured or MeasuringEnded())

    def _measure_importance(self, message: MeasureImportance) -> None:
        if self._job is None or self._facts is None or self._base is None:  # the job could not be started
            self._channel.send(MeasuringEnded())
            return
        try:
            found = measured_importance(message, self._job, self._base, self._channel.waiting)
        except (PatchdError, MemoryError, RuntimeError) as error:
            self._channel.send(MeasuringEnded(message=str(error)))
            return
        if found is None:
            self._channel.send(MeasuringEnded())
            return
        self._channel.send(JobOutlined(facts=self._facts.model_copy(update={"importance": found})))

    def _tell_share(self, share: float) -> None:
        self._channel.send(TrainingMeasuring(share=share))

    def _run(self, message: RunSlice) -> None:
        if self._trainer is None:  # the job could not be started, and that has been said
            return
        torch.set_num_threads(message.threads)
        self._trainer.features.quota_bytes = message.features_bytes
        trainer, wall, cpu = self._trainer, time.monotonic(), time.process_time()
        files = [(own, None if own.file is None else Path(own.file)) for own in message.in_force]
        if isinstance(trainer, SharedTrainer):
            trainer.in_force = {(own.task, own.resolution): file for own, file in files}
        else:
            trainer.in_force = {own.resolution: file for own, file in files}
        for finished in trainer.run_slice(message.plan, message.seconds, self._channel.waiting, self._report):
            self._tell(finished)
        if isinstance(trainer, SharedTrainer):
            self._tell_version(trainer)
        self._tell_notes()
        seconds, cpu_seconds = time.monotonic() - wall, time.process_time() - cpu
        uses = trainer.take_uses()
        if trainer.done:
            self._channel.send(JobDone(seconds=seconds, cpu_seconds=cpu_seconds, uses=uses))
            return
        progress = trainer.progress("waiting", message.plan)
        self._channel.send(SliceDone(seconds=seconds, cpu_seconds=cpu_seconds, progress=progress, uses=uses))

    def _tell_notes(self) -> None:
        if self._trainer is not None:
            for note in self._trainer.take_notes():
                self._channel.send(Note(message=note))

    def _report(self, progress: JobProgress) -> None:
        self._channel.send(Progress(progress=progress))

    def _tell_version(self, trainer: SharedTrainer) -> None:
        """Say what a job of several tasks has made, if it is done: before a restart perhaps."""
        if (made := trainer.made) is not None:
            members = tuple(MemberDone(result=each.result, metadata=each.metadata) for each in made.members)
            self._channel.send(
                VersionDone(
                    name=made.name, sha256=made.sha256, bytes=made.bytes, metadata=made.metadata, members=members
                )
            )

    def _tell(self, finished: Finished) -> None:
        self._channel.send(RungDone(result=finished.result, metadata_json=finished.metadata.model_dump_json()))


def take_lowest_priority() -> None:
    """Nice 19 and SCHED_IDLE: this process runs when nothing else wants the processors."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_NICE)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main(argv: Sequence[str] | None = None) -> int:
    """Serve on the inherited socket `--fd`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="patchd-training-worker", description="Trains patches for patchd.")
    parser.add_argument("--fd", type=int, required=True, help="connected stream socket, inherited")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to die with")
    options = parser.parse_args(argv)
    tie_to_parent(options.parent)
    take_lowest_priority()
    try:
        TrainingWorker(Channel.from_fd(options.fd)).serve()
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the control plane is gone; the last checkpoint stands
    return 0


if __name__ == "__main__":
    sys.exit(main())
