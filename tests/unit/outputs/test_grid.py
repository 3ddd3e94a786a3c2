"""The grid, with the layout of torchvision, and its pages."""

import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.outputs import grid
from sdcli.outputs.grid import Grid, Page
from tests.jobs import job


def image(value: int, height: int = 3, width: int = 5) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def pages(images: Sequence[np.ndarray], per_row: int, total: int | None = None) -> list[Page]:
    filling = Grid(per_row, len(images) if total is None else total)
    made = [filling.add(job(index=index), added) for index, added in enumerate(images)]
    return [page for page in (*made, filling.rest()) if page is not None]


def torchvision_grid(images: Sequence[np.ndarray], per_row: int) -> np.ndarray:
    """`torchvision.utils.make_grid`, which the original script calls, for uint8."""
    height, width, _ = images[0].shape
    columns = min(per_row, len(images))
    rows = math.ceil(len(images) / columns)
    expected = np.zeros((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), dtype=np.uint8)
    for index, added in enumerate(images):
        top, left = index // columns * (height + 2) + 2, index % columns * (width + 2) + 2
        expected[top : top + height, left : left + width] = added
    return expected


@pytest.mark.parametrize(
    ("count", "per_row", "shape"),
    [(4, 2, (2 * 5 + 2, 2 * 7 + 2, 3)), (3, 2, (12, 16, 3)), (2, 5, (7, 16, 3)), (5, 1, (27, 9, 3)), (1, 3, (7, 9, 3))],
)
def test_size_of_a_page(count: int, per_row: int, shape: tuple[int, ...]) -> None:
    (page,) = pages([image(i + 1) for i in range(count)], per_row)
    assert page.pixels.shape == shape
    assert page.number == 0


def test_images_are_in_rows_with_black_between() -> None:
    (page,) = pages([image(value) for value in (10, 20, 30)], 2)
    assert (page.pixels[2:5, 2:7] == 10).all()
    assert (page.pixels[2:5, 9:14] == 20).all()
    assert (page.pixels[7:10, 2:7] == 30).all()
    assert int(page.pixels.astype(int).sum()) == (10 + 20 + 30) * 3 * 5 * 3, "all other pixels are black"


@given(count=st.integers(1, 40), per_row=st.integers(1, 50), withheld=st.integers(0, 30))
def test_one_page_equals_the_grid_of_torchvision(count: int, per_row: int, withheld: int) -> None:
    """Even if fewer images are added than announced, because some were withheld."""
    added = [image(index + 1) for index in range(count)]
    (page,) = pages(added, per_row, count + withheld)
    assert np.array_equal(page.pixels, torchvision_grid(added, per_row))


