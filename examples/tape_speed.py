#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: you want to know what a tape costs, and how large a batch may be.

    uv run examples/tape_speed.py           a minute or two
    uv run examples/tape_speed.py --json    one JSON object on stdout

Prints: the time to append a reply of 1 KiB, against the barest loop of os.write and
fdatasync of the same bytes, one after the other; a tape of 100,000 replies made ready to
resume; a million items that take no time, through `each`; ledger.py's report on 100,000
events, and its ablation of 1,000 runs of 3 attempts with 16 fix-ups. POSIX only. The
files go to a folder that is taken away again. Exit status 0; 1 if a limit is missed.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # where loop.py is

import loop

REPLY = {"run": "r/1", "n": 1, "hook": "", "text": "x" * 800, "key": "k" * 16}
REPLY = {"event": "reply", **REPLY, "finish": "stop", "input_tokens": 9, "cost": None}
TASK = """
import loop
def fix(n):
    def fix(state):
        return loop.Use(f"{state.text} {n}") if n == 9 else None
    fix.__name__ = f"case_{n}"
    return fix
FIXES = [*map(fix, range(15)), loop.ask_afresh]
def judge(text):
    if "good" not in text:
        raise loop.Reject("it is not good")
    return text
def ask(item, run):
    return run(f"item {item}", judge, fixes=FIXES[:])
"""


def append(folder):
    """Return the share of a bare loop's speed at which a tape appends."""
    how = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    bare, tape = os.open(folder / "bare", how, 0o600), loop.Tape(folder / "tape.jsonl")
    line, seconds = json.dumps({"v": 1, **REPLY}).encode() + b"\n", [[], []]
    for _ in range(3000):
        began = time.perf_counter()
        os.write(bare, line)
        os.fdatasync(bare)
        between = time.perf_counter()
        tape.write(REPLY)
        seconds[0].append(between - began)
        seconds[1].append(time.perf_counter() - between)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def grown():
    """Return the MB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resume(folder):
    """Return the seconds, and the MB of it all, to open a tape of 100,000 replies."""
    path = folder / "long.jsonl"
    with path.open("w") as file:
        for n in range(100_000):
            fact = {"v": 1, **REPLY, "run": f"{n:016x}/1", "text": "x" * 840}
            file.write(json.dumps(fact) + "\n")
    began = time.perf_counter()
    assert loop.Tape(path).unasked == 100_000
    return time.perf_counter() - began, grown()


def million(folder):
    """Return the seconds, and the MB over the start, of a million instant items."""
    done = loop.Result(1, True, "accepted", None, [], loop.Spent())
    before, began, task = grown(), time.perf_counter(), lambda item, run: done
    results = loop.each(task, range(1_000_000), call=loop.script(), watch=bool)
    assert sum(map(bool, results)) == 1_000_000
    return time.perf_counter() - began, grown() - before


def apart(queue, measure, folder):
    """Put what a function measures in a queue: for a process of its own."""
    queue.put(measure(folder))


def alone(measure, folder):
    """Return what a function measures in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    queue = fresh.SimpleQueue()
    process = fresh.Process(target=apart, args=(queue, measure, folder))
    process.start()
    told = queue.get()
    process.join()
    return told


def ledger(folder, *command):
    """Return the seconds that a command of ledger.py takes, its start included."""
    began = time.perf_counter()
    command = [sys.executable, ROOT / "examples" / "ledger.py", *command]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def runs(path, task, items):
    """Write a tape of runs of three attempts; return the number of its events."""
    replies = loop.script(*["bad", "worse", "good"] * items)
    for _ in loop.each(
        task, range(items), call=replies, tape=path, workers=1, watch=bool
    ):
        pass
    return sum(1 for _ in path.open())


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.py").write_text(TASK)
        sys.path.insert(0, name)
        import task

        (opened, held), (passed, more) = (alone(it, folder) for it in (resume, million))
        runs(folder / "runs.jsonl", task.ask, 1000)
        events = runs(folder / "events.jsonl", task.ask, 7700)
        told = [
            ("append, of a bare loop's speed", append(folder), "", 0.8),
            ("100,000 replies ready to resume", opened, "s", 2),
            ("    memory, of all", held, "MB", 250),
            ("a million items through each", passed, "s", None),
            ("    memory, over the start", more, "MB", 150),
            (
                f"report on {events} events",
                ledger(folder, "report", "events.jsonl"),
                "s",
                3,
            ),
            (
                "ablate 1,000 runs, 16 fix-ups",
                ledger(folder, "ablate", "runs.jsonl", "task.py:ask"),
                "s",
                20,
            ),
        ]
    if options.json:
        print(json.dumps({name.strip(): round(value, 3) for name, value, *_ in told}))
    missed = 0
    for name, value, unit, limit in told:
        if not options.json:
            print(f"{name:34} {value:8.2f} {unit:3} {limit or ''}")
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
