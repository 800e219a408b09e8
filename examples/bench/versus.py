#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx==0.28.1", "rich"]
# ///
"""Situation: you use something else today, and want to know what would change.

    uv run examples/bench/versus.py                        all of it: five minutes
    uv run examples/bench/versus.py --quick                a minute and a half
    uv run examples/bench/versus.py --peers tenacity       this one, loop.py, httpx
    uv run examples/bench/versus.py --json --svg FILE      every figure, and a picture

loop.py beside tenacity, PocketFlow, openai's client, instructor, pydantic-ai, LangGraph
and the best bare loop of httpx that we know: one run, one server on this machine. Each
is a function in peers.py that follows its documentation, and says what we set. Each
runs in a process and an environment of its own, by uv; one that cannot is left out, and
named. There is no model, and no key.

A run is two calls: the first reply lacks the age, the second is good. You see the CPU
time of the imports, of a cold start (a new process up to its first value) and of runs
one at a time, and the time of 8, 100 and 1,000 runs at once, 100 ms a call (ideal: 0.2
s), all started at the same moment, each peer in the async way that its documentation
names. Rounds take turns; each figure is the median, and a ratio the median of those to
the bare loop in the same round; on a busy machine, trust those of CPU time. Then, by
the server's own record (versus_server.py), what each does about failed calls, growing
prompts, cut replies and the API key.

Not shown: what else they do. Some have agents, providers, tracing and graphs, which
loop.py has not. Exit status: 0; 2 for a wrong argument; 3 if nothing ran; 130 after
Ctrl-C, which prints what is done.
"""

import argparse
import asyncio
import importlib.metadata
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from peers import PEERS

REFERENCE, OURS = "httpx", "loop.py"  # these always run
FULL = {"starts": 5, "in turn": 15, "at once": 5, "most at once": 3, "n": 1000}
QUICK = {"starts": 1, "in turn": 6, "at once": 2, "most at once": 1, "n": 300}
IN_TURN = 40  # runs
SECONDS = 12  # until a scenario is cut
THREADS = ", threads"  # what a row has in its name
QUOTED = "401-quoted"
BESIDE = {"name": "Talk", "age": 1}  # the text beside a tool call
NUMBERS = count(0, 10_000)  # of runs: the first of so many that nobody had
# Not the file itself as a script: Python would compile it at each start.
MAIN = ("-c", "import versus_peer; versus_peer.main()")
QUIET = {"LANGSMITH_TRACING": "false", "OTEL_SDK_DISABLED": "true", "NO_PROXY": "*"}
WHERE = {"PYTHONPATH": str(HERE.parents[1])}  # loop.py
WIDTH = 100
Failed = (OSError, RuntimeError, subprocess.SubprocessError)

# The processes ------------------------------------------------------------------------


class Child:
    """A peer in a process and an environment of its own."""

    def __init__(self, name: str, url: str, stack: ExitStack):
        self.name, self.url = name, f"{url}/{name}"
        log: Any = tempfile.TemporaryFile("a+", errors="replace")  # noqa: SIM115
        self.log = stack.enter_context(log)  # what its processes say on stderr
        self.process = self.start(self.command(), stdin=subprocess.PIPE)
        stack.callback(stop, self.process)
        self.about = self.answer()

    def command(self) -> list[str]:
        """Return what starts it: here where its packages are installed, or by uv."""
        packages, command = PEERS[self.name].packages.split(), [sys.executable]
        if not all(map(is_installed, packages)):
            command = ["uv", "run", "--isolated", "--no-project", "--quiet"]
            command += ["--python", platform.python_version()]
            command += [f"--with={package}" for package in packages] + ["python"]
        return [*command, *MAIN, self.name]

    def start(self, command: list[str], **pipes: Any) -> Any:
        pipes |= {"stdout": subprocess.PIPE, "stderr": self.log}
        pipes["env"] = os.environ | QUIET | WHERE
        return subprocess.Popen(command, text=True, cwd=HERE, **pipes)

    def answer(self) -> Any:
        """Return its next answer; raise RuntimeError where it has none."""
        return self.read(self.process.stdout.readline())

    def read(self, line: str) -> Any:
        """Return the JSON in a line; raise RuntimeError where there is none."""
        if not line:
            self.log.seek(0)
            last = (self.log.read().strip() or "it ended").splitlines()
            raise RuntimeError(" ".join(last[-3:])[-300:])
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def do(self, *command: Any) -> Any:
        """Return what a function of versus_peer.py returns there."""
        print(json.dumps(command), file=self.process.stdin, flush=True)
        return self.answer()

    def start_afresh(self, function: str, *arguments: Any) -> Any:
        """Start a function of versus_peer.py in a new process; return the process."""
        command = [self.about["executable"], *MAIN, function, self.name]
        return self.start([*command, *map(str, arguments)])

    def do_afresh(self, function: str, *arguments: Any) -> Any:
        """Return what a function of versus_peer.py returns in a new process."""
        with self.start_afresh(function, *arguments) as process:
            return self.read(process.communicate()[0])


