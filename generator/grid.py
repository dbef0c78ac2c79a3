"""The joint image: four views of one person in a 2 x 2 grid, views numbered row by row (0 1 over 2 3)."""

from torch import Tensor

VIEWS = 4


def join(views: Tensor) -> Tensor:
    """Lay out views [B, 4, C, h, w] (pixels, latents or features) as joint images [B, C, 2h, 2w]."""
    batch, _, channels, height, width = views.shape
    # [B, row, column, C, h, w] -> [B, C, row, h, column, w]
    grid = views.reshape(batch, 2, 2, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(batch, channels, 2 * height, 2 * width)


def split(joint: Tensor) -> Tensor:
    """Cut joint images [B, C, 2h, 2w] into views [B, 4, C, h, w]; the inverse of `join`."""
    batch, channels, height, width = joint.shape
    # [B, C, row, h, column, w] -> [B, row, column, C, h, w]
    grid = joint.reshape(batch, channels, 2, height // 2, 2, width // 2).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(batch, VIEWS, channels, height // 2, width // 2)
