#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "dbos==3.4.0"]
# ///
"""Situation: your batch has to go on after a machine died, and you have DBOS.

    uv run examples/scale/on_dbos.py                       the demonstration: a minute
    uv run examples/scale/on_dbos.py "Ada is 36." "Bo is 7."     your items, your model
    uv run examples/scale/on_dbos.py "Ada is 36." "Bo is 7." --again

The loop is the workflow, each call is a step, each wait is DBOS's own sleep. Copy three
sections, with their imports: "Your task", of which the prompt and `task` are yours,
"The glue" (fourteen lines of code) and "Start it". Then this is a program:

    launch(URL)
    for item, result in results_of(items):
        print(item, result)
    DBOS.destroy()

With items, the file asks what OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL name.
Kill it, start it again: it goes on. Its database is on_dbos.sqlite in this folder; for
many machines, it is the Postgres that DBOS_SYSTEM_DATABASE_URL names. There, give each
machine a DBOS__VMID of its own, and keep it: what a dead machine left is done when one
with its DBOS__VMID starts. Workers that have the same items share them.

VERSION is a digest of the prompt and of the call's settings. It stands in the id of
each workflow: edit either, and all items are asked anew. What the old version left
undone stays in the database, and each start says how much that is, and of which
version. Start the old program to finish it, or cancel it (with the ids from
DBOS.list_workflows(app_version=...), by DBOS.cancel_workflows).

The demonstration has an endpoint that counts, and starts itself as workers. You see:

- A worker that was killed with -9 in its calls pays again for those in flight, at most.
- One that was killed in a wait, for a 429, waits on: it does not begin the wait anew.
- The prompt is edited between a kill and a start: the new prompt is asked, no old
  answer is given, and what the old prompt left is named.
- What a call costs in ms and bytes, beside a tape of loop.py in the same run.

Promised: what DBOS recorded is not asked for again. No old answer is given for another
request: each step is named by a digest of what is asked, so that DBOS raises an error
under the same id. (A plain @DBOS.step gives the old answer.) A failed call is recorded,
too, as a CallError with its status and wait, so that the same decisions follow. The
waits that were recorded count, not the jitter that is drawn again. No key is stored.
The retries are the loop's: those of DBOS stay off.

Not promised:

- There is no BatchGaveUp: with a wrong key, each item asks and gives up. What gave up
  is recorded, and a start does not try it again. Once the cause is mended, `ask_again`
  (or --again, on one machine) asks anew for those items alone.
- There is no limit of money for all items: Limits(cost=) is for one. Add up
  result.spent.cost as the results come, and stop with DBOS.cancel_workflows(ids).
- There is no progress to watch but the results. From elsewhere, ask the database:
  DBOSClient(...).list_workflows(workflow_id_prefix=VERSION) has the status of each.
- A reply is lost, and paid for again, where a kill or DBOS.cancel_workflow came before
  it was recorded. Reply.raw is not recorded.
- Judges and fix-ups run again after a start, and have to decide the same. Make one that
  has an effect, or takes long, a @DBOS.step. Where one names a call (in a Question, or
  escalate), give it as_step(call): another call is asked again after a start.
- Where they were edited, the replies are inspected anew. If another request follows
  than is recorded, the workflow ends with an error, and ask_again begins it anew.
- On Python 3.12 or later, DBOS 3.4 cannot use SQLite before 3.42.
- Limits(seconds=) and what was spent of it count from the latest start. DBOS has
  SetWorkflowTimeout.

Exit status: 0; 1 if a claim fails, or not all items were accepted; 2 for a wrong
argument, address or database; 3 if the endpoint gave no reply; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
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
    Result,
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
        "--again", action="store_true", help="first ask anew for what gave up"
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    if options.again and not options.items:
        parser.error("--again needs the items")
    return options


def say(line: str) -> None:
    """Show how far it is."""
    print(line, file=sys.stderr, flush=True)


OPTIONS = parse_arguments()  # before dbos is needed: --help is for everybody
try:
    from dbos import DBOS, DBOSClient, SetWorkflowID
except ImportError:
    raise SystemExit("no dbos: uv run installs it, or pip install dbos") from None
if OPTIONS.items:
    try:
        chat()
    except ValueError as wrong:
        say(f"{type(wrong).__name__}: {wrong}")
        raise SystemExit(2) from None
else:  # the demonstration has an endpoint of its own
    os.environ["OPENAI_BASE_URL"] = "http://127.0.0.1:9/v1"
    os.environ["OPENAI_API_KEY"], os.environ["OPENAI_MODEL"] = "unused", "some-model"

# Your task: copy this, and put your own in its place ----------------------------------

PROMPT = "As JSON, with the keys name and age: "


def task(item: str, run: Hook) -> Any:  # a Result
    """Find out who this is, and how old."""
    return run(PROMPT + item, json_with(name=str, age=int))


# The glue: copy this ------------------------------------------------------------------


def as_step(call: Hook) -> Hook:
    """Return a call that DBOS records as a step, named by a digest of what is asked."""

    def ask_once(messages: Any, settings: Any) -> Any:
        try:
            return call(messages, **settings)
        except Exception as error:  # noqa: BLE001  # DBOS stores all that is in it
            raise (fault_of(error, also=OSError) or error) from None

    def ask(messages: Any, **settings: Any) -> Any:
        asked = digest([messages, settings_of(call) | settings])
        return DBOS.run_step({"name": f"ask {asked}"}, ask_once, messages, settings)

    return wraps(call)(ask)  # with the settings, the name and the price of the call


@DBOS.workflow()
def work(item: str) -> Any:
    """Do an item: the loop is the workflow, each call a step, waits are DBOS's own."""
    driver = partial(drive, sleep=DBOS.sleep)
    return task(item, partial(run, call=as_step(CALL), driver=driver))


