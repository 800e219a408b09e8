r"""Situation: you have a library already, for validation, or the client of an API. Copy
one of these functions with what it calls, or this file.

    call = openai_chat(OpenAI(max_retries=0), "gpt-5", temperature=0.2)
    run(ask, Person.model_validate_json, call=call)

    you have           use it as
    pydantic           judge Person.model_validate_json, TypeAdapter(...).validate_json
    jsonschema         judge json_by_schema(schema)
    json-repair        fix-up json_repaired
    openai             call openai_chat(client, ...), openai_responses(client, ...)
    anthropic          call anthropic_chat(client, ...)
    litellm            call litellm_chat(litellm.completion, ...)
    ollama             call ollama_chat(client, ...)
    opentelemetry-api  watcher spans(tracer), in tracing.py

pydantic's judges need nothing else; complaints are its paths and messages. It takes the
last of a key's two values, and NaN; all_of(strict_json, Person.model_validate) refuses
both. For a type whose value may be null or a bool, wrap it, as for any judge:
lambda text: Accept(adapter.validate_json(text)).

Give a sync client for `run`, an async one for `arun`. A setting given as None is left
out. For a limit of cost, set call.price = (input, output), in dollars per million.

Imports stand within the functions, so that this file needs none of these packages; in
your own file, move them to its top. Run this file to see those at work that are
installed, offline. To install them all:

    uv run --with openai --with anthropic --with litellm --with ollama \
        --with jsonschema --with json-repair --with pydantic \
        examples/parts/libraries.py

Promised: one HTTP request for each call; a Reply, or a CallError that says what came in
its place; no key in settings or, where the client has it as api_key, in an error. Not
promised: tools' results in the conversation, for which each API but OpenAI's has a form
of its own; images, likewise; streams. litellm reports some errors, as of a wrong
address, as a 500: these are tried again. ollama's client forgets Retry-After.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import iscoroutinefunction, signature, unwrap
from pathlib import Path
from typing import Any, cast

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from loop import (
    RE_ASKS,
    REPAIRS,
    Accept,
    CallError,
    Hook,
    HookError,
    Messages,
    Reject,
    Reply,
    State,
    Use,
    describe,
    fault_of,
    get_path,
    is_of_kind,
    json_with,
    run,
    scan_json,
    scripted,
    short_json,
    strict_json,
    text_of,
    token_limits_reached,
    without_secrets,
)

# Judges -------------------------------------------------------------------------------


def json_by_schema(schema: Any) -> Hook:
    """Judge: the text is one JSON value that a JSON Schema allows; returns it.

    Raises jsonschema's SchemaError for a wrong schema, at once; for a $ref that leads
    nowhere, or to another machine, HookError when a reply gets there. The score is
    minus the number of errors. As jsonschema does, it takes "format" for a comment.
    """
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind: Any = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    validator = kind(schema, registry=Registry())  # it never fetches a schema

    def json_by_schema(text: str) -> Accept:
        value = strict_json(text)
        try:
            errors = list(validator.iter_errors(value))
        except Unresolvable as error:
            raise HookError(f"the schema is wrong: {describe(error)}") from error
        wrong = sorted(map(line_of_error, errors))
        if wrong:
            more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            why = "; ".join(wrong[:4]) + more
            raise Reject(why, value=value, score=-len(wrong))
        return Accept(value)

    return json_by_schema


def line_of_error(error: Any) -> str:
    """Return jsonschema's error as "path: message", with no long value in it."""
    if error.context:  # of an anyOf: what is wrong by each of its schemas
        return " or ".join(map(line_of_error, error.context[:3]))
    found = repr(error.instance)
    message = error.message.replace(found, short_json(error.instance))
    if len(message) > 120:  # of a long enum, say
        message = f"{message[:80]} ... {message[-30:]}"
    path = ".".join(str(step) for step in error.absolute_path)
    return f"{path}: {message}" if path else message


# Fix-ups ------------------------------------------------------------------------------


