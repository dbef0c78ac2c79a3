import pytest
import torch

from generator.checkpoint import load_checkpoint, save_checkpoint


def state(value):
    return {"weights": torch.full((100, 10), float(value)), "step": torch.tensor(value)}


def save(folder, *steps):
    for step in steps:
        save_checkpoint(folder, step, state(step), {"note": f"n{step}"})


def check(folder, expected):
    step, tensors, extra = load_checkpoint(folder)
    assert (step, extra) == (expected, {"note": f"n{expected}"})
    torch.testing.assert_close(tensors, state(expected), rtol=0, atol=0)


def test_the_newest_is_read_and_two_are_kept(tmp_path):
    assert load_checkpoint(tmp_path / "run") is None
    save(tmp_path / "run", 9, 10, 100)
    check(tmp_path / "run", 100)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["step-00000010", "step-00000100"]


def cut(checkpoint):
    file = checkpoint / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def flip_a_bit(checkpoint):
    file = checkpoint / "state.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip_a_bit,
        lambda checkpoint: (checkpoint / "state.safetensors").unlink(),
        lambda checkpoint: (checkpoint / "state.json").write_text('{"step": 2'),
        lambda checkpoint: (checkpoint / "state.json").write_text("{}"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_read(tmp_path, damage):
    save(tmp_path, 1, 2)
    damage(tmp_path / "step-00000002")
    with pytest.warns(UserWarning, match="step-00000002 is damaged and set aside"):
        check(tmp_path, 1)
    assert (tmp_path / "step-00000002.damaged").is_dir()
    save(tmp_path, 2)  # the run comes by again
    check(tmp_path, 2)


def test_a_half_written_checkpoint_is_never_read_and_swept_away(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000002.writing").mkdir()
    check(tmp_path, 1)
    save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
