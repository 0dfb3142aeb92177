"""The stream of batches: what it is made of does not depend on processes, workers, accumulation or interruptions."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.utils.data import _utils, dataloader

from encoder.errors import ConfigError, LlavaRadError, ReadError
from encoder.pretraining.config import PretrainingConfig, load_config
from encoder.pretraining.data import Batch, Images, batches, images_per_process
from encoder.pretraining.randomness import Purpose, generator

IMAGES = 10

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Numbered:
    """Images of differing shapes, whose grey values tell which one they are."""

    def __len__(self) -> int:
        return IMAGES

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        return np.full((40 + i, 40), 20 * i, np.uint8) + np.random.default_rng(i).integers(
            0, 20, (40 + i, 40), np.uint8
        )


class Broken(Numbered):
    def image(self, i: int) -> npt.NDArray[np.uint8]:
        if i == 7:
            raise ReadError("truncated", "a shard of the pixel cache is damaged", hint="build it again")
        return super().image(i)


class Faulty(Numbered):
    def image(self, i: int) -> npt.NDArray[np.uint8]:
        raise OSError("a fault of the program")


class Empty(Numbered):
    def __len__(self) -> int:
        return 0


def configured(*overrides: str) -> PretrainingConfig:
    return load_config(
        "tiny",
        [
            "model.image_size=28",
            "data.workers=0",
            "crops.global_size=28",
            "crops.local_size=14",
            "crops.local_crops=2",
            "optimization.batch_size=4",
            *overrides,
        ],
    )


def first(
    count: int, config: PretrainingConfig, *, step: int = 0, rank: int = 0, world: int = 1, images: Images | None = None
) -> list[Batch]:
    stream = batches(images or Numbered(), config, step=step, rank=rank, world=world)
    taken = list(itertools.islice(stream, count))
    stream.close()  # type: ignore[attr-defined]
    return taken


def digests(taken: list[Batch]) -> list[str]:
    return [batch.digest() for batch in taken]


def joined(parts: list[Batch]) -> Batch:
    """Several processes' or turns' batches as one."""
    names = ("global_crops", "local_crops", "masks")
    tensors = {name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in names}
    return Batch(**tensors, positions=torch.cat([part.positions for part in parts]))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch asks every 5 seconds whether its workers live, and waits as long for each to end after an error."""
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


def test_shapes_and_types() -> None:
    (batch,) = first(1, configured())
    assert batch.global_crops.shape == (2, 4, 28, 28) and batch.global_crops.dtype == torch.uint8
    assert batch.local_crops.shape == (2, 4, 14, 14) and batch.local_crops.dtype == torch.uint8
    assert batch.masks.shape == (2, 4, 4) and batch.masks.dtype == torch.bool
    assert batch.positions.tolist() == [0, 1, 2, 3]
    assert batch.wait_s > 0
    (without,) = first(1, configured("crops.local_crops=0"))
    assert without.local_crops.shape == (0, 4, 14, 14) and without.digest() != batch.digest()


def test_the_seed_alone_decides_the_first_batch() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    one = digests(first(2, configured("seed=3")))
    torch.manual_seed(1)
    np.random.seed(1)
    assert digests(first(2, configured("seed=3"))) == one
    assert set(digests(first(2, configured("seed=4")))).isdisjoint(one) and one[0] != one[1]


@pytest.mark.parametrize("name", ["global_crops", "local_crops", "masks", "positions"])
def test_the_digest_sees_every_tensor(name: str) -> None:
    (batch,) = first(1, configured())
    before = batch.digest()
    assert batch.to("cpu").digest() == before
    tensor = getattr(batch, name)
    tensor.view(-1)[-1] = ~tensor.view(-1)[-1]
    assert batch.digest() != before


def test_the_stream_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first(2, configured())
    assert torch.equal(torch.get_rng_state(), before)