def json_repaired(state: State) -> Use | None:
    """The JSON is broken, not cut off: marks within a string, a comma or colon is
    missing. Use what json_repair makes of it, if that has the same words, numbers and
    quotation marks in the same order: it invents, drops and completes others. Silent
    where the reply may be cut off, has whole JSON, or is longer than 5,000 characters,
    as json_repair may take a second for these. Place:
    fixes=[*REPAIRS, json_repaired, *RE_ASKS]. (json_repair#152, json_repair#200)"""
    from json_repair import loads

    cut = state.reply.finish in ("length", "cut") or token_limits_reached(state)
    if cut or any(scan_json(text).open for text in state.texts):
        return None
    repaired: list[str] = []
    for text in state.texts:
        start, end = re.search(r"[{[]", text), max(map(text.rfind, "}]")) + 1
        if not start or len(text) > 5000 or scan_json(text).pieces:
            continue
        broken = text[start.start() : end]
        value: Any = loads(broken)
        # A list of other things is mostly prose in brackets.
        members: list[Any] = get_path(list, value) or [value]
        written = json.dumps(value, ensure_ascii=False)
        odd = re.search(r'[,:{[]\s*\\"|\\"\s*[]},:]', written)  # two strings as one
        are_objects = all(isinstance(it, dict) for it in members)
        if are_objects and not odd and words_of(broken) == words_of(written):
            repaired.append(written)
    return Use(*repaired) if repaired else None


def words_of(text: str) -> list[str]:
    """Return the words, numbers and quotation marks of JSON, in their order."""
    text = re.sub(r"\bNone\b", "null", re.sub(r"\\[nrt]|\\", " ", text))
    text = re.sub("['\u2018-\u201f]", '"', text)
    return re.findall(r'[\w.+-]+|"', text.casefold())


# Calls --------------------------------------------------------------------------------


def openai_chat(client: Any, model: str, **settings: Any) -> Hook:
    """Call: openai's client, by chat completions: OpenAI(max_retries=0), AsyncOpenAI,
    AzureOpenAI or one with the base_url of another endpoint."""
    settings["model"] = model
    return call_of(client, client.chat.completions.create, read_chat, settings)


