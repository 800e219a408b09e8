#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: what does a framework send to the model after a bad reply?

    uv run examples/schools/convergence.py                       all: a minute or two
    uv run examples/schools/convergence.py --peers loop.py DBOS  some of them

loop.py and seven others, of all four schools, get one task, in a function that follows
the documentation of each; what that leaves to us stands in the last column. The task
tests what happens after a bad reply, and nothing else that they do. A server on this
machine answers request 1 without the age, 2 with talk and the age in words, 3 with a
429 that says to wait a second, and all others well; by a call of a tool where the
request has tools, else by text. You see of each request what is in it that was not in
the one before, its size, and a wait of 0.3 s or more:

    same             nothing, it is the one before once more; (client): sent so by the
                     openai client (it sets the header x-stainless-retry-count)
    history, error   the bad reply; words of the complaint about it
    fresh            neither, but it differs

and what ended it. A run is cut after 12 requests or 60 s. With --never-good no reply is
ever good: you see who gives up, and when. There is no model, and no key. A framework
that is not installed runs in a uv environment of its own, as they do not fit into one.
Connections to other machines are blocked and reported. --json: with the requests whole.
--svg FILE: a picture, too. Exit status: 0; 2 for a wrong argument; 3 if nothing ran;
130 after Ctrl-C.
"""

import argparse
import asyncio
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import redirect_stdout, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import shorten
from threading import Thread, Timer
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where loop.py is

TASK = (
    "Who is this, and how old? Ada Lovelace wrote the first program, and died at 36. "
    "Answer with one JSON object with the keys name (string) and age (integer)."
)
BAD = ('{"name": "Ada Byron"}', '{"name": "Ada Byron", "age": "thirty-six"}')
GOOD = '{"name": "Ada Lovelace", "age": 36}'
MODEL, KEY = "some-model", "no-key-needed"  # nobody knows it: no special treatment
MOST_REQUESTS, MOST_SECONDS = 12, 60

# The peers: a function for each, which returns what it got, or raises -----------------


def person() -> Any:
    """Return the model of pydantic that most of them take."""
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    return Person


def with_loop(url: str) -> Any:
    """README.md of this project

    By text: it adds nothing to a request that was not asked for. Two complaints that
    differ are taken for chance: it sends the same. After two alike, the complaint."""
    from loop import chat, json_with, run

    result = run(TASK, json_with(name=str, age=int), call=chat(MODEL, url, KEY))
    return result.unwrap()


def with_instructor(url: str) -> Any:
    """https://python.useinstructor.com/learning/validation/retry_mechanisms

    By a tool, the default for OpenAI's API. It tries four times by default."""
    import instructor

    client = instructor.from_provider(f"openai/{MODEL}", base_url=url, api_key=KEY)
    messages: Any = [{"role": "user", "content": TASK}]
    return client.create(response_model=person(), messages=messages).model_dump()


def with_pydantic_ai(url: str) -> Any:
    """https://ai.pydantic.dev/output/ and https://ai.pydantic.dev/models/openai/

    By a tool, the default of output_type. Ours is retries=3: the default is 1, and ends
    with the second bad reply."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=KEY))
    agent = Agent(model, output_type=person(), retries=3)
    return agent.run_sync(TASK).output.model_dump()


def with_langgraph(url: str) -> Any:
    """https://docs.langchain.com/oss/python/langchain/structured-output, where
    https://docs.langchain.com/oss/python/langgraph/overview sends those who want an
    agent: it is a graph of LangGraph, built for us

    By a tool, what it takes for a model that it does not know."""
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI

    llm = ChatOpenAI(model=MODEL, base_url=url, api_key=KEY)
    agent = create_agent(llm, tools=[], response_format=person())
    state = agent.invoke({"messages": [{"role": "user", "content": TASK}]})
    return state["structured_response"].model_dump()


def with_dbos(url: str) -> Any:
    """https://docs.dbos.dev/python/tutorials/step-tutorial ("Configurable Retries")

    By text, as we chose. A step is tried again whatever it raises. We added the call,
    and that it raises where the reply is no person."""
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

    By its only tool, bash: an answer is what a command prints. It takes any answer. We
    added that an answer which is no person counts as a command that failed."""
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
    """https://learn.microsoft.com/en-us/agent-framework/agents/looping and its sample
    python/samples/02-agents/middleware/agent_loop_middleware.py

    By JSON schema, its way for structured output. We added the check that says whether
    to go on. Without fresh_context, or a session, later requests lack the task."""
    from agent_framework import Agent, AgentLoopMiddleware
    from agent_framework.openai import OpenAIChatCompletionClient

    def unfinished(*, last_result: Any, **_: Any) -> tuple[bool, str]:
        try:
            person().model_validate_json(last_result.text)
        except ValueError as error:
            return True, str(error)
        return False, ""

    def record(*, feedback: str, **_: Any) -> str:
        return feedback

    client = OpenAIChatCompletionClient(model=MODEL, api_key=KEY, base_url=url)
    loop = AgentLoopMiddleware(
        unfinished, record_feedback=record, fresh_context=True, return_final_only=True
    )
    agent = Agent(client, middleware=[loop])
    options: Any = {"response_format": person()}
    return asyncio.run(agent.run(TASK, options=options)).value.model_dump()


