"""Methods of the API about training: jobs, their curves, and what training costs and has used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .call import Call, LazyModule, Method, get, place, post
from .daemon_methods import WORK_TIMEOUT_S

if TYPE_CHECKING:
    from ..daemon.api import schemas, training_schemas
    from ..policies.task import TrainSpec
else:
    schemas = LazyModule("..daemon.api.schemas")
    training_schemas = LazyModule("..daemon.api.training_schemas")

JobAction = Literal["pause", "resume", "cancel"]


class TrainingMethods:
    """Training jobs and measurements of training."""

    @Method
    def submit(self, spec: TrainSpec) -> Call[schemas.JobView]:
        """Queue a training job."""
        return post(lambda: schemas.JobView, "/v1/jobs", spec)

    @Method
    def jobs(self, *, only_open: bool = False) -> Call[schemas.JobList]:
        """All training jobs, or those that have not ended."""
        return get(lambda: schemas.JobList, "/v1/jobs", {"open": "true"} if only_open else None)

    @Method
    def job(self, job_id: str) -> Call[schemas.JobView]:
        """One training job."""
        return get(lambda: schemas.JobView, place("jobs", job_id))

    @Method
    def change_job(self, job_id: str, action: JobAction) -> Call[schemas.JobView]:
        """Pause, resume or cancel a job."""
        return post(lambda: schemas.JobView, place("jobs", job_id, action))

    @Method
    def curve(self, job_id: str) -> Call[training_schemas.JobCurve]:
        """Loss and validation accuracy over a job's steps."""
        return get(lambda: training_schemas.JobCurve, place("jobs", job_id, "curve"))

    @Method
    def training_usage(self, days: int | None = None) -> Call[training_schemas.TrainingUsage]:
        """What training used on the last days, today included."""
        return get(lambda: training_schemas.TrainingUsage, "/v1/training/usage", {"days": days})

    @Method
    def training_profile(self) -> Call[schemas.TrainingProfile]:
        """What training costs, as it was measured here."""
        return get(lambda: schemas.TrainingProfile, "/v1/profile/training")

    @Method
    def run_training_profile(self, run: schemas.TrainingProfileRun) -> Call[schemas.TrainingProfile]:
        """Measure what training a base costs now."""
        return post(lambda: schemas.TrainingProfile, "/v1/profile/training", run, WORK_TIMEOUT_S)
