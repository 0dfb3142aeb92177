"""``llava-rad api`` and ``llava-rad key``: reports as a service, found through entry points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llava_rad.commands import options as opt
from llava_rad.commands.console import warn_of_slow_type
from llava_rad.commands.serve import application, share_cores
from llava_rad.generation.options import GenerationOptions

KeyFile = Annotated[Path, typer.Option("--keys", help="Created if missing.", metavar="FILE", show_default=False)]
EPILOG = (
    "POST /v1/reports with a DICOM file; /openapi.json describes all routes. Nothing is stored. SIGHUP loads the model "
    "again, SIGTERM ends gracefully. AI-generated drafts, research use only, not for clinical use."
)
keys = typer.Typer(
    help="API keys of the service.", no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)


@opt.expand
def command(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 selects a free one.")] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            help="API keys; 'llava-rad key' writes the file. Without it, only this machine is served.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Reports that may wait; more are answered with 429.")] = 64,
    max_mib: Annotated[int, typer.Option("--max-mib", min=1, help="Largest request in MiB.")] = 256,
    memory_mib: Annotated[
        int, typer.Option("--memory-mib", min=1, help="All requests that are in memory, in MiB.")
    ] = 2048,
    grace: Annotated[int, typer.Option(min=0, help="Seconds that requests have to end after SIGTERM.")] = 30,
    options: Annotated[
        GenerationOptions,
        opt.Fields(
            "model", "revision", "profile", "allow_remote", "server_timeout", "offline", "device", "dtype",
            "batch_size", "max_new_tokens", "num_beams", "compile", "unsure", "vllm_python",
        ),
    ],
) -> None:  # fmt: skip
    """Serve reports to programs by HTTP."""
    server = application("service")
    share_cores()
    warn_of_slow_type(options.dtype, options.device)
    server.run(
        server.Settings(
            host=host, port=port, keys=key_file, queue=queue, largest=max_mib << 20, memory=memory_mib << 20,
            grace_s=grace, options=options,
        )
    )  # fmt: skip


@keys.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Letters, digits and . _ @ -")],
    key_file: KeyFile,
    per_minute: Annotated[int, typer.Option(min=1, help="Requests in a minute.")] = 600,
    at_once: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 16,
    admin: Annotated[bool, typer.Option("--admin", help="The key may load the model again.")] = False,
) -> None:
    """Make a key, or replace one, and print it: the file holds its SHA-256 only."""
    made: str = application("service_keys").add_key(key_file, name, per_minute=per_minute, at_once=at_once, admin=admin)
    typer.echo(made)


@keys.command("remove")
def remove(name: Annotated[str, typer.Argument(help="Name of the key.")], key_file: KeyFile) -> None:
    """Remove a key; it is refused from then on."""
    application("service_keys").remove_key(key_file, name)
