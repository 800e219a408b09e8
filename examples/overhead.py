#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = []
# ///
"""Situation: you want to know what the loop itself costs, next to a model call.

    uv run examples/overhead.py             a few seconds
    uv run examples/overhead.py --json      one JSON object on stdout

Prints the loop's own time for a reply that is accepted at once, and for one that is
refused and passes the whole default list; the call and the judge do next to nothing.
Then the time to import loop.py, over the standard library's modules that it imports.
Each is the best of many rounds: a busy machine only ever adds. Exit status 0.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import timeit
from contextlib import suppress
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # where loop.py is

import loop

GOOD, BAD = loop.Reply("5", "stop"), loop.Reply("The answer is five.", "stop")


def accept(messages, **settings):
    """A call whose first reply is good."""
    return GOOD


def refuse(messages, **settings):
    """A call whose first reply is refused, and the second is good."""
    return GOOD if settings else BAD


def best(function, rounds):
    """Return the microseconds of one go, in the best of many rounds of 200."""
    return min(timeit.repeat(function, number=200, repeat=rounds)) / 200 * 1e6


def importing(code):
    """Return the milliseconds that a fresh Python takes, at best, to run this."""
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{code}"
    command = [sys.executable, "-I", "-c", code]
    go = partial(subprocess.run, command, check=True)
    return min(timeit.repeat(go, number=1, repeat=30)) * 1e3


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no import")
    options = parser.parse_args()
    rounds = 5 if options.quick else 200
    judge = best(lambda: int("5"), rounds)
    accepted = best(lambda: loop.run("n?", int, call=accept), rounds) - judge
    refused = best(lambda: loop.run("n?", int, call=refuse), rounds) - accepted
    told = {"accepted_us": round(accepted, 1), "refused_us": round(refused, 1)}
    if not options.quick:
        lines = (ROOT / "loop.py").read_text().splitlines()
        needs = [x for x in lines if re.match("(import|from (?!__future__)) ?", x)]
        own = importing("import loop") - importing("\n".join(needs))
        told["import_ms"] = round(own, 1)
    if options.json:
        print(json.dumps(told))
        return
    print(f"a first reply, accepted                 {told['accepted_us']:5.1f} us")
    print(f"a refused reply, through the whole list {told['refused_us']:5.1f} us")
    if "import_ms" in told:
        print(f"import, over what it imports            {told['import_ms']:5.1f} ms")


if __name__ == "__main__":
    with suppress(AttributeError):  # there is none on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as of `| head`: just end
    main()
