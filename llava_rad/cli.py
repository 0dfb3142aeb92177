"""Command line ``llava-rad``: its commands, and the exit codes of errors."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from typing import Annotated, NoReturn

import typer

from encoder.errors import LlavaRadError
from llava_rad.commands import (
    benchmark,
    checkpoint,
    embed,
    evaluate,
    generate,
    inspect,
    manifest,
    maps,
    pacs,
    pretrain,
    probe,
    probe_segment,
    reports,
    rexrank,
    serve,
    service,
    train,
)
from llava_rad.commands.console import (
    DEBUG,
    STDOUT_ERROR,
    debugging,
    explained,
    hint,
    line_of,
    note,
    show_error,
    standard_output,
)
from metrics.base import MetricError

_PACKAGES = ("encoder", "metrics", "llava_rad", "app")
EPILOG = "\n\n".join(
    (
        "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 some of several inputs failed; 4 the input was refused; "
        "5 the model is missing or damaged; 130 interrupted.",
        "Privacy: results and messages name inputs by position and SHA-256, never by file name or header value, which "
        "may identify a patient; --show-paths adds the path. LLAVA_RAD_DEBUG=1 shows tracebacks, which may quote both.",
        "All reports are AI-generated drafts for research use only, not for clinical use.",
    )
)

app = typer.Typer(
    name="llava-rad",
    help="Findings reports from chest radiographs. AI-generated drafts, research use only, not for clinical use.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("generate", epilog=EPILOG)(generate.command)
app.command("inspect", epilog=EPILOG)(inspect.inspect)
app.command("doctor")(inspect.doctor)
app.command("assemble")(checkpoint.assemble)
app.command("convert")(checkpoint.convert)
app.command("manifest", epilog=manifest.EPILOG)(manifest.command)
app.command("reports", epilog=reports.EPILOG)(reports.command)
app.command("evaluate", epilog=evaluate.EPILOG)(evaluate.command)
app.command("benchmark", epilog=benchmark.EPILOG)(benchmark.command)
app.command("embed", epilog=embed.EPILOG)(embed.command)
app.command("pretrain", epilog=pretrain.EPILOG)(pretrain.command)
app.command("train", epilog=train.EPILOG)(train.command)
app.command("serve", epilog=serve.EPILOG)(serve.command)
app.add_typer(serve.users, name="user")
app.command("api", epilog=service.EPILOG)(service.command)
app.add_typer(service.keys, name="key")
probe.app.command("segment", epilog=probe.EPILOG)(probe_segment.segment)
probe.app.command("nnunet", epilog=probe.EPILOG)(probe_segment.nnunet_dataset)
app.add_typer(probe.app, name="probe")
app.add_typer(maps.app, name="maps")
app.add_typer(pacs.app, name="pacs")
app.add_typer(rexrank.app, name="rexrank")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"llava-rad {version('llava-rad')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. It ends in ``SystemExit``; without ``arguments`` it ends the process.

    Args:
        arguments: arguments in place of ``sys.argv[1:]``.

    Raises:
        SystemExit: always.
    """
    try:
        if arguments is None:
            _interrupt_at_sigterm()
        _run(arguments)
    except KeyboardInterrupt:  # while an error was being shown
        _leave(130)
    except SystemExit as end:
        if arguments is None:
            _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def _leave(code: int) -> NoReturn:
    """End the process without Python's finalisation.

    A thread that is still in PyTorch (reading, drafting, Gloo releasing tensors) would abort the process ("terminate
    called without an active exception") with exit code 134 after the work is done.
    """
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        if not isinstance(error, BrokenPipeError):  # a reader such as head, which had enough
            note(f"error: {STDOUT_ERROR} ({os.strerror(getattr(error, 'errno', 0) or 0)})")
        code = code or 1
    os._exit(code)


def _interrupt_at_sigterm() -> None:
    """Take SIGTERM as Ctrl-C: results are kept as for it, and the first process of a container ends at all."""
    own = os.getpid()

    def interrupt(number: int, frame: object) -> None:
        if os.getpid() != own:  # a worker that was forked
            os._exit(128 + number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _open_standard_streams() -> None:
    """Open those that the caller closed: the next files would get their numbers, and libraries write to both outputs.

    Input is empty then. Output is opened for reading, so that results are not lost without an error.
    """
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))


def _run(arguments: list[str] | None) -> None:
    _open_standard_streams()
    if not debugging():
        _silence_libraries()
        threading.excepthook = _thread_failed
    logging.getLogger("DeepSpeed").addFilter(_redirect_log)
    with contextlib.suppress(AttributeError, ValueError):
        # a name that is no UTF-8 is shown with escapes
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        with standard_output():
            app(args=arguments, prog_name="llava-rad")
    except (LlavaRadError, MetricError) as error:
        if debugging():
            raise
        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(130)
    except Exception as error:  # a full disk, a closed stream, or a fault of ours: one line, no traceback
        if isinstance(error.__cause__, KeyboardInterrupt):  # Python 3.11 wraps one raised while a class is created
            note("interrupted")
            sys.exit(130)
        if debugging():
            raise
        if advice := explained(error):
            show_error(advice)
            sys.exit(1)
        if isinstance(error, OSError):  # its file name is not shown
            if not isinstance(error, BrokenPipeError):
                note(f"error: a file cannot be read or written ({os.strerror(error.errno or 0)}; {line_of(error)})")
            sys.exit(1)
        # the message of an unexpected error may quote a header, so only its type and line are shown
        note(f"error: unexpected {type(error).__name__} in {line_of(error)}")
        hint(f"{DEBUG}=1 shows the traceback, which may identify a patient")
        sys.exit(1)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Report the end of a thread as that of a command: its error may quote a header."""
    if failed.exc_type is not SystemExit:
        place = "an unknown module" if failed.exc_value is None else line_of(failed.exc_value)
        note(f"error: unexpected {failed.exc_type.__name__} in {place}")


def _silence_libraries() -> None:
    """Keep warnings and progress bars of libraries off standard error; the variables win if the user has set them."""
    warnings.simplefilter("ignore")
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers' bars too
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_LOGS": "-all",  # errors only
    }.items():
        os.environ.setdefault(name, value)
    if logging.lastResort is not None:  # the handler of libraries that have none, such as bitsandbytes
        logging.lastResort.addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or record.name.partition(".")[0] in _PACKAGES


def _redirect_log(record: logging.LogRecord) -> bool:
    """Redirect DeepSpeed's log to standard error: it would appear among the results on standard output.

    Any command that saves weights imports DeepSpeed if it is installed; without a GPU it logs a message, which is
    dropped.
    """
    if record.levelno >= logging.WARNING and "Setting accelerator to CPU" not in record.getMessage():
        note(record.getMessage())
    return False
