"""The films that show how samples emerge from noise (``condgen predict --predictions.trajectory true``)."""

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from condgen.cli.main import main
from condgen.data.requests import SampleRequest
from condgen.generators import GAN, VAE, ConditionalGenerator, Diffusion
from condgen.nn.paths import RectifiedFlow, VariancePreserving
from condgen.sampling.trajectory import filmed_samples

SHAPE = {"num_classes": 3, "image_shape": (3, 16, 16)}
LABELS = torch.tensor([0, 2])


def film_of(generator: ConditionalGenerator, frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the film, the generated images and the noise of two samples."""
    noise = generator.eval().sample_noise(0, range(2))
    with torch.no_grad():
        return generator.trajectory(LABELS, noise, frames), generator.generate(LABELS, noise), noise


@pytest.mark.parametrize("solver", ["multistep", "heun", "euler"])
def test_diffusion_film_goes_from_the_noise_to_the_generated_images(solver):
    film, images, noise = film_of(Diffusion(**SHAPE, solver=solver, sampling_steps=6), frames=61)
    assert film.shape == (7, 2, 2, 3, 16, 16)
    assert_close(film[0, 0], (noise / 2 + 0.5).clamp(0, 1))
    assert_close(film[-1, 0], images)
    assert_close(film[-1, 1], images)


def test_diffusion_film_has_no_more_frames_than_requested():
    film, images, _ = film_of(Diffusion(**SHAPE, sampling_steps=50), frames=11)
    assert len(film) == 11
    assert_close(film[-1, 0], images)


def test_ddpm_film_ends_with_the_generated_images():
    film, images, _ = film_of(Diffusion(**SHAPE, objective="noise", sampling_steps=8), frames=61)
    assert len(film) == 9
    assert_close(film[-1, 0], images)


@pytest.mark.parametrize("family", [GAN, VAE])
def test_one_step_film_interpolates_the_noise_from_its_center_to_the_sample(family):
    generator = family(**SHAPE)
    film, images, noise = film_of(generator, frames=5)
    assert film.shape == (5, 1, 2, 3, 16, 16)
    assert_close(film[-1, 0], images)
    center = torch.full_like(noise, 0.5 if family is GAN else 0)
    with torch.no_grad():
        assert_close(film[0, 0], generator.generate(LABELS, center))
        assert_close(film[2, 0], generator.generate(LABELS, (center + noise) / 2))


@pytest.mark.parametrize("path", [RectifiedFlow(), VariancePreserving()])
def test_path_recovers_the_image_from_a_perfect_prediction(path):
    x, noise = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in (0.1, 0.5, 0.9):
        x_t = path.add_noise(x, noise, torch.full((4,), t))
        assert_close(path.image(x_t, path.target(x, noise), t), x, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("labels", "each", "expected"),
    [
        ([3], 5, [0, 1, 2, 3, 4]),
        ([3, 1, 4], 5, [0, 1, 2, 3, 5, 6, 7, 10, 11, 12]),
        (list(range(26)), 2, list(range(0, 20, 2))),
    ],
)
def test_film_shows_up_to_ten_samples_of_as_many_labels_as_possible(labels, each, expected):
    assert filmed_samples(SampleRequest(labels, each, 0, 0, 64)) == expected


def test_predict_writes_the_film_beside_the_samples(trained, tmp_path):
    folder = tmp_path / "film"
    options = ["--data.labels", "[3,1]", "--data.samples_per_label", "2", "--predictions.dirpath", str(folder)]
    arguments = ["predict", "--trainer.default_root_dir", str(trained), *options, "--predictions.trajectory", "true"]
    assert main(arguments) == 0
    with Image.open(folder / "trajectory.png") as picture, Image.open(folder / "trajectory.gif") as film:
        assert picture.size == (2 + 7 * 30, 2 + 4 * 30)
        assert film.size == (2 + 4 * 30, 2 + 30)
        assert film.n_frames > 1
    assert main([*arguments, "--predictions.overwrite", "true"]) == 0
