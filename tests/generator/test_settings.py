import subprocess
import sys

import pytest
from pydantic import ValidationError

from generator.settings import SampleSettings, TrainSettings
from tests.generator import tiny


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "greater than or equal to 1"),
        ({"batch_size": 2.0}, "valid integer"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"masked_views": [0, 2]}, "greater than or equal to 1"),
        ({"masked_views": [3, 2]}, "masked_views is \\[3, 2\\], where the least must not exceed the most"),
        ({"drop_image": 1.5}, "less than or equal to 1"),
        ({"mixed_precision": "fp8"}, "'auto', 'bf16', 'fp16' or 'no'"),
        ({"epochs": 3}, "Extra inputs"),
    ],
)
def test_bad_training_settings_are_refused_by_name(change, message):
    with pytest.raises(ValidationError, match=message):
        TrainSettings(**(tiny.TRAIN.model_dump() | change))


def test_guidance_must_drop_something():
    with pytest.raises(ValidationError, match="guidance_drop"):
        SampleSettings(steps=2, guidance_scale=2.0, guidance_drop=[], batch_size=1, mixed_precision="no")


def test_settings_do_not_import_torch():
    code = "import sys, generator.settings, generator.keypoints; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
