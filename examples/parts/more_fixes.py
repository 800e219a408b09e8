"""Situation: a special case that not everyone meets. Copy one function, or this file.

    from more_fixes import rename_parameter, unwrapped
    run(..., fixes=[*REPAIRS, unwrapped, *RE_ASKS], faults=[rename_parameter, *FAULTS])

Each is a fix-up, as those in loop.py are. Its docstring says what the symptom is, what
it does, its place in the list, and last where it was reported. They are here, and not
in loop.py, because few people need them: without them the run ends with the same error
or complaint, in plain words. Run this file to see two of them at work, offline.

Promised: none calls a model or waits by itself; a repair changes the form of a reply,
never what it says; each stays silent where the symptom is not there. Not promised: that
it helps your model. Put it in, and see in `result.attempts` which of them fired.
"""

from __future__ import annotations

import json
import math
import re
import sys
import zlib
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from loop import (
    FAULTS,
    RE_ASKS,
    REPAIRS,
    Ask,
    CallError,
    Hook,
    Messages,
    Question,
    Reject,
    State,
    Stop,
    Use,
    all_of,
    ask_again,
    ask_later,
    ask_with_complaint,
    get_path,
    json_with,
    name_of,
    run,
    scan_json,
    scripted,
    strict_json,
    visible,
)

# After a fault ------------------------------------------------------------------------


def rename_parameter(state: State) -> Ask | None:
    """The model does not take a parameter: "Unsupported parameter: 'max_tokens' ... Use
    'max_completion_tokens' instead". Use the value under the other name. Where no other
    is named, leave the parameter out. The call itself does not change: the next run
    fails once again. Place: faults=[rename_parameter, *FAULTS]. (opencode#37964,
    gollm#33)"""
    why = str(state.fault)
    found = re.search(r"(?i)unsupported (?:parameter|value): '(\w+)'", why)
    if not found or found[1] not in state.settings:
        return None
    refused = state.memory.setdefault(f"refused by {name_of(state.call)}", set[str]())
    refused.add(found[1])
    settings: dict[str, Any] = {found[1]: None}
    # With an underscore it cannot be an argument of Ask itself.
    other = re.search(r"(?i)use '(\w*_\w*)' instead", why)
    if other and other[1] not in state.settings and other[1] not in refused:
        settings[other[1]] = state.settings[found[1]]
    return Ask(state.messages, **settings)


