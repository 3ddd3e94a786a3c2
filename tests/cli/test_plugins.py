"""Plug-ins: each is one file and one line of a table, and the command line then has it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdcli import models, registry, rerun
from sdcli.events import Event, Note, ignore
from sdcli.images import Batch, UnneededImage
from sdcli.metadata import Provenance, a1111, provenance, texts
from sdcli.model_spec import NoiseSchedule
from sdcli.models import families
from sdcli.outputs.formats import encode, opened
from sdcli.pipeline.noise import BatchNoise
from sdcli.pipeline.samplers import Plan
from sdcli.pipeline.schedules import scheduler_arguments
from sdcli.prompts.syntax import parse
from sdcli.records import ImageRecord
from sdcli.sampler_names import split
from sdcli.settings import Settings, image_format
from sdcli.stages import StageContext, Stages
from sdcli.stages.safety import find_checker
from sdcli.stages.watermark import check, choose, search, write
from tests.jobs import job
from tests.plugins.package import Package, Result, completion, sdcli

PLUGINS = Path(__file__).parents[1] / "plugins"


@dataclass(frozen=True)
class Plugin:
    """A plug-in of a table of `sdcli.registry`.

    Attributes:
        source: its file in `PLUGINS`.
        target: the name of that file in the package.
        attribute: the attribute that the table names.
        first: whether its line comes first in the table; otherwise it comes last.
    """

    source: str
    target: str
    attribute: str
    first: bool = False


DUMMIES = {
    "SAMPLERS": Plugin("sampler.py", "pipeline/samplers/dummy.py", "SAMPLER"),
    "MODEL_SOURCES": Plugin("source.py", "models/sources/dummy.py", "find", first=True),
    "FAMILIES": Plugin("family.py", "models/families/dummy.py", "FAMILY"),
    "SAFETY_CHECKERS": Plugin("safety.py", "stages/dummy_safety.py", "find"),
    "WATERMARK_METHODS": Plugin("watermark.py", "stages/dummy_watermark.py", "METHOD"),
    "STAGES": Plugin("stage.py", "stages/dummy_stage.py", "stage", first=True),
    "FORMATS": Plugin("format.py", "outputs/dummy_format.py", "FORMAT"),
    "METADATA_READERS": Plugin("reader.py", "metadata/dummy.py", "read"),
    "SYNTAXES": Plugin("syntax.py", "prompts/syntax/dummy.py", "parse"),
    "EXECUTORS": Plugin("executor.py", "executors/dummy.py", "CountingExecutor"),
}


def add(package: Package, table: str, plugin: Plugin) -> None:
    """Add a plug-in to a copy of the package: one file and one line."""
    package.add_file(PLUGINS / plugin.source, plugin.target)
    lines = (package.folder / "sdcli/registry.py").read_text().splitlines()
    start = lines.index(f"{table} = Table(") + 2
    place = start if plugin.first else lines.index("    }", start)
    module = plugin.target.removesuffix(".py").replace("/", ".")
    package.add_line("registry.py", place, f'        "dummy": "sdcli.{module}:{plugin.attribute}",')


@dataclass(frozen=True)
class Session:
    """Commands of a package with all dummies, and the folder that they ran in."""

    folder: Path
    results: dict[str, Result]

    def image(self, name: str) -> np.ndarray:
        """The pixels of an image in the folder, from 0 to 255."""
        with Image.open(self.folder / name) as image:
            return np.asarray(image, dtype=float)

    def record(self, command: str) -> dict[str, Any]:
        """The first line of JSON that a command printed."""
        return json.loads(self.results[command].stdout.splitlines()[0])


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Every command of the tests below, in one process for each, forked from one."""
    package = Package(tmp_path_factory.mktemp("package"))
    for table, plugin in DUMMIES.items():
        add(package, table, plugin)
    assert package.added == [plugin.target for plugin in DUMMIES.values()]
    assert package.lines == {"registry.py": len(DUMMIES)}

    folder = tmp_path_factory.mktemp("session")
    chunks = PngInfo()
    chunks.add_text("Dummy", json.dumps({"prompt": "a cat", "steps": 7, "sampler": "dummy", "mood": "calm"}))
    Image.new("RGB", (64, 64)).save(folder / "other.png", pnginfo=chunks)
    run = ["txt2img", "--steps", 2, "--n_samples", 1, "--n_iter", 1, "--skip-grid", "--json", "--offline"]
    for name in ("sampler", "safety-checker", "watermark-method", "format", "executor"):
        run += [f"--{name}", "dummy"]
    forwards = ["--model", "dummy:x", "--prompt", "a red apple", "--nsfw-threshold", 0.99, "--outdir", "out"]
    backwards = [
        "--prompt",
        "elppa der a",
        "--any-words",
        "--nsfw-threshold",
        0,
        "--on-unsafe",
        "keep",
        "--outdir",
        "backwards",
    ]
    image = "out/samples/00000.tif"
    results = package.commands(
        folder,
        generate=sdcli(*run, *forwards),
        backwards=sdcli(*run, *backwards),
        rerun=sdcli("rerun", image, "--outdir", "again"),
        inspect=sdcli("inspect", image),
        inspect_json=sdcli("inspect", "--json", image, "other.png"),
        inspect_command=sdcli("inspect", "--command", image),
        watermark=sdcli("watermark", "--json", image),
        help=sdcli("txt2img", "--help", COLUMNS="200"),
        **{f"complete {name}": completion(f"sdcli txt2img --{name} d") for name in CHOICES},
    )
    return Session(folder, results)


