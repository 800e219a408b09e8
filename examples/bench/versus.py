#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx==0.28.1", "rich"]
# ///
"""Situation: you use something else today, and want to know what would change.

uv run examples/bench/versus.py                          all
uv run examples/bench/versus.py --quick                  fewer rounds
uv run examples/bench/versus.py --peers loop.py httpx    some of them
"""

import argparse
import asyncio
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers import PEERS

HERE = Path(__file__).resolve().parent
REFERENCE = "httpx"
LEVELS = (8, 100, 1000)
NUMBERS = count(1)  # of runs
# Not the file itself as a script: Python would compile it at each start.
MAIN = ("-c", "import versus_peer; versus_peer.main()")


# The processes ------------------------------------------------------------------------


class Child:
    """A peer in a process and an environment of its own."""

    def __init__(self, name: str, url: str):
        self.name, self.url = name, f"{url}/{name}"
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # What it logs is of interest only where it does not start.
        self.process = subprocess.Popen(
            self.command(), **pipes, stderr=subprocess.DEVNULL, text=True, cwd=HERE
        )
        self.about = self.answer()

    def command(self) -> list[str]:
        """Return what starts it: here where its packages are installed, or by uv."""
        packages = PEERS[self.name][1].split()
        command = [sys.executable]
        if not all(map(is_installed, packages)):
            command = ["uv", "run", "--quiet", "--isolated", "--no-project"]
            command += ["--python", platform.python_version()]
            command += [f"--with={package}" for package in packages] + ["python"]
        return [*command, *MAIN, self.name]

    def answer(self) -> Any:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"ended with status {self.process.wait()}")
        return json.loads(line)

    def do(self, *command: Any) -> Any:
        """Return what a function of peers.py returns there."""
        print(json.dumps(command), file=self.process.stdin, flush=True)
        answer = self.answer()
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def do_afresh(self, *command: Any) -> Any:
        """Return what a function of peers.py returns in a new process."""
        command = (self.about["executable"], *MAIN, *map(str, command))
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        done = subprocess.run(command, **pipes, check=True, cwd=HERE)
        return json.loads(done.stdout)

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.terminate()
        self.process.wait()


def is_installed(package: str) -> bool:
    """Return whether this version of a package is installed here."""
    name, _, version = package.partition("==")
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name.partition("[")[0]) == version
    return False