def context_window(state: State) -> Ask | None:
    """The prompt and max_tokens together exceed the context, and the endpoint says how
    long the prompt is. Allow the reply what is left. Where it says "at least", it
    stopped counting: allow half as much as before. Silent where the prompt alone is too
    long. Place: faults=[context_window, *FAULTS]. (vllm#20409, vllm#42474)"""
    why = str(state.fault)
    window = re.search(r"maximum context length is (\d{1,9}) tokens", why)
    prompt = re.search(r"(\d{1,9}) (?:in the messages|input tokens)", why)
    if not window or not prompt:
        return None
    left = int(window[1]) - int(prompt[1])
    for name in ("max_tokens", "max_completion_tokens"):
        allowed = get_path(int, state.settings, name) or 0
        most = min(left, allowed // 2) if "at least" in why else left
        if 0 < most < allowed:
            settings: dict[str, Any] = {name: most}
            return Ask(state.messages, **settings)
    return None


def wait_in_words(state: State) -> Ask | None:
    """The endpoint says only in words how long to wait: "Please try again in 5.289s",
    "6m0s" or "644ms". Wait that long. Silent where a header says it: told_to_wait has
    that. Place: faults=[wait_in_words, *FAULTS]. (aider#3265, micro-agent#86)"""
    part = r"(\d{1,6}(?:\.\d+)?)(ms|s|m|h)"
    found = re.search(rf"(?i)try again in ((?:{part})+)", str(state.fault))
    if not found or state.fault.wait:
        return None
    seconds = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    wait = 0.0
    for number, unit in re.findall(part, found[1].lower()):
        wait += float(number) * seconds[unit]
    return ask_later(state, wait) if wait else None


def drop_response_format(state: State) -> Ask | None:
    """The same 500 came twice, as where llama.cpp's own check rejects the reply. To
    wait does not help: ask without response_format, as there is a judge. Place:
    faults=[drop_response_format, *FAULTS]. (llama.cpp#27279: 35 to 40 % of requests)"""
    if state.fault.status != 500 or "response_format" not in state.settings:
        return None
    failures = [str(attempt.fault) for attempt in state.attempts if attempt.fault]
    if failures.count(str(state.fault)) < 2:
        return None
    return Ask(state.messages, response_format=None)


# Repairs ------------------------------------------------------------------------------


def first_json_first(state: State) -> Use | None:
    """The first JSON of several is the answer, and examples or next steps follow. Use
    the pieces in their order; json_slips uses the last one first, as a correction
    follows its draft. Place: fixes=[think_tags, first_json_first, *REPAIRS[1:],
    *RE_ASKS]. (letta#269)"""
    pieces = scan_json(state.text).pieces
    return Use(*pieces) if len(pieces) > 1 else None


def fold_labels(state: State) -> Use | None:
    """The text is one of the judge's labels, as one_of has them, but for its case and
    another of "-", "_" and space. Use the label, if only one is like it. Place:
    fixes=[*REPAIRS, fold_labels, *RE_ASKS]. (TradingAgents#174, hpe#459)"""
    label = same_but_for_form(state.text, getattr(state.judge, "labels", ()))
    return None if label is None else Use(label)


def fold_value(key: str, *allowed: str) -> Hook:
    """Return a fix-up: an object has an allowed value at this key, but in another form,
    as "BOCM" for "bocm". Use the object with the allowed value. Place:
    fixes=[*REPAIRS, fold_value(...), *RE_ASKS]; one for each key. (dspy.rb#210)"""

    def fold_value(state: State) -> Use | None:
        texts: list[str] = []
        for found in objects(state):
            value = same_but_for_form(get_path(str, found, key) or "", allowed)
            if value is not None:
                texts.append(json.dumps(found | {key: value}))
        return Use(*texts) if texts else None

    fold_value.__name__ = f"fold_value_{key}"  # two in a list need two names
    return fold_value


def same_but_for_form(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that differs from a text in its form only; None where there is
    none, where there are several, and where it is the text itself."""

    def fold(text: str) -> str:
        return re.sub(r"[-_\s\u2010-\u2015]+", " ", text.strip()).casefold()

    similar = [label for label in labels if fold(label) == fold(text)]
    return similar[0] if len(similar) == 1 and similar[0] != text else None


def numbers_at(*keys: str) -> Hook:
    """Return a fix-up: an object has at these keys a number in quotes. Use the object
    with the number, where it is one of JSON: "36", but not "1,234" or "007". Place:
    fixes=[*REPAIRS, numbers_at(...), *RE_ASKS]. (exa-mcp#202: a wrong type was 117 of
    about 300 errors)"""

    def numbers_at(state: State) -> Use | None:
        texts: list[str] = []
        for found in objects(state):
            numbers: dict[str, Any] = {}
            for key in keys:
                number = parsed(get_path(str, found, key) or "")
                if type(number) in (int, float):  # a bool is none
                    numbers[key] = number
            if numbers:
                texts.append(json.dumps(found | numbers))
        return Use(*texts) if texts else None

    return numbers_at


def unwrapped(state: State) -> Use | None:
    """The reply is [{...}] or {"Answer": {...}}, where {...} is wanted. Use the object
    inside, if nothing else is. Place: fixes=[*REPAIRS, unwrapped, *RE_ASKS].
    (instructor#2312, ollama-instructor#6)"""
    texts: list[str] = []
    for text in state.texts:
        outer = parsed(text)
        members: list[Any] = get_path(list, outer) or []
        if get_path(dict, outer):
            members = list(outer.values())
        if len(members) == 1 and get_path(dict, members, 0):
            texts.append(json.dumps(members[0]))
    return Use(*texts) if texts else None


def objects(state: State) -> list[dict[str, Any]]:
    """Return those of the texts inspected last that are JSON objects."""
    values = [parsed(text) for text in state.texts]
    return [value for value in values if isinstance(value, dict)]


def parsed(text: str) -> Any:
    """Return a text as a JSON value; None where it is not one."""
    with suppress(Reject, RecursionError):
        return strict_json(text)
    return None


# Re-asks ------------------------------------------------------------------------------


def prompt_truncated(state: State) -> Stop | None:
    """The endpoint cut the prompt to its context, and did not say so. Stop: the model
    never saw the whole task. It shows in two ways that must come together: the tokens
    read are a power of two, as Ollama's num_ctx is, or one less; and each would have
    stood for more than 6 characters. Only messages that are plain text count. Place:
    fixes=[*REPAIRS, prompt_truncated, *RE_ASKS]. (oh-my-pi#2774, TradingAgents#168)"""
    read = state.reply.input_tokens or 0
    sizes = [2**n for n in range(11, 18)]  # 2,048 to 131,072
    sent = sum(len(get_path(str, it, "content") or "") for it in state.messages)
    if sent > 6 * read and (read in sizes or read + 1 in sizes):
        return Stop(f"the endpoint read {read} tokens of the prompt: raise its num_ctx")
    return None


def cached_reply(state: State) -> Ask | None:
    """The same reply came twice, with the same id: a cache between us and the model
    answers, and ignores the seed. Ask again with a line that is new each time. Place:
    fixes=[*REPAIRS, cached_reply, *RE_ASKS]. (ouroboros#202: six times, 0.0 s each)"""
    replies = [attempt.reply for attempt in state.attempts if attempt.reply]
    signatures = [(reply.id, reply.text) for reply in replies]
    if not state.reply.id or signatures.count((state.reply.id, state.reply.text)) < 2:
        return None
    # It counts replies, not requests: a run that a tape resumes has no faults again.
    return ask_again(state, f"(This is request {len(replies) + 1}.)")


def repetition_loop(state: State) -> Ask | None:
    """The reply ends in a loop or in endless spaces: its last 1,000 characters can be
    compressed to a tenth. Ask again, 0.3 warmer, up to 1.5, without a complaint, and
    with no more tokens. Place: fixes=[*REPAIRS, repetition_loop, *RE_ASKS].
    (claude-code#82803, llama-cpp-agent#12)"""
    tail = state.reply.text[-1000:].encode(errors="replace")
    if len(tail) < 200 or len(tail) < 10 * len(zlib.compress(tail)):
        return None
    temperature = get_path((int, float), state.settings, "temperature")
    if temperature is None:
        temperature = 0.7
    warmer = min(1.5, temperature + 0.3)
    return ask_again(state, temperature=max(warmer, temperature))


def echoed_schema(state: State) -> Ask | None:
    """The reply is the JSON schema of an answer. Ask again, and say that the values are
    wanted. Place: fixes=[*REPAIRS, echoed_schema, *RE_ASKS]. (ollama-instructor#6)"""
    for found in objects(state):
        describes = found.get("type") == "object" and "properties" in found
        if describes or "$schema" in found or "$defs" in found:
            return ask_again(state, "Give the values, not the schema.")
    return None


def with_example(text: str) -> Hook:
    """Return a fix-up: ask the task again, with an example of a right answer. Measure
    it: SmolLM2 copied the example, and was right in 64 of 250 tasks, in 138 without it.
    Place, instead of the last two re-asks: fixes=[*REPAIRS, *RE_ASKS[:-2],
    with_example(...)]."""

    def with_example(state: State) -> Ask | None:
        return ask_again(state, f"An example of a right answer:\n{text}")

    return with_example


def resample_after_worse(state: State) -> Ask | None:
    """Two replies in a row were no better than one before: the complaint does harm. Ask
    once without it. The judge must give scores, as json_with does; silent without.
    Place: fixes=[*REPAIRS, *RE_ASKS[:-2], resample_after_worse, from_the_best].
    (stakgraph#1325)"""
    best, judged, worse = state.memory.get("resample_after_worse", (None, 0, 0))
    if state.best is not best:
        worse = 0
    elif state.judged != judged:
        worse += 1
    has_scores = state.best_rank[2] > -math.inf
    move = ask_again(state) if worse > 1 and has_scores else None
    if move:
        worse = 0
    state.memory["resample_after_worse"] = (state.best, state.judged, worse)
    return move


def from_the_best(state: State) -> Ask | None:
    """The last reply may be worse than one before. Show the best so far as a draft, and
    what is wrong with it. Not for a model that repeats what it sees, as SmolLM2 does.
    Place: fixes=[*REPAIRS, *RE_ASKS[:-2], from_the_best]. (stakgraph#1325,
    dify-plugins#3874)"""
    draft = json.dumps(state.best, ensure_ascii=False, default=str, skipkeys=True)
    note = f"Improve this draft: {draft}\nIt was rejected: {state.best_complaint}"
    return ask_again(state, note)


# A person -----------------------------------------------------------------------------


def person_answers(after: int = 4) -> Hook:
    """Return a fix-up: once so many replies were rejected, or the model is stuck or
    refuses, ask a person at the terminal, with the complaint, until the judge accepts
    an answer. Stop where the person gives none. Answers count as calls, and go onto
    the tape. Place: fixes=[*REPAIRS, person_answers(...), *RE_ASKS]. (airflow#62898,
    langgraph#8025)"""

    def person_answers(state: State) -> Generator[Question, Any, Use | Stop | None]:
        refused = state.reply.finish == "refusal"
        if not (state.stuck or refused or state.judged >= after):
            return None
        texts: list[str] = []

        def note_text(text: str) -> str:
            texts.append(text)
            return text

        task = "\n\n".join(str(get_path(object, it, "content")) for it in state.task)
        question = f"{task}\n\nRejected so far: {state.complaint}"
        judge = all_of(note_text, state.judge)
        fixes = [*REPAIRS, ask_with_complaint]
        try:
            yield Question(question, judge, fixes=fixes, call=person)
        except EOFError as error:
            return Stop(str(error))
        return Use(texts[-1])  # a fix-up never accepts: the judge sees it once more

    return person_answers


def person(messages: Messages, **_settings: Any) -> str:
    """Call: return the line that a person types at the terminal. Raise EOFError for an
    empty line and at the end of the input.

    It waits for as long as the person takes, which the run's limit of seconds counts.
    So `arun` refuses it: there, copy it and person_answers, and await
    asyncio.to_thread(person, messages).
    """
    asked = visible(str(get_path(object, messages[-1], "content")))
    print(f"{asked}\nYour answer (none: stop): ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip()
    if not answer:
        raise EOFError("the person gave no answer")
    return answer


# The model, for a record of the run; a price, for a limit of cost.
vars(person).update(settings={"model": "person"}, price=(0.0, 0.0), blocks=True)


if __name__ == "__main__":
    import argparse

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    unsupported = "Unsupported parameter: 'max_tokens' is not supported."
    result = run(
        Ask("Who? As JSON.", max_tokens=50),
        json_with(name=str, age=int),
        call=scripted(
            CallError(f"{unsupported} Use 'max_completion_tokens' instead.", 400),
            '{"Answer": {"name": "Ada", "age": 36}}',
        ),
        fixes=[*REPAIRS, unwrapped, *RE_ASKS],
        faults=[rename_parameter, *FAULTS],
    )
    for attempt in result.attempts:
        outcome = attempt.reply.text if attempt.reply else attempt.fault
        print(f"{attempt.settings}\n    {outcome}\n    {attempt.fixes}")
    print(result)
