"""Each metric equals a slow or official version of itself, and gets its images in the range it wants."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate
from torchvision.models import alexnet, vgg
from torchvision.models.inception import Inception3

from generator import metrics
from tests.generator import tiny


def images(count: int, seed: int, height: int = 64, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def test_ssim_is_that_of_the_article() -> None:
    """Equation 13 of Wang et al. 2004, with its constants, inside the border of the window."""
    a, b = images(1, 0)[0].astype(float), images(1, 1)[0].astype(float)

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (1.5, 1.5, 0), truncate=3.5)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    map_ = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    values = metrics.ssim(images(1, 0), images(1, 1))
    assert values == pytest.approx([map_[5:-5, 5:-5].mean()], abs=1e-9)
    assert metrics.ssim(images(2, 0), images(2, 0)) == pytest.approx([1, 1])


def save_backbone(backbone: str, file: Path) -> None:
    """Random weights in torchvision's format; `classifier`, which LPIPS has no use for, is left out."""
    torch.manual_seed(0)
    features = alexnet().features if backbone == "alex" else vgg.make_layers(vgg.cfgs["D"])
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, file)


def test_lpips_is_the_librarys_on_values_from_minus_1_to_1(tmp_path: Path) -> None:
    lpips = pytest.importorskip("lpips")
    save_backbone("alex", tmp_path / "backbone.pth")
    model = metrics.load_lpips("alex", tmp_path / "backbone.pth")
    values = metrics.lpips_distances(model, images(3, 0), images(3, 1), batch_size=2)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        official = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    weights = torch.load(tmp_path / "backbone.pth", weights_only=True)
    for name, parameter in official.net.named_parameters():
        parameter.data.copy_(weights["features." + ".".join(name.split(".")[1:])])
    zero_to_one = [torch.from_numpy(images(3, seed)).permute(0, 3, 1, 2) / 255 for seed in (0, 1)]
    with torch.no_grad():
        expected = official(*zero_to_one, normalize=True).flatten()  # `normalize` takes [0, 1] to [-1, 1]
        wrong = official(*zero_to_one).flatten()
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert (values > 0).all() and not np.allclose(values, wrong, rtol=0.05)
    assert metrics.lpips_distances(model, images(1, 0), images(1, 0), 1) == pytest.approx([0])


@pytest.mark.slow
def test_lpips_takes_every_layer_of_a_vgg_file(tmp_path: Path) -> None:
    pytest.importorskip("lpips")
    save_backbone("vgg", tmp_path / "backbone.pth")
    model = metrics.load_lpips("vgg", tmp_path / "backbone.pth")
    saved = torch.load(tmp_path / "backbone.pth", weights_only=True)
    loaded = {f"features.{name.split('.', 1)[1]}": value for name, value in model.net.state_dict().items()}
    assert loaded.keys() == saved.keys() and all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_lpips_refuses_another_network(tmp_path: Path) -> None:
    pytest.importorskip("lpips")
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth does not hold torchvision's alex network"):
        metrics.load_lpips("alex", tmp_path / "a.pth")


def save_inception(classes: int, file: Path) -> Inception3:
    torch.manual_seed(0)
    model = Inception3(classes, aux_logits=classes == 1000, init_weights=False)
    torch.save(model.state_dict(), file)
    return model.eval()


@pytest.mark.slow
def test_torchvisions_inception_is_its_own_network_on_values_from_minus_1_to_1(tmp_path: Path) -> None:
    stock = save_inception(1000, tmp_path / "inception.pth")
    model, source = metrics.load_inception(tmp_path / "inception.pth")
    values = metrics.inception_features(model, images(2, 0), batch_size=1)
    stock.fc = torch.nn.Identity()
    pixels = torch.from_numpy(images(2, 0)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = stock(interpolate(pixels, (299, 299), mode="bilinear", align_corners=False))
    assert source == "torchvision" and values.shape == (2, 2048)
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_pytorch_fids_inception_does_not_pool_over_the_padding(tmp_path: Path) -> None:
    """What sets it apart from torchvision's: means count what is inside, the last block takes maxima."""
    save_inception(1008, tmp_path / "inception.pth")
    model, source = metrics.load_inception(tmp_path / "inception.pth")
    assert source == "pytorch-fid"
    constant = torch.rand(1, 192, 1, 1).expand(1, 192, 5, 5)
    with torch.no_grad():
        pooled = model.Mixed_5b(constant)[:, -32:]
        torch.testing.assert_close(pooled[..., :1, :1].expand_as(pooled), pooled)
        for name, blocks in (("mean", ["Mixed_5d", "Mixed_6e", "Mixed_7b"]), ("max", ["Mixed_7c"])):
            for block in (getattr(model, block) for block in blocks):
                x = torch.randn(1, block.branch_pool.conv.in_channels, 3, 3)
                corner = x[..., :2, :2].flatten(2)
                expected = corner.mean(2) if name == "mean" else corner.amax(2)
                channels = block.branch_pool.conv.out_channels
                pooled = block(x)[:, -channels:, 0, 0]
                torch.testing.assert_close(pooled, block.branch_pool(expected[..., None, None])[..., 0, 0])


def test_files_that_are_no_inception_are_named(tmp_path: Path) -> None:
    torch.save({"fc.bias": torch.zeros(10)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth holds no Inception v3 of pytorch-fid"):
        metrics.load_inception(tmp_path / "a.pth")
    torch.save({"fc.bias": torch.zeros(1008)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b\.pth does not hold torchvision's Inception v3"):
        metrics.load_inception(tmp_path / "b.pth")
    (tmp_path / "c.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"c\.pth is no file of tensors"):
        metrics.load_inception(tmp_path / "c.pth")
    torch.save([1], tmp_path / "d.pth")
    with pytest.raises(ValueError, match=r"d\.pth holds no tensors by their names"):
        metrics.load_inception(tmp_path / "d.pth")


@pytest.mark.parametrize(("count", "others"), [(200, 300), (5, 300), (4, 3)])
def test_frechet_distance_is_the_formulas(count: int, others: int) -> None:
    """Against the root of the product of the covariances, also where few images make them singular."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(count, 8)) @ rng.normal(size=(8, 8))
    b = rng.normal(1, 2, size=(others, 8))
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2 + 1e-14 * np.eye(8))
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c1 + c2 - 2 * root.real)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert metrics.frechet_distance(b, a) == pytest.approx(expected, rel=1e-4)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, a + 3) == pytest.approx(8 * 9)


def test_frechet_distance_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two images on each side"):
        metrics.frechet_distance(np.zeros((1, 4)), np.zeros((5, 4)))


def test_encoder_features_do_not_depend_on_the_batch() -> None:
    encoder = tiny.image_encoder()
    values = metrics.encoder_features(encoder, images(5, 0), tiny.TOKEN_SIZE, batch_size=2)
    whole = metrics.encoder_features(encoder, images(5, 0), tiny.TOKEN_SIZE, batch_size=5)
    np.testing.assert_allclose(values, whole, atol=1e-5)
    assert values.shape == (5, tiny.WIDTH)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1)
