"""Choice of the device and of the precision."""

import pytest
import torch

from sdcli.devices import Compute, choose, empty_cache
from sdcli.errors import DeviceError


def test_full_precision_has_no_autocast() -> None:
    assert choose("cpu", "full") == Compute(torch.device("cpu"), None)
    assert choose("cpu", "full").precision == "full"
    assert str(choose("cpu", "full")) == "cpu, precision full"


def test_autocast_is_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("cpu", "autocast") == choose("cpu", "full")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose("cuda", "autocast").precision == "autocast float16"


def test_the_context_turns_autocast_on() -> None:
    with Compute(torch.device("cpu"), torch.bfloat16).context():
        assert torch.is_autocast_enabled("cpu")
    with Compute(torch.device("cpu"), torch.bfloat16).full().context():
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_device_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(DeviceError, match="--device cuda is not available") as caught:
        choose("cuda", "full")
    assert "cpu" in caught.value.fix


def test_a_cpu_has_no_cache_to_empty() -> None:
    empty_cache(torch.device("cpu"))
