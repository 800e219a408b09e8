"""The peers of versus.py, and the process in which one of them runs.

A peer is a function that follows its documentation; the address stands first in its
docstring, then what we set and why. It gets the address of an endpoint, what is wanted
(PERSON or NUMBER) and how many requests it may make at most for that; None: what its
documentation shows. It returns two functions of a prompt, one blocking and one async.
Each returns the value (None: it gave up, and raised nothing) and the object that a user
would keep. Those that bring no client for HTTP share the calls of the bare loop.

`python peers.py NAME` is the process: it reads commands from stdin, a JSON list in each
line, and prints an answer in a line of JSON. `python peers.py NAME URL` makes one run.
"""

import json
import os
import sys
from typing import Any

PERSON, NUMBER = "person", "number"
MODEL = "some-model"  # nobody knows it: no special treatment
KEY = "sk-versus-5f1d0c92b7e84a63"
TASKS = {
    PERSON: "Who is this, and how old? Ada Lovelace wrote the first program, and died "
    "at 36. Answer with one JSON object with the keys name (string) and age (integer).",
    NUMBER: "At what age did Ada Lovelace die? Answer with the number alone.",
}
OURS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
Peer = tuple[Any, Any]

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
    for each task, as 1,000 runs at once through one client took more than ten times as
    long, whatever its limits. JSON by hand; and proxies are not looked for.
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


def with_loop(url: str, want: str, most: int | None) -> Peer:
    """README.md of this project

    Default fix-ups and limits: eight replies that are rejected, eight failed calls."""
    sys.path.insert(0, OURS)
    from loop import Limits, achat, arun, chat, json_with, run

    judge = int if want == NUMBER else json_with(name=str, age=int)
    call, acall = chat(MODEL, url, KEY), achat(MODEL, url, KEY)
    limits = Limits(tries=most)

    def ask(prompt: str) -> Any:
        result = run(prompt, judge, call=call, limits=limits)
        return result.value, result

    async def aask(prompt: str) -> Any:
        result = await arun(prompt, judge, call=acall, limits=limits)
        return result.value, result

    return ask, aask


def with_httpx(url: str, want: str, most: int | None) -> Peer:
    """https://www.python-httpx.org/async/ and https://www.python-httpx.org/advanced/clients/

    The best loop that we can write: eight times, no wait, whatever the client raises is
    raised."""
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

    return ask, aask


def with_tenacity(url: str, want: str, most: int | None) -> Peer:
    """https://tenacity.readthedocs.io/en/latest/ and, of its API, wait_exception

    Its `@retry` alone tries for ever, at once. Ours is stop_after_attempt(7), the first
    in its documentation, and the wait of its example for Retry-After: as told, or 1 s,
    after a 429; we wait 1 s for other statuses, and not at all after a bad reply. The
    call is that of bare httpx."""
    from httpx import HTTPError
    from tenacity import retry, stop_after_attempt, wait_exception

    def seconds(error: Any) -> float:
        if not isinstance(error, HTTPError):
            return 0
        response = getattr(error, "response", None)
        return float(response.headers.get("Retry-After", "1")) if response else 1

    call, acall, new_client = calls_of_httpx(url)
    read = reader_by_hand(want)
    stop = stop_after_attempt(most or 7)

    @retry(stop=stop, wait=wait_exception(seconds))
    def ask(prompt: str) -> Any:
        value = read(call(prompt))
        return value, value

    @retry(stop=stop, wait=wait_exception(seconds))
    async def ask_with(prompt: str, client: Any) -> Any:
        value = read(await acall(client, prompt))
        return value, value

    async def aask(prompt: str) -> Any:
        async with new_client() as client:
            return await ask_with(prompt, client)

    return ask, aask


def with_pocketflow(url: str, want: str, most: int | None) -> Peer:
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

        def post(self, shared: Any, prompt: Any, value: Any) -> None:
            shared["value"] = value

    class ExtractAsync(AsyncNode):
        async def prep_async(self, shared: Any) -> Any:
            return shared["client"], shared["prompt"]

        async def exec_async(self, asked: Any) -> Any:
            return read(await acall(*asked))

        async def post_async(self, shared: Any, asked: Any, value: Any) -> None:
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

    return ask, aask


