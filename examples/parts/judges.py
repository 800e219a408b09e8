"""Situation: the judges of loop.py do not check what you must be sure of. Copy one of
these functions with what it calls, or this file.

    from judges import grounded, probe
    judge = all_of(json_with(name=str, quote=str), grounded(article, "quote"))
    assert not probe(judge, prompt)  # in your tests: what it accepts, and should not

A judge takes a text, or what the judge before it in all_of returned; it returns a value
or raises Reject. Run this file to see each of them at work, offline.

Promised: none of them calls a model, and a hostile reply takes them milliseconds, not
minutes; how long `matches` takes is up to your pattern. Not promised: that what is
grounded is also true, or that a judge in which `probe` finds nothing is a good one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from loop import (
    Ask,
    Hook,
    Limits,
    Messages,
    Reject,
    all_of,
    get_path,
    json_with,
    run,
    scripted,
    short_json,
)


def grounded(source: str, *keys: str) -> Hook:
    """Judge: every quote stands word for word in the source; returns what it was given.

    Quotes are what an object has at these keys, each a string or a list of strings.
    Without keys they are what stands in quotation marks in a text. There must be one at
    least. The forms of spaces and quotation marks make no difference, case and
    punctuation do; a part of a word is no quote. (OpenContracts#2189: of six quotes,
    none was real)
    """
    source = normalized(source)

    def grounded(found: Any) -> Any:
        quotes: list[Any] = []
        for key in keys:
            several = get_path(list, found, key)
            quotes += [found[key]] if several is None else several
        if not keys:
            quotes += normalized(found).split('"')[1::2]  # between two marks
        quotes = [normalized(str(quote)) for quote in quotes]
        if not quotes or "" in quotes:
            raise Reject("there is no quote from the source", value=found)
        missing: list[str] = []
        for quote in quotes:
            whole_words = rf"(?<!\w){re.escape(quote)}(?!\w)"
            # First `in`: to find that it is not there takes a pattern far longer.
            if quote not in source or not re.search(whole_words, source):
                missing.append(short_json(quote))
        if missing:
            raise Reject(f"not in the source: {', '.join(missing)}", value=found)
        return found

    return grounded


def normalized(text: str) -> str:
    """Return a text with one form of each letter, space and quotation mark."""
    if not text.isascii():
        text = normalize("NFKC", limit_marks(text))
    text = re.sub("[\u2018-\u201b\u2032`]", "'", text)
    return " ".join(re.sub("[\u201c-\u201f\u2033\xab\xbb]", '"', text).split())


def limit_marks(text: str) -> str:
    """Return a text without the combining marks that follow on 30 others: no language
    has so many, and to sort a longer run takes time in the square of its length."""
    kept: list[str] = []
    marks = 0
    for character in text:
        # Some that are no marks themselves are made of marks, as U+0F73 is.
        first = normalize("NFKD", character)[0]
        marks = marks + 1 if combining(first) else 0
        if marks <= 30:
            kept.append(character)
    return "".join(kept)


def matches(pattern: str) -> Hook:
    """Judge: the text, without the space around it, matches a regular expression as a
    whole; returns that text. The model reads the pattern in the complaint."""
    compiled = re.compile(pattern)

    def matches(text: str) -> str:
        if not compiled.fullmatch(text.strip()):
            raise Reject(f"expected the pattern {pattern}, found {short_json(text)}")
        return text.strip()

    return matches


def no_echo(ask: str, size: int = 40) -> Hook:
    """Judge: no run of so many characters of the ask is in the text; returns the text.

    Place: first in all_of, but not where an answer may quote the ask. An ask that is
    shorter than `size` is never found. (101 of 691 replies of SmolLM2 to extract.py had
    such a run)
    """
    ask = normalized(ask)
    runs = {ask[at : at + size] for at in range(len(ask) - size + 1)}

    def no_echo(text: str) -> str:
        reply = normalized(text)
        for at in range(len(reply) - size + 1):
            if reply[at : at + size] in runs:
                raise Reject("expected an answer, found the question again")
        return text

    return no_echo


def probe(judge: Hook, ask: str | Messages) -> list[str]:
    """Return what a judge accepts, and should not: of an empty text, "I don't know" and
    the ask itself. [] is good: `assert not probe(judge, ask)`. No model is called.

    Raises ValueError for a judge that would ask a model about one of them, as then only
    the model can tell. Probe the judges that stand before it in all_of.
    """
    question = get_path(str, Ask(ask).messages[-1], "content") or ""
    accepted: list[str] = []
    for text in dict.fromkeys(("", "I don't know", question)):
        limits = Limits(calls=1)  # a question of the judge would be the second
        result = run(ask, judge, call=scripted(text), fixes=(), limits=limits)
        if result.why.startswith("limit reached"):
            raise ValueError(f"the judge asks a model about {short_json(text)}")
        if result:
            accepted.append(text)
    return accepted


if __name__ == "__main__":
    import argparse

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    article = "The museum opened on Friday. Its director, Ada Smith, was not there."
    prompt = f"Who is the director? Give JSON with a name and a quote.\n\n{article}"
    plain = json_with(name=str, quote=str)
    judge = all_of(no_echo(prompt), plain, grounded(article, "quote"))
    for reply in (
        '{"name": "Ada", "quote": "Its director, Ada Smith"}',
        '{"name": "Ada", "quote": "Ada is the director"}',
        prompt,
    ):
        result = run(prompt, judge, call=scripted(reply), fixes=())
        print(f"{short_json(reply)}\n    {result.why}")
    print(run("When?", matches(r"\d{4}-\d\d"), call=scripted("2026-11\n")))
    print("str accepts", probe(str, prompt)[:2], "and the question itself")
    print("the judge above accepts", probe(judge, prompt), "of these")
