"""A batch on its way: not a number is seen, and memory that runs out becomes words."""

from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdcli.devices import Compute, choose, memory_errors
from sdcli.errors import DeviceError, ModelError
from sdcli.events import Watch
from sdcli.jobs import Job, plan
from sdcli.model_spec import ModelSpec, NoiseSchedule
from sdcli.models.model import Model
from sdcli.pipeline import Limits, generate
from sdcli.pipeline.samplers import SAMPLERS
from sdcli.prompts import Prompts
from sdcli.settings import SamplerName, Settings

SPEC = ModelSpec(
    name="m", kind="original", text="clip", latent_channels=4, downscale=8, size_multiple=8,
    default_height=16, default_width=16, default_scale=7.5, schedule=NoiseSchedule(), watermark_method="dwtDct",
)  # fmt: skip


class Tokenizer:
    model_max_length = 3

    def __call__(self, prompts: list[str], **_: object) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([[len(prompt)] * 3 for prompt in prompts])}


class Text(nn.Module):
    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (ids[..., None].float().expand(-1, -1, 2),)


class Unet(nn.Module):
    """Predicts its input, by way of numbers of `through` times its size: past 65,504 float16 has none."""

    def __init__(self, through: float) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        with torch.no_grad():
            self.up.weight.copy_(torch.eye(4)[..., None, None] * through)
            self.down.weight.copy_(torch.eye(4)[..., None, None] / through)

    def forward(self, latents: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
        return (self.down(self.up(latents)),)


class Vae(nn.Module):
    class config:
        scaling_factor = 1.0

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (nn.functional.interpolate(latents[:, :3], scale_factor=8),)


class Notes(Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def jobs(count: int = 2) -> list[Job]:
    return [
        Job.model_validate(
            {
                "prompt": "a" * (row + 1), "negative_prompt": "", "seed": 1, "rng": "cpu",
                "noise": {"rows": count, "row": row}, "height": 16, "width": 16, "steps": 4, "sampler": "ddim",
                "scale": 2.0, "eta": 0.0, "precision": "autocast", "model": "m", "model_hash": "0", "index": row,
            }
        )
        for row in range(count)
    ]  # fmt: skip


def model(through: float) -> Model:
    return Model(SPEC, Tokenizer(), Text(), Unet(through), Vae(), torch.device("cpu"))


def test_not_a_number_in_autocast_is_drawn_again_in_full_precision() -> None:
    half, full = Compute(torch.device("cpu"), torch.float16), Compute(torch.device("cpu"), None)
    notes = Notes()
    again = generate(model(1e6), jobs(), half, notes, Limits())
    assert again.precision == "full, after not a number in autocast float16"
    assert "drawing the batch again" in notes.notes[0]
    expected = generate(model(1e6), jobs(), full, Notes(), Limits())
    for one, other in zip(again.images, expected.images, strict=True):
        assert (one == other).all(), "from the same noise"


def test_what_autocast_can_do_stays_in_autocast() -> None:
    notes = Notes()
    drawn = generate(model(10.0), jobs(), Compute(torch.device("cpu"), torch.float16), notes, Limits())
    assert (drawn.precision, drawn.rows, drawn.tiled) == ("autocast float16", 2, False)
    assert notes.notes == []
    assert len(drawn.images) == 2
    assert all(p.shape == (16, 16, 3) and p.min() >= 0 and p.max() <= 1 for p in drawn.images)


def test_not_a_number_in_full_precision_is_an_error() -> None:
    with pytest.raises(ModelError, match="not numbers"):
        generate(model(float("nan")), jobs(), Compute(torch.device("cpu"), None), Notes(), Limits())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."
        ),
    ],
)
def test_no_memory_becomes_a_device_error(error: Exception) -> None:
    with pytest.raises(DeviceError, match="out of memory") as caught, memory_errors("Draw less."):
        raise error
    assert caught.value.exit_code == 5
    assert caught.value.fix == "Draw less."


