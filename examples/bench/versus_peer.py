#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# ///
"""Situation: versus.py runs each peer in a process of its own: this is what it does.

    uv run examples/bench/versus_peer.py --help

versus.py starts it by `main`. With the name of a peer it reads commands, [function,
argument ...] as JSON in a line of stdin, and prints an answer in a line of JSON. With a
function, the name of a peer and arguments it does that one thing, and prints the same.
"""

import json
import sys
from typing import Any

from peers import KEY, NUMBER, PEERS, PERSON, TASKS

# Nothing else is imported here, as it would count in the cold start of each peer.
ASKS: dict[Any, Any] = {}  # made once, as in a service
ANSWERS: Any = sys.stdout

# Speed --------------------------------------------------------------------------------


def make_runs(name: str, url: str, first: int, runs: int) -> dict[str, float]:
    """Make runs, one at a time; return the CPU time and the time, in seconds."""
    from time import perf_counter, process_time

    ask = ASKS.get((name, url)) or PEERS[name].function(url, PERSON, None, False)
    ASKS[name, url] = ask
    cpu, wall = process_time(), perf_counter()
    for number in range(first, first + runs):
        check(ask(f"{TASKS[PERSON]} (run {number})")[0])
    return {"cpu": process_time() - cpu, "wall": perf_counter() - wall}


