"""Situation: a special case that not everyone meets. Copy it, and put it in your list.

    run(..., fixes=[*REPAIRS, label_in_text("good", "bad"), *RE_ASKS],
        faults=[context_window, *FAULTS])

Each is a fix-up, a judge or a call, as those in loop.py; its docstring says where it
was seen, and its place in the list. They are here, and not there, because few need
them: of 691 replies of a real model to extract.py, a repair below made one good.
"""

import json
import re
import sys
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from loop import (
    JSONISH,
    Ask,
    CallError,
    Hook,
    Messages,
    Reject,
    State,
    Stop,
    Use,
    afresh,
    dig,
    json_spans,
    mended,
    plain,
    strict_json,
    visible,
)

# Of a failed call ---------------------------------------------------------------------


def context_window(state: State) -> Ask | None:
    """The ask and max_tokens do not fit together, and the endpoint tells the numbers
    (vllm#20409): allow the reply what is left. Its place is before bad_request, which
    stops where the ask alone does not fit."""
    numbers = r"maximum context length is (\d+) tokens.*?\((\d+) in "
    told = re.search(numbers, str(state.fault))
    left = int(told[1]) - int(told[2]) if told else 0
    for name in ("max_tokens", "max_completion_tokens"):
        if 0 < left < (dig(int, state.settings, name) or 0):
            return Ask(state.messages, **{name: left})
    return None


def drop_response_format(state: State) -> Ask | None:
    """One and the same 500 came twice, as where llama.cpp's own check refuses the reply
    (llama.cpp#27279, 35 to 40 % of requests): ask without response_format; there is a
    judge. Its place is first: to wait is no cure."""
    told = [str(attempt.fault) for attempt in state.attempts if attempt.fault]
    failed = getattr(state.fault, "status", 0) == 500
    twice = failed and told.count(str(state.fault)) > 1
    asked = "response_format" in state.settings
    return Ask(state.messages, response_format=None) if twice and asked else None


# Repairs ------------------------------------------------------------------------------


def label_in_text(*labels: str) -> Hook:
    """Return a fix-up: there is talk around one of these labels: use it if it alone is
    named, and nothing is denied. Its place is after the repairs. SmolLM2 said of a
    neutral text: "positive, but it's not entirely neutral"."""
    denial = (
        r"(?i)\b(not?|non|nor|never|neither|cannot|hardly|barely|without|lacks?)\b"
        r"|\b(far from|rather than|instead of|anything but)\b|n['\u2019]t\b"
    )

    def label_in_text(state: State) -> Use | None:
        rests = {x: re.sub(whole_word(x), "", state.text) for x in labels}
        named = [label for label, rest in rests.items() if rest != state.text]
        doubt = len(named) != 1 or re.search(denial, rests[named[0]])
        return None if doubt else Use(*named)

    return label_in_text


def whole_word(label: str) -> str:
    """Return the pattern of a label that stands by itself, in any case."""
    return rf"(?i)(?<!\w){re.escape(label)}(?!\w)"


def fold_labels(*labels: str) -> Hook:
    """Return a repair: the text is one of these labels but for case, and "-", "_" or
    space (TradingAgents#174, hpe#459). Its place is after the repairs."""

    def fold_labels(state: State) -> Use:
        return Use(*same_but_for_form(state.text, labels))

    return fold_labels


def fold_value(key: str, *allowed: str) -> Hook:
    """Return a repair: an object has at this key one of the allowed values but for its
    form: "BOCM" for "bocm" (dspy.rb#210). Its place is after the repairs."""

    def fold_value(state: State) -> Use:
        told = ((it, dig(str, it, key) or "") for it in objects(state))
        new = ((it, v) for it, text in told for v in same_but_for_form(text, allowed))
        return Use(*(json.dumps(it | {key: value}) for it, value in new))

    fold_value.__name__ = f"fold_value_{key}"  # there may be several in a list
    return fold_value


def same_but_for_form(text: str, labels: Sequence[str]) -> list[str]:
    """Return the label that a text is in another form, if it is of one alone."""

    def folded(text: str) -> str:
        return re.sub(r"[-_\s\u2010-\u2015]+", " ", text.strip()).casefold()

    found = [label for label in labels if folded(label) == folded(text)]
    return found if len(found) == 1 and found != [text] else []


def numbers_at(*keys: str) -> Hook:
    """Return a repair: an object has at these keys a number in quotes, as JSON would
    have it without them: "36", not "1,234" or "007" (exa-mcp#202: of about 300 errors
    117 were a wrong type). Its place is after the repairs."""

    def numbers_at(state: State) -> Use:
        texts = []
        for found in objects(state):
            told = {key: parsed(dig(str, found, key) or "") for key in keys}
            numbers = {k: n for k, n in told.items() if type(n) in (int, float)}
            texts += [json.dumps(found | numbers)] if numbers else []
        return Use(*texts)

    return numbers_at


def objects(state: State) -> list[dict[str, Any]]:
    """Return those of the texts inspected last that are JSON objects."""
    return [found for text in state.texts if (found := dig(dict, parsed(text)))]


def parsed(text: str) -> Any:
    """Return a text as a JSON value; None if it is no good one."""
    with suppress(Reject, RecursionError):
        return strict_json(text)
    return None


def unwrapped(state: State) -> Use:
    """It is [{...}], or {"Answer": {...}}, where {...} alone is wanted: use the one
    object inside (instructor#2312, ollama-instructor#6). Its place is after the
    repairs."""
    roots = [parsed(text) for text in state.texts]
    lists = [[*root.values()] if isinstance(root, dict) else root for root in roots]
    alone = [it[0] for it in lists if isinstance(it, list) and len(it) == 1]
    return Use(*(json.dumps(it) for it in alone if isinstance(it, dict)))


