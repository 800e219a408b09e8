import argparse, json, math, os, sys, time
from dataclasses import replace
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(EXAMPLES.parent), str(EXAMPLES), str(EXAMPLES / "parts")]

from extract import PROMPT, correct, items, judge
from local_model import model
from parts.batch import each, join_results
from parts.judges import agree
from parts.tools_in_text import tools_in_text
from parts.tools import use_tools

from loop import *
from loop import FIXES, Ask, Hook, Limits, Question, Reject, Result, all_of, check, one_of

SENTENCES = [sentence for sentence, _ in items()]
MANNERS = ("", "Read with care. ", "First find the name. ")
HOW_OLD = "How old is {name}? Answer with the number alone.\n\nSentence: {sentence}"


def one_call(sentence: str, run: Hook) -> Result[Any]:
    """The base line: a call, and what the judge says of it."""
    return run(PROMPT + sentence, judge(sentence), fixes=())


def bare_loop(sentence: str, run: Hook) -> Result[Any]:
    """The loop with its default fix-ups."""
    return run(PROMPT + sentence, judge(sentence))


def graph(sentence: str, run: Hook) -> Result[Any]:
    """Nodes: extract, check. Edges: on; done; or back, in other words, twice."""
    results: list[Result[Any]] = []
    edge: list[str] = []
    for number, manner in enumerate(MANNERS, 1):
        here, there = f"extract {number}", f"check {number}"
        record = run(manner + PROMPT + sentence, judge(sentence), name=here, after=edge)
        results.append(record)
        if not record:
            return join_results(None, *results)
        ask = HOW_OLD.format(sentence=sentence, name=record.value["name"])
        same = same_number(record.value["age"])
        checked = run(Ask(ask, max_tokens=16), same, fixes=(), name=there, after=[here])
        results.append(checked)
        joined = join_results(record.value, *results)
        if checked:
            return replace(joined, accepted=True, value=record.value, why="accepted")
        edge = [there]
    return replace(joined, why=f"no check agreed: {checked.why}")


def same_number(number: int) -> Hook:
    def same_number(text: str) -> int:
        found = re.search(r"\d+", text)
        if not found or int(found[0]) != number:
            raise Reject(f"the record says {number}, the check {text[:40]}")
        return number
    return same_number

import re

def durable(sentences, **options):
    """A batch that is stopped at half, and started again from its tape."""
    half = sentences[: len(sentences) // 2]
    for _ in each(bare_loop, half, **options):
        pass
    yield from each(bare_loop, sentences, **options)


ARCHIVE = dict(enumerate(SENTENCES, 101))
ARCHIVE |= {7: "Ben Carter, 44, sold his car.", 8: "At 31, Lea Blum still climbs mountains."}
QUESTION = "Give the name and age of the person in sentence {} as JSON with the keys name (string) and age (integer)."


def look_up(number: int) -> str:
    """Return the sentence with this number."""
    return ARCHIVE[number]


def example(number, **record):
    function = {"name": "look_up", "arguments": json.dumps({"number": number})}
    request = {"id": "c1", "type": "function", "function": function}
    return [{"role": "user", "content": QUESTION.format(number)},
            {"role": "assistant", "content": "", "tool_calls": [request]},
            {"role": "tool", "tool_call_id": "c1", "content": ARCHIVE[number]},
            {"role": "assistant", "content": json.dumps(record)}]

SHOWN = [*example(7, name="Ben Carter", age=44), *example(8, name="Lea Blum", age=31)]

def agent(sentence: str, run: Hook) -> Result[Any]:
    tools = use_tools(look_up)
    number = 101 + SENTENCES.index(sentence)
    question = {"role": "user", "content": QUESTION.format(number)}
    ask = Ask([*SHOWN, question], tools=tools.schemas)
    return run(ask, judge(sentence), fixes=[tools, *FIXES], limits=Limits(calls=24))

TOLD = "Give the name and age of the person in this sentence as JSON with the keys name (string) and age (integer).\n\nSentence: "

def shown_call(sentence, run):
    turns = []
    for number, record in ((7, {"name": "Ben Carter", "age": 44}), (8, {"name": "Lea Blum", "age": 31})):
        turns += [{"role": "user", "content": PROMPT + ARCHIVE[number]}, {"role": "assistant", "content": json.dumps(record)}]
    return run([*turns, {"role": "user", "content": PROMPT + sentence}], judge(sentence), fixes=())

if __name__ == "__main__":
    n = int(sys.argv[1]); folder = Path(sys.argv[2]); folder.mkdir(exist_ok=True)
    call = model(temperature=0.7, max_tokens=64, seed=1)
    for school in sys.argv[3:]:
        fn = globals()[school]
        t = time.time()
        opts = dict(call=tools_in_text(call) if school == "agent" else call, tape=folder / f"{school}.jsonl", workers=1, give_up_after=math.inf)
        sents = SENTENCES[:n]
        res = list(fn(sents, **opts) if school == "durable" else each(fn, sents, **opts))
        errs = [r.error for r in res if r.error]
        print(school, sum(map(bool, res)), sum(bool(r) and correct(s, r.value) for s, r in zip(sents, res)), sum(r.spent.calls for r in res), sum(r.spent.tokens for r in res), errs[:2], round(time.time() - t), flush=True)
    os._exit(0)