def stop(process: Any) -> None:
    """End a process, and wait for it. (uv passes the signal on.)"""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    process.kill()
    process.wait()


def is_installed(package: str) -> bool:
    """Return whether this version of a package is installed here."""
    name, _, version = package.partition("==")
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name.partition("[")[0]) == version
    return False


def start_server(stack: ExitStack) -> str:
    """Start the endpoint; return its address."""
    command = [sys.executable, str(HERE / "versus_server.py")]
    pipes: Any = {"stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, **pipes)
    stack.callback(stop, server)
    return f"http://127.0.0.1:{int(server.stdout.readline())}"  # type: ignore[union-attr]


def start_children(names: list[str], url: str, stack: ExitStack, out: Any) -> Any:
    """Return the children that started; note the others in `out`."""
    children: list[Child] = []
    for name in names:
        say(f"{name} starts")
        try:
            children.append(Child(name, url, stack))
        except Failed as error:
            out[name] = f"did not start: {error}"
    return children


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Speed --------------------------------------------------------------------------------


def measure_start(child: Child) -> dict[str, float]:
    """Return a round of the CPU seconds of imports, and of a start with a run."""
    fast = f"{child.url}/fast/v1"
    return dict(child.do_afresh("start_cold", fast, next(NUMBERS)))


def measure_in_turn(child: Child, runs: int) -> dict[str, float]:
    """Return a round of the CPU seconds of a run, of so many one after the other."""
    did = child.do("make_runs", f"{child.url}/fast/v1", next(NUMBERS), runs)
    return {"one at a time": did["cpu"] / runs}


def measure_at_once(child: Child, runs: int, threads: bool) -> dict[str, float]:
    """Return a round of so many runs at once: seconds, and CPU seconds of a run."""
    slow = f"{child.url}/slow/v1"
    did = child.do("make_runs_at_once", slow, next(NUMBERS), runs, threads)
    return {f"wall {runs}": did["wall"], f"cpu {runs}": did["cpu"] / runs}


def measure_speed(children: list[Child], sizes: Any, rounds: Any, out: Any) -> None:
    """Add each round to `rounds`, {figure: {row: [value, ...]}}."""

    def measure(child: Child, function: Any, *arguments: Any, mode: str = "") -> None:
        try:
            figures = function(child, *arguments)
        except Failed as error:
            out[child.name] = f"ended in the middle: {error}"
            children.remove(child)
            return
        for figure, value in figures.items():
            by_row = rounds.setdefault(figure, {})
            by_row.setdefault(child.name + mode, []).append(value)

    for child in [*children]:
        measure(child, warm_up)
    for number in range(sizes["starts"]):
        say(f"starts, round {number + 1}")
        for child in turned(children, number):
            measure(child, measure_start)
    for number in range(sizes["in turn"]):
        say(f"one at a time, round {number + 1}")
        for child in turned(children, number):
            measure(child, measure_in_turn, IN_TURN)
    for level in levels_up_to(sizes["n"]):
        times = sizes["most at once" if level == sizes["n"] else "at once"]
        for number in range(times):
            say(f"{level:,} at once, round {number + 1}")
            for child in turned(children, number):
                measure(child, measure_at_once, level, False)
                if child.name in (OURS, REFERENCE) and child in children:
                    measure(child, measure_at_once, level, True, mode=THREADS)


def warm_up(child: Child) -> dict[str, float]:
    """Make runs that do not count, so that what is imported late is there."""
    measure_in_turn(child, 5)
    measure_at_once(child, 2, False)
    if child.name in (OURS, REFERENCE):
        measure_at_once(child, 2, True)
    return {}


def levels_up_to(n: int) -> list[int]:
    """Return how many runs there are at once, at most n."""
    return [level for level in (8, 100) if level < n] + [n]


def turned(children: list[Child], number: int) -> list[Child]:
    """Return the children with another one first: who is first may matter."""
    start = number % max(1, len(children))
    return children[start:] + children[:start]


def summarise(rounds: dict[str, Any]) -> dict[str, Any]:
    """Return {row: {figure: median, "figure / httpx": median of the ratios}}."""
    rows: dict[str, Any] = {}
    for figure, by_row in rounds.items():
        for row, values in by_row.items():
            facts = rows.setdefault(row, {})
            facts[figure] = statistics.median(values)
            same = by_row.get(REFERENCE + THREADS * row.endswith(THREADS), [])
            ratios = [value / base for value, base in zip(values, same, strict=False)]
            if ratios:
                facts[f"{figure} / {REFERENCE}"] = statistics.median(ratios)
    return rows


async def ask_by_sockets(url: str, runs: int) -> float:
    """Return the seconds of runs at once with no client, which the server takes."""

    async def one(number: int) -> None:
        body = f'{{"messages": "(run {number})"}}'
        request = f"POST /sockets/slow/v1 HTTP/1.1\r\nContent-Length: {len(body)}"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(f"{request}\r\n\r\n{body}".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rpartition(b": ")[2]))
        writer.close()

    port = int(url.rpartition(":")[2])
    began = time.perf_counter()
    await asyncio.gather(*(one(next(NUMBERS)) for _ in range(runs)))
    return time.perf_counter() - began


