"""The flow of coupling layers is invertible, and its density is exact."""

from __future__ import annotations

import pytest
import torch

from condgen.nn.coupling import AffineCoupling, FlowPrior, normal_log_prob


def test_affine_coupling_inverse_and_log_determinant_match_forward():
    torch.manual_seed(0)
    coupling = AffineCoupling(5, num_classes=3, hidden_dim=16).double()
    for weights in coupling.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    z, labels = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 2])
    transformed, log_determinant = coupling(z, labels)
    jacobian = torch.autograd.functional.jacobian(lambda z: coupling(z[None], labels[:1])[0][0], z[0])
    assert torch.allclose(coupling.inverse(transformed, labels), z, atol=1e-6)
    assert not torch.allclose(transformed, z, atol=0.1)
    assert torch.allclose(log_determinant[0].double(), torch.linalg.slogdet(jacobian).logabsdet)


@pytest.fixture
def prior() -> FlowPrior:
    torch.manual_seed(0)
    prior = FlowPrior(5, num_classes=3, steps=4, hidden_dim=16)
    for weights in prior.parameters():  # because they are initialized to the identity
        torch.nn.init.normal_(weights, std=0.3)
    return prior.double()


def test_flow_prior_log_prob_matches_the_change_of_variables(prior):
    """The Jacobian is computed by autograd."""
    labels, noise = torch.tensor([2]), torch.randn(1, 5, dtype=torch.float64)
    latent = prior.sample(noise, labels)
    jacobian = torch.autograd.functional.jacobian(lambda z: prior.sample(z[None], labels)[0], noise[0])
    expected = normal_log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet
    assert not torch.allclose(latent, noise, atol=0.1)
    assert torch.allclose(prior.log_prob(latent, labels), expected, rtol=1e-5, atol=1e-5)


def test_flow_prior_depends_on_the_label(prior):
    noise = torch.randn(1, 5, dtype=torch.float64)
    assert not torch.allclose(prior.sample(noise, torch.tensor([0])), prior.sample(noise, torch.tensor([1])))
