"""Finding a report model by its name: one door for checkpoints of this project and models that others trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import ConfigError, ModelError
from encoder.hub import fetch
from encoder.json_files import read_json
from llava_rad.conversion.published import of_config, of_repository, open_checkpoint
from llava_rad.generation.chat_server import PREFIX
from llava_rad.generation.checkpoint_model import FoundCheckpoint

if TYPE_CHECKING:
    from llava_rad.generation.options import GenerationOptions
    from llava_rad.generation.report_model import FoundModel


def find(options: GenerationOptions) -> FoundModel:
    """Find the model of the options; its kind is read off its ``config.json``. No weight is read.

    Raises:
        ModelError: if it cannot be found, must be converted first, or is of a form that is not read.
        ConfigError: if there is no such profile, or the model takes none.
    """
    source = options.model
    if str(source).startswith(PREFIX):
        from llava_rad.generation.server_model import FoundServer

        return FoundServer(options)
    config = _config(source, options.revision, options.offline)
    if config and "model_type" in config and "format" not in config:
        from llava_rad.generation.profiles import load_profile, profile_of
        from llava_rad.generation.vision_language_files import FoundVisionLanguage

        assert source is not None
        refuse_unconverted(source, config)
        profile = profile_of(source, config) if options.profile is None else load_profile(options.profile)
        return FoundVisionLanguage(source, config, profile, revision=options.revision, offline=options.offline)
    if options.profile is not None and config is not None:
        raise ConfigError("the model takes no profile: it is one of this project's checkpoints, which state their own")
    return FoundCheckpoint(open_checkpoint(source, revision=options.revision, offline=options.offline))


def refuse_unconverted(source: str | Path, config: dict[str, Any]) -> None:
    """Refuse a published model that this project runs after conversion.

    Raises:
        ModelError: if ``config`` is of one.
    """
    if (published := of_config(config)) is not None:
        raise ModelError(
            f"the model is {published.kind} in its published form, which is converted first",
            hint=f"llava-rad convert --from {published.kind} {source} DEST, then --model DEST",
        )


def _config(source: str | Path | None, revision: str | None, offline: bool) -> dict[str, Any] | None:
    """Read the ``config.json`` of a model; empty if it is the default or converted on first use, None if unreadable."""
    if source is None or (of_repository(source) is not None and not Path(str(source)).is_dir()):
        return {}
    folder = fetch(source, revision=revision, offline=offline, patterns=("config.json",))
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):  # reported where a checkpoint is expected
        return None
    return config if isinstance(config, dict) else None
