"""Noise: known answers of both generators, streams, and places in them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdcli.jobs import Job
from sdcli.pipeline.noise import BatchNoise, cuda_randn, philox
from tests.unit.pipeline.toy_model import toy_job

CUDA_SEED_0 = [
    -0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564,
    -0.62285122, -0.32838709, -1.07454231, -0.36314407, -1.67105067, 2.26550497,
]  # fmt: skip
"""`torch.manual_seed(0); torch.randn(12, device="cuda")`."""

SHAPE = (4, 2, 3)
CPU = torch.device("cpu")


def job(seed: int = 5, rng: str = "cpu", **place: object) -> Job:
    return toy_job(seed=seed, rng=rng, noise=place, height=16, width=24)


def test_cuda_noise_equals_that_of_a_device() -> None:
    np.testing.assert_allclose(cuda_randn(12, seed=0, draw=0), CUDA_SEED_0, rtol=3e-7)


def test_a_row_of_a_draw_needs_no_other_row() -> None:
    assert np.array_equal(cuda_randn(50, 7, 3, first=100), cuda_randn(150, 7, 3)[100:])
    assert len(cuda_randn(16, 7, 2**62, first=99_999 * 2**24)) == 16


def test_philox_known_answers() -> None:
    """The vectors of the reference implementation: Random123, `kat_vectors`, philox4x32 with 10 rounds."""
    zeros = philox(np.zeros((4, 1), dtype=np.uint64), 0)[:, 0]
    assert [hex(int(word)) for word in zeros] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    ones = philox(np.full((4, 1), 0xFFFFFFFF, dtype=np.uint64), 0xFFFFFFFFFFFFFFFF)[:, 0]
    assert [hex(int(word)) for word in ones] == ["0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]


@given(seed=st.integers(0, 2**64 - 1), draw=st.integers(0, 2**40), count=st.integers(1, 300))
def test_a_longer_draw_starts_with_the_shorter_one(seed: int, draw: int, count: int) -> None:
    assert np.array_equal(cuda_randn(count, seed, draw), cuda_randn(count + 50, seed, draw)[:count])


def test_cuda_noise_is_normal_and_draws_differ() -> None:
    first, second = cuda_randn(200_000, 1, 0), cuda_randn(200_000, 1, 1)
    for values in (first, second):
        assert abs(values.mean()) < 0.01
        assert abs(values.std() - 1) < 0.01
        assert np.isfinite(values).all()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("seed", [0, 42, 2**63 + 1])
@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 4, 64, 64), (1, 4, 96, 64)])
def test_cuda_noise_on_a_device(seed: int, shape: tuple[int, ...]) -> None:
    torch.cuda.manual_seed(seed)
    for draw in range(5):
        on_device = torch.randn(shape, device="cuda").cpu().numpy().ravel()
        np.testing.assert_allclose(cuda_randn(on_device.size, seed, draw), on_device, atol=2e-6)


def test_the_cpu_stream_is_one_pytorch_generator_in_the_original_s_order() -> None:
    """Initial noise, one draw for each step, then the same for the next batch."""
    generator = torch.Generator().manual_seed(5)
    expected = [torch.randn((2, *SHAPE), generator=generator) for _ in range(10)]
    first = BatchNoise([job(rows=2, row=row) for row in (0, 1)], SHAPE, CPU)
    second = BatchNoise([job(rows=2, row=row, before=((2, 5),)) for row in (0, 1)], SHAPE, CPU)
    assert torch.equal(first.initial(), expected[0])
    assert torch.equal(first.draw(0), expected[1])
    assert torch.equal(first.draw(3), expected[4])
    assert torch.equal(second.initial(), expected[5])
    assert torch.equal(second.draw(1), expected[7])
    assert torch.equal(first.draw(1), expected[2]), "an earlier draw replays the stream"


def test_fixed_code_gives_every_batch_the_same_initial_noise_and_new_draws() -> None:
    generator = torch.Generator().manual_seed(5)
    fixed = torch.randn((3, *SHAPE), generator=generator)
    steps = [torch.randn((3, *SHAPE), generator=generator) for _ in range(4)]
    first = BatchNoise([job(rows=3, row=0, before=((3, 1),), fixed_rows=3)], SHAPE, CPU)
    second = BatchNoise([job(rows=3, row=2, before=((3, 3),), fixed_rows=3)], SHAPE, CPU)
    assert torch.equal(first.initial()[0], fixed[0])
    assert torch.equal(second.initial()[0], fixed[2])
    assert torch.equal(first.draw(0)[0], steps[0][0])
    assert torch.equal(second.draw(0)[0], steps[2][2])


@pytest.mark.parametrize("rng", ["cpu", "cuda"])
@given(
    seed=st.integers(0, 2**64 - 1),
    rows=st.integers(1, 4),
    before=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=3),
    step=st.integers(0, 3),
)
def test_an_image_has_the_same_noise_alone_and_in_its_batch(
    rng: str, seed: int, rows: int, before: list[tuple[int, int]], step: int
) -> None:
    jobs = [job(seed=seed, rng=rng, rows=rows, row=row, before=tuple(before)) for row in range(rows)]
    together, alone = BatchNoise(jobs, SHAPE, CPU), BatchNoise(jobs[-1:], SHAPE, CPU)
    assert torch.equal(together.initial()[-1], alone.initial()[0])
    assert torch.equal(together.draw(step)[-1], alone.draw(step)[0])


def test_jobs_with_different_seeds_share_a_batch() -> None:
    one, other = job(seed=1), job(seed=2)
    both = BatchNoise([one, other], SHAPE, CPU).initial()
    assert torch.equal(both[0], BatchNoise([one], SHAPE, CPU).initial()[0])
    assert torch.equal(both[1], BatchNoise([other], SHAPE, CPU).initial()[0])
