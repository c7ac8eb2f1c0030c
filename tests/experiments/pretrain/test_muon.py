"""Muon: the direction of a step is nearly orthogonal, whatever the scale and shape of the gradient."""

import pytest
import torch

from suite.pretrain.muon import Muon, orthogonalise

SHAPES = [(32, 32), (16, 64), (64, 16), (32, 128), (1, 8)]


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_singular_values(rows, columns, values, seed=0):
    u, _, vh = torch.linalg.svd(gaussian(rows, columns, seed=seed), full_matrices=False)
    return u, torch.as_tensor(values), vh


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_singular_values_are_near_one(shape, scale):
    # From 1 to 0.1 of the largest: what five steps of the quintic are tuned for.
    rank = min(shape)
    u, s, vh = with_singular_values(*shape, torch.linspace(1.0, 0.1, rank))
    found = torch.linalg.svdvals(orthogonalise(scale * (u * s) @ vh))
    assert found.min() > 0.6
    assert found.max() < 1.3


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_vectors_stay(shape):
    u, s, vh = with_singular_values(*shape, torch.linspace(1.0, 0.2, min(shape)))
    turned = u.T @ orthogonalise((u * s) @ vh) @ vh.T
    assert torch.allclose(turned, torch.diag(turned.diagonal()), atol=1e-3)
    assert (turned.diagonal() > 0.6).all()


def test_transposed_gradient_gives_transposed_direction():
    matrix = gaussian(12, 40)
    assert torch.allclose(orthogonalise(matrix.T), orthogonalise(matrix).T, atol=1e-6)


def test_a_gradient_of_zeros_moves_nothing():
    assert (orthogonalise(torch.zeros(4, 6)) == 0).all()


@pytest.mark.parametrize(("rows", "columns", "factor"), [(32, 32, 1.0), (16, 64, 2.0), (64, 16, 1.0)])
def test_size_of_a_step(rows, columns, factor):
    param = torch.nn.Parameter(gaussian(rows, columns))
    before = param.detach().clone()
    optimizer = Muon([param], lr=0.1, weight_decay=0.0)
    u, s, vh = with_singular_values(rows, columns, torch.linspace(1.0, 0.2, min(rows, columns)), seed=1)
    param.grad = (u * s) @ vh
    optimizer.step()
    step = torch.linalg.svdvals(before - param.detach())
    assert step.max() < 1.3 * 0.1 * factor
    assert step.min() > 0.6 * 0.1 * factor


def test_weight_decay_is_decoupled_and_missing_gradients_are_left_alone():
    shrunk, untouched = torch.nn.Parameter(gaussian(8, 8)), torch.nn.Parameter(gaussian(8, 8, seed=1))
    before = shrunk.detach().clone(), untouched.detach().clone()
    optimizer = Muon([shrunk, untouched], lr=0.1, weight_decay=0.5)
    shrunk.grad = torch.zeros(8, 8)
    optimizer.step()
    assert torch.allclose(shrunk, before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(untouched, before[1])


def test_momentum_remembers_the_last_gradient():
    first, second = gaussian(8, 8, seed=2), gaussian(8, 8, seed=3)

    def last_step(gradients, momentum):
        param = torch.nn.Parameter(torch.zeros(8, 8))
        optimizer = Muon([param], lr=1.0, momentum=momentum, weight_decay=0.0)
        for gradient in gradients:
            before = param.detach().clone()
            param.grad = gradient.clone()
            optimizer.step()
        return param.detach() - before

    assert torch.allclose(last_step([first, second], 0.0), last_step([second], 0.0), atol=1e-6)
    assert not torch.allclose(last_step([first, second], 0.95), last_step([second], 0.95), atol=1e-2)


def test_it_minimises():
    torch.manual_seed(0)
    target, inputs = gaussian(6, 6, seed=4), gaussian(64, 6, seed=5)
    weight = torch.nn.Parameter(torch.zeros(6, 6))
    optimizer = Muon([weight], lr=0.05, weight_decay=0.0)
    losses = []
    for _ in range(100):
        loss = (inputs @ weight - inputs @ target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.02 * losses[0]