# Behaviour ----------------------------------------------------------------------------


def measure_behaviour(children: list[Child], found: Any, out: Any) -> None:
    """Add to `found`, by peer, how each scenario ended, and what the server saw."""
    say("behaviour")
    processes = [it.start_afresh("behave", it.url, SECONDS) for it in children]
    try:
        for child, process in zip(children, processes, strict=True):
            try:
                facts = child.read(process.communicate()[0])
            except Failed as error:
                out.setdefault(child.name, f"its behaviour ended in: {error}")
                continue
            for scenario, end in facts["ends"].items():
                end.update(look_up(f"{child.url}/{scenario}"))
            found[child.name] = facts
    finally:
        for process in processes:
            stop(process)


def look_up(url: str) -> dict[str, Any]:
    """Return what the server noted of a scenario."""
    with build_opener(ProxyHandler({})).open(url) as response:
        noted = json.load(response).get("requests", [])
    return {
        "requests": len(noted),
        "bytes": [it["bytes"] for it in noted],
        "waits": [it["wait"] for it in noted[1:]],
    }


# The tables ---------------------------------------------------------------------------


def table_of_speed(rows: dict[str, Any], levels: list[int]) -> Any:
    """Return the table of what was measured in seconds."""
    about = "in (brackets), and of CPU time alone, the share of what bare httpx takes"
    table = new_table("Speed", about)
    headings = ["import\nCPU", "cold\nstart\nCPU", "one at\na time\nCPU"]
    headings += [f"{level:,} at once\nseconds" for level in levels]
    for heading in [*headings, f"{max(levels):,}\nat once\nCPU"]:
        table.add_column(heading, justify="right", vertical="bottom")
    for name, facts in rows.items():
        cells = [cell(facts, "import", 1000, "{:.0f} ms")]
        cells += [cell(facts, "cold start", 1, ""), cell(facts, "one at a time", 1, "")]
        cells += [cell(facts, f"wall {level}", 1, "{:.2f} ") for level in levels]
        add_row(table, name, [*cells, cell(facts, f"cpu {max(levels)}", 1, "")])
    return table


def cell(facts: Any, figure: str, times: float, form: str) -> str:
    """Return a figure in this form, if any, and its share of bare httpx's."""
    if figure not in facts:
        return ""
    share = facts.get(f"{figure} / {REFERENCE}")
    text = form.format(facts[figure] * times)
    if form == "{:.0f} ms":
        return text
    if share is None:
        return text or f"{facts[figure] * 1000:.1f} ms"
    return f"{text}({share:.2f})" if text else f"{share:.2f}"


FAULTS = {
    "400": "400",
    "401": "401",
    "429-told": "429\nwait 1 s",
    "429": "429",
    "500": "500",
    "broken": "broken off\nin the body",
}


