"""The command that shows where vectors come from and where they went."""

from __future__ import annotations

import io
from pathlib import Path

import click
from rich.console import Console

from provender.plugin.console import console, log
from provender.plugin.files import write_whole
from provender.plugin.home import Home
from provender.plugin.lineage import Lineage, Tracer
from provender.plugin.lineage_graph import to_json, to_mermaid
from provender.plugin.lineage_text import to_tree
from provender.plugin.options import UtcTime, at_repo
from provender.plugin.repo import open_store

#: Runs that the text shows; the other forms are for machines, which want all.
SHOWN = 10


@click.command(
    epilog="Example: provender lineage user_transra_v1@2026-03-14 --format mermaid --out chain.md"
)
@click.argument(
    "what",
    metavar="VIEW[@AS-OF]|RANKER",
    help="An embedding view, its newest snapshot or the newest as of a time; or a checkpoint.",
)
@at_repo
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "mermaid"]),
    default="text",
    show_default=True,
    help="A tree, a graph for programs, or a picture.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write instead of the terminal.",
)
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    help=f"Runs to go back, at most.  [default: {SHOWN} as text, else all]",
)
def lineage(
    what: str, home: Path, repo: Path | None, form: str, out: Path | None, depth: int | None
) -> None:
    """Show the runs behind a view's snapshot, or behind a ranker, and what came of them."""
    place = Home(home)
    tracer = Tracer(open_store(repo or place.repo), place)
    depth = depth or (SHOWN if form == "text" else None)
    if Path(what).is_file():
        found = tracer.of_ranker(Path(what), depth)
    else:
        view, _, as_of = what.partition("@")
        time = UtcTime().convert(as_of, None, None) if as_of else None
        found = tracer.of_view(view, time, depth)
    if out is None and form == "text" and console.is_terminal:
        console.print(to_tree(found))
    elif out is None:
        click.echo(_told(found, form), nl=False)
    else:
        text = _told(found, form)
        fenced = form == "mermaid" and out.suffix == ".md"
        write_whole(out, (f"```mermaid\n{text}```\n" if fenced else text).encode())
        log.print(f"wrote {out}")


def _told(found: Lineage, form: str) -> str:
    if form == "json":
        return to_json(found)
    if form == "mermaid":
        return to_mermaid(found)
    file = io.StringIO()
    Console(file=file, width=10_000).print(to_tree(found))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
