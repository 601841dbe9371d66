"""Flips and shifts of training images."""

import torch
from helpers.runs import resumed_and_uninterrupted, same_weights

from condgen.data import MNIST
from condgen.data.augmentation import Augmentation

IMAGES = torch.arange(4 * 3 * 5 * 6, dtype=torch.uint8).view(4, 3, 5, 6)


def test_flip_mirrors_half_of_the_images():
    numbers = torch.tensor([[0.1, 0, 0], [0.6, 0, 0], [0.4, 0, 0], [0.9, 0, 0]])
    found = Augmentation(horizontal_flip=True, max_shift=0)(IMAGES, numbers)
    assert torch.equal(found[[0, 2]], IMAGES[[0, 2]].flip(3))
    assert torch.equal(found[[1, 3]], IMAGES[[1, 3]])


def test_shift_moves_images_by_whole_pixels_and_repeats_the_border():
    numbers = torch.tensor([[0, 0.5, 0.5], [0, 0.99, 0.5], [0, 0.5, 0.0], [0, 0.0, 0.99]])
    found = Augmentation(horizontal_flip=False, max_shift=1)(IMAGES, numbers)
    assert torch.equal(found[0], IMAGES[0])
    assert torch.equal(found[1, :, :-1], IMAGES[1, :, 1:])
    assert torch.equal(found[1, :, -1], IMAGES[1, :, -1])
    assert torch.equal(found[2, :, :, 1:], IMAGES[2, :, :, :-1])
    assert torch.equal(found[3, :, 1:, :-1], IMAGES[3, :, :-1, 1:])


def test_shifts_are_uniform_over_all_places():
    numbers = torch.rand(9000, 3, generator=torch.Generator().manual_seed(0))
    point = torch.zeros(9000, 1, 5, 5, dtype=torch.uint8)
    point[:, :, 2, 2] = 1
    found = Augmentation(horizontal_flip=False, max_shift=1)(point, numbers).float().mean(0)[0]
    assert (found[1:4, 1:4] - 1 / 9).abs().max() < 0.02


def test_training_images_are_augmented_by_epoch_and_test_images_are_not():
    plain, augmented = MNIST(source="sample"), MNIST(source="sample", horizontal_flip=True, max_shift=2)
    for data in (plain, augmented):
        data.setup("fit")
    (x, _), (y, _) = next(iter(plain.train_dataloader())), next(iter(augmented.train_dataloader()))
    assert not torch.equal(x, y)
    loader = augmented.train_dataloader()
    first, again = next(iter(loader))[0], next(iter(augmented.train_dataloader()))[0]
    assert torch.equal(first, again)
    loader.sampler.set_epoch(1)
    assert not torch.equal(first, next(iter(loader))[0])
    assert torch.equal(next(iter(plain.val_dataloader()))[0], next(iter(augmented.val_dataloader()))[0])


def test_resume_mid_epoch_with_augmentation_matches_uninterrupted_run(fit_args, tmp_path):
    augmented = [*fit_args, "--data.max_shift", "2", "--data.horizontal_flip", "true"]
    assert same_weights(*resumed_and_uninterrupted(augmented, tmp_path))
