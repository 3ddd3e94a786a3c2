"""From jobs to images: runs of several batches against the original's arithmetic and its one stream of noise."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import nn

from sdcli.errors import UsageError
from sdcli.jobs import Job, batches
from sdcli.pipeline import generate
from sdcli.pipeline.conditioning import Conditioning, encode
from sdcli.pipeline.decode import decode
from sdcli.pipeline.guidance import GuidedDenoiser
from sdcli.pipeline.samplers import Plan, Step
from sdcli.prompts import Prompts
from sdcli.registry import SAMPLERS
from sdcli.settings import Settings
from tests.unit.pipeline.toy_model import SPEC, toy_job, toy_jobs, toy_model


class ReferenceUnet(nn.Module):
    """The reference's model, with the length of the prompt as its only conditioning."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[float]] = []

    def forward(self, latents: torch.Tensor, times: torch.Tensor, **arguments: Any) -> tuple[torch.Tensor]:
        lengths = arguments["encoder_hidden_states"][:, 0, 0].tolist()
        self.batches.append(lengths)
        rows = [
            predicted(row.double().numpy(), float(time), length)
            for row, time, length in zip(latents, times, lengths, strict=True)
        ]
        return (torch.from_numpy(np.stack(rows)).float(),)


def predicted(latents: np.ndarray, time: float, length: float) -> np.ndarray:
    return reference.model(latents, time) + 0.05 * length


@pytest.mark.parametrize(
    ("sampler", "eta", "scale", "fixed_code", "steps"),
    [
        ("ddim", 0.0, 7.5, False, 6),
        ("ddim", 0.7, 3.0, False, 15),
        ("ddim", 1.0, 1.0, True, 4),
        ("ddim", 0.4, 0.0, True, 10),
        ("plms", 0.0, 7.5, False, 6),
        ("plms", 0.0, 1.0, True, 5),
        ("dpm_solver", 0.0, 7.5, False, 10),
        ("dpm_solver", 0.0, 0.5, True, 20),
    ],
)
def test_a_whole_run_equals_the_original(
    tmp_path: Path, sampler: str, eta: float, scale: float, fixed_code: bool, steps: int
) -> None:
    """One generator for the run, with draws in the original's order and a last batch that is not full."""
    path = tmp_path / "prompts.txt"
    path.write_text("a\nbb\nccc\n")
    settings = Settings.of(
        from_file=str(path), n_samples=2, n_iter=2, rng="cpu", sampler=sampler, eta=eta, scale=scale,
        fixed_code=fixed_code, steps=steps, height=16, width=16, precision="full",
    )  # fmt: skip
    unet = ReferenceUnet()
    draws = SAMPLERS[sampler].draws(Plan(steps), SPEC.schedule)
    results = [
        generate(toy_model(unet), batch, lambda step: None)[1]
        for batch in batches(Prompts(settings), settings, SPEC, "0", lambda *_: draws)
    ]

    generator = torch.Generator().manual_seed(42)

    def drawn(rows: int) -> np.ndarray:
        return torch.randn((rows, 4, 2, 2), generator=generator).double().numpy()

    code = drawn(2) if fixed_code else None
    for latents, lengths in zip(results, [[1, 2], [3], [1, 2], [3]], strict=True):

        def guided(state: np.ndarray, time: float, lengths: list[int] = lengths) -> np.ndarray:
            prompt = np.stack([predicted(row, time, length) for row, length in zip(state, lengths, strict=True)])
            negative = np.stack([predicted(row, time, 0) for row in state])
            return prompt if scale == 1.0 else negative + scale * (prompt - negative)

        rows = len(lengths)
        start = drawn(rows) if code is None else code[:rows]
        noise = (drawn(rows) for _ in range(draws))
        if sampler == "ddim":
            expected = reference.ddim(start, steps, eta, noise, guided)
        elif sampler == "plms":
            expected = reference.plms(start, steps, guided)
        else:
            expected = reference.dpm_solver(start, steps, guided)
        for _ in noise:  # the original draws it even where nothing uses it
            pass
        np.testing.assert_allclose(latents.double().numpy(), expected, atol=2e-3, rtol=2e-3)

    assert unet.batches[0] == ([1, 2] if scale == 1.0 else [0, 0, 1, 2]), "the negative half comes first"