# Start it: copy this, too -------------------------------------------------------------

URL = os.getenv("DBOS_SYSTEM_DATABASE_URL") or "sqlite:///on_dbos.sqlite"
# Made once, and here: in a workflow, a wrong address would be recorded as its result.
CALL = chat()  # also chat(max_tokens=..., price=...)
# All that is asked with. Put in what else your task depends on, as another prompt.
VERSION = digest([PROMPT, settings_of(CALL)])


def id_of(item: str) -> str:
    """Return the id of an item's workflow: another prompt or setting, another id."""
    return f"{VERSION}-{digest(item)}"


def launch(url: str) -> None:
    """Start DBOS in this process; it goes on with what this executor left undone.

    Warns of what other versions left: nobody does that but a program of that version.
    """
    DBOS(
        config={
            "name": "on-dbos",
            "system_database_url": url,
            "application_version": VERSION,  # else: of the source, and any edit is one
            "executor_id": os.getenv("DBOS__VMID", "machine-1"),  # its own, for ever
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    DBOS.register_queue("items", worker_concurrency=4, polling_interval_sec=0.1)
    undone = DBOS.list_workflows(name=work.__qualname__, status=["PENDING", "ENQUEUED"])
    others = Counter(it.app_version for it in undone if it.app_version != VERSION)
    for version, number in others.items():
        cure = "start the program as it was, or cancel them (DBOS.cancel_workflows)"
        DBOS.logger.warning(f"version {version} left {number} undone: {cure}")


def results_of(items: list[str]) -> Iterator[tuple[str, Result[Any] | Exception]]:
    """Do these items, or go on with them, four at a time; yield each with its result,
    or with the error in which its workflow ended.

    Other machines take from the queue as well: launch() is all that they need.
    """
    handles = []
    for item in items:
        with SetWorkflowID(id_of(item)):
            handles.append(DBOS.enqueue_workflow("items", work, item))
    for item, handle in zip(items, handles, strict=True):
        try:
            yield item, handle.get_result(polling_interval_sec=0.1)
        except Exception as error:  # noqa: BLE001  # one item's, and not the end of all
            yield item, error


def ask_again(items: list[str]) -> None:
    """Begin those of these items anew that ended and were not accepted, and no other.

    They keep their ids, so that results_of yields the new results. Their recorded
    replies are dropped: they ask from the first request on.
    """
    ids = {id_of(item) for item in items}
    for it in DBOS.list_workflows(workflow_id_prefix=VERSION):
        ended = it.status not in ("PENDING", "ENQUEUED")
        accepted = it.status == "SUCCESS" and it.output.accepted
        if it.workflow_id in ids and ended and not accepted:
            DBOS.rewind_workflow(
                it.workflow_id, application_version=VERSION, queue_name="items"
            )


# A worker -----------------------------------------------------------------------------


def do_items(options: argparse.Namespace) -> int:
    """Do the items that were given; return the exit status."""
    try:
        launch(URL)
    except Exception as error:  # noqa: BLE001
        say(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return 2
    launched_at, ended = time.time(), []
    if options.again:
        ask_again(options.items)
    for item, result in results_of(options.items):
        facts: dict[str, Any] = {"item": item, "launched_at": launched_at}
        if isinstance(result, Exception):
            facts |= {"value": None, "replies": 0, "asked": []}
            facts["why"] = f"{type(result).__name__}: {result}"
        else:
            facts |= {"value": result.value, "why": result.why}
            facts["replies"] = sum(it.reply is not None for it in result.attempts)
            facts["asked"] = [it.messages[-1]["content"] for it in result.attempts]
        ended.append(facts)
        if not options.json:
            print(f"{item} {facts['value'] or facts['why']}", flush=True)
    if options.json:
        print(json.dumps(ended))
    if all(it["why"] == "accepted" for it in ended):
        return 0
    say("What gave up is recorded, and stays so: --again asks anew for that alone.")
    return 1 if any(it["replies"] for it in ended) else 3


# The demonstration --------------------------------------------------------------------

WAITS = "Zoe is 63."  # its first request gets a 429
SECONDS = 8  # that this one says to wait
PEOPLE = [
    f"{name} is {30 + len(name)}." for name in "Ada Ben Carl Dora Emil Fay".split()
]


class Endpoint(ThreadingHTTPServer):
    """Answers, at first badly, and counts what is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.asked: Counter[str] = Counter()  # by content
        self.came: list[tuple[float, str]] = []  # when each came
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
        own = {"OPENAI_BASE_URL": self.endpoint.url}
        own["DBOS_SYSTEM_DATABASE_URL"] = self.url
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
    endpoint, slow = stage.endpoint, id_of(WAITS)
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
    """Kill a worker, edit the prompt in a copy of this file, and start that; return how
    the run ended, how many of its requests the endpoint never saw, and what is left."""
    endpoint, copy = stage.endpoint, stage.folder / "edited.py"
    source = Path(__file__).read_text("utf-8")
    copy.write_text(source.replace('keys name and age: "', 'keys age and name: "'))
    item = "Gus is 41."
    victim = stage.start(item)
    endpoint.victim_of = lambda it, number: (
        (it, number) == (PROMPT + item, 2) and victim
    )
    victim.wait()
    [result] = stage.results(stage.start(item, file=copy))
    old = (Counter(result["asked"]) - endpoint.asked).total()
    [left] = stage.client.list_workflows(status=["PENDING", "ENQUEUED"])
    left_by_old = (left.workflow_id, left.app_version) == (id_of(item), VERSION)
    return {"why": result["why"], "old": old, "left_by_old_prompt": left_by_old}


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


def measure(folder: Path, items: int = 10) -> dict[str, Any]:
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
    database = "*.sqlite*"  # and what SQLite has beside it
    sizes["dbos"] = lambda: sum(it.stat().st_size for it in folder.glob(database))
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


def demonstrate(folder: Path) -> dict[str, Any]:
    """Return what each scene showed."""
    url = f"sqlite:///{folder}/on_dbos.sqlite"
    stage = Stage(folder, url)
    try:
        say("A worker is killed in calls, the next one in a wait; a third ends it.")
        facts: dict[str, Any] = {"killed": kill_twice(stage)}
        say("The prompt is edited between a kill and a start. The new start warns:")
        facts["edited"] = edit_the_prompt(stage)
    finally:
        stage.close()
    say("What a call costs, beside a tape.")
    launch(f"sqlite:///{folder}/cost.sqlite")
    facts["cost"] = measure(folder)
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
    print(f"    {facts['edited']['old']} old answers; {facts['edited']['why']}")
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
    killed, edited = facts["killed"], facts["edited"]
    return {
        "all items were accepted": killed["accepted"] == len(PEOPLE) + 1,
        "at most what was in flight was asked again": killed["again"]
        <= sum(killed["lost"]),
        "something was in flight": killed["lost"][0] > 0,
        "the wait went on where it was": killed["asked_after_due"] > -0.1
        and killed["asked_after_ready"] < SECONDS,
        "an edited prompt is asked": (edited["why"], edited["old"]) == ("accepted", 0),
        "what the old prompt left is still there": edited["left_by_old_prompt"],
    }


def main() -> int:
    """Do the items that were given, or the demonstration."""
    too_old = sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42)
    if too_old and (URL.startswith("sqlite") or not OPTIONS.items):
        say(f"SQLite {sqlite3.sqlite_version}: DBOS needs 3.42 on this Python")
        return 2
    if OPTIONS.items:
        return do_items(OPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        facts = demonstrate(Path(folder))
    facts["claims"] = claims(facts)
    if OPTIONS.json:
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
