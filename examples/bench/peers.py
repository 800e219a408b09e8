#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# ///
"""Situation: you want to know which code versus.py measures of a peer, and why so.

    uv run examples/bench/peers.py        the peers, their packages and documentation

Each peer is a function that follows the documentation at the address that stands first
in its docstring; what we set, and why, stands below. It gets the address of an
endpoint, what is wanted (PERSON or NUMBER), how many replies it may look at (None: what
its documentation shows) and whether to be async. It returns a function of a prompt,
which returns the value (None: it gave up, and raised nothing) and the object that a
user would keep. Those that bring no client for HTTP share the calls of the bare loop.
"""

import json
from typing import Any, NamedTuple

PERSON, NUMBER = "person", "number"
MODEL = "some-model"  # nobody knows it: no special treatment
KEY = "sk-versus-5f1d0c92b7e84a63"
TASKS = {
    PERSON: "Who is this, and how old? Ada Lovelace wrote the first program, and died "
    "at 36. Answer with one JSON object with the keys name (string) and age (integer).",
    NUMBER: "At what age did Ada Lovelace die? Answer with the number alone.",
}

# What several of them share -----------------------------------------------------------


def person() -> Any:
    """Return the model of pydantic for those whose documentation takes one."""
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    return Person


def reader_with_pydantic(want: str) -> Any:
    """Return the function that makes a value of a text, or raises ValueError."""
    return int if want == NUMBER else person().model_validate_json


def reader_by_hand(want: str) -> Any:
    """Return the same without a library: the fastest that we know."""

    def read_person(text: str) -> Any:
        value = json.loads(text)
        if type(value) is not dict or type(value.get("name")) is not str:
            raise ValueError("name: missing, or no string")
        if type(value.get("age")) is not int:
            raise ValueError("age: missing, or no integer")
        return value

    return int if want == NUMBER else read_person


def calls_of_httpx(url: str) -> tuple[Any, Any, Any]:
    """Return a function from a prompt to the text of a reply; the same, async, of a
    client and a prompt; and one that returns a new async client.

    The fastest ways that we found. Blocking: a client for each thread. Async: a client
    for each task, as with one for all, whatever its limits, 1,000 runs at once take
    many times as long (see concurrency.py). JSON by hand; no look for proxies.
    """
    from threading import local

    import httpx

    options: Any = {
        "verify": httpx.create_ssl_context(),
        "timeout": 60,
        "trust_env": False,
        "headers": {
            "Authorization": f"Bearer {KEY}",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
        },
    }
    address, of_thread = httpx.URL(url + "/chat/completions"), local()

    def content(prompt: str) -> bytes:
        messages = [{"role": "user", "content": prompt}]
        return json.dumps({"model": MODEL, "messages": messages}).encode()

    def text_in(response: Any) -> str:
        response.raise_for_status()
        return json.loads(response.content)["choices"][0]["message"]["content"] or ""

    def call(prompt: str) -> str:
        if not hasattr(of_thread, "client"):
            of_thread.client = httpx.Client(**options)
        return text_in(of_thread.client.post(address, content=content(prompt)))

    async def acall(client: Any, prompt: str) -> str:
        return text_in(await client.post(address, content=content(prompt)))

    return call, acall, lambda: httpx.AsyncClient(**options)


# The peers ----------------------------------------------------------------------------


def with_loop(url: str, want: str, most: int | None, is_async: bool) -> Any:
    """README.md of this project

    Default fix-ups and limits: eight replies that are rejected, eight failed calls."""
    from loop import Limits, achat, arun, chat, json_with, run

    judge = int if want == NUMBER else json_with(name=str, age=int)
    limits = Limits(tries=most)
    call = (achat if is_async else chat)(MODEL, url, KEY)

    def ask(prompt: str) -> Any:
        result = run(prompt, judge, call=call, limits=limits)
        return result.value, result

    async def aask(prompt: str) -> Any:
        result = await arun(prompt, judge, call=call, limits=limits)
        return result.value, result

    return aask if is_async else ask


def with_httpx(url: str, want: str, most: int | None, is_async: bool) -> Any:
    """https://www.python-httpx.org/advanced/clients/ and .../async/

    The best loop that we can write: eight times, no wait; what the client raises is
    raised, but for a body that is no JSON."""
    call, acall, new_client = calls_of_httpx(url)
    read, times = reader_by_hand(want), range(most or 8)

    def ask(prompt: str) -> Any:
        for _ in times:
            try:
                value = read(call(prompt))
            except ValueError:
                continue
            return value, value
        return None, None

    async def aask(prompt: str) -> Any:
        async with new_client() as client:
            for _ in times:
                try:
                    value = read(await acall(client, prompt))
                except ValueError:
                    continue
                return value, value
        return None, None

    return aask if is_async else ask


