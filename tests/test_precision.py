"""`auto` is bf16 where the device computes with it, and single precision elsewhere."""

import pytest
import torch

from common import precision
from common.precision import autocast, has_bf16, resolve


def cpu_with(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "any", **capabilities})


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_a_cpu_with_instructions_for_bf16_computes_in_it(monkeypatch, name):
    cpu_with(monkeypatch, **{name: True})
    assert resolve("auto", "cpu") == "bf16"


def test_a_cpu_without_them_computes_in_single_precision(monkeypatch):
    cpu_with(monkeypatch, avx512_f=True, avx512_bf16=False)
    assert resolve("auto", torch.device("cpu")) == "no"


@pytest.mark.parametrize("is_able", [True, False])
def test_a_gpu_that_only_emulates_bf16_does_not_have_it(monkeypatch, is_able):
    """As T4 and V100, on which torch says that bf16 is supported unless it is asked about the hardware."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or is_able
    )
    assert has_bf16("cuda:1") == is_able


@pytest.mark.parametrize("chosen", ["bf16", "fp16", "no"])
@pytest.mark.parametrize("is_able", [True, False])
def test_a_precision_that_was_chosen_stays(monkeypatch, chosen, is_able):
    monkeypatch.setattr(precision, "has_bf16", lambda device: is_able)
    assert resolve(chosen, "cpu") == chosen


@pytest.mark.parametrize(
    ("chosen", "is_able", "dtype"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("fp16", True, torch.float16),
        ("no", True, torch.float32),
    ],
)
def test_a_network_computes_at_the_precision(monkeypatch, chosen, is_able, dtype):
    monkeypatch.setattr(precision, "has_bf16", lambda device: is_able)
    layer = torch.nn.Linear(4, 4)
    with autocast(chosen, "cpu"):
        assert layer(torch.ones(1, 4)).dtype == dtype
    assert layer(torch.ones(1, 4)).dtype == torch.float32


def test_this_machine_can_be_asked():
    assert isinstance(has_bf16("cpu"), bool)