def grey_levels(batch: Batch) -> list[int]:
    """Return the images that a batch was cut from."""
    return (batch.global_crops[0].float().mean((1, 2)) // 20).int().tolist()


PLAIN = ("augmentation.jitter=0", "augmentation.solarize=0", "augmentation.blur=[0, 0, 0]")


@pytest.mark.parametrize("size", [4, 5, 25])
def test_each_pass_visits_every_image_once_in_an_order_of_its_own(size: int) -> None:
    """4 does not divide 10: batches reach over the ends of passes; 25 holds two and a half passes."""
    config = configured(f"optimization.batch_size={size}", *PLAIN)
    seen = [image for batch in first(100 // size, config) for image in grey_levels(batch)]
    orders = [tuple(seen[start : start + IMAGES]) for start in range(0, 100, IMAGES)]
    assert all(sorted(order) == list(range(IMAGES)) for order in orders)
    assert len(set(orders)) == len(orders) == 10
    assert orders[0] != tuple(range(IMAGES))


def test_each_visit_has_crops_of_its_own() -> None:
    crops = torch.cat([batch.global_crops[0] for batch in first(10, configured(*PLAIN))])
    assert len({crop.numpy().tobytes() for crop in crops}) == 40


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("step", [1, 3, 7])
def test_a_resumed_stream_is_the_unbroken_one(step: int, accumulation: int) -> None:
    config = configured(f"optimization.accumulation={accumulation}")
    whole = digests(first(10 * accumulation, config))
    assert digests(first((10 - step) * accumulation, config, step=step)) == whole[step * accumulation :]
    assert len(set(whole)) == len(whole)


@pytest.mark.parametrize(("world", "accumulation"), [(2, 1), (1, 2), (4, 1), (1, 4), (2, 2)])
def test_processes_and_accumulated_batches_are_together_one_batch(world: int, accumulation: int) -> None:
    """Masks included: which crops are masked, and by how much, is drawn for the whole step."""
    config = configured("crops.global_size=112", "model.image_size=112")
    divided = config.model_copy(
        update={"optimization": config.optimization.model_copy(update={"accumulation": accumulation})}
    )
    parts = [first(3 * accumulation, divided, rank=rank, world=world) for rank in range(world)]
    for step, whole in enumerate(first(3, config)):
        turns = range(step * accumulation, (step + 1) * accumulation)
        assert joined([parts[rank][turn] for turn in turns for rank in range(world)]).digest() == whole.digest()
        assert int(whole.masks.any(-1).sum()) == 4


def test_no_masks_without_the_masked_patch_loss() -> None:
    (batch,) = first(1, configured("loss.ibot=0", "optimization.batch_size=1"))
    assert not batch.masks.any()


def test_workers_change_nothing() -> None:
    """A resumed stream; a test of interrupts compares one from the start."""
    whole = digests(first(9, configured()))
    assert digests(first(4, configured("data.workers=3"), step=5)) == whole[5:]


def test_closing_the_stream_ends_its_workers() -> None:
    stream = batches(Numbered(), configured("data.workers=2"), step=0)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_an_error_of_one_line(workers: int) -> None:
    with pytest.raises(LlavaRadError, match=r"^a shard of the pixel cache is damaged$") as error:
        first(5, configured(f"data.workers={workers}"), images=Broken())
    assert error.value.hint == "build it again"
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_of_the_program_is_not_taken_for_a_lost_worker(impatient: None, workers: int) -> None:
    with pytest.raises(OSError, match="a fault of the program"):
        first(5, configured(f"data.workers={workers}"), images=Faulty())
    gc.collect()  # torch's error holds its workers


@pytest.fixture
def running(impatient: None) -> Iterator[Iterator[Batch]]:
    gc.collect()  # an error of an earlier test may hold workers
    assert not multiprocessing.active_children()
    stream = batches(Numbered(), configured("data.workers=2"), step=0)
    next(stream), next(stream)  # one of each worker
    yield stream
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("delay_s", [0.0, 0.05])
def test_a_killed_worker_is_an_error_not_a_hang(running: Iterator[Batch], delay_s: float) -> None:
    """The worker dies at work or while its batch is fetched."""
    time.sleep(delay_s)
    victim = multiprocessing.active_children()[0]
    os.kill(victim.pid or 0, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(LlavaRadError, match="a process that cuts crops ended unexpectedly") as error:
        for _ in range(200):
            next(running)
    assert time.monotonic() - started < 60
    assert error.value.hint is not None and "data.workers" in error.value.hint


def test_ctrl_c_leaves_the_workers_to_the_training(running: Iterator[Batch]) -> None:
    """The terminal sends SIGINT to all processes; the training wants to finish its step."""
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGINT)
    whole = digests(first(9, configured()))
    assert [next(running).digest() for _ in range(7)] == whole[2:]


def test_what_cannot_be_run_is_refused_before_the_first_batch() -> None:
    with pytest.raises(ConfigError, match="no images"):
        batches(Empty(), configured(), step=0)
    with pytest.raises(ConfigError, match="masks none of the 8 global crops"):
        batches(Numbered(), configured("masking.probability=0.1"), step=0)
    with pytest.raises(ConfigError, match="cannot be divided among 3 processes"):
        batches(Numbered(), configured(), step=0, world=3)


def test_images_per_process() -> None:
    config = configured("optimization.batch_size=48", "optimization.accumulation=3")
    assert [images_per_process(config, world) for world in (1, 2, 16)] == [16, 8, 1]
    with pytest.raises(ConfigError, match="3 accumulated") as error:
        images_per_process(config, 5)
    assert error.value.hint == "use a multiple of 15"


def test_generators_are_philoxs_stretches_of_2_to_the_128() -> None:
    """The key is the seed; position and purpose lie so far apart in its sequence as no run draws."""
    for position, purpose in itertools.product((0, 1, 5, 2**40), (Purpose.ORDER, Purpose.PATHS)):
        ahead = np.random.Philox(key=7)
        ahead.advance((int(purpose) << 192) + (position << 128))
        ours = generator(7, purpose, position)
        assert np.array_equal(ours.integers(2**63, size=8), np.random.Generator(ahead).integers(2**63, size=8))
    starts = Counter(
        int(generator(seed, purpose, position).integers(2**63))
        for seed, purpose, position in itertools.product((0, 1, 2**64), Purpose, range(50))
    )
    assert max(starts.values()) == 1
