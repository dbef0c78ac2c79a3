import json

import pytest
from diffusers import DDIMScheduler, PNDMScheduler

from generator.scheduler import load_scheduler
from generator.settings import SchedulerSettings

KEEP = SchedulerSettings(prediction_type=None, beta_schedule=None, zero_terminal_snr=None)


def test_stable_diffusions_schedule_is_kept(tmp_path):
    # The file of Stable Diffusion 1.5 is of another class.
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    ).save_pretrained(tmp_path)
    scheduler = load_scheduler(tmp_path, KEEP)
    assert isinstance(scheduler, DDIMScheduler)
    config = scheduler.config
    assert (config.beta_schedule, config.beta_end, config.steps_offset) == ("scaled_linear", 0.012, 1)
    assert config.prediction_type == "epsilon" and not config.clip_sample


def test_settings_override_the_file(tmp_path):
    DDIMScheduler().save_pretrained(tmp_path)
    settings = SchedulerSettings(
        prediction_type="v_prediction", beta_schedule="scaled_linear", zero_terminal_snr=True
    )
    scheduler = load_scheduler(tmp_path, settings)
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.alphas_cumprod[-1] == 0
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] == 999  # sampling starts where the training ends: at pure noise


def test_zero_terminal_snr_needs_v(tmp_path):
    DDIMScheduler().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="zero_terminal_snr is on with prediction_type epsilon"):
        load_scheduler(tmp_path, KEEP.model_copy(update={"zero_terminal_snr": True}))


def test_a_value_that_diffusers_refuses_is_named_with_its_file(tmp_path):
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"beta_schedule": "steep"}))
    with pytest.raises(ValueError, match=r"scheduler_config\.json describes no scheduler: .*steep"):
        load_scheduler(tmp_path, KEEP)


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"scheduler_config\.json does not exist"):
        load_scheduler(tmp_path, KEEP)
    DDIMScheduler(prediction_type="sample").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["prediction_type"] == "sample"
    with pytest.raises(ValueError, match="prediction_type 'sample'"):
        load_scheduler(tmp_path, KEEP)
