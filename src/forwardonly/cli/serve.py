"""`forwardonly serve`: serves a run over HTTP, with a page that shows what every block predicts for an image."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from forwardonly.cli.parsing import Common
from forwardonly.cli.runs import open_run
from forwardonly.cli.screen import Screen


@dataclass(frozen=True, kw_only=True)
class Serve(Common):
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    host: str = "127.0.0.1"
    """Address to listen at; the default is reachable from this machine only."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    max_images: int = 32
    """Most images in one request."""
    max_megabytes: int = 10
    """Largest size of a request, in megabytes of 2^20 bytes."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


def options(argv: Sequence[str]) -> type[Serve]:
    """The options of the command, which do not depend on `argv`."""
    return Serve


def run(chosen: Serve, screen: Screen) -> dict[str, Any]:
    """Serves until Ctrl-C. Returns the `address`.

    Raises:
        ValueError: no such run, an address that is not available, or a missing package.
    """
    from forwardonly.serve import Limits, make_app  # says which extra is missing
    from forwardonly.serve.limits import LOCAL, KnownHosts
    from forwardonly.serve.server import serve

    if chosen.max_images < 1 or chosen.max_megabytes < 1:
        raise ValueError("--max-images and --max-megabytes must be at least 1")
    if not 0 <= chosen.port < 2**16:
        raise ValueError(f"--port must be from 0 to {2**16 - 1}, not {chosen.port}")
    saved_run = open_run(chosen.run, chosen.device)
    limits = Limits(images=chosen.max_images, body_bytes=chosen.max_megabytes * 2**20)
    app = make_app(saved_run.network, saved_run.classes, name=chosen.run.resolve().name, limits=limits)
    if chosen.host in (*LOCAL, "::1"):
        app.add_middleware(KnownHosts, names=LOCAL)
    try:
        family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
        listening = socket.create_server((chosen.host, chosen.port), family=family)
    except OSError as problem:
        raise ValueError(f"cannot listen at {chosen.host} port {chosen.port}: {problem}") from None
    with listening:
        host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
        address = f"http://{host}:{listening.getsockname()[1]}"
        screen.say(f"{chosen.run} answers at {address} (Ctrl-C ends it)")
        serve(app, listening)
    return {"run": str(chosen.run), "address": address}


def show(result: dict[str, Any], screen: Screen) -> None:
    """Prints nothing more."""
