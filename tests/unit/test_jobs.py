"""Jobs: the original's order, batches and places in the noise."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.errors import UsageError
from sdcli.jobs import Job, NoisePlace, plan, size
from sdcli.model_spec import ModelSpec, NoiseSchedule
from sdcli.prompts import Prompts, Request
from sdcli.settings import SamplerName, Settings

SPEC = ModelSpec(
    name="model.ckpt", kind="original", text="clip", latent_channels=4, downscale=8, size_multiple=64,
    default_height=512, default_width=512, default_scale=7.5, schedule=NoiseSchedule(), watermark_method="dwtDct",
)  # fmt: skip


def draws(sampler: SamplerName, steps: int) -> int:
    """As the samplers do: some draw in each step, some never."""
    return 0 if sampler == "dpm_solver" else steps


def planned(requests: Sequence[Request] | Iterator[Request], settings: Settings) -> list[list[Job]]:
    return list(plan(requests, settings, SPEC, "00", draws))


def jobs(**settings: object) -> list[list[Job]]:
    chosen = Settings.of(**settings)
    return planned(iter(Prompts(chosen)), chosen)


def asked(settings: Settings, passes: Sequence[Sequence[object]]) -> list[Request]:
    """Requests of these passes: None or a seed of its own for each image, or settings that its row says."""
    made: list[Request] = []
    for iteration, ones in enumerate(passes):
        for one in ones:
            own = one if isinstance(one, Settings) else settings
            seed = one if isinstance(one, int) else None
            made.append(Request(f"prompt {len(made)}", own, len(made), iteration, seed))
    return made


def test_a_prompt_fills_each_batch() -> None:
    batches = jobs(prompt="a cat", n_samples=3, n_iter=2, steps=10)
    assert [[job.prompt for job in batch] for batch in batches] == [["a cat"] * 3] * 2
    assert [job.index for batch in batches for job in batch] == list(range(6))
    assert [job.noise.before for batch in batches for job in batch] == [()] * 3 + [((3, 11),)] * 3
    assert [job.noise.row for batch in batches for job in batch] == [0, 1, 2] * 2
    assert {job.noise.rows for batch in batches for job in batch} == {3}


@pytest.mark.parametrize(("rng", "before"), [("cpu", ((2, 11), (1, 11), (2, 11))), ("cuda", ((2, 22), (1, 11)))])
def test_a_file_is_cut_into_batches_and_repeated_as_a_whole(tmp_path, rng: str, before: object) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\nthree\n")
    batches = jobs(from_file=str(path), n_samples=2, n_iter=2, steps=10, rng=rng)
    assert [[job.prompt for job in batch] for batch in batches] == [["one", "two"], ["three"]] * 2
    assert [batch[0].noise.rows for batch in batches] == [2, 1, 2, 1]
    assert batches[3][0].noise.before == before


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
def test_places_are_those_of_the_original_s_one_generator(
    rng: str, count: int, n_samples: int, n_iter: int, steps: int, sampler: str, fixed_code: bool
) -> None:
    """Written down as the original draws: it says what each place must be, whatever `plan` makes of it."""
    settings = Settings.of(
        n_samples=n_samples, n_iter=n_iter, steps=steps, sampler=sampler, rng=rng, fixed_code=fixed_code
    )
    batches = iter(planned(asked(settings, [[None] * count] * n_iter), settings))
    made = [n_samples] if fixed_code else []  # the rows of each draw
    index = 0
    for _ in range(n_iter):
        for start in range(0, count, n_samples):
            rows = min(n_samples, count - start)
            batch = next(batches)
            assert len(batch) == rows
            for row, job in enumerate(batch):
                place = job.noise
                replayed = [size for size, times in place.before for _ in range(times)]
                # A card's numbers depend on how many draws there were, those of the CPU on each of them.
                assert (len(replayed) == len(made)) if rng == "cuda" else (replayed == made)
                assert (place.rows, place.row) == (rows, row)
                assert place.fixed_rows == (n_samples if fixed_code else 0)
                assert (job.index, job.seed, job.rng) == (index, settings.seed, rng)
                index += 1
            made += [rows] * (draws(settings.sampler, steps) + (0 if fixed_code else 1))
    assert next(batches, None) is None


OWN = {
    "height": 256, "width": 256, "steps": 7, "sampler": "dpm_solver", "scale": 2.0, "eta": 0.5, "rng": "cpu",
    "precision": "full",
}  # fmt: skip
ROWS = st.one_of(
    st.none(),
    st.integers(0, 2**64 - 1),
    st.sampled_from([Settings.of(**{name: value}) for name, value in OWN.items()]),
    st.just(Settings.of(negative_prompt="a dog")),
    st.just(Settings.of(height=512)),
)


@given(passes=st.lists(st.lists(ROWS, max_size=8), max_size=3), n_samples=st.integers(1, 4))
def test_a_batch_is_of_one_pass_and_one_kind_and_not_too_large(passes: list[list[object]], n_samples: int) -> None:
    settings = Settings.of(n_samples=n_samples)
    requests = asked(settings, passes)
    batches = planned(requests, settings)
    assert [job.index for batch in batches for job in batch] == list(range(len(requests)))
    for batch in batches:
        assert 0 < len(batch) <= n_samples
        assert len({requests[job.index].iteration for job in batch}) == 1
        assert len({tuple(getattr(job, name) for name in OWN) for job in batch}) == 1
    for job in (job for batch in batches for job in batch):
        request = requests[job.index]
        assert job.prompt == request.prompt
        assert all(
            getattr(job, name) == getattr(request.settings, name)
            for name in {*OWN, "negative_prompt"} - {"height", "width", "scale"}
        )
        assert job.scale == (request.settings.scale or SPEC.default_scale)
        assert (job.height, job.width) == size(request.settings, SPEC)
        assert job.seed == (settings.seed if request.seed is None else request.seed)


@given(passes=st.lists(st.lists(ROWS, max_size=8), max_size=3), n_samples=st.integers(1, 4))
def test_no_two_images_of_the_run_s_stream_have_the_same_noise(passes: list[list[object]], n_samples: int) -> None:
    """Whatever rows say of steps and samplers; the numbers of other sizes and generators differ anyway."""
    settings = Settings.of(n_samples=n_samples)
    requests = asked(settings, passes)
    taken: set[tuple[object, ...]] = set()
    for job in (job for batch in planned(requests, settings) for job in batch):
        if requests[job.index].seed is None:
            first = sum(times for _, times in job.noise.before)
            for draw in range(first, first + 1 + draws(job.sampler, job.steps)):
                place = (job.rng, job.height, job.width, draw, job.noise.row)
                assert place not in taken
                taken.add(place)


@given(
    seeds=st.lists(st.none() | st.integers(0, 2**64 - 1), min_size=1, max_size=12),
    n_samples=st.integers(1, 4),
    rng=st.sampled_from(["cuda", "cpu"]),
)
def test_rows_with_a_seed_of_their_own_are_no_part_of_the_run_s_stream(
    seeds: list[int | None], n_samples: int, rng: str
) -> None:
    settings = Settings.of(n_samples=n_samples, steps=3, rng=rng)
    made: list[int] = []
    for batch in planned(asked(settings, [seeds]), settings):
        of_run = [job for job in batch if seeds[job.index] is None]
        for job in batch:
            if seeds[job.index] is not None:
                assert job.noise == NoisePlace(), "as drawn alone"
        assert [job.noise.row for job in of_run] == list(range(len(of_run)))
        for job in of_run:
            assert job.noise.rows == len(of_run)
            replayed = [size for size, times in job.noise.before for _ in range(times)]
            assert (len(replayed) == len(made)) if rng == "cuda" else (replayed == made)
        made += [len(of_run)] * 4 if of_run else []


def test_a_seed_of_its_own_stands_with_fixed_code() -> None:
    settings = Settings.of(n_samples=2, fixed_code=True)
    ((of_run, own),) = planned(asked(settings, [[None, 5]]), settings)
    assert (of_run.noise.fixed_rows, own.noise) == (2, NoisePlace())


def test_each_size_has_its_own_stream() -> None:
    settings, small = Settings.of(n_samples=1, steps=3), Settings.of(n_samples=1, steps=3, height=256)
    batches = planned(asked(settings, [[None, small, None, small]]), settings)
    assert [batch[0].noise.before for batch in batches] == [(), (), ((1, 4),), ((1, 4),)]


def test_a_full_batch_does_not_wait_for_the_next_request() -> None:
    """Who writes the prompts may wait for the images."""
    settings = Settings.of(n_samples=2)
    taken: list[int] = []

    def coming() -> Iterator[Request]:
        for request in asked(settings, [[None] * 5]):
            taken.append(request.index)
            yield request

    batches = plan(coming(), settings, SPEC, "00", draws)
    assert taken == []
    seen = [([job.index for job in batch], list(taken)) for batch in batches]
    assert seen == [([0, 1], [0, 1]), ([2, 3], [0, 1, 2, 3]), ([4], [0, 1, 2, 3, 4])]


def test_places_of_a_long_run_take_little_room() -> None:
    settings = Settings.of(n_samples=3, n_iter=200)
    last = planned(asked(settings, [[None] * 4] * 200), settings)[-1][0]
    assert last.noise.before == ((3, 200 * 51), (1, 199 * 51))


CHANGES = {
    "prompt": "another", "negative_prompt": "another", "seed": 8, "rng": "cpu", "noise": NoisePlace(row=1, rows=2),
    "height": 128, "width": 128, "steps": 3, "sampler": "ddim", "scale": 7.0, "eta": 0.5, "precision": "autocast",
    "model": "another", "model_hash": "1", "out": "another",
}  # fmt: skip


def test_content_is_all_but_the_place_in_the_run() -> None:
    job = Job(
        prompt="a cat", negative_prompt="", seed=7, rng="cuda", noise=NoisePlace(), height=64, width=64, steps=20,
        sampler="plms", scale=7.5, eta=0.0, precision="full", model="builtin", model_hash="0", index=0,
    )  # fmt: skip
    assert CHANGES.keys() == Job.model_fields.keys() - {"index"}
    assert job.model_copy(update={"index": 5}).content == job.content
    for name, value in CHANGES.items():
        assert job.model_copy(update={name: value}).content != job.content, name


def test_size_defaults_to_the_model_s() -> None:
    assert size(Settings.of(), SPEC) == (512, 512)
    assert size(Settings.of(height=256), SPEC) == (256, 512)


def test_scale_defaults_to_the_model_s_where_neither_run_nor_row_says_one() -> None:
    run = Settings.of(prompt="a cat", n_samples=2)
    spec = SPEC.model_copy(update={"default_scale": 4.0})
    requests = asked(run, [[None, Settings.of(scale=7.5)]])
    drawn = [job.scale for batch in plan(requests, run, spec, "00", draws) for job in batch]
    assert drawn == [4.0, 7.5]
    assert [job.scale for batch in jobs(prompt="a cat", n_iter=1) for job in batch] == [7.5] * 3


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
    out=st.none() | st.text(),
    seed=st.integers(0, 2**64 - 1),
    scale=st.floats(allow_nan=False, allow_infinity=False),
    eta=st.floats(0, 1),
    passes=st.lists(st.lists(st.none() | st.integers(0, 2**64 - 1), max_size=3), max_size=3),
)
def test_a_job_reads_back_equal(
    prompt: str, out: str | None, seed: int, scale: float, eta: float, passes: list[list[int | None]]
) -> None:
    settings = Settings.of(seed=seed, scale=scale, eta=eta, n_samples=2, compat=True, negative_prompt=prompt)
    requests = [Request(prompt, settings, one.index, one.iteration, one.seed, out) for one in asked(settings, passes)]
    for job in (job for batch in planned(requests, settings) for job in batch):
        assert Job.model_validate_json(job.model_dump_json()) == job
