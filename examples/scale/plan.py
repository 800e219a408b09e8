#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: you have a million items, and want to know what they take before you pay.

    uv run examples/scale/plan.py --items 1000000 --workers 1000 --seconds 2 --calls 1.5
    uv run examples/scale/plan.py --price 0.25 2 --tokens 500 50   what it costs, too
    uv run examples/scale/plan.py --rpm 10000 --tpm 4000000    what the endpoint allows
    uv run examples/scale/plan.py --json > here.json       one JSON object on stdout
    uv run examples/scale/plan.py --measured here.json     a plan without measuring
    uv run examples/scale/plan.py -n 100000                measures more: minutes

It measures this machine, then prints the plan, which README.md explains. An endpoint in
a process of its own answers at once. Measured are the items a second through `each` on
a tape, beside a bare loop (as many threads, each with an httpx client) and beside the
same with an os.write and an fdatasync for each reply, in turns; memory and bytes of
tape for an item; how many calls of 100 ms 8, 100 and 1,000 workers make in a process;
and how fast tapes are written, joined and made ready to resume. TMPDIR says on which
disk. By default these are 10,000 items, which takes a minute; with --quick it
is a tenth of it, and no more than 100 workers.

The plan says how many machines like the measured one you need, and what limits the
rate: the workers, the CPU time of the processes, or --rpm or --tpm, the requests and
the tokens a minute (of prompts and replies together) that your endpoint allows.

Promised: Each figure of the plan is computed from those above it and your arguments.
What has no price costs an unknown sum, not zero. A plan that goes past one machine, or
has more workers in a process than were measured, ends with a warning.

Not promised: That your endpoint allows so many calls, without --rpm and --tpm. Machines
are counted as if all of each core were for this; judges that compute take more. The
rates of a busy machine are too low, and the endpoint here takes a part of its cores,
which yours does not. Linux.