def test_pages_have_whole_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows of two images fill a page; each page is the grid of its images."""
    monkeypatch.setattr(grid, "PIXELS", 4 * 2 * 5 * 7 + 5)
    added = [image(index + 1) for index in range(21)]
    made = pages(added, 2)
    assert [page.number for page in made] == [0, 1, 2]
    assert [page.first.index for page in made] == [0, 8, 16]
    for page in made:
        on_page = added[page.first.index : page.first.index + 8]
        assert np.array_equal(page.pixels, torchvision_grid(on_page, 2))


def test_a_page_is_returned_as_soon_as_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "PIXELS", 2 * 2 * 5 * 7)
    filling = Grid(2, 8)
    assert [filling.add(job(index=index), image(1)) is not None for index in range(8)] == [
        False,
        False,
        False,
        True,
    ] * 2
    assert filling.rest() is None


def test_the_height_of_a_page_is_limited() -> None:
    first, last = pages([image(1, height=1000, width=1)] * 20, 1)
    assert first.pixels.shape[0] == 16 * 1002 + 2 <= grid.HEIGHT
    assert last.pixels.shape[0] == 4 * 1002 + 2


def test_a_row_that_exceeds_a_page_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "PIXELS", 3 * 5 * 7)
    assert [page.pixels.shape for page in pages([image(1)] * 7, 100)] == [(7, 23, 3), (7, 23, 3), (7, 9, 3)]


def test_an_image_larger_than_a_page_has_its_own_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "PIXELS", 10)
    monkeypatch.setattr(grid, "HEIGHT", 4)
    assert [page.pixels.shape for page in pages([image(1)] * 2, 3)] == [(7, 9, 3)] * 2


@pytest.mark.parametrize(
    ("height", "width", "filled"),
    [
        (30, 50, (0, 30, 0, 50)),  # twice as large
        (15, 50, (7, 23, 0, 50)),  # too wide
        (60, 50, (0, 30, 12, 38)),  # too high
        (3, 5, (0, 30, 0, 50)),  # too small
        (1, 50, (14, 16, 0, 50)),
    ],
)
def test_an_image_of_another_size_is_scaled_to_fit(height: int, width: int, filled: tuple[int, int, int, int]) -> None:
    """It keeps its aspect ratio, is centred in its cell, and changes no other cell."""
    added = [image(100, 30, 50), image(200, height, width), image(50, 30, 50)]
    (page,) = pages(added, 2)
    assert page.pixels.shape == (2 * 32 + 2, 2 * 52 + 2, 3)
    cell = page.pixels[2:32, 54:104]
    top, bottom, left, right = filled
    assert (np.abs(cell[top + 2 : bottom - 2, left + 2 : right - 2].astype(int) - 200) <= 1).all()
    outside = np.ones(cell.shape[:2], dtype=bool)
    outside[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
    assert not cell[outside].any(), "padded with black"
    assert (cell.max(axis=2) > 100).any()
    alone = torchvision_grid([added[0], image(0, 30, 50), added[2]], 2)
    page.pixels[2:32, 54:104] = 0
    assert np.array_equal(page.pixels, alone), "other cells are unchanged"


def test_the_first_image_of_each_page_sets_the_cell_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "PIXELS", 2 * 12 * 12)
    added = [image(1, 10, 10), image(2, 4, 4), image(3, 4, 4), image(4, 10, 10)]
    first, second = pages(added, 2)
    assert first.pixels.shape == (14, 26, 3)
    assert second.pixels.shape == (8, 14, 3)
    assert second.first.index == 2


@given(
    sizes=st.lists(st.tuples(st.integers(8, 40), st.integers(8, 40)), min_size=1, max_size=6),
    per_row=st.integers(1, 5),
)
def test_images_of_any_size_are_in_their_cells(sizes: list[tuple[int, int]], per_row: int) -> None:
    (page,) = pages([image(255, *size) for size in sizes], per_row)
    height, width = (side + 2 for side in sizes[0])
    columns = min(per_row, len(sizes))
    assert page.pixels.shape == (-(-len(sizes) // columns) * height + 2, columns * width + 2, 3)
    for index in range(len(sizes)):
        row, column = divmod(index, columns)
        cell = page.pixels[row * height + 2 : (row + 1) * height, column * width + 2 : (column + 1) * width]
        assert cell.any()
    lines = np.arange(page.pixels.shape[0]) % height < 2
    assert not page.pixels[lines].any(), "the lines between are black"


def test_memory_is_that_of_one_page() -> None:
    """10,000 images of 64 x 64 are 123 MB, a page 50 MB."""
    count, side = 10_000, 64
    filling = Grid(62, count)
    shown = 0
    tracemalloc.start()
    try:
        for index in range(count):
            page = filling.add(job(index=index), image(index % 255 + 1, side, side))
            if page is not None:
                shown += int((page.pixels[2 :: side + 2, 2 :: side + 2, 0] > 0).sum())
                del page
        last = filling.rest()
        assert last is not None
        shown += int((last.pixels[2 :: side + 2, 2 :: side + 2, 0] > 0).sum())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert shown == count
    assert peak < 1.1 * 3 * grid.PIXELS
