"""Jobs: the original's order, batches and places in the noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.errors import UsageError
from sdcli.jobs import Job, plan, size
from sdcli.model_spec import ModelSpec, NoiseSchedule
from sdcli.prompts import read
from sdcli.settings import Settings

SPEC = ModelSpec(
    name="model.ckpt", kind="original", text="clip", latent_channels=4, downscale=8, size_multiple=64,
    default_height=512, default_width=512, schedule=NoiseSchedule(), watermark_method="dwtDct",
)  # fmt: skip


def jobs(step_draws: int = 10, **settings: object) -> list[list[Job]]:
    chosen = Settings.of(**settings)
    return list(plan(read(chosen), chosen, SPEC, "00", step_draws))


def test_a_prompt_fills_each_batch() -> None:
    batches = jobs(prompt="a cat", n_samples=3, n_iter=2)
    assert [[job.prompt for job in batch] for batch in batches] == [["a cat"] * 3] * 2
    assert [job.index for batch in batches for job in batch] == list(range(6))
    assert [job.noise.before for batch in batches for job in batch] == [()] * 3 + [((3, 11),)] * 3


def test_a_file_is_cut_into_batches_and_repeated_as_a_whole(tmp_path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\nthree\n")
    batches = jobs(from_file=str(path), n_samples=2, n_iter=2)
    assert [[job.prompt for job in batch] for batch in batches] == [["one", "two"], ["three"]] * 2
    assert [batch[0].noise.rows for batch in batches] == [2, 1, 2, 1]
    assert batches[3][0].noise.before == ((2, 11), (1, 11), (2, 11))


def test_fixed_code_draws_once_before_all_batches() -> None:
    first, second = jobs(n_samples=2, n_iter=2, fixed_code=True)
    assert first[0].noise.before == ((2, 1),)
    assert second[0].noise.before == ((2, 11),)
    assert {job.noise.fixed_rows for job in first + second} == {2}


def test_size_defaults_to_the_model_s() -> None:
    assert size(Settings.of(), SPEC) == (512, 512)
    assert size(Settings.of(height=256), SPEC) == (256, 512)


@given(st.integers(1, 4096))
def test_a_size_works_or_the_nearest_that_do_are_named(side: int) -> None:
    settings = Settings.of(height=side)
    if side % 64 == 0:
        assert size(settings, SPEC)[0] == side
        return
    with pytest.raises(UsageError) as caught:
        size(settings, SPEC)
    named = [int(word.strip(".,")) for word in caught.value.fix.split() if word.strip(".,").isdigit()]
    assert named
    assert all(n % 64 == 0 and n > 0 and abs(n - side) < 64 for n in named)


@pytest.mark.parametrize(("name", "flag"), [("channels", "--C"), ("downscale", "--f")])
def test_c_and_f_that_contradict_the_model_are_refused(name: str, flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        size(Settings.of(**{name: 3}), SPEC)


@given(
    prompt=st.text(),
    seed=st.integers(0, 2**64 - 1),
    scale=st.floats(-100, 100),
    n_samples=st.integers(1, 4),
    n_iter=st.integers(1, 3),
)
def test_a_job_reads_back_equal(prompt: str, seed: int, scale: float, n_samples: int, n_iter: int) -> None:
    for batch in jobs(prompt=prompt, seed=seed, scale=scale, n_samples=n_samples, n_iter=n_iter):
        for job in batch:
            assert Job.model_validate_json(job.model_dump_json()) == job
