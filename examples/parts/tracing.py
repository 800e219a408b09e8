#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["opentelemetry-sdk"]
# ///
"""Situation: your services are traced by OpenTelemetry, and runs are to be seen there.
Copy this file beside loop.py.

    from opentelemetry import trace
    run(ask, judge, call=call, watch=spans(trace.get_tracer("my service")))

Run this file to see the spans of a run, offline: `uv run examples/parts/tracing.py`.

Promised: a span for each run and each request, also of runs in threads, of runs that
raise, and of hooks' questions; no text of a prompt, a reply or an error is in one. Not
promised: names that stay, as the conventions for generative AI are still changing.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from loop import json_with, run, scripted

REQUEST = ("model", "temperature", "top_p", "top_k", "max_tokens", "seed")


class spans:
    """Watcher: an OpenTelemetry span for each run, within the current one, and in it
    one for each request; complaints, fix-ups and replies from a tape are events of it.

    Names are those of the semantic conventions for generative AI (0.1.0 of 2026, still
    in development); those with loop. are our own. No text of a prompt, a reply or an
    error is in a span: to have it, add it where a comment says. One watcher serves many
    runs at once, if their names differ. While a request runs, its span is not the
    current one: that of an HTTP client is no child of it.
    """

    def __init__(self, tracer: Any, provider: str = "openai"):
        self.tracer, self.provider = tracer, provider
        self.runs: dict[str, Any] = {}  # name of a run -> its span
        self.requests: dict[str, Any] = {}  # ... -> the span of its open request

    def __call__(self, event: dict[str, Any]) -> None:
        kinds = ("start", "sent", "reply", "fault", "end")
        take = getattr(self, event["event"]) if event["event"] in kinds else self.note
        take(event, event["run"])

    def start(self, event: dict[str, Any], run: str) -> None:
        known = {"operation.name": "invoke_workflow", "provider.name": self.provider}
        facts = gen_ai(known) | {"loop.run": run, "loop.call": event["call"]}
        self.runs[run] = self.tracer.start_span("invoke_workflow", attributes=facts)

    def sent(self, event: dict[str, Any], run: str) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        known = {"operation.name": "chat", "provider.name": self.provider}
        known |= {f"request.{name}": event["settings"].get(name) for name in REQUEST}
        self.requests[run] = self.tracer.start_span(
            f"chat {known['request.model'] or ''}".strip(),
            context=set_span_in_context(self.runs[run]),
            kind=SpanKind.CLIENT,
            attributes=gen_ai(known) | number_of(event),  # or event["messages"]
        )

    def reply(self, event: dict[str, Any], run: str) -> None:
        known = {f"response.{name}": event[name] or None for name in ("id", "model")}
        known["response.finish_reasons"] = [event["finish"]]
        for name in ("input_tokens", "output_tokens"):
            known[f"usage.{name}"] = event[name]
        span = self.requests.pop(run)
        span.set_attributes(gen_ai(known))  # or event["text"]
        span.end()

    def fault(self, event: dict[str, Any], run: str) -> None:
        # The rest of event["why"] may quote the prompt.
        kind = re.match(r"[A-Z]\w+(?=[: ])", event["why"])
        known = event["code"] or event["status"] or (kind[0] if kind else "_OTHER")
        fail(self.requests.pop(run), str(known))

    def note(self, event: dict[str, Any], run: str) -> None:
        name, facts = f"loop.{event['event']}", number_of(event)
        if event["event"] == "inspect":
            name = "gen_ai.evaluation.result"
            label = "fail" if event["complaint"] else "pass"
            # or "evaluation.explanation": event["complaint"], which may quote a reply
            known = {"evaluation.name": "judge", "evaluation.score.label": label}
            facts |= gen_ai(known)
        if event["event"] == "decide":
            facts |= {f"loop.{it}": event[it] for it in ("fix", "move", "wait")}
        self.runs[run].add_event(name, facts)

    def end(self, event: dict[str, Any], run: str) -> None:
        # What follows these marks may quote a reply.
        reason = re.split("[:;]", event["why"])[0]
        if run in self.requests:  # the call raised what is no fault: a bug, Ctrl-C
            fail(self.requests.pop(run), reason)
        if event["hook"]:
            return  # of a question
        span = self.runs.pop(run)
        for name in ("accepted", "calls", "tries", "faults", "reused", "cost"):
            if event[name] is not None:
                span.set_attribute(f"loop.{name}", event[name])
        if event["accepted"]:
            span.end()
        else:
            fail(span, reason)


def fail(span: Any, kind: str) -> None:
    """End a span with an error of this kind."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
    span.end()


def gen_ai(known: dict[str, Any]) -> dict[str, Any]:
    """Return attributes under their full names, without those that are unknown."""
    return {f"gen_ai.{name}": it for name, it in known.items() if it is not None}


def number_of(event: dict[str, Any]) -> dict[str, Any]:
    """Return which request of its run an event is about, and the hook that asked."""
    return {"loop.n": event["n"], "loop.hook": event["hook"]}


if __name__ == "__main__":
    import argparse

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import (
            ConsoleSpanExporter,
            SimpleSpanProcessor,
        )
    except ImportError as error:
        raise SystemExit(f"{error}: install opentelemetry-sdk") from None

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    call = scripted('{"name": "Ada"}', '{"name": "Ada", "age": 36}')
    watch = spans(provider.get_tracer("demo"))
    print(run("Who?", json_with(name=str, age=int), call=call, watch=watch))
