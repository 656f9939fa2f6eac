"""Responses are kept as long as there is room, for nobody else to read, and in a file also after the process."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import OptionError
from mlx_oss.server.responses.store import Store, Stored


def stored(number: int, previous: int | None = None, size: int = 10) -> Stored:
    output = [{"id": f"msg_out{number}", "type": "message", "text": "x" * size}]
    response = {"id": f"resp_{number}", "previous_response_id": previous and f"resp_{previous}", "output": output}
    return Stored(response, [{"id": f"msg_in{number}", "type": "message"}])


def ids(items: Any) -> list[str]:
    return [item["id"] for item in items]


@pytest.fixture(params=["memory", "file"])
def path(request, tmp_path) -> Path | None:
    return tmp_path / "responses" if request.param == "file" else None


def test_a_response_and_its_items_are_found_until_it_is_deleted(path):
    store = Store(path)
    store.keep(stored(1))
    assert store.get("resp_1") == stored(1)
    assert store.item("msg_in1") == stored(1).items[0] and store.item("msg_out1") is not None
    assert store.delete("resp_1") and not store.delete("resp_1")
    assert store.get("resp_1") is store.item("msg_in1") is store.conversation("resp_1") is None


def test_a_conversation_is_what_all_of_its_responses_say(path):
    store = Store(path)
    for number, previous in ((1, None), (2, 1), (3, 2), (4, 1)):
        store.keep(stored(number, previous))
    assert ids(store.conversation("resp_3")) == [f"msg_{way}{number}" for number in (1, 2, 3) for way in ("in", "out")]
    assert ids(store.conversation("resp_4")) == [f"msg_{way}{number}" for number in (1, 4) for way in ("in", "out")]
    store.delete("resp_2")
    assert store.conversation("resp_3") is None and store.conversation("resp_4") is not None


def test_what_was_used_longest_ago_is_forgotten_and_a_conversation_is_used_as_a_whole(path):
    store = Store(path, limit=6000)
    for number in range(1, 5):
        store.keep(stored(number, size=1000))
    store.keep(stored(5, previous=1, size=1000))
    assert store.conversation("resp_5")
    for number in range(6, 9):
        store.keep(stored(number, size=1000))
    kept = [number for number in range(1, 9) if store.get(f"resp_{number}")]
    assert 1 in kept and 5 in kept and 2 not in kept and len(kept) == 5
    store.keep(stored(9, size=7000))
    assert store.get("resp_9") is None


def test_a_file_lasts_and_only_its_user_can_read_it(tmp_path):
    path = tmp_path / "responses"
    path.touch(0o666)
    path.chmod(0o666)
    store = Store(path, limit=2500)
    store.keep(stored(1, size=1000))
    store.keep(stored(2, size=1000))
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    store.close()
    store = Store(path, limit=2500)
    assert store.get("resp_1") == stored(1, size=1000)
    store.keep(stored(3, size=1000))
    assert store.get("resp_1") is None and store.get("resp_3") is not None


def test_two_servers_can_share_a_file(tmp_path):
    one, other = Store(tmp_path / "responses"), Store(tmp_path / "responses")
    one.keep(stored(1))
    other.keep(stored(2, previous=1))
    assert ids(one.conversation("resp_2")) == ["msg_in1", "msg_out1", "msg_in2", "msg_out2"]


def test_a_file_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "text").write_text("This is not a database, " * 99)
    with pytest.raises(OptionError, match=r"text' .*: give another file"):
        Store(tmp_path / "text")
    assert (tmp_path / "text").read_text().startswith("This is not")
    with pytest.raises(OptionError, match="give another file"):
        Store(tmp_path / "no" / "folder")
    with pytest.raises(OptionError, match="give another file"):
        Store(tmp_path)
    file = sqlite3.connect(tmp_path / "later")
    file.execute("PRAGMA user_version = 7")
    file.close()
    with pytest.raises(OptionError, match="the format 7, of another version"):
        Store(tmp_path / "later")
    file = sqlite3.connect(tmp_path / "other")
    file.execute("CREATE TABLE responses (x)")
    file.close()
    with pytest.raises(OptionError, match=r"a database of another program.*: give another file"):
        Store(tmp_path / "other")


def test_a_file_of_another_program_stays_as_it_was(tmp_path):
    (tmp_path / "text").write_text("root:x:0:0:root:/root:/bin/bash")
    file = sqlite3.connect(tmp_path / "database")
    file.execute("CREATE TABLE bookmarks (x)")
    file.close()
    for path in list(tmp_path.iterdir()):
        path.chmod(0o644)
        before = path.read_bytes()
        with pytest.raises(OptionError, match="give another file"):
            Store(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644 and path.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"text", "database"}


def test_nothing_is_kept_of_a_response_that_cannot_be_written(path):
    store = Store(path)
    broken = Stored({**stored(1).response, "x": {1, 2}}, [])
    with pytest.raises(TypeError):
        store.keep(broken)
    assert store.get("resp_1") is None
    store.keep(stored(1))
    assert store.get("resp_1") == stored(1)
