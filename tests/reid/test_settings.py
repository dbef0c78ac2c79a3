import subprocess
import sys

import pytest
from pydantic import ValidationError


def test_published_settings_are_valid(bot):
    assert bot().milestones == (40, 70)


@pytest.mark.parametrize(
    "changes",
    [
        {"erasing_area": (0.4, 0.02)},
        {"erasing_area": (0.02, 1.0)},
        {"milestones": (70, 40)},
        {"milestones": (40, 40)},
        {"channels": 32},  # a ResNet-50 has 64
        {"backbone": "resnet10", "weights": "resnet50.pth"},
        {"images_per_identity": 1},  # no positive for the triplet
        {"frozen_epochs": 121},
        {"backbone": "osnet_x1_0"},  # without its library
        {"backbone": "timm:hf-hub:timm/resnet50"},  # would be downloaded
        {"backbone": "timm:../resnet50"},
        {"backbone_options": {"img_size": 224}},  # resnet50 takes none
        {"backbone_options": {"pretrained": True}, "backbone": "timm:resnet18"},  # would be downloaded
        {"backbone_options": {"weights": "DEFAULT"}, "backbone": "torchvision:resnet18"},
        {"schedule": "linear"},
        {"optimizer": "rmsprop"},
        {"cosine_floor": 1.0},
        {"learning_rate": float("nan")},
        {"iterations": "100"},
        {"last_stride": 3},
        {"unknown": 1},
        {"padding": 128},
        {"warmup_epochs": 121},
    ],
)
def test_bad_settings_are_refused(bot, changes):
    with pytest.raises(ValidationError) as error:
        bot(**changes)
    assert next(iter(changes)) in str(error.value)


@pytest.mark.parametrize(
    "backbone", ["torchvision:swin_t", "torchreid:osnet_ain_x1_0", "timm:vit_base_patch16_224.orig_in21k"]
)
def test_models_of_libraries_have_their_names_there(bot, backbone):
    assert bot(backbone=backbone, channels=32, weights="some.pth").backbone == backbone


def test_one_image_per_identity_is_enough_without_a_triplet_loss(bot):
    assert bot(images_per_identity=1, triplet_weight=0.0).images_per_identity == 1


def test_settings_do_not_import_torch():
    code = "import sys, reid.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
