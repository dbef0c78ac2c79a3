"""Measure a trained pipeline on people it was never trained on."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from foundation.identity import nearest_is_right
from foundation.people import People
from foundation.settings import POSES, SOURCES, FoundationSettings
from foundation.vae import psnr, reconstruct
from generator.data import EncodedViews, encode_views
from generator.grid import VIEWS
from generator.identity import IdentityNetwork
from generator.pose import draw_skeleton
from generator.sample import IMAGPosePipeline, JointRequest, load_pipeline
from generator.settings import SampleSettings
from generator.weights import load_model
from reid.data import normalise
from reid.model import BoT
from reid.settings import ReidSettings
from reid.train import train

_ROWS = 12  # people on the contact sheet


def measure(
    folder: Path, people: People, settings: FoundationSettings, identity: Path | None = None
) -> tuple[dict[str, float], Image.Image]:
    """Generate images of people from one to three sources, and compare them with photos of these people.

    The judge is a re-ID model trained on half of the photos; sources and target poses come from the other
    half. Its top-1 is the share of generated images in which it names the right person. Two ceilings are
    measured with it: the photos that gave the target poses, as they are and after the VAE. SSIM compares a
    generated image with that photo, whose camera the generator does not know. Sharpness is in percent of the
    sharpness of these photos. An identity network is asked how often the nearest other photo, by its
    features, shows the same person.

    Args:
        folder: Folder of the saved pipeline.
        people: Photos of people the pipeline was not trained on, `LEAST_PHOTOS` of each or more.
        settings: Settings of the judge and of the sampling.
        identity: Folder of the identity network that the denoiser was trained with, if there was one.

    Returns:
        The scores by name, and the contact sheet.
    """
    imagpose = load_pipeline(folder)
    # A person's photos are in the order of their cameras, so each half has photos of all of them.
    is_for_judge = pd.Series(people.pids).groupby(people.pids).cumcount().to_numpy() % 2 == 0
    judge = train_judge(people[is_for_judge], settings.judge, settings.seed)
    people = people[~is_for_judge]
    size = settings.height, settings.width
    views = encode_views(
        people.images,
        people.keypoints,
        people.pids,
        imagpose.vae,
        imagpose.image_encoder,
        view_size=size,
        token_size=size,
        flip=False,
        batch_size=64,
    )

    # Sources [persons, SOURCES] and targets [persons, T] are indices of photos.
    sources, targets = choose_photos(people.pids)
    photos = people[targets.ravel()]
    reconstructions = reconstruct(imagpose.vae, photos.images)
    scores = {
        "vae_psnr": psnr(imagpose.vae, people.images),
        "judge_top1_photos": top1(judge, photos.images, photos.pids),
        "judge_top1_vae": top1(judge, reconstructions, photos.pids),
        "sharpness_vae": 100 * sharpness(reconstructions) / sharpness(photos.images),
    }
    if identity:
        network = load_model(IdentityNetwork, identity)
        scores["identity_rank1"] = nearest_is_right(network, views.latent_mean[:, 0], people.pids)
    images = {}
    for count in range(1, SOURCES + 1):
        start = time.monotonic()
        images[count] = generate(imagpose, views, people, sources[:, :count], targets, settings.sample)
        seconds = time.monotonic() - start
        suffix = f"{count}_source{'s' if count > 1 else ''}"
        scores |= {
            f"judge_top1_{suffix}": top1(judge, images[count], photos.pids),
            f"ssim_{suffix}": mean_ssim(images[count], photos.images),
            f"sharpness_{suffix}": 100 * sharpness(images[count]) / sharpness(photos.images),
            f"seconds_per_image_{suffix}": seconds / len(photos.pids),
        }
    return scores, contact_sheet(people, sources, targets, images[1], images[SOURCES])


def train_judge(people: People, settings: ReidSettings, seed: int) -> BoT:
    """Train the re-ID model that names people."""
    no_synthetic = np.zeros(len(people.pids), bool)
    return train(people.images, people.pids, no_synthetic, settings, seed, title="judge")


def choose_photos(pids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose sources and targets, spread evenly over each person's photos and so over their cameras.

    Args:
        pids: Identities of the photos, [N]; those of one person follow each other, more than SOURCES each.

    Returns:
        Indices of the source photos [persons, SOURCES] and of the target photos [persons, T]. T is POSES, or
        what the person with the fewest photos has beside the sources.
    """
    _, first, each = np.unique(pids, return_index=True, return_counts=True)
    chosen = min(SOURCES + POSES, each.min())
    # [persons, chosen], of which the first, the middle and the last are sources
    photos = first[:, None] + np.linspace(0, each - 1, chosen, axis=1).astype(int)
    is_source = np.isin(np.arange(chosen), (0, chosen // 2, chosen - 1))
    return photos[:, is_source], photos[:, ~is_source]


def generate(
    imagpose: IMAGPosePipeline,
    views: EncodedViews,
    people: People,
    sources: np.ndarray,
    targets: np.ndarray,
    settings: SampleSettings,
) -> np.ndarray:
    """Generate each person in the poses of the target photos.

    Args:
        imagpose: The pipeline.
        views: The encoded photos of `people`.
        people: The photos, for their keypoints.
        sources: Indices of the source photos, [persons, 1 to 3].
        targets: Indices of the target photos, [persons, T].
        settings: Settings of the sampler.

    Returns:
        Images uint8 [persons * T, H, W, 3], in the order of the targets.
    """
    # The slots that the sources leave free in a joint image are filled with target poses.
    poses = VIEWS - sources.shape[1]
    requests = [
        JointRequest(tuple(row), people.keypoints[group], tuple(group))
        for row, own in zip(sources, targets, strict=True)
        for group in np.split(own, range(poses, len(own), poses))
    ]
    return np.concatenate(list(imagpose.generate(views, requests, settings)))


@torch.inference_mode()
def top1(judge: BoT, images: np.ndarray, pids: np.ndarray) -> float:
    """Percent of the images, uint8 [N, H, W, 3], in which the judge names the right person."""
    names = [
        judge.classifier(judge(normalise(batch))[1]).argmax(1) for batch in torch.from_numpy(images).split(64)
    ]
    return 100 * float((torch.cat(names).numpy() == pids).mean())


def mean_ssim(images: np.ndarray, photos: np.ndarray) -> float:
    """Mean structural similarity of images and photos, both uint8 [N, H, W, 3]."""
    pairs = zip(images, photos, strict=True)
    return float(np.mean([structural_similarity(*pair, channel_axis=2) for pair in pairs]))


def sharpness(images: np.ndarray) -> float:
    """Mean absolute difference of pixels one above the other, in grey levels, of images [N, H, W, 3]."""
    return float(np.abs(np.diff(images.astype(np.int16), axis=1)).mean())


def contact_sheet(
    people: People, sources: np.ndarray, targets: np.ndarray, from_one: np.ndarray, from_all: np.ndarray
) -> Image.Image:
    """Draw the first people: three sources, target pose, image from one source, from three, photo.

    Args:
        people: The photos.
        sources: Indices of the source photos, [persons, SOURCES].
        targets: Indices of the target photos, [persons, T].
        from_one: Images from one source, uint8 [persons * T, H, W, 3].
        from_all: Images from all sources, in the same shape.
    """
    rows = []
    for person, (own_sources, target) in enumerate(zip(sources[:_ROWS], targets[:_ROWS, 0], strict=True)):
        skeleton = draw_skeleton(people.keypoints[target], *people.images.shape[1:3])
        image = person * targets.shape[1]  # the image of the person's first target
        cells = [
            *people.images[own_sources],
            skeleton,
            from_one[image],
            from_all[image],
            people.images[target],
        ]
        rows.append(np.concatenate(cells, axis=1))
    # Two people side by side.
    columns = [np.concatenate(rows[i::2]) for i in range(2)]
    return Image.fromarray(np.concatenate(columns, axis=1))
