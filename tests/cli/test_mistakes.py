"""Natural mistakes at the command line: each is told in a line that says what is wrong, where, and what to do.

A row has the arguments as they are typed, and what the message has to contain: what is wrong, and the remedy.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from mlx_oss.cli import main

MISTAKES: list[tuple[str, str, str]] = [
    # The command
    ("", "name a command", "`mlx-oss chat`"),
    ("cht Hi", "no command 'cht'", "did you mean chat?"),
    ("Chat Hi", "no command 'Chat'", "did you mean chat?"),
    ("genrate Hi", "no command 'genrate'", "did you mean generate?"),
    ("run 20b", "no command 'run'", "did you mean chat?"),
    ("list", "no command 'list'", "did you mean models?"),
    ("download 20b", "no command 'download'", "did you mean pull?"),
    ("remove 20b", "no command 'remove'", "did you mean rm?"),
    ("help", "no command 'help'", "did you mean --help?"),
    ("server", "no command 'server'", "did you mean serve?"),
    ("'What is the capital of France?'", "is not a command", '`mlx-oss chat "QUESTION"`'),
    ("--model 20b chat Hi", "'--model' stands before the command", "`mlx-oss COMMAND --model ...`"),
    # Options and their values
    ("chat --temprature 1 Hi", "no option --temprature", "did you mean --temperature?"),
    ("chat --top_p 0.5 Hi", "no option --top_p", "did you mean --top-p?"),
    ("chat --maxtokens=5 Hi", "no option --maxtokens", "did you mean --max-tokens?"),
    ("chat --no-histroy Hi", "no option --no-histroy", "did you mean --no-history?"),
    ("chat --josn Hi", "no option --josn", "did you mean --json?"),
    ("chat --verbose Hi", "no option --verbose", "`mlx-oss chat --help`"),
    ("chat --stream Hi", "no option --stream", "`mlx-oss chat --help`"),
    ("chat -t 0.5 Hi", "no option -t", "`mlx-oss chat --help`"),
    ("chat --m 20b Hi", "--m may mean --model", "or --mcp"),
    ("chat --json=yes Hi", "--json takes no value", "`mlx-oss chat --help`"),
    ("chat --model", "--model needs a value", "`mlx-oss chat --help`"),
    ("chat -m", "--model needs a value", "`mlx-oss chat --help`"),
    ("chat -f", "--file needs a value", "`mlx-oss chat --help`"),
    ("chat --temperature hot Hi", "--temperature is 'hot'", "give a number, such as 0.7"),
    ("chat --temperature 0,7 Hi", "--temperature is '0,7'", "give a number, such as 0.7"),
    ("chat --temperature -1 Hi", "--temperature is -1.0", "from 0 to 100"),
    ("chat --temperature nan Hi", "--temperature is nan", "from 0 to 100"),
    ("chat --top-p 50 Hi", "--top-p is 50.0", "from 0 to 1"),
    ("chat --top-p 0 Hi", "--top-p is 0", "use temperature 0"),
    ("chat --top-k 1.5 Hi", "--top-k is '1.5'", "give a whole number"),
    ("chat --top-k -1 Hi", "--top-k is -1", "a whole number from 0"),
    ("chat --min-p 2 Hi", "--min-p is 2.0", "from 0 to 1"),
    ("chat --repetition-penalty 0 Hi", "--repetition-penalty is 0.0", "from 0.01"),
    ("chat --seed abc Hi", "--seed is 'abc'", "give a whole number"),
    ("chat --seed -1 Hi", "--seed is -1", "from 0 to 2^64 - 1"),
    ("chat --max-tokens 1k Hi", "--max-tokens is '1k'", "give a whole number"),
    ("chat --max-tokens 0 Hi", "--max-tokens is 0", "at least 1"),
    ("chat --context 128k Hi", "--context is '128k'", "give a whole number"),
    ("chat --context 999999999 Hi", "--context is 999999999", "1 to 4,096 tokens"),
    ("chat --memory 8 Hi", "'8' is a number of bytes", "as in 8GB"),
    ("chat --memory lots Hi", "'lots' is not a size of memory", "such as|like 8GB"),
    ("chat --memory 1MB Hi", "needs at least", "allow more memory"),
    ("chat --dtype fp32 Hi", "--dtype is 'fp32'", "give auto, float32 or bfloat16"),
    ("chat --reasoning max Hi", "--reasoning is 'max'", "give none, low, medium or high"),
    ("chat --reasoning hihg Hi", "--reasoning is 'hihg'", "did you mean high?"),
    ("chat --max-reasoning-tokens -1 Hi", "--max-reasoning-tokens is -1", "at least 0"),
    ("chat --response-format nowhere.json Hi", "nowhere.json cannot be read", "give a file with a JSON schema"),
    ("chat --response-format broken.json Hi", "broken.json is not JSON", "give a file with a JSON schema"),
    ("chat --response-format list.json Hi", "list.json is not a JSON schema", "give a file with a JSON object"),
    ("chat -c Hi", "no conversation is kept yet", "begin one with `mlx-oss chat`"),
    ("chat -c --response-format broken.json Hi", "broken.json is not JSON", "give a file"),
    ("chat -c --max-reasoning-tokens 5 Hi", "--max-reasoning-tokens cannot change", "leave out"),
    # Texts and tools
    ("chat", "there is no question", '`mlx-oss chat "QUESTION"`'),
    ("chat -f nowhere.txt Hi", "nowhere.txt cannot be read (No such file", "give a text file"),
    ("chat -f photo.png Hi", "photo.png is not text", "give text in UTF-8"),
    ("chat -f latin.txt Hi", "latin.txt is not text in UTF-8", "`iconv -f ENCODING -t UTF-8`"),
    ("chat -f folder Hi", "it is a folder, not a file", "give a text file"),
    ("chat --tool nothing Hi", "'nothing' is not a tool", "give python, browser=FOLDER"),
    ("chat --tool browser Hi", "'browser' is not a tool", "browser=FOLDER"),
    ("chat --tool browser=nowhere Hi", "nowhere is not a folder", "give one with"),
    ("chat --tool patch=notes.txt --yes Hi", "notes.txt is not a folder", "give one whose files"),
    ("chat --tool wrong.py Hi", "wrong.py cannot be loaded (SyntaxError", "correct the file"),
    ("chat --tool empty.py Hi", "empty.py has no public function with a docstring", "add one"),
    ("chat --tool nowhere.py Hi", "nowhere.py cannot be read", "give a Python file"),
    ("chat --tool python=limits Hi", "there is no terminal", "give --yes"),
    # Models
    ("chat -m 21b Hi", "21b does not exist", "did you mean 20b?"),
    ("chat -m gpt-oss:20b Hi", "gpt-oss:20b does not exist", "did you mean openai/gpt-oss-20b?"),
    ("chat -m llama Hi", "llama does not exist", "give a folder, 20b, 120b, nano"),
    ("chat -m ./nowhere Hi", "nowhere does not exist", "give the folder that holds config.json"),
    ("chat -m notes.txt Hi", "notes.txt is not a folder", "give the folder that holds config.json"),
    ("chat -m folder Hi", "folder contains no *.safetensors file", "give the folder of a model"),
    ("chat -m gguf Hi", "gguf holds GGUF files", "use the model in Hugging Face's format"),
    ("chat -m torch Hi", "torch holds PyTorch *.bin files", "save it with save_pretrained"),
    ("chat -m damaged Hi", "damaged/model.safetensors is truncated", "download or save it again"),
    ("pull", "NAME is missing", "`mlx-oss pull --help`"),
    ("pull 21b", "21b is not the name of a model", "did you mean 20b?"),
    ("pull nano", "nano comes with mlx-oss", "neither downloaded nor removed"),
    ("rm 20b", "openai/gpt-oss-20b is not on this disk", "`mlx-oss models` lists what is"),
    ("rm folder", "folder is not the name of a model", "give 20b, 120b"),
    ("models 20b", "no place for '20b'", "`mlx-oss models --help`"),
    ("config set model 20b", "no place for 'set'", "`mlx-oss config --help`"),
    # The other commands
    ("generate", "prompt is missing", "`mlx-oss generate --help`"),
    ("generate a b", "no place for 'b'", "`mlx-oss generate --help`"),
    ("generate Hi --raw --tool python --yes", "--raw continues the prompt", "leave out --raw or --tool"),
    ("plan 20b 120b", "no place for '120b'", "`mlx-oss plan --help`"),
    ("plan nan", "nan does not exist", "did you mean nano?"),
    ("plan --memory 0", "'0' is not a size of memory", "like 8GB"),
    ("plan --chunk 0", "--chunk is 0", "at least 1 token"),
    ("plan --macs 20b", "--macs shows the released models", "give no folder"),
    ("plan damaged", "damaged/model.safetensors is truncated", "download or save it again"),
    ("bench --prompt", "--prompt needs a value", "`mlx-oss bench --help`"),
    ("bench --repeats 0", "at least 1 repetition", "2 generated tokens"),
    ("bench --compare llamacpp", "--compare is 'llamacpp'", "did you mean llama.cpp?"),
    ("bench --compare vllm", "--compare is 'vllm'", "give mlx-lm, mlx-lm-float32 or llama.cpp"),
    ("convert", "SRC and DST are missing", "`mlx-oss convert --help`"),
    ("convert folder", "DST is missing", "`mlx-oss convert --help`"),
    ("convert nano notes.txt", "already exists", "choose another target"),
    ("convert nano out --profile q5", "--profile is 'q5'", "give bf16, q8 or q4"),
    ("convert nano out --set experts", "--set experts", "expected MODULE=PROFILE"),
    ("convert nano out --set lm_hed=q8", "--set lm_hed", "give a name such as"),
    ("convert nano out --adapter nowhere", "nowhere does not exist", "give the folder with"),
    ("verify nowhere", "nowhere does not exist", "give a folder"),
    ("verify damaged", "damaged/model.safetensors is truncated", "download or save it again"),
    ("verify nano --adapter folder", "only compared together with its source", "--source SRC"),
    ("render", "conversation is missing", "`mlx-oss render --help`"),
    ("render nowhere.json", "nowhere.json cannot be read", "give a text file"),
    ("render notes.txt", "notes.txt is not JSON", "give a list of messages"),
    ("parse notes.txt", "notes.txt is not JSON", "--text for plain text"),
    ("parse list.json --role user", "--role is 'user'", "give auto, assistant or none"),
    ("completion", "name a shell", "bash, zsh or fish"),
    ("completion powershell", "SHELL is 'powershell'", "give bash, zsh or fish"),
]
NOTE = re.compile(r"This is nano, .*\nmlx-oss chat --model openai/gpt-oss-20b\n")
PYTHON_WORDS = re.compile(r"\bNone\b|\bTrue\b|\bFalse\b|text_only|Traceback|\bdict\b|\bstr\b|\bint\b|\w+_\w+ is ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with what mistakes are made with."""
    home = tmp_path_factory.mktemp("mistakes")
    texts = {"notes.txt": "The sky is green.\n", "broken.json": "{", "list.json": '["a"]', "empty.py": "x = 1\n"}
    for name, text in (texts | {"wrong.py": "def f(:\n"}).items():
        (home / name).write_text(text)
    (home / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff")
    (home / "latin.txt").write_bytes("café".encode("latin-1"))
    for name in ("folder", "gguf", "torch", "damaged"):
        (home / name).mkdir()
    (home / "gguf" / "model.gguf").write_bytes(b"GGUF")
    for name in ("torch", "damaged"):
        (home / name / "config.json").write_text("{}")
    (home / "torch" / "pytorch_model.bin").write_bytes(b"x")
    (home / "damaged" / "model.safetensors").write_bytes(b"xx")
    return home


def test_the_table_is_long_and_without_repetitions():
    assert len({typed for typed, *_ in MISTAKES}) == len(MISTAKES) >= 70


@pytest.mark.parametrize(("typed", "what", "remedy"), MISTAKES, ids=[typed for typed, *_ in MISTAKES])
def test_a_mistake_is_told_in_a_line_with_what_to_do(typed, what, remedy, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLX_OSS_MODEL", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hub"))
    with open(os.devnull, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        status = main(shlex.split(typed))
    out, err = capsys.readouterr()
    err = NOTE.sub("", err)
    assert status == (4 if typed.split()[-1:] == ["damaged"] or "-m damaged" in typed else 2)
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and len(err) <= 240
    assert what in err and re.search("|".join(map(re.escape, remedy.split("|"))), err.partition(what)[2] or err), err
    assert not PYTHON_WORDS.search(err), err
