"""Signals that are asked for slowly: other services over D-Bus, NVML, a disk's wear, and who else is busy."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bus_service import Value, message_bus, service
from device_trees import GIB, Tree
from hypothesis import given
from hypothesis import strategies as st
from patchd.daemon.monitor.consumers import ConsumerReader
from patchd.daemon.monitor.disk import DiskReader
from patchd.daemon.monitor.gpu import EVERY_MANAGED_S, EVERY_S, GpuReader
from patchd.daemon.monitor.monitor import Monitor
from patchd.daemon.monitor.nvml import Nvml, NvmlError
from patchd.daemon.monitor.system_bus import LOGIND, NETWORK_MANAGER, SystemBus, parse
from patchd.policies.signal_readings import readings
from patchd.policies.snapshot import Gpu


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


# the system bus


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    for program in ("dbus-daemon", "busctl"):
        if shutil.which(program) is None:
            pytest.skip(f"the program {program} is not installed")
    with message_bus(tmp_path_factory.mktemp("bus")) as path:
        yield path


@pytest.mark.parametrize(("told", "metered"), [(1, True), (2, False), (3, True), (4, False)])
def test_a_metered_connection_is_what_network_manager_says(bus: Path, told: int, metered: bool) -> None:
    with service(bus, NETWORK_MANAGER.name, {"Metered": ("u", told)}):
        assert SystemBus(bus).network().metered is metered


def test_sessions_are_counted_by_logind(bus: Path) -> None:
    asked = SystemBus(bus)
    with service(bus, LOGIND.name, {"NCurrentSessions": ("t", 2), "IdleHint": ("b", True)}):
        sessions = asked.sessions()
    assert (sessions.count, sessions.idle) == (2, True)
    assert asked.origins()["user.sessions"].source == "logind on the system bus (NCurrentSessions)"


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"Metered": ("u", 0)}, "NetworkManager does not know whether the connection is metered"),
        ({"Metered": ("s", "soon")}, "NetworkManager does not know whether the connection is metered"),
        ({}, "NetworkManager does not answer: Failed to get property Metered"),
        (None, "NetworkManager does not run"),
    ],
    ids=["unknown", "of another type", "without the property", "not running"],
)
def test_a_service_that_tells_nothing_leaves_a_reason(
    bus: Path, properties: dict[str, tuple[str, Value]] | None, reason: str
) -> None:
    asked = SystemBus(bus)
    if properties is None:
        assert asked.network().metered is None
    else:
        with service(bus, NETWORK_MANAGER.name, properties):
            assert asked.network().metered is None
    why = asked.origins()["network.metered"].absent_because
    assert why is not None
    assert why.startswith(reason)


def test_the_snapshot_has_what_services_told_and_since_when(bus: Path, tree: Tree) -> None:
    monitor = Monitor(state_dir=tree.state, proc_root=tree.proc, sys_root=tree.sys, dev_root=tree.dev, system_bus=bus)
    before_s = time.time()
    monitor.sample(before_s)
    with (
        service(bus, NETWORK_MANAGER.name, {"Metered": ("u", 1)}),
        service(bus, LOGIND.name, {"NCurrentSessions": ("t", 1), "IdleHint": ("b", False)}),
    ):
        asyncio.run(monitor.refresh_slow())
    seen = monitor.sample(time.time() + 10.0)
    told = {each.name: each for each in readings(seen, monitor.origins(seen), seen.time_s)}
    assert (told["network.metered"].value, told["user.sessions"].value, told["user.session_idle"].value) == (1, 1, 0)
    for name in ("network.metered", "user.sessions", "user.session_idle"):
        reading = told[name]
        assert reading.read_s is not None
        assert before_s <= reading.read_s <= seen.time_s - 10.0
        assert reading.age_s is not None
        assert reading.age_s >= 10.0


def test_without_a_system_bus_nothing_is_asked(tree: Tree) -> None:
    asked = SystemBus(tree.proc / "no-such-socket")
    assert not asked.present
    assert asked.origins()["user.sessions"].absent_because == f"no system bus at {tree.proc / 'no-such-socket'}"


@given(st.binary(max_size=60))
def test_any_answer_of_busctl_is_values_or_none(output: bytes) -> None:
    values = parse(output)
    assert values is None or isinstance(values, list)


# graphics processors


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library with NVML's functions, compiled here: what is tested is the binding too."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a stand-in for NVIDIA's library")
    made = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).parents[1] / "nvml_stand_in.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return str(made)


TWO = f"80 {16 * GIB} {12 * GIB} 61 70500; 5 {8 * GIB} 0 75 20000"


def driver(tree: Tree, **power: str) -> None:
    tree.put("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module")
    for name, value in {"vendor": "0x10de", "class": "0x030200"}.items():
        tree.put(f"sys/bus/pci/drivers/nvidia/0000:01:00.0/{name}", value)
    for name, value in power.items():
        tree.put(f"sys/bus/pci/drivers/nvidia/0000:01:00.0/power/{name}", value)


def test_graphics_processors_are_read_through_nvml(tree: Tree, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tree)
    monkeypatch.setenv("FAKE_NVML", f"80 {16 * GIB} {12 * GIB} 61 70500; 5 -1 0 -1 -1")
    reader = GpuReader(tree.proc, tree.sys, lambda: Nvml(library))
    assert (reader.present, reader.every_s) == (True, EVERY_S)
    for _ in range(2):
        assert reader.read() == (
            Gpu(
                name="NVIDIA T4",
                busy=0.8,
                memory_total_bytes=16 * GIB,
                memory_free_bytes=4 * GIB,
                celsius=61.0,
                watts=70.5,
            ),
            Gpu(name="NVIDIA T4", busy=0.05),
        )


def test_the_signals_of_several_graphics_processors_are_those_of_the_worst(
    tree: Tree, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tree)
    monkeypatch.setenv("FAKE_NVML", TWO)
    monkeypatch.setattr(Nvml.__init__, "__defaults__", (library,))
    monitor = tree.monitor()
    asyncio.run(monitor.refresh_slow())
    seen = monitor.sample(5.0)
    told = {each.name: each for each in readings(seen, monitor.origins(seen), 5.0)}
    values = {name: told[name].value for name in ("gpu.busy", "gpu.memory_free", "gpu.celsius", "gpu.watts")}
    assert values == {"gpu.busy": 0.8, "gpu.memory_free": 0.25, "gpu.celsius": 75.0, "gpu.watts": 90.5}
    assert told["gpu.busy"].source == "NVML"


@pytest.mark.parametrize(
    ("devices", "reason"),
    [(None, "NVML: Driver Not Loaded"), ("", "NVML finds no graphics processor")],
    ids=["broken driver", "no device"],
)
def test_nvml_that_does_not_answer_leaves_a_reason(
    tree: Tree, library: str, monkeypatch: pytest.MonkeyPatch, devices: str | None, reason: str
) -> None:
    driver(tree)
    monkeypatch.delenv("FAKE_NVML", raising=False)
    if devices is not None:
        monkeypatch.setenv("FAKE_NVML", devices)
    reader = GpuReader(tree.proc, tree.sys, lambda: Nvml(library))
    assert reader.read() == ()
    assert {origin.absent_because for origin in reader.origins().values()} == {reason}


def test_a_driver_without_its_library_leaves_a_reason(tree: Tree) -> None:
    driver(tree)
    reader = GpuReader(tree.proc, tree.sys, lambda: Nvml("libno-such-nvml.so.1"))
    assert reader.read() == ()
    why = reader.origins()["gpu.busy"].absent_because
    assert why is not None
    assert why.startswith("NVML cannot be loaded: libno-such-nvml.so.1")


def test_a_graphics_processor_that_sleeps_is_not_woken(
    tree: Tree, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tree, control="auto", runtime_status="suspended")
    monkeypatch.setenv("FAKE_NVML", TWO)
    opened: list[Nvml] = []

    def open_it() -> Nvml:
        opened.append(Nvml(library))
        return opened[-1]

    reader = GpuReader(tree.proc, tree.sys, open_it)
    assert reader.every_s == EVERY_MANAGED_S
    assert (reader.read(), opened) == ((), [])
    assert reader.origins()["gpu.busy"].absent_because == "the graphics processor sleeps, and asking would wake it"
    driver(tree, control="auto", runtime_status="active")
    assert [gpu.busy for gpu in reader.read()] == [0.8, 0.05]
    with pytest.raises(NvmlError):
        opened[0].device_count()  # held open it could not fall asleep


def test_a_machine_without_the_driver_never_loads_nvml(tree: Tree) -> None:
    monitor = tree.monitor()
    asyncio.run(monitor.refresh_slow())
    seen = monitor.sample(1.0)
    assert seen.gpus == ()
    assert monitor.origins(seen)["gpu.watts"].absent_because == (
        f"no NVIDIA driver: there is no {tree.proc}/driver/nvidia/version"
    )


# wear


def block(tree: Tree, disk: str, partition: bool = True) -> str:
    """The disk under the state directory, with the number that the file system really has."""
    device = tree.state.stat().st_dev
    place = f"sys/devices/platform/host/{disk}"
    link = tree.sys / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True, exist_ok=True)
    if partition:
        tree.put(f"{place}/{disk}p1/partition", 1)
        link.symlink_to(tree.sys.parent / place / f"{disk}p1")
    else:
        (tree.sys.parent / place).mkdir(parents=True)
        link.symlink_to(tree.sys.parent / place)
    return place


@pytest.mark.parametrize(
    ("life_time", "wear"),
    [("0x01 0x03", 0.3), ("0x0b 0x01", 1.0), ("0x00 0x00", None), ("zz", None), ("0x2", 0.2), ("", None)],
)
def test_the_wear_of_emmc_is_its_worse_estimate(tree: Tree, life_time: str, wear: float | None) -> None:
    place = block(tree, "mmcblk0")
    tree.put(f"{place}/device/life_time", life_time)
    disk = DiskReader(tree.sys, tree.state).read()
    assert disk is not None
    assert disk.wear == wear


def test_the_wear_of_ufs_is_that_of_its_host(tree: Tree) -> None:
    place = block(tree, "sda", partition=False)
    tree.put("sys/devices/platform/ufs/health_descriptor/life_time_estimation_a", "0x02")
    tree.put("sys/devices/platform/ufs/health_descriptor/life_time_estimation_b", "0x04")
    (tree.sys / "devices/platform/ufs/host0/target0/0:0:0:0").mkdir(parents=True)
    (tree.sys.parent / place / "device").symlink_to(tree.sys / "devices/platform/ufs/host0/target0/0:0:0:0")
    reader = DiskReader(tree.sys, tree.state)
    disk = reader.read()
    assert disk is not None
    assert disk.wear == 0.4
    assert reader.origins()["disk.wear"].source == str(tree.sys / "devices/platform/ufs/health_descriptor")


def test_under_an_encrypted_volume_the_disk_below_is_looked_at(tree: Tree) -> None:
    volume = block(tree, "dm-0", partition=False)
    tree.put("sys/devices/platform/host/mmcblk1/mmcblk1p2/partition", 2)
    tree.put("sys/devices/platform/host/mmcblk1/device/life_time", "0x05 0x01")
    (tree.sys.parent / volume / "slaves").mkdir()
    (tree.sys.parent / volume / "slaves" / "mmcblk1p2").symlink_to(tree.sys / "devices/platform/host/mmcblk1/mmcblk1p2")
    disk = DiskReader(tree.sys, tree.state).read()
    assert disk is not None
    assert disk.wear == 0.5


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        ("nvme0n1", "nvme0n1 tells its wear to root alone, by commands (smartctl -a, nvme smart-log)"),
        ("vda", "vda tells no wear in {sys}"),
        (None, "the file system of {state} is on no disk of its own (device {device})"),
    ],
    ids=["nvme", "virtual", "none"],
)
def test_a_disk_that_hides_its_wear_says_why(tree: Tree, disk: str | None, reason: str) -> None:
    if disk is not None:
        block(tree, disk)
    number = tree.state.stat().st_dev
    wanted = reason.format(sys=tree.sys, state=tree.state, device=f"{os.major(number)}:{os.minor(number)}")
    assert DiskReader(tree.sys, tree.state).origins()["disk.wear"].absent_because == wanted


# who is busy


def process(tree: Tree, pid: int, name: str, ticks: int, parent: int = 1, started: int = 5) -> None:
    fields = ["S", str(parent), *["0"] * 9, str(ticks), "0", *["0"] * 6, str(started), "0"]
    tree.put(f"proc/{pid}/stat", f"{pid} ({name}) {' '.join(fields)}")


def test_the_busiest_programs_are_told_by_name_without_those_of_patchd(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("patchd.daemon.monitor.consumers.time.monotonic", lambda: now)
    tick = os.sysconf("SC_CLK_TCK")
    begin = {
        10: ("cc1plus", 0),
        11: ("cc1plus", 5),
        12: ("a) b (c", 0),
        13: ("idle", 7),
        14: ("patchd", 0),
        15: ("x", 0),
    }
    for pid, (name, ticks) in begin.items():
        process(tree, pid, name, ticks)
    process(tree, 16, "worker", 0, parent=14)
    tree.put("proc/17/stat", "garbage")
    reader = ConsumerReader(tree.proc)
    assert reader.look({14}) == ()
    now = 10.0
    for pid, seconds in ((10, 6), (11, 2), (12, 5), (13, 0), (14, 9), (15, 1)):
        process(tree, pid, begin[pid][0], begin[pid][1] + seconds * tick)
    process(tree, 16, "worker", 9 * tick, parent=14)
    process(tree, 18, "new", 4 * tick, started=900)
    told = reader.look({14})
    assert [(each.name, each.processes) for each in told] == [("cc1plus", 2), ("a) b (c", 1), ("new", 1)]
    assert [each.cpu_cores for each in told] == pytest.approx([0.8, 0.5, 0.4])
