"""The daemon put together: services, the scheduler that drives them, the API server, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from ..policies.errors import NotFoundError, PatchdError, UnavailableError
from ..policies.signal_readings import Origin
from ..policies.threads import usable_threads
from . import notify, sockets
from .api.attention import attentive
from .api.caller_protocol import CallerProtocol
from .api.loopback_guard import LoopbackGuard
from .api.routes import Routes
from .api.routing import endpoint, error_response
from .asgi_server import Server
from .base_service import BaseService
from .calibration_service import CalibrationService
from .cascade_service import CascadeService
from .config import DaemonConfig
from .deciding import DecisionService
from .device_events import DeviceEvents
from .events import EventLog
from .example_service import ExampleService
from .example_store import ExampleStore
from .explaining import ExplainService
from .export_service import ExportService
from .history_service import HistoryService
from .inference_service import InferenceService
from .loopback import bound_at
from .monitor.energy import EnergyReader
from .monitor.kills import KernelKills
from .monitor.monitor import Monitor
from .monitor.plugins import SignalPlugins
from .monitor.slow import CHECK_S as CHECK_SLOW_S
from .pace import Pace
from .permissions import Permissions
from .personalising_service import PersonalisingService
from .policy_service import PolicyService
from .posted_signals import PostedSignals
from .recent_images import RecentImages
from .request_log import RequestLog
from .rhythm import ONCE, Rhythm, until_cancelled
from .services import Services
from .store import StateLock, Store
from .task_service import TaskService
from .training_account import TrainingAccount
from .training_calendar import TrainingCalendar
from .training_curves import TrainingCurves
from .training_examples import JobExamples
from .training_meter import TrainingMeter
from .training_service import TrainingService
from .work_in_hand import WorkInHand

DRAIN_S = 7.0  # SIGTERM must end in 10 s: this long for work in flight, the rest for closing
CLEAN_UP_S = 3600
POLICY_CHECK_S = 1.5  # a changed file counts within two seconds
KEEP_ALIVE_CHECK_S = 5
RECALIBRATE_CHECK_S = 30
PERSONALISE_CHECK_S = 5
PROFILE_CHECK_S = 15.0  # costs measured beside other work are measured again at the first calm moment


class Daemon:
    """One running patchd."""

    def __init__(self, config: DaemonConfig, state_dir: Path, socket_path: Path) -> None:
        """Take the state directory and build the services.

        Raises StateError when the state is in use or damaged, PolicyError when no policy can be put in force.
        """
        self.config, self.state_dir, self.socket_path = config, state_dir, socket_path
        self.started_s = time.time()
        self._lock = StateLock(state_dir)
        self.store = Store(state_dir)
        self.events = EventLog(self.store)
        self.policies = PolicyService(self.store, self.events, config.policy, config.policies_dir)
        self.tasks = TaskService(self.store, self.events)
        self.posted = PostedSignals()
        self.plugins = SignalPlugins(config.signal_plugins, self._plugin_failed)
        self.monitor = Monitor(
            proc_root=config.proc_root,
            sys_root=config.sys_root,
            dev_root=config.dev_root,
            system_bus=config.system_bus,
            state_dir=state_dir,
            worker_pids=self._worker_pids,
            requests_waiting=lambda: self.inference.waiting,
            memory_acute=self._memory_acute,
            added=(self.posted, self.plugins),
        )
        self._scheduler = AsyncIOScheduler()
        self.curves = TrainingCurves(self.store)
        self.account = TrainingAccount(self.store, self._scheduler.timezone)
        threads = config.threads or usable_threads(self.monitor.usable_cores())
        self.deciding = DecisionService(
            self.store,
            self.events,
            self.policies,
            self.tasks,
            self.monitor,
            config.sample_period_s,
            self.account.today,
        )
        self.cascades = CascadeService(self.store, self.events, self.tasks, self.policies)
        self._pace = Pace(self.tasks.cost, lambda: self.inference.worker.pid, self._at_own_work)
        self.deciding.pace_by(self._pace.take)
        graphs_dir = state_dir / "graphs"
        recent = RecentImages(lambda: self.policies.policy.examples.consent)
        self.requests = RequestLog(self.store, config.keep_requests)
        self.explaining = ExplainService(
            self.store, self.deciding, self.requests, self.tasks, self.cascades, self.monitor
        )
        self.inference = InferenceService(
            self.tasks,
            self.deciding,
            self.policies,
            self.cascades,
            self.events,
            recent,
            self.requests,
            self._pace,
            threads=threads,
            worker_options=("--engine", config.engine, "--precision", config.precision),
            graphs_dir=graphs_dir,
            versions_dir=self.store.bases_dir,
            queue_limit=config.queue_limit,
            max_pixels=config.max_image_pixels,
        )
        self.permissions = Permissions(self.policies, self.deciding, config.proc_root)
        stored_examples = ExampleStore(self.store)
        self.examples = ExampleService(
            stored_examples,
            self.events,
            self.policies,
            self.tasks,
            recent,
            self.inference.check_image,
            self.permissions.check_examples,
        )
        self.training = TrainingService(
            self.store,
            self.events,
            self.tasks,
            self.deciding,
            self.policies,
            self.account,
            self.curves,
            TrainingMeter(EnergyReader(config.proc_root, config.sys_root)),
            JobExamples(stored_examples, self.examples),
            KernelKills(config.proc_root, config.sys_root),
            threads,
            config.measure_training_s,
        )
        self.history = HistoryService(self.store, self.deciding, self.inference, self.cascades, self.training)
        self.bases = BaseService(self.store, self.events, self.tasks, self.training.records.on_base)
        self.personalising = PersonalisingService(self.events, self.policies, self.tasks, self.examples, self.training)
        self.exports = ExportService(self.tasks, self.store, self.events, state_dir / "exports")
        self.calibration = CalibrationService(
            self.store,
            self.events,
            self.tasks,
            self.policies,
            self.inference,
            self.cascades,
            folder=state_dir / "cascades",
            graphs_dir=graphs_dir,
            threads=threads,
            precision=config.precision,
        )
        self.rhythm = Rhythm(
            self._scheduler,
            self.deciding,
            self.policies,
            WorkInHand(self.deciding, self.inference, self.training, self.calibration, self.events),
            fast_s=config.sample_period_s,
            slow_s=config.sample_period_calm_s,
            expiry_in_s=self.posted.due_in_s,
        )
        self.device_events = DeviceEvents(config.proc_root, config.sys_root, self.events, self.rhythm)
        self.calendar = TrainingCalendar(
            self._scheduler, self.events, self.policies, self.tasks, self.training, self._wake_training
        )
        self.policies.on_change(self.calendar.plan)
        self._stop = asyncio.Event()

    def _worker_pids(self) -> dict[str, int]:
        pids = {
            "inference": self.inference.worker.pid,
            "training": self.training.worker_pid,
            "calibrating": self.calibration.worker_pid,
        }
        return {name: pid for name, pid in pids.items() if pid is not None}

    def _at_own_work(self) -> bool:
        return self.calibration.worker_pid is not None or self.training.status().in_flight > 0

    async def run(self, listener: socket.socket, loopback: socket.socket | None = None) -> None:
        """Serve on the Unix socket, and on TCP where there is a listener, until SIGTERM or SIGINT; then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self.device_events.open()
        self.plugins.start()
        self._schedule()
        listen = None if loopback is None else bound_at(loopback)
        server = Server(self._server_config(listen))
        listeners = [listener] if loopback is None else [listener, loopback]
        serving = asyncio.create_task(server.serve(sockets=listeners))
        places = str(self.socket_path) if listen is None else f"{self.socket_path} and {listen}"
        self.events.emit("daemon.started", f"patchd serves on {places} under policy {self.policies.state.name}.")
        notify.notify(f"READY=1\nSTATUS=policy {self.policies.state.name}")
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await self._end(server, serving)

    async def _end(self, server: Server, serving: asyncio.Task[None]) -> None:
        began = time.monotonic()
        notify.notify("STOPPING=1")
        self._scheduler.shutdown(wait=False)
        self.device_events.close()
        self.plugins.stop()
        self.events.emit("daemon.stopping", "patchd drains and stops.")
        self.exports.stop()
        await self.calibration.stop()
        await asyncio.gather(self.inference.drain(DRAIN_S), self.training.drain(DRAIN_S))
        self.events.close()
        server.end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(serving, max(0.5, DRAIN_S + 1.0 - (time.monotonic() - began)))
        self.events.emit("daemon.stopped", f"patchd stopped after {time.monotonic() - began:.1f} s.")
        self.history.close()
        self.requests.flush()
        self.store.close()
        self._lock.release()

    def _reload(self) -> None:
        if self.policies.reload_if_changed():
            self.deciding.refresh()

    # jobs: coroutines all, because the scheduler runs plain functions in threads and SQLite belongs to this one

    async def _check_policy(self) -> None:
        self._reload()

    def _job_failed(self, failure: JobExecutionEvent) -> None:
        error = failure.exception
        self.events.emit(
            "loop.error", f"The job '{failure.job_id}' failed: {type(error).__name__}: {error}", level="error"
        )

    def _memory_acute(self) -> tuple[bool | None, Origin]:
        return self.device_events.memory_acute()

    def _plugin_failed(self, name: str, why: str) -> None:
        said = f"The signals of plug-in {name} are absent: {why}."
        self.events.emit("signals.plugin_failed", said, level="warning", plugin=name)

    def _schedule(self) -> None:
        add = self.rhythm.add
        add("training", self._train)
        add("slow-signals", self._ask_slow, CHECK_SLOW_S)
        add("keep-alive", self._keep_alive, KEEP_ALIVE_CHECK_S)
        add("policy", self._check_policy, POLICY_CHECK_S)
        add("profile", self._profile, min(PROFILE_CHECK_S, self.config.profile_every_s))
        add("recalibrate", self._recalibrate, RECALIBRATE_CHECK_S)
        add("personalise", self._personalise, PERSONALISE_CHECK_S)
        watchdog_s = notify.watchdog_interval_s(os.environ)
        if watchdog_s is not None:
            add("watchdog", self._feed_watchdog, watchdog_s)
        self.rhythm.start()
        self._scheduler.add_job(until_cancelled(self._clean_up), "interval", seconds=CLEAN_UP_S, id="clean-up", **ONCE)
        self._scheduler.add_listener(self._job_failed, EVENT_JOB_ERROR)
        self.calendar.plan()
        self._scheduler.start()

    async def _wake_training(self) -> None:
        await self.rhythm.turn()
        await self.training.tick()

    async def _train(self) -> None:
        self.examples.heed_consent()
        await self.training.tick()

    async def _ask_slow(self) -> None:
        await self.monitor.refresh_slow()

    async def _keep_alive(self) -> None:
        await self.inference.worker.stop_if_unneeded()

    async def _profile(self) -> None:
        try:
            await self.inference.worker.profile_if_due(self.config.profile_every_s)
        except (PatchdError, TimeoutError) as error:
            self.events.emit("profile.failed", f"Calibration failed: {error}", level="warning")

    async def _recalibrate(self) -> None:
        await self.calibration.tick()

    async def _personalise(self) -> None:
        self.personalising.tick()

    async def _clean_up(self) -> None:
        self.store.trim(self.config.keep_decisions, self.config.keep_events)
        self.account.trim()
        self.history.trim()
        await asyncio.to_thread(self.exports.clean)
        await self.examples.clean()
        self.training.forget_choices()
        removed = await asyncio.to_thread(self.tasks.remove_strays, self.tasks.known_files())
        if removed:
            self.events.emit(
                "state.cleaned", f"Removed {removed} files of patches and base versions that nothing refers to."
            )

    async def _feed_watchdog(self) -> None:
        try:
            self.deciding.check_health()
        except UnavailableError as error:
            logging.getLogger("patchd").error("the watchdog is not fed: %s", error)
            return
        notify.notify("WATCHDOG=1")

    # the API

    def _services(self, listen: str | None) -> Services:
        return Services(
            store=self.store,
            events=self.events,
            policies=self.policies,
            tasks=self.tasks,
            monitor=self.monitor,
            deciding=self.deciding,
            explaining=self.explaining,
            requests=self.requests,
            inference=self.inference,
            permissions=self.permissions,
            training=self.training,
            bases=self.bases,
            account=self.account,
            curves=self.curves,
            exports=self.exports,
            cascades=self.cascades,
            calibration=self.calibration,
            examples=self.examples,
            history=self.history,
            posted=self.posted,
            sampling=lambda: self.rhythm.state().model_copy(update={"sources": self.device_events.states()}),
            state_dir=self.state_dir,
            socket_path=self.socket_path,
            listen=listen,
            started_s=self.started_s,
        )

    def _server_config(self, listen: str | None) -> uvicorn.Config:
        admins = frozenset(self.config.admin_users)
        routes = [
            StarletteRoute(
                route.path,
                attentive(route, endpoint(route, self.config.max_body_bytes, admins), self.rhythm),
                methods=[route.method],
            )
            for route in Routes(self._services(listen)).table()
        ]
        app = Starlette(
            routes=routes,
            middleware=[Middleware(LoopbackGuard)],
            exception_handlers={HTTPException: _http_error, Exception: _unexpected(self.events)},
        )
        return uvicorn.Config(
            app,
            http=CallerProtocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        )


async def _http_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 405:
        wrong = NotFoundError(f"{request.url.path} does not take {request.method}.", hint="See /v1/openapi.json.")
        return error_response(wrong, request.url.path)
    missing = NotFoundError(f"There is nothing at {request.url.path}.", hint="See /v1/openapi.json for what there is.")
    return error_response(missing, request.url.path)


def _unexpected(events: EventLog) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        event = events.emit(
            "api.error",
            f"{request.method} {request.url.path} failed unexpectedly: {type(error).__name__}: {error}",
            level="error",
        )
        fault = PatchdError("patchd failed to answer this request.", hint=f"See event {event.id} in patchctl events.")
        return error_response(fault, request.url.path)

    return answer


def listen(config: DaemonConfig, path: Path) -> tuple[socket.socket, bool]:
    """The Unix socket handed over by systemd, else one bound here; and whether it is ours to remove."""
    inherited = sockets.inherited_socket(os.environ)
    if inherited is not None:
        return inherited, False
    return sockets.bind_unix(path, mode=config.socket_mode), True
