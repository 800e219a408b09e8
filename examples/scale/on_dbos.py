#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "dbos==3.4.0"]
# ///
"""Situation: your batch has to go on after a machine died, and you have DBOS.

    uv run examples/scale/on_dbos.py                       the demonstration: a minute
    uv run examples/scale/on_dbos.py "Ada is 36." "Bo is 7."     your items, your model

The loop is the workflow, each call a step, each wait DBOS's own sleep: the lines to
copy are under the heading "The glue". `task` is as in the other examples. With items it
asks what OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL name. Kill it, start it
again: it goes on. Its database is on_dbos.sqlite in this folder; for many machines, the
Postgres that DBOS_SYSTEM_DATABASE_URL names. There, give each machine a DBOS__VMID of
its own, and keep it: what a dead machine left is done when one with its DBOS__VMID
starts. Workers that have the same items share them.

The demonstration has an endpoint that counts, and starts itself as workers. You see:

- A worker that was killed with -9 in its calls pays again for those in flight, at most.
- One that was killed in a wait, for a 429, waits on: it does not begin the wait anew.
- The key is nowhere in the database.
- The prompt is edited between a kill and a start. A plain @DBOS.step gives the old
  prompt's answers, and not a word. The glue raises an error, as it names each step by
  what is asked. With VERSION, in the ids of workflows, the new prompt is asked. (As
  application_version alone, it would not do: under the same id, what is done keeps its
  old answer, and what is not done stays PENDING.)
- What a call costs in ms and bytes, beside a tape of loop.py in the same run.

Promised: what DBOS recorded is not asked for again. A failed call is recorded, too, as
a CallError with its status and wait, so that the same decisions follow. The waits that
were recorded count, not the jitter that is drawn again. No key is stored. The retries
are the loop's: those of DBOS stay off.

Not promised:

- A reply is lost, and paid for again, where a kill or DBOS.cancel_workflow came before
  it was recorded. Reply.raw is not recorded.
- Judges and fix-ups run again after a start, and have to decide the same. Make one that
  has an effect, or takes long, a @DBOS.step. Where one names a call (in a Question, or
  escalate), give it as_step(call): another call is asked again after a start.
- Where they were edited, the replies are inspected anew. If another request follows
  than is recorded, the workflow ends with an error. DBOS.fork_workflow(id, step) starts
  another from there.
- A run that gave up is a result, and is not tried again under its id.
- On Python 3.12 or later, DBOS 3.4 cannot use SQLite before 3.42.
- Limits(seconds=) and what was spent of it count from the latest start. DBOS has
  SetWorkflowTimeout.

Exit status: 0; 1 if a claim fails, or not all items were accepted; 2 for a wrong
argument, address or database; 3 if the endpoint gave no reply; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial, wraps
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_hex
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where loop.py is

from loop import (
    Hook,
    Reply,
    Tape,
    chat,
    digest,
    drive,
    fault_of,
    json_with,
    run,
    settings_of,
)


def parse_arguments() -> argparse.Namespace:
    """Return what was given."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("items", nargs="*", metavar="ITEM", help="sentences on people")
    parser.add_argument(
        "--version",
        help="what stands in the ids of workflows (default: a digest of the prompt)",
    )
    parser.add_argument(
        "--plain-step", action="store_true", help="as DBOS documents it"
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    return parser.parse_args()


try:
    from dbos import DBOS, DBOSClient, SetWorkflowID
except ImportError:
    parse_arguments()  # --help is for everybody
    raise SystemExit("no dbos: uv run installs it, or pip install dbos") from None

# The glue: copy this, up to the next heading ------------------------------------------


def as_step(call: Hook) -> Hook:
    """Return a call that DBOS records as a step, named by a digest of what is asked."""

    def ask_once(messages: Any, settings: Any) -> Any:
        try:
            return call(messages, **settings)
        except Exception as error:  # noqa: BLE001  # DBOS stores all that is in it
            raise fault_of(error, also=OSError) or error from None

    def ask(messages: Any, **settings: Any) -> Any:
        asked = digest([messages, settings_of(call) | settings])
        return DBOS.run_step({"name": f"ask {asked}"}, ask_once, messages, settings)

    return wraps(call)(ask)  # with the settings, the name and the price of the call


@DBOS.workflow()
def work(item: str) -> Any:
    """Do an item: the loop is the workflow, each call a step, waits are DBOS's own."""
    driver = partial(drive, sleep=DBOS.sleep)
    return task(item, partial(run, call=as_step(chat(max_tokens=60)), driver=driver))


# A worker -----------------------------------------------------------------------------

PROMPT = "As JSON, with the keys name and age: "
# In the id of each workflow, so that an edited prompt is asked; and the application's,
# so that what the old prompt left undone waits for a worker that has it.
VERSION = digest(PROMPT)
URL = os.getenv("DBOS_SYSTEM_DATABASE_URL") or "sqlite:///on_dbos.sqlite"


def task(item: str, run: Hook) -> Any:
    """Find out who this is, and how old."""
    return run(PROMPT + item, json_with(name=str, age=int))


@DBOS.step()
def plain_ask(messages: Any, **settings: Any) -> Reply:
    """Ask, by a step as DBOS's documentation has it."""
    return chat(max_tokens=60)(messages, **settings)


@DBOS.workflow()
def work_by_plain_steps(item: str) -> Any:
    """Do an item, without a digest in the names of the steps."""
    driver = partial(drive, sleep=DBOS.sleep)
    return task(item, partial(run, call=plain_ask, driver=driver))


def launch(version: str, url: str) -> None:
    """Start DBOS in this process; it goes on with what this executor left undone."""
    DBOS(
        config={
            "name": "on-dbos",
            "system_database_url": url,
            "application_version": version,  # else: of the source, and any edit is one
            "executor_id": os.getenv("DBOS__VMID", "machine-1"),  # its own, for ever
            "log_level": "CRITICAL",
        }
    )
    DBOS.launch()


def work_on(items: list[str], version: str, workflow: Hook) -> Iterator[dict[str, Any]]:
    """Do these items, or go on with them, four at a time; yield what became of them.

    Other machines take from the queue as well: DBOS.launch() is all that they need.
    """
    launched_at = time.time()
    DBOS.register_queue("items", worker_concurrency=4, polling_interval_sec=0.1)
    handles = []
    for item in items:
        with SetWorkflowID(f"{version}-{digest(item)}"):
            handles.append(DBOS.enqueue_workflow("items", workflow, item))
    for item, handle in zip(items, handles, strict=True):
        facts: dict[str, Any] = {"item": item, "launched_at": launched_at}
        facts |= {"value": None, "replies": 0, "asked": []}
        try:
            result = handle.get_result(polling_interval_sec=0.1)
        except Exception as error:  # noqa: BLE001
            yield facts | {"why": f"{type(error).__name__}: {error}"}
            continue
        facts |= {"value": result.value, "why": result.why}
        facts["replies"] = sum(it.reply is not None for it in result.attempts)
        facts["asked"] = [it.messages[-1]["content"] for it in result.attempts]
        yield facts


def do_items(options: argparse.Namespace) -> int:
    """Do the items that were given; return the exit status."""
    try:
        chat()  # in a workflow, a wrong address would end that for good
        launch(options.version or VERSION, URL)
    except Exception as error:  # noqa: BLE001
        say(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return 2
    workflow = work_by_plain_steps if options.plain_step else work
    ended = []
    for facts in work_on(options.items, options.version or VERSION, workflow):
        ended.append(facts)
        if not options.json:
            print(f"{facts['item']} {facts['value'] or facts['why']}", flush=True)
    if options.json:
        print(json.dumps(ended))
    if all(it["why"] == "accepted" for it in ended):
        return 0
    if not options.json:
        say("What gave up is recorded, and stays so: another --version asks anew.")
    return 1 if any(it["replies"] for it in ended) else 3


def say(line: str) -> None:
    """Show how far it is."""
    print(line, file=sys.stderr, flush=True)


# The demonstration --------------------------------------------------------------------

WAITS = "Zoe is 63."  # its first request gets a 429
SECONDS = 8  # that this one says to wait
PEOPLE = [
    f"{name} is {30 + len(name)}." for name in "Ada Ben Carl Dora Emil Fay".split()
]
KEY = f"sk-{token_hex(16)}"


class Endpoint(ThreadingHTTPServer):
    """Answers, at first badly, and counts what is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.asked: Counter[str] = Counter()  # by content
        self.came: list[tuple[float, str]] = []  # when each came
        self.keys: set[str | None] = set()
        # The worker to kill at a request, the number of that for its content, if any.
        self.victim_of: Callable[[str, int], Any] = lambda _asked, _number: None
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, asked: str) -> tuple[int, str]:
        """Count a request; return its status, and the text of the reply."""
        with self.lock:
            self.asked[asked] += 1
            self.came.append((time.time(), asked))
            number = self.asked[asked]
            if victim := self.victim_of(asked, number):
                victim.kill()
        if WAITS in asked:
            if number == 1:
                return 429, ""
            number -= 1
        time.sleep(0.05)
        if number == 1 and asked.startswith(PROMPT):
            return 200, "Who?"
        name, _, age = asked.removesuffix(".").split(": ")[-1].split()
        return 200, json.dumps({"name": name, "age": int(age)})


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP for the endpoint."""

    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.add(self.headers["Authorization"])
        status, text = self.server.answer(body["messages"][-1]["content"])
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        data = json.dumps({"choices": [choice]} if text else {"error": {}}).encode()
        with suppress(OSError):  # it was killed
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", str(SECONDS))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Stage:
    """What the scenes of the demonstration share."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.url, self.endpoint = folder, url, Endpoint()
        self.workers: list[Any] = []

    @cached_property
    def client(self) -> Any:
        """What looks into the database; the first worker makes that."""
        return DBOSClient(system_database_url=self.url)

    def start(self, *arguments: str, file: Path = Path(__file__)) -> Any:
        """Start a worker; its results come as JSON on stdout."""
        own = {"OPENAI_BASE_URL": self.endpoint.url, "OPENAI_API_KEY": KEY}
        own |= {"OPENAI_MODEL": "some-model", "DBOS_SYSTEM_DATABASE_URL": self.url}
        own["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
        worker = subprocess.Popen(
            [sys.executable, str(file), *arguments, "--json"],
            env=os.environ | own,
            stdout=subprocess.PIPE,
            cwd=self.folder,
        )
        self.workers.append(worker)
        return worker

    def steps(self, workflow_id: str) -> list[Any]:
        """Return what DBOS recorded of a workflow."""
        steps: list[Any] = self.client.list_workflow_steps(workflow_id)
        return steps

    def recorded(self) -> int:
        """Return how many requests have a record."""
        ids = [it.workflow_id for it in self.client.list_workflows()]
        names = [step["function_name"] for it in ids for step in self.steps(it)]
        return sum(name.startswith("ask ") for name in names)

    def results(self, worker: Any) -> list[dict[str, Any]]:
        """Return what a worker printed, once it ended."""
        printed, _ = worker.communicate(timeout=120)
        found: list[dict[str, Any]] = json.loads(printed)
        return found

    def close(self) -> None:
        """Leave no worker behind."""
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.endpoint.shutdown()
        self.endpoint.server_close()
        if "client" in vars(self):
            self.client.destroy()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so, a minute at most."""
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("a worker did not get there within 60 s")
        time.sleep(0.05)


def kill_twice(stage: Stage) -> dict[str, Any]:
    """Kill a worker in calls, the next one in a wait, and count what was asked."""
    endpoint, slow = stage.endpoint, f"{VERSION}-{digest(WAITS)}"
    first = stage.start(*PEOPLE)
    endpoint.victim_of = lambda *_: first if endpoint.asked.total() == 8 else None
    first.wait()
    lost = endpoint.asked.total() - stage.recorded()
    worker = stage.start(*PEOPLE, WAITS)
    wait_for(lambda: endpoint.asked[PROMPT + WAITS] and len(stage.steps(slow)) == 2)
    worker.kill()
    worker.wait()
    lost_later = endpoint.asked.total() - stage.recorded() - lost
    wakes_at = stage.steps(slow)[1]["output"]  # what DBOS recorded of the sleep
    wait_for(lambda: time.time() > wakes_at - SECONDS / 2)
    results = stage.results(stage.start(*PEOPLE, WAITS))
    needed = Counter(asked for it in results for asked in it["asked"])
    ready_at = results[0]["launched_at"]
    second = [at for at, asked in endpoint.came if asked == PROMPT + WAITS][1]
    return {
        "asked": endpoint.asked.total(),
        "needed": needed.total(),
        "lost": [lost, lost_later],
        "again": (endpoint.asked - needed).total(),
        "not_asked": (needed - endpoint.asked).total(),
        "accepted": sum(it["why"] == "accepted" for it in results),
        "seconds": SECONDS,
        "due_after_ready": round(wakes_at - ready_at, 1),
        "asked_after_due": round(second - wakes_at, 1),
        "asked_after_ready": round(second - ready_at, 1),
    }


def edit_the_prompt(stage: Stage) -> dict[str, Any]:
    """Kill workers, edit the prompt in a copy of this file, and start that; return how
    each run ended, and how many of its requests the endpoint never saw."""
    endpoint, copy = stage.endpoint, stage.folder / "edited.py"
    source = Path(__file__).read_text("utf-8")
    copy.write_text(source.replace('keys name and age: "', 'keys age and name: "'))
    scenes = {
        "plain step": ["Gus is 41.", "--version=plain", "--plain-step"],
        "the glue": ["Ina is 52.", "--version=glue"],
        "the glue with VERSION": ["Leo is 29."],
    }
    victims = {PROMPT + it[0]: stage.start(*it) for it in scenes.values()}
    endpoint.victim_of = lambda it, number: victims.get(it) if number == 2 else None
    for victim in victims.values():
        victim.wait()
    workers = {name: stage.start(*it, file=copy) for name, it in scenes.items()}
    facts: dict[str, Any] = {}
    for name, worker in workers.items():
        [result] = stage.results(worker)
        unseen = Counter(result["asked"]) - endpoint.asked
        facts[name] = {"why": result["why"], "old": unseen.total()}
    return facts


def is_stored(text: str, data: bytes) -> bool:
    """Return whether a text is in the data, as it is or within base64."""
    found = text.encode() in data
    for shift in range(3):  # where it begins within three bytes
        code = base64.b64encode(bytes(shift) + text.encode())
        start, end = (0, 2, 3)[shift], (0, 3, 2)[(shift + len(text.encode())) % 3]
        found = found or code[start : len(code) - end] in data
    return found


def rows_of(url: str, query: str) -> list[Any]:
    """Return the first column of what a query of Postgres yields."""
    from sqlalchemy import create_engine, text

    url = url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        found = connection.execute(text(query))
        rows = [row[0] for row in found] if found.returns_rows else []
    engine.dispose()
    return rows


def stored_bytes(url: str, folder: Path) -> bytes:
    """Return all that is in the database: its files, or the rows of its tables."""
    if url.startswith("sqlite"):
        return b"".join(it.read_bytes() for it in folder.glob("*.sqlite*"))
    tables = "select format('%I.%I', schemaname, tablename) from pg_tables"
    tables += " where schemaname not in ('pg_catalog', 'information_schema')"
    rows: list[str] = []
    for table in rows_of(url, tables):
        rows += rows_of(url, f"select t::text from {table} t")  # noqa: S608
    return "\n".join(rows).encode()


def size_of(url: str, folder: Path) -> int:
    """Return how many bytes the database takes."""
    if url.startswith("sqlite"):
        return sum(it.stat().st_size for it in folder.glob("*.sqlite*"))
    return int(rows_of(url, "select pg_database_size(current_database())")[0])


# What it costs ------------------------------------------------------------------------

LONG = token_hex(475)  # prompts of about 1,000 characters, replies of 200
ROUNDS = 3


def answering(wrong: int) -> Hook:
    """Return a call that answers at once, at first wrong so many times."""
    good = json.dumps({"name": token_hex(88), "age": 36})
    replies = iter([*(token_hex(100) for _ in range(wrong)), good])

    def answer_at_once(_messages: Any, **_settings: Any) -> Reply:
        return Reply(next(replies), "stop", input_tokens=250, output_tokens=50)

    vars(answer_at_once)["settings"] = {"model": "none"}
    return answer_at_once


@DBOS.workflow()
def measured(item: str, wrong: int) -> Any:
    """Do an item as `work` does, by a call that answers at once."""
    driver = partial(drive, sleep=DBOS.sleep)
    return task(item, partial(run, call=as_step(answering(wrong)), driver=driver))


def measure(folder: Path, url: str, items: int = 10) -> dict[str, Any]:
    """Return the ms and bytes of a call, and of an item besides, in three ways."""
    tape = Tape(folder / "tape.jsonl")

    def bare(item: str, wrong: int) -> Any:
        return task(item, partial(run, call=answering(wrong)))

    def taped(item: str, wrong: int) -> Any:
        call = answering(wrong)
        return task(item, partial(run, call=call, tape=tape, name=item[-20:]))

    ways = {"bare": bare, "tape": taped, "dbos": measured}
    sizes: dict[str, Callable[[], int]] = {"bare": lambda: 0}
    sizes |= {"tape": lambda: Path(tape.path).stat().st_size}
    sizes["dbos"] = lambda: size_of(url, folder)
    seconds: dict[Any, list[float]] = defaultdict(list)
    grown: Counter[Any] = Counter()
    for turn in range(ROUNDS):
        for wrong in 0, 5:
            for name, way in ways.items():
                before, began = sizes[name](), time.perf_counter()
                for number in range(items):
                    result = way(f"{LONG} {turn} {wrong} {number:9}", wrong)
                    result.unwrap()
                took = time.perf_counter() - began
                seconds[name, wrong].append(took / items)
                grown[name, wrong] += sizes[name]() - before
    figures: dict[str, Any] = {}
    for name in ways:
        one, six = (min(seconds[name, wrong]) * 1000 for wrong in (0, 5))
        call = (six - one) / 5
        figures[f"{name}_ms"] = {"call": round(call, 2), "item": round(one - call, 2)}
        one, six = (grown[name, wrong] / items / ROUNDS for wrong in (0, 5))
        call = (six - one) / 5
        figures[f"{name}_bytes"] = {"call": round(call), "item": round(one - call)}
    return figures


# All of it ----------------------------------------------------------------------------


def demonstrate(folder: Path, url: str) -> dict[str, Any]:
    """Return what each scene showed."""
    stage = Stage(folder, url)
    try:
        say("A worker is killed in calls, the next one in a wait; a third ends it.")
        facts: dict[str, Any] = {"killed": kill_twice(stage)}
        say("The prompt is edited between a kill and a start, in three ways.")
        facts["edited"] = edit_the_prompt(stage)
        data = stored_bytes(url, folder)
        facts["stored"] = {"key": is_stored(KEY, data), "item": is_stored(WAITS, data)}
        facts["stored"]["key_was_sent"] = stage.endpoint.keys == {f"Bearer {KEY}"}
    finally:
        stage.close()
    say("What a call costs, beside a tape.")
    launch("1", url)
    facts["cost"] = measure(folder, url)
    DBOS.destroy()
    return facts


TOLD = """
killed in calls, then in a wait: {asked} requests came, {needed} were needed;
    in flight when killed: {lost}; asked again: {again}; accepted: {accepted}
counted from the start of the third worker, the wait was due at {due_after_ready:+} s;
    the request came at {asked_after_ready:+} s, and, begun anew, would at {seconds:+} s
"""


def tell(facts: dict[str, Any]) -> None:
    """Print what the scenes showed."""
    print(TOLD.format(**facts["killed"]))
    print("edited between a kill and a start:")
    for kind, found in facts["edited"].items():
        print(f"    {kind}: {found['old']} old answers; {found['why'][:200]}")
    print("\nlooked for in the database, also in base64:")
    for name in "key", "item":
        print(f"    the {name}: {'found' if facts['stored'][name] else 'not found'}")
    print(
        "\nprompts of 1,000 characters, replies of 200; besides a call that takes 0 s"
    )
    print("                     ms a call   an item   bytes a call   an item")
    for name in "bare", "tape", "dbos":
        ms, size = facts["cost"][f"{name}_ms"], facts["cost"][f"{name}_bytes"]
        figures = f"{ms['call']:9} {ms['item']:9} {size['call']:14} {size['item']:9}"
        print(f"    {name:16} {figures}")
    print()
    for claim, is_met in facts["claims"].items():
        print(f"{'ok  ' if is_met else 'NOT '} {claim}")


def claims(facts: dict[str, Any]) -> dict[str, bool]:
    """Return whether each claim is met."""
    killed, edited, stored = facts["killed"], facts["edited"], facts["stored"]
    plain, named, cured = edited.values()
    return {
        "all items were accepted": killed["accepted"] == len(PEOPLE) + 1,
        "at most what was in flight was asked again": killed["again"]
        <= sum(killed["lost"]),
        "something was in flight": killed["lost"][0] > 0,
        "the wait went on where it was": killed["asked_after_due"] > -0.1
        and killed["asked_after_ready"] < SECONDS,
        "a plain step gives old answers": plain["old"] > 0
        and plain["why"] == "accepted",
        "the glue says so": "was recorded when" in named["why"],
        "another version asks anew": (cured["why"], cured["old"]) == ("accepted", 0),
        "the key is not stored": not stored["key"]
        and stored["item"]
        and stored["key_was_sent"],
    }


def main() -> int:
    """Do the items that were given, or the demonstration."""
    options = parse_arguments()
    too_old = sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42)
    if too_old and URL.startswith("sqlite"):
        say(f"SQLite {sqlite3.sqlite_version}: DBOS needs 3.42 on this Python")
        return 2
    if options.items:
        return do_items(options)
    with tempfile.TemporaryDirectory() as folder:
        url, name = f"sqlite:///{folder}/on_dbos.sqlite", f"on_dbos_{token_hex(4)}"
        if not URL.startswith("sqlite"):
            url = f"{URL.rpartition('/')[0]}/{name}"  # beside yours, and removed again
        try:
            facts = demonstrate(Path(folder), url)
        finally:
            if not URL.startswith("sqlite"):
                rows_of(URL, f"drop database if exists {name} with (force)")
    facts["claims"] = claims(facts)
    if options.json:
        print(json.dumps(facts))
    else:
        tell(facts)
    return int(not all(facts["claims"].values()))


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.stdout.flush()
    os._exit(status)  # a thread may be in a call: what it does is lost, as after a kill
