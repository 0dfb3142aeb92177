"""Options that several commands share, and command-line options made of the fields of a dataclass.

A command takes ``options: Annotated[GenerationOptions, Fields("model", "device")]`` under the decorator
:func:`expand`; each field named becomes an option of the command, with name, default, range, panel and help text of the
dataclass.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from typer.models import OptionInfo

from encoder.errors import LlavaRadError
from llava_rad.generation.options import CommandLine, GenerationOptions
from llava_rad.generation.study import read_text
from llava_rad.outputs.formats import FORMATS, document_formats


class Plain(StrEnum):
    """Form of an answer about a file or this installation."""

    text = "text"
    json = "json"


class Fields:
    """Annotation of a command's parameter: the fields of its dataclass that become options; all if none is named."""

    def __init__(self, *names: str) -> None:
        self.names = names


def expand(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace every parameter that is annotated with :class:`Fields` by one command-line option for each field.

    The command is called with the dataclass, made of the options' values.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[type, list[str]]] = {}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        annotation = hints[parameter.name]
        fields = next((one for one in getattr(annotation, "__metadata__", ()) if isinstance(one, Fields)), None)
        if fields is None:
            parameters.append(parameter.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        kind = annotation.__origin__
        made = list(_parameters(kind, fields.names))
        groups[parameter.name] = (kind, [one.name for one in made])
        parameters += made

    @functools.wraps(command)
    def called(**given: Any) -> Any:
        for name, (kind, fields) in groups.items():
            values = {field: _value(kind, field, given.pop(field)) for field in fields}
            given[name] = kind(**values)
        return command(**given)

    del called.__wrapped__  # typer is to see the new signature only
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def _parameters(kind: type, names: tuple[str, ...]) -> Iterator[inspect.Parameter]:
    """The parameters of a command that stand for fields of a dataclass."""
    fields = {field.name: field for field in dataclasses.fields(kind) if "cli" in field.metadata}
    hints = get_type_hints(kind)
    for name in names or tuple(fields):
        shown: CommandLine = fields[name].metadata["cli"]
        type_ = hints[name] if shown.kind is None else shown.kind | None
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=fields[name].default,
            annotation=Annotated[type_, option(name, kind)],
        )


def _value(kind: type, name: str, value: Any) -> Any:
    """The value of a field: that of its option, or the content of the file that the option names."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    if field.metadata["cli"].file and value is not None:
        return read_text(value)
    return value


def option(name: str, kind: type = GenerationOptions) -> OptionInfo:
    """Make the command-line option of one field of a dataclass; its type and default are the caller's."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    shown: CommandLine = field.metadata["cli"]
    flag = name.replace("_", "-")
    made: OptionInfo = typer.Option(
        # a flag that may be left open needs a form for no
        f"--{flag}/--no-{flag}" if get_type_hints(kind)[name] == bool | None else f"--{flag}",
        help=_documentation(kind)[name],
        min=shown.minimum,
        max=getattr(shown, "maximum", None),  # options of metrics have none
        metavar=shown.metavar,
        show_default=field.default is not None,
        rich_help_panel=shown.panel,
        callback=_go_offline if name == "offline" else None,
    )
    return made


def _go_offline(offline: bool) -> bool:
    """Tell the libraries that ask the hub on their own account."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return offline


@functools.cache
def _documentation(kind: type) -> dict[str, str]:
    """Name -> text of every field of a dataclass and of those it inherits from."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        found |= attributes(inspect.cleandoc(one.__doc__ or ""))
    return found


def attributes(docstring: str) -> dict[str, str]:
    """Name -> text of the section ``Attributes:`` of a docstring."""
    _, _, section = docstring.partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        start = re.match(r" {4}([a-z_0-9, ]+): (.*)", line)
        if start and not line.startswith(" " * 5):
            name = start[1]
            found |= dict.fromkeys(name.split(", "), start[2])
        elif line.startswith(" " * 8) and name:
            found |= {one: f"{found[one]} {line.strip()}" for one in name.split(", ")}
        elif line.strip():
            break
    return {one: text.replace("``", "`") for one, text in found.items()}


def columns(options: list[str] | None, fields: Sequence[str]) -> dict[str, list[str]]:
    """Parse ``--column``; ``fields`` are empty for a data set whose columns are known.

    Raises:
        BadParameter: if an option is not understood.
    """
    from encoder.datasets.columns import parsed

    if options and not fields:
        raise typer.BadParameter("only the data set 'table' has columns to name", param_hint="--column")
    try:
        return parsed(options or (), fields)
    except LlavaRadError as error:
        raise typer.BadParameter(str(error), param_hint="--column") from None


# Single options of commands that write no reports: their texts are those of GenerationOptions.
Offline = Annotated[bool, option("offline")]
Device = Annotated[str, option("device")]
AllowRemote = Annotated[bool, option("allow_remote")]
ServerTimeout = Annotated[float, option("server_timeout")]
Force = Annotated[bool, option("force")]
Frame = Annotated[int | None, option("frame")]
ShowPaths = Annotated[bool, option("show_paths")]
Revision = Annotated[str | None, option("revision")]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Look into subfolders too.", rich_help_panel="Input")
]
_DOCUMENTS = " and ".join(row.name for row in document_formats())
if TYPE_CHECKING:
    _FormatName = str
else:
    _FormatName = Literal[tuple(FORMATS)]  # typer takes the choices from the type

Format = Annotated[
    _FormatName,
    typer.Option(
        "--format",
        "-f",
        help="; ".join(f"{row.name}: {row.help}" for row in FORMATS.values()) + f". {_DOCUMENTS} need --output.",
        rich_help_panel="Output",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="File for the results; an existing one is kept unless --overwrite. The same command continues a JSONL "
        f"file. For {_DOCUMENTS}: a folder, which is continued, too. Not with --group, --study and inputs of a study.",
        show_default=False,
        rich_help_panel="Output",
    ),
]
Identifiers = Annotated[
    bool,
    typer.Option(
        "--identifiers",
        help=f"{_DOCUMENTS}: carry the file's identifiers of patient, study and image. Without it, documents belong to "
        "no patient and study. json and jsonl: give the UIDs of study and image.",
        rich_help_panel="Output",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="For 'table': the column of a field, e.g. \"subject=Patient ID\" (repeatable; usual names are known). "
        "ignore=COLUMN leaves one out, FIELD= a field.",
        metavar="FIELD=COLUMN",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing output file.", rich_help_panel="Output")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress and no summary, errors only.", rich_help_panel="Output")
]
