"""The one noise schedule that serves both training and sampling."""

from pathlib import Path

from diffusers import DDIMScheduler

from generator.model_files import read_json
from generator.settings import SchedulerSettings


def load_scheduler(folder: Path, settings: SchedulerSettings) -> DDIMScheduler:
    """Load the base model's schedule as a DDIM scheduler, with what the settings change.

    Samples are never clipped, because latents are not bounded by 1. With zero terminal SNR the timesteps of
    sampling are spaced from the last one down ("trailing"), for otherwise they would miss the step of pure
    noise (Lin et al. 2024).

    Args:
        folder: Folder with the scheduler_config.json of any scheduler class of diffusers.
        settings: What to change.

    Raises:
        ValueError: `read_json` refuses the file, the model predicts something else than epsilon or v, or zero
            terminal SNR is asked of a model that predicts epsilon, which pure noise does not determine.
    """
    # The file, then the settings that are not null, then what is the same for every model
    file = folder / "scheduler_config.json"
    config = read_json(file)
    changes = {
        "prediction_type": settings.prediction_type,
        "beta_schedule": settings.beta_schedule,
        "rescale_betas_zero_snr": settings.zero_terminal_snr,
    }
    config = {
        **config,
        **{key: value for key, value in changes.items() if value is not None},
        "clip_sample": False,
    }
    if config.get("rescale_betas_zero_snr"):
        config["timestep_spacing"] = "trailing"
    try:
        scheduler = DDIMScheduler.from_config(config)
    except Exception as error:  # for bad values diffusers raises all kinds
        raise ValueError(f"{file} describes no scheduler: {error}.") from None
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"{folder} has prediction_type {scheduler.config.prediction_type!r}; expected epsilon or "
            "v_prediction."
        )
    if scheduler.config.rescale_betas_zero_snr and scheduler.config.prediction_type != "v_prediction":
        raise ValueError(
            f"{folder}: zero_terminal_snr is on with prediction_type {scheduler.config.prediction_type}; "
            "expected v_prediction, since the last step's input is the very noise that epsilon stands for."
        )
    return scheduler
