"""The device as policies see it: which signals there are, what it would take to have the others, and the policy."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ...policies.errors import NotFoundError, PolicyError
from ...policies.policy import LoadedPolicy
from ...policies.policy_checks import FindingKind, check_policy
from ...policies.policy_layers import PRESET
from ...policies.signal_readings import SignalReading, readings
from ..monitor.cpu import AT_SECOND
from ..policy_files import PolicyFiles
from .check import Check, Found, failure, note, ok, warning
from .subject import Subject

BETWEEN_SAMPLES_S = 0.3  # shares of time need two
OF_A_DAEMON = ("requests.waiting", "pressure.memory.acute")  # there is nobody else to tell them

TO_THE_BUS = "If logind or NetworkManager runs here, let the daemon reach the system bus (system_bus)."

# What it takes to have a signal whose name begins so, where the reason for its absence holds these words.
REMEDIES: tuple[tuple[str, str, str], ...] = (
    ("pressure.own", "control group", "Run the daemon in a control group of version 2, as its systemd unit does."),
    ("pressure.own", "", "Mount control groups of version 2, on a kernel with CONFIG_PSI."),
    ("pressure", "", "Boot with psi=1, on a kernel with CONFIG_PSI."),
    ("power.watts", "may not", "Let the daemon's group read energy_uj under /sys/class/powercap."),
    ("temperature", "", "Load the driver of the board's sensors: sensors-detect, of lm-sensors, finds it."),
    ("gpu", "cannot be loaded", "Install libnvidia-ml.so.1, which comes with NVIDIA's driver."),
    ("gpu", "NVML:", "Let the unit see its devices, as docs/signals.md tells."),
    ("network", "busctl", "Install systemd's busctl."),
    ("network", "no system bus", TO_THE_BUS),
    ("user.session", "busctl", "Install systemd's busctl."),
    ("user.session", "no system bus", TO_THE_BUS),
    ("user.idle_s", "", "Leave idle_for_s out of policies here: nothing tells whether somebody types."),
    ("", "may not be read", "Give the daemon's user the right to read it, if a policy is to use it."),
)


def _signals(subject: Subject) -> Iterator[Found]:
    told = _readings(subject)
    absent = [each for each in told if each.value is None]
    where = "as the daemon sees them" if subject.status is not None else "as this user sees them"
    yield ok(f"{len(told) - len(absent)} of {len(told)} signals are here, {where}.")
    groups: dict[str, list[SignalReading]] = defaultdict(list)
    lacking = []
    for each in absent:
        if remedy(each) is None:
            lacking.append(each.name)
        else:
            groups[each.absent_because or ""].append(each)
    for why, those in groups.items():
        yield note(f"Absent: {', '.join(each.name for each in those)}: {why}.", remedy(those[0]))
    if lacking:
        told_by = "`patchctl signals` tells each reason" if subject.status is not None else "as many machines do"
        yield note(f"This machine lacks what {', '.join(lacking)} would be read from ({told_by}).")


def remedy(absent: SignalReading) -> str | None:
    """What it takes to have a signal; None where nothing is to be done."""
    why = absent.absent_because or ""
    return next((what for name, words, what in REMEDIES if absent.name.startswith(name) and words in why), None)


def _readings(subject: Subject) -> tuple[SignalReading, ...]:
    if subject.status is not None:
        with subject.client() as client:
            told = client.signals().signals
            if any(each.absent_because == AT_SECOND for each in told):  # it was started a moment ago
                time.sleep(2 * subject.config.sample_period_s)
                told = client.signals().signals
            return told
    monitor = subject.monitor()
    monitor.sample(time.time())
    time.sleep(BETWEEN_SAMPLES_S)
    now_s = time.time()
    seen = monitor.sample(now_s)
    told = readings(seen, monitor.origins(seen), now_s)
    return tuple(each for each in told if each.name not in OF_A_DAEMON)


def _policy(subject: Subject) -> Iterator[Found]:
    status = subject.status
    if status is not None and status.policy.error is not None:
        yield warning(
            f"A newer version of the policy is refused, and the last good one is in force: {status.policy.error}",
            "Mend the file; it is read again at once.",
        )
    choice = status.policy.source.removeprefix(PRESET) if status is not None else subject.config.policy
    try:
        loaded = _load(subject, choice)
    except (PolicyError, NotFoundError) as error:
        if status is None:
            yield failure(error.message, error.hint or 'Mend it, or configure another: policy = "balanced".')
        return
    head = loaded.policy.policy
    whose = "in force" if status is not None else "configured"
    yield ok(f"The policy {whose} is {head.name}, with {len(loaded.policy.rule)} rules, and is valid.")
    yield from _hardly_meant(subject, loaded)


def _hardly_meant(subject: Subject, loaded: LoadedPolicy) -> Iterator[Found]:
    """What is allowed in a policy and hardly meant; rules without their signals together, for presets have some."""
    present = {each.name for each in _readings(subject) if each.value is not None}
    silent: dict[str, None] = {}
    for finding in check_policy(loaded, present, _tasks(subject)):
        if finding.kind is FindingKind.MISSING_SIGNAL and finding.rule is not None:
            silent[finding.rule] = None
        else:
            yield warning(f"{finding.file}:{finding.line}:{finding.column}: {finding.text}", finding.advice)
    if silent:
        yield note(
            f"Rules that never match here, for the machine lacks their signals: {', '.join(silent)}.",
            "Nothing, if they are meant for other machines; `patchctl policy check` tells of each.",
        )


def _tasks(subject: Subject) -> set[str] | None:
    if subject.status is None:
        return None
    with subject.client() as client:
        return {task.spec.name for task in client.tasks().tasks}


def _load(subject: Subject, choice: str) -> LoadedPolicy:
    folder = subject.config.policies_dir
    return PolicyFiles(None if folder is None else Path(folder)).load(choice)


SIGNALS, POLICY = Check("signals", _signals), Check("policy", _policy)
