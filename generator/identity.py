"""A small network that tells people apart by their VAE latents, for a part of the loss.

The squared error of the latents hardly notices who a person is: a bag or the print of a shirt are few numbers
of many. Features of a network that was trained to tell people apart notice nothing else. It works on latents,
so that no image is decoded during the training. Portrait generators have the same loss with a face network on
images (Guo et al., PuLID, NeurIPS 2024).
"""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, cat, nn
from torch.nn.functional import normalize
from torchvision.models.resnet import BasicBlock


class IdentityNetwork(ModelMixin, ConfigMixin):
    """A ResNet of three blocks on the latent of a view, with BoT's BNNeck.

    The upper and the lower half of the body have features of their own, because clothes differ there.

    Args:
        latent_channels: C, channels of a latent.
        channels: Channels of the three blocks; the second one halves the resolution.
    """

    @register_to_config
    def __init__(self, latent_channels: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, third = channels
        self.body = nn.Sequential(
            nn.Conv2d(latent_channels, first, 3, padding=1),
            nn.ReLU(inplace=True),
            BasicBlock(first, first),
            BasicBlock(first, second, 2, _shortcut(first, second, 2)),
            BasicBlock(second, third, 1, _shortcut(second, third, 1)),
        )
        self.neck = nn.BatchNorm1d(self.width)
        self.neck.bias.requires_grad_(False)  # BNNeck has no bias

    @property
    def width(self) -> int:
        """Length of a feature."""
        return 2 * int(self.config.channels[-1])

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Map scaled latents [N, C, h, w] to features before and after the BNNeck, [N, width] each."""
        maps = self.body(latents)
        half = maps.shape[-2] // 2
        pooled = cat([part.mean(dim=(2, 3)) for part in (maps[..., :half, :], maps[..., half:, :])], dim=1)
        return pooled, self.neck(pooled)

    def features(self, latents: Tensor) -> Tensor:
        """Return features of length 1, [N, width], whose products say how alike two people are."""
        return normalize(self(latents)[1], dim=1)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Make the path around a block that changes the shape."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
