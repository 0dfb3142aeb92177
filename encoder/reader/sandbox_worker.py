"""Child side of :mod:`encoder.reader.sandbox`: a server that imports everything once and forks one worker per image.

Each worker receives its job from the control socket; the next worker is forked as soon as it has one. All processes end
when the parent's end of the control socket closes, also if the parent was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import io
import json
import math
import mmap
import os
import resource
import select
import signal
import socket
import struct
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from encoder.errors import LlavaRadError, ReadError
from encoder.reader.replies import MAX_PIXEL_BYTES

if TYPE_CHECKING:
    from encoder.reader.radiograph import Radiograph

MADV_POPULATE_WRITE = 23


def main(control_fd: int, memory_bytes: int) -> None:
    """Serve until the parent has ended.

    Args:
        control_fd: descriptor of the socket that jobs arrive on.
        memory_bytes: address space of each worker.
    """
    control = socket.socket(fileno=control_fd)
    _warm()
    _leave_network()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps finished workers
    gc.collect()
    gc.freeze()
    failures = 0
    while failures < 5:
        told, tell = os.pipe()
        if os.fork() == 0:
            os.close(told)
            _worker(control, tell, memory_bytes)
        os.close(tell)
        answer = os.read(told, 1)  # g: the worker has a job, q: the parent has ended, empty: the worker died
        os.close(told)
        if answer == b"q":
            return
        failures = 0 if answer == b"g" else failures + 1


def _worker(control: socket.socket, tell: int, memory_bytes: int) -> NoReturn:
    """Wait for one job, do it and end the process."""
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        job = _next_job(control)
        os.write(tell, b"q" if job is None else b"g")
        os.close(tell)
        if job is not None:
            request, file, reply, output = job
            control.close()
            _serve(request, file, socket.socket(fileno=reply), output)
    finally:
        os._exit(0)


def _next_job(control: socket.socket) -> tuple[dict[str, Any], int, int, int | None] | None:
    data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 3)
    if not data:
        return None
    length = struct.unpack("!I", data[:4])[0]
    while len(data) < 4 + length:
        more = control.recv(4 + length - len(data))
        if not more:
            return None
        data += more
    return json.loads(data[4:]), descriptors[0], descriptors[1], descriptors[2] if len(descriptors) > 2 else None


def _serve(request: dict[str, Any], file: int, reply: socket.socket, output: int | None) -> None:
    timeout_s = float(request["timeout_s"])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action ends the process, even within C code
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    cpu_s = math.ceil(2 * timeout_s) + 1  # JPEG 2000 uses two threads
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    reply.sendall(b"\x01")
    _end_with(reply, True)
    try:
        source = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        shared = None if output is None else mmap.mmap(output, MAX_PIXEL_BYTES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # no further file or socket can be opened
        header, arrays = _answer(request, source, shared)
    except BaseException as error:
        # Decoders raise any type, even BaseException (a Rust panic). Messages of foreign exceptions may quote the
        # header and are not passed on.
        header, arrays = _refusal(error), []
    _end_with(reply, False)  # from here on, a reply that is read would count
    header["bytes"] = sum(memoryview(array).nbytes for array in arrays)
    message = json.dumps(header).encode()
    reply.sendall(struct.pack("!I", len(message)) + message)
    for array in arrays:
        reply.sendall(memoryview(array).cast("B"))


def _end_with(reply: socket.socket, on: bool) -> None:
    """End the process, even within C code, as soon as the parent closes its end of the channel (SIGIO), or no more."""
    flags = fcntl.fcntl(reply, fcntl.F_GETFL)
    fcntl.fcntl(reply, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(reply, fcntl.F_SETFL, flags | os.O_ASYNC if on else flags & ~os.O_ASYNC)
    if on and select.select([reply], [], [], 0)[0]:  # it was closed before
        os._exit(0)


def _refusal(error: BaseException) -> dict[str, Any]:
    if isinstance(error, MemoryError):
        error = ReadError("memory", "the image needs too much memory to read")
    elif isinstance(error, LlavaRadError) and not isinstance(error, ReadError):
        error = ReadError("corrupt", str(error), hint=error.hint)  # a recipe that does not fit
    elif not isinstance(error, ReadError):
        error = ReadError("corrupt", "the file is damaged")
    return {"ok": False, "reason": error.reason, "message": str(error), "forcible": error.forcible, "hint": error.hint}


def _answer(request: dict[str, Any], source: mmap.mmap, shared: mmap.mmap | None) -> tuple[dict[str, Any], list[Any]]:
    import numpy as np

    if request.get("identity"):
        from encoder.reader.identity import read_identity

        return {"ok": True, "identity": read_identity(source).to_dict()}, []
    memory = None if shared is None else np.frombuffer(shared, np.uint16)

    def allocate(shape: tuple[int, ...], dtype: type) -> Any:
        count = math.prod(shape)
        if memory is None or shared is None:
            return np.empty(shape, dtype)
        with contextlib.suppress(OSError):  # Linux before 5.14
            shared.madvise(MADV_POPULATE_WRITE, 0, 2 * count)  # one call instead of a page fault for each 4 KiB
        return memory[:count].reshape(shape)

    image = read_image(
        source,
        force=bool(request["force"]),
        frame=request["frame"],
        allocate=allocate,
        inverted=request["inverted"],
        aspect=request["aspect"],
    )
    header: dict[str, Any] = {"ok": True, "facts": image.facts.to_dict(), "warnings": list(image.warnings)}
    if request["recipe"] is not None:
        from encoder.preprocessing import Recipe

        recipe = Recipe.from_dict(request["recipe"])
        prepare = recipe.apply if request["crop"] else recipe.resize
        prepared = prepare(image.pixels, image.valid, from_dicom=image.facts.format == "dicom")
        return header | {"shape": prepared.shape}, [prepared]
    windows: list[dict[str, Any]] = []
    arrays: list[Any] = [] if image.valid is None else [image.valid]
    if memory is None:
        arrays.insert(0, image.pixels)
    elif not np.may_share_memory(image.pixels, memory):  # a copy, made by turning or resampling
        memory[: image.pixels.size] = image.pixels.ravel()
    for window in image.windows:
        windows.append(
            {
                "function": window.function,
                "center": window.center,
                "width": window.width,
                "label": window.label,
                "first": window.first,
                "maximum": window.maximum,
                "entries": 0 if window.lut is None else len(window.lut),
            }
        )
        if window.lut is not None:
            arrays.append(window.lut)
    header |= {"shape": image.pixels.shape, "valid": image.valid is not None, "windows": windows}
    header |= {"scale": image.scale, "offset": image.offset, "monochrome1": image.monochrome1}
    header["spacing"] = image.spacing
    return header, arrays


def read_image(
    source: mmap.mmap | bytes,
    *,
    force: bool = False,
    frame: int | None = None,
    allocate: Any = None,
    inverted: bool = False,
    aspect: float | None = None,
) -> Radiograph:
    """Read an image file of any supported format in this process.

    Use :class:`encoder.reader.sandbox.Reader` instead for untrusted files: decoders may raise anything or crash.

    Args:
        source: the whole file.
        force: override refusals of the content.
        frame: number of the frame from 1.
        allocate: see :func:`encoder.reader.dicom.read_dicom`.
        inverted: see :meth:`encoder.reader.sandbox.Reader.read`.
        aspect: see there.

    Raises:
        ReadError: if the file is refused; ``reason`` tells why.
    """
    from encoder.reader import information

    image = _decode(source, force, frame, allocate, inverted)
    if aspect is not None:
        image = _stretched(image, aspect)
    return replace(image, warnings=(*information.check(image.pixels, force=force), *image.warnings))


def _stretched(image: Radiograph, aspect: float) -> Radiograph:
    """Undo the squashing of a picture file to another ratio of width to height; 1 % is left as it is."""
    from encoder.reader import geometry

    if image.facts.format == "dicom":
        raise ReadError("unsupported", "the manifest states an aspect of the file, but only picture files may have one")
    height, width = image.pixels.shape
    ratio = width / height / aspect
    if abs(ratio - 1) <= geometry.SAME_ASPECT:
        return image
    pixels, valid = geometry.square(image.pixels, image.valid, ratio)
    return replace(image, pixels=pixels, valid=valid, facts=replace(image.facts, resampled=True))


def _decode(source: mmap.mmap | bytes, force: bool, frame: int | None, allocate: Any, inverted: bool) -> Radiograph:
    import numpy as np

    from encoder.reader.dicom import read_dicom
    from encoder.reader.header import looks_like_data_set
    from encoder.reader.raster import raster_format, read_raster

    head = bytes(source[:132])
    name = raster_format(head) if head[128:132] != b"DICM" else None
    if name is not None:
        return read_raster(source, name, frame=frame, inverted=inverted)
    if inverted:
        raise ReadError("unsupported", "the manifest says that the file is inverted, but only picture files may be")
    if head[128:132] == b"DICM":
        return read_dicom(source, force=force, frame=frame, allocate=allocate or np.empty)
    if looks_like_data_set(head):
        if force:
            return read_dicom(source, force=force, frame=frame, preamble=False)
        raise ReadError(
            "no_preamble", "a DICOM file without preamble", forcible=True, hint="--force overrides this refusal"
        )
    if head.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        raise ReadError("not_an_image", "the file is a compressed archive", hint="unpack it first")
    raise ReadError("not_an_image", "the file is not DICOM, PNG, JPEG, TIFF or WebP")


def _warm() -> None:
    """Import all modules that workers need, because they cannot open files, and disable warnings and logging."""
    import logging

    import imagecodecs
    import jpeg_ls  # noqa: F401
    import numpy as np
    import openjpeg  # noqa: F401
    import pydicom.charset
    import pydicom.config
    import pydicom.encaps
    import pydicom.sequence
    from PIL import Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    import encoder.preprocessing
    import encoder.reader.dicom
    import encoder.reader.identity
    import encoder.reader.information
    import encoder.reader.raster  # noqa: F401

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    for encoding in set(pydicom.charset.python_encoding.values()):
        b"a".decode(encoding, "ignore")
    Image.preinit()  # otherwise the first Image.open imports plugins, which opens files
    sample = np.zeros((64, 64), np.uint8)
    imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(sample))
    imagecodecs.jpeg2k_decode(imagecodecs.jpeg2k_encode(sample), numthreads=2)
    Image.fromarray(sample).save(stream := io.BytesIO(), "TIFF")
    imagecodecs.tiff_decode(stream.getvalue())
    imagecodecs.dicomrle_decode(struct.pack("<II", 1, 64) + bytes(56) + b"\x01ab", np.dtype("u1"))
    Image.fromarray(sample.astype(np.float32)).resize((32, 32), Image.Resampling.BICUBIC)


def _leave_network() -> None:
    """Enter an empty network namespace if the kernel permits it; workers cannot open sockets anyway."""
    import ctypes

    clone_newuser, clone_newnet = 0x10000000, 0x40000000
    libc = ctypes.CDLL(None)
    if hasattr(libc, "unshare"):
        libc.unshare(clone_newuser | clone_newnet)
