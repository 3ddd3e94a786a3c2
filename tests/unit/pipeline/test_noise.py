"""Noise: known answers, streams, and places in them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdcli.jobs import Job, NoisePlace
from sdcli.pipeline.noise import BatchNoise, cuda_randn, philox

CUDA_SEED_0 = [
    -0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564,
    -0.62285122, -0.32838709, -1.07454231, -0.36314407, -1.67105067, 2.26550497,
]  # fmt: skip
"""`torch.manual_seed(0); torch.randn(12, device="cuda")`."""

SHAPE = (4, 2, 3)


def job(seed: int = 5, rng: str = "cpu", **place: object) -> Job:
    return Job.model_validate(
        {
            "prompt": "a cat", "negative_prompt": "", "seed": seed, "rng": rng, "noise": NoisePlace(**place),
            "height": 16, "width": 24, "steps": 4, "sampler": "ddim", "scale": 7.5, "eta": 0.0, "precision": "full",
            "model": "m", "model_hash": "0", "index": 0,
        }
    )  # fmt: skip


def test_cuda_noise_is_that_of_a_card() -> None:
    np.testing.assert_allclose(cuda_randn(12, seed=0, draw=0), CUDA_SEED_0, rtol=3e-7)


def test_philox_known_answers() -> None:
    """The reference implementation's own vectors, Random123 `kat_vectors`, philox4x32 with 10 rounds."""
    zeros = philox(np.zeros((4, 1), dtype=np.uint64), 0)[:, 0]
    assert [hex(int(word)) for word in zeros] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    ones = philox(np.full((4, 1), 0xFFFFFFFF, dtype=np.uint64), 0xFFFFFFFFFFFFFFFF)[:, 0]
    assert [hex(int(word)) for word in ones] == ["0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]


@given(seed=st.integers(0, 2**64 - 1), draw=st.integers(0, 2**40), count=st.integers(1, 300))
def test_a_longer_draw_begins_like_a_shorter_one(seed: int, draw: int, count: int) -> None:
    assert np.array_equal(cuda_randn(count, seed, draw), cuda_randn(count + 50, seed, draw)[:count])


def test_cuda_noise_is_normal_and_draws_differ() -> None:
    first, second = cuda_randn(200_000, 1, 0), cuda_randn(200_000, 1, 1)
    for values in (first, second):
        assert abs(values.mean()) < 0.01
        assert abs(values.std() - 1) < 0.01
        assert np.isfinite(values).all()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")
@pytest.mark.parametrize("seed", [0, 42, 2**63 + 1])
@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 4, 64, 64), (1, 4, 96, 64)])
def test_cuda_noise_on_a_card(seed: int, shape: tuple[int, ...]) -> None:
    torch.cuda.manual_seed(seed)
    for draw in range(5):
        on_card = torch.randn(shape, device="cuda").cpu().numpy().ravel()
        np.testing.assert_allclose(cuda_randn(on_card.size, seed, draw), on_card, atol=2e-6)


def test_cpu_stream_is_that_of_pytorch_in_the_original_s_order() -> None:
    """Starting noise, a draw a step, and so on for the next batch: as one generator gives them."""
    generator = torch.Generator().manual_seed(5)
    expected = [torch.randn((2, *SHAPE), generator=generator) for _ in range(10)]
    first = BatchNoise([job(rows=2, row=row) for row in (0, 1)], SHAPE)
    second = BatchNoise([job(rows=2, row=row, before=((2, 5),)) for row in (0, 1)], SHAPE)
    assert torch.equal(first.start(), expected[0])
    assert torch.equal(first.step(0), expected[1])
    assert torch.equal(first.step(3), expected[4])
    assert torch.equal(second.start(), expected[5])
    assert torch.equal(second.step(1), expected[7])
    assert torch.equal(first.step(1), expected[2]), "going back replays the stream"


def test_fixed_code_starts_every_batch_alike_and_steps_on() -> None:
    generator = torch.Generator().manual_seed(5)
    fixed = torch.randn((3, *SHAPE), generator=generator)
    steps = [torch.randn((3, *SHAPE), generator=generator) for _ in range(4)]
    first = BatchNoise([job(rows=3, row=0, before=((3, 1),), fixed_rows=3)], SHAPE)
    second = BatchNoise([job(rows=3, row=2, before=((3, 3),), fixed_rows=3)], SHAPE)
    assert torch.equal(first.start()[0], fixed[0])
    assert torch.equal(second.start()[0], fixed[2])
    assert torch.equal(first.step(0)[0], steps[0][0])
    assert torch.equal(second.step(0)[0], steps[2][2])


@pytest.mark.parametrize("rng", ["cpu", "cuda"])
@given(
    seed=st.integers(0, 2**64 - 1),
    rows=st.integers(1, 4),
    before=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=3),
    step=st.integers(0, 3),
)
def test_a_row_alone_is_the_row_in_its_batch(
    rng: str, seed: int, rows: int, before: list[tuple[int, int]], step: int
) -> None:
    jobs = [job(seed=seed, rng=rng, rows=rows, row=row, before=tuple(before)) for row in range(rows)]
    together, alone = BatchNoise(jobs, SHAPE), BatchNoise(jobs[-1:], SHAPE)
    assert torch.equal(together.start()[-1], alone.start()[0])
    assert torch.equal(together.step(step)[-1], alone.step(step)[0])


def test_jobs_of_different_streams_share_a_batch() -> None:
    one, other = job(seed=1), job(seed=2)
    both = BatchNoise([one, other], SHAPE).start()
    assert torch.equal(both[0], BatchNoise([one], SHAPE).start()[0])
    assert torch.equal(both[1], BatchNoise([other], SHAPE).start()[0])
