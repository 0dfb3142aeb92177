"""Drafting: one thread owns the model and writes the waiting drafts, one at a time, from image and study inputs."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from app.review import FIELDS, ReviewError, section_of
from app.store import CONTEXT_IMAGES
from encoder.errors import LlavaRadError, ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from app.jobs import Job
    from app.store import Store
    from encoder.preprocessing import Recipe
    from encoder.reader.radiograph import PreparedImage
    from llava_rad.generation.options import GenerationOptions
    from llava_rad.generation.report_model import ReportModel
    from llava_rad.generation.report_writer import ReportWriter
    from llava_rad.model.templates import Study

    Pixels = npt.NDArray[np.uint8]
    Images = Callable[[dict[str, Any], Recipe], PreparedImage]

SAVED_EVERY_S: Final = 0.5
STOPPED: Final = "the draft was stopped before its end"
_IDLE_S = 5.0


def inputs_of(state: dict[str, Any], places: Collection[str]) -> dict[str, Any]:
    """Return a study's inputs that the model's prompt has a place for: SHA-256 of images, texts of fields.

    The prior report is used only together with the prior image.

    Args:
        state: of the study, from the store.
        places: names of inputs that the prompt takes (``llava_rad.model.templates.Template.places``).
    """
    images = {name: state[name]["sha256"] for name in CONTEXT_IMAGES if name in places and state[name]}
    texts = {name: text for name, text in state["fields"].items() if name in FIELDS and text}
    if "prior" not in images:
        texts.pop("prior_report", None)
    return images | {name: text for name, text in texts.items() if name.replace("_", "-") in places}


def study_of(inputs: dict[str, Any]) -> Study:
    """Return the inputs in the form that prompts take; the key ``grounded`` requests boxes."""
    from llava_rad.model.templates import Study

    return Study(**(inputs | {name: name in inputs for name in CONTEXT_IMAGES}))


def outdated(state: dict[str, Any], places: Collection[str]) -> bool:
    """Return True if a study's inputs have changed since its draft was written.

    False for drafts of earlier versions, which do not record their inputs.
    """
    inputs = (state["draft"] or {}).get("inputs")
    if inputs is None or not state["sentences"]:
        return False
    return {name: value for name, value in inputs.items() if name != "grounded"} != inputs_of(state, places)


class Drafting:
    """Writes drafts in its own thread, which also loads the model.

    Args:
        store: studies and the queue of drafts.
        images: returns the image of a study's state, or of one of its context images, preprocessed by a recipe.
        options: model and decoding of the drafts; None uses the embedded model and its defaults.
    """

    def __init__(self, store: Store, images: Images, options: GenerationOptions | None = None) -> None:
        self._store, self._images, self._options = store, images, options
        self._wake, self._closed, self._loaded = threading.Event(), threading.Event(), threading.Event()
        self._map_lock = threading.Lock()  # one map at a time, next to the draft that is being written
        self._now: dict[str, str] = {}  # study -> text of the draft that is being written
        self._stopping: set[int] = set()
        self._writer: ReportWriter | None = None
        self._failed: str | None = None
        store.jobs.requeue_running()
        self._thread = threading.Thread(target=self._work, name="drafting", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the current token; the interrupted draft is written again after the next start."""
        self._closed.set()
        self._wake.set()
        self._thread.join(timeout=10)
        if self._writer is not None:
            self._writer.close()

    def status(self) -> dict[str, Any]:
        """Return ``state`` (loading, ready or failed), the model's id and hash, and the inputs that it ``takes``."""
        if self._failed is not None:
            return {"state": "failed", "error": self._failed}
        if not self._loaded.is_set():
            return {"state": "loading"}
        return {"state": "ready", **_facts(self._model()), "takes": sorted(self._places())}

    def takes(self) -> Collection[str]:
        """Return the names of the inputs that the model takes; none while it is loading."""
        return self._places() if self._loaded.is_set() and self._failed is None else ()

    def outdated(self, state: dict[str, Any]) -> bool:
        """Return True if a study's inputs have changed since its draft; False while the model is loading."""
        ready = self._loaded.is_set() and self._failed is None
        return ready and outdated(state, self._places())

    def queue(
        self, owner: str, study: str, *, replace: bool = False, grounded: bool = False, revision: int | None = None
    ) -> None:
        """Request a draft; see :meth:`app.jobs.Jobs.add`.

        Raises:
            ModelError: if the model could not be loaded.
        """
        if self._failed is not None:
            raise ModelError(self._failed)
        self._store.jobs.add(owner, study, replace=replace, grounded=grounded, revision=revision)
        self.wake()

    def wake(self) -> None:
        """Look into the queue of drafts now."""
        self._wake.set()

    def stop(self, owner: str, study: str) -> None:
        """Stop a draft after its current token, or remove it from the queue; written text is kept.

        Raises:
            NotFound: if the study does not exist.
        """
        running = self._store.jobs.stop(owner, study)
        if running is None:
            return
        self._stopping.add(running.id)
        end = time.monotonic() + 2.0  # so that the caller's answer shows the stopped draft
        while study in self._now and time.monotonic() < end:
            time.sleep(0.01)

    def now(self, owner: str, study: str) -> dict[str, Any] | None:
        """Return the current ``state``, ``position`` in the queue and ``text`` of a study's draft.

        Raises:
            NotFound: if the study does not exist.
        """
        found = self._store.jobs.draft(owner, study)
        if found is not None and found["state"] == "running":
            found["text"] = self._now.get(study, found["text"])
        return found

    def evidence(
        self, owner: str, study: str, *, sentence: str | None, encoder: bool = False,
        wanted: Callable[[], bool] = lambda: True,
    ) -> dict[str, Any]:  # fmt: skip
        """Compute the attention map of a sentence of the draft, or of the encoder.

        Args:
            owner: of the study.
            study: its id.
            sentence: id of a sentence that the model wrote.
            encoder: compute the encoder's map instead.
            wanted: returns False if nobody waits for the map any more.

        Returns:
            ``side``, ``values`` (0 to 1, row by row), ``box`` (left, top, width and height of the map as shares of
            the image's sides) and ``note``.

        Raises:
            NotFound: if the study does not exist.
            ReviewError: if the sentence does not exist, or another model or other images produced it.
            LlavaRadError: if no map can be computed.
        """
        from llava_rad.generation import attention_maps
        from llava_rad.model.sections import headed

        state = self._store.state(owner, study)
        drafted = [one for one in state["sentences"] if one["draft"] is not None]
        numbers = {one["id"]: at for at, one in enumerate(drafted)}
        if not encoder and sentence not in numbers:
            raise ReviewError("there is no draft of that sentence")
        engine = self._ready().engine()
        model = (state["draft"] or {}).get("model")
        if not encoder and model is not None and model["sha256"] != engine.sha256:
            raise ReviewError("another model wrote this draft: its attention map is not available")
        image, inputs = self._images(state, engine.recipe), (state["draft"] or {}).get("inputs") or {}
        others: list[Pixels] = []
        if not encoder:
            if inputs.get("grounded"):
                raise ReviewError("a draft with boxes has no attention map")
            if any((state[name] or {}).get("sha256") != inputs[name] for name in CONTEXT_IMAGES if name in inputs):
                raise ReviewError(
                    "an image that this draft was written from is gone: its attention map is not available"
                )
            others = [image.pixels for _, image in self._context(state, inputs)]
        with self._map_lock:
            if encoder:
                found, note = attention_maps.encoder_attention(engine, image.pixels), attention_maps.ENCODER_NOTE
            else:
                assert sentence is not None
                texts = [one["draft"] for one in drafted]
                if engine.config.with_impression:
                    texts = headed([(section_of(one), one["draft"]) for one in drafted])
                maps = attention_maps.attention_by_sentence(
                    engine,
                    image.pixels,
                    texts,
                    prompt=self._prompt(),
                    study=study_of(inputs),
                    others=others,
                    wanted=wanted,
                )
                found, note = maps[numbers[sentence]], attention_maps.SENTENCE_NOTE
        box = attention_maps.box(engine.recipe, state["image"]["height"], state["image"]["width"])
        return {"side": len(found), "values": found.round(3).ravel().tolist(), "box": box, "note": note}

    def _ready(self) -> ReportWriter:
        """Return the writer once its model is loaded."""
        self._loaded.wait()
        if self._failed is not None:
            raise ModelError(self._failed)
        assert self._writer is not None
        return self._writer

    def _model(self) -> ReportModel:
        return self._ready().model()

    def _places(self) -> frozenset[str]:
        """Return the names of the inputs that the model's prompt takes."""
        return self._model().config.places

    def _context(self, state: dict[str, Any], inputs: dict[str, Any]) -> list[tuple[str, PreparedImage]]:
        """Return names and images of the context images among the inputs."""
        recipe = self._model().recipe
        return [(name, self._images(state[name], recipe)) for name in CONTEXT_IMAGES if name in inputs]

    def _prompt(self) -> str | None:
        """Return the instruction that replaces the checkpoint's own, if any."""
        return None if self._options is None else self._options.prompt

    def _work(self) -> None:
        try:
            from llava_rad.generation.report_writer import ReportWriter

            self._writer = ReportWriter(self._options)
            self._writer.stop_reading()  # ends its process for reading images: they are already prepared
            self._writer.warm_up()
        except Exception as error:  # whatever keeps the model from loading is shown on the page
            self._failed = _one_line(error)
        self._loaded.set()
        interrupted = False
        while not self._closed.is_set():
            try:
                if interrupted:
                    self._store.jobs.requeue_running()
                    interrupted = False
                self._next()
            except Exception:  # the store cannot be written, for example because the disk is full
                interrupted = True
                self._closed.wait(_IDLE_S)

    def _next(self) -> None:
        """Write the next draft of the queue, or wait for one."""
        self._wake.clear()
        job = self._store.jobs.next()
        if job is None:
            self._wake.wait(_IDLE_S)
        elif self._failed is not None:
            self._store.jobs.finish(job, "failed", error=self._failed)
        else:
            self._write(job)

    def _write(self, job: Job) -> None:
        """Write one draft and put its sentences into the study."""
        from llava_rad.outputs.grounding import parse

        assert self._writer is not None
        text, state, report = "", "done", None
        self._now[job.study] = ""
        try:
            study = self._store.state(job.owner, job.study)
            inputs = inputs_of(study, self._places()) | ({"grounded": True} if job.grounded else {})
            image, others = self._images(study, self._model().recipe), self._context(study, inputs)
            prompted = study_of(inputs)
            saved = time.monotonic()
            for piece in self._writer.stream_image(image, study=prompted, context=others):
                if not isinstance(piece, str):
                    report = piece
                    break
                text += piece
                self._now[job.study] = parse(text).text if job.grounded else text
                if self._closed.is_set():
                    return
                if job.id in self._stopping:
                    state = "stopped"
                    break
                if time.monotonic() - saved > SAVED_EVERY_S:
                    with contextlib.suppress(sqlite3.OperationalError):  # the whole draft may be saved later
                        self._store.jobs.progress(job, self._now[job.study])
                    saved = time.monotonic()
            if report is None:
                report = self._writer.report(image, text, study=prompted, context=others)
                report = report.model_copy(update={"warnings": [*report.warnings, STOPPED]})
            findings = [one for one in report.report.findings if one.text]
            drafted = report.report.impression
            self._store.jobs.finish(
                job, state, text=report.shown, sentences=[one.text for one in findings],
                impression=[one.text for one in drafted.sentences] if drafted else (),
                boxes=[[box.model_dump(exclude={"image"}) for box in one.boxes or ()] for one in findings],
                report=report.model_dump(mode="json"), model=_facts(self._model()), inputs=inputs,
            )  # fmt: skip
        except sqlite3.OperationalError:  # the disk is full, the database is used: the draft is written again
            raise
        except Exception as error:  # the job ends as failed with what was written so far; the next one runs
            self._store.jobs.finish(job, "failed", text=self._now[job.study], error=_one_line(error))
        finally:
            self._stopping.discard(job.id)
            self._now.pop(job.study, None)


def _facts(model: ReportModel) -> dict[str, Any]:
    return {
        "id": model.model_id, "revision": model.revision, "sha256": model.sha256,
        "demonstration": model.config.demonstration,
    }  # fmt: skip


def _one_line(error: Exception) -> str:
    """Return an error's message for users; messages of foreign errors are withheld, they may identify a patient."""
    if isinstance(error, LlavaRadError):
        return f"{error} ({error.hint})" if error.hint else str(error)
    return f"unexpected {type(error).__name__}"