def test_every_step_is_reported_and_the_last_one_is_decoded() -> None:
    steps: list[Step] = []
    images, latents = generate(toy_model(), toy_jobs(3), steps.append)
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
    assert torch.equal(latents, steps[-1].latents)
    assert torch.equal(images, decode(toy_model(), latents))
    assert not images.requires_grad


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("rng", ["cpu", "cuda"])
def test_an_image_is_the_same_alone_and_in_a_batch(sampler: str, rng: str) -> None:
    jobs = toy_jobs(3, sampler=sampler, rng=rng)
    together, _ = generate(toy_model(), jobs, lambda step: None)
    for row, job in enumerate(jobs):
        alone, _ = generate(toy_model(), [job], lambda step: None)
        assert torch.equal(alone[0], together[row])


@given(
    sampler=st.sampled_from(sorted(SAMPLERS)),
    which=st.integers(0, 100),
    n_samples=st.integers(1, 3),
    n_iter=st.integers(1, 2),
    steps=st.integers(2, 5),
    fixed_code=st.booleans(),
    rng=st.sampled_from(["cpu", "cuda"]),
    eta=st.sampled_from([0.0, 0.6]),
)
def test_every_image_of_a_run_is_generated_again_alone_from_its_job(
    sampler: str, which: int, n_samples: int, n_iter: int, steps: int, fixed_code: bool, rng: str, eta: float
) -> None:
    """What `--resume` and `rerun` do: a job, as its record has it, without the rest of its run."""
    schedules = ("auto", *SAMPLERS[sampler].schedules)
    settings = Settings.of(
        prompt="a", sampler=sampler, schedule=schedules[which % len(schedules)], n_samples=n_samples, n_iter=n_iter,
        steps=steps, fixed_code=fixed_code, rng=rng, eta=eta if SAMPLERS[sampler].takes_eta else 0.0, height=16,
        width=16,
    )  # fmt: skip

    try:
        SAMPLERS[sampler].check(Plan.of(settings, steps), SPEC.schedule)
    except UsageError:  # DDIM and PLMS with 3 steps
        reject()

    def draws(job: Job) -> int:
        count: int = SAMPLERS[job.sampler].draws(Plan.of(job, job.steps), SPEC.schedule)
        return count

    run = list(batches(Prompts(settings), settings, SPEC, "0", draws))
    together = torch.cat([generate(toy_model(), batch, lambda step: None)[1] for batch in run])
    for latents, job in zip(together, [job for batch in run for job in batch], strict=True):
        recorded = Job.model_validate_json(job.model_dump_json())
        assert torch.equal(generate(toy_model(), [recorded], lambda step: None)[1][0], latents)
    if n_iter > 1 and not fixed_code:
        assert not torch.equal(together[0], together[n_samples]), "each pass has its own noise"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_graphics_card_gives_the_same_latents(sampler: str) -> None:
    jobs = toy_jobs(2, sampler=sampler, rng="cuda")
    _, expected = generate(toy_model(), jobs, lambda step: None)
    _, found = generate(toy_model(device="cuda"), jobs, lambda step: None)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)


def test_latents_are_divided_by_the_scaling_factor_before_decoding() -> None:
    model = toy_model(
        vae=SimpleNamespace(config=SimpleNamespace(scaling_factor=0.5), decode=lambda z, return_dict: [z])
    )
    assert torch.equal(decode(model, torch.ones(1, 4, 2, 2)), torch.full((1, 4, 2, 2), 2.0))


