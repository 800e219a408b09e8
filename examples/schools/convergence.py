#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: graphs, durable workflows, agents, committees: what does each SEND?

    uv run examples/schools/convergence.py                       all: some minutes
    uv run examples/schools/convergence.py --peers loop.py DBOS  some of them

The claim is that all of them end up as one loop with opinions: call, inspect, decide,
try again. Each gets one task that fails, in a function as its own documentation shows
it. A server on this machine notes each request. It answers the first with a reply
without the age, the second with talk and an age in words, the third with a 429 that
says to wait a second, and all later ones with a good reply: as a call of a tool, where
the request has tools, else as text. You see how many bytes were sent and after which
wait, and what is in a request that was not in the one before:

    same              nothing: the request before, once more
    history           the bad reply
    error             words of the complaint about it
    fresh             neither, but it is not the request before

and what ended it, and which parts its documentation leaves to you. A run is cut after
12 requests or 60 s. No key and no model are needed. What this Python cannot import is
run by `uv`, which installs it, each in an environment of its own, as they do not fit
into one. A peer may reach this machine only: other addresses are refused, and named.
--json: all, with the requests. --svg FILE: a picture, too. Exit status: 0; 2 for a
wrong argument; 3 if no peer ran; 130 after Ctrl-C.
"""

import argparse
import asyncio
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where loop.py is

TASK = (
    "Who is this, and how old? Ada Lovelace wrote the first program, and died at 36. "
    "Answer with one JSON object with the keys name (string) and age (integer)."
)
BAD = ('{"name": "Ada Byron"}', '{"name": "Ada Byron", "age": "thirty-six"}')
GOOD = '{"name": "Ada Lovelace", "age": 36}'
TALK = ("", "Of course! Here is what I found. ", "", "")
MODEL, KEY = "some-model", "no-key-needed"  # no peer knows it, so none makes exceptions
MOST_REQUESTS, MOST_SECONDS = 12, 60

# The peers: each returns what it got as a dict, or raises ------------------------------


def person() -> Any:
    """Return the model of pydantic that most of them take."""
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    return Person


def with_loop(url: str) -> Any:
    """README.md. Text: it adds no format to a request. Its own: all of it."""
    from loop import chat, json_with, run

    result = run(TASK, json_with(name=str, age=int), call=chat(MODEL, url, KEY))
    return result.unwrap()


def with_instructor(url: str) -> Any:
    """https://python.useinstructor.com/learning/validation/retry_mechanisms

    By a tool, the default for OpenAI's API. Its own: all, but the 429 is left to the
    client of openai below it."""
    import instructor

    client = instructor.from_provider(f"openai/{MODEL}", base_url=url, api_key=KEY)
    messages = [{"role": "user", "content": TASK}]
    found = client.create(response_model=person(), messages=messages, max_retries=3)
    return found.model_dump()


def with_pydantic_ai(url: str) -> Any:
    """https://ai.pydantic.dev/output/ and https://ai.pydantic.dev/models/openai/

    By a tool, the default of output_type. retries=3, as by default it is 1, which the
    second bad reply uses up."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=KEY))
    agent = Agent(model, output_type=person(), retries=3)
    return agent.run_sync(TASK).output.model_dump()


def with_langgraph(url: str) -> Any:
    """https://docs.langchain.com/oss/python/langgraph/thinking-in-langgraph ("Handle
    errors appropriately": keep the error in the state and loop back, a RetryPolicy
    against rate limits)

    By JSON schema, the default of with_structured_output. Ours: the edge back, and what
    it tells the model."""
    from langchain_core.exceptions import OutputParserException
    from langchain_openai import ChatOpenAI
    from langgraph.graph import END, START, StateGraph
    from langgraph.graph.message import add_messages
    from langgraph.types import Command, RetryPolicy
    from pydantic import ValidationError
    from typing_extensions import TypedDict

    class State(TypedDict):
        messages: Annotated[list[Any], add_messages]
        found: dict[str, Any]

    llm = ChatOpenAI(model=MODEL, base_url=url, api_key=KEY)
    structured = llm.with_structured_output(person())

    def extract(state: State) -> Any:
        try:
            found = structured.invoke(state["messages"])
        except (ValidationError, OutputParserException) as error:
            update = {"messages": [("user", f"Error: {error}. Try again.")]}
            return Command(update=update, goto="extract")
        return Command(update={"found": found.model_dump()}, goto=END)

    graph = StateGraph(State)
    graph.add_node("extract", extract, retry_policy=RetryPolicy(max_attempts=3))
    graph.add_edge(START, "extract")
    return graph.compile().invoke({"messages": [("user", TASK)]})["found"]


