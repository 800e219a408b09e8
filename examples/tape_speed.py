#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: you want to know what a tape costs, and how large a batch may be.

    uv run examples/tape_speed.py           a minute or two
    uv run examples/tape_speed.py --json    one JSON object on stdout
    uv run examples/tape_speed.py --quick   a hundredth of it all

Prints, each beside its limit: how fast a reply of 1 KiB is appended, as a share of the
speed of a bare loop of os.write and fdatasync, in turn with it; a tape of 100,000
replies made ready to resume; a million items that take no time through `each`; and
ledger.py, as a whole process: `report` on 100,000 events, `ablate` of 1,000 runs of 3
attempts with 16 fix-ups. Linux only. Exit status 0; 1 if a limit is missed.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # where loop.py is

import loop

REPLY = {"event": "reply", "run": "r/1", "n": 1, "hook": "", "text": "x" * 800}
REPLY |= {"finish": "stop", "input_tokens": 9, "cost": None, "key": "k" * 16}
TASK = """
import loop
def case(n):
    def fix(state):
        return loop.Use(f"{state.text} {n}") if n == 9 else None
    fix.__name__ = f"case_{n}"
    return fix
FIXES = [*map(case, range(15)), loop.ask_afresh]
def judge(text):
    if "good" not in text:
        raise loop.Reject("it is not good")
    return text
def ask(item, run):
    return run(f"item {item}", judge, fixes=FIXES)
"""


def append(folder, size):
    """Return at what share of a bare loop's speed a tape grows, and nothing else."""
    how = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    bare, tape = os.open(folder / "bare", how, 0o600), loop.Tape(folder / "tape.jsonl")
    line, seconds = json.dumps({"v": 1, **REPLY}).encode() + b"\n", [[], []]
    for _ in range(size // 30):
        began = time.perf_counter()
        os.write(bare, line)
        os.fdatasync(bare)
        between = time.perf_counter()
        tape.write(REPLY)
        seconds[0].append(between - began)
        seconds[1].append(time.perf_counter() - between)
    return [statistics.median(seconds[0]) / statistics.median(seconds[1])]


def resume(folder, size):
    """Return the seconds to open a tape of so many replies, and the MB of it all."""
    path = folder / "long.jsonl"
    with path.open("w") as file:
        for n in range(size):
            facts = {"v": 1, **REPLY, "run": f"{n:016x}/1", "text": "x" * 840}
            file.write(json.dumps(facts) + "\n")
    began = time.perf_counter()
    loop.Tape(path)
    return [time.perf_counter() - began, most_held()]


def pass_through(_folder, size):
    """Return the seconds of ten times as many instant items, and the MB it added."""
    done = loop.Result(1, True, "accepted", None, [], loop.Spent())
    before, began = most_held(), time.perf_counter()
    items, call = range(size * 10), loop.script()
    for _ in loop.each(lambda _item, _run: done, items, call=call, watch=bool):
        pass
    return [time.perf_counter() - began, most_held() - before]


def most_held():
    """Return the MB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ledger(folder, size):
    """Return the seconds of `report` on so many events, and those of `ablate`."""
    (folder / "task.py").write_text(TASK)
    sys.path.insert(0, str(folder))
    import task

    seconds = []
    tool, began = ROOT / "examples" / "ledger.py", 0.0
    for items, command in (size // 13, ["report"]), (size // 100, ["ablate"]):
        tape = folder / f"{command[0]}.jsonl"
        replies = loop.script(*["bad", "worse", "good"] * items)
        for _ in loop.each(
            task.ask, range(items), call=replies, tape=tape, workers=1, watch=bool
        ):
            pass
        more = [tape] if command == ["report"] else [tape, f"{folder}/task.py:ask"]
        began = time.perf_counter()
        line = [sys.executable, tool, *command, *more]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return seconds


TOLD = {  # what a measurement returns: its names, units and limits
    append: [("append, in bare loops", "", 0.8)],
    resume: [("100,000 replies ready to resume", "s", 2), ("in memory", "MB", 250)],
    pass_through: [("a million items through each", "s", None), ("added", "MB", 150)],
    ledger: [("report on 100,000 events", "s", 3), ("ablate 1,000 runs", "s", 20)],
}


def main():
    """Measure, each in a process of its own, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="a hundredth of it all")
    parser.add_argument("--only", choices=[it.__name__ for it in TOLD], help="one part")
    options = parser.parse_args()
    if options.only:
        with tempfile.TemporaryDirectory() as folder:
            size = 1000 if options.quick else 100_000
            print(json.dumps(globals()[options.only](Path(folder), size)))
        return 0
    told, missed = {}, 0
    for measure, names in TOLD.items():
        line = [sys.executable, __file__, "--only", measure.__name__]
        line += ["--quick"] * options.quick
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE)
        for value, (name, unit, limit) in zip(
            json.loads(done.stdout), names, strict=True
        ):
            told[name] = round(value, 3)
            over = limit and (value < limit if measure is append else value > limit)
            missed += bool(over)
            beside = f"(limit {limit}){' MISSED' * bool(over)}" if limit else ""
            if not options.json:
                print(f"{name:34} {value:8.2f} {unit:3} {beside}")
    if options.json:
        print(json.dumps(told))
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