@pytest.mark.parametrize(
    ("family", "config", "halved"),
    [("sdxl", {}, False), ("sdxl", {"force_upcast": True}, False), ("sdxl", {"force_upcast": False}, True),
     ("sd1", {"force_upcast": True}, True)],
)  # fmt: skip
def test_the_vae_of_xl_computes_in_full_precision(family: str, config: dict[str, bool], halved: bool) -> None:
    layer = nn.Conv2d(4, 3, 1)
    kinds = []

    def decoded(latents: torch.Tensor, return_dict: bool) -> list[torch.Tensor]:
        kinds.append(layer(latents).dtype)
        return [latents]

    model = toy_model(vae=SimpleNamespace(config=SimpleNamespace(scaling_factor=0.5, **config), decode=decoded))
    model = replace(model, spec=SPEC.model_copy(update={"family": family}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decode(model, torch.ones(1, 4, 2, 2)).dtype == torch.float32
    assert kinds == [torch.bfloat16 if halved else torch.float32]


class TestConditioning:
    PROMPT, NEGATIVE = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)

    def test_without_guidance_only_the_prompts_are_passed(self) -> None:
        arguments = Conditioning(self.PROMPT, self.NEGATIVE).unet_arguments(guided=False)
        assert list(arguments) == ["encoder_hidden_states"]
        assert torch.equal(arguments["encoder_hidden_states"], self.PROMPT)

    def test_with_guidance_the_negative_half_comes_first(self) -> None:
        arguments = Conditioning(self.PROMPT, self.NEGATIVE).unet_arguments(guided=True)
        assert list(arguments) == ["encoder_hidden_states"]
        assert torch.equal(arguments["encoder_hidden_states"], torch.cat([self.NEGATIVE, self.PROMPT]))

    @pytest.mark.parametrize("guided", [False, True])
    def test_added_conditions_are_passed_in_the_same_order(self, guided: bool) -> None:
        added = {"text_embeds": (torch.ones(2, 5), torch.zeros(2, 5)), "time_ids": (torch.ones(2, 6), torch.ones(2, 6))}
        passed = Conditioning(self.PROMPT, self.NEGATIVE, added).unet_arguments(guided=guided)["added_cond_kwargs"]
        rows = [0.0, 0.0, 1.0, 1.0] if guided else [1.0, 1.0]
        assert passed["text_embeds"][:, 0].tolist() == rows
        assert passed["text_embeds"].shape == (len(rows), 5)
        assert passed["time_ids"].shape == (len(rows), 6)

    def test_prompts_are_encoded_in_the_order_of_the_jobs(self) -> None:
        jobs = [toy_job(prompt="aaa"), toy_job(prompt="a", negative_prompt="aa"), toy_job(prompt="aaa")]
        conditioning = encode(toy_model(), jobs)
        assert conditioning.prompt[:, 0, 0].tolist() == [3, 1, 3]
        assert conditioning.negative[:, 0, 0].tolist() == [0, 2, 0]
        assert conditioning.prompt.shape == conditioning.negative.shape


class TestGuidance:
    def guided(self, scale: float, time: float = 5.0) -> tuple[torch.Tensor, list[Any]]:
        calls: list[Any] = []

        def unet(latents: torch.Tensor, times: torch.Tensor, **arguments: Any) -> tuple[torch.Tensor]:
            calls.append((latents, times, arguments))
            return (latents + arguments["encoder_hidden_states"][:, :1, :1, None],)

        conditioning = Conditioning(torch.full((2, 3, 4), 3.0), torch.full((2, 3, 4), 1.0))
        return GuidedDenoiser(unet, conditioning, scale)(torch.zeros(2, 4, 2, 2), time), calls

    @pytest.mark.parametrize(("scale", "expected"), [(0.0, 1.0), (2.0, 5.0), (7.5, 16.0)])
    def test_the_prediction_moves_from_the_negative_prompt_to_the_prompt(self, scale: float, expected: float) -> None:
        output, ((latents, times, _),) = self.guided(scale)
        assert torch.equal(output, torch.full((2, 4, 2, 2), expected))
        assert latents.shape == (4, 4, 2, 2) and times.tolist() == [5] * 4

    def test_a_scale_of_1_evaluates_the_prompt_alone(self) -> None:
        output, ((latents, _, _),) = self.guided(1.0)
        assert torch.equal(output, torch.full((2, 4, 2, 2), 3.0))
        assert latents.shape == (2, 4, 2, 2)

    def test_whole_times_are_integers_and_fractions_are_not(self) -> None:
        assert self.guided(1.0, 5.0)[1][0][1].dtype == torch.int64
        assert self.guided(1.0, 5.5)[1][0][1].tolist() == [5.5, 5.5]
