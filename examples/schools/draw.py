#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = []
# ///
"""Situation: you have a tape of a graph of runs, and want to see the graph that ran.

    uv run examples/schools/draw.py TAPE              as Mermaid, on stdout
    uv run examples/schools/draw.py TAPE --svg FILE   and as a picture

A node is a step: runs "extract" and "extract#2" are two runs of one. An edge says how
many runs of the one step followed a run of the other, as they declared with after=; a
dashed edge leads back. Calls and tokens are those of each run as it went the last time,
replies from the tape included. Exit status: 0; 2 for a wrong argument or tape.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

sys.path[:0] = [str(it) for it in Path(__file__).resolve().parents[1:3]]  # parts, loop

from parts.replay import item_of

from loop import check_tape, event_in, visible, whole_lines


@dataclass
class Node:
    """A step, and what its runs cost."""

    runs: int = 0
    calls: int = 0
    tokens: int = 0
    gave_up: int = 0

    def lines(self) -> list[str]:
        """Return what a picture says about it."""
        texts = [plural(self.runs, "run"), plural(self.calls, "call")]
        texts = [" · ".join(texts), plural(self.tokens, "token")]
        return [*texts, f"{self.gave_up} gave up"] if self.gave_up else texts


@dataclass
class Graph:
    """The steps on a tape, and how many runs of one followed a run of another."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: Counter[tuple[str, str]] = field(default_factory=Counter)
    back: set[tuple[str, str]] = field(default_factory=set)  # those that lead back

    def add_edge(self, start: str, end: str) -> None:
        """Count an edge. It leads back if those before it lead from its end here."""
        if (start, end) not in self.edges and self.leads(end, start):
            self.back.add((start, end))
        self.edges[start, end] += 1

    def leads(self, start: str, end: str) -> bool:
        """Return whether edges lead from one step to another, but for those back."""
        seen, to_see = set[str](), [start]
        while to_see:
            step = to_see.pop()
            seen.add(step)
            ahead = [b for a, b in self.edges if a == step and (a, b) not in self.back]
            to_see += [it for it in ahead if it not in seen]
        return end in seen

    def layers(self) -> list[list[str]]:
        """Return the steps in layers, each as far from the start as a path is long."""
        layer = dict.fromkeys(self.nodes, 0)
        ahead = [edge for edge in self.edges if edge not in self.back]
        for _ in self.nodes:
            for start, end in ahead:
                layer[end] = max(layer[end], layer[start] + 1)
        rows: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
        for name in self.nodes:
            rows[layer[name]].append(name)
        # Threads start in any order, but a step that follows several names them in one.
        order = {edge[0]: place for place, edge in enumerate(reversed(ahead))}
        return [sorted(names, key=lambda it: -order.get(it, 0)) for names in rows]


def read_graph(tape: str) -> Graph:
    """Return the graph on a tape; raise OSError or ValueError where it is none."""
    check_tape(tape)
    items, starts, ends = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    for _, line in whole_lines(tape):
        event = event_in(line)
        if event and not event["hook"]:
            kinds: dict[str, Any] = {"item": items, "start": starts, "end": ends}
            kinds.get(event["event"], {})[event["run"]] = event
    graph = Graph()

    def step_of(run: str) -> str:
        item = item_of(run, items)
        name = run.removeprefix(f"{item}/") if item in items else run
        name = name.partition("#")[0]
        return visible(name[:24]).replace("\n", " ")

    for run in starts:
        node = graph.nodes.setdefault(step_of(run), Node())
        end = ends.get(run, {"calls": 0, "tokens": 0, "accepted": True})
        node.runs += 1
        node.calls += end["calls"]
        node.tokens += end["tokens"]
        node.gave_up += not end["accepted"]
    if not graph.nodes:
        raise ValueError(f"{tape} has no runs")
    for run, start in starts.items():
        for before in start.get("after", ()):
            if before in starts:
                graph.add_edge(step_of(before), step_of(run))
    return graph


