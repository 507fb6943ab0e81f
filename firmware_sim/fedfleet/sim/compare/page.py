"""What a comparison shows: as an HTML page that needs nothing else, as Markdown, and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedfleet.sim.compare import pictures
from fedfleet.sim.compare.run import Comparison, rows
from fedfleet.sim.markup import grid, pairs, style, template
from fedfleet.sim.record import size_text
from fedfleet.wire import files

TEMPLATE, PAGE, TEXT = "compare.html.in", "compare.html", "compare.md"


def write(folder: Path, found: Comparison) -> None:
    """Write compare.html and compare.md into `folder`. Raises StoreError."""
    files.write(folder / PAGE, template(TEMPLATE).substitute(_fields(folder.name, found)).encode("utf-8", "replace"))
    files.write(folder / TEXT, markdown(folder.name, found).encode("utf-8", "replace"))


def tell(console: Console, folder: Path, found: Comparison) -> None:
    """Print the answer: the table, what is recommended and why, and where the page is."""
    heads, *body = rows(found)
    if console.is_terminal:
        view = Table(box=box.ROUNDED, border_style="dim", header_style="bold")
        for index, head in enumerate(heads):
            view.add_column(Text(head), justify="left" if index in (0, 5) else "right")
        for result, row in zip(found.results, body, strict=True):
            chosen = result.traits.name == found.advice.name
            view.add_row(*map(Text, row), style="bold green" if chosen else "")
        console.print(view)
    else:
        widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
        for row in (heads, *body):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            console.print(Text(line.rstrip()), soft_wrap=True)
    console.print(Text(found.advice.verdict, style="bold"))
    for reason in found.advice.reasons:
        console.print(Text(f"- {reason}"))
    console.print(Text(f"page: {folder / PAGE}"), soft_wrap=True)


def markdown(name: str, found: Comparison) -> str:
    """The comparison as Markdown."""
    parts = [
        f"# fedfleet compare {name}",
        _head(found),
        f"**{found.advice.verdict}**",
        "\n".join(f"- {reason}" for reason in found.advice.reasons),
        "## Every way, on the same data",
        _piped(rows(found)),
        "## What leaves a device, and what must be there",
        _piped(_leaves(found)),
        "## What was run where participants die",
        _piped(_deaths(found)),
        "## Equal conditions",
        "\n".join(f"- {key}: {value}" for key, value in _conditions(found)),
        "## How to read it",
        "\n".join(f"- {line}" for line in _reading(found)),
    ]
    return "\n\n".join(parts) + "\n"


def _fields(name: str, found: Comparison) -> dict[str, str]:
    """Everything the template asks for, as HTML."""
    results, scale, table = found.results, found.scale, rows(found)
    numeric = (scale.metric, "worst", "devices sent", "received", "seconds", table[0][-1])
    died = f"{len(found.doomed)} of {found.wanted.devices} devices are killed after round {found.wanted.half}."
    return {
        "style": style(),
        "id": escape(name),
        "head": escape(_head(found)),
        "verdict": escape(found.advice.verdict),
        "reasons": _items(found.advice.reasons),
        "ways": grid(table[0], table[1:], numeric),
        "scores": pictures.scores(results, scale),
        "traffic": pictures.traffic(results),
        "rounds": pictures.rounds(results, scale),
        "disturbed": pictures.disturbed(results, scale, found.wanted.half),
        "died": escape(died if found.doomed else "No run with deaths was asked for."),
        "leaves": grid(*_split(_leaves(found)), ()),
        "deaths": grid(*_split(_deaths(found)), ()),
        "conditions": pairs(_conditions(found)),
        "reading": _items(_reading(found)),
    }


def _head(found: Comparison) -> str:
    wanted = found.wanted
    return f"{wanted.data} · {wanted.devices} devices · {wanted.split} · {wanted.rounds.total} rounds"


def _leaves(found: Comparison) -> list[tuple[str, ...]]:
    heads = (
        "trained by",
        "what leaves a device",
        "to",
        "bytes sent by a device",
        "what must be there",
        "what is scored",
    )
    return [
        heads,
        *(
            (
                result.traits.title,
                result.traits.leaves,
                result.traits.whom,
                size_text(result.whole.sent / found.wanted.devices) if result.whole.sent else "none",
                " and ".join(result.traits.needs) or "nothing",
                result.traits.scored + (f"; {result.whole.said}" if result.whole.said else ""),
            )
            for result in found.results
        ),
    ]


def _deaths(found: Comparison) -> list[tuple[str, ...]]:
    heads = ("trained by", "what was done", "ended by itself", found.scale.metric, "seconds", "what came of it")
    return [
        heads,
        *(
            (
                result.traits.title,
                result.traits.deaths,
                "yes" if deaths.ended else "no",
                found.scale.text(deaths.score),
                f"{deaths.seconds:.1f}",
                deaths.said or "—",
            )
            for result in found.results
            if (deaths := result.deaths)
        ),
    ]


def _conditions(found: Comparison) -> list[tuple[str, str]]:
    wanted, plan = found.wanted, found.wanted.plan
    passes = plan.epochs * wanted.rounds.total
    return [
        ("examples to train on", f"{found.examples:,}, {size_text(found.raw)} as float32"),
        ("held out, to judge by", f"{found.scale.examples:,}"),
        ("who holds what", f"{wanted.devices} devices, {wanted.split}, seed {wanted.seed}"),
        ("model", f"{found.parameters:,} parameters; all begin with the same weights"),
        ("passes over the data", f"{passes}: {wanted.rounds.total} rounds of {plan.epochs}"),
        (
            "optimizer",
            f"SGD, learning rate {plan.learning_rate:g}, momentum {plan.momentum:g}, batches of {wanted.batch}",
        ),
        ("who talks to whom in gossip", wanted.topology),
        ("who dies", ", ".join(f"d{device}" for device in found.doomed) or "nobody"),
        ("the whole comparison took", f"{found.seconds:.0f} s"),
    ]


def _reading(found: Comparison) -> list[str]:
    return [
        "Bytes are those of topics and payloads that devices publish and are delivered, as counted in the runs; of "
        "training in one place, the examples, which have to move up once.",
        f"What a device needs before it can train, {size_text(found.start_bytes)} of program and first weights, is "
        "among the bytes received in every way that trains on devices. The way back of a finished model to the devices "
        "is counted in none.",
        "Seconds are those of learning on one machine whose processors all devices share, without the time to load and "
        "compile. A fleet computes side by side, and waits for its network instead.",
        "With an aggregator there is one model. With gossip and alone each device has its own, so the score is the "
        "mean of the devices' scores, and the worst device is shown beside it.",
        "Updates and models are not masked: who receives them can read them.",
    ]


def _items(lines: Sequence[str]) -> str:
    return "\n".join(f"<li>{escape(line)}</li>" for line in lines)


def _split(table: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], Sequence[tuple[str, ...]]]:
    return table[0], table[1:]


def _piped(table: Sequence[Sequence[str]]) -> str:
    heads, *body = [[cell.replace("|", "\\|") for cell in row] for row in table]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *body))
