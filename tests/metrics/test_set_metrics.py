"""Set metrics compared with closed forms, scipy, torchmetrics and values computed by hand."""

import math
import resource

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.distributed as dist
from helpers.processes import free_port
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.fid import FrechetInceptionDistance

from condgen.metrics.classifier import Classifier, train
from condgen.metrics.distances import distances, mean_pairwise_distance, nearest
from condgen.metrics.diversity import Diversity
from condgen.metrics.frechet import FrechetDistance, LabelFrechetDistance, frechet_distance
from condgen.metrics.gan_train import GANTrainAccuracy
from condgen.metrics.kernel import KernelDistance
from condgen.metrics.novelty import Novelty
from condgen.metrics.prdc import PrecisionRecallDensityCoverage, prdc


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def filled(metric, samples, real, labels=None, real_labels=None):
    metric.update(samples, torch.zeros(len(samples), dtype=torch.long) if labels is None else labels, real=False)
    metric.update(real, torch.zeros(len(real), dtype=torch.long) if real_labels is None else real_labels, real=True)
    return metric


# Fréchet distance.


def test_frechet_distance_of_1d_gaussians_equals_the_closed_form():
    """The means are 1 and 7, the variances 2 and 8, so the distance is 36 + 2 + 8 - 2·√16."""
    assert frechet_distance(column(0, 2), column(5, 9)).item() == pytest.approx(38)