def with_langchain(url: str) -> Any:
    """https://docs.langchain.com/oss/python/langchain/structured-output

    By a tool, what it takes for a model that it does not know. Its own: all, as a graph
    of LangGraph that it builds."""
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI

    llm = ChatOpenAI(model=MODEL, base_url=url, api_key=KEY)
    agent = create_agent(llm, tools=[], response_format=person())
    state = agent.invoke({"messages": [{"role": "user", "content": TASK}]})
    return state["structured_response"].model_dump()


def with_dbos(url: str) -> Any:
    """https://docs.dbos.dev/python/tutorials/step-tutorial ("Configurable Retries")

    Text: it leaves the call to you. Ours: the call and the validation. Its own: the
    retries of a step, whatever it raises."""
    from dbos import DBOS
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key=KEY)

    @DBOS.step(retries_allowed=True, max_attempts=10)
    def extract() -> Any:
        messages: Any = [{"role": "user", "content": TASK}]
        reply = client.chat.completions.create(model=MODEL, messages=messages)
        text = reply.choices[0].message.content or ""
        return person().model_validate_json(text).model_dump()

    @DBOS.workflow()
    def workflow() -> Any:
        return extract()

    DBOS(config={"name": "convergence", "run_admin_server": False})
    DBOS.launch()
    try:
        return workflow()
    finally:
        DBOS.destroy()


def with_mini_swe_agent(url: str) -> Any:
    """https://mini-swe-agent.com/latest/advanced/cookbook/ ("validates actions": a
    class below the environment) and https://mini-swe-agent.com/latest/models/local_models/

    By its only tool, bash: an answer is what a command prints. Ours: the validation, as
    it takes any answer."""
    import minisweagent
    import yaml
    from minisweagent.agents.default import DefaultAgent
    from minisweagent.environments.local import LocalEnvironment
    from minisweagent.exceptions import Submitted
    from minisweagent.models.litellm_model import LitellmModel

    class Checked(LocalEnvironment):
        def execute(self, action: dict[str, Any], *rest: Any, **options: Any) -> Any:
            try:
                return super().execute(action, *rest, **options)
            except Submitted as end:
                try:
                    person().model_validate_json(end.messages[0]["content"])
                except ValueError as error:
                    return {"output": str(error), "returncode": 1, "exception_info": ""}
                raise

    folder = Path(minisweagent.__file__).parent
    config = yaml.safe_load((folder / "config" / "mini.yaml").read_text())
    options = config["model"]
    options["model_kwargs"] |= {"api_base": url, "api_key": KEY}
    model = LitellmModel(model_name=f"openai/{MODEL}", **options)
    names = ("system_template", "instance_template")
    agent = DefaultAgent(model, Checked(), **{it: config["agent"][it] for it in names})
    return json.loads(agent.run(TASK)["submission"])


def with_agent_framework(url: str) -> Any:
    """https://learn.microsoft.com/en-us/agent-framework/agents/looping (AutoGen's
    successor)

    By JSON schema, its way for structured output. Ours: the question whether to go on,
    and the feedback."""
    from agent_framework import Agent, AgentLoopMiddleware
    from agent_framework.openai import OpenAIChatCompletionClient

    def unfinished(*, last_result: Any, **_: Any) -> tuple[bool, str | None]:
        try:
            person().model_validate_json(last_result.text)
        except ValueError as error:
            return True, str(error)
        return False, None

    def nudge(*, feedback: str, **_: Any) -> str:
        return feedback

    client = OpenAIChatCompletionClient(model=MODEL, api_key=KEY, base_url=url)
    loop = AgentLoopMiddleware(unfinished, next_message=nudge, return_final_only=True)
    agent = Agent(client, middleware=[loop])
    options: Any = {"response_format": person()}
    return asyncio.run(agent.run(TASK, options=options)).value.model_dump()


