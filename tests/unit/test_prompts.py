"""Prompt files: what is read, and what is refused."""

import pytest

from sdcli.errors import InputFileError
from sdcli.prompts import batches, read, read_lines
from sdcli.settings import Settings


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo", ["one", "two"]),
        (b"\xef\xbb\xbfone\n", ["one"]),
        ("ein Fuchs im Café\n一只猫\n🐱\n".encode(), ["ein Fuchs im Café", "一只猫", "🐱"]),
        (b"one\n\ntwo\n", ["one", "", "two"]),
        ("a\u2028b\x0bc\rd\n".encode(), ["a", "b", "c", "d"]),
    ],
)
def test_lines(tmp_path, data: bytes, lines: list[str]) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(data)
    settings = Settings.of(from_file=str(path), n_iter=3, n_samples=2)
    assert read(settings) == lines
    cut = list(batches(lines, settings))
    assert [line for batch in cut for line in batch] == lines * 3
    assert all(0 < len(batch) <= 2 for batch in cut)


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "empty"), (b"a cat\n\0\1\2", "binary"), (b"ok\ncaf\xe9\n", "not UTF-8"), (b"\xff\xfea\0", "binary")],
)
def test_what_is_no_prompt_file_is_refused(tmp_path, data: bytes, says: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(data)
    with pytest.raises(InputFileError, match=says):
        read_lines(path)


def test_the_line_and_byte_that_are_not_utf8_are_named(tmp_path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"ok\ncaf\xe9\n")
    with pytest.raises(InputFileError) as caught:
        read_lines(path)
    assert caught.value.why == "Line 2 holds the byte 0xe9."


def test_missing_and_folder_are_told_apart(tmp_path) -> None:
    with pytest.raises(InputFileError, match="does not exist"):
        read_lines(tmp_path / "none.txt")
    with pytest.raises(InputFileError, match="is a folder"):
        read_lines(tmp_path)


def test_a_pipe_is_read_once(tmp_path) -> None:
    import os
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("a cat\na dog\n"))
    writer.start()
    assert read(Settings.of(from_file=str(pipe))) == ["a cat", "a dog"]
    writer.join()