def table_of_faults(found: dict[str, Any]) -> Any:
    """Return the table of what failed calls lead to."""
    about = "requests, and what you get; after two a 429 or a 500 would be good"
    table = new_table("Failed calls", about)
    for heading in FAULTS.values():
        table.add_column(heading)
    table.add_column("cancelled,\nasked again")
    for name, facts in found.items():
        cells = []
        for scenario in FAULTS:
            end = facts["ends"][scenario]
            text = f"{end['requests']}: {short_end(end)}"
            if scenario == "429-told" and any(it < 0.95 for it in end["waits"]):
                text += " !"
            cells.append(text)
        add_row(table, name, [*cells, after_cancel(facts["ends"]["cancel"])])
    return table


def short_end(end: dict[str, Any]) -> str:
    return "raises" if is_raised(end) else str(end["end"])


def is_raised(end: dict[str, Any]) -> bool:
    return end["end"] not in ("value", "no value", "cut", "hangs")


def after_cancel(end: dict[str, Any]) -> str:
    """Return what came after many calls were cancelled."""
    text = "works" if end["end"] == "value" else str(end["end"])
    left = end["open"] - 1
    return f"{text}, {left} left open" if left > 0 else text


def table_of_replies(found: dict[str, Any]) -> Any:
    """Return the table of what bad replies lead to, and of the key."""
    table = new_table(
        "Bad replies", "what the last of 16 requests weighs; what follows"
    )
    for heading in (
        "16 replies\nlast / first",
        "\ntokens",
        "the same\nfor ever",
        "text beside\na tool call",
        "cut JSON",
        "cut 36",
        "the key\nis in",
    ):
        table.add_column(heading)
    for name, facts in found.items():
        ends = facts["ends"]
        sizes, forever = ends["growth"]["bytes"] or [1], ends["forever"]
        more = "+" * (forever["end"] == "cut")
        cells = [f"{sizes[-1] / sizes[0]:.1f}", f"{sum(sizes) / 4:,.0f}"]
        cells.append(f"{forever['requests']}{more}: {short_end(forever)}")
        taken = ends["beside"].get("value", {})
        cells.append("taken" if taken == BESIDE else outcome(ends["beside"]))
        cells += [outcome(ends["half"]), outcome(ends["number"], 3)]
        add_row(table, name, [*cells, places_of_key(facts)])
    return table


def outcome(end: dict[str, Any], wrong: Any = None) -> str:
    """Return what a first reply that is cut, or beside the point, led to."""
    if end["end"] == "value":
        return f"taken as {wrong}" if end["value"] == wrong else "asks again"
    return {"no value": "stops"}.get(end["end"], short_end(end))


def places_of_key(facts: dict[str, Any]) -> str:
    """Return where the key was found: always, and where a 401 quotes it."""
    ends = facts["ends"]
    plain = {place for name in ends for place in key_in(ends, name) if name != QUOTED}
    quoted = set(key_in(ends, QUOTED)) - plain
    quoted |= {"log"} if facts["logged by"] else set()
    texts = [", ".join(sorted(plain))]
    if quoted & {"text", "log"}:
        texts.append(", ".join(sorted(quoted & {"text", "log"}, reverse=True)) + " *")
    return "; ".join(filter(None, texts)) or "nothing"


def key_in(ends: dict[str, Any], scenario: str) -> list[str]:
    return list(ends[scenario].get("key", ()))


def notes_on(found: dict[str, Any]) -> list[str]:
    """Return what the tables say in short."""
    ends = {name: facts["ends"]["forever"] for name, facts in found.items()}
    raised = [f"{it} {end['end']}" for it, end in ends.items() if is_raised(end)]
    named = ", ".join(raised) or "nothing"
    return [
        "!: did not wait as told. pickle: of an error. *: where a 401 quotes the key.",
        "tokens: bytes / 4. no value: loop.py has its reason in .why, the others None.",
        f"cut: by us, after {SECONDS} s. Raised after the same for ever: {named}.",
    ]


def new_table(title: str, about: str) -> Any:
    """Return a table without lines whose first column has the names."""
    from rich.table import Table

    table = Table(title=f"[bold]{title}[/]: {about}", title_justify="left")
    table.box, table.pad_edge, table.padding = None, False, (0, 2, 0, 0)
    table.title_style = "not italic"
    table.add_column("", no_wrap=True)
    return table


