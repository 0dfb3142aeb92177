"""Adapter of the package ``radgraph`` to the interface of :class:`metrics.radgraph.model.RadGraphModel`.

The package is optional; tests compare our inference with it. Under transformers 5 it needs two methods of its tokenizer
restored, and local files instead of the hub.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from metrics.base import HubFile, MetricError, WeightsError, sha256_of
from metrics.model_files import bert_sizes, read_object
from metrics.radgraph.archive import ARCHIVES, Kind, unpack


class PackageRadGraph:
    """Model of the package.

    Args:
        path: ``radgraph.tar.gz`` or its folder; None looks in the hub cache.
        model: published model that it is.
        tokenizer: folder with ``config.json`` and ``vocab.txt`` of the base model; None looks in the hub cache.
        allow_download: fetch files that are not in the hub cache.

    Raises:
        WeightsError: if a file is missing, or the package does not load it.
        MetricError: if the package is not installed.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        model: Kind = "radgraph",
        tokenizer: str | Path | None = None,
        allow_download: bool = False,
    ) -> None:
        try:
            import radgraph
            from radgraph.allennlp.common import cached_transformers
        except ImportError as error:
            raise MetricError(
                "the package radgraph is not installed", hint="pip install 'llava-rad[metrics]'"
            ) from error
        from transformers import BertConfig, BertModel, BertTokenizer

        self.forwards, self.warnings = 0, list[str]()
        given = Path(path).expanduser() if path is not None else None
        with tempfile.TemporaryDirectory(prefix="llava-rad-") as top:
            folder = Path(top) / model
            if given is not None and given.is_dir():
                folder.symlink_to(given.resolve(), target_is_directory=True)
                archive = given / "weights.th"
            else:
                archive = ARCHIVES[model].find(given, allow_download=allow_download)
                folder.mkdir()
                unpack(archive, folder)
            try:
                config = read_object(folder / "config.json")
                base = str(config["dataset_reader"]["token_indexers"]["bert"]["model_name"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise WeightsError("RadGraph's config.json cannot be read") from error
            local = tokenizer or (base if Path(base).is_absolute() and Path(base).is_dir() else None)
            vocab, sizes = (
                HubFile(base, name, f"RadGraph's base model ({name})", f"--{model}-tokenizer DIR").find(
                    local, allow_download=allow_download
                )
                for name in ("vocab.txt", "config.json")
            )
            self.weights_id = f"{model}:package-{sha256_of(archive)[:16]}"
            fast = BertTokenizer.from_pretrained(vocab.parent)
            fast.encode_plus = fast.__call__
            fast.build_inputs_with_special_tokens = lambda ids: [fast.cls_token_id, *ids, fast.sep_token_id]
            try:
                known = bert_sizes(read_object(sizes), f"config.json of {base}", f"give --{model}-tokenizer DIR")
                bert = BertModel(BertConfig(**known))
            except WeightsError:
                raise
            except Exception as error:  # transformers and the hub's library raise types of their own
                raise WeightsError(
                    f"{base}: config.json cannot be used", hint=f"give --{model}-tokenizer DIR"
                ) from error
            try:
                with (
                    mock.patch.object(cached_transformers, "get_tokenizer", lambda name, **options: fast),
                    mock.patch.object(cached_transformers, "get", lambda *options: bert),
                    contextlib.redirect_stdout(io.StringIO()),
                ):
                    self._model: Any = radgraph.RadGraph(model_type=model, model_cache_dir=top, cuda=-1)
            except (RuntimeError, KeyError, ValueError, AttributeError, OSError) as error:
                raise WeightsError(
                    f"the package radgraph does not load the archive ({type(error).__name__})"
                ) from error

    def portions(self, texts: Sequence[str], *, batch_size: int = 1) -> Iterator[list[dict[str, Any]]]:
        """Yield annotations one by one: the package ignores the batch size."""
        for text in texts:
            self.forwards += 1
            yield [self.annotate([text])[0] if text.strip() else {"text": "", "entities": {}}]

    def annotate(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Annotate N texts that are not blank."""
        import torch

        with torch.inference_mode():
            found = self._model(list(texts))
        return [found[str(number)] for number in range(len(texts))]