def test_frechet_distance_of_gaussians_with_known_covariance_equals_the_closed_form():
    """The distance of N(0, I) and N(m, s²I) in D dimensions is |m|² + D(s - 1)²."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(100_000, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    assert frechet_distance(a, 3 * b + 2).item() == pytest.approx(8 * 2**2 + 8 * 2**2, rel=0.02)


@pytest.mark.parametrize("rows", [5, 400], ids=["of lower rank", "of full rank"])
def test_frechet_distance_equals_scipy(rows):
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(rows, 12)), generator.normal(1, 2, size=(300, 12)) @ generator.normal(size=(12, 12))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_equals_torchmetrics():
    class Pixels(torch.nn.Module):
        num_features = 16
        forward = staticmethod(lambda images: images.flatten(1))

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(500, 1, 4, 4, generator=generator) ** power for power in (1, 2))
    reference = FrechetInceptionDistance(Pixels(), normalize=True)
    reference.update(a, real=False)
    reference.update(b, real=True)
    assert filled(FrechetDistance(), a, b).compute().item() == pytest.approx(reference.compute().item(), rel=1e-4)


def test_frechet_distance_is_defined_for_constant_images_and_nan_for_one_image():
    same = torch.rand(50, 3, dtype=torch.float64)
    assert frechet_distance(same, same).item() == pytest.approx(0, abs=1e-9)
    assert frechet_distance(torch.zeros(5, 3), torch.zeros(9, 3) + 2).item() == 12  # constant images
    assert math.isnan(frechet_distance(same[:1], same))  # one image has no covariance


def test_label_frechet_distance_detects_swapped_labels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    images = torch.randn(400, 3, generator=generator) + 5 * labels[:, None]
    swapped = filled(LabelFrechetDistance(), images, images, 1 - labels, labels)
    assert swapped.compute().tolist() == pytest.approx([75, 75], rel=0.1)
    assert filled(FrechetDistance(), images, images, 1 - labels, labels).compute() < 1e-6


# Precision, recall, density, coverage.


def test_prdc_equals_values_computed_by_hand():
    """Real points 0, 1, 3, 10 have the radii 1, 1, 2, 7 (k=1) and 3, 2, 3, 9 (k=2). Samples .5, 4, 100 have the radii
    3.5, 3.5, 96 (k=1).
    """
    precision, recall, density, coverage = prdc(column(0.5, 4, 100), column(0, 1, 3, 10), 1, 2).tolist()
    assert precision == pytest.approx(2 / 3)  # the sample 100 is at distance 90 from 10
    assert recall == 1  # 10 is at distance 90 from the outlier 100, which has a large ball
    assert density == pytest.approx((3 + 2 + 0) / (2 * 3))
    assert coverage == 1
    precision, recall, density, coverage = prdc(column(9, 9.5), column(0, 1, 3, 10), 1, 2).tolist()
    assert (precision, recall, density, coverage) == (1, 1 / 4, 2 / (2 * 2), 1 / 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 10_000))
def test_prdc_equals_its_definition(samples, real, seed):
    generator = np.random.default_rng(seed)
    s, r = generator.integers(0, 6, (samples, 2)).astype(float), generator.integers(0, 6, (real, 2)).astype(float)

    def distance(a, b):
        return math.sqrt(((a - b) ** 2).sum())

    def radius(points, i, k):
        return sorted(distance(points[i], p) for p in points)[min(k, len(points) - 1)]

    is_in_ball = [[distance(x, y) <= radius(r, i, 5) for y in s] for i, x in enumerate(r)]
    expected = [
        np.mean([any(distance(x, y) <= radius(r, i, 3) for i, x in enumerate(r)) for y in s]),
        np.mean([any(distance(x, y) <= radius(s, j, 3) for j, y in enumerate(s)) for x in r]),
        np.sum(is_in_ball) / (max(1, min(5, real - 1)) * samples),
        np.mean([any(row) for row in is_in_ball]),
    ]
    assert prdc(torch.tensor(s), torch.tensor(r)).tolist() == pytest.approx(expected)


def test_prdc_is_near_1_for_equal_distributions_and_0_for_distant_sets():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1000, 4, generator=generator) for _ in range(2))
    precision, recall, density, coverage = prdc(a, b).tolist()
    assert min(precision, recall) > 0.85
    assert density == pytest.approx(1, abs=0.1)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.02)
    assert prdc(a + 100, b).tolist() == [0, 0, 0, 0]
    one = a[:1].expand(1000, -1)  # one real image repeated: precise, but without coverage
    assert prdc(one, b).tolist()[1] == 0
    assert prdc(one, b).tolist()[3] < 0.05


def test_prdc_is_defined_for_constant_images_and_fewer_images_than_k():
    one = torch.rand(1, 128, generator=torch.Generator().manual_seed(0)).expand(1500, -1)
    assert prdc(one, one).tolist() == [1, 1, 1500 / 5, 1]
    assert all(math.isnan(value) for value in prdc(one[:0], one).tolist())
    assert prdc(torch.zeros(5, 2), torch.zeros(7, 2)).tolist() == [1, 1, 7 / 5, 1]
    assert prdc(column(1), column(1)).tolist() == [1, 1, 1, 1]
    assert prdc(column(2), column(1)).tolist() == [0, 0, 0, 0]
    # with fewer than k neighbors, the radius is the distance to the farthest one
    assert prdc(column(1, 2), column(1, 2, 3)).tolist() == [1, 1, 6 / 4, 1]


# Distances.


def test_distances_are_exact_for_whole_numbers():
    images = torch.randint(0, 256, (40, 784), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = distances(images, images)
    expected = (images[:, None].double() - images.double()).square().sum(2).sqrt()
    assert torch.equal(found, expected)


def test_nearest_and_mean_pairwise_distance_equal_values_computed_by_hand():
    smallest, rows = nearest(column(0, 4, 9), column(10, 1, 5))
    assert smallest.tolist() == [1, 1, 1]
    assert rows.tolist() == [1, 2, 0]
    assert mean_pairwise_distance(column(0, 1, 3)).item() == pytest.approx(2)
    assert math.isnan(mean_pairwise_distance(column(1)))


def test_block_size_does_not_change_set_metrics(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 3, generator=generator), torch.randn(40, 3, generator=generator)

    def all_metrics():
        return [*prdc(a, b).tolist(), mean_pairwise_distance(a).item(), *nearest(a, b)[0].tolist()]

    expected = all_metrics()
    for module in ("distances", "prdc"):
        monkeypatch.setattr(f"condgen.metrics.{module}.ROWS", 7)
    assert all_metrics() == pytest.approx(expected)


def check_memory_of_6000_images(rank: int) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(6000, 16), torch.randn(6000, 16)
    prdc(a[:1000], b[:1000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _ = prdc(a, b), mean_pairwise_distance(a), nearest(a, b)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 250e6, f"{grown / 1e6:.0f} MB"


def test_set_metrics_memory_is_not_quadratic_in_the_number_of_images():
    """6,000 × 6,000 distances in float64 need 288 MB. A new process is used because peak memory never decreases."""
    torch.multiprocessing.start_processes(check_memory_of_6000_images, nprocs=1, start_method="forkserver")


# Diversity, novelty, GAN-train.


def test_diversity_is_0_for_equal_images_and_1_for_real_images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    real, other = (torch.rand(200, 1, 4, 4, generator=generator) for _ in range(2))
    assert filled(Diversity(), other, real, labels, labels).compute().tolist() == pytest.approx([1, 1], rel=0.05)
    bytes_of_one = torch.full((200, 1, 4, 4), 77, dtype=torch.uint8)
    assert filled(Diversity(), bytes_of_one, real, labels, labels).compute().tolist() == [0, 0]
    half = filled(Diversity(), real * torch.where(labels == 1, 0.5, 1)[:, None, None, None], real, labels, labels)
    assert half.compute().tolist() == pytest.approx([1, 0.5])


def test_novelty_is_0_for_copies_and_1_for_new_real_images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    training, test, new = (torch.randn(400, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    assert filled(Novelty(training, labels), training, test, labels, labels).compute().max() < 1e-6
    assert filled(Novelty(training, labels), new, test, labels, labels).compute().tolist() == pytest.approx(
        [1, 1], abs=0.1
    )
    # novelty compares images of the same label only
    assert filled(Novelty(training, labels), training, test, 1 - labels, labels).compute().min() > 0.8


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_classifier_trains_for_any_number_of_epochs(epochs):
    images = torch.randint(0, 256, (80, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    classifier = Classifier((1, 8, 8), 2, [[4, 3, 2]], 8)
    before = classifier.head.weight.clone()
    train(classifier, images, torch.arange(80) % 2, epochs=epochs, seed=0, augment=True)  # five steps per epoch
    assert not torch.equal(classifier.head.weight, before)
    assert not classifier.training


def test_kernel_distance_separates_equal_and_different_distributions():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(600, 4, generator=generator) for _ in range(2))
    same, other = filled(KernelDistance(), a, b), filled(KernelDistance(), a + 1, b)
    assert abs(same.compute()) < 3 * same.uncertainty()
    assert other.compute() > 10 * other.uncertainty() > 0
    again = filled(KernelDistance(), a + 1, b)
    assert torch.equal(other.compute(), again.compute())  # because the random subsets are always the same


def test_gan_train_accuracy_depends_on_the_labels_of_the_samples(digits):
    images, labels = torch.from_numpy(digits[0])[:, None], torch.from_numpy(digits[1]).long()
    rows = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    train, test = rows[:600], rows[600:1600]
    accuracy = {}
    for name, sample_labels in (("correct", labels[train]), ("shifted", (labels[train] + 1) % 10)):
        metric = filled(GANTrainAccuracy(10, classifiers=2), images[train], images[test], sample_labels, labels[test])
        accuracy[name] = metric.compute().item()
        assert math.sqrt(accuracy[name] * (1 - accuracy[name]) / 1000) < metric.uncertainty().item() < 0.02
    assert accuracy["correct"] > 0.9
    assert accuracy["shifted"] < 0.05


# All set metrics.


def test_uncertainty_is_near_the_standard_deviation_over_independent_samples():
    """The standard deviation of a metric over 60 independent pairs of sets is compared with its mean uncertainty."""
    generator = torch.Generator().manual_seed(0)
    for kind in (FrechetDistance, PrecisionRecallDensityCoverage, Diversity):
        values, uncertainties = [], []
        for _ in range(60):
            a, b = (torch.randn(300, 3, generator=generator) for _ in range(2))
            metric = filled(kind(), a * 1.5, b)
            values.append(metric.compute().flatten())
            uncertainties.append(metric.uncertainty().flatten())
        ratio = torch.stack(uncertainties).mean(0) / torch.stack(values).std(0)
        assert ratio.min() > 0.6, kind
        assert ratio.max() < 1.7, kind


def check_metrics_over_two_processes(rank: int, port: str) -> None:
    """Runs in each of two processes: each gets half of the images, and the metrics equal those of all images."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    labels = torch.arange(120) % 3
    a, b, c = (torch.rand(120, 1, 4, 4) for _ in range(3))
    rows = slice(rank, 120, 2)
    for kind in (FrechetDistance, LabelFrechetDistance, PrecisionRecallDensityCoverage, Diversity, Novelty):
        training = (c, labels) if kind is Novelty else ()
        distributed, single = kind(*training), kind(*training, sync_on_compute=False)
        distributed.update(a[rows], labels[rows], real=False)
        distributed.update(b[rows], labels[rows], real=True)
        single.update(a, labels, real=False)
        single.update(b, labels, real=True)
        torch.testing.assert_close(distributed.compute(), single.compute(), rtol=1e-9, atol=0)
    dist.destroy_process_group()


def test_set_metrics_of_two_processes_equal_those_of_one():
    torch.multiprocessing.start_processes(
        check_metrics_over_two_processes, (free_port(),), nprocs=2, start_method="forkserver"
    )