def with_crewai(url: str) -> Any:
    """https://docs.crewai.com/en/concepts/tasks ("Getting Structured Consistent Outputs
    from Tasks", output_pydantic) and https://docs.crewai.com/en/concepts/llms

    By JSON schema, what output_pydantic sends."""
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
    """What is shown of a peer, and needed to run it."""

    function: Any
    school: str
    packages: str
    ours: str


PEERS = {
    "loop.py": Peer(with_loop, "this project", "httpx", "nothing"),
    "instructor": Peer(with_instructor, "loop", "instructor==1.17.0", "nothing"),
    "pydantic-ai": Peer(
        with_pydantic_ai, "agent", "pydantic-ai-slim[openai]==2.68.0", "a third try"
    ),
    "LangGraph": Peer(
        with_langgraph,
        "graph",
        "langgraph==1.2.24 langchain==1.5.2 langchain-openai==1.7.4",
        "nothing",
    ),
    "DBOS": Peer(
        with_dbos, "durable workflow", "dbos==3.4.0 openai==3.57.0", "call, validation"
    ),
    "mini-swe-agent": Peer(
        with_mini_swe_agent, "loop", "mini-swe-agent==2.4.6", "validation"
    ),
    "agent-framework": Peer(
        with_agent_framework,
        "AutoGen's successor",
        "agent-framework-core==1.23.0 agent-framework-openai==1.17.0",
        "validation",
    ),
    "CrewAI": Peer(with_crewai, "committee (of one)", "crewai==1.15.30", "nothing"),
}
QUIET = (
    "CREWAI_DISABLE_TELEMETRY=true CREWAI_DISABLE_VERSION_CHECK=true NO_PROXY=* "
    "CREWAI_TRACING_ENABLED=false OTEL_SDK_DISABLED=true ANONYMIZED_TELEMETRY=false "
    "LANGSMITH_TRACING=false LITELLM_LOCAL_MODEL_COST_MAP=True MSWEA_SILENT_STARTUP=1 "
    f"MSWEA_COST_TRACKING=ignore_errors OPENAI_API_KEY={KEY}"
)


