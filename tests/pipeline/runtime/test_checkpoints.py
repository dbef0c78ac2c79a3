import errno
import os
import time
from pathlib import Path

import pytest
import torch

from pipeline.runtime.checkpoints import KEEP, Checkpoints
from tests import stages


def trained(steps=3, seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.randn(2, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_checkpoint_gives_back_exactly_what_was_saved(tmp_path):
    model, optimizer = trained()
    Checkpoints(tmp_path).save(3, model=model, optimizer=optimizer)

    other, other_optimizer = trained(seed=1)
    assert Checkpoints(tmp_path).load(model=other, optimizer=other_optimizer) == 3
    assert same(model.state_dict(), other.state_dict())
    assert same(optimizer.state_dict(), other_optimizer.state_dict())


def test_tensors_keep_their_order_in_memory(tmp_path):
    saved = torch.nn.ParameterDict({"weight": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)})

    class Taker(torch.nn.Module):
        def load_state_dict(self, state):
            self.state = state

    Checkpoints(tmp_path).save(1, part=saved)
    taker = Taker()
    Checkpoints(tmp_path).load(part=taker)
    assert taker.state["weight"].stride() == saved["weight"].stride()
    assert torch.equal(taker.state["weight"], saved["weight"])


def test_without_a_checkpoint_a_run_starts_at_zero_and_nothing_changes(tmp_path):
    model, _ = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert Checkpoints(tmp_path / "none").load(model=model) == 0
    assert same(before, model.state_dict())


def test_the_newest_checkpoints_are_kept(tmp_path):
    model, _ = trained()
    for step in range(1, 6):
        Checkpoints(tmp_path).save(step, model=model)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}" for step in (4, 5)]
    assert KEEP == 2


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path, file, damage):
    model, _ = trained()
    Checkpoints(tmp_path).save(1, model=model)
    Checkpoints(tmp_path).save(2, model=trained(seed=1)[0])
    path = tmp_path / "step-00000002" / file
    data = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(data[:-9])
    elif damage == "flip":
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    else:
        path.unlink()

    other, _ = trained(seed=2)
    with pytest.warns(UserWarning, match="step-00000002 is set aside"):
        assert Checkpoints(tmp_path).load(model=other) == 1
    assert same(model.state_dict(), other.state_dict())
    assert (tmp_path / "step-00000002.corrupt").is_dir()


def test_a_good_checkpoint_on_a_disk_that_fails_stays_where_it_is(tmp_path, monkeypatch):
    model, _ = trained()
    Checkpoints(tmp_path).save(1, model=model)

    really_open = Path.open

    def fail(path, *arguments, **options):
        if path.suffix == ".safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return really_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match=r"tensors\.safetensors"):
        Checkpoints(tmp_path).load(model=model)
    monkeypatch.undo()
    assert Checkpoints(tmp_path).load(model=trained(seed=1)[0]) == 1


def test_a_process_killed_while_saving_leaves_a_checkpoint_that_loads(tmp_path):
    (tmp_path / "saves.py").write_text(
        "import sys, torch; from pathlib import Path; from pipeline.runtime.checkpoints import Checkpoints\n"
        "model = torch.nn.Linear(600, 600); store = Checkpoints(Path())\n"
        "for step in range(1, 10_000):\n"
        "    torch.nn.init.constant_(model.weight, step); store.save(step, model=model)\n"
        "    print(step, flush=True)\n"
    )
    process = stages.start(tmp_path, "python", "-m", "saves")
    assert process.stdout is not None
    while int(process.stdout.readline()) < 3:
        pass
    time.sleep(0.013)
    stages.kill(process)

    model = torch.nn.Linear(600, 600)
    step = Checkpoints(tmp_path).load(model=model)
    assert step >= 3
    assert torch.equal(model.weight, torch.full_like(model.weight, step))