def with_messages(messages: Messages, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what a method of a client is called with."""
    return {"messages": messages, **settings}


def read_chat(raw: Any) -> Reply:
    """Return the reply in a chat completion."""
    message = raw["choices"][0]["message"]
    refusal = get_path(str, message, "refusal")
    flag = "refusal" if refusal else get_path(str, raw, "choices", 0, "finish_reason")
    thought = get_path(str, message, "reasoning_content") or ""
    calls = get_path(list, message, "tool_calls") or ()
    used = tokens_of(raw, "usage", "prompt_tokens", "completion_tokens")
    return Reply(text_of(message) or refusal or "", flag, thought, tuple(calls), *used)


def openai_responses(client: Any, model: str, **settings: Any) -> Hook:
    """Call: openai's client, by the Responses API. Give max_tokens, the limit that
    cut_by_length raises: it is sent as max_output_tokens."""

    def request(messages: Messages, settings: dict[str, Any]) -> dict[str, Any]:
        if "max_tokens" in settings:
            settings["max_output_tokens"] = settings.pop("max_tokens")
        return {"input": messages, **settings}

    settings["model"] = model
    return call_of(
        client, client.responses.create, read_response, settings, request=request
    )


def read_response(raw: Any) -> Reply:
    """Return the reply in a response of the Responses API."""
    text, refusal, thought, calls = "", "", "", list[Any]()
    for item in raw["output"]:
        if item["type"] == "message":
            text += text_of(item)
            refusal += "".join(it.get("refusal") or "" for it in item["content"])
        elif item["type"] == "reasoning":
            thought += text_of({"content": item.get("summary")})
        elif item["type"] == "function_call":
            calls.append(tool_call(item["call_id"], item["name"], item["arguments"]))
    flag = get_path(str, raw, "incomplete_details", "reason") or raw["status"]
    if flag in ("failed", "cancelled"):
        raise KeyError("output")  # there is none, whatever stands there
    used = tokens_of(raw, "usage", "input_tokens", "output_tokens")
    flag = "refusal" if refusal else flag
    return Reply(text or refusal, flag, thought, tuple(calls), *used)


def anthropic_chat(client: Any, model: str, max_tokens: int, **settings: Any) -> Hook:
    """Call: anthropic's client: Anthropic(max_retries=0), AsyncAnthropic ... The system
    messages of the task go where the API wants them."""

    def request(messages: Messages, settings: dict[str, Any]) -> dict[str, Any]:
        system = [text_of(it) for it in messages if it["role"] == "system"]
        others = [it for it in messages if it["role"] != "system"]
        head = {"system": "\n\n".join(system)} if system else {}
        return {"messages": others, **head, **settings}

    settings.update(model=model, max_tokens=max_tokens)
    return call_of(
        client, client.messages.create, read_message, settings, request=request
    )


def read_message(raw: Any) -> Reply:
    """Return the reply in a message of Anthropic's."""
    thought, calls = "", list[Any]()
    for block in raw["content"]:
        thought += block.get("thinking") or ""
        if block["type"] == "tool_use":
            arguments = json.dumps(block["input"])
            calls.append(tool_call(block["id"], block["name"], arguments))
    read, written = tokens_of(raw, "usage", "input_tokens", "output_tokens")
    for kind in ("cache_creation_input_tokens", "cache_read_input_tokens"):
        if read is not None:  # these are not among the input_tokens
            read += get_path(int, raw, "usage", kind) or 0
    return Reply(text_of(raw), raw["stop_reason"], thought, tuple(calls), read, written)


def litellm_chat(completion: Hook, model: str, **settings: Any) -> Hook:
    """Call: litellm.completion or litellm.acompletion, without its retries. It prints
    advice on stdout where a call fails: set litellm.suppress_debug_info = True."""
    # litellm.num_retries would win over num_retries=0.
    tries = getattr(sys.modules.get("litellm"), "num_retries", None)
    settings = {"num_retries": tries, **settings, "model": model, "max_retries": 0}
    return call_of(None, completion, read_chat, settings)


def ollama_chat(client: Any, model: str, **settings: Any) -> Hook:
    """Call: ollama.Client().chat, or that of an AsyncClient. What it does not take by
    itself (temperature, seed, num_ctx ...) goes into its options, max_tokens as
    num_predict."""

    def request(messages: Messages, settings: dict[str, Any]) -> dict[str, Any]:
        if "max_tokens" in settings:
            settings["num_predict"] = settings.pop("max_tokens")
        return {"messages": messages, **settings}

    settings["model"] = model
    return call_of(
        client, client.chat, read_ollama, settings, request=request, others="options"
    )


def read_ollama(raw: Any) -> Reply:
    """Return the reply in a response of Ollama's own API."""
    message, calls = raw["message"], list[Any]()
    for it in message["tool_calls"] or ():
        name, arguments = it["function"]["name"], it["function"]["arguments"]
        calls.append(tool_call("", name, json.dumps(arguments)))
    used = tokens_of(raw, "prompt_eval_count", "eval_count")
    thought = message["thinking"] or ""
    return Reply(text_of(message), raw["done_reason"], thought, tuple(calls), *used)


def tokens_of(raw: Any, *path: str) -> tuple[int | None, int | None]:
    """Return the tokens read and written, the last two of the names; None for unknown:
    litellm says 0 where nothing is reported."""
    *path_to_usage, read, written = path
    figures = [get_path(int, raw, *path_to_usage, name) for name in (read, written)]
    return (figures[0], figures[1]) if figures[0] else (None, None)


def tool_call(id: str, name: str, arguments: str) -> dict[str, Any]:
    """Return a call of a tool in the form that OpenAI's API has for it."""
    function = {"name": name, "arguments": arguments}
    return {"id": id, "type": "function", "function": function}


# How a reply ended, in the words of each API; any other is unknown.
FINISH = dict.fromkeys(("stop", "completed", "end_turn", "stop_sequence"), "stop")
FINISH |= dict.fromkeys(("length", "max_tokens", "max_output_tokens"), "length")
FINISH |= {"model_context_window_exceeded": "length"}
FINISH |= {"refusal": "refusal", "content_filter": "refusal"}


def call_of(
    client: Any,
    create: Hook,
    read: Hook,
    settings: dict[str, Any],
    *,
    request: Hook = with_messages,
    others: str = "extra_body",
) -> Hook:
    """Return the call that sends request(messages, settings) by a client's method, and
    returns read(response); async where the method is. What the method does not take
    goes into its argument `others`, as fix-ups may set a seed or a temperature.

    Raises ValueError where the client retries: such requests would be neither counted
    nor limited. Raises TypeError for stream=True.
    """
    retries = getattr(client, "max_retries", 0) or settings.get("num_retries")
    if retries:
        cure = "give max_retries=0, as in client.with_options(max_retries=0)"
        raise ValueError(f"the client tries again {retries} times, unseen: {cure}")
    if settings.get("stream"):
        raise TypeError("stream=True: this call waits for the whole reply")
    keys = [getattr(client, name, None) for name in ("api_key", "auth_token")]
    secrets = [it for it in (*keys, settings.get("api_key")) if isinstance(it, str)]
    known = signature(create).parameters

    def arguments(messages: Messages, changed: dict[str, Any]) -> Any:
        merged = settings | changed
        given = {name: it for name, it in merged.items() if it is not None}
        given = request(messages, given)
        if not any(it.kind is it.VAR_KEYWORD for it in known.values()):
            odd = {name: given.pop(name) for name in given.keys() - known}
            given[others] = {**given.get(others, {}), **odd}
        return given

    def call(messages: Messages, **changed: Any) -> Reply:
        began = time.monotonic()
        with faults_of_client(secrets):
            response = create(**arguments(messages, changed))
            return reply_in(response, read, began)

    async def acall(messages: Messages, **changed: Any) -> Reply:
        began = time.monotonic()
        with faults_of_client(secrets):
            response = await create(**arguments(messages, changed))
            return reply_in(response, read, began)

    is_async = iscoroutinefunction(unwrap(create))
    chosen: Any = acall if is_async else call
    chosen.settings = without_secrets(settings)  # for records, and the tape
    chosen.blocks = not is_async  # so that arun refuses it
    chosen.__name__ = chosen.__qualname__ = settings["model"]
    return cast("Hook", chosen)


@contextmanager
def faults_of_client(secrets: Sequence[str]) -> Iterator[None]:
    """Make a CallError of a client's error, with no key in it; let a bug pass."""
    try:
        yield
    except Exception as error:
        fault = fault_of(error)
        # The response is not JSON, or not what ollama's client expects.
        if is_of_kind(error, "JSONDecodeError") or "for ChatResponse" in str(error):
            why = f"the response has no reply: check base_url: {describe(error)}"
            fault = fault or CallError(why, billed=True)
        if fault is None:
            raise
        for secret in secrets:
            if len(secret) >= 8:  # to hide shorter ones would garble words
                fault = replace(fault, why=fault.why.replace(secret, "(key)"))
        raise fault from None


def reply_in(response: Any, read: Hook, began: float) -> Reply:
    """Return the reply in a client's response. Raise CallError where there is none: an
    error in a 200, say, or the web page of a proxy, whose text clients return."""
    raw: Any = response
    try:
        raw = response.model_dump(mode="json", warnings=False)
        reply: Reply = read(raw)
    except (AttributeError, KeyError, IndexError, TypeError):
        code = get_path((str, int), raw, "error", "code")
        why = get_path(str, raw, "error", "message") or short_json(raw)
        why = f"the response has no reply: check base_url: {why[:300]}"
        status = code if type(code) is int and 100 <= code < 600 else None
        raise CallError(why, status, code if type(code) is str else "") from None
    finish = FINISH.get(reply.finish, "unknown")
    if reply.tool_calls and finish not in ("length", "refusal"):
        finish = "tools"
    model, id = get_path(str, raw, "model") or "", get_path(str, raw, "id") or ""
    seconds = time.monotonic() - began
    return replace(reply, finish=finish, model=model, id=id, seconds=seconds, raw=raw)


if __name__ == "__main__":
    import argparse
    import os
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from importlib import import_module

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # do not fetch it

    text = '{"name": "Ada", "age": 36}'
    answer, block = (
        {"role": "assistant", "content": text},
        {"type": "text", "text": text},
    )
    # What each of the clients reads of a response; the rest does not matter to it.
    body: dict[str, Any] = {"choices": [{"message": answer, "finish_reason": "stop"}]}
    body |= {"output": [{"type": "message", "content": [block]}], "status": "completed"}
    body |= {"content": [block], "stop_reason": "end_turn"}
    body |= {"message": answer, "done_reason": "stop"}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    v1: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
    root = v1 | {"base_url": url}
    broken, schema = '{"name": "Ada" "age": 36}', {"required": ["city"]}
    fixes = [*REPAIRS, json_repaired, *RE_ASKS]

    def ask(call: Hook, judge: Hook | None = None, **options: Any) -> Any:
        return run("Who?", judge or json_with(name=str), call=call, **options)

    shown: dict[str, Hook] = {  # with a package, what it gives
        "pydantic": lambda it: ask(
            scripted(broken), it.TypeAdapter(object).validate_json, fixes=()
        ),
        "jsonschema": lambda _: ask(scripted(text), json_by_schema(schema), fixes=()),
        "json_repair": lambda _: ask(
            scripted('{"name": "Ada" "age": 36}'), fixes=fixes
        ),
        "openai": lambda it: [
            ask(openai_chat(it.OpenAI(**v1), "m")),
            ask(openai_responses(it.OpenAI(**v1), "m")),
        ],
        "anthropic": lambda it: ask(anthropic_chat(it.Anthropic(**root), "m", 99)),
        "litellm": lambda it: ask(litellm_chat(it.completion, "openai/m", **v1)),
        "ollama": lambda it: ask(ollama_chat(it.Client(url), "m")),
    }
    for name, show in shown.items():
        try:
            package = import_module(name)
        except ImportError:
            print(f"{name}: not installed")
        else:
            print(f"{name}: {show(package)}")