Exit status: 0; 1 where a record takes more than 300 bytes of memory, which fewer than
10,000 items do not tell; 2 for a wrong argument; 130 after Ctrl-C.
"""

import argparse
import gc
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import httpx

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(EXAMPLES.parent), str(EXAMPLES / "parts"), str(EXAMPLES / "bench")]

from batch import each
from concurrency import HEADERS, endpoint

import loop

MOST_MEMORY = 300  # bytes a record
BYTES_PER_TOKEN = 4
ROUNDS = 5
WORKERS = (8, 100, 1000)
Figures = dict[str, Any]

# The plan -----------------------------------------------------------------------------


def plan(job: Any, here: Figures) -> Figures:
    """Return what a job takes on machines as this one: the formulas of README.md."""
    calls, share = job.items * job.calls, job.workers / job.processes
    rates = rates_of(job, here)
    bottleneck = min(rates, key=lambda name: rates[name])
    rate, cpu = rates[bottleneck], here["cpu_per_item"]  # measured with a call an item
    fastest = min(rates[name] for name in rates if name != "CPU")
    tape, dollars = bytes_of_tape(job, here), None
    memory = here["memory_per_record"] * calls / job.processes
    cat_seconds = tape / here["cat_bytes_per_second"]
    if job.price:
        spent = [n * price for n, price in zip(job.tokens, job.price, strict=True)]
        dollars = calls * sum(spent) / 1e6
    found = {
        "calls": calls,
        "seconds": calls / rate,
        "bottleneck": bottleneck,
        "workers_enough": workers_for(rate, job),
        "cores_needed": rate * cpu,
        "machines": math.ceil(rate * cpu / here["cores"]),
        "fastest_processes": processes_for(fastest, job, here["calls_per_second"]),
        "fastest_machines": math.ceil(fastest * cpu / here["cores"]),
        "calls_per_minute": rate * 60,
        "tokens_per_minute": rate * 60 * sum(job.tokens),
        "dollars": dollars,
        "tape_bytes": tape,
        "memory_of_process": memory + here["memory_per_worker"] * share,
        "files_of_process": share + 10,
        "syncs_per_second_of_process": rate / job.processes,
        "cat_seconds": cat_seconds,
        "resume_seconds": cat_seconds + calls * here["resume_seconds_per_record"],
    }
    return found | {"warnings": warnings_of(job, here, found)}


def rates_of(job: Any, here: Figures) -> dict[str, float]:
    """Return the calls a second that each of these allows, by its name."""
    limit = limit_of_process(here["calls_per_second"], job.workers / job.processes)
    # Workers are the limit where nothing but the model takes time.
    rates = {"workers": job.workers / job.seconds, "CPU": limit * job.processes}
    if job.rpm:
        rates["--rpm"] = job.rpm / 60
    if job.tpm:
        rates["--tpm"] = job.tpm / sum(job.tokens) / 60
    return rates


def bytes_of_tape(job: Any, here: Figures) -> float:
    """Return the bytes of all tapes together."""
    prompt, reply = (tokens * BYTES_PER_TOKEN for tokens in job.tokens)
    item = (
        here["tape_per_item"]
        + here["prompts_per_item"] * prompt
        + here["replies_per_item"] * reply
    )
    call = (
        here["tape_per_call"]
        + here["prompts_per_call"] * prompt
        + here["replies_per_call"] * reply
    )
    return float(job.items * (item + job.calls * call))


def workers_for(rate: float, job: Any) -> int:
    """Return how many workers make so many calls a second: no more than there are."""
    return min(int(job.workers), math.ceil(round(rate * float(job.seconds), 6)))


def processes_for(rate: float, job: Any, measured: dict[str, float]) -> int:
    """Return the fewest processes that make so many calls a second, where none has more
    workers than were measured."""
    workers = workers_for(rate, job)
    return min(
        max(
            math.ceil(workers / int(number)),
            math.ceil(rate / limit_of_process(measured, int(number))),
        )
        for number in measured
    )


def warnings_of(job: Any, here: Figures, found: Figures) -> list[str]:
    """Return where this plan goes past one machine, or past what was measured."""
    warnings, share = list[str](), job.workers / job.processes
    most = max(map(int, here["calls_per_second"]))
    if share > most:
        warnings.append(
            f"{rounded(share)} workers in a process were not measured, and are taken "
            f"to be as fast as {most:,}; give --processes "
            f"{math.ceil(job.workers / most)} or more"
        )
    if found["machines"] > 1:
        alone = found["calls"] * here["cpu_per_item"] / here["cores"] / 3600
        warnings.append(
            f"these processes keep {rounded(found['cores_needed'])} cores busy, and a "
            f"machine like this has {here['cores']}; one alone takes "
            f"{rounded(alone)} hours or more"
        )
    return warnings


def limit_of_process(measured: dict[str, float], workers: float) -> float:
    """Return the most calls a second that a process makes with so many workers.

    It is what was measured for as many workers or the next higher number, as threads
    slow each other down; a few workers are as good as more, since what limited those
    here was the 100 ms of a call.
    """
    numbers = sorted(map(int, measured))
    enough = next((it for it in numbers if it >= workers), numbers[-1])
    return max(measured[str(it)] for it in numbers if it >= enough)


# What is measured ---------------------------------------------------------------------


def measure(here: Figures, url: str, slow_url: str, folder: Path, size: int) -> None:
    """Measure all, and add the figures by their names."""
    here["cores"] = os.cpu_count() or 1
    here |= measure_each(url, folder, size)
    say("workers")
    here |= measure_workers(slow_url, folder, WORKERS[: 2 if size < 10_000 else 3])
    say("tapes")
    here |= measure_bytes(folder)
    here |= measure_disk(folder, size)


def ask_number(item: int, run: Any) -> Any:
    """Task: the endpoint says 12, whatever it is asked."""
    return run(f"n? {item}", int)


def measure_each(url: str, folder: Path, size: int) -> Figures:
    """Measure `each` on a tape and two bare loops in turns, and the memory it takes."""
    tape, room, share = folder / "each", threading.Semaphore(0), size // ROUNDS
    options: Any = {"call": loop.chat("m", url, ""), "watch": bool}

    def items() -> Iterator[int]:
        for item in range(share * ROUNDS):
            room.acquire()  # there is room for the items of the present round
            yield item

    def take_share() -> None:
        room.release(share)
        for result in islice(results, share):
            result.unwrap()  # or the time means nothing

    record = 400
    list(each(ask_number, range(1000), tape=folder / "first", **options))
    call_bare(url, 200, folder / "bare", record)
    results = each(ask_number, items(), tape=tape, **options)
    before, seconds = memory_now(), list[tuple[float, ...]]()
    cpu = 0.0
    for done in range(0, share * ROUNDS, share):
        say(f"{done:,} of {size:,} items")
        bare = timed(call_bare, url, share)
        synced = timed(call_bare, url, share, folder / "bare", record)
        cpu -= time.process_time()
        seconds.append((bare, synced, timed(take_share)))
        cpu += time.process_time()
    taken = memory_now() - before
    return {
        "items": share * ROUNDS,
        "bare_per_second": share / median(bare for bare, _, _ in seconds),
        "synced_per_second": share / median(synced for _, synced, _ in seconds),
        "each_per_second": share / median(ours for _, _, ours in seconds),
        "each_of_bare": median(bare / ours for bare, _, ours in seconds),
        "each_of_synced": median(synced / ours for _, synced, ours in seconds),
        "cpu_per_item": cpu / (share * ROUNDS),
        "cores_busy": cpu / sum(ours for _, _, ours in seconds),
        "memory_per_record": taken / (share * ROUNDS),
        "tape_of_these": tape.stat().st_size / (share * ROUNDS),
    }


def call_bare(url: str, calls: int, path: Path | None = None, size: int = 0) -> None:
    """Make these calls in 8 threads, each with an httpx client of its own; with a path,
    put so many bytes on the disk for each reply."""
    numbers, reading = iter(range(calls)), threading.Lock()
    certificates = httpx.create_ssl_context()
    file = os.open(path or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def work() -> None:
        options: Any = {"verify": certificates, "timeout": 60, "headers": HEADERS}
        with httpx.Client(**options) as client:
            while True:
                with reading:
                    number = next(numbers, None)
                if number is None:
                    return
                message = {"role": "user", "content": f"n? {number}"}
                content = json.dumps({"model": "m", "messages": [message]}).encode()
                reply = client.post(f"{url}/chat/completions", content=content)
                int(json.loads(reply.content)["choices"][0]["message"]["content"])
                if path:
                    os.write(file, b"x" * size)
                    os.fdatasync(file)

    in_threads(work, 8)
    os.close(file)


def measure_workers(url: str, folder: Path, numbers: tuple[int, ...]) -> Figures:
    """Measure the calls a second of so many workers, where a call takes 100 ms."""
    call, rates, memory = loop.chat("m", url, ""), dict[str, float](), 0.0
    before = memory_now()
    for workers in numbers:
        options: Any = {"tape": folder / f"{workers} workers", "watch": bool}
        items = range(workers * 5)
        results = each(ask_number, items, call=call, workers=workers, **options)
        list(islice(results, workers))  # all have a connection now
        seconds = timed(list, islice(results, workers * 3))
        rates[str(workers)] = workers * 3 / seconds
        memory = (memory_now() - before) / workers
        list(results)
    return {"calls_per_second": rates, "memory_per_worker": memory}


def measure_bytes(folder: Path) -> Figures:
    """Measure the bytes of tape of an item and of each of its calls, without their
    texts, and how often it has the prompt and the reply."""

    def size_of(calls: int, prompt: int, reply: int) -> float:
        tape = folder / f"{calls} {prompt} {reply}"
        replies = loop.scripted(*["x" * reply] * calls * 10)
        options: Any = {"call": replies, "tape": tape, "workers": 1, "watch": bool}

        def task(item: str, run: Any) -> Any:
            seen = list[str]()

            def judge(text: str) -> str:
                seen.append(text)
                if len(seen) < calls:
                    raise loop.Reject("once more")
                return text

            return run(item, judge)

        list(each(task, [f"{n}{'p' * prompt}" for n in range(10)], **options))
        return tape.stat().st_size / 10

    one, two = size_of(1, 0, 1), size_of(2, 0, 1)
    prompts = [(size_of(n, 1000, 1) - size) / 1000 for n, size in ((1, one), (2, two))]
    replies = [(size_of(n, 0, 1001) - size) / 1000 for n, size in ((1, one), (2, two))]
    return {
        "tape_per_item": 2 * one - two,
        "tape_per_call": two - one,
        "prompts_per_item": round(2 * prompts[0] - prompts[1], 1),
        "prompts_per_call": round(prompts[1] - prompts[0], 1),
        "replies_per_item": round(2 * replies[0] - replies[1], 1),
        "replies_per_call": round(replies[1] - replies[0], 1),
    }


def measure_disk(folder: Path, size: int) -> Figures:
    """Measure fdatasync by one thread and by 8 at once, cat, and how long a tape takes
    until it is ready to resume."""
    file = os.open(folder / "syncs", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def sync() -> None:
        for _ in range(500):
            os.write(file, b"x" * 400)
            os.fdatasync(file)

    sync()  # what was written before goes to the disk now
    rates = [number * 500 / timed(in_threads, sync, number) for number in (1, 8)]
    os.close(file)
    tape = folder / "each"
    times = math.ceil(2e7 / tape.stat().st_size)
    with (folder / "joined").open("wb") as joined:
        cat = ["cat", *[str(tape)] * times]
        seconds = timed(partial(subprocess.run, cat, stdout=joined, check=True))
    opened = loop.Tape(tape)
    return {
        "syncs_per_second": rates[0],
        "syncs_per_second_of_8": rates[1],
        "cat_bytes_per_second": tape.stat().st_size * times / seconds,
        "resume_seconds_per_record": timed(opened.read_on) / (size // ROUNDS * ROUNDS),
    }


def in_threads(work: Any, number: int) -> None:
    """Do this in so many threads at once."""
    threads = [threading.Thread(target=work, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def timed(function: Any, *about: Any) -> float:
    """Return the seconds that this takes."""
    began = time.perf_counter()
    function(*about)
    return time.perf_counter() - began


def memory_now() -> float:
    """Return the bytes of memory that this process has now."""
    gc.collect()
    pages = Path("/proc/self/statm").read_text().split()[1]
    return float(pages) * resource.getpagesize()


def say(line: str) -> None:
    """Say on stderr how far it is."""
    print(f"measuring: {line}", file=sys.stderr, flush=True)


# What is printed ----------------------------------------------------------------------

LINES = {  # by its key: what a figure is, its unit, and how many are one of it
    "cores": ("cores of a machine", "", 1),
    "each_per_second": ("through each, on a tape", "items/s", 1),
    "bare_per_second": ("a bare loop", "items/s", 1),
    "synced_per_second": ("a bare loop with fdatasync", "items/s", 1),
    "each_of_bare": ("each, of a bare loop", "", 1),
    "each_of_synced": ("each, of one with fdatasync", "", 1),
    "cpu_per_item": ("CPU time an item, through each", "ms", 1e-3),
    "cores_busy": ("cores that this keeps busy", "", 1),
    "memory_per_record": (
        f"memory a record (above {MOST_MEMORY}: status 1)",
        "bytes",
        1,
    ),
    "memory_per_worker": ("memory a worker", "kB", 1e3),
    "tape_of_these": ("tape an item, of these", "bytes", 1),
    "tape_per_item": ("tape an item, without texts", "bytes", 1),
    "tape_per_call": ("and for each call", "bytes", 1),
    "prompts_per_item": ("and its prompt, times", "", 1),
    "prompts_per_call": ("and again for each call, times", "", 1),
    "replies_per_item": ("and the accepted reply, times", "", 1),
    "replies_per_call": ("and each reply, times", "", 1),
    "syncs_per_second": ("fdatasyncs, one thread", "a second", 1),
    "syncs_per_second_of_8": ("fdatasyncs, 8 threads", "a second", 1),
    "cat_bytes_per_second": ("cat", "MB/s", 1e6),
    "resume_seconds_per_record": ("ready to resume, a record", "us", 1e-6),
    "calls": ("calls", "", 1),
    "seconds": ("time", "hours", 3600),
    "workers_enough": ("workers that are enough for it", "", 1),
    "cores_needed": ("cores that it keeps busy", "", 1),
    "machines": ("machines for it", "", 1),
    "fastest_processes": ("processes, where CPU is no bottleneck", "", 1),
    "fastest_machines": ("machines, where CPU is no bottleneck", "", 1),
    "calls_per_minute": ("asked of the endpoint: calls a minute", "", 1),
    "tokens_per_minute": ("tokens a minute", "", 1),
    "dollars": ("money", "dollars", 1),
    "tape_bytes": ("tapes; joining takes the same again", "GB", 1e9),
    "memory_of_process": ("memory of a process, above its start", "MB", 1e6),
    "files_of_process": ("files that a process has open", "", 1),
    "syncs_per_second_of_process": ("fdatasyncs a second of a process", "", 1),
    "cat_seconds": ("to join the tapes", "s", 1),
    "resume_seconds": ("to make the joined tape ready to resume", "s", 1),
}


CURES = {  # by its bottleneck: what makes a plan faster
    "workers": "more of them are faster",
    "CPU": "of the processes: more of them are faster",
    "--rpm": "your endpoint allows no more requests",
    "--tpm": "your endpoint allows no more tokens",
}


def print_figures(figures: Figures) -> None:
    """Print these figures, a line for each."""
    for key, value in figures.items():
        if key == "bottleneck":
            print(f"{key:40} {value:>13} ({CURES[value]})")
        if key == "calls_per_second":
            for number, rate in value.items():
                name = f"calls of 100 ms, {number} workers"
                print(f"{name:40} {rate:13,.0f} a second, of {int(number) * 10:,}")
        if key not in LINES:
            continue
        name, unit, one = LINES[key]
        if value is None:
            print(f"{name:40} {'unknown':>13} (give --price)")
        else:
            print(f"{name:40} {rounded(value / one):>13} {unit}".rstrip())
    for warning in figures.get("warnings", []):
        print(f"warning: {warning}")


def rounded(number: float) -> str:
    """Return a number with three digits, or with all that it has before its point."""
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.3g}"


def number_above_0(text: str) -> float:
    """Return a number that is more than 0, and of some sense, for argparse."""
    number = float(text)
    if not 1e-9 < number < 1e9:
        raise ValueError
    return number


def price_of_tokens(text: str) -> float:
    """Return a number that is not negative, for argparse: what is your own costs 0."""
    number = float(text)
    if not 0 <= number < 1e9:
        raise ValueError
    return number


def calls_of_item(text: str) -> float:
    """Return a number that is 1 or more, for argparse: an item takes a call."""
    number = float(text)
    if not 1 <= number < 1e9:
        raise ValueError
    return number


def whole_number(text: str) -> int:
    """Return a whole number that is more than 0, and of some sense, for argparse."""
    if not 0 < int(text) < 1e15:
        raise ValueError
    return int(text)


# argparse has these names in its errors.
number_above_0.__name__ = "number (more than 0)"
price_of_tokens.__name__ = "price (0 or more)"
calls_of_item.__name__ = "number (1 or more)"
whole_number.__name__ = "whole number (1 or more)"


def arguments() -> argparse.Namespace:
    """Return the arguments, and end where one is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--items", type=whole_number, default=1_000_000, help="(1000000)")
    add("--workers", type=whole_number, default=1000, help="calls at once (1000)")
    add("--processes", type=whole_number, default=1, help="that share them (1)")
    add("--seconds", type=number_above_0, default=2.0, help="that a call takes (2)")
    add("--calls", type=calls_of_item, default=1.5, help="for an item (1.5)")
    of_call: Any = {"nargs": 2, "metavar": ("IN", "OUT")}
    add("--tokens", type=whole_number, default=[500, 50], **of_call, help="(500 50)")
    add("--price", type=price_of_tokens, **of_call, help="dollars a million tokens")
    add("--rpm", type=number_above_0, help="requests a minute that you may make")
    add("--tpm", type=number_above_0, help="tokens a minute, in and out")
    add("-n", type=whole_number, default=10_000, help="items to measure (10000)")
    add("--quick", action="store_true", help="the same as -n 1000")
    add("--measured", metavar="FILE", help="what --json printed before")
    add("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    options.n = 1000 if options.quick else options.n
    if options.processes > options.workers:
        parser.error(f"{options.workers} workers in {options.processes} processes")
    if options.n < 100:
        parser.error(f"-n {options.n}: give 100 or more")
    try:
        options.here = here_of(options)
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        why = f"{type(error).__name__}: {error}"
        parser.error(f"{options.measured} is nothing that --json printed: {why}")
    return options


def here_of(options: argparse.Namespace) -> Figures:
    """Return what --measured names, if a plan can be made of it, or nothing yet."""
    if not options.measured:
        return {}
    measured = json.loads(Path(options.measured).read_text())["measured"]
    # A file of before has no cores.
    here: Figures = {"cores": os.cpu_count() or 1} | measured
    plan(options, here)
    return here


def main() -> int:
    """Measure, plan and print."""
    options, was_stopped = arguments(), False
    here: Figures = options.here
    if not here:
        # A worker has a connection open, and so has the endpoint.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        folder = tempfile.TemporaryDirectory()
        try:
            with endpoint(0) as url, endpoint(0.1) as slow_url, folder as name:
                measure(here, url, slow_url, Path(name), options.n)
        except KeyboardInterrupt:
            was_stopped = True
    found = {"measured": here, "plan": {} if was_stopped else plan(options, here)}
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print_figures(here)
        print()
        print_figures(found["plan"])
    if was_stopped:
        return 130
    tells = here["items"] >= 10_000  # of fewer, the memory is mostly chance
    return int(tells and here["memory_per_record"] > MOST_MEMORY)


if __name__ == "__main__":
    raise SystemExit(main())
