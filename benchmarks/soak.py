"""Kills trainings at random moments, many times, and compares what they end with to a run that was left alone.

    python benchmarks/soak.py --kills 200 --out soak.json
    python benchmarks/soak.py --requests 10000 --run RUN --out served.json

With `--requests` it asks `forwardonly serve` instead, over 4 connections at once, with one image each, every tenth
request malformed: requests a second, p50 and p99, and the service's memory after the first tenth and at the end.

In each of four ways (one process; 2 that share the data; 2 that share the layers; 2 x 2 that share both) a training is
killed by SIGKILL and resumed again and again until it is done, then the next one begins, until there have been so many
kills. Bits of weights and history count. The trainings are those of `tests/parallel/crew.py`, whose processes are
forks, so that most of the time goes into training rather than into starting Python; 20 kills of the first three ways
belong to the usual tests.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from forwardonly.bench.speed import machine

WAYS = {
    "one process": "kill-alone",
    "data, 2": "kill-data",
    "layers, 2": "kill-layers",
    "layers x data, 4": "kill-both",
}
CREW = Path(__file__).parent.parent / "tests" / "parallel" / "crew.py"


def soak(scenario: str, kills: int) -> dict[str, Any]:
    """What became of runs that were killed so many times in all."""
    started = time.perf_counter()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "FORWARDONLY_KILLS": str(kills)}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, str(CREW), scenario, folder], env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{scenario} failed: see above")
    seen = json.loads(done.stdout)
    epochs = seen["epochs"]
    return {
        "kills": seen["kills"],
        "runs": len(seen["runs"]),
        "runs with other bits": sum(run != [0.0, True] for run in seen["runs"]),
        "kills by epochs on record": {str(epoch): epochs.count(epoch) for epoch in sorted(set(epochs))},
        "seconds": round(time.perf_counter() - started, 1),
    }


def served(run: Path, requests: int, connections: int = 4) -> dict[str, Any]:
    """What a service of this run did under so many requests, as a line that `record.py --timing` takes."""
    words = [sys.executable, "-m", "forwardonly", "serve", str(run), "--port", "0", "--device", "cpu"]
    service = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert service.stdout is not None
    try:
        at = service.stdout.readline().split("answers at http://")[1].split()[0]
        link = http.client.HTTPConnection(at, timeout=60)
        link.request("GET", "/model")
        shape = json.loads(link.getresponse().read())["shape"]
        right = json.dumps({"images": torch.zeros(1, *shape, dtype=torch.int).tolist()})
        took: list[float] = []

        def ask(count: int) -> None:
            own = http.client.HTTPConnection(at, timeout=60)
            for index in range(count):
                content, wanted = ("[" * 1000, 400) if index % 10 == 9 else (right, 200)
                started = time.perf_counter()
                own.request("POST", "/predict", content, {"content-type": "application/json"})
                reply = own.getresponse()
                reply.read()
                took.append(time.perf_counter() - started)
                assert reply.status == wanted, reply.status

        def crew(count: int) -> float:
            started = time.perf_counter()
            with ThreadPoolExecutor(connections) as pool:
                list(pool.map(ask, [count // connections] * connections))
            return time.perf_counter() - started

        crew(requests // 10)
        early = resident(service.pid)
        took.clear()
        seconds = crew(requests - requests // 10)
        took.sort()
        return {
            "kind": "serve",
            "command": f"python benchmarks/soak.py --requests {requests} --run RUN",
            "machine": {**machine(torch.device("cpu")), "cores": os.cpu_count()},
            "options": {"requests": requests, "connections": connections, "malformed": 0.1, "shape": shape},
            "arms": {
                "serve": {
                    "seconds": round(seconds, 3),
                    "requests_a_second": round(len(took) / seconds, 1),
                    "p50_ms": round(1000 * took[len(took) // 2], 2),
                    "p99_ms": round(1000 * took[len(took) * 99 // 100], 2),
                    "early_bytes": early,
                    "late_bytes": resident(service.pid),
                }
            },
        }
    finally:
        service.terminate()
        service.wait(30)


def resident(process: int) -> int:
    """Memory of a process in bytes; 0 where the system is not Linux."""
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in each way")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--requests", type=int, help="ask a service instead")
    parser.add_argument("--run", type=Path, help="folder of the run that is served")
    parser.add_argument("--out", type=Path, help="file for the JSON, beside standard output")
    arguments = parser.parse_args()
    if arguments.requests:
        line = json.dumps(served(arguments.run, arguments.requests))
        print(line)
        if arguments.out is not None:
            arguments.out.write_text(line + "\n")
        return
    ways = {}
    for way in arguments.ways:
        ways[way] = soak(WAYS[way], arguments.kills)
        print(way, ways[way], file=sys.stderr)
    result = {
        "ways": ways,
        "command": f"python benchmarks/soak.py --kills {arguments.kills}",
        "machine": {**machine(torch.device("cpu")), "cores": os.cpu_count(), "threads": 1},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    if any(way["runs with other bits"] for way in result["ways"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