def test_a_real_allocation_that_cannot_be_made_is_seen() -> None:
    with pytest.raises(DeviceError), memory_errors(""):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(""):
        raise RuntimeError("shapes do not match")


def test_full_precision_is_full() -> None:
    assert choose("cpu", "full") == Compute(torch.device("cpu"), None)
    assert choose("cpu", "full").precision == "full"


def test_a_cpu_without_fast_bfloat16_says_that_it_runs_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdcli.devices._cpu_has_bfloat16", lambda: False)
    slow = choose("cpu", "autocast")
    assert slow.precision == "full"
    assert "no fast bfloat16" in slow.note
    monkeypatch.setattr("sdcli.devices._cpu_has_bfloat16", lambda: True)
    assert choose("cpu", "autocast").precision == "autocast bfloat16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(DeviceError, match="cuda"):
        choose("cuda", "full")


class SmallMemory(Unet):
    """Has room for `holds` images; keeps count of those it was asked for, guidance's two halves as one."""

    def __init__(self, holds: int) -> None:
        super().__init__(10.0)
        self.holds = holds
        self.asked: list[int] = []

    def forward(self, latents: torch.Tensor, *given: object, **named: object) -> tuple[torch.Tensor]:
        self.asked.append(len(latents) // 2)
        if len(latents) // 2 > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().forward(latents, *given, **named)


class TilingVae(AutoencoderKL):
    """A real VAE with room for latents of `holds` pixels a side."""

    def __init__(self, holds: int) -> None:
        super().__init__(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4, sample_size=512,
        )  # fmt: skip
        self.holds = holds

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> object:
        if not self.use_tiling and z.shape[-1] > self.holds:
            raise MemoryError
        return super()._decode(z, return_dict)


FULL = Compute(torch.device("cpu"), None)


def test_a_batch_that_memory_does_not_hold_is_halved_and_the_size_kept() -> None:
    unet, notes, limits = SmallMemory(holds=2), Notes(), Limits()
    small = Model(SPEC, Tokenizer(), Text(), unet, Vae(), torch.device("cpu"))
    drawn = generate(small, jobs(7), FULL, notes, limits)
    assert drawn.rows == 1
    assert limits == Limits(rows=1)
    assert [note.split(":")[0] for note in notes.notes] == [
        "out of memory with 7 images at a time", "out of memory with 3 images at a time",
    ]  # fmt: skip
    expected = generate(model(10.0), jobs(7), FULL, Notes(), Limits())
    for one, other in zip(drawn.images, expected.images, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)

    unet.asked.clear()
    generate(small, jobs(7), FULL, notes, limits)
    assert set(unet.asked) == {1}, "not tried again for the rest of the run"
    assert len(notes.notes) == 2


@given(holds=st.integers(1, 8), count=st.integers(1, 9))
def test_halving_ends_with_every_image_in_order(holds: int, count: int) -> None:
    limits = Limits()
    small = Model(SPEC, Tokenizer(), Text(), SmallMemory(holds), Vae(), torch.device("cpu"))
    drawn = generate(small, jobs(count), FULL, Notes(), limits)
    assert len(drawn.images) == count
    assert drawn.rows <= holds
    expected = generate(model(10.0), jobs(count), FULL, Notes(), Limits())
    for one, other in zip(drawn.images, expected.images, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_image_that_memory_does_not_hold_is_decoded_in_tiles() -> None:
    torch.manual_seed(0)
    vae = TilingVae(holds=16).eval()
    size = {"height": 256, "width": 256, "noise": {"rows": 1}}
    one = [Job.model_validate(jobs(1)[0].model_dump() | size)]
    notes, limits = Notes(), Limits()
    drawn = generate(Model(SPEC, Tokenizer(), Text(), Unet(10.0), vae, torch.device("cpu")), one, FULL, notes, limits)
    assert drawn.tiled
    assert limits.tiled
    assert vae.tile_latent_min_size == 16
    assert "VAE in tiles" in notes.notes[0]
    vae.disable_tiling()
    vae.holds = 32
    whole = generate(
        Model(SPEC, Tokenizer(), Text(), Unet(10.0), vae, torch.device("cpu")), one, FULL, Notes(), Limits()
    )
    apart = np.mean((drawn.images[0] - whole.images[0]) ** 2)
    assert 0 < apart < 1e-2, "nearly the same image, with seams blended"


def test_with_nothing_left_to_save_it_is_an_error() -> None:
    small = Model(SPEC, Tokenizer(), Text(), SmallMemory(holds=0), Vae(), torch.device("cpu"))
    with pytest.raises(DeviceError), memory_errors("Draw less."):
        generate(small, jobs(4), FULL, Notes(), Limits())


class ReferenceUnet(nn.Module):
    """The reference's model; each half of the batch told apart by its embeddings, whose first number is a length."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[float]] = []

    def forward(self, latents: torch.Tensor, times: torch.Tensor, *given: torch.Tensor, **named: object) -> object:
        embeddings = given[0] if given else named["encoder_hidden_states"]
        lengths = embeddings[:, 0, 0].tolist()
        self.batches.append(lengths)
        rows = [
            predicted(row.double().numpy(), float(time), length)
            for row, time, length in zip(latents, times, lengths, strict=True)
        ]
        return (torch.from_numpy(np.stack(rows)).float(),)


def predicted(latents: np.ndarray, time: float, length: float) -> np.ndarray:
    return reference.model(latents, time) + 0.05 * length


class KeepingVae(Vae):
    def __init__(self) -> None:
        super().__init__()
        self.latents: list[torch.Tensor] = []

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        self.latents.append(latents)
        return super().decode(latents, return_dict)


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
def test_a_whole_run_is_the_original_s(
    tmp_path: Path, sampler: SamplerName, eta: float, scale: float, fixed_code: bool, steps: int
) -> None:
    """One generator for the run, drawn from in the original's order, a short last batch included."""
    path = tmp_path / "prompts.txt"
    path.write_text("a\nbb\nccc\n")
    settings = Settings.of(
        from_file=str(path), n_samples=2, n_iter=2, rng="cpu", sampler=sampler, eta=eta, scale=scale,
        fixed_code=fixed_code, steps=steps, height=16, width=16, precision="full",
    )  # fmt: skip
    unet, vae = ReferenceUnet(), KeepingVae()
    toy = Model(SPEC, Tokenizer(), Text(), unet, vae, torch.device("cpu"))
    draws = SAMPLERS[sampler].draws(steps, SPEC.schedule)
    for batch in plan(Prompts(settings), settings, SPEC, "0", lambda *_: draws):
        generate(toy, batch, Compute(torch.device("cpu"), None), Watch(), Limits())

    generator = torch.Generator().manual_seed(42)

    def drawn(rows: int) -> np.ndarray:
        return torch.randn((rows, 4, 2, 2), generator=generator).double().numpy()

    code = drawn(2) if fixed_code else None
    for latents, lengths in zip(vae.latents, [[1, 2], [3], [1, 2], [3]], strict=True):

        def guided(state: np.ndarray, time: float, lengths: list[int] = lengths) -> np.ndarray:
            words = np.stack([predicted(row, time, length) for row, length in zip(state, lengths, strict=True)])
            nothing = np.stack([predicted(row, time, 0) for row in state])
            return words if scale == 1.0 else nothing + scale * (words - nothing)

        rows = len(lengths)
        start = drawn(rows) if code is None else code[:rows]
        fresh = (drawn(rows) for _ in range(draws))
        if sampler == "ddim":
            expected = reference.ddim(start, steps, eta, fresh, guided)
        elif sampler == "plms":
            expected = reference.plms(start, steps, guided)
        else:
            expected = reference.dpm_solver(start, steps, guided)
        for _ in fresh:  # drawn all the same
            pass
        np.testing.assert_allclose(latents.double().numpy(), expected, atol=2e-3, rtol=2e-3)

    assert unet.batches[0] == ([1, 2] if scale == 1.0 else [0, 0, 1, 2]), "unconditional first"