def last_json_first(state: State) -> Use | None:
    """A draft comes before its correction: use the last JSON first (ai-agent-book#366).
    Its place is before code_fence. (json_slips uses the first one first; in 20 replies
    of SmolLM2 that had several good ones, they were the same.)"""
    texts = [JSONISH.sub(mended, span) for span in reversed(json_spans(state.text))]
    return Use(*texts) if len(texts) > 1 else None


# Re-asks ------------------------------------------------------------------------------


def prompt_truncated(state: State) -> Stop | None:
    """The endpoint cut the ask to its context, and did not say so: stop. The tell is a
    round number, of Ollama's num_ctx or one less (oh-my-pi#2774), and, as that may be
    chance, more than 6 characters to a token. Its place is before cut_by_length."""
    read = state.reply.input_tokens or 0
    sent = sum(len(dig(str, it, "content") or "") for it in state.messages)  # no images
    if sent > 6 * read and {read, read + 1} & {2**n for n in range(11, 18)}:
        return Stop(f"the endpoint read {read} tokens of the ask: raise its num_ctx")
    return None


def cached_reply(state: State) -> Ask | None:
    """A reply came twice, with one id: what is between us and the model kept it, and
    does not look at the seed (ouroboros#202: six times, in 0.0 s each): ask afresh with
    a line that is new. Its place is before empty_reply."""
    this = (state.reply.id, state.reply.text)
    came = [(a.reply.id, a.reply.text) for a in state.attempts if a.reply]
    if not state.reply.id or came.count(this) < 2:
        return None
    return afresh(state, f"(This is request {state.judged + 1}.)")


def repetition_loop(state: State) -> Ask | None:
    """The reply ends in a loop, or in endless spaces (llama-cpp-agent#12): ask afresh
    and warmer, unquoted (claude-code#82803). Its place is before cut_by_length, which
    would pay for more of it."""
    tail = state.reply.text[-1000:].encode(errors="replace")
    if len(tail) < 200 or len(tail) < 10 * len(zlib.compress(tail)):
        return None
    warmth = state.settings.get("temperature") or 0.7
    return afresh(state, temperature=max(warmth, min(1.5, warmth + 0.3)))


def with_example(text: str) -> Hook:
    """Return a fix-up: ask the task again with a worked example of a right answer. Its
    place is that of ask_afresh and ask_with_complaint, which it would leave nothing to
    say. Measure it: SmolLM2 copies it, and was right in 64 of the 250 tasks of
    economy.py, in 138 without."""

    def with_example(state: State) -> Ask | None:
        return afresh(state, f"An example of a right answer:\n{text}")

    return with_example


def echoed_schema(state: State) -> Ask | None:
    """The reply is the JSON schema of an answer (as in ollama-instructor#6): ask afresh
    and say so. Its place is before ask_afresh."""
    for found in objects(state):
        properties = found.get("type") == "object" and "properties" in found
        if properties or {"$schema", "$defs"} & found.keys():
            return afresh(state, "Give the values, not the schema.")
    return None


def resample_after_worse(state: State) -> Ask | None:
    """Two replies in a row were worse than one before: what they are told does harm, so
    ask afresh without it (stakgraph#1325). Its place is before from_the_best; the judge
    has to give scores, as json_with does."""
    bests = state.memory.setdefault("bests", {})  # by the number of replies judged
    bests[state.judged] = state.best
    last = [bests.get(state.judged - n) for n in range(3)]
    return afresh(state) if last[0] is last[1] is last[2] else None


def from_the_best(state: State) -> Ask | None:
    """Show the best so far, not the last, as a draft, with what is wrong in it
    (stakgraph#1325, dify-plugins#3874). Not for a model that repeats what it is shown,
    as SmolLM2 does. Its place is after the repairs: [*REPAIRS, from_the_best]."""
    best, why = state.memory.get("draft", (None, ""))
    if state.best is not best:
        best, why = state.memory["draft"] = state.best, state.complaint
    draft = json.dumps(best, ensure_ascii=False, default=str, skipkeys=True)
    return afresh(state, f"Improve this draft: {draft}\nIt was refused: {why}")


def ask_person(state: State) -> Ask:
    """All else is silent: put the task to a person, with the complaint (airflow#62898,
    langgraph#8025). Its place is last; re-asks go to the person from then on."""
    task = "\n\n".join(str(message.get("content")) for message in state.task)
    return Ask(f"{task}\n\nRefused so far: {state.complaint}", call=person)


def person(messages: Messages, **_settings: Any) -> str:
    """Call: a person at the terminal answers, in one line. An empty one, or the end of
    the input, is a fault at which bad_request stops."""
    asked = visible(str(messages[-1].get("content")))
    print(f"{asked}\nYour answer (none: stop): ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip()
    if not answer:
        raise CallError("the person gave no answer", retry=False)
    return answer


vars(person).update(settings={}, price=(0.0, 0.0))  # for a tape, and for a cost limit


# A judge ------------------------------------------------------------------------------


def no_echo(ask: str, size: int = 40) -> Hook:
    """Return a judge: no run of so many characters of the ask is in the text; returns
    the text. In 101 of 691 replies of SmolLM2 to extract.py there was one. Its place is
    first in all_of; not where an answer may quote the ask."""
    ask = plain(ask)
    runs = {ask[n : n + size] for n in range(len(ask) - size + 1)}

    def no_echo(text: str) -> str:
        told = plain(text)
        if any(told[n : n + size] in runs for n in range(len(told) - size + 1)):
            raise Reject("expected an answer, found the question again")
        return text

    return no_echo