def with_tenacity(url: str, want: str, most: int | None, is_async: bool) -> Any:
    """https://tenacity.readthedocs.io/en/latest/ and, there, the API: wait_exception

    Its `@retry` alone tries for ever, at once. Ours is stop_after_attempt(7), the first
    in its documentation, and the wait of its example for Retry-After: as told, or 1 s,
    after a 429. We wait 1 s after other failed calls (there: 60), and not at all after
    a bad reply. The call is that of bare httpx, as it brings none."""
    from httpx import HTTPError
    from tenacity import retry, stop_after_attempt, wait_exception

    def seconds(error: Any) -> float:
        if not isinstance(error, HTTPError):
            return 0
        response = getattr(error, "response", None)
        return 1 if response is None else float(response.headers.get("Retry-After", 1))

    call, acall, new_client = calls_of_httpx(url)
    read = reader_by_hand(want)
    again = retry(stop=stop_after_attempt(most or 7), wait=wait_exception(seconds))

    @again
    def ask(prompt: str) -> Any:
        value = read(call(prompt))
        return value, value

    @again
    async def ask_through(client: Any, prompt: str) -> Any:
        value = read(await acall(client, prompt))
        return value, value

    async def aask(prompt: str) -> Any:
        async with new_client() as client:
            return await ask_through(client, prompt)

    return aask if is_async else ask


def with_pocketflow(url: str, want: str, most: int | None, is_async: bool) -> Any:
    """https://the-pocket.github.io/PocketFlow/core_abstraction/node.html ("Fault
    Tolerance & Retries") and .../core_abstraction/async.html

    A node that calls and checks, with max_retries=3 as there (the default tries once);
    we left out its wait of 10 s, which would come after each bad reply, too. The call
    is that of bare httpx, as it brings none."""
    from pocketflow import AsyncFlow, AsyncNode, Node

    call, acall, new_client = calls_of_httpx(url)
    read, tries = reader_by_hand(want), most or 3

    class Extract(Node):
        def prep(self, shared: Any) -> Any:
            return shared["prompt"]

        def exec(self, prompt: Any) -> Any:
            return read(call(prompt))

        def post(self, shared: Any, _: Any, value: Any) -> None:
            shared["value"] = value

    class ExtractAsync(AsyncNode):
        async def prep_async(self, shared: Any) -> Any:
            return shared["client"], shared["prompt"]

        async def exec_async(self, asked: Any) -> Any:
            return read(await acall(*asked))

        async def post_async(self, shared: Any, _: Any, value: Any) -> None:
            shared["value"] = value

    def ask(prompt: str) -> Any:
        shared = {"prompt": prompt}
        Extract(max_retries=tries).run(shared)
        return shared["value"], shared

    async def aask(prompt: str) -> Any:
        async with new_client() as client:
            shared = {"prompt": prompt, "client": client}
            await AsyncFlow(start=ExtractAsync(max_retries=tries)).run_async(shared)
        del shared["client"]
        return shared["value"], shared

    return aask if is_async else ask


def client_of_openai(url: str, is_async: bool) -> Any:
    """Return openai's client; async as its README says for many calls, with aiohttp."""
    from openai import AsyncOpenAI, DefaultAioHttpClient, OpenAI

    if not is_async:
        return OpenAI(base_url=url, api_key=KEY)
    http_client: Any = DefaultAioHttpClient()
    return AsyncOpenAI(base_url=url, api_key=KEY, http_client=http_client)


def with_openai(url: str, want: str, most: int | None, is_async: bool) -> Any:
    """https://github.com/openai/openai-python (README: Async usage, With aiohttp)

    In a loop of eight, with a check by pydantic. Its client tries again by itself where
    a call fails: twice by default."""
    client = client_of_openai(url, is_async)
    read, times = reader_with_pydantic(want), range(most or 8)

    def ask(prompt: str) -> Any:
        messages: Any = [{"role": "user", "content": prompt}]
        for _ in times:
            reply = client.chat.completions.create(model=MODEL, messages=messages)
            try:
                return read(reply.choices[0].message.content or ""), reply
            except ValueError:
                continue
        return None, None

    async def aask(prompt: str) -> Any:
        messages: Any = [{"role": "user", "content": prompt}]
        for _ in times:
            reply = await client.chat.completions.create(model=MODEL, messages=messages)
            try:
                return read(reply.choices[0].message.content or ""), reply
            except ValueError:
                continue
        return None, None

    return aask if is_async else ask


