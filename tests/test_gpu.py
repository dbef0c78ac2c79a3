"""The same code on a CUDA device as on a CPU; skipped where there is none."""

import re

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tqdm import tqdm

from generator.cost import peak_flops
from generator.data import EncodedViews, encode_views
from generator.train import train
from pipeline.runtime.checkpoints import Checkpoints
from reid.evaluate import features
from reid.settings import ReidSettings
from reid.train import train as train_bot
from tests.generator import tiny
from tests.generator.test_sample import PEOPLE, POSES, SETTINGS, pipeline, request
from tests.reid.conftest import SMALL

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def train_losses(folder, **changes):
    """Train the tiny denoiser on the GPU; returns the loss of each step."""
    settings = tiny.TRAIN.model_copy(update=changes)
    losses = []
    AcceleratorState._reset_state(True)  # accelerate has one precision per process
    train(
        tiny.denoiser(),
        tiny.views([1] * 5 + [2]),
        tiny.scheduler(),
        settings,
        1,
        Checkpoints(folder),
        log=lambda step, values: losses.append(values["loss"]),
    )
    return losses


def test_views_that_stay_off_the_gpu_train_as_those_on_it(tmp_path, monkeypatch):
    near = train_losses(tmp_path / "near")
    monkeypatch.setattr(EncodedViews, "near", lambda self, device: self)
    np.testing.assert_allclose(train_losses(tmp_path / "off"), near, rtol=1e-3)


@pytest.mark.parametrize(
    "changes", [{"mixed_precision": "bf16"}, {"mixed_precision": "fp16"}, {"compile": True}]
)
def test_a_denoiser_trains_in_every_precision_and_compiled(tmp_path, changes):
    exact, losses = train_losses(tmp_path / "exact"), train_losses(tmp_path / "other", **changes)
    np.testing.assert_allclose(losses[0], exact[0], rtol=0.05)  # fp16 skips steps while it finds its scale
    assert np.isfinite(losses).all()


def test_the_bar_shows_the_share_of_the_peak_where_it_is_known(tmp_path, monkeypatch, capsys):
    if peak_flops(torch.device("cuda")) is None:
        pytest.skip("the peak of this GPU is not known")
    at_once = {"delay": 0, "mininterval": 0}
    monkeypatch.setattr("generator.train.tqdm", lambda **options: tqdm(**options | at_once))
    train_losses(tmp_path)
    assert re.search(r"joint images/s, loss \d\.\d{4}, \d+% of peak", capsys.readouterr().err)


def test_images_are_those_of_a_cpu_but_for_rounding():
    outputs = []
    for device, views_on in (("cpu", "cpu"), ("cuda", "cpu"), ("cuda", "cuda")):
        imagpose = pipeline().to(device)
        views = encode_views(
            PEOPLE,
            POSES[:4],
            np.zeros(4, int),
            imagpose.vae,
            imagpose.image_encoder,
            view_size=tiny.VIEW_SIZE,
            token_size=tiny.TOKEN_SIZE,
            flip=False,
            batch_size=4,
        ).to(views_on)
        (images,) = imagpose.generate(views, [request(targets=3)], SETTINGS)
        outputs.append(images.astype(int))
    assert np.abs(outputs[0] - outputs[1]).mean() < 1
    assert np.abs(outputs[1] - outputs[2]).mean() < 0.01, "where the views lie makes no difference"


def test_a_re_id_model_learns_and_gives_features():
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(8), 6)
    images = (rng.uniform(0, 60, (48, 64, 32, 3)) + 24 * pids[:, None, None, None]).astype(np.uint8)
    settings = ReidSettings(**SMALL | {"iterations": 60})
    losses = []
    model = train_bot(
        images,
        pids,
        np.zeros(48, bool),
        settings,
        0,
        device="cuda",
        log=lambda iteration, values: losses.append(values["loss"]),
    )
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(np.linalg.norm(features(model, images, 16), axis=1), 1, rtol=1e-3)
