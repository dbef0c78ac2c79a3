import torch
from torch import nn
from torch.nn.functional import batch_norm

from reid.norms import SplitNorm, join_norms, split_norms


def a_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(5)))


def images(seed, n):
    """Return images [n, 3, 6, 6]; those of seed 1 have another mean and deviation."""
    noise = torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 3 * noise + 2 if seed == 1 else noise


def run(net, n_real, batch):
    for norm in net.modules():
        if isinstance(norm, SplitNorm):
            norm.n_real = n_real
    return net(batch)


def test_every_batch_norm_is_split_and_joined_again():
    net = a_net()
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert len(split_norms(net)) == 2
    assert not any(isinstance(part, nn.BatchNorm2d) for part in (net[1], net[2][1]))
    join_norms(net)
    assert net.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


def test_each_kind_is_normalised_by_its_own_images():
    real, synthetic = images(0, 6), images(1, 5)
    norm = split_norms(nn.Sequential(nn.BatchNorm2d(3)))[0]
    norm.n_real = 6
    out = norm(torch.cat([real, synthetic]))
    torch.testing.assert_close(out[:6], batch_norm(real, None, None, training=True))
    torch.testing.assert_close(out[6:], batch_norm(synthetic, None, None, training=True))


def test_the_test_knows_nothing_of_the_synthetic_images():
    """A net that saw both kinds tests as one that saw the real ones alone."""
    real, synthetic = images(0, 6), images(1, 5)
    both, alone = a_net(), a_net()
    split_norms(both)
    run(both, 6, torch.cat([real, synthetic]))
    alone(real)
    join_norms(both)
    assert both.state_dict().keys() == alone.state_dict().keys()
    for name, tensor in both.state_dict().items():
        torch.testing.assert_close(tensor, alone.state_dict()[name])
    torch.testing.assert_close(both.eval()(images(2, 4)), alone.eval()(images(2, 4)))


def test_a_few_images_of_a_kind_have_no_statistics_of_their_own():
    """A mean of one image says nothing, and a batch norm after pooling would refuse it."""
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    for n_real in (0, 1, 3, 6, 8, 9):
        norm = SplitNorm(nn.BatchNorm1d(4))
        norm.n_real = n_real
        torch.testing.assert_close(norm(features), batch_norm(features, None, None, training=True))
        assert norm.synthetic.num_batches_tracked == 0


def test_in_evaluation_there_is_one_norm():
    norm = SplitNorm(nn.BatchNorm2d(3))
    norm.n_real = 6
    norm(torch.cat([images(0, 6), images(1, 5)]))
    norm.eval()
    torch.testing.assert_close(norm(images(1, 11)), norm.real(images(1, 11)))


def test_what_is_fixed_stays_fixed_in_both():
    """BNNeck learns no shift."""
    neck = nn.BatchNorm1d(4)
    neck.bias.requires_grad_(False)
    norm = SplitNorm(neck)
    assert not norm.synthetic.bias.requires_grad
    assert norm.synthetic.weight.requires_grad
    assert norm.synthetic.weight is not norm.real.weight