def with_openai(url: str, want: str, most: int | None) -> Peer:
    """https://github.com/openai/openai-python (README: usage, retries, async usage)

    In a loop of eight, with a check by pydantic. Its client tries again by itself where
    a call fails: twice by default."""
    from openai import AsyncOpenAI, OpenAI

    client = OpenAI(base_url=url, api_key=KEY)
    aclient = AsyncOpenAI(base_url=url, api_key=KEY)
    read, times = reader_with_pydantic(want), range(most or 8)

    def ask(prompt: str) -> Any:
        messages: Any = [{"role": "user", "content": prompt}]
        for _ in times:
            reply = client.chat.completions.create(model=MODEL, messages=messages)
            try:
                return read(reply.choices[0].message.content or ""), reply
            except ValueError:
                pass
        return None, None

    async def aask(prompt: str) -> Any:
        messages: Any = [{"role": "user", "content": prompt}]
        for _ in times:
            reply = await aclient.chat.completions.create(
                model=MODEL, messages=messages
            )
            try:
                return read(reply.choices[0].message.content or ""), reply
            except ValueError:
                pass
        return None, None

    return ask, aask


def with_instructor(url: str, want: str, most: int | None) -> Peer:
    """https://python.useinstructor.com/learning/validation/retry_mechanisms

    By a tool, the default for OpenAI's API; max_retries is its default, 3."""
    import instructor

    options: Any = {"base_url": url, "api_key": KEY}
    client = instructor.from_provider(f"openai/{MODEL}", **options)
    aclient = instructor.from_provider(f"openai/{MODEL}", async_client=True, **options)
    kind: Any = int if want == NUMBER else person()
    more: Any = {"max_retries": most - 1} if most else {}

    def ask(prompt: str) -> Any:
        messages: Any = [{"role": "user", "content": prompt}]
        value = client.create(response_model=kind, messages=messages, **more)
        return value, value

    async def aask(prompt: str) -> Any:
        messages: Any = [{"role": "user", "content": prompt}]
        value = await aclient.create(response_model=kind, messages=messages, **more)
        return value, value

    return ask, aask


def with_pydantic_ai(url: str, want: str, most: int | None) -> Peer:
    """https://ai.pydantic.dev/output/ and https://ai.pydantic.dev/models/openai/

    By a tool, the default of output_type; one retry, the default."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=KEY))
    kind: Any = int if want == NUMBER else person()
    more: Any = {"retries": most - 1} if most else {}
    agent = Agent(model, output_type=kind, **more)

    def ask(prompt: str) -> Any:
        result = agent.run_sync(prompt)
        return result.output, result

    async def aask(prompt: str) -> Any:
        result = await agent.run(prompt)
        return result.output, result

    return ask, aask


def with_langgraph(url: str, want: str, most: int | None) -> Peer:
    """https://docs.langchain.com/oss/python/langgraph/workflows-agents
    ("Evaluator-optimizer": a conditional edge that leads back, with the feedback)

    The node calls openai's client and checks by pydantic; the prompt gets the feedback,
    as there. There it goes on until recursion_limit; ours is that default."""
    from langgraph.graph import END, START, StateGraph
    from openai import AsyncOpenAI, OpenAI
    from typing_extensions import TypedDict

    client = OpenAI(base_url=url, api_key=KEY)
    aclient = AsyncOpenAI(base_url=url, api_key=KEY)
    read = reader_with_pydantic(want)

    class State(TypedDict, total=False):
        prompt: str
        feedback: str
        value: Any

    def messages(state: State) -> Any:
        text = state["prompt"]
        if state.get("feedback"):
            text += f"\nTake into account the feedback: {state['feedback']}"
        return [{"role": "user", "content": text}]

    def checked(reply: Any) -> Any:
        try:
            return {"value": read(reply.choices[0].message.content or "")}
        except ValueError as error:
            return {"feedback": str(error)}

    def call(state: State) -> Any:
        sent: Any = {"model": MODEL, "messages": messages(state)}
        return checked(client.chat.completions.create(**sent))

    async def acall(state: State) -> Any:
        sent: Any = {"model": MODEL, "messages": messages(state)}
        return checked(await aclient.chat.completions.create(**sent))

    def route(state: State) -> str:
        return "Rejected" if state.get("value") is None else "Accepted"

    def graph_of(node: Any) -> Any:
        builder = StateGraph(State)
        builder.add_node("call", node)
        builder.add_edge(START, "call")
        ways = {"Accepted": END, "Rejected": "call"}
        builder.add_conditional_edges("call", route, ways)
        return builder.compile()

    graph, agraph = graph_of(call), graph_of(acall)
    config: Any = {"recursion_limit": most + 1} if most else {}

    def ask(prompt: str) -> Any:
        state = graph.invoke({"prompt": prompt}, config)
        return state["value"], state

    async def aask(prompt: str) -> Any:
        state = await agraph.ainvoke({"prompt": prompt}, config)
        return state["value"], state

    return ask, aask


# name: (function, packages, what it has to import)
PEERS: dict[str, tuple[Any, str, str]] = {
    "httpx": (with_httpx, "httpx==0.28.1", "httpx"),
    "loop.py": (with_loop, "httpx==0.28.1", "loop httpx"),
    "tenacity": (with_tenacity, "tenacity==9.2.1 httpx==0.28.1", "tenacity httpx"),
    "PocketFlow": (
        with_pocketflow,
        "pocketflow==0.0.3 httpx==0.28.1",
        "pocketflow httpx",
    ),
    "openai": (with_openai, "openai==3.57.0", "openai pydantic"),
    "instructor": (with_instructor, "instructor==1.17.0", "instructor openai"),
    "pydantic-ai": (
        with_pydantic_ai,
        "pydantic-ai-slim[openai]==2.68.0",
        "pydantic_ai pydantic_ai.models.openai pydantic_ai.providers.openai",
    ),
    "LangGraph": (
        with_langgraph,
        "langgraph==1.2.24 openai==3.57.0",
        "langgraph.graph openai pydantic",
    ),
}
QUIET = {"LANGSMITH_TRACING": "false", "OTEL_SDK_DISABLED": "true", "NO_PROXY": "*"}

# The process --------------------------------------------------------------------------


def make_runs(name: str, url: str, first: int, runs: int) -> dict[str, float]:
    """Make runs, one at a time; return the CPU time and the time, in seconds."""
    from time import perf_counter, process_time

    ask = ASKS.get((name, url)) or PEERS[name][0](url, PERSON, None)[0]
    ASKS[name, url] = ask
    cpu, wall = process_time(), perf_counter()
    for number in range(first, first + runs):
        check(ask(f"{TASKS[PERSON]} (run {number})")[0])
    return {"cpu": process_time() - cpu, "wall": perf_counter() - wall}


ASKS: dict[Any, Any] = {}


def make_runs_at_once(
    name: str, url: str, first: int, runs: int, threads: bool
) -> dict[str, float]:
    """Make so many runs, all at once; return the CPU time and the time."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor
    from time import perf_counter, process_time

    prompts = [f"{TASKS[PERSON]} (run {first + it})" for it in range(runs)]

    async def all_at_once() -> Any:
        aask = PEERS[name][0](url, PERSON, None)[1]
        began = process_time(), perf_counter()
        values = await asyncio.gather(*map(aask, prompts))
        return began, values

    if threads:
        ask = PEERS[name][0](url, PERSON, None)[0]
        began = process_time(), perf_counter()
        with ThreadPoolExecutor(runs) as pool:
            values = list(pool.map(ask, prompts))
        took = process_time() - began[0], perf_counter() - began[1]
    else:
        began, values = asyncio.run(all_at_once())
        took = process_time() - began[0], perf_counter() - began[1]
    for value, _ in values:
        check(value)
    return {"cpu": took[0], "wall": took[1]}


