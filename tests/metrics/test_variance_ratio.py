import torch

from condgen.metrics.variance_ratio import VarianceRatio


def test_variance_ratio_is_generated_over_real_variance_within_labels():
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    real, generated = torch.rand(300, 1, 4, 4), 0.45 + torch.rand(300, 1, 4, 4) * 0.1
    ratio = VarianceRatio(torch.full((3, 1, 4, 4), 0.5))
    for rows in torch.arange(300).split(77):
        ratio.update(generated[rows], real[rows], labels[rows])

    def within(images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images[labels == k].double().var(0, correction=0).sum() for k in range(3)]).mean()

    assert torch.isclose(ratio.compute().double(), within(generated) / within(real), rtol=1e-5)


def test_variance_ratio_is_0_if_all_images_of_a_label_are_equal():
    labels = torch.arange(20) % 2
    ratio = VarianceRatio(torch.zeros(2, 1, 2, 2))
    ratio.update(labels.float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2) * 0.25, torch.rand(20, 1, 2, 2), labels)
    assert ratio.compute() == 0
