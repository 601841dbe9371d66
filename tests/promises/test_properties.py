"""Property-based tests of parsers, sample requests, noise and the resumable loader."""

from __future__ import annotations

import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from condgen.cli.options import Option, read_paths_and_options
from condgen.data.datasets import MNIST
from condgen.data.idx import read_idx
from condgen.data.loader import ImageLoader, Images, ImageSampler
from condgen.data.requests import BlockSampler, SampleRequest
from condgen.errors import UsageError
from condgen.noise import permutation, uniform
from condgen.sampling.prediction_files import PredictionFiles

SEEDS = st.integers(0, 2**64 - 1)


def idx_of(array: np.ndarray) -> bytes:
    """The content of an IDX file."""
    code, dtype = (0x08, "u1") if array.dtype == np.uint8 else (0x0C, ">i4")
    return (
        bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(dtype).tobytes()
    )


def read_bytes(content: bytes, suffix: str = "") -> torch.Tensor:
    """Read an IDX file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        return read_idx(path)


# IDX files.


@given(
    st.lists(st.integers(0, 5), max_size=4).flatmap(
        lambda shape: st.tuples(st.just(shape), st.sampled_from(["u1", "i4"]), st.integers(0, 2**32 - 1))
    ),
    st.sampled_from(["", ".gz"]),
)
def test_read_idx_returns_the_written_array(array_arguments, suffix):
    shape, kind, seed = array_arguments
    array = np.random.default_rng(seed).integers(0, 256, shape).astype(kind)
    content = idx_of(array)
    assert np.array_equal(read_bytes(gzip.compress(content) if suffix else content, suffix).numpy(), array)


@given(st.data(), st.sampled_from(["", ".gz"]))
def test_idx_file_truncated_at_any_byte_is_rejected_and_named(data, suffix):
    content = idx_of(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
    content = gzip.compress(content) if suffix else content
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(UsageError, match=f"file{suffix} "):
        read_bytes(content[:length], suffix)


@given(st.binary(max_size=300), st.sampled_from(["", ".gz"]))
@example(bytes([0, 0, 8, 255]) + bytes(4 * 255), "")
@example(bytes([0, 0, 8, 4]) + b"\xff" * 16, "")
@example(gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12), ".gz")
def test_idx_file_with_any_content_is_read_or_rejected_and_named(content, suffix):
    try:
        assert isinstance(read_bytes(content, suffix), torch.Tensor)
    except UsageError as error:
        assert f"file{suffix} " in str(error)  # noqa: PT017


def test_gzipped_idx_file_is_decompressed_no_further_than_its_header_says():
    """An attack would compress 10 GB of zeros to 10 MB. This test uses a thousandth of that."""
    bomb = gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 10) + bytes(10_000_000))
    with pytest.raises(UsageError, match="more bytes"):
        read_bytes(bomb, ".gz")


# Sample requests.

REQUESTS = st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 40)).flatmap(
    lambda r: st.tuples(st.just(r[0]), st.just(r[1]), st.integers(0, len(r[0]) * r[1] - 1), st.integers(1, 70))
)


@given(REQUESTS, st.integers(1, 5))
def test_blocks_of_all_processes_cover_the_request_exactly_once(request_arguments, processes):
    labels, per_label, first, block_size = request_arguments
    request = SampleRequest(labels, per_label, first, seed=3, block_size=block_size)
    found: dict[int, int] = {}
    for rank in range(processes):
        for block in BlockSampler(len(request), processes, rank):
            sample = request[block]
            inside = [i for i in sample.indices.tolist() if first <= i < request.end]
            assert not set(inside) & found.keys()
            found |= {i: int(sample.labels[row]) for row, i in enumerate(sample.indices.tolist()) if i in inside}
    expected = [label for label in labels for _ in range(per_label)]
    assert found == dict(enumerate(expected[first:], first))


@given(REQUESTS, st.integers(1, 30))
def test_npz_shards_cover_the_request_exactly_once(request_arguments, shard_size):
    labels, per_label, first, block_size = request_arguments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("condgen.sampling.prediction_files.SHARD_SIZE", shard_size)
        files = PredictionFiles(format="npz")
        files.request = SampleRequest(labels, per_label, first, 0, block_size)
        shards = files._shards()
        assert [index for shard in shards for index in shard] == list(range(first, files.request.end))
        assert all(len(shard) == shard_size for shard in shards[:-1])
        assert 0 < len(shards[-1]) <= shard_size
        names = [{files._file_of(index) for index in shard} for shard in shards]
        assert names == [{f"samples-{number:05d}-of-{len(shards):05d}.npz"} for number in range(len(shards))]


@given(st.lists(st.integers(-(2**70), 2**70), max_size=5), st.integers(-5, 10**12), st.integers(-5, 10**12))
def test_sample_request_is_valid_or_rejected_with_the_name_of_the_option(labels, per_label, first):
    try:
        data = MNIST(labels=labels, samples_per_label=per_label, first_index=first)
    except UsageError as error:
        assert str(error).startswith(("data.labels", "data.samples_per_label", "data.first_index"))  # noqa: PT017
    else:
        assert labels
        assert all(0 <= label <= 9 for label in labels)
        assert 0 <= first < len(labels) * per_label == data.request.end


# Noise, permutations and the loader.


@given(SEEDS, st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.integers(1, 20))
def test_noise_of_a_sample_depends_only_on_seed_and_index(seed, indices, size):
    batch = uniform(seed, indices, (size,))
    assert torch.equal(batch, torch.cat([uniform(seed, [index], (size,)) for index in indices]))
    assert batch.min() >= 0
    assert batch.max() < 1


@given(SEEDS, st.integers(0, 300), st.integers(0, 2**40))
def test_permutation_contains_every_index_once(seed, size, epoch):
    assert permutation(seed, size, epoch).sort().values.tolist() == list(range(size))


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 5), st.booleans(), SEEDS, st.data())
@settings(deadline=None)
def test_loader_resumes_at_any_batch_with_any_number_of_processes(
    size, rank_batch_size, processes, drop_last, seed, data
):
    def loaders() -> list[ImageLoader]:
        images = Images(torch.zeros(size, 1, 1, 1, dtype=torch.uint8), torch.arange(size))
        shuffled = (size, rank_batch_size * processes, processes)
        return [ImageLoader(images, ImageSampler(*shuffled, rank, seed, drop_last), 0) for rank in range(processes)]

    epoch_batches = [[labels.tolist() for _, labels in loader] for loader in loaders()]
    epoch_labels = sorted(label for batches in epoch_batches for batch in batches for label in batch)
    assert (
        len(set(epoch_labels))
        == len(epoch_labels)
        == (size // (rank_batch_size * processes) * rank_batch_size * processes if drop_last else size)
    )
    for before, after, batches in zip(loaders(), loaders(), epoch_batches, strict=True):
        stop = data.draw(st.integers(0, max(0, len(batches) - 1)))
        iterator = iter(before)
        for _ in range(stop):
            next(iterator)
        if stop:
            after.load_state_dict(before.state_dict())
            assert [labels.tolist() for _, labels in after] == batches[stop:]


# The command line.

NAMES = st.from_regex(r"[a-z][a-z_.]{0,15}", fullmatch=True).filter(lambda name: name != "print_config")
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
    lambda value: not value.startswith("--") and value != "-c"
)


@given(st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=6))
def test_options_are_parsed_with_and_without_an_equals_sign(given_options):
    words = [
        word
        for name, value, joined in given_options
        for word in ([f"--{name}={value}"] if joined else [f"--{name}", value])
    ]
    assert read_paths_and_options(words) == ([], [Option(name, value) for name, value, _ in given_options])
