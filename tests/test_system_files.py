"""A folder with nothing but what a system has added is empty."""

from __future__ import annotations

import pytest

from mlx_oss.system_files import is_empty


@pytest.mark.parametrize("name", [".DS_Store", "._model.safetensors", ".localized", "Icon\r", "Thumbs.db"])
def test_a_folder_that_holds_only_what_a_system_adds_is_empty(tmp_path, name):
    assert is_empty(tmp_path)
    (tmp_path / name).write_bytes(b"\0\5\x16\7Mac OS X")
    assert is_empty(tmp_path)
    (tmp_path / "thesis.txt").touch()
    assert not is_empty(tmp_path)


def test_a_hidden_file_a_folder_and_a_file_in_the_place_of_the_folder_are_not_nothing(tmp_path):
    (tmp_path / ".mine").touch()
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / "._folder").mkdir()
    assert not is_empty(tmp_path) and not is_empty(tmp_path / "parent") and not is_empty(tmp_path / ".mine")
    assert not is_empty(tmp_path / "absent")


def test_a_users_file_with_such_a_name_is_not_nothing(tmp_path):
    (tmp_path / "._notes").write_bytes(b"my notes")
    assert not is_empty(tmp_path)