def run_peer(name: str, url: str) -> None:
    """Run a peer in this process, print how it ended as a line of JSON, and exit."""
    facts: dict[str, Any] = {"versions": versions(name), "refused": []}
    stdout = sys.stdout

    def stay_here(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo"):
            where = arguments[1] if event == "socket.connect" else arguments
            # A text is the name of a socket in the file system.
            host = str(where[0]) if isinstance(where, tuple) else "localhost"
            if host not in ("127.0.0.1", "localhost", "::1", "None"):
                facts["refused"].append(host)
                raise PermissionError(f"{host} is not on this machine")

    def finish(**end: Any) -> None:
        with suppress(OSError):  # nobody waits for it any more
            print(json.dumps(facts | end), file=stdout, flush=True)
        os._exit(0)  # a thread of the framework may go on

    timer = Timer(MOST_SECONDS, finish, kwargs={"cut": f"cut after {MOST_SECONDS} s"})
    timer.start()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        os.environ |= dict(it.split("=", 1) for it in QUIET.split())
        os.environ |= {"HOME": folder, "MSWEA_GLOBAL_CONFIG_DIR": folder}
        os.chdir(folder)
        sys.addaudithook(stay_here)
        try:
            end = {"value": PEERS[name].function(url)}
        except ImportError as error:
            end = {"left_out": str(error)}
        except KeyboardInterrupt:
            os._exit(130)
        except Exception as error:  # noqa: BLE001
            end = {"error": f"{type(error).__name__}: {error}"}
        os.chdir(Path(__file__).parent)  # or Windows cannot delete the folder
    finish(**end)


def versions(name: str) -> dict[str, str]:
    """Return the installed packages of a peer; raise PackageNotFoundError."""
    if name == "loop.py":
        import loop

        return {name: loop.__version__}
    names = [re.split(r"[=\[]", it)[0] for it in PEERS[name].packages.split()]
    return {it: importlib.metadata.version(it) for it in names}


# The server, and what it notes --------------------------------------------------------

SENT: dict[str, list[dict[str, Any]]] = defaultdict(list)  # by peer


class Handler(BaseHTTPRequestHandler):
    """Notes a request below the name of the peer, and answers it."""

    protocol_version = "HTTP/1.1"
    never_good = False

    def do_POST(self) -> None:
        came, data = (
            time.monotonic(),
            self.rfile.read(int(self.headers["content-length"])),
        )
        sent = SENT[self.path.split("/")[1]]
        number, body = len(sent), json.loads(data)
        wait = came - sent[-1]["answered_at"] if sent else 0.0
        by_client = self.headers.get("x-stainless-retry-count", "0") != "0"
        note = {"wait": round(wait, 2), "bytes": len(data), "body": body}
        sent.append(note | {"by_client": by_client, "answered_at": came})
        bad_again = number % 2 if self.never_good else number
        reply, status = answer(body, bad_again), 200
        if number == 2:
            status, reply = 429, {"error": {"message": "slow down", "code": "busy"}}
        if number >= MOST_REQUESTS:
            time.sleep(2 * MOST_SECONDS)  # until the time is up
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if status == 429:
            self.send_header("retry-after", "1")
        self.end_headers()
        self.wfile.write(data)
        sent[-1]["answered_at"] = time.monotonic()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def answer(body: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the reply to a request, in the form that it asks for."""
    text, talk = (*BAD, GOOD)[min(number, 2)], "Of course! " if number == 1 else ""
    message: dict[str, Any] = {"role": "assistant", "content": talk + text}
    if body.get("tools"):
        function = body["tools"][0]["function"]
        if [*function["parameters"]["properties"]] == ["command"]:  # a shell
            command = f"echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo '{talk}{text}'"
            text = json.dumps({"command": command})
        call = {"name": function["name"], "arguments": text}
        calls = [{"id": f"call_{number}", "type": "function", "function": call}]
        message |= {"content": talk or None, "tool_calls": calls}
    finish = "tool_calls" if body.get("tools") else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    about = {"id": f"reply-{number}", "object": "chat.completion", "created": 0}
    return about | {"model": MODEL, "choices": [choice], "usage": usage}


# The words of a complaint as they are without spaces.
COMPLAINT = re.compile(
    "(?i)fieldrequired|missing|validinteger|expectedaninteger|invalidjson|notonejson"
)


def mark(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what is in a request that was not in the one before."""
    ids = r"[0-9a-f]{8}-[0-9a-f-]{27}"
    if re.sub(ids, "", json.dumps(before)) == re.sub(ids, "", json.dumps(now)):
        return "same"
    old, text = words_in(before["messages"]), words_in(now["messages"])
    new: list[str] = []
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


def measure(name: str, port: int) -> dict[str, Any]:
    """Return what a peer sent, and how it ended; or why it is left out."""
    peer, command = PEERS[name], [sys.executable]
    try:
        versions(name)
    except importlib.metadata.PackageNotFoundError:
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        command = ["uv", "run", "--quiet", "--no-project", "--python", python]
        command += [f"--with={package}" for package in peer.packages.split()]
    url = f"http://127.0.0.1:{port}/{name}/v1"
    command += [__file__, "--run", name, url]
    facts = {"peer": name, "school": peer.school, "ours": peer.ours}
    pipes: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    try:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, text=True, **pipes
        ) as child:
            try:
                out, log = child.communicate()
            except KeyboardInterrupt:
                child.terminate()  # which uv passes on
                raise
        facts |= json.loads(out.strip().splitlines()[-1])
    except OSError as error:
        return facts | {"left_out": f"it is not installed, and uv neither: {error}"}
    except (ValueError, IndexError):
        why = log.strip() or f"it ended with status {child.returncode}"
        last = why.splitlines()[-1]  # of a traceback
        return facts | {"left_out": last if "Traceback" in why else shorten(why, 300)}
    sent = SENT[name][:MOST_REQUESTS]
    for number, note in enumerate(sent):
        before = sent[number - 1]["body"] if number else None
        del note["answered_at"]
        note["mark"] = mark(before, note["body"]) if before else "the task"
    return facts | {"requests": sent}


def ending(facts: dict[str, Any]) -> str:
    """Return what ended a peer, in a line."""
    if "value" in facts:
        return "value" if facts["value"] == json.loads(GOOD) else "WRONG value"
    if len(facts["requests"]) == MOST_REQUESTS:
        return f"cut after {MOST_REQUESTS} requests"
    if "cut" in facts:
        return str(facts["cut"])
    kind = facts["error"].split(":")[0]
    return f"{kind} after {len(facts['requests'])} requests"


COLOURS = {"same": "cyan", "error": "magenta", "fresh": "red", "the task": "white"}
ANSWERS = ("<- no age", "<- talk, age in words", "<- 429, wait 1 s", "<- good")
WIDTH = 122  # of the picture


def draw(out: Any, found: list[dict[str, Any]], answers: tuple[str, ...]) -> None:
    """Print the table, and what it does not show."""
    from rich.table import Table
    from rich.text import Text

    ran = [facts for facts in found if "requests" in facts]
    most = min(6, max((len(facts["requests"]) for facts in ran), default=0))
    table = Table("", box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for number in range(most):
        table.add_column(f"request {number + 1}\n[dim]{answers[min(number, 3)]}[/]")
    table.add_column("ended by")
    table.add_column("left to you")
    for facts in ran:
        version = next(iter(facts["versions"].values()))
        cells = [Text(f"{facts['peer']} {version}\n{facts['school']}")]
        for note in facts["requests"][:most]:
            by = " (client)" if note["by_client"] else ""
            style = COLOURS.get(note["mark"], "yellow")
            wait = f", {note['wait']:.1f} s" if note["wait"] >= 0.3 else ""
            cell = Text(f"{note['mark']}{by}\n", f"bold {style}")
            cells.append(cell.append(f"{note['bytes']:,} B{wait}", "not bold white"))
        cells += [Text("")] * (most + 1 - len(cells))
        end = ending(facts)
        cells.append(Text(end, "bold green" if end == "value" else "bold red"))
        table.add_row(*cells, Text(facts["ours"]))
    if ran:
        out.print(table, "")
        out.print(Text(conclusion(ran), "bold"))
    for facts in found:
        if "left_out" in facts:
            out.print(Text(f"{facts['peer']} did not run: {facts['left_out']}"))
        elif facts["refused"]:
            out.print(Text(f"{facts['peer']} looked for {set(facts['refused'])}"))


def conclusion(ran: list[dict[str, Any]]) -> str:
    """Return what the table says of the claim."""
    good = sum(ending(facts) == "value" for facts in ran)
    asked_again = [facts["requests"] for facts in ran if len(facts["requests"]) > 1]
    seconds = Counter(sent[1]["mark"] for sent in asked_again)
    sent = ", ".join(f"{count} {name}" for name, count in seconds.most_common())
    clients = sum(any(it["by_client"] for it in facts["requests"]) for facts in ran)
    return (
        f"{good} of {len(ran)} end with the value. After the first bad reply: {sent}.\n"
        f"The 429 is left to the client library by {clients}."
    )


def parse_arguments() -> argparse.Namespace:
    """Return the options; end with status 2 where they cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="+", metavar="NAME", help=", ".join(PEERS))
    parser.add_argument(
        "--never-good", action="store_true", help="who gives up, and when"
    )
    parser.add_argument("--json", action="store_true", help="all of it, on stdout")
    parser.add_argument("--svg", metavar="FILE", help="the table as a picture, too")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # a peer, by itself
    options = parser.parse_args()
    options.peers = options.peers or [*PEERS]
    if wrong := set(options.peers) - set(PEERS):
        parser.error(f"{', '.join(wrong)}: the peers are {', '.join(PEERS)}")
    return options


def main() -> int:
    """Run the peers, one after the other; print what they sent."""
    options = parse_arguments()
    if options.run:
        run_peer(*options.run)
    from rich.console import Console

    Handler.never_good = options.never_good
    answers = (*ANSWERS[:3], "<- bad") if options.never_good else ANSWERS
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    found: list[dict[str, Any]] = []
    for name in options.peers:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found.append(measure(name, server.server_port))
    if options.json:
        print(json.dumps(found))
    else:
        out = Console()
        out.width = out.width if out.is_terminal else WIDTH
        draw(out, found, answers)
    if options.svg:
        out = Console(record=True, file=io.StringIO(), width=WIDTH)
        draw(out, found, answers)
        svg = out.export_svg(title="One task that fails, and what each of them sends")
        svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL)
        svg = re.sub(r"font-family: [^;]*;", "font-family: monospace;", svg)
        Path(options.svg).write_text(svg, encoding="utf-8")
    return 0 if any("requests" in facts for facts in found) else 3


if __name__ == "__main__":
    status = 130
    with suppress(KeyboardInterrupt):
        status = main()
    sys.exit(status)
