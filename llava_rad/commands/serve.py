"""``llava-rad serve`` and ``llava-rad user``: the review application, found through entry points."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from encoder.errors import LlavaRadError
from llava_rad.commands import options as opt
from llava_rad.commands.console import warn_of_slow_type
from llava_rad.generation.options import GenerationOptions

GROUP = "llava_rad.review"
"""Entry point group of the review application: this package does not import it."""

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of studies, reviews and signed reports. Default: llava-rad/review in $XDG_DATA_HOME or "
        "~/.local/share.",
        metavar="DIR",
        show_default=False,
    ),
]
AuthFile = Annotated[
    Path | None,
    typer.Option(
        help="Users who may log in; 'llava-rad user' writes the file. Without it, only this machine is served.",
        metavar="FILE",
        show_default=False,
    ),
]
EPILOG = "\n\n".join(
    (
        "The data folder holds pixels, drafts, decisions and signed reports. Image files and headers are not kept, "
        "file names only with --show-paths.",
        "For access from other machines, run an HTTPS proxy (--https) and name the host that browsers use "
        "(--name). AI-generated drafts, research use only, not for clinical use.",
    )
)
users = typer.Typer(
    help="Users of the review application.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@opt.expand
def command(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 selects a free one.")] = 7860,
    data_dir: DataDir = None,
    auth_file: AuthFile = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Host name that browsers use, repeatable.", metavar="HOST", show_default=False),
    ] = None,
    https: Annotated[
        bool,
        typer.Option(
            "--https",
            help="An HTTPS proxy runs on this machine: use secure cookies and its header for client addresses.",
        ),
    ] = False,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="Address or network of a proxy on another machine, whose headers for client addresses and HTTPS are "
            "believed; repeatable.",
            metavar="ADDRESS",
            show_default=False,
        ),
    ] = None,
    worklist: Annotated[
        Path | None,
        typer.Option(
            help="Folder or zip file of images to add to the worklist and draft (without --auth-file).",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    drafts: Annotated[
        str | None,
        typer.Option(
            help="Table of drafts of any model or person (.jsonl, .csv, .json, ReXrank's too), which are reviewed "
            "without a model. A row names its image by SHA-256, path, file name, or id of image or study. NAME: of the "
            "model, by default the file's.",
            metavar="[NAME=]FILE",
            show_default=False,
        ),
    ] = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Load no model: reports begin empty, for macros and normal sentences.")
    ] = False,
    example: Annotated[
        bool, typer.Option("--example/--no-example", help="Add the example radiograph to an empty worklist.")
    ] = True,
    options: Annotated[
        GenerationOptions,
        opt.Fields(
            "model",
            "revision",
            "profile",
            "allow_remote",
            "server_timeout",
            "offline",
            "device",
            "dtype",
            "max_new_tokens",
            "compile",
            "unsure",
            "vllm_python",
            "show_paths",
        ),
    ],
    identifiers: Annotated[
        bool,
        typer.Option(
            "--identifiers",
            help="Keep the identifiers of patient and study of DICOM files, for structured reports and FHIR bundles.",
        ),
    ] = False,
    archive_url: Annotated[
        str | None,
        typer.Option(
            help="DICOMweb archive whose studies every user may open by a link with the StudyInstanceUID, "
            "/ui/open.html#UID. Credentials as for 'llava-rad pacs'.",
            metavar="URL",
            show_default=False,
        ),
    ] = None,
    viewer_url: Annotated[
        str | None,
        typer.Option(
            help="Address of a study in a viewer such as OHIF, with {uid} in the place of the StudyInstanceUID, for "
            "links of the page. Needs --identifiers.",
            metavar="URL",
            show_default=False,
        ),
    ] = None,
    microphone: Annotated[
        bool,
        typer.Option(
            "--microphone",
            help="Allow the browser's microphone on the page, for dictation extensions, which may send the "
            "recording to other companies.",
        ),
    ] = False,
) -> None:
    """Review drafts in the browser: decide on every sentence, then sign the report."""
    if worklist is not None and auth_file is not None:
        raise typer.BadParameter("goes to the one local user: leave --auth-file out", param_hint="--worklist")
    if worklist is not None and not worklist.exists():
        raise typer.BadParameter("there is no such folder or file", param_hint="--worklist")
    if (no_model or drafts is not None) and options.model is not None:
        raise typer.BadParameter("no model is used: leave it out", param_hint="--model")
    server = application("server")
    share_cores()
    if not no_model and drafts is None:
        warn_of_slow_type(options.dtype, options.device)
    settings = server.Settings(
        host=host, port=port, data=(data_dir or default_folder()).expanduser().absolute(), auth_file=auth_file,
        names=tuple(name or ()), https=https, trusted_proxies=tuple(trusted_proxy or ()), options=options,
        keep_names=options.show_paths,
        identifiers=identifiers, example=example, microphone=microphone, model=not no_model and drafts is None,
        drafts=drafts, worklist=worklist, archive=archive_url, viewer=viewer_url,
    )  # fmt: skip
    server.run(settings)


@users.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Letters, digits and . _ @ -")],
    auth_file: Annotated[Path, typer.Option(help="Created if missing.", metavar="FILE", show_default=False)],
) -> None:
    """Add a user or change a password, which is prompted for or read from standard input."""
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    application("accounts").add_user(auth_file, name, password)


@users.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name of the user.")],
    auth_file: Annotated[Path, typer.Option(metavar="FILE", show_default=False)],
) -> None:
    """Remove a user and end open sessions."""
    application("accounts").remove_user(auth_file, name)


def default_folder() -> Path:
    """Return the default data folder."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "llava-rad" / "review"


def share_cores() -> None:
    """Let threads of OpenMP that wait give their core to the processes that decode images; call it before torch loads.

    libgomp's own 300,000 rounds of waiting for each other cost a report up to ten times its processor time as soon as
    other work runs on the cores. The user's variables win.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def application(part: str) -> Any:
    """Load a module of the applications.

    Raises:
        LlavaRadError: if they are not installed.
    """
    from importlib.metadata import entry_points

    found = entry_points(group=GROUP, name=part)
    if not found:
        raise LlavaRadError(
            "the review application is not installed", hint="pip install '.[app]', or 'make demo' again"
        )
    return next(iter(found)).load()
