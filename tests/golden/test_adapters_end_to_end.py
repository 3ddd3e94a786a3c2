"""Rows with different adapters: each image is the one that is generated alone, is resumed and generated again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import kohya
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file
from samplers import NOISE_SCHEDULES, SmallModel

from sdcli import rerun
from sdcli.errors import ModelError, ModelNotFound, SkippedError
from sdcli.events import Note
from sdcli.metadata.a1111 import write
from sdcli.settings import Settings
from sdcli.txt2img import generate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    small = SmallModel(folder / "small", NOISE_SCHEDULES["v1"])
    save_file({name: each.contiguous() for name, each in kohya(small).items()}, folder / "style.safetensors")
    (folder / "adapters").mkdir()
    half = {name: each.contiguous() * 0.5 for name, each in kohya(small).items()}
    save_file(half, folder / "adapters" / "other.safetensors")
    (folder / "words").mkdir()
    torch.save({"string_to_param": {"*": torch.randn(2, 16)}}, folder / "words" / "toy.pt")
    torch.save({"string_to_param": {"*": torch.randn(2, 16)}}, folder / "words" / "unused.pt")
    AutoencoderTiny().save_pretrained(folder / "taesd")
    return folder


def settings(folder: Path, outdir: str, **values: Any) -> Settings:
    own = {
        "model": str(folder / "small"), "outdir": str(folder / outdir), "steps": 4, "n_samples": 2, "skip_grid": True,
        "no_watermark": True, "safety_checker": "off", "adapters": str(folder / "adapters"), "prompt": "a toy",
    }  # fmt: skip
    if "from_file" in values:
        del own["prompt"]
    return Settings.of(**(own | values))


def pixels(path: Path | None) -> Any:
    assert path is not None
    return np.asarray(Image.open(path))


def test_rows_with_different_adapters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    rows: list[dict[str, Any]] = [
        {"lora": "style.safetensors:0.8"},
        {},
        {"lora": ["style.safetensors:0.8:0", "other"]},
        {"embedding": "words"},
        {"vae": "taesd"},
        {"lora": "style.safetensors:0.8"},
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({"prompt": "a toy", "seed": 3, **row}) for row in rows))
    run = settings(folder, "rows", from_file="rows.jsonl")
    images = list(generate(run))
    found = [pixels(image.path) for image in images]
    assert np.array_equal(found[0], found[5])
    for number, row in enumerate(rows[:5]):
        assert sum(np.array_equal(found[number], other) for other in found) == (2 if number == 0 else 1)
        (alone,) = generate(
            settings(folder, f"alone-{number}", seed_mode="image", seed=3, n_samples=1, n_iter=1, **row)
        )
        assert np.array_equal(pixels(alone.path), found[number]), row

    lora, _, _, words, vae, _ = (image.job for image in images)
    assert lora.lora == ("style.safetensors:0.8",)
    assert list(lora.files) == ["style.safetensors"]
    assert words.embedding == ("words/toy.pt",), "the word of the other file is not in the prompt"
    assert vae.vae == "taesd/diffusion_pytorch_model.safetensors"
    assert f"VAE hash: {vae.files[vae.vae][:10]}, VAE: taesd, " in write(vae)
    assert f"Lora hashes: style: {lora.files['style.safetensors'][:12]}" in write(lora).replace('"', "")

    assert images[2].path is not None
    images[2].path.unlink()
    (again,) = generate(settings(folder, "rows", from_file="rows.jsonl", resume=str(folder / "rows")))
    assert np.array_equal(pixels(again.path), found[2])


def test_loras_that_prompts_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with --lora. Such an image is generated again without the folder of adapters."""
    monkeypatch.chdir(folder)
    prompts = ["a toy", "a <lora:Other:0.5> toy", "a toy <lora:other:0.5:1>", "a toy <lora:other:0>", "a toy"]
    (folder / "named.jsonl").write_text("\n".join(json.dumps({"prompt": text, "seed": 3}) for text in prompts))
    run = {"from_file": "named.jsonl", "prompt_syntax": "a1111"}
    images = list(generate(settings(folder, "named", **run)))
    assert [image.job.lora for image in images[1:4]] == [
        (f"{folder}/adapters/other.safetensors:{weights}",) for weights in ("0.5:0.5", "1:0.5", "0:0")
    ]
    plain, half, uneven, none, last = (pixels(image.path) for image in images)
    assert np.array_equal(plain, last)
    assert np.array_equal(plain, none)
    for found, value in ((half, "other:0.5"), (uneven, "other:1:0.5")):
        one = {"seed_mode": "image", "seed": 3, "n_samples": 1, "n_iter": 1, "lora": value}
        (alone,) = generate(settings(folder, "by-flag", **one))
        assert np.array_equal(pixels(alone.path), found)
        assert not np.array_equal(plain, found)

    path = images[2].path
    assert path is not None
    source = rerun.read(path)
    _, difference = rerun.rerun(source, lambda event: None, outdir=str(folder / "named-again"))
    assert difference is not None
    assert difference.identical

    assert f"--lora {folder}/adapters/other.safetensors:1:0.5" in rerun.command(source)

    heard: list[object] = []
    (weaker,) = generate(
        settings(folder, "by-both", **one, prompt="a toy <lora:other:0.7>", prompt_syntax="a1111"), heard.append
    )
    assert weaker.job.lora == (f"{folder}/adapters/other.safetensors:1:0.5",)
    assert Note("the LoRA other has the weights of --lora, not those in the prompt") in heard
    with pytest.raises(ModelNotFound, match="there is no adapter odther in"):
        list(generate(settings(folder, "missing", prompt="a toy <lora:odther:0.7>", prompt_syntax="a1111")))
    (folder / "bad.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"a <lora:{name}:1>"}) for name in ("x", "other"))
    )
    run |= {"from_file": "bad.jsonl", "on_error": "skip"}
    with pytest.raises(SkippedError):
        list(generate(settings(folder, "skipped", **run), heard.append))
    assert any("line 1: there is no adapter x in" in str(each) for each in heard)


def test_an_image_is_generated_again_with_the_files_of_its_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (image,) = generate(
        settings(
            folder,
            "first",
            lora="style.safetensors:0.5",
            embedding="words",
            vae="taesd",
            n_samples=1,
            n_iter=1,
            seed=4,
        )
    )
    assert image.path is not None
    source = rerun.read(image.path)
    line = rerun.command(source)
    for part in ("--lora style.safetensors:0.5", "--embedding words/toy.pt", "--vae taesd/diffusion_pytorch_model"):
        assert part in line
    _, difference = rerun.rerun(source, lambda event: None, outdir=str(folder / "again"))
    assert difference is not None
    assert difference.identical

    style = folder / "style.safetensors"
    kept = style.read_bytes()
    try:
        style.write_bytes((folder / "adapters" / "other.safetensors").read_bytes())
        with pytest.raises(ModelError, match="is not the file that generated"):
            rerun.rerun(source, lambda event: None, outdir=str(folder / "again"))
        style.unlink()
        with pytest.raises(ModelNotFound, match="is not found"):
            rerun.rerun(source, lambda event: None, outdir=str(folder / "again"))
    finally:
        style.write_bytes(kept)
