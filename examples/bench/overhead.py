#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: you want to know what the loop itself costs, next to a model's call.

    uv run examples/bench/overhead.py           half a minute
    uv run examples/bench/overhead.py --json    one JSON object on stdout
    uv run examples/bench/overhead.py --quick   a few rounds of each

Prints, each beside its target:
- the loop's own CPU time for a reply that is accepted at once, and for one that is
  rejected and passes the whole default list; the call and the judge do next to nothing;
- the CPU time to import loop.py, over that of the standard library that it imports;
- the CPU time of calls one after the other through `chat`, and of a process from its
  start to its first accepted reply, each as a share of what the best bare loop of httpx
  that we know takes, in turn with it. The endpoint, on this machine, answers at once.
Each is the best of many rounds, as a busy machine only ever adds; of calls it is the
median share of 300 short rounds. A very busy machine adds to all of them. Bytecode is
cached, as by default. Linux and macOS. Exit status 0.
"""

import argparse
import ast
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from concurrency import ASK, HEADERS, endpoint

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # where loop.py is

import loop

BARE_START = """
import httpx
with httpx.Client(timeout=60) as client:
    ask = {"model": "m", "messages": [{"role": "user", "content": "n?"}]}
    reply = client.post("URL/chat/completions", json=ask)
    assert int(reply.json()["choices"][0]["message"]["content"]) == 12
"""
OUR_START = """
import loop
assert loop.run("n?", int, call=loop.chat("m", "URL", "")).unwrap() == 12
"""
TARGETS = {  # by the name of a figure: what it is, its unit, its target
    "accepted_us": ("a first reply, accepted", "us", 20),
    "rejected_us": ("a rejected reply, through the whole list", "us", 45),
    "import_ms": ("import, over what it imports", "ms", 10),
    "calls_ratio": ("calls one after the other, in bare loops", "", 1.15),
    "start_ratio": ("a process to its first reply, in bare ones", "", 1.15),
}
IMPORTS = (ast.Import, ast.ImportFrom)
GOOD = loop.Reply("5", "stop")


def accept(_messages: Any, **_settings: Any) -> loop.Reply:
    """A call whose replies are good."""
    return GOOD


def reject_twice() -> Callable[..., loop.Reply]:
    """Return a call each third of whose replies is good. No two of the bad ones are the
    same, so that none is read from a cache."""
    numbers = count()

    def reject_twice(_messages: Any, **_settings: Any) -> loop.Reply:
        number = next(numbers)
        if number % 3 == 2:
            return GOOD
        return loop.Reply(f"The answer is {number} or more.", "stop")

    return reject_twice


def time_runs(rounds: int) -> dict[str, float]:
    """Return the microseconds of a run whose first reply is accepted, and those that a
    rejected reply adds: the mean of one that is asked afresh and one with complaint."""

    def best(call: Callable[..., loop.Reply]) -> float:
        def do_run() -> None:
            loop.run("n?", int, call=call)

        timer = timeit.Timer(do_run, timer=time.process_time)
        return min(timer.repeat(rounds, 200)) / 200 * 1e6

    accepted = best(accept)
    return {
        "accepted_us": accepted,
        "rejected_us": (best(reject_twice()) - accepted) / 2,
    }


def time_calls(url: str, rounds: int) -> dict[str, float]:
    """Return the CPU time of calls in runs, in bare loops: the median share."""
    client = httpx.Client(timeout=60, headers=HEADERS)
    call = loop.chat("m", url, "")

    def call_bare() -> None:
        content = json.dumps(ASK).encode()
        reply = client.post(f"{url}/chat/completions", content=content)
        int(json.loads(reply.content)["choices"][0]["message"]["content"])

    def call_in_run() -> None:
        loop.run("n?", int, call=call).unwrap()

    bare = timeit.Timer(call_bare, timer=time.process_time)
    ours = timeit.Timer(call_in_run, timer=time.process_time)
    shares = [ours.timeit(10) / bare.timeit(10) for _ in range(rounds)]
    client.close()
    return {"calls_ratio": statistics.median(shares)}


def cpu_of_process(code: str, cache: str) -> float:
    """Return the CPU seconds of a fresh Python that runs this code."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-I", "-X", f"pycache_prefix={cache}", "-c", code]
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def time_starts(url: str, rounds: int) -> dict[str, float]:
    """Return what it takes to import loop.py, and to the first reply of a process."""
    source = (ROOT / "loop.py").read_text(encoding="utf-8")
    nodes = [it for it in ast.parse(source).body if isinstance(it, IMPORTS)]
    imports = "\n".join(map(ast.unparse, nodes[1:]))  # the first is of __future__
    codes = [imports, "import loop", BARE_START, OUR_START]
    codes = [code.replace("URL", url) for code in codes]
    with tempfile.TemporaryDirectory() as cache:
        for code in codes:
            cpu_of_process(code, cache)  # which fills the cache
        times = [[cpu_of_process(code, cache) for code in codes] for _ in range(rounds)]
    needed, imported, bare, ours = map(min, zip(*times, strict=True))
    return {"import_ms": (imported - needed) * 1e3, "start_ratio": ours / bare}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="a few rounds of each")
    options = parser.parse_args()
    figures = time_runs(5 if options.quick else 200)
    with endpoint(0) as url:
        figures |= time_calls(url, 10 if options.quick else 300)
        figures |= time_starts(url, 2 if options.quick else 20)
    figures = {name: round(figures[name], 2) for name in TARGETS}
    if options.json:
        print(json.dumps(figures))
        return
    for name, (what, unit, target) in TARGETS.items():
        print(f"{what:43} {figures[name]:6.2f} {unit:2} (target {target})")


if __name__ == "__main__":
    main()
