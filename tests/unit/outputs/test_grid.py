"""The grid, as torchvision lays it out."""

import numpy as np
import pytest

from sdcli.outputs.grid import grid


def picture(value: int, height: int = 3, width: int = 5) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


@pytest.mark.parametrize(
    ("count", "per_row", "shape"),
    [(4, 2, (2 * 5 + 2, 2 * 7 + 2, 3)), (3, 2, (12, 16, 3)), (2, 5, (7, 16, 3)), (5, 1, (27, 9, 3)), (1, 3, (7, 9, 3))],
)
def test_sizes(count: int, per_row: int, shape: tuple[int, ...]) -> None:
    assert grid([picture(i + 1) for i in range(count)], per_row).shape == shape


def test_pictures_lie_row_by_row_with_black_between() -> None:
    sheet = grid([picture(value) for value in (10, 20, 30)], 2)
    assert (sheet[2:5, 2:7] == 10).all()
    assert (sheet[2:5, 9:14] == 20).all()
    assert (sheet[7:10, 2:7] == 30).all()
    assert int(sheet.astype(int).sum()) == (10 + 20 + 30) * 3 * 5 * 3, "all else is black"