def check(value: Any) -> None:
    """Raise where this is not the person who was asked for."""
    if plain(value) != {"name": "Ada Lovelace", "age": 36}:
        raise AssertionError(f"a wrong value: {value!r}")


def plain(value: Any) -> Any:
    """Return a value without pydantic around it."""
    return value.model_dump() if hasattr(value, "model_dump") else value


def import_needed(name: str) -> dict[str, float]:
    """Import what a peer needs; return the CPU milliseconds that it takes."""
    from importlib import import_module
    from time import process_time

    sys.path.insert(0, OURS)
    began = process_time()
    for module in PEERS[name][2].split():
        import_module(module)
    return {"cpu": process_time() - began}


def cold_start(name: str, url: str, number: int) -> dict[str, float]:
    """Make one run; return the CPU seconds of this process since it started."""
    from time import process_time

    check(PEERS[name][0](url, PERSON, None)[0](f"{TASKS[PERSON]} (run {number})")[0])
    return {"cpu": process_time()}


COMMANDS = {
    it.__name__: it for it in (make_runs, make_runs_at_once, import_needed, cold_start)
}


def answer_commands(name: str) -> None:
    """Answer commands, [function, argument ...] in a line, until stdin ends."""
    from importlib.metadata import version

    names = [it.partition("==")[0].partition("[")[0] for it in PEERS[name][1].split()]
    about = {"python": sys.version, "executable": sys.executable}
    about["versions"] = {it: version(it) for it in names}
    print(json.dumps(about), file=ANSWERS, flush=True)
    for line in sys.stdin:
        function, *arguments = json.loads(line)
        try:
            answer = COMMANDS[function](name, *arguments)
        except Exception as error:  # noqa: BLE001
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), file=ANSWERS, flush=True)


if __name__ == "__main__":
    os.environ.update(QUIET)
    ANSWERS, sys.stdout = sys.stdout, sys.stderr  # whatever a framework prints
    if len(sys.argv) == 2:
        answer_commands(sys.argv[1])
    else:
        function, name, *arguments = sys.argv[1:]
        print(json.dumps(COMMANDS[function](name, *arguments)), file=ANSWERS)