def plural(number: int, word: str) -> str:
    """Return how many of a thing there are, in words."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def mermaid(graph: Graph) -> str:
    """Return the graph in the language of Mermaid."""
    ids = {name: f"n{number}" for number, name in enumerate(graph.nodes)}
    lines = ["graph LR"]
    for name, node in graph.nodes.items():
        words = "<br/>".join([escape(name).replace("&", "#"), *node.lines()])
        lines.append(f'  {ids[name]}("{words}")')
    for (start, end), times in graph.edges.items():
        arrow = "-.->" if (start, end) in graph.back else "-->"
        lines.append(f"  {ids[start]} {arrow}|{times}| {ids[end]}")
    return "\n".join(lines)


# The picture --------------------------------------------------------------------------
# Boxes have a fill of their own, and lines a grey in the middle, so that it can be read
# on a light page and on a dark one.

WIDTH, HEIGHT, ACROSS, DOWN, LANE, ARC, EDGE = 158, 78, 92, 22, 22, 30, 24  # pixels
STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #3c4a63; text-anchor: middle }
.name { font-size: 14px; font-weight: 600; fill: #14213d }
.lost { fill: #b42318 } .box { fill: #f3f6fc; stroke: #5f7396; stroke-width: 1.3 }
.line { fill: none; stroke: #7388ab; stroke-width: 1.7 }
.back { stroke: #c9772b; stroke-dasharray: 6 4 } .label { font-size: 11px }
.pill { fill: #f3f6fc; stroke: #7388ab; stroke-width: .8 }"""
ARROW = (
    '<marker id="{0}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
    'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{1}"/></marker>'
)


@dataclass
class Box:
    """Where a step is drawn."""

    x: float
    y: float  # of its middle
    height: float
    left: list[tuple[str, str]] = field(default_factory=list)  # edges at this side
    right: list[tuple[str, str]] = field(default_factory=list)

    def port(self, edge: tuple[str, str], side: str) -> tuple[float, float]:
        """Return where an edge meets this side."""
        edges = self.left if side == "left" else self.right
        lane = edges.index(edge) - (len(edges) - 1) / 2
        return self.x + (0 if side == "left" else WIDTH), self.y + lane * LANE


@dataclass
class Places:
    """Where everything is drawn."""

    boxes: dict[str, Box]
    width: float
    height: float
    arcs: dict[tuple[str, str], float]  # edges that pass by others: how high or low


def place(graph: Graph) -> Places:
    """Return where everything is drawn: the layers side by side."""
    layers, boxes = graph.layers(), dict[str, Box]()
    column = {name: at for at, names in enumerate(layers) for name in names}
    far = [it for it in graph.edges if abs(column[it[0]] - column[it[1]]) != 1]
    above = [edge for edge in far if edge not in graph.back]
    below = [edge for edge in far if edge in graph.back]
    near = [edge for edge in graph.edges if edge not in far]
    lanes = Counter[tuple[str, bool]]()
    for tail, head in near:
        lanes[tail, column[head] > column[tail]] += 1
        lanes[head, column[tail] > column[head]] += 1
    heights = {
        name: max(HEIGHT, 16 + LANE * max(lanes[name, True], lanes[name, False]))
        for name in graph.nodes
    }
    sums = [sum(heights[it] + DOWN for it in names) - DOWN for names in layers]
    top = EDGE + ARC * len(above)
    height = top + max(sums) + ARC * len(below) + EDGE
    for at, names in enumerate(layers):
        y = top + (max(sums) - sums[at]) / 2
        for name in names:
            x = EDGE + at * (WIDTH + ACROSS)
            boxes[name] = Box(x, y + heights[name] / 2, heights[name])
            y += heights[name] + DOWN
    arcs: dict[tuple[str, str], float]
    arcs = {edge: EDGE + ARC * at for at, edge in enumerate(above)}
    arcs |= {edge: height - EDGE - ARC * at for at, edge in enumerate(below)}
    add_ports(graph, near, boxes)
    width = 2 * EDGE + len(layers) * (WIDTH + ACROSS) - ACROSS
    return Places(boxes, width, height, arcs)


def add_ports(
    graph: Graph, edges: list[tuple[str, str]], boxes: dict[str, Box]
) -> None:
    """Give each edge a lane at its boxes, in the order of what the lanes lead to."""
    for edge in sorted(edges, key=lambda it: it in graph.back):
        tail, head = boxes[edge[0]], boxes[edge[1]]
        is_back = edge in graph.back
        (tail.left if is_back else tail.right).append(edge)
        (head.right if is_back else head.left).append(edge)
    for own, box in boxes.items():
        for side in (box.left, box.right):
            side.sort(key=lambda it: boxes[it[0] if it[1] == own else it[1]].y)


