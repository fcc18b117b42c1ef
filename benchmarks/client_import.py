"""How long a program takes to start that imports the client: fresh interpreters, turn about with public clients.

The peers are imported by the interpreter of `.venv-clients`, each less the time of that interpreter alone, as ours is.
Aim: under 100 ms.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import finish, parser, print_table, spread

CLIENTS = Path(__file__).parents[1] / ".venv-clients" / "bin" / "python"
NOTHING = "pass"
OURS = {
    "patchd.client: Client": "from patchd.client import Client",
    "patchd.client: AsyncClient": "from patchd.client import AsyncClient",
    "Client and the models of answers": "from patchd.client import Client; import patchd.daemon.api.schemas",
}
PEERS = {
    "tritonclient.http": "import tritonclient.http",
    "httpx": "import httpx",
    "requests": "import requests",
    "aiohttp": "import aiohttp",
}


def seconds(python: Path, statement: str) -> float:
    """Wall time of one fresh interpreter that runs a statement."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or python != CLIENTS}
    began = time.perf_counter()
    subprocess.run([python, "-c", statement], check=True, env=environ, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=20, help="interpreters for each [default: 20]")
    arguments = made.parse_args()
    own = Path(sys.executable)
    asked = {name: (own, statement) for name, statement in OURS.items()}
    if CLIENTS.exists():
        asked |= {name: (CLIENTS, statement) for name, statement in PEERS.items()}
    else:
        print(f"{CLIENTS} is missing (`make test` makes it): no peers are measured.", file=sys.stderr)
    pythons = {python for python, _ in asked.values()}
    taken: dict[str, list[float]] = {name: [] for name in asked}
    alone: dict[Path, list[float]] = {python: [] for python in pythons}
    for turn in range(arguments.repeats + 1):
        for python in pythons:
            alone[python].append(seconds(python, NOTHING))
        for name, (python, statement) in asked.items():
            taken[name].append(seconds(python, statement))
        if turn == 0:  # files come from the disk and are compiled
            for each in (*alone.values(), *taken.values()):
                each.clear()
    empty = {python: statistics.median(values) for python, values in alone.items()}
    rows = [
        (name, 1e3 * (statistics.median(values) - empty[asked[name][0]]), 1e3 * statistics.median(values))
        for name, values in taken.items()
    ]
    print_table(("import", "ms of its own", "ms with the interpreter"), rows)
    result = {name: {"own_ms": own_ms, **spread([1e3 * each for each in taken[name]])} for name, own_ms, _ in rows}
    finish("client_import", result, arguments.output)


if __name__ == "__main__":
    main()
