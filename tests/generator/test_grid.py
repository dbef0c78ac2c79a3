import torch

from generator.grid import join, split


def test_views_are_placed_row_by_row():
    views = torch.arange(4).view(1, 4, 1, 1, 1).expand(1, 4, 1, 2, 3)
    assert join(views)[0, 0].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2


def test_split_and_join_are_inverse():
    views = torch.randn(3, 4, 5, 6, 2)
    assert torch.equal(split(join(views)), views)
    joint = torch.randn(3, 5, 8, 4)
    assert torch.equal(join(split(joint)), joint)