def make_runs_at_once(
    name: str, url: str, first: int, runs: int, threads: bool
) -> dict[str, float]:
    """Make so many runs, all at once; return the CPU time and the time."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor
    from time import perf_counter, process_time

    prompts = [f"{TASKS[PERSON]} (run {first + it})" for it in range(runs)]

    async def all_at_once() -> Any:
        aask = PEERS[name].function(url, PERSON, None, True)
        began = process_time(), perf_counter()
        values = await asyncio.gather(*map(aask, prompts))
        return began, values

    if threads:
        ask = PEERS[name].function(url, PERSON, None, False)
        began = process_time(), perf_counter()
        with ThreadPoolExecutor(runs) as pool:
            values = list(pool.map(ask, prompts))
        took = process_time() - began[0], perf_counter() - began[1]
    else:
        began, values = asyncio.run(all_at_once())
        took = process_time() - began[0], perf_counter() - began[1]
    for value, _ in values:
        check(value)
    return {"cpu": took[0], "wall": took[1]}


def check(value: Any) -> None:
    """Raise where this is not the person who was asked for."""
    if plain(value) != {"name": "Ada Lovelace", "age": 36}:
        raise AssertionError(f"a wrong value: {value!r}")


def plain(value: Any) -> Any:
    """Return a value without pydantic around it."""
    return value.model_dump() if hasattr(value, "model_dump") else value


def start_cold(name: str, url: str, number: str) -> dict[str, float]:
    """Import what a peer needs, and make a run; return the CPU seconds of the imports,
    and of this process from its start to the value."""
    from importlib import import_module
    from time import process_time

    began = process_time()
    for module in PEERS[name].imports.split():
        import_module(module)
    imports = process_time() - began
    ask = PEERS[name].function(url, PERSON, None, False)
    check(ask(f"{TASKS[PERSON]} (run {number})")[0])
    return {"import": imports, "cold start": process_time()}


# Behaviour ----------------------------------------------------------------------------

GROWTH = 16  # replies, the last of which is good
CANCELLED = 120  # calls
SCENARIOS = (
    *("growth", "forever", "400", "401", "401-quoted", "429-told", "429", "500"),
    *("beside", "broken", "half", "number"),
)


def behave(name: str, url: str, seconds: str) -> dict[str, Any]:
    """Return how each scenario ended for the user, each cut after these seconds."""
    import asyncio
    import logging

    log: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info and record.exc_info[1]
            log.append(f"{record.name}: {record.getMessage()} {record.args} {error!r}")

    logging.basicConfig(level=logging.DEBUG, handlers=[Keep()])
    PEERS[name].function(
        url, PERSON, None, True
    )  # imports all, so that its loggers are there
    for logger in map(logging.getLogger, [*logging.root.manager.loggerDict]):
        logger.setLevel(logging.DEBUG)
        logger.propagate = True

    async def all_of_them() -> Any:
        ways = [live_through(name, url, it, float(seconds)) for it in SCENARIOS]
        ends = await asyncio.gather(*ways)
        return dict(zip(SCENARIOS, ends, strict=True)) | {
            "cancel": await cancel_and_ask_again(name, f"{url}/cancel")
        }

    ends = asyncio.run(all_of_them())
    leaking = sorted({it.partition(":")[0] for it in log if KEY in it})
    return {"ends": ends, "lines logged": len(log), "logged by": leaking}


async def live_through(name: str, url: str, scenario: str, seconds: float) -> Any:
    """Return how one scenario ended, and where the key is found in what came of it."""
    import asyncio

    want = NUMBER if scenario == "number" else PERSON
    most = GROWTH if scenario == "growth" else None
    aask = PEERS[name].function(f"{url}/{scenario}/v1", want, most, True)
    task = asyncio.ensure_future(aask(TASKS[want]))
    if not (await asyncio.wait({task}, timeout=seconds))[0]:
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        return {"end": "cut", "key": []}
    if error := task.exception():
        why = " ".join(str(error).split())[:300].replace(KEY, "(KEY)")
        return {"end": type(error).__name__, "why": why, "key": key_in_error(error)}
    value, kept = task.result()
    if value is None:
        why = str(getattr(kept, "why", ""))
        return {"end": "no value", "why": why, "key": key_in_object(kept)}
    return {"end": "value", "value": plain(value), "key": key_in_object(kept)}


def key_in_error(error: BaseException) -> list[str]:
    """Return where the key is found: what an error says, and what is made of it."""
    from traceback import TracebackException, format_exception

    lines = TracebackException.from_exception(error, capture_locals=True).format()
    texts = {
        "text": f"{error} {error!r}",
        "traceback": "".join(format_exception(type(error), error, error.__traceback__)),
        "locals": "".join(lines),  # as error trackers send them
        "pickle": pickled(error),
    }
    return [place for place, text in texts.items() if KEY in text]


def key_in_object(kept: Any) -> list[str]:
    """Return where the key is found in what a user would keep."""
    texts = {"text": f"{kept} {kept!r}", "pickle": pickled(kept)}
    return [place for place, text in texts.items() if KEY in text]


def pickled(kept: Any) -> str:
    """Return the pickle of an object as a text; nothing where it cannot be pickled."""
    import pickle

    try:
        return pickle.dumps(kept).decode("latin-1")
    except Exception:  # noqa: BLE001
        return ""


async def cancel_and_ask_again(name: str, url: str) -> dict[str, Any]:
    """Cancel calls that wait for their reply, and ask once more; return what came."""
    import asyncio
    from urllib.request import ProxyHandler, build_opener

    def looked_up() -> Any:
        with build_opener(ProxyHandler({})).open(url) as response:
            return json.load(response)

    async def wait_until(is_so: Any) -> Any:
        for _ in range(150):
            noted = await asyncio.to_thread(looked_up)
            if is_so(noted):
                break
            await asyncio.sleep(0.1)
        return noted

    aask = PEERS[name].function(f"{url}/v1", PERSON, None, True)
    tasks = [asyncio.ensure_future(aask(TASKS[PERSON])) for _ in range(CANCELLED)]
    noted = await wait_until(lambda noted: len(noted.get("requests", ())) >= CANCELLED)
    for task in tasks:
        task.cancel()
    _, going_on = await asyncio.wait(tasks, timeout=10)
    last = asyncio.ensure_future(aask(TASKS[PERSON]))
    done, _ = await asyncio.wait({last}, timeout=10)
    end = "hangs"
    if done:
        end = type(last.exception()).__name__ if last.exception() else "value"
    open_then = (await wait_until(lambda noted: noted["open"] <= 1))["open"]
    sent = len(noted.get("requests", ()))
    return {"end": end, "sent": sent, "going on": len(going_on), "open": open_then}


# The process --------------------------------------------------------------------------


FUNCTIONS = (make_runs, make_runs_at_once, start_cold, behave)
COMMANDS: dict[str, Any] = {it.__name__: it for it in FUNCTIONS}


def answer_commands(name: str) -> None:
    """Answer commands, [function, argument ...] in a line, until stdin ends."""
    from importlib.metadata import version

    names = [
        it.partition("==")[0].partition("[")[0] for it in PEERS[name].packages.split()
    ]
    about: dict[str, Any] = {"python": sys.version, "executable": sys.executable}
    about["versions"] = {it: version(it) for it in names}
    print(json.dumps(about), file=ANSWERS, flush=True)
    for line in sys.stdin:
        function, *arguments = json.loads(line)
        try:
            answer = COMMANDS[function](name, *arguments)
        except Exception as error:  # noqa: BLE001
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), file=ANSWERS, flush=True)


def main() -> None:
    """Do what the arguments of this process say."""
    global ANSWERS
    ANSWERS, sys.stdout = sys.stdout, sys.stderr  # whatever a framework prints
    if len(sys.argv) == 2:
        answer_commands(sys.argv[1])
    else:
        function, name, *arguments = sys.argv[1:]
        print(json.dumps(COMMANDS[function](name, *arguments)), file=ANSWERS)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
