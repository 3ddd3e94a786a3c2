"""The distillation to few steps: its geometry, and its samples."""

from __future__ import annotations

from pathlib import Path

import distil
import numpy as np
import pytest
import torch
from distil import PHASES, SOLVER_STEPS, Paths, Samples, Ways, captions_of
from hypothesis import given
from hypothesis import strategies as st
from icons import Icon
from model import new_scheduler
from scenes import Scenes


def test_a_jump_is_a_step_of_ddim_at_the_timesteps_of_four_trailing_steps() -> None:
    ways, scheduler = Ways(), new_scheduler()
    scheduler.set_timesteps(PHASES)
    starts = ways.timesteps[:, 0]
    assert starts.tolist() == scheduler.timesteps.tolist() == [999, 749, 499, 249]
    latents, velocity = torch.randn(2, PHASES, 4, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    jumped = ways.jump(latents, velocity, starts, ways.ends)
    for phase, timestep in enumerate(starts):
        step = scheduler.step(velocity[phase], timestep, latents[phase]).prev_sample  # type: ignore[union-attr]
        assert torch.allclose(jumped[phase], step)


@given(phase=st.integers(0, PHASES - 1), step=st.integers(0, SOLVER_STEPS - 1), seed=st.integers(0, 2**32))
def test_the_target_is_what_jumps_to_the_end_of_the_phase(phase: int, step: int, seed: int) -> None:
    ways = Ways()
    generator = torch.Generator().manual_seed(seed)
    latents, reached, wrong = torch.randn(3, 1, 4, 2, 2, generator=generator)
    timesteps, ends = ways.timesteps[phase, step][None], ways.ends[phase][None]
    target, weight = ways.target(latents, reached, timesteps, ends)
    assert torch.allclose(ways.jump(latents, target, timesteps, ends), reached, atol=1e-4)
    # The geometric mean of the squared errors of where it arrives and of the image, for an error of v.
    arrived = (ways.jump(latents, target + wrong, timesteps, ends) - reached).square().mean()
    image = ways.jump(latents, target + wrong, timesteps, torch.tensor([1000])) - ways.jump(
        latents, target, timesteps, torch.tensor([1000])
    )
    mean = (arrived * image.square().mean()).sqrt() / wrong.square().mean()
    assert weight.item() == pytest.approx(mean.item(), rel=1e-3)


def paths_of(value: float) -> Paths:
    """Two paths, whose states tell where they belong."""
    states = torch.full((2, PHASES, SOLVER_STEPS + 1, 4, 2, 2), value)
    states += (
        torch.arange(PHASES)[:, None, None, None, None] * 100 + torch.arange(SOLVER_STEPS + 1)[:, None, None, None]
    )
    return Paths(torch.zeros(2, 77, 8).half(), states.half())


def test_the_newest_files_are_sampled_also_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "MOST_FILES", 2)
    monkeypatch.setattr(distil, "PATHS_PER_FILE", 2)
    ways, samples = Ways(), Samples(tmp_path)
    for number in range(3):
        samples.add(paths_of(10 * number))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["00001", "00002"]
    again = Samples(tmp_path)
    assert samples.count == again.count == 3
    batches = [each.batch(np.random.default_rng(0), 400, ways) for each in (samples, again)]
    assert all(one.equal(other) for one, other in zip(*batches, strict=True))
    latents, reached, timesteps, ends, phases, texts = batches[0]
    assert texts.shape == (400, 77, 8)
    assert phases.bincount().tolist() == [100] * PHASES
    steps = latents[:, 0, 0, 0] % 10
    assert set((latents[:, 0, 0, 0] % 100 - steps).tolist()) == {10, 20}, "not the oldest file"
    assert torch.equal(latents[:, 0, 0, 0] // 100, phases.float())
    assert torch.equal(reached - latents, (SOLVER_STEPS - steps)[:, None, None, None].expand_as(latents))
    assert torch.equal(timesteps, ways.timesteps[phases, steps.long()])
    assert torch.equal(ends, ways.ends[phases])
    assert 0.6 < (steps == 0).float().mean() < 0.8, "most are at the start of a phase"


def test_captions_are_those_of_the_training(tmp_path: Path) -> None:
    icons = [
        Icon(f"{style}/{word}", tmp_path / word, word, style, (word,), (), None, 1.0)
        for style in ("3d", "flat", "outlined")
        for word in ("cat", "dog", "owl", "pig")
    ]
    captions = captions_of(np.random.default_rng(0), Scenes(icons, 0.4), icons, 300)
    assert 0 < captions.count("") < 20
    assert all(caption == "" or any(icon.label in caption for icon in icons) for caption in captions)
    assert (
        80 < sum(sum(caption.count(word) for word in ("cat", "dog", "owl", "pig")) == 2 for caption in captions) < 160
    )
    assert any(caption.startswith("image image") or caption.endswith("image image") for caption in captions)
    assert not any("\0" in caption for caption in captions)
