#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: you want to know what a tape costs, and how large a batch may be.

    uv run examples/bench/tape_speed.py           two minutes
    uv run examples/bench/tape_speed.py --json    one JSON object on stdout
    uv run examples/bench/tape_speed.py --quick   a hundredth of it all

Prints each figure beside its limit: how fast a reply of 1 KiB is appended, as a share
of the speed of a bare os.write and fdatasync of the same bytes, in turn; a tape of
100,000 replies made ready to resume; another process's record read on; a million items
that take no time through `each`; and ledger.py, as whole processes: `report` on 100,000
events, and with the task on 1,000 runs of 3 attempts with 16 fix-ups. Linux only. Exit
status: 0; 1 where a limit is missed; 130 after Ctrl-C.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(EXAMPLES.parent), str(EXAMPLES / "parts")]  # loop.py, batch.py

import batch

import loop

REPLY = {"event": "reply", "run": "r/1", "n": 1, "hook": "", "text": "x" * 800}
REPLY |= {"finish": "stop", "input_tokens": 9, "cost": None, "key": "k" * 16}
TASK = """
import loop

def case(number):
    def fix(state):
        return loop.Use(f"{state.text} {number}") if number == 9 else None
    fix.__name__ = f"case_{number}"
    return fix

def ask_again(state):
    return loop.Ask(state.task)

FIXES = [*map(case, range(15)), ask_again]

def judge(text):
    if "good" not in text:
        raise loop.Reject("it is not good")
    return text

def ask(item, run):
    return run(f"item {item}", judge, fixes=FIXES)
"""


def measure_append(folder, size):
    """Return the speed at which a tape grows, as a share of that of a bare loop."""
    bare = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    tape = loop.Tape(folder / "tape.jsonl")
    tape.write(REPLY)
    line = (folder / "tape.jsonl").read_bytes()  # as long as all that follow
    seconds_bare, seconds_tape = [], []
    for _ in range(size // 30):
        began = time.perf_counter()
        os.write(bare, line)
        os.fdatasync(bare)
        between = time.perf_counter()
        tape.write(REPLY)
        seconds_bare.append(between - began)
        seconds_tape.append(time.perf_counter() - between)
    return [statistics.median(seconds_bare) / statistics.median(seconds_tape)]


def measure_resume(folder, size):
    """Return the seconds to make a tape of so many replies ready, and the MB it takes.

    Last, the microseconds to take in a record that another process appended.
    """
    path = folder / "long.jsonl"
    records = ({"v": 2, **REPLY, "run": f"{n:016x}/1"} for n in range(size))
    with path.open("w") as file:
        file.writelines(f"\n{json.dumps(record)}\n" for record in records)
    before, began = most_memory(), time.perf_counter()
    tape = loop.Tape(path)
    tape.read_on()
    results = [time.perf_counter() - began, most_memory() - before]
    other, took = loop.Tape(path), []
    for _ in range(200):
        other.write(REPLY)
        began = time.perf_counter()
        tape.read_on()
        took.append(time.perf_counter() - began)
    return [*results, statistics.median(took) * 1e6]


def measure_batch(_folder, size):
    """Return the seconds of ten times as many instant items, and the MB it added."""
    done = loop.Result(1, True, "accepted", None, [], loop.Spent())
    before, began = most_memory(), time.perf_counter()
    items, call = range(size * 10), loop.scripted()
    for _ in batch.each(lambda _item, _run: done, items, call=call, watch=bool):
        pass
    return [time.perf_counter() - began, most_memory() - before]


def most_memory():
    """Return the MB that this process has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_ledger(folder, size):
    """Return the seconds of `report` on so many events, and those with the task."""
    (folder / "task.py").write_text(TASK)
    sys.path.insert(0, str(folder))
    import task

    seconds = []
    for items, more in (size // 18, []), (size // 100, [f"{folder}/task.py:ask"]):
        tape = folder / f"{items}.jsonl"
        replies = loop.scripted(*["bad", "worse", "good"] * items)
        options = {"call": replies, "tape": tape, "workers": 1, "watch": bool}
        for _ in batch.each(task.ask, range(items), **options):
            pass
        line = [sys.executable, EXAMPLES / "ledger.py", "report", tape, *more]
        began = time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return seconds


FIGURES = {  # what a measurement returns: names, units and limits
    measure_append: [("append, of a bare loop's speed", "", 0.9)],
    measure_resume: [
        ("100,000 replies ready to resume", "s", 2),
        ("memory of that", "MB", 250),
        ("a record of another process", "us", None),
    ],
    measure_batch: [
        ("a million items through each", "s", None),
        ("memory of these", "MB", 150),
    ],
    measure_ledger: [
        ("report on 100,000 events", "s", 3),
        ("report with the task on 1,000 runs", "s", 20),
    ],
}


def measure_all(options):
    """Yield each figure with its name, unit, limit and whether that was missed."""
    for measure, figures in FIGURES.items():  # each in a process of its own
        line = [sys.executable, __file__, "--only", measure.__name__]
        line += ["--quick"] * options.quick
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE)
        for value, (name, unit, limit) in zip(
            json.loads(done.stdout), figures, strict=True
        ):
            least = measure is measure_append
            missed = limit is not None and (value < limit if least else value > limit)
            yield name, round(value, 3), unit, limit, missed


def main():
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [measure.__name__ for measure in FIGURES]
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="a hundredth of it all")
    parser.add_argument("--only", choices=names, help="a measurement, as a JSON list")
    options = parser.parse_args()
    if options.only:
        with tempfile.TemporaryDirectory() as folder:
            size = 1000 if options.quick else 100_000
            print(json.dumps(globals()[options.only](Path(folder), size)))
        return 0
    found, any_missed = {}, False
    for name, value, unit, limit, missed in measure_all(options):
        found[name] = value
        any_missed = any_missed or missed
        if not options.json:
            beside = "" if limit is None else f"(limit {limit})"
            print(f"{name:34} {value:9.2f} {unit:3} {beside}{' MISSED' * missed}")
    if options.json:
        print(json.dumps(found))
    return int(any_missed)


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    raise SystemExit(status)