def add_row(table: Any, name: str, cells: list[str]) -> None:
    from rich.text import Text

    bad = r"!|cut|hangs|left open|taken|\*|pickle|locals"
    texts = [Text(it, "red" if re.search(bad, it) else "") for it in cells]
    table.add_row(Text(name), *texts, style="bold" if name.startswith(OURS) else "")


def draw(out: Any, found: dict[str, Any], levels: list[int]) -> None:
    """Print the tables, and what they do not show."""
    if found["speed"]:
        out.print(table_of_speed(found["speed"], levels))
        if seconds := found.get("sockets"):
            alone = f"{max(levels):,} at once by sockets alone: {seconds:.2f} s"
            out.print(f"{alone}. {found['busy']}", style="dim")
    if found["behaviour"]:
        out.print("", table_of_faults(found["behaviour"]), "", sep="\n")
        out.print(table_of_replies(found["behaviour"]))
        out.print("\n".join(notes_on(found["behaviour"])), style="dim")
    versions = [
        f"{package} {version}"
        for about in found["peers"].values()
        for package, version in about["versions"].items()
    ]
    python = platform.python_version()
    out.print("", f"Python {python}: {', '.join(sorted({*versions}))}", sep="\n")
    for name, why in found["left out"].items():
        out.print(f"{name} {why}", markup=False)


def parse_arguments() -> argparse.Namespace:
    """Return the options; end with status 2 where they cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="+", metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("-n", type=int, help="runs at once, at most (1000; quick: 300)")
    parser.add_argument("--json", action="store_true", help="all of it, on stdout")
    parser.add_argument("--svg", metavar="FILE", help="the tables as a picture, too")
    options = parser.parse_args()
    if wrong := set(options.peers or ()) - set(PEERS):
        parser.error(f"{', '.join(wrong)}: the peers are {', '.join(PEERS)}")
    if options.n is not None and not 2 <= options.n <= 5000:
        parser.error(f"-n {options.n}: give 2 to 5000")
    if options.svg and Path(options.svg).suffix != ".svg":
        parser.error(f"--svg {options.svg}: give a name that ends in .svg")
    wanted = {REFERENCE, OURS, *(options.peers or PEERS)}
    options.peers = [name for name in PEERS if name in wanted]
    return options


def measure(names: list[str], sizes: Any) -> dict[str, Any]:
    """Return all that is measured; what is done at Ctrl-C."""
    found: dict[str, Any] = {"speed": {}, "behaviour": {}, "left out": {}, "peers": {}}
    found["busy"] = load()
    rounds = found["rounds"] = {}
    out, found["interrupted"] = found["left out"], True
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        url = start_server(stack)
        children = start_children(names, url, stack, out)
        found["peers"] = {it.name: it.about for it in children}
        measure_behaviour(children, found["behaviour"], out)
        measure_speed(children, sizes, rounds, out)
        found["sockets"] = asyncio.run(ask_by_sockets(url, sizes["n"]))
        found["interrupted"] = False
    found["speed"] = summarise(rounds)
    return found


def load() -> str:
    """Return what else this machine does: a busy one makes all seconds longer."""
    if not hasattr(os, "getloadavg"):
        return ""
    return f"Load before the start: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores"


def main() -> int:
    """Measure, and print the tables."""
    options = parse_arguments()
    from rich.console import Console

    sizes = QUICK if options.quick else FULL
    sizes["n"] = options.n or sizes["n"]
    levels, found = levels_up_to(sizes["n"]), measure(options.peers, sizes)
    if options.json:
        print(json.dumps(found))
    else:
        out = Console(highlight=False)
        out.width = out.width if out.is_terminal else WIDTH
        draw(out, found, levels)
    if options.svg:
        out = Console(record=True, file=io.StringIO(), width=WIDTH, highlight=False)
        draw(out, found, levels)
        svg = out.export_svg(title="loop.py beside what people use today")
        svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL)
        svg = re.sub(r"font-family: [^;]*;", "font-family: monospace;", svg)
        Path(options.svg).write_text(svg, encoding="utf-8")
    if found["interrupted"]:
        return 130
    return 0 if found["speed"] else 3


if __name__ == "__main__":
    status = 130
    with suppress(KeyboardInterrupt):
        status = main()
    sys.exit(status)
