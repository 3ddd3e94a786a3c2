"""Out-of-memory errors: which exceptions count, and the error that they become."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sdcli.errors import DeviceError, ModelError
from sdcli.memory import is_out_of_memory, memory_errors, shortage

OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("a message without the phrase"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("unable to mmap 9 bytes from file <m.ckpt>: Cannot allocate memory (12)"),
    OSError(12, "Cannot allocate memory"),
    RuntimeError("could not create a primitive"),
    RuntimeError("Load model from m.onnx failed:std::bad_alloc"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]
OTHERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("PytorchStreamReader failed reading /models/memory/m.ckpt"),
    ValueError("9"),
    KeyboardInterrupt(),
    DeviceError("not enough memory to load m.ckpt"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_running_out_of_memory_becomes_an_error_with_advice(error: Exception) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(DeviceError) as raised, memory_errors("not enough memory to load m", fix="Use a smaller model."):
        raise error
    assert raised.value.what == "not enough memory to load m" and raised.value.fix == "Use a smaller model."
    assert raised.value.why == str(error) and raised.value.__cause__ is error


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_exceptions_pass_unchanged(error: BaseException) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as raised, memory_errors("what", fix="fix"):
        raise error
    assert raised.value is error


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "out of memory"),
        (_caused(ModelError("the checker cannot be loaded"), OUT_OF_MEMORY[-1]), "out of memory"),
        (OSError(24, "Too many open files"), "too many open files"),
        (_caused(ModelError("m"), _caused(ValueError(), OSError(23, "Too many"))), "too many open files"),
        (RuntimeError("can't start new thread"), "no more threads can be started"),
        (DeviceError("not enough memory to load m.ckpt"), "not enough memory to load m.ckpt"),
    ],
)
def test_what_the_machine_lacks_is_found_in_the_causes(error: Exception, what: str) -> None:
    found = shortage(error)
    assert found is not None
    assert found.what == what


@pytest.mark.parametrize("error", [ModelError("m"), OSError(2, "No such file"), _caused(ModelError("m"), KeyError())])
def test_other_errors_are_no_shortage(error: Exception) -> None:
    assert shortage(error) is None


def test_only_the_first_line_of_the_message_is_kept() -> None:
    with pytest.raises(DeviceError) as raised, memory_errors("what", fix="fix"):
        raise RuntimeError("out of memory\nC++ stack trace")
    assert raised.value.why == "out of memory"


def test_nothing_is_raised_where_memory_is_enough() -> None:
    with memory_errors("what", fix="fix"):
        pass
    assert not is_out_of_memory(ModelError("m.ckpt is damaged"))


def test_the_module_does_not_import_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import importlib.util as u; import types; "
    code += "sdcli = types.ModuleType('sdcli'); sdcli.__path__ = [sys.argv[1]]; sys.modules['sdcli'] = sdcli; "
    code += "from sdcli.memory import is_out_of_memory; assert is_out_of_memory(MemoryError())"
    package = str(__import__("pathlib").Path(__file__).parents[2] / "sdcli")
    subprocess.run([sys.executable, "-c", code, package], check=True)