CHOICES = ("sampler", "safety-checker", "watermark-method", "format", "executor", "prompt-syntax")
"""The flags that choose a plug-in by its name."""


@pytest.mark.slow
class TestCommandLine:
    """Each plug-in, shown by what it does to one image."""

    @pytest.mark.parametrize("name", CHOICES)
    def test_help_and_completion_list_the_choice(self, session: Session, name: str) -> None:
        assert "dummy" in session.results[f"complete {name}"].stdout.split()
        text = " ".join(session.results["help"].stdout.replace("│", " ").split())
        described = re.search(rf"--{name} NAME .*?One of: ([\w, ]+)", text)
        assert described is not None
        assert "dummy" in described[1].split(", ")

    def test_sampler(self, session: Session) -> None:
        assert session.record("generate")["job"]["sampler"] == "dummy"
        assert re.search(r"Sampler +Dummy Euler", session.results["inspect"].stdout)

    def test_source_and_family(self, session: Session) -> None:
        assert session.record("generate")["job"]["model"] == "dummy:x"
        # The dummy family reverses the prompt; the lowest bits of blue are the same watermark.
        forwards, backwards = (session.image(f"{name}/samples/00000.tif") for name in ("out", "backwards"))
        assert (forwards == backwards).all()

    def test_safety_checker(self, session: Session) -> None:
        safety = session.record("generate")["safety"]
        assert (safety["checker"], safety["flagged"]) == ("dummy", False)
        assert safety["scores"]["brightness"] == pytest.approx(
            session.image("out/samples/00000.tif").mean() / 255, abs=0.01
        )
        flagged = session.record("backwards")["safety"]
        assert (flagged["flagged"], flagged["done"]) == (True, "keep")

    def test_watermark_method(self, session: Session) -> None:
        read = session.record("watermark")
        assert (read["method"], read["found"], read["wrong_bits"]) == ("dummy", True, 0)

    def test_stage(self, session: Session) -> None:
        pixels = session.image("out/samples/00000.tif")
        right = pixels[:, pixels.shape[1] // 2 :].mean() / 255
        assert session.record("generate")["mirror"] == {"left": pytest.approx(right, abs=0.01)}
        assert "image 1 was mirrored" in session.results["generate"].stderr
        assert re.search(r"Mirror +\{\"left\": ", session.results["inspect"].stdout)

    def test_format(self, session: Session) -> None:
        inspected = session.record("inspect_json")
        assert (inspected["format"], inspected["tool"]) == ("TIFF", "sdcli")
        assert inspected["record"] == {k: v for k, v in session.record("generate").items() if k != "file"}

    def test_metadata_reader(self, session: Session) -> None:
        other = json.loads(session.results["inspect_json"].stdout.splitlines()[1])
        assert other["tool"] == "Dummy"
        assert other["settings"] == {"prompt": "a cat", "steps": 7, "sampler": "dummy"}
        assert other["other"] == {"mood": "calm"}

    def test_executor(self, session: Session) -> None:
        assert ", counted\n" in session.results["generate"].stderr
        assert "counted 1 batches" in session.results["generate"].stderr

    def test_rerun_gives_the_same_image(self, session: Session) -> None:
        rerun = session.results["rerun"]
        assert (rerun.code, rerun.stdout) == (0, "again/samples/00000.tif\n")
        assert "identical to out/samples/00000.tif" in rerun.stderr

    def test_the_command_names_them(self, session: Session) -> None:
        command = session.results["inspect_command"].stdout
        for part in ("--sampler dummy", "--safety-checker dummy", "--watermark-method dummy", "--format dummy"):
            assert part in command
        assert "--model dummy:x" in command


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each dummy in the tables of this process."""
    for table, plugin in DUMMIES.items():
        live = getattr(registry, table)
        own = {"dummy": f"tests.plugins.{plugin.source.removesuffix('.py')}:{plugin.attribute}"}
        monkeypatch.setattr(live, "paths", own | live.paths if plugin.first else live.paths | own)
        monkeypatch.setattr(live, "_loaded", dict(live._loaded))


@pytest.mark.usefixtures("lines")
class TestTables:
    """Each room finds the plug-in in its table, in this process and without a model."""

    def test_sampler(self) -> None:
        """Euler's method removes all noise if the model predicts it exactly."""
        clean = torch.linspace(-1, 1, 4 * 8 * 8).reshape(1, 4, 8, 8)
        alphas = DDIMScheduler(**scheduler_arguments(NoiseSchedule())).alphas_cumprod

        def denoiser(latents: torch.Tensor, time: float) -> torch.Tensor:
            alpha_bar = alphas[round(time)]
            return (latents - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()

        noise = BatchNoise([job()], (4, 8, 8), torch.device("cpu"))
        steps = list(registry.SAMPLERS["dummy"].sample(denoiser, noise, Plan(4), NoiseSchedule()))
        assert [step.index for step in steps] == [0, 1, 2, 3]
        for step in steps:
            torch.testing.assert_close(step.denoised, clean, atol=1e-3, rtol=0)
        torch.testing.assert_close(steps[-1].latents, clean, atol=1e-3, rtol=0)

    def test_sampler_of_another_tool(self) -> None:
        assert split("Dummy Euler") == ("dummy", None)
        assert split("dummy_euler_karras") == ("dummy", "karras")

    def test_source_and_family(self) -> None:
        found = models.find(models.ModelRequest(model="dummy:x"))
        assert (found.spec.name, found.spec.family) == ("dummy:x", "dummy")
        assert families.get(found.spec.family).label == "CLIP"
        assert models.find(models.ModelRequest()).spec.family == "sd1"

    def test_safety_checker(self) -> None:
        checker = find_checker(
            "dummy", model_folder=None, safety_model="", offline=True, device="cpu", nsfw_threshold=0.5
        )
        assert checker is not None
        images = [np.full((8, 8, 3), level, np.float32) for level in (0.4, 0.6)]
        assert [verdict.flagged for verdict in checker.check(images)] == [False, True]

    def test_watermark_method(self) -> None:
        image = np.zeros((64, 64, 3), np.uint8)
        mark = choose("dummy", "dwtDct", 64, 64, "ours")
        assert not check(image, mark).found
        back = search(write(image, mark), "ours")
        assert back is not None
        assert (back.method, back.wrong_bits) == ("dummy", 0)

    def test_stage(self) -> None:
        source = models.find(models.ModelRequest())
        stages = Stages(StageContext(Settings(), source.spec, source, lambda pixels: pixels), ignore)
        assert [stage.name for stage in stages] == ["mirror", "safety", "watermark"]

    def test_format(self, tmp_path: Path) -> None:
        pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
        record = ImageRecord.new(job=job())
        path = tmp_path / "image.tif"
        path.write_bytes(encode(pixels, record.values(), a1111.write(job()), "dummy"))
        source = rerun.read(path)
        assert (source.pixels == pixels).all()
        assert source.record == record
        assert image_format(str(path)) == rerun.settings_of(source)["format"] == "dummy"
        with opened(path) as image:
            assert a1111.read({"UserComment": texts.read(image)["UserComment"]}) is not None

    def test_metadata_reader(self) -> None:
        found = provenance({"Dummy": '{"prompt": "a cat", "steps": "7", "mood": "calm"}'})
        assert found == Provenance("Dummy", settings={"prompt": "a cat", "steps": 7}, other={"mood": "calm"})

    def test_syntax(self) -> None:
        pieces = list(parse("a *red* cat", "dummy", 4).pieces())
        assert [(piece.text, piece.weight) for piece in pieces] == [("a ", 1), ("red", 2), (" cat", 1)]

    def test_executor(self) -> None:
        events: list[Event] = []
        source = models.find(models.ModelRequest())
        executor = registry.EXECUTORS["dummy"](
            source, device="cpu", precision="full", on_error="stop", progress=events.append
        )
        (results,) = executor.map([Batch([job()], [False])])
        assert results == [UnneededImage(job())]
        assert events[-1] == Note("counted 1 batches")