def svg(graph: Graph) -> str:
    """Return the graph as a picture that loads nothing from elsewhere."""
    places = place(graph)
    parts: list[str] = []
    labels: list[str] = []
    for edge, times in graph.edges.items():
        is_back = edge in graph.back
        curve, t = curve_of(edge, is_back, places)
        points = "{:.0f} {:.0f}C{:.0f} {:.0f} {:.0f} {:.0f} {:.0f} {:.0f}".format(
            *curve
        )
        kind, arrow = ("line back", "b") if is_back else ("line", "a")
        parts.append(f'<path class="{kind}" marker-end="url(#{arrow})" d="M{points}"/>')
        labels.append(label(point_on(curve, t), f"{times:,}"))
    parts += labels
    for name, node in graph.nodes.items():
        parts.append(box_of(places.boxes[name], name, node))
    size = f'viewBox="0 0 {places.width:.0f} {places.height:.0f}"'
    size += f' width="{places.width:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    title = f"<title>{escape(', '.join(graph.nodes))}: the graph that ran</title>"
    arrows = ARROW.format("a", "#7388ab") + ARROW.format("b", "#c9772b")
    style = f"<style>{STYLE}</style><defs>{arrows}</defs>"
    return "\n".join([head, title, style, *parts, "</svg>\n"])


def curve_of(
    edge: tuple[str, str], is_back: bool, places: Places
) -> tuple[tuple[float, ...], float]:
    """Return the curve of an edge, and where on it, from 0 to 1, its label stands."""
    tail, head = places.boxes[edge[0]], places.boxes[edge[1]]
    if edge in places.arcs:  # over all boxes, or below them
        side = 0.5 if is_back else -0.5
        x1, x2 = tail.x + WIDTH * 0.62, head.x + WIDTH * 0.38
        y1, y2 = tail.y + tail.height * side, head.y + head.height * side
        peak = (places.arcs[edge] - (y1 + y2) / 8) / 0.75  # of a cubic curve
        return (x1, y1, x1, peak, x2, peak, x2, y2), 0.5
    x1, y1 = tail.port(edge, "left" if is_back else "right")
    x2, y2 = head.port(edge, "right" if is_back else "left")
    bend = max(36.0, abs(x2 - x1) / 2) * (-1 if is_back else 1)
    # The label stands where fewer edges meet; that of an edge back near its start.
    few = is_back or len(tail.right) <= len(head.left)
    return (x1, y1, x1 + bend, y1, x2 - bend, y2, x2, y2), 0.3 if few else 0.64


def point_on(curve: tuple[float, ...], t: float) -> tuple[float, float]:
    """Return the point of a cubic curve at t, from 0 to 1."""
    weights = [math.comb(3, k) * t**k * (1 - t) ** (3 - k) for k in range(4)]
    x = sum(w * at for w, at in zip(weights, curve[::2], strict=True))
    return x, sum(w * at for w, at in zip(weights, curve[1::2], strict=True))


def label(at: tuple[float, float], words: str) -> str:
    """Return the label of an edge."""
    half = 5 + 3.4 * len(words)
    return (
        f'<rect class="pill" x="{at[0] - half:.1f}" y="{at[1] - 8:.1f}" rx="8" '
        f'width="{2 * half:.1f}" height="16"/><text class="label" x="{at[0]:.1f}" '
        f'y="{at[1] + 4:.1f}">{words}</text>'
    )


def box_of(box: Box, name: str, node: Node) -> str:
    """Return the box of a step, with its figures."""
    lines = [name, *node.lines()]
    top = box.y - box.height / 2
    y, x = box.y - 8.5 * (len(lines) - 1) + 4, box.x + WIDTH / 2
    size = f'width="{WIDTH}" height="{box.height:.0f}" rx="10"'
    parts = [f'<rect class="box" x="{box.x:.0f}" y="{top:.1f}" {size}/>']
    for number, words in enumerate(lines):
        kind = "name" if number == 0 else "lost" if words.endswith("gave up") else ""
        text = f'class="{kind}" x="{x:.0f}" y="{y + 17 * number:.1f}"'
        parts.append(f"<text {text}>{escape(words)}</text>")
    return "".join(parts)


def draw(tape: str, file: str = "") -> str:
    """Return the graph on a tape as Mermaid; write it as SVG to a file, if given."""
    graph = read_graph(tape)
    if file:
        Path(file).write_text(svg(graph), encoding="utf-8")
    return mermaid(graph)


def main() -> None:
    """Draw a tape."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("tape", metavar="TAPE")
    parser.add_argument("--svg", metavar="FILE", help="write it as a picture, too")
    options = parser.parse_args()
    try:
        print(draw(options.tape, options.svg or ""))
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
