"""How close generated images come to photographs: SSIM, LPIPS, and Frechet distances between sets of images.

Images are uint8 [N, H, W, 3] in RGB everywhere; each metric brings them into its own range. The networks of
LPIPS and FID are read from local files.
"""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d
from torchvision.models import inception as tv
from torchvision.models.inception import Inception3

from generator.encoders import ImageEncoder, encode_tokens, to_float
from generator.weights import read_state_dict

Images = NDArray[np.uint8]

_INCEPTION_SIZE = 299  # pixels of a side
_CLASSES = {1008: "pytorch-fid", 1000: "torchvision"}  # rows of the classifier -> where the file comes from


def ssim(images: Images, photos: Images) -> NDArray[np.float64]:
    """Return the structural similarity of each pair (Wang et al. 2004): [N], 1 for equal images.

    As in the article: Gaussian window of sigma 1.5 in 11 x 11 pixels, population covariance, range 255;
    the mean over R, G and B. The public evaluation of PCDMs, by IMAGPose's authors, differs: its sigma is
    1.2, and its range is the range of each generated image.
    """
    return np.array(
        [
            structural_similarity(
                image,
                photo,
                channel_axis=2,
                data_range=255,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for image, photo in zip(images, photos, strict=True)
        ]
    )


def load_lpips(backbone: Literal["alex", "vgg"], file: Path) -> nn.Module:
    """Load LPIPS 0.1 (Zhang et al. 2018): the package's linear heads on a local backbone.

    Args:
        backbone: AlexNet or VGG-16.
        file: Torchvision's file of that network; its `features` are used.

    Raises:
        ModuleNotFoundError: The package lpips is not installed.
        ValueError: The file holds no such network.
    """
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips builds torchvision's network by an old argument
        model = lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False)
    weights = read_state_dict(file)
    # lpips cuts torchvision's `features` into slices and keeps the numbers of the layers.
    keys = {name: f"features.{name.split('.', 1)[1]}" for name in model.net.state_dict()}
    _load(model.net, {name: weights.get(key) for name, key in keys.items()}, file, f"{backbone} network")
    return model.eval().requires_grad_(False)


@torch.no_grad()
def lpips_distances(model: nn.Module, images: Images, photos: Images, batch_size: int) -> NDArray[np.float64]:
    """Return LPIPS of each pair: [N], 0 for equal images. The network gets values in [-1, 1]."""
    device = next(model.parameters()).device
    pairs = zip(_batches(images, batch_size, device), _batches(photos, batch_size, device), strict=True)
    return torch.cat([model(a, b).flatten().cpu() for a, b in pairs]).double().numpy()


def load_inception(file: Path) -> tuple[Inception3, str]:
    """Load Inception v3 up to its 2048 features after pooling, and tell where its weights come from.

    pytorch-fid's file (pt_inception-2015-12-05-...pth) holds the weights with which FID was defined (Heusel
    et al. 2017), of a network that pools a little differently; published FIDs are comparable with it alone.
    torchvision's file (inception_v3_google-...pth) gives another distance, which some papers report.

    Raises:
        ValueError: The file holds neither.
    """
    weights = read_state_dict(file)
    source = _CLASSES.get(len(weights.get("fc.bias", ())))
    if source is None:
        raise ValueError(f"{file} holds no Inception v3 of pytorch-fid (1008 classes) or torchvision (1000)")
    if source == "pytorch-fid":
        # Where it pools differently: three kinds of blocks leave the padding out of their means, and the
        # very last block takes maxima.
        blocks: list[Callable[..., nn.Module]] = [
            tv.BasicConv2d,
            _with_pool(tv.InceptionA, _mean_inside),
            tv.InceptionB,
            _with_pool(tv.InceptionC, _mean_inside),
            tv.InceptionD,
            _with_pool(tv.InceptionE, _mean_inside),
            tv.InceptionAux,
        ]
        model = Inception3(1008, aux_logits=False, inception_blocks=blocks, init_weights=False)
        model.Mixed_7c = _with_pool(tv.InceptionE, _largest)(2048)
    else:
        model = Inception3(1000, aux_logits=True, init_weights=False)
    _load(model, weights, file, "Inception v3")
    model.fc = nn.Identity()
    return model.eval().requires_grad_(False), source


def _mean_inside(x: Tensor) -> Tensor:
    """Average over 3 x 3 pixels without those of the padding."""
    return avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    """Take the maximum of 3 x 3 pixels."""
    return max_pool2d(x, kernel_size=3, stride=1, padding=1)


def _with_pool(block: type[nn.Module], pool: Callable[[Tensor], Tensor]) -> type[nn.Module]:
    """Make a block of torchvision with another pooling in its last branch."""

    class Pooled(block):  # type: ignore[valid-type, misc]
        def _forward(self, x: Tensor) -> list[Tensor]:
            return [*super()._forward(x)[:-1], self.branch_pool(pool(x))]

    return Pooled


@torch.no_grad()
def inception_features(model: Inception3, images: Images, batch_size: int) -> NDArray[np.float64]:
    """Return features [N, 2048] for FID: images are stretched to 299 x 299, as in pytorch-fid."""
    device = next(model.parameters()).device
    size = (_INCEPTION_SIZE, _INCEPTION_SIZE)
    batches = (
        interpolate(batch, size=size, mode="bilinear", align_corners=False)
        for batch in _batches(images, batch_size, device)
    )
    return torch.cat([model(batch).cpu() for batch in batches]).double().numpy()


def encoder_features(
    encoder: ImageEncoder, images: Images, token_size: tuple[int, int], batch_size: int
) -> NDArray[np.float64]:
    """Return the class tokens [N, width] of the generator's own image encoder, scaled to length 1."""
    batches = _batches(images, batch_size, encoder.device)
    tokens = torch.cat([encode_tokens(encoder, batch, token_size)[:, 0].cpu() for batch in batches])
    return nn.functional.normalize(tokens.double()).numpy()


def frechet_distance(features: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the squared Frechet distance between Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) with unbiased covariances (Heusel et al. 2017, Eq. 6). With
    C1 = A'A and C2 = B'B the trace of the root is the sum of the singular values of AB', which needs no root
    of a product that may be singular.

    Args:
        features: Features of one set, [N, D].
        others: Features of the other set, [M, D].

    Raises:
        ValueError: A set has fewer than two rows, which have no covariance.
    """
    if min(len(features), len(others)) < 2:
        raise ValueError("A Frechet distance needs at least two images on each side.")
    means, factors = zip(*(_gaussian(part) for part in (features, others)), strict=True)
    # The three traces: tr((C1 C2)^(1/2)) from AB' [N, M], and tr(C1) + tr(C2) as squares of A and B
    root = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    spread = sum(np.square(factor).sum() for factor in factors)
    return float(max(np.square(means[0] - means[1]).sum() + spread - 2 * root, 0))


def _gaussian(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean [D] of features [N, D], and a factor A [min(N, D), D] of their covariance A'A."""
    mean = features.mean(0)
    centred = (features - mean) / np.sqrt(len(features) - 1)
    return mean, cast(NDArray[np.float64], np.linalg.qr(centred, mode="r"))


def _batches(images: Images, size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield batches of images as floats [B, 3, H, W] in [-1, 1]."""
    for start in range(0, len(images), size):
        yield to_float(torch.from_numpy(images[start : start + size])).to(device)


def _load(model: nn.Module, weights: dict[str, Any], file: Path, what: str) -> None:
    """Give a network its weights; `what` names the network where the file holds another one."""
    try:
        model.load_state_dict(weights)
    except (RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{file} does not hold torchvision's {what} ({reason})") from None