def with_autogen(url: str) -> Any:
    """https://microsoft.github.io/autogen/stable/user-guide/agentchat-user-guide/
    (tutorial/teams.html: a writer and a critic; custom-agents.html: an agent of code)

    Text: the members of a team talk. Ours: the critic, which is code."""
    from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
    from autogen_agentchat.base import Response
    from autogen_agentchat.conditions import TextMentionTermination
    from autogen_agentchat.messages import TextMessage
    from autogen_agentchat.teams import RoundRobinGroupChat
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    class Critic(BaseChatAgent):
        produced_message_types = (TextMessage,)

        async def on_messages(self, messages: Any, cancellation_token: Any) -> Response:
            try:
                person().model_validate_json(messages[-1].content)
                verdict = "APPROVE"
            except ValueError as error:
                verdict = str(error)
            return Response(
                chat_message=TextMessage(content=verdict, source=self.name)
            )

        async def on_reset(self, cancellation_token: Any) -> None:
            """It keeps nothing."""

    known = ("vision", "function_calling", "json_output", "structured_output")
    info: Any = dict.fromkeys(known, False) | {"family": "unknown"}
    client = OpenAIChatCompletionClient(
        model=MODEL, base_url=url, api_key=KEY, model_info=info
    )
    team = RoundRobinGroupChat(
        [AssistantAgent("writer", client), Critic("critic", "Checks the JSON.")],
        termination_condition=TextMentionTermination("APPROVE", sources=["critic"]),
    )
    return json.loads(asyncio.run(team.run(task=TASK)).messages[-2].content)


def with_crewai(url: str) -> Any:
    """https://docs.crewai.com/en/concepts/tasks ("Getting Structured Consistent Outputs
    from Tasks", output_pydantic) and https://docs.crewai.com/en/concepts/llms

    Its own: all."""
    from crewai import LLM, Agent, Crew, Task

    llm = LLM(model=f"openai/{MODEL}", base_url=url, api_key=KEY)
    agent = Agent(
        role="Reader", goal="Find out about people", backstory="You are exact.", llm=llm
    )
    task = Task(
        description=TASK,
        expected_output="a person's name and age",
        agent=agent,
        output_pydantic=person(),
    )
    return Crew(agents=[agent], tasks=[task]).kickoff().pydantic.model_dump()


class Peer(NamedTuple):
    """A framework: its school, what to install, and what was left to us."""

    school: str
    function: Any
    packages: str
    ours: str = "nothing"


PEERS = {
    "loop.py": Peer("this project", with_loop, "httpx"),
    "instructor": Peer("plain loop", with_instructor, "instructor==1.17.0"),
    "pydantic-ai": Peer(
        "agent", with_pydantic_ai, "pydantic-ai-slim==2.68.0 openai==3.57.0"
    ),
    "LangGraph": Peer(
        "graph",
        with_langgraph,
        "langgraph==1.2.24 langchain-openai==1.7.4",
        "the edge back, the words to the model",
    ),
    "LangChain": Peer(
        "agent on a graph", with_langchain, "langchain==1.5.2 langchain-openai==1.7.4"
    ),
    "DBOS": Peer(
        "durable workflow",
        with_dbos,
        "dbos==3.4.0 openai==3.57.0 pydantic==2.14.4",
        "the call, the validation",
    ),
    "mini-swe-agent": Peer(
        "plain loop", with_mini_swe_agent, "mini-swe-agent==2.4.6", "the validation"
    ),
    "agent-framework": Peer(
        "committee",
        with_agent_framework,
        "agent-framework-core==1.23.0 agent-framework-openai==1.17.0",
        "the validation",
    ),
    "AutoGen": Peer(
        "committee",
        with_autogen,
        "autogen-agentchat==0.7.5 autogen-ext[openai]==0.7.5",
        "the validation (a critic)",
    ),
    "CrewAI": Peer("committee", with_crewai, "crewai==1.15.30"),
}
QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
    "ANONYMIZED_TELEMETRY": "false",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MSWEA_COST_TRACKING": "ignore_errors",
    "MSWEA_SILENT_STARTUP": "1",
    "OPENAI_API_KEY": KEY,
    "NO_PROXY": "*",
}


