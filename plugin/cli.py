"""The ``provender`` command; every subcommand is imported only when it is asked for.

provender demo            # everything, from simulated events to a ranked request
provender COMMAND --help  # each help ends in an example
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import click


class Command(NamedTuple):
    """Where a subcommand lives, as ``module:attribute``, and what it does in one line."""

    path: str
    help: str


#: The plugin imports neither producers nor consumers: it knows their commands by name alone.
COMMANDS = {
    "demo": Command("provender.plugin.demo:demo", "Walk the whole path, events to ranked request."),
    "simulate": Command("provender.producers.commands:simulate", "Write a simulated ads world."),
    "produce": Command("provender.producers.commands:produce", "Train and write snapshots."),
    "graph": Command("provender.producers.commands:graph", "Show what the events become."),
    "refresh": Command("provender.producers.refresh_command:refresh", "Renew a family, gated."),
    "cold": Command("provender.producers.cold_command:cold", "Place what came since a refresh."),
    "linksage": Command(
        "provender.producers.linksage.commands:linksage", "Stream crawled pages; list settings."
    ),
    "upstream": Command(
        "provender.producers.upstream.commands:upstream", "Show towers' inputs; list settings."
    ),
    "evaluate": Command("provender.producers.commands:evaluate", "Predict the days that followed."),
    "dataset": Command(
        "provender.consumers.dataset_command:dataset", "Write training rows for other learners."
    ),
    "rank": Command(
        "provender.consumers.rank_command:rank", "Train rankers without and with vectors."
    ),
    "study": Command("provender.consumers.study.command:study", "Compare uses of embeddings."),
    "request": Command(
        "provender.consumers.request_command:request", "Answer one ranking request."
    ),
    "explain": Command(
        "provender.consumers.explain_command:explain_request", "Say what carried a score."
    ),
    "retrieve": Command(
        "provender.consumers.retrieve_command:retrieve", "Find users' nearest pins."
    ),
    "serve": Command("provender.consumers.serve_command:serve", "Rank over HTTP, as released."),
    "export-table": Command(
        "provender.consumers.table_export:export_table", "Write finetuned rows as a new version."
    ),
    "release": Command("provender.plugin.release_commands:release", "Say which version serves."),
    "shadow": Command("provender.consumers.shadow_command:shadow", "Compare live and candidate."),
    "lineage": Command("provender.plugin.lineage_command:lineage", "Show where vectors come from."),
    "gc": Command("provender.plugin.gc_command:gc", "Drop what nothing needs any more."),
}


class LateGroup(click.Group):
    """A group whose subcommands are imported when they run, so that ``--help`` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one subcommand."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].path.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])


@click.command(
    cls=LateGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: provender demo",
)
@click.version_option(package_name="provender")
def main() -> None:
    """Versioned entity embeddings for Feast: produced, stored, joined, served."""