def start_server() -> Any:
    """Start the endpoint; return its process and address."""
    command = [sys.executable, str(HERE / "versus_server.py")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return server, f"http://127.0.0.1:{int(server.stdout.readline())}"  # type: ignore[union-attr]


# Speed --------------------------------------------------------------------------------


def measure_once(child: Child, runs: int) -> dict[str, float]:
    """Return one round of what is measured one at a time: CPU seconds."""
    fast = f"{child.url}/fast/v1"
    started = child.do_afresh("start_cold", child.name, fast, next(NUMBERS))
    did = child.do("make_runs", fast, numbers(runs), runs)
    return started | {"one at a time": did["cpu"] / runs}


def measure_at_once(child: Child, runs: int, threads: bool) -> dict[str, float]:
    """Return one round of so many runs at once: seconds, and CPU seconds a run."""
    slow = f"{child.url}/slow/v1"
    did = child.do("make_runs_at_once", slow, numbers(runs), runs, threads)
    return {"wall": did["wall"], "cpu": did["cpu"] / runs}


def numbers(runs: int) -> int:
    """Return the first of so many numbers of runs that nobody had."""
    return [next(NUMBERS) for _ in range(runs)][0]


def measure_speed(children: list[Child], sizes: dict[str, Any]) -> dict[str, Any]:
    """Return the rounds of each figure: {figure: {row: [value, ...]}}."""
    rounds: dict[str, Any] = {}

    def note(row: str, figures: dict[str, float], suffix: str = "") -> None:
        for figure, value in figures.items():
            rounds.setdefault(figure + suffix, {}).setdefault(row, []).append(value)

    for child in children:  # so that what is imported late is there
        child.do("make_runs", f"{child.url}/fast/v1", numbers(5), 5)
        for threads in (False, True):
            measure_at_once(child, 2, threads)
    for number in range(sizes["rounds"]):
        for child in children:
            say(f"one at a time, round {number + 1}: {child.name}")
            note(child.name, measure_once(child, sizes["runs"]))
    for level in LEVELS:
        for number in range(sizes["rounds at once"][level]):
            for child in children:
                say(f"{level} at once, round {number + 1}: {child.name}")
                note(child.name, measure_at_once(child, level, False), f" {level}")
                if child.name in ("loop.py", REFERENCE):
                    row = f"{child.name}, threads"
                    note(row, measure_at_once(child, level, True), f" {level}")
    return rounds


def summarise(rounds: dict[str, Any]) -> dict[str, Any]:
    """Return {row: {figure: median, "figure ratio": median of ratios in a round}}."""
    rows: dict[str, Any] = {}
    for figure, by_row in rounds.items():
        for row, values in by_row.items():
            facts = rows.setdefault(row, {})
            facts[figure] = statistics.median(values)
            reference = by_row.get(REFERENCE + row[row.find(",") :] * ("," in row))
            if reference:
                ratios = [a / b for a, b in zip(values, reference, strict=True)]
                facts[f"{figure} ratio"] = statistics.median(ratios)
    return rows


# Behaviour ----------------------------------------------------------------------------


def measure_behaviour(children: list[Child], seconds: float) -> dict[str, Any]:
    """Return how each scenario ended for each peer, and what the server saw of it."""

    def behave(child: Child) -> Any:
        say(f"behaviour: {child.name}")
        found = child.do_afresh("behave", child.name, child.url, seconds)
        for scenario, end in found["ends"].items():
            with urlopen(f"{child.url}/{scenario}") as response:
                noted = json.load(response).get("requests", [])
            end["requests"] = len(noted)
            end["bytes"] = [it["bytes"] for it in noted]
            end["waits"] = [it["wait"] for it in noted[1:]]
        return found

    with ThreadPoolExecutor(4) as pool:  # mostly, they wait
        return dict(zip([it.name for it in children], pool.map(behave, children)))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


QUICK = {"rounds": 2, "runs": 40, "rounds at once": {8: 2, 100: 2, 1000: 1}}
FULL = {"rounds": 5, "runs": 100, "rounds at once": {8: 5, 100: 5, 1000: 3}}


async def ask_by_sockets(url: str, runs: int) -> float:
    """Return the seconds for runs at once with no client at all: what the server takes."""
    port = int(url.rpartition(":")[2])

    async def one(number: int) -> None:
        body = f'{{"messages": "(run {number})"}}'.encode()
        head = f"POST /sockets/slow/v1 HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(head.encode() + body)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"}}")
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one(next(NUMBERS)) for _ in range(runs)))
    return time.perf_counter() - began


def parse_arguments() -> argparse.Namespace:
    """Return the options; end with status 2 where they cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="+", metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true", help="all of it, on stdout")
    options = parser.parse_args()
    options.peers = options.peers or [*PEERS]
    if wrong := set(options.peers) - set(PEERS):
        parser.error(f"{', '.join(wrong)}: the peers are {', '.join(PEERS)}")
    return options


def main() -> int:
    options = parse_arguments()
    with ExitStack() as stack:
        server, url = start_server()
        stack.callback(server.kill)
        children: list[Child] = []
        left_out: dict[str, str] = {}
        for name in options.peers:
            say(f"{name}: starts")
            try:
                children.append(Child(name, url))
                stack.callback(children[-1].close)
            except (OSError, RuntimeError) as error:
                left_out[name] = str(error)
        rounds = measure_speed(children, QUICK if options.quick else FULL)
        found = {"behaviour": measure_behaviour(children, 10 if options.quick else 20)}
        found |= {"speed": summarise(rounds), "rounds": rounds, "left out": left_out}
        found["sockets 1000"] = asyncio.run(ask_by_sockets(url, 1000))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    status = 130
    with suppress(KeyboardInterrupt):
        status = main()
    sys.exit(status)
