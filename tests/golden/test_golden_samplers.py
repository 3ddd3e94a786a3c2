"""Every sampler and schedule equals diffusers' `StableDiffusionPipeline`, for each kind of model: 60 dB or better."""

from pathlib import Path

import pytest
from compare import psnr
from samplers import NOISE_SCHEDULES, SCHEDULERS, STEPS, SmallModel, schedules_of

from sdcli.errors import UsageError
from sdcli.model_spec import CURVES
from sdcli.pipeline.samplers import Plan
from sdcli.registry import SAMPLERS

# torchsde compares the ends of a Brownian tree in another precision than it was given.
pytestmark = pytest.mark.filterwarnings("ignore:Should have t[ab]")

BAR = 60.0
WITHOUT_DIFFUSERS = {"dpm_solver", "ipndm"}


@pytest.fixture(scope="module", params=NOISE_SCHEDULES)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return SmallModel(tmp_path_factory.mktemp("sampler") / "small", NOISE_SCHEDULES[request.param])


def test_every_sampler_is_compared() -> None:
    assert set(SCHEDULERS) | WITHOUT_DIFFUSERS == set(SAMPLERS)


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_the_model_s_own_schedule(small: SmallModel, sampler: str) -> None:
    _compare(small, sampler, "auto")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "schedule"), [(name, one) for name in SCHEDULERS for one in schedules_of(name) if one != "auto"]
)
def test_schedules(small: SmallModel, sampler: str, schedule: str) -> None:
    _compare(small, sampler, schedule)


def _compare(small: SmallModel, sampler: str, schedule: str) -> None:
    try:
        SAMPLERS[sampler].check(Plan(STEPS, schedule), small.model.spec.schedule)
    except UsageError as refused:
        pytest.skip(str(refused))
    if sampler in ("ddim", "plms") and schedule == "auto" and small.model.spec.schedule.timestep_spacing == "linspace":
        pytest.skip("the original's samplers step back by a whole stride, so they begin each stride where they ended")
    try:
        expected = small.by_diffusers(sampler, schedule)
    except (IndexError, AssertionError):
        # It looks up its step by the timestep, and two steps have the same.
        assert small.model.spec.schedule.rescale_betas_zero_snr and schedule in CURVES, "known in diffusers"
        pytest.skip("diffusers cannot do this combination")
    assert psnr(small.by_sdcli(sampler, schedule), expected) >= BAR


def test_eta(tmp_path: Path) -> None:
    small = SmallModel(tmp_path / "small", NOISE_SCHEDULES["v1"])
    for sampler, schedule in (("ddim", "auto"), ("ddim", "trailing"), ("tcd", "auto")):
        with_noise = small.by_sdcli(sampler, schedule, eta=0.4)
        assert psnr(with_noise, small.by_diffusers(sampler, schedule, eta=0.4)) >= BAR
        assert psnr(with_noise, small.by_sdcli(sampler, schedule)) < 40


def test_guidance_rescale(tmp_path: Path) -> None:
    small = SmallModel(tmp_path / "small", NOISE_SCHEDULES["zero terminal SNR"])
    rescaled = small.by_sdcli("euler", "auto", guidance_rescale=0.7)
    assert psnr(rescaled, small.by_diffusers("euler", "auto", guidance_rescale=0.7)) >= BAR
    assert psnr(rescaled, small.by_sdcli("euler", "auto")) < 55


@pytest.mark.parametrize("sampler", ["lcm", "tcd", "euler"])
@pytest.mark.parametrize("scale", [1.0, 2.5, 8.5])
def test_a_model_that_takes_the_guidance_scale(tmp_path: Path, sampler: str, scale: float) -> None:
    small = SmallModel(tmp_path / "small", NOISE_SCHEDULES["v1"], {"time_cond_proj_dim": 32})
    ours = small.by_sdcli(sampler, "auto", scale=scale, steps=4)
    # diffusers takes a scale of 1 for no guidance, and passes it all the same.
    assert psnr(ours, small.by_diffusers(sampler, "auto", guidance_scale=scale, num_inference_steps=4)) >= BAR
    assert psnr(ours, small.by_sdcli(sampler, "auto", scale=scale + 2, steps=4)) < 60


def test_sigmas(tmp_path: Path) -> None:
    small = SmallModel(tmp_path / "small", NOISE_SCHEDULES["v1"])
    by_hand = small.by_sdcli("euler", "auto", sigmas="14.6,6.5,3.9,1.9,0.4")
    # diffusers takes the end of the last step, too.
    assert psnr(by_hand, small.by_diffusers("euler", "auto", sigmas=[14.6, 6.5, 3.9, 1.9, 0.4, 0.0])) >= BAR
    assert psnr(by_hand, small.by_sdcli("euler", "auto", sigmas="14.6,3.9,0.3,0")) < BAR
