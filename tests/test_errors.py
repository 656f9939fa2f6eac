"""Messages of errors: short, whatever they quote, and with their remedy."""

from __future__ import annotations

from mlx_oss.errors import CheckpointError, ConfigError, MlxOssError, ToolError, quoted, shortened


def test_a_message_keeps_its_beginning_and_its_remedy_however_long_a_name_is():
    message = str(CheckpointError(f"x.safetensors: tensor {'n' * 300_000} is missing: download it again"))
    assert len(message) <= 2000 and message.startswith("x.safetensors: tensor nnn")
    assert message.endswith("nnn is missing: download it again") and "more characters" in message


def test_a_short_message_and_what_the_model_reads_of_a_tool_stay_as_they_are():
    assert str(ConfigError("short")) == "short" and str(MlxOssError()) == ""
    assert str(ToolError("y" * 5000, "output")) == "y" * 5000


def test_a_quoted_value_is_short_however_large_or_deep_it_is():
    deep: object = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 300_000, list(range(10**6)), {str(n): n for n in range(1000)}, deep, 10**4000):
        assert len(quoted(value)) < 1000
    assert quoted("mxfp4") == "'mxfp4'" and quoted(3) == "3" and quoted({"a": [1]}) == "{'a': [1]}"
    while deep:  # taken apart from outside: freeing it at once would recurse
        deep = deep[0]  # type: ignore[index]


def test_a_shortened_text_says_how_much_is_left_out():
    text = "".join(map(str, range(5000)))
    short = shortened(text, 500)
    start, end = short.split(" [")[0], short.split("] ")[1]
    assert len(short) == 500 and text.startswith(start) and text.endswith(end)
