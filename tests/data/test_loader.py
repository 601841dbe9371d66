"""The loader: shares of processes, shuffling, and resuming in the middle of an epoch."""

import pytest
import torch

from condgen.data.loader import ImageLoader, Images, ImageSampler
from condgen.data.requests import BlockSampler, SampleRequest
from condgen.errors import UsageError


def loader(size=50, batch_size=8, processes=1, rank=0, shuffle_seed=7, drop_last=True, workers=0):
    images = Images(torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(size))
    return ImageLoader(images, ImageSampler(size, batch_size, processes, rank, shuffle_seed, drop_last), workers)


def labels(batches):
    return [batch[1].tolist() for batch in batches]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("drop_last", [True, False])
def test_loader_divides_global_batches_among_processes(processes, drop_last):
    one_process = labels(loader(drop_last=drop_last))
    by_rank = [labels(loader(processes=processes, rank=rank, drop_last=drop_last)) for rank in range(processes)]
    for number, batch in enumerate(one_process):
        assert [batches[number] for batches in by_rank if number < len(batches)] == [
            batch[rank::processes] for rank in range(processes) if batch[rank::processes]
        ]


def test_loader_without_drop_last_yields_every_image_once():
    all_labels = [
        label
        for rank in range(2)
        for batch in labels(loader(processes=2, rank=rank, drop_last=False))
        for label in batch
    ]
    assert sorted(all_labels) == list(range(50))


def test_loader_shuffles_each_epoch_differently():
    images = loader()
    first_epoch = labels(images)
    images.sampler.set_epoch(1)
    assert first_epoch != labels(images)
    assert first_epoch == labels(loader())
    assert len(first_epoch) == len(images) == 6


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop_after", [1, 4])
def test_loader_resumes_mid_epoch_with_the_next_batch(workers, stop_after):
    interrupted = loader(workers=workers)
    interrupted.sampler.set_epoch(3)
    whole_epoch = labels(interrupted)
    iterator = iter(interrupted)
    for _ in range(stop_after):
        next(iterator)
    resumed = loader(workers=workers)
    resumed.load_state_dict(interrupted.state_dict())
    resumed.sampler.set_epoch(3)
    assert labels(resumed) == whole_epoch[stop_after:]
    resumed.sampler.set_epoch(4)
    assert len(labels(resumed)) == 6


def test_loader_resumed_after_the_last_batch_starts_the_next_epoch():
    finished = loader()
    finished.sampler.set_epoch(2)
    list(finished)
    resumed = loader()
    resumed.load_state_dict(finished.state_dict())
    assert (resumed.sampler.epoch, resumed.sampler.start) == (3, 0)


def test_loader_refuses_to_resume_mid_epoch_with_another_batch_size():
    interrupted = loader()
    next(iter(interrupted))
    with pytest.raises(UsageError, match=r"--data\.batch_size 8"):
        loader(batch_size=16).load_state_dict(interrupted.state_dict())


@pytest.mark.parametrize("block_size", [1, 7, 64])
@pytest.mark.parametrize("first_index", [0, 5, 29])
def test_sample_request_blocks_of_all_processes_cover_the_request(block_size, first_index):
    request = SampleRequest([3, 1, 4], 10, first_index, seed=0, block_size=block_size)
    label_of = {}
    for rank in range(3):
        for block in BlockSampler(len(request), 3, rank):
            sample = request[block]
            assert len(sample.labels) == len(sample.indices) == block_size
            assert sample.indices[0] % block_size == 0
            label_of |= dict(zip(sample.indices.tolist(), sample.labels.tolist(), strict=True))
    assert [label_of[index] for index in range(first_index, 30)] == ([3] * 10 + [1] * 10 + [4] * 10)[first_index:]
