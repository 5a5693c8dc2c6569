"""`provender serve`: rank over HTTP by whatever is released."""

from __future__ import annotations

import os
from pathlib import Path

import click

from provender.plugin.console import console, log
from provender.plugin.errors import ConfigError
from provender.plugin.home import Home
from provender.plugin.options import at_repo

#: The environment's name of the token.
TOKEN = "PROVENDER_TOKEN"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: For how long a server that is told to stop goes on with what it has begun.
_GRACE_SECONDS = 10


@click.command(epilog="Example: provender serve --home demo --port 8080")
@at_repo
@click.option(
    "--ranker",
    "rankers",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="A trained ranker; several for several versions.  [default: HOME/rankers/with-0]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="0 for any that is free.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"File with the bearer token that requests need.  [default: ${TOKEN}, else none]",
)
@click.option("--candidates", default=10_000, show_default=True, help="Of a request, at most.")
@click.option("--threads", default=2, show_default=True, help="Requests scored at once.")
def serve(
    home: Path,
    repo: Path | None,
    rankers: tuple[Path, ...],
    host: str,
    port: int,
    token_file: Path | None,
    candidates: int,
    threads: int,
) -> None:
    """Answer ranking requests over HTTP: POST /rank, GET /health, GET /metrics, GET /docs."""
    import torch
    import uvicorn

    from provender.consumers.ranker import load_ranker
    from provender.consumers.ranking_service import ranking_app
    from provender.consumers.released_ranking import ReleasedRanking
    from provender.consumers.service_metrics import ServiceMetrics
    from provender.consumers.service_request import ServiceLimits
    from provender.plugin.repo import open_store

    # A request is too small to be shared among threads: each has one, and there are several.
    torch.set_num_threads(1)
    token = _token(token_file)
    place = Home(home)
    paths = rankers or (place.rankers / "with-0.safetensors",)
    metrics = ServiceMetrics()
    store = open_store(repo or place.repo)
    ranking = ReleasedRanking(store, [load_ranker(path) for path in paths], metrics=metrics.fetches)
    limits = ServiceLimits(candidates=_positive(candidates), threads=_positive(threads))
    app = ranking_app(ranking, limits=limits, token=token, metrics=metrics)
    if host not in _LOOPBACK and token is None:
        log.print(f"anybody who reaches {host} may ask: there is no token (--token-file)")
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    _run(config)


def _run(config: object) -> None:
    """Listen, say where, and answer until the process is told to stop."""
    import socket

    import uvicorn

    assert isinstance(config, uvicorn.Config)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
        listening.listen(config.backlog)  # Who asks before the server runs has to wait, no more.
    except OSError as error:
        raise ConfigError(
            f"address {config.host}, port {config.port}",
            found=error.strerror or str(error),
            expected="one that is free on this machine",
            remedy="Name another with --host and --port.",
        ) from None
    shown = f"[{config.host}]" if family == socket.AF_INET6 else config.host
    console.print(f"listening on http://{shown}:{listening.getsockname()[1]}", soft_wrap=True)
    uvicorn.Server(config).run(sockets=[listening])


def _token(path: Path | None) -> str | None:
    """Return the token of a file, else of the environment; raises ConfigError for an empty one."""
    if path is None:
        return os.environ.get(TOKEN) or None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or str(error)
    else:
        if token:
            return token
        found = "nothing in it"
    raise ConfigError(
        f"token file {path}",
        found=found,
        expected="a line with the token",
        remedy="Write one into it, or leave --token-file out.",
    )


def _positive(number: int) -> int:
    if number < 1:
        raise ConfigError(
            "provender serve",
            found=str(number),
            expected="at least one candidate and one thread",
            remedy="Correct the option.",
        )
    return number
