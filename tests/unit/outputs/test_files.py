"""New files: the advice when one cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sdcli.outputs.files import cannot_write


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "Free some space"), (errno.EFBIG, "ulimit -f"), (errno.EROFS, "--outdir")]
)
def test_advice_when_a_file_cannot_be_written(tmp_path: Path, number: int, advice: str) -> None:
    error = cannot_write(tmp_path, OSError(number, os.strerror(number)), "--outdir")
    assert error.exit_code == 7
    assert advice in error.fix
