"""``data.images_per_class``: groups of images with one label in each training batch."""

import pytest
import torch
from helpers.runs import refused, resumed_and_uninterrupted, same_weights

from condgen.cli.main import main
from condgen.data.loader import ImageSampler

LABELS = torch.randint(0, 50, (2000,), generator=torch.Generator().manual_seed(0))


def rows_of_epoch(epoch: int, processes: int = 1) -> list[list[int]]:
    """The rows of each global batch of 40 images, in groups of 8 images with one label."""
    samplers = [ImageSampler(2000, 40, processes, rank, 1, True, (LABELS, 8)) for rank in range(processes)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [[row for rows in zip(*parts, strict=True) for row in rows] for parts in zip(*samplers, strict=True)]


def test_batches_have_groups_of_images_with_one_label():
    batches = rows_of_epoch(0)
    rows = torch.tensor(batches)
    assert (LABELS[rows].view(-1, 5, 8) == LABELS[rows].view(-1, 5, 8)[:, :, :1]).all()
    assert len(rows.unique()) == rows.numel() > 1500
    assert len(batches) == len(ImageSampler(2000, 40, 1, 0, 1, True, (LABELS, 8)))


def test_groups_are_shuffled_in_each_epoch():
    first, second = torch.tensor(rows_of_epoch(0)), torch.tensor(rows_of_epoch(1))
    assert len(LABELS[first[:, ::8].flatten()[:20]].unique()) > 5
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.tensor(rows_of_epoch(0)))


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_shares_the_same_batches(processes):
    assert rows_of_epoch(3, processes) == rows_of_epoch(3)


def test_drifting_warns_about_labels_with_too_few_images(fit_args, tmp_path):
    common = [
        *fit_args,
        "--model",
        "Drifting",
        "--trainer.max_epochs",
        "1",
        "--trainer.default_root_dir",
        str(tmp_path),
    ]
    with pytest.warns(UserWarning, match="images_per_class"):
        assert main(common) == 0


def test_resume_mid_epoch_with_groups_matches_uninterrupted_run(fit_args, tmp_path):
    grouped = [*fit_args, "--data.images_per_class", "4"]
    assert same_weights(*resumed_and_uninterrupted(grouped, tmp_path))


def test_more_images_per_class_than_the_batch_has_are_refused(capsys):
    assert "images_per_class" in refused(["fit", "--data.batch_size", "8", "--data.images_per_class", "9"], capsys)
