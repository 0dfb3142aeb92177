"""The one worker that has the model: it writes waiting drafts, one after the other, whoever is looking or not."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from app import inputs
from app.review import ReviewError
from encoder.errors import LlavaRadError, ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from app.rows import Job
    from app.store import Store
    from encoder.preprocessing import Recipe
    from encoder.reader.radiograph import PreparedImage
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import GenerationOptions
    from llava_rad.generation.report_writer import ReportWriter

    Pixels = npt.NDArray[np.uint8]
    Images = Callable[[dict[str, Any], Recipe], PreparedImage]

SAVED_EVERY_S = 0.5
_IDLE_S = 5.0
STOPPED = "the draft was stopped before its end"


class Drafting:
    """Writes drafts in a thread of its own.

    The model is loaded there, too: the page is served meanwhile.

    Args:
        store: where jobs wait and drafts go.
        images: the image of a study's state, or one beside it, as a recipe prepares it.
        options: model and decoding of the drafts.
    """

    def __init__(self, store: Store, images: Images, options: GenerationOptions | None = None) -> None:
        self._store, self._images, self._options = store, images, options
        self._wake, self._closed, self._loaded = threading.Event(), threading.Event(), threading.Event()
        self._one_map = threading.Lock()  # at a time, beside the draft that is being written
        self._now: dict[str, str] = {}  # study -> text of the draft that is being written
        self._stopping: set[int] = set()
        self._writer: ReportWriter | None = None
        self._failed: str | None = None
        store.requeue_running()
        self._thread = threading.Thread(target=self._work, name="drafting", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End after the token that is being written; the draft is taken up again at the next start."""
        self._closed.set()
        self._wake.set()
        self._thread.join(timeout=10)

    def status(self) -> dict[str, Any]:
        """``state`` (loading, ready or failed), which model it is, and what it ``takes`` besides an image."""
        if self._failed is not None:
            return {"state": "failed", "error": self._failed}
        if not self._loaded.is_set():
            return {"state": "loading"}
        return {"state": "ready", **_facts(self._engine()), "takes": sorted(self._places())}

    def outdated(self, state: dict[str, Any]) -> bool:
        """Whether a study's draft was written from other inputs than a new one would be, as far as is known."""
        ready = self._loaded.is_set() and self._failed is None
        return ready and inputs.outdated(state, self._places())

    def queue(
        self, owner: str, study: str, *, replace: bool = False, batch: str | None = None, grounded: bool = False
    ) -> None:
        """Ask for a draft; see ``Store.queue``.

        Raises:
            ModelError: the model could not be loaded.
        """
        if self._failed is not None:
            raise ModelError(self._failed)
        self._store.queue(owner, study, replace=replace, batch=batch, grounded=grounded)
        self._wake.set()

    def stop(self, owner: str, study: str) -> None:
        """End a draft within a token, or take it out of the queue; what is written stays.

        Raises:
            NotFound: there is no such study.
        """
        running = self._store.stop(owner, study)
        if running is None:
            return
        self._stopping.add(running.id)
        end = time.monotonic() + 2.0  # the answer shows the draft stopped
        while study in self._now and time.monotonic() < end:
            time.sleep(0.01)

    def now(self, owner: str, study: str) -> dict[str, Any] | None:
        """State, place in the queue and text of a study's draft at this moment.

        Raises:
            NotFound: there is no such study.
        """
        found = self._store.draft(owner, study)
        if found is not None and found["state"] == "running":
            found["text"] = self._now.get(study, found["text"])
        return found

    def evidence(self, owner: str, study: str, *, sentence: str | None, encoder: bool = False) -> dict[str, Any]:
        """Where the model looked while it wrote a sentence of the draft, or where the encoder looked.

        Args:
            owner: whose study.
            study: its id.
            sentence: id of a sentence that the model wrote.
            encoder: the encoder's map instead.

        Returns:
            ``side``, ``values`` (0 to 1, row by row), ``box`` (shares of the image that they cover) and ``note``.

        Raises:
            NotFound: there is no such study.
            ReviewError: there is no such sentence, or another model wrote it.
            LlavaRadError: there is no map.
        """
        from llava_rad.generation import attention_maps as evidence

        state = self._store.state(owner, study)
        drafted = [one for one in state["sentences"] if one["draft"] is not None]
        places = {one["id"]: at for at, one in enumerate(drafted)}
        if not encoder and sentence not in places:
            raise ReviewError("there is no draft of that sentence")
        engine = self._engine()
        model = (state["draft"] or {}).get("model")
        if not encoder and model is not None and model["sha256"] != engine.sha256:
            raise ReviewError("another model wrote this draft: where it looked is not known")
        image, given = self._images(state, engine.recipe), (state["draft"] or {}).get("inputs") or {}
        others: list[Pixels] = []
        if not encoder:
            if given.get("grounded"):
                raise ReviewError("there is no map of a draft with boxes: they say where")
            if any((state[name] or {}).get("sha256") != given[name] for name in inputs.IMAGES if name in given):
                raise ReviewError(
                    "an image that this draft was written from is gone: where the model looked is not known"
                )
            others = [image.pixels for _, image in self._beside(state, given)]
        with self._one_map:
            if encoder:
                found, note = evidence.encoder_attention(engine, image.pixels), evidence.ENCODER_NOTE
            else:
                assert sentence is not None
                texts = [one["draft"] for one in drafted]
                maps = evidence.attention_by_sentence(
                    engine, image.pixels, texts, prompt=self._prompt(), study=inputs.study_of(given), others=others
                )
                found, note = maps[places[sentence]], evidence.SENTENCE_NOTE
        box = evidence.box(engine.recipe, state["image"]["height"], state["image"]["width"])
        return {"side": len(found), "values": found.round(3).ravel().tolist(), "box": box, "note": note}

    def _engine(self) -> Engine:
        self._loaded.wait()
        if self._failed is not None:
            raise ModelError(self._failed)
        assert self._writer is not None
        return self._writer.engine()

    def _places(self) -> frozenset[str]:
        """What the model's prompt has a place for."""
        from llava_rad.model.templates import TEMPLATES

        return TEMPLATES[self._engine().config.conversation.template].places

    def _beside(self, state: dict[str, Any], given: dict[str, Any]) -> list[tuple[str, PreparedImage]]:
        """The further images among the inputs, and what they are."""
        recipe = self._engine().recipe
        return [(name, self._images(state[name], recipe)) for name in inputs.IMAGES if name in given]

    def _prompt(self) -> str | None:
        """The instruction in place of the checkpoint's own."""
        return None if self._options is None else self._options.prompt

    def _work(self) -> None:
        try:
            from llava_rad.generation.report_writer import ReportWriter

            self._writer = ReportWriter(self._options)
            self._writer.close()  # its decoding process: images come prepared
            self._writer.engine()
        except Exception as error:
            self._failed = _one_line(error)
        self._loaded.set()
        while not self._closed.is_set():
            try:
                self._next()
            except Exception:  # the store cannot be written: its disk is full, say
                self._closed.wait(_IDLE_S)
                with contextlib.suppress(Exception):
                    self._store.requeue_running()

    def _next(self) -> None:
        """Write the draft whose turn it is, or wait for one."""
        self._wake.clear()
        job = self._store.next_job()
        if job is None:
            self._wake.wait(_IDLE_S)
        elif self._failed is not None:
            self._store.finish(job, "failed", error=self._failed)
        else:
            self._write(job)

    def _write(self, job: Job) -> None:
        """One draft, from the study's image to its sentences in the store."""
        from llava_rad.outputs.grounding import parse

        assert self._writer is not None
        text, state, report = "", "done", None
        self._now[job.study] = ""
        try:
            study = self._store.state(job.owner, job.study)
            given = inputs.given(study, self._places()) | ({"grounded": True} if job.grounded else {})
            image, others = self._images(study, self._engine().recipe), self._beside(study, given)
            asked = inputs.study_of(given)
            saved = time.monotonic()
            for piece in self._writer.stream_image(image, study=asked, others=others):
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
                    self._store.progress(job, self._now[job.study])
                    saved = time.monotonic()
            if report is None:
                report = self._writer.report(image, text, study=asked, others=others)
                report = report.model_copy(update={"warnings": [*report.warnings, STOPPED]})
            kept = report.model_dump(mode="json")
            findings = [one for one in kept["report"]["findings"] if one["text"]]
            self._store.finish(
                job, state, text=report.text, sentences=[one["text"] for one in findings],
                boxes=[one.get("boxes", []) for one in findings], report=kept, model=_facts(self._engine()),
                inputs=given,
            )  # fmt: skip
        except Exception as error:
            self._store.finish(job, "failed", text=self._now[job.study], error=_one_line(error))
        finally:
            self._stopping.discard(job.id)
            self._now.pop(job.study, None)


def _facts(engine: Engine) -> dict[str, Any]:
    return {
        "id": engine.model_id, "revision": engine.revision, "sha256": engine.sha256,
        "demonstration": engine.config.demonstration,
    }  # fmt: skip


def _one_line(error: Exception) -> str:
    """An error as people may see it: one that is not ours may quote what identifies a patient."""
    if isinstance(error, LlavaRadError):
        return f"{error} ({error.hint})" if error.hint else str(error)
    return f"unexpected {type(error).__name__}"