def run_peer(name: str, url: str) -> None:
    """Run one of them in this process, and print how it ended as a line of JSON."""
    refused: set[str] = set()

    def stay_here(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("socket.connect", "socket.getaddrinfo"):
            return
        where = arguments[event == "socket.connect"]
        host = where[0] if isinstance(where, tuple) else where
        if str(host) in ("127.0.0.1", "localhost", "::1", "None"):
            return
        if not (event == "socket.connect" and isinstance(where, (str, bytes))):
            refused.add(str(host))
            raise PermissionError(f"{host} is not on this machine")

    outcome: dict[str, Any] = {"versions": versions(PEERS[name].packages)}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        os.environ.update(QUIET, HOME=folder, MSWEA_GLOBAL_CONFIG_DIR=folder)
        os.chdir(folder)
        sys.addaudithook(stay_here)
        try:
            outcome["value"] = PEERS[name].function(url)
        except ImportError:
            raise
        except Exception as error:  # noqa: BLE001
            outcome["error"] = f"{type(error).__name__}: {error}"
        os.chdir("/")
    print(json.dumps(outcome | {"refused": sorted(refused)}), flush=True)
    os._exit(0)  # a thread of the framework may go on


def versions(packages: str) -> dict[str, str]:
    """Return the versions installed; raise PackageNotFoundError."""
    names = [re.split(r"[=\[]", it)[0] for it in packages.split()]
    return {name: importlib.metadata.version(name) for name in names}


# The server, and what it notes --------------------------------------------------------


class Endpoint(ThreadingHTTPServer):
    """An endpoint that answers as the docstring of this file says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.requests: list[dict[str, Any]] = []
        self.answered_at = self.first_at = 0.0


class Handler(BaseHTTPRequestHandler):
    """Notes a request, and answers it."""

    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        came, server = time.monotonic(), self.server
        text = self.rfile.read(int(self.headers["Content-Length"]))
        body, number = json.loads(text), len(server.requests)
        server.first_at = server.first_at or came
        wait = came - server.answered_at if number else 0.0
        note = {"path": self.path, "wait": round(wait, 2), "bytes": len(text)}
        server.requests.append(note | {"body": body})
        status, headers = 200, {"Content-Type": "application/json"}
        reply: Any = answer(body, number)
        if number == 2:
            status, headers["Retry-After"] = 429, "1"
            reply = {"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}
        data = json.dumps(reply).encode()
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)
        server.answered_at = time.monotonic()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def answer(body: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the reply to a request in the form that it asks for."""
    text, talk = (*BAD, GOOD)[min(number, 2)], TALK[min(number, 3)]
    message: dict[str, Any] = {"role": "assistant", "content": talk + text}
    tools = body.get("tools")
    if tools:
        function = tools[0]["function"]
        if list(function["parameters"]["properties"]) == ["command"]:
            command = f"echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo '{talk}{text}'"
            text = json.dumps({"command": command})
        call = {"name": function["name"], "arguments": text}
        calls = [{"id": f"call_{number}", "type": "function", "function": call}]
        message |= {"content": talk or None, "tool_calls": calls}
    finish = "tool_calls" if tools else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    about = {"id": f"reply-{number}", "object": "chat.completion", "created": 0}
    return about | {"model": MODEL, "choices": [choice], "usage": usage}


# As they are once spaces are taken out.
COMPLAINT = re.compile(
    "fieldrequired|missing|validinteger|expectedaninteger|invalidjson|notonejson",
    re.IGNORECASE,
)


def mark(requests: list[dict[str, Any]], number: int) -> str:
    """Return what is in a request that was not in the one before."""
    if number == 0:
        return "the task"
    before, now = requests[number - 1]["body"], requests[number]["body"]
    ids = r"[0-9a-f]{8}-[0-9a-f-]{27}"
    if re.sub(ids, "", json.dumps(before)) == re.sub(ids, "", json.dumps(now)):
        return "same"
    old, text = words_in(before["messages"]), words_in(now["messages"])
    new = []
    if any(text.count(bad) > old.count(bad) for bad in map(words_in, BAD)):
        new.append("history")
    if Counter(COMPLAINT.findall(text)) - Counter(COMPLAINT.findall(old)):
        new.append("error")
    return " + ".join(new) or "fresh"


def words_in(data: Any) -> str:
    """Return all texts in JSON, without the spaces and the backslashes of quoting."""
    if isinstance(data, str):
        return re.sub(r"[\s\\]+", "", data)
    items = data.values() if isinstance(data, dict) else data
    return " ".join(map(words_in, items)) if isinstance(data, (dict, list)) else ""


# Side by side -------------------------------------------------------------------------


def command_of(name: str) -> list[str]:
    """Return what runs a peer: this Python, if it has it, or `uv`."""
    tail = [str(Path(__file__).resolve()), "--peer", name]
    with suppress(importlib.metadata.PackageNotFoundError):
        versions(PEERS[name].packages)
        return [sys.executable, *tail]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    command = ["uv", "run", "-q", "--no-project", "--python", version]
    for package in PEERS[name].packages.split():
        command += ["--with", package]
    return [*command, *tail]


def measure(name: str) -> dict[str, Any]:
    """Return what a peer sent, and how it ended."""
    facts: dict[str, Any] = {"peer": name, "school": PEERS[name].school}
    command, cut = command_of(name), ""
    if not shutil.which(command[0]):
        return facts | {"left_out": "not installed, and there is no uv to install it"}
    endpoint, began = Endpoint(), time.monotonic()
    Thread(target=endpoint.serve_forever, daemon=True).start()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        files: Any = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": log}
        command += ["--url", endpoint.url]
        child = subprocess.Popen(command, start_new_session=True, **files)
        try:
            while child.poll() is None and not cut:
                time.sleep(0.05)
                now = time.monotonic()
                if len(endpoint.requests) > MOST_REQUESTS:
                    cut = f"cut after {MOST_REQUESTS} requests"
                elif now - (endpoint.first_at or now) > MOST_SECONDS:
                    cut = f"cut after {MOST_SECONDS} s"
                elif not endpoint.first_at and now - began > 600:
                    cut = "sent nothing in 600 s"
        finally:
            stop(child)
            endpoint.shutdown()
            endpoint.server_close()
        for file in (out, log):
            file.seek(0)
        lines, errors = out.read().splitlines(), log.read().strip().splitlines()
    if lines and lines[-1].startswith("{"):
        facts |= json.loads(lines[-1])
    elif not cut:
        return facts | {"left_out": errors[-1] if errors else "ended without a word"}
    sent = endpoint.requests[:MOST_REQUESTS]
    for number, request in enumerate(sent):
        request["mark"] = mark(sent, number)
    return facts | {"cut": cut, "requests": sent, "ours": PEERS[name].ours}


def stop(child: Any) -> None:
    """End a peer, and what it started."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def ending(facts: dict[str, Any]) -> str:
    """Return what ended it."""
    if "value" in facts:
        return "the value" if facts["value"] == json.loads(GOOD) else "a WRONG value"
    return facts["cut"] or facts["error"]


COLOURS = {"same": "cyan", "fresh": "magenta", "the task": "dim"}
ANSWERS = ("no age", "talk, age in words", "429: wait 1 s", "good")


def draw(out: Any, found: list[dict[str, Any]]) -> None:
    """Print the table."""
    from rich.table import Table
    from rich.text import Text

    ran = [facts for facts in found if "left_out" not in facts]
    most = min(6, max((len(facts["requests"]) for facts in ran), default=0))
    table = Table(show_lines=True, box=None, pad_edge=False)
    table.add_column("")
    for number in range(most):
        answered = ANSWERS[min(number, 3)]
        table.add_column(f"request {number + 1}\n[dim]-> {answered}[/dim]")
    for name in ("ended by", "left to us"):
        table.add_column(name, max_width=24)
    for facts in ran:
        version = next(iter(facts.get("versions", {}).values()), "")
        version = "" if facts["peer"] == "loop.py" else version
        row = [Text(f"{facts['peer']} {version}\n{facts['school']}\n")]
        for number in range(most):
            cell = Text()
            for request in facts["requests"][number : number + 1]:
                style = COLOURS.get(request["mark"], "yellow")
                cell.append(f"{request['mark']}\n", f"bold {style}")
                cell.append(f"{request['bytes']:,} B")
                if request["wait"] >= 0.1:
                    cell.append(f"\nafter {request['wait']:.1f} s")
            row.append(cell)
        end = ending(facts).partition("\n")[0]
        good = "green" if end == "the value" else "red"
        table.add_row(*row, Text(end[:60], good), Text(facts["ours"]))
    out.print(table)
    for facts in found:
        if "left_out" in facts:
            out.print(Text(f"{facts['peer']} did not run: {facts['left_out'][:200]}"))
        if facts.get("refused"):
            out.print(Text(f"{facts['peer']} tried: {', '.join(facts['refused'])}"))


def parse_arguments() -> argparse.Namespace:
    """Return the options; end with status 2 where they cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="+", metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--json", action="store_true", help="all, as JSON on stdout")
    parser.add_argument("--svg", metavar="FILE", help="draw the table, too")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.peers = options.peers or list(PEERS)
    if wrong := set(options.peers) - set(PEERS):
        parser.error(f"{', '.join(wrong)}: the peers are {', '.join(PEERS)}")
    return options


def main() -> int:
    """Run the peers, one after the other; print what they sent."""
    options = parse_arguments()
    if options.peer:
        run_peer(options.peer, options.url)
    from rich.console import Console

    found: list[dict[str, Any]] = []
    for name in options.peers:
        print(f"{name} ...", file=sys.stderr)
        found.append(measure(name))
    if options.json:
        print(json.dumps(found))
    else:
        draw(Console(), found)
    if options.svg:
        out = Console(record=True, file=io.StringIO(), width=WIDTH, legacy_windows=False)
        draw(out, found)
        svg = out.export_svg(title="one task that fails, as each of them sends it")
        svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL)
        svg = re.sub(r"font-family: [^;]*;", "font-family: monospace;", svg)
        Path(options.svg).write_text(svg, encoding="utf-8")
    return 0 if any("left_out" not in facts for facts in found) else 3


WIDTH = 140

if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