def with_instructor(url: str, want: str, most: int | None, is_async: bool) -> Any:
    """https://python.useinstructor.com/learning/validation/retry_mechanisms and
    https://python.useinstructor.com/integrations/openai/ (from_openai)

    By a tool, the default for OpenAI's API; max_retries is its default."""
    import instructor

    client = instructor.from_openai(client_of_openai(url, is_async))
    kind: Any = int if want == NUMBER else person()
    sent: Any = {"model": MODEL, "response_model": kind}
    sent |= {"max_retries": most - 1} if most else {}

    def ask(prompt: str) -> Any:
        messages: Any = [{"role": "user", "content": prompt}]
        value = client.create(messages=messages, **sent)
        return value, value

    async def aask(prompt: str) -> Any:
        messages: Any = [{"role": "user", "content": prompt}]
        value = await client.create(messages=messages, **sent)
        return value, value

    return aask if is_async else ask


def with_pydantic_ai(url: str, want: str, most: int | None, is_async: bool) -> Any:
    """https://ai.pydantic.dev/output/ and https://ai.pydantic.dev/models/openai/
    ("Custom OpenAI Client")

    By a tool, the default of output_type; one retry, the default."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    options: Any = {"base_url": url, "api_key": KEY}
    if is_async:
        options = {"openai_client": client_of_openai(url, is_async)}
    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(**options))
    kind: Any = int if want == NUMBER else person()
    more: Any = {"retries": most - 1} if most else {}
    agent = Agent(model, output_type=kind, **more)

    def ask(prompt: str) -> Any:
        result = agent.run_sync(prompt)
        return result.output, result

    async def aask(prompt: str) -> Any:
        result = await agent.run(prompt)
        return result.output, result

    return aask if is_async else ask


def with_langgraph(url: str, want: str, most: int | None, is_async: bool) -> Any:
    """https://docs.langchain.com/oss/python/langgraph/workflows-agents
    ("Evaluator-optimizer": a conditional edge that leads back, with the feedback)

    The node calls openai's client and checks by pydantic; the prompt gets the feedback,
    as there. There, too, only recursion_limit ends it; ours is the default, 10,007."""
    from langgraph.graph import END, START, StateGraph
    from typing_extensions import TypedDict

    client = client_of_openai(url, is_async)
    read = reader_with_pydantic(want)

    class State(TypedDict, total=False):
        prompt: str
        feedback: str
        value: Any

    def request(state: State) -> Any:
        text = state["prompt"]
        if state.get("feedback"):
            text += f"\nTake into account the feedback: {state['feedback']}"
        return {"model": MODEL, "messages": [{"role": "user", "content": text}]}

    def checked(reply: Any) -> Any:
        try:
            return {"value": read(reply.choices[0].message.content or "")}
        except ValueError as error:
            return {"feedback": str(error)}

    def call(state: State) -> Any:
        return checked(client.chat.completions.create(**request(state)))

    async def acall(state: State) -> Any:
        return checked(await client.chat.completions.create(**request(state)))

    def route(state: State) -> str:
        return "Rejected" if state.get("value") is None else "Accepted"

    builder = StateGraph(State)
    builder.add_node("call", acall if is_async else call)
    builder.add_edge(START, "call")
    builder.add_conditional_edges("call", route, {"Accepted": END, "Rejected": "call"})
    graph = builder.compile()
    config: Any = {"recursion_limit": most + 1} if most else {}

    def ask(prompt: str) -> Any:
        state = graph.invoke({"prompt": prompt}, config)
        return state["value"], state

    async def aask(prompt: str) -> Any:
        state = await graph.ainvoke({"prompt": prompt}, config)
        return state["value"], state

    return aask if is_async else ask


class Peer(NamedTuple):
    """A peer, and what it needs."""

    function: Any
    packages: str  # the newest, when this was written, that fit together
    imports: str


PEERS = {
    "httpx": Peer(with_httpx, "httpx==0.28.1", "httpx"),
    "loop.py": Peer(with_loop, "httpx==0.28.1", "loop httpx"),
    "tenacity": Peer(with_tenacity, "tenacity==9.2.1 httpx==0.28.1", "tenacity httpx"),
    "PocketFlow": Peer(
        with_pocketflow, "pocketflow==0.0.3 httpx==0.28.1", "pocketflow httpx"
    ),
    "openai": Peer(with_openai, "openai[aiohttp]==3.57.0", "openai pydantic"),
    "instructor": Peer(
        with_instructor,
        "instructor==1.17.0 openai[aiohttp]==3.3.0",  # it takes no newer one
        "instructor openai",
    ),
    "pydantic-ai": Peer(
        with_pydantic_ai,
        "pydantic-ai-slim[openai]==2.68.0 openai[aiohttp]==3.57.0",
        "pydantic_ai pydantic_ai.models.openai pydantic_ai.providers.openai",
    ),
    "LangGraph": Peer(
        with_langgraph,
        "langgraph==1.2.24 openai[aiohttp]==3.57.0",
        "langgraph.graph openai pydantic",
    ),
}

if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    for name, peer in PEERS.items():
        print(f"{name}: {peer.packages}\n    {peer.function.__doc__}\n")
