"""The grid, as torchvision lays it out, and its pages."""

import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.jobs import Job
from sdcli.outputs import grid
from sdcli.outputs.grid import Grid, Page


def picture(value: int, height: int = 3, width: int = 5) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def job(index: int) -> Job:
    return Job.model_validate(
        {
            "prompt": "a cat", "negative_prompt": "", "seed": 7, "rng": "cuda", "noise": {}, "height": 64, "width": 64,
            "steps": 20, "sampler": "plms", "scale": 7.5, "eta": 0.0, "precision": "full", "model": "builtin",
            "model_hash": "0", "index": index,
        }
    )  # fmt: skip


def pages(pictures: Sequence[np.ndarray], per_row: int, total: int | None = None) -> list[Page]:
    filling = Grid(per_row, len(pictures) if total is None else total)
    made = [filling.add(job(index), drawn) for index, drawn in enumerate(pictures)]
    return [page for page in (*made, filling.rest()) if page is not None]


def torchvision_s(pictures: Sequence[np.ndarray], per_row: int) -> np.ndarray:
    """`torchvision.utils.make_grid`, which the original calls, over bytes."""
    height, width, _ = pictures[0].shape
    columns = min(per_row, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.zeros((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), dtype=np.uint8)
    for index, drawn in enumerate(pictures):
        top, left = index // columns * (height + 2) + 2, index % columns * (width + 2) + 2
        sheet[top : top + height, left : left + width] = drawn
    return sheet


@pytest.mark.parametrize(
    ("count", "per_row", "shape"),
    [(4, 2, (2 * 5 + 2, 2 * 7 + 2, 3)), (3, 2, (12, 16, 3)), (2, 5, (7, 16, 3)), (5, 1, (27, 9, 3)), (1, 3, (7, 9, 3))],
)
def test_sizes(count: int, per_row: int, shape: tuple[int, ...]) -> None:
    (page,) = pages([picture(i + 1) for i in range(count)], per_row)
    assert page.pixels.shape == shape
    assert page.number == 0


def test_pictures_lie_row_by_row_with_black_between() -> None:
    (page,) = pages([picture(value) for value in (10, 20, 30)], 2)
    assert (page.pixels[2:5, 2:7] == 10).all()
    assert (page.pixels[2:5, 9:14] == 20).all()
    assert (page.pixels[7:10, 2:7] == 30).all()
    assert int(page.pixels.astype(int).sum()) == (10 + 20 + 30) * 3 * 5 * 3, "all else is black"


@given(count=st.integers(1, 40), per_row=st.integers(1, 50), withheld=st.integers(0, 30))
def test_one_page_is_the_original_s_grid(count: int, per_row: int, withheld: int) -> None:
    """Also where some of the pictures that were to come were withheld."""
    drawn = [picture(index + 1) for index in range(count)]
    (page,) = pages(drawn, per_row, count + withheld)
    assert np.array_equal(page.pixels, torchvision_s(drawn, per_row))


def test_pages_of_whole_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows of two fill a page: each page is the grid of its own pictures."""
    monkeypatch.setattr(grid, "PIXELS", 4 * 2 * 5 * 7 + 5)
    drawn = [picture(index + 1) for index in range(21)]
    made = pages(drawn, 2)
    assert [page.number for page in made] == [0, 1, 2]
    assert [page.first.index for page in made] == [0, 8, 16]
    for page in made:
        its_own = drawn[page.first.index : page.first.index + 8]
        assert np.array_equal(page.pixels, torchvision_s(its_own, 2))


def test_a_page_is_handed_over_as_soon_as_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "PIXELS", 2 * 2 * 5 * 7)
    filling = Grid(2, 8)
    assert [filling.add(job(index), picture(1)) is not None for index in range(8)] == [False, False, False, True] * 2
    assert filling.rest() is None


def test_a_page_is_no_higher_than_viewers_take() -> None:
    first, last = pages([picture(1, height=1000, width=1)] * 20, 1)
    assert first.pixels.shape[0] == 16 * 1002 + 2 <= grid.HEIGHT
    assert last.pixels.shape[0] == 4 * 1002 + 2


def test_a_row_too_long_for_a_page_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "PIXELS", 3 * 5 * 7)
    assert [page.pixels.shape for page in pages([picture(1)] * 7, 100)] == [(7, 23, 3), (7, 23, 3), (7, 9, 3)]


def test_a_picture_larger_than_a_page_is_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "PIXELS", 10)
    monkeypatch.setattr(grid, "HEIGHT", 4)
    assert [page.pixels.shape for page in pages([picture(1)] * 2, 3)] == [(7, 9, 3)] * 2


def test_thousands_of_pictures_take_the_memory_of_one_page() -> None:
    """10,000 pictures of 64 x 64 are 123 MB, a page 50 MB."""
    count, side = 10_000, 64
    filling = Grid(62, count)
    shown = 0
    tracemalloc.start()
    try:
        for index in range(count):
            page = filling.add(job(index), picture(index % 255 + 1, side, side))
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
