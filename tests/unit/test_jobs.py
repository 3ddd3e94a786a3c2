"""Jobs: order, batches and places in the noise as in the original."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.errors import UsageError
from sdcli.jobs import Job, NoisePlace, batches, key, size
from sdcli.model_spec import ModelSpec, NoiseSchedule
from sdcli.prompts import Prompt, Prompts
from sdcli.settings import Settings, names

SPEC = ModelSpec(
    name="model.ckpt", family="sd1", latent_channels=4, downscale=8, size_multiple=64,
    default_height=512, default_width=512, default_scale=7.5, default_steps=50, schedule=NoiseSchedule(),
    watermark_method="dwtDct",
)  # fmt: skip


def draws_of(sampler: str, steps: int) -> int:
    """Some samplers draw random numbers in each step, some never."""
    return 0 if sampler == "dpm_solver" else steps


def draws(job: Job) -> int:
    return draws_of(job.sampler, job.steps)


def batches_of(prompts: Sequence[Prompt] | Iterator[Prompt], settings: Settings) -> list[list[Job]]:
    return list(batches(prompts, settings, SPEC, "00", draws))


def jobs(**settings: object) -> list[list[Job]]:
    chosen = Settings.of(**settings)
    return batches_of(iter(Prompts(chosen)), chosen)


def prompts_of(settings: Settings, passes: Sequence[Sequence[object]]) -> list[Prompt]:
    """The prompts of these passes: for each image None, its own seed, or the settings of its row."""
    prompts: list[Prompt] = []
    for iteration, images in enumerate(passes):
        for image in images:
            own = image if isinstance(image, Settings) else settings
            seed = image if isinstance(image, int) else None
            prompts.append(Prompt(f"prompt {len(prompts)}", own, len(prompts), iteration, seed))
    return prompts


def test_a_prompt_fills_each_batch() -> None:
    found = jobs(prompt="a cat", n_samples=3, n_iter=2, steps=10)
    assert [[job.prompt for job in batch] for batch in found] == [["a cat"] * 3] * 2
    assert [job.index for batch in found for job in batch] == list(range(6))
    assert [job.noise.before for batch in found for job in batch] == [()] * 3 + [((3, 11),)] * 3
    assert [job.noise.row for batch in found for job in batch] == [0, 1, 2] * 2
    assert {job.noise.rows for batch in found for job in batch} == {3}


@pytest.mark.parametrize(("rng", "before"), [("cpu", ((2, 11), (1, 11), (2, 11))), ("cuda", ((2, 22), (1, 11)))])
def test_a_file_is_split_into_batches_and_repeated_as_a_whole(tmp_path: Path, rng: str, before: object) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\nthree\n")
    found = jobs(from_file=str(path), n_samples=2, n_iter=2, steps=10, rng=rng)
    assert [[job.prompt for job in batch] for batch in found] == [["one", "two"], ["three"]] * 2
    assert [batch[0].noise.rows for batch in found] == [2, 1, 2, 1]
    assert found[3][0].noise.before == before


def test_fixed_code_draws_once_before_all_batches() -> None:
    first, second = jobs(n_samples=2, n_iter=2, fixed_code=True, steps=10)
    assert first[0].noise.before == ((2, 1),)
    assert second[0].noise.before == ((2, 11),)
    assert {job.noise.fixed_rows for job in first + second} == {2}


@pytest.mark.parametrize("rng", ["cuda", "cpu"])
@given(
    count=st.integers(1, 9),
    n_samples=st.integers(1, 4),
    n_iter=st.integers(1, 4),
    steps=st.integers(1, 3),
    sampler=st.sampled_from(["ddim", "dpm_solver"]),
    fixed_code=st.booleans(),
)
def test_places_are_those_of_the_single_generator_of_the_original(
    rng: str, count: int, n_samples: int, n_iter: int, steps: int, sampler: str, fixed_code: bool
) -> None:
    """Repeats the loop of the original and counts its draws, independently of `batches`."""
    settings = Settings.of(
        n_samples=n_samples, n_iter=n_iter, steps=steps, sampler=sampler, rng=rng, fixed_code=fixed_code
    )
    found = iter(batches_of(prompts_of(settings, [[None] * count] * n_iter), settings))
    drawn = [n_samples] if fixed_code else []  # the rows of each draw
    index = 0
    for _ in range(n_iter):
        for start in range(0, count, n_samples):
            rows = min(n_samples, count - start)
            batch = next(found)
            assert len(batch) == rows
            for row, job in enumerate(batch):
                place = job.noise
                replayed = [size for size, times in place.before for _ in range(times)]
                # The numbers of a CUDA device depend on the number of draws, those of the CPU on each draw.
                assert (len(replayed) == len(drawn)) if rng == "cuda" else (replayed == drawn)
                assert (place.rows, place.row) == (rows, row)
                assert place.fixed_rows == (n_samples if fixed_code else 0)
                assert (job.index, job.seed, job.rng) == (index, settings.seed, rng)
                index += 1
            drawn += [rows] * (draws_of(settings.sampler, steps) + (0 if fixed_code else 1))
    assert next(found, None) is None


OWN = {
    "height": 256, "width": 256, "steps": 7, "sampler": "dpm_solver", "scale": 2.0, "eta": 0.5, "rng": "cpu",
    "precision": "full", "schedule": "trailing", "sigmas": "9,3", "guidance_rescale": 0.5,
    "prompt_syntax": "a1111", "long_prompt": "chunk", "clip_skip": 2, "lora": ("a.safetensors",),
    "embedding": ("a.pt",), "vae": "a.safetensors", "original_size": "9x8", "crop": "1,2",
}  # fmt: skip
WITH = {"sigmas": {"sampler": "euler"}}
"""Settings that another one needs."""
ROWS = st.one_of(
    st.none(),
    st.integers(0, 2**64 - 1),
    st.sampled_from([Settings.of(**{name: value, **WITH.get(name, {})}) for name, value in OWN.items()]),
    st.just(Settings.of(negative_prompt="a dog")),
    st.just(Settings.of(height=512)),
)


@given(passes=st.lists(st.lists(ROWS, max_size=8), max_size=3), n_samples=st.integers(1, 4))
def test_a_batch_has_one_pass_one_set_of_settings_and_at_most_n_samples_images(
    passes: list[list[object]], n_samples: int
) -> None:
    settings = Settings.of(n_samples=n_samples)
    prompts = prompts_of(settings, passes)
    found = batches_of(prompts, settings)
    assert [job.index for batch in found for job in batch] == list(range(len(prompts)))
    for batch in found:
        assert 0 < len(batch) <= n_samples
        assert len({prompts[job.index].iteration for job in batch}) == 1
        assert len({tuple(getattr(job, name) for name in OWN) for job in batch}) == 1
    for job in (job for batch in found for job in batch):
        prompt = prompts[job.index]
        assert job.prompt == prompt.text
        assert all(
            getattr(job, name) == getattr(prompt.settings, name)
            for name in {*OWN, "negative_prompt"} - {"steps", "sampler", "height", "width", "scale"}
        )
        assert job.scale == (prompt.settings.scale or SPEC.default_scale)
        assert (job.height, job.width) == size(prompt.settings, SPEC)
        assert job.seed == (settings.seed if prompt.seed is None else prompt.seed)


def test_every_setting_that_must_be_equal_in_a_batch_is_tested() -> None:
    assert OWN.keys() == set(names("image", varies=False))


@given(passes=st.lists(st.lists(ROWS, max_size=8), max_size=3), n_samples=st.integers(1, 4))
def test_no_two_images_of_the_run_s_stream_have_the_same_noise(passes: list[list[object]], n_samples: int) -> None:
    """With any steps and samplers in rows. The numbers of other sizes and generators always differ."""
    settings = Settings.of(n_samples=n_samples)
    prompts = prompts_of(settings, passes)
    taken: set[tuple[object, ...]] = set()
    for job in (job for batch in batches_of(prompts, settings) for job in batch):
        if prompts[job.index].seed is None:
            first = sum(times for _, times in job.noise.before)
            for draw in range(first, first + 1 + draws(job)):
                place = (job.rng, job.height, job.width, draw, job.noise.row)
                assert place not in taken
                taken.add(place)


@given(
    seeds=st.lists(st.none() | st.integers(0, 2**64 - 1), min_size=1, max_size=12),
    n_samples=st.integers(1, 4),
    rng=st.sampled_from(["cuda", "cpu"]),
)
def test_images_with_their_own_seed_are_not_part_of_the_run_s_stream(
    seeds: list[int | None], n_samples: int, rng: str
) -> None:
    settings = Settings.of(n_samples=n_samples, steps=3, rng=rng)
    drawn: list[int] = []
    for batch in batches_of(prompts_of(settings, [seeds]), settings):
        of_run = [job for job in batch if seeds[job.index] is None]
        for job in batch:
            if seeds[job.index] is not None:
                assert job.noise == NoisePlace(), "the same as alone"
        assert [job.noise.row for job in of_run] == list(range(len(of_run)))
        for job in of_run:
            assert job.noise.rows == len(of_run)
            replayed = [size for size, times in job.noise.before for _ in range(times)]
            assert (len(replayed) == len(drawn)) if rng == "cuda" else (replayed == drawn)
        drawn += [len(of_run)] * 4 if of_run else []


def test_an_image_with_its_own_seed_ignores_fixed_code() -> None:
    settings = Settings.of(n_samples=2, fixed_code=True)
    ((of_run, own),) = batches_of(prompts_of(settings, [[None, 5]]), settings)
    assert (of_run.noise.fixed_rows, own.noise) == (2, NoisePlace())


def test_each_size_has_its_own_stream() -> None:
    settings, small = Settings.of(n_samples=1, steps=3), Settings.of(n_samples=1, steps=3, height=256)
    found = batches_of(prompts_of(settings, [[None, small, None, small]]), settings)
    assert [batch[0].noise.before for batch in found] == [(), (), ((1, 4),), ((1, 4),)]


def test_a_full_batch_does_not_wait_for_the_next_prompt() -> None:
    """The program that writes the prompts may wait for the images."""
    settings = Settings.of(n_samples=2)
    taken: list[int] = []

    def stream() -> Iterator[Prompt]:
        for prompt in prompts_of(settings, [[None] * 5]):
            taken.append(prompt.index)
            yield prompt

    found = batches(stream(), settings, SPEC, "00", draws)
    assert taken == []
    seen = [([job.index for job in batch], list(taken)) for batch in found]
    assert seen == [([0, 1], [0, 1]), ([2, 3], [0, 1, 2, 3]), ([4], [0, 1, 2, 3, 4])]


def test_places_of_a_long_run_stay_short() -> None:
    settings = Settings.of(n_samples=3, n_iter=200)
    last = batches_of(prompts_of(settings, [[None] * 4] * 200), settings)[-1][0]
    assert last.noise.before == ((3, 200 * 51), (1, 199 * 51))


def test_the_default_size_is_the_model_s() -> None:
    assert size(Settings.of(), SPEC) == (512, 512)
    assert size(Settings.of(height=256), SPEC) == (256, 512)


@pytest.mark.parametrize(("name", "own", "usual"), [("steps", 20, 50), ("scale", 4.0, 7.5)])
def test_the_default_is_the_model_s(name: str, own: float, usual: float) -> None:
    run = Settings.of(prompt="a cat", n_samples=2)
    spec = SPEC.model_copy(update={f"default_{name}": own})
    prompts = prompts_of(run, [[None, Settings.of(**{name: usual})]])
    found = [getattr(job, name) for batch in batches(prompts, run, spec, "00", draws) for job in batch]
    assert found == [own, usual]
    assert [getattr(job, name) for batch in jobs(prompt="a cat", n_iter=1) for job in batch] == [usual] * 3


@given(st.integers(1, 4096))
def test_a_size_is_valid_or_the_error_names_the_nearest_valid_sizes(side: int) -> None:
    settings = Settings.of(height=side)
    if side % 64 == 0:
        assert size(settings, SPEC)[0] == side
        return
    with pytest.raises(UsageError) as caught:
        size(settings, SPEC)
    nearest = [int(word.strip(".,")) for word in caught.value.fix.split() if word.strip(".,").isdigit()]
    assert nearest
    assert all(n % 64 == 0 and n > 0 and abs(n - side) < 64 for n in nearest)
    assert caught.value.settings == ("height",)


@pytest.mark.parametrize(("name", "flag"), [("channels", "--C"), ("downscale", "--f")])
def test_channels_and_downscale_that_contradict_the_model_are_refused(name: str, flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        size(Settings.of(**{name: 3}), SPEC)


@given(
    prompt=st.text(),
    out=st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    seed=st.integers(0, 2**64 - 1),
    scale=st.floats(allow_nan=False, allow_infinity=False),
    eta=st.floats(0, 1),
    passes=st.lists(st.lists(st.none() | st.integers(0, 2**64 - 1), max_size=3), max_size=3),
)
def test_a_job_prints_as_json_and_reads_back_equal(
    prompt: str, out: str | None, seed: int, scale: float, eta: float, passes: list[list[int | None]]
) -> None:
    settings = Settings.of(seed=seed, scale=scale, eta=eta, n_samples=2, compat=True, negative_prompt=prompt)
    prompts = [Prompt(prompt, settings, p.index, p.iteration, p.seed, out) for p in prompts_of(settings, passes)]
    for job in (job for batch in batches_of(prompts, settings) for job in batch):
        again = Job.model_validate_json(job.model_dump_json())
        assert again == job
        assert Job.model_validate(json.loads(json.dumps(job.model_dump(mode="json")))) == job
        assert key(again, settings) == key(job, settings)
