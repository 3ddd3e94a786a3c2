"""Finding adapters by path, by name in a folder, and by what follows a path."""

from pathlib import Path

import pytest

from sdcli.errors import ModelError, ModelNotFound
from sdcli.models import adapters
from sdcli.settings import Settings, path_and_tail


@pytest.mark.parametrize(
    ("value", "path", "weights"),
    [
        ("a.safetensors", "a.safetensors", (1, 1)),
        ("a.safetensors:0.8", "a.safetensors", (0.8, 0.8)),
        ("a.safetensors:-1:.5", "a.safetensors", (-1, 0.5)),
        ("C:/x/a.pt:1:0", "C:/x/a.pt", (1, 0)),
        ("o/n@main:2", "o/n@main", (2, 2)),
        ("a:b", "a:b", (1, 1)),
    ],
)
def test_weights_of_a_lora(value: str, path: str, weights: tuple[float, float]) -> None:
    assert path_and_tail("lora", value)[0] == path
    assert adapters.weights(value) == weights


@pytest.mark.parametrize(
    ("value", "path", "word"),
    [("a.pt", "a.pt", ""), ("a.pt=cat toy", "a.pt", "cat toy"), ("x=1/a.pt", "x=1/a.pt", "")],
)
def test_the_word_of_an_embedding(value: str, path: str, word: str) -> None:
    assert path_and_tail("embedding", value)[0] == path
    assert adapters.word(value) == word


def test_a_name_in_the_folder_of_adapters(tmp_path: Path) -> None:
    for name in ("style.safetensors", "people/Anna.pt", "people/style.safetensors", "notes.txt", ".hidden/x.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name, expected in (
        ("style", "style.safetensors"),
        ("STYLE.safetensors", "style.safetensors"),
        ("anna", "people/Anna.pt"),
        ("people/style", "people/style.safetensors"),
    ):
        assert adapters.find(name, tmp_path) == tmp_path / expected
    for name in ("notes", "x", "../style", ""):
        with pytest.raises(ModelNotFound, match="there is no adapter"):
            adapters.find(name, tmp_path)
    with pytest.raises(ModelNotFound) as error:
        adapters.find("stile", tmp_path)
    assert "Did you mean style" in error.value.why
    with pytest.raises(ModelNotFound) as error:
        adapters.find("style", tmp_path / "none")
    assert error.value.why == "There is no such folder."


def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loras").mkdir()
    for given, expected in (
        ("loras", "is a folder"),
        ("loras/none.safetensors", "does not exist"),
        ("./none/a", "does not exist"),
        ("none/a.safetensors", "does not exist"),
        ("style.safetensors:x", "there is no adapter"),
    ):
        with pytest.raises(ModelError, match=expected):
            adapters.locate("lora", given, "adapters", offline=True)


def test_files_of_a_folder_of_embeddings(tmp_path: Path) -> None:
    for name in ("b.pt", "a.safetensors", "a.txt"):
        (tmp_path / name).touch()
    assert adapters.embeddings(["x.pt=y", str(tmp_path)]) == [
        "x.pt=y", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pt")
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match="has no embeddings"):
        adapters.embeddings([str(tmp_path / "empty")])


def test_one_value_and_several_are_the_same_setting() -> None:
    assert Settings.of(lora="a").lora == Settings.of(lora=["a"]).lora == ("a",)
    assert Settings.of(lora="").lora == Settings.of().lora == ()
