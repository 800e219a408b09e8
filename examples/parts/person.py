"""Situation: a person at the terminal has the last word on an answer. Copy this file.

    judge = ask_person(all_of(json_with(name=str), grounded(article, "name")))
    run(ask, judge, call=call, limits=Limits(seconds=math.inf))

The person sees what the judge accepted, and accepts it, edits it, gives a hint, which
the model reads as the complaint, or stops the run. Where a model needs rescue and not
approval, person_answers of more_fixes.py lets a person write the answer. Run this file
in a terminal to be asked about a sentence.

Promised: without a terminal nothing is accepted, and `why` says so; what is shown is
made safe for a terminal; a line that the terminal may have cut is not taken. Not
promised: that what a person said is on the tape. A run that is done again asks again.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from pathlib import Path
from pprint import pformat
from typing import Any

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from loop import (
    BUGS,
    Accept,
    CallError,
    Hook,
    HookError,
    Reject,
    accept_anything,
    all_of,
    complaint_of,
    run,
    scripted,
    visible,
)

TERMINAL = threading.Lock()  # one question at a time, where runs are in threads
# A terminal keeps no more bytes of a line than this, and does not say so.
LONGEST_LINE = 1023 if sys.platform == "darwin" else 4095


def ask_person(judge: Hook = accept_anything) -> Hook:
    """Judge: a person at the terminal accepts what this judge returned; returns that.

    The person can also edit: type or paste a text in place of the reply, which passes
    the judge first; hint: what is typed is the complaint that the model reads; or stop,
    as at the end of the input: the run ends, not accepted. So it does where stdin is no
    terminal. Waiting counts as seconds of the run: Limits(seconds=...). Place: around
    the other judges, ask_person(all_of(...)); at their end it is given a value, which
    cannot be edited. It blocks, so `arun` refuses it. (airflow#62898)
    """
    inner = all_of(judge)

    def ask_person(given: Any) -> Generator[Any, Any, Accept]:
        accepted: Accept = yield from inner(given)
        note = ""
        while True:
            with TERMINAL:
                kind, typed = decision(accepted.value, note, isinstance(given, str))
            if kind == "accept":
                return accepted
            if kind == "hint":
                raise Reject(typed, value=accepted.value)
            try:
                accepted, note = (yield from inner(typed)), ""
            except (CallError, HookError, *BUGS):
                raise
            except Exception as error:  # noqa: BLE001
                note = f"The text that you typed is rejected: {complaint_of(error)}"

    ask_person.blocks = True  # type: ignore[attr-defined]
    return ask_person


def decision(value: Any, note: str, may_edit: bool) -> tuple[str, str]:
    """Show a value to a person; return "accept", "hint" or "edit", and what was typed.
    Raise CallError where the person stops, or there is none."""
    if not (sys.stdin and sys.stdin.isatty()):
        cure = "start it in one, or leave ask_person out"
        raise CallError(f"no person can be asked, as stdin is no terminal: {cure}")
    shown = value if isinstance(value, str) else pformat(value, sort_dicts=False)
    say(f"\n{shown}\n\n{note}")
    choices = "accept, edit, hint or stop? " if may_edit else "accept, hint or stop? "
    while True:
        say(f"\n{choices}")
        answer = typed_line().strip().lower()
        if answer in ("a", "accept"):
            return "accept", ""
        if answer in ("s", "stop"):
            raise CallError("a person stopped it")
        text = ""
        if answer in ("h", "hint"):
            say("What should the model do better, in one line? ")
            text = typed_line().strip()
        elif answer in ("e", "edit") and may_edit:
            say("Type or paste the text; after it, a line with only a dot:\n")
            text = "\n".join(iter(typed_line, "."))
        if any(len(it.encode()) >= LONGEST_LINE for it in text.split("\n")):
            say(f"A terminal may cut a line of {LONGEST_LINE} bytes: break it.")
        elif "\ufffd" in text:
            say("Some of it cannot be read in the terminal's encoding.")
        elif text:
            return {"h": "hint", "e": "edit"}[answer[0]], text


def typed_line() -> str:
    """Return a line that a person types; raise CallError at the end of the input."""
    line = sys.stdin.buffer.readline()
    if not line:
        raise CallError("a person stopped it, by the end of the input")
    return line.decode(sys.stdin.encoding, errors="replace").rstrip("\r\n")


def say(text: str) -> None:
    """Show a text on the terminal: on stderr, as stdout may go into a file."""
    print(visible(text), end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    import argparse

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    call = scripted("Ada wrote the first program.", "Ada Lovelace wrote it, in 1843.")
    result = run("Who wrote the first program?", ask_person(), call=call)
    print(result.value if result else result.why)
    raise SystemExit(not result)
