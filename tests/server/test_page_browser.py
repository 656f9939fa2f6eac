"""The page in a browser: what a reader does there, and what happens when something goes wrong.

Needs the package playwright and a Chromium: Debian's, or the one of `playwright install chromium`. What axe-core checks
needs its file axe.min.js too, which `npm pack axe-core` brings: the environment variable MLX_OSS_AXE names it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import DeviceError, load_tokenizer
from tests.engines import wait_until
from tests.server.page_server import FINAL, PYTHON, THINK, WEATHER, Typist, page_server

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright and a Chromium")
Page = Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = os.environ.get("MLX_OSS_AXE")
RICH = """\
# Oslo

Some **words** and `code`, see https://example.com/a.

| a | b |
|---|--:|
| 1 | 2 |

```python
print(1)
```

The end.
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"needs a Chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def opened(browser) -> Iterator[Callable[..., Page]]:
    """opened(url): the page. Whatever the browser complains about, or a request elsewhere, fails the test."""
    contexts, complaints = [], list[str]()

    def open_page(url: str, *, context: Any = None, **options: Any) -> Page:
        if context is None:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            contexts.append(context)
            context.grant_permissions(["clipboard-read", "clipboard-write"])
            context.set_default_timeout(8_000)
        tab = context.new_page()
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("console", lambda message: _complain(message, complaints))
        tab.on("request", lambda request: _is_own(request.url, url) or complaints.append(f"asks {request.url}"))
        tab.goto(url)
        tab.wait_for_selector("#thread > *, #key[open]")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def _complain(message: Any, complaints: list[str]) -> None:
    if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
        complaints.append(message.text)


def _is_own(asked: str, url: str) -> bool:
    return asked.startswith((url.partition("#")[0].rstrip("/"), "data:", "blob:"))


def ask(tab: Page, text: str) -> None:
    tab.fill("#question", text)
    tab.keyboard.press("Enter")


def answered(tab: Page, text: str) -> None:
    """Waits until the last answer has ended and has this text."""
    tab.wait_for_selector(".turn:last-child .answer .actions")
    shown = tab.inner_text(".turn:last-child .answer")
    assert text in shown, shown


def eventually(tab: Page, condition: str) -> None:
    """Waits for an expression to become true. `wait_for_function` would need `eval`, which the page forbids."""
    for _ in range(400):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(20)
    raise AssertionError(f"it never happened: {condition}")


def titles(tab: Page) -> list[str]:
    return tab.locator("#conversations a").all_inner_texts()


def test_a_question_is_answered_in_markdown_and_a_reload_shows_the_same(opened):
    with page_server(Typist(THINK.format("Let me see.") + FINAL.format(RICH))) as server:
        tab = opened(server.url)
        assert tab.evaluate("document.activeElement.id") == "question"
        ask(tab, "Tell me about Oslo")
        answered(tab, "The end.")
        before = tab.inner_html(".prose").replace("</div><div>", "")
        assert re.search(r"<h3>Oslo</h3>.*<strong>words</strong>.*<table>.*<span>python</span>", before, re.DOTALL)
        assert tab.evaluate("document.activeElement.id") == "question"
        assert "tokens/s" in tab.inner_text("#stats") and "% of the context" in tab.inner_text("#stats")
        tab.reload()
        tab.wait_for_selector(".prose h3")
        assert tab.inner_html(".prose").replace("</div><div>", "") == before
        assert titles(tab) == ["Tell me about Oslo"]
        tab.click(".fold summary")
        assert "Let me see." in tab.inner_text(".reasoning")


def test_the_model_reads_the_conversation(opened):
    engine = Typist("One.", "Two.")
    with page_server(engine) as server:
        tab = opened(server.url)
        tab.select_option("#effort", "high")
        tab.click("#open-instructions")
        tab.fill("#instructions-text", "Be brief.")
        tab.click("#instructions .main")
        ask(tab, "First")
        answered(tab, "One.")
        ask(tab, "Second")
        answered(tab, "Two.")
    prompt = load_tokenizer().decode(list(engine.requests[-1].prompt))
    for text in ("Reasoning: high", "Be brief.", "First", "One.", "Second"):
        assert text in prompt


def test_an_answer_can_be_stopped_and_asked_for_again(opened):
    engine = Typist(FINAL.format("word " * 400), "Better.", delay=0.02)
    with page_server(engine) as server:
        tab = opened(server.url)
        ask(tab, "Hi")
        tab.wait_for_selector(".prose:has-text('word word')")
        tab.keyboard.press("Escape")
        answered(tab, "Stopped.")
        wait_until(lambda: server.service.metrics.running == 0)
        assert "word word" in tab.inner_text(".prose") and engine.written < 350
        tab.click("text=Try again")
        answered(tab, "Better.")
        assert tab.inner_text(".which") == "2 / 2"
        tab.click(".back")
        assert "word word" in tab.inner_text(".prose")
        tab.reload()
        tab.wait_for_selector(".which")
        assert tab.inner_text(".which") == "1 / 2"


def test_a_question_can_be_edited_and_the_edit_undone(opened):
    engine = Typist("One.", "Two.", "Three.")
    with page_server(engine) as server:
        tab = opened(server.url)
        for question, reply in (("First", "One."), ("Second", "Two.")):
            ask(tab, question)
            answered(tab, reply)
        tab.hover(".turn:first-child .bubble")
        tab.click(".turn:first-child .edit")
        assert tab.evaluate("document.activeElement.value") == "First"
        tab.keyboard.press("End")
        tab.keyboard.type("ly")
        tab.keyboard.press("Enter")
        answered(tab, "Three.")
        assert tab.locator(".bubble").all_inner_texts() == ["Firstly"] and titles(tab) == ["Firstly"]
        assert "One." not in load_tokenizer().decode(list(engine.requests[-1].prompt))
        tab.click("text=Undo")
        tab.wait_for_selector(".turn:nth-child(2)")
        assert tab.locator(".bubble").all_inner_texts() == ["First", "Second"]


def test_arrow_up_in_an_empty_field_edits_the_last_question_and_escape_leaves_it(opened):
    with page_server(Typist("One.")) as server:
        tab = opened(server.url)
        ask(tab, "First")
        answered(tab, "One.")
        tab.keyboard.press("ArrowUp")
        assert tab.evaluate("document.activeElement.value") == "First"
        tab.keyboard.press("Escape")
        assert tab.inner_text(".bubble") == "First"
        assert tab.evaluate("document.activeElement.ariaLabel") == "Edit the question"


def test_shift_enter_is_a_new_line(opened):
    with page_server(Typist("One.")) as server:
        tab = opened(server.url)
        tab.keyboard.type("a")
        tab.keyboard.press("Shift+Enter")
        tab.keyboard.type("b")
        tab.keyboard.press("Enter")
        answered(tab, "One.")
        assert tab.inner_text(".bubble") == "a\nb"


def test_enter_that_ends_the_choice_of_a_character_sends_nothing(opened):
    with page_server(Typist("One.")) as server:
        tab = opened(server.url)
        tab.fill("#question", "日本")
        tab.evaluate(
            "question.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true }))"
        )
        assert tab.input_value("#question") == "日本" and tab.locator(".turn").count() == 0
        tab.keyboard.press("Enter")
        answered(tab, "One.")


def test_what_was_typed_is_there_after_a_reload(opened):
    with page_server(Typist()) as server:
        tab = opened(server.url)
        tab.keyboard.type("Half a quest")
        tab.reload()
        tab.wait_for_selector(".empty")
        assert tab.input_value("#question") == "Half a quest" and tab.is_enabled("#send")


def test_another_model_can_be_chosen_and_the_demonstration_says_what_it_is(opened):
    engine = Typist("One.")
    with page_server(engine) as server:
        server.service.models._others = lambda: ["nano"]
        tab = opened(server.url)
        assert tab.inner_text(".empty h2") == "gpt-oss-20b is ready"
        tab.select_option("#model", "nano")
        assert "demonstration model" in tab.inner_text(".empty")
        ask(tab, "Hi")
        answered(tab, "One.")
        assert [model.name for model in server.service.models.loaded] == ["nano"]


def test_a_fork_is_a_copy(opened):
    with page_server(Typist("One.", "Two.", "Three.")) as server:
        tab = opened(server.url)
        for question, reply in (("First", "One."), ("Second", "Two.")):
            ask(tab, question)
            answered(tab, reply)
        tab.hover(".turn:first-child .prose")
        tab.click(".turn:first-child [aria-label='Continue from here in a new chat']")
        eventually(tab, "document.querySelectorAll('.turn').length === 1")
        ask(tab, "Third")
        answered(tab, "Three.")
        assert sorted(titles(tab)) == ["First", "First (fork)"]
        tab.click("#conversations a:text-is('First')")
        tab.wait_for_selector("text=Two.")
        assert tab.locator(".bubble").all_inner_texts() == ["First", "Second"]


def test_code_runs_when_the_reader_says_so(opened):
    with page_server(Typist(PYTHON.format("print(1)"), FINAL.format("Done.")), tools=True) as server:
        tab = opened(server.url)
        ask(tab, "Compute")
        tab.wait_for_selector(".ask")
        assert server.ran == [] and "print(1)" in tab.inner_text(".call pre")
        tab.keyboard.press("Enter")  # which was meant for the question
        tab.wait_for_timeout(200)
        assert server.ran == []
        tab.keyboard.press("Shift+Tab")
        assert tab.evaluate("document.activeElement.textContent") == "Run"
        tab.keyboard.press("Enter")
        answered(tab, "Done.")
        assert server.ran == ["print(1)"] and "python" in tab.inner_text(".call summary")
        tab.reload()
        tab.click(".call summary")
        assert tab.locator(".call pre").all_inner_texts() == ["print(1)", "ran 1"]


def test_code_does_not_run_when_the_reader_refuses(opened):
    with page_server(Typist(PYTHON.format("print(1)"), FINAL.format("Pity.")), tools=True) as server:
        tab = opened(server.url)
        ask(tab, "Compute")
        tab.click(".ask .plain >> nth=0")
        answered(tab, "Pity.")
        assert server.ran == [] and "was not run" in tab.inner_text(".call summary")


def test_a_tool_that_may_always_run_asks_once(opened):
    answers = [PYTHON.format("1"), PYTHON.format("2"), FINAL.format("Done.")]
    with page_server(Typist(*answers), tools=True) as server:
        tab = opened(server.url)
        ask(tab, "Compute")
        tab.click("text=Always run")
        answered(tab, "Done.")
        assert server.ran == ["1", "2"]


def test_a_tool_can_be_turned_off(opened):
    engine = Typist(WEATHER, FINAL.format("It is warm."), "No idea.")
    with page_server(engine, tools=True) as server:
        tab = opened(server.url)
        ask(tab, "Weather?")
        answered(tab, "It is warm.")
        tab.click("#tools summary")
        tab.uncheck("#tool-list label:has-text('weather') input")
        tab.keyboard.press("Escape")
        assert "1" in tab.inner_text("#tools summary")
        ask(tab, "And now?")
        answered(tab, "No idea.")
    assert "Tells the weather" not in load_tokenizer().decode(list(engine.requests[-1].prompt))


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "<script>document.title = 'x'</script>"])
def test_nothing_runs_that_a_model_a_tool_or_the_reader_wrote(opened, text):
    answers = [
        THINK.format(text) + PYTHON.format(f"# {text}"),
        FINAL.format(f"{text}\n\n```\n{text}\n```\n![i](x.png)"),
    ]
    with page_server(Typist(*answers), tools=True) as server:
        tab = opened(server.url)
        tab.on("dialog", lambda dialog: pytest.fail("a script ran"))
        ask(tab, text)
        tab.click(".ask .main")
        answered(tab, text)
        tab.reload()
        answered(tab, text)
        assert tab.locator("#thread img, #thread script").count() == 0
        assert tab.inner_text(".bubble") == text and titles(tab) == [text]


def test_a_conversation_is_exported_as_markdown(opened):
    answers = [THINK.format("Hm.") + PYTHON.format("print('```')"), FINAL.format("# Done\n\n*well*")]
    with page_server(Typist(*answers), tools=True) as server:
        tab = opened(server.url)
        ask(tab, "Compute: it?")
        tab.click(".ask .main")
        answered(tab, "well")
        with tab.expect_download() as download:
            tab.click("#export")
        assert download.value.suggested_filename == "Compute it.md"
        text = Path(download.value.path()).read_text()
    assert text.startswith("# Compute: it?\n\n## Question\n\nCompute: it?\n\n## Answer\n\n<details>")
    assert "````python\nprint('```')\n````" in text and "ran 1" in text and text.endswith("# Done\n\n*well*\n")


def test_code_is_copied(opened):
    with page_server(Typist("```python\nprint(1)\n```")) as server:
        tab = opened(server.url)
        ask(tab, "Code")
        answered(tab, "print(1)")
        tab.click(".copy")
        assert tab.evaluate("navigator.clipboard.readText()") == "print(1)\n"
        assert tab.inner_text(".copy") == "Copied"


def test_an_address_that_is_not_secure_takes_nothing_away(opened, browser):
    """Over http, from another machine, browsers give less: no clipboard, no random ids."""
    context = browser.new_context()
    context.add_init_script(
        """delete Crypto.prototype.randomUUID; Object.defineProperty(navigator, "clipboard", { value: undefined });"""
    )
    with page_server(Typist("```\nprint(1)\n```")) as server:
        tab = opened(server.url, context=context)
        ask(tab, "Code")
        answered(tab, "print(1)")
        tab.click(".copy")
        assert tab.inner_text(".copy") == "Copied"
        tab.focus("#question")
        tab.keyboard.press("Control+v")
        assert tab.input_value("#question") == "print(1)\n"
        context.close()


def test_a_conversation_is_deleted_and_comes_back(opened):
    with page_server(Typist("One.")) as server:
        tab = opened(server.url)
        ask(tab, "First")
        answered(tab, "One.")
        tab.hover("#conversations li")
        tab.click("#conversations li button")
        tab.wait_for_selector(".empty")
        assert titles(tab) == []
        tab.click("text=Undo")
        tab.wait_for_selector("text=One.")
        tab.wait_for_selector("#conversations a:text-is('First')")


def test_a_title_is_the_beginning_of_the_question_and_can_be_changed(opened):
    with page_server(Typist("One.")) as server:
        tab = opened(server.url)
        ask(tab, "What is the meaning of life, the universe and everything else that there is?\nSay it.")
        answered(tab, "One.")
        assert titles(tab) == ["What is the meaning of life, the universe and everything …"]
        tab.fill("#title", "Life")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#conversations a:text-is('Life')")
        tab.reload()
        tab.wait_for_selector("text=One.")
        assert titles(tab) == ["Life"] and tab.title().startswith("Life")


def test_what_was_written_is_there_after_a_reload_in_the_middle(opened):
    engine = Typist(FINAL.format("word " * 400), delay=0.02)
    with page_server(engine) as server:
        tab = opened(server.url)
        ask(tab, "Hi")
        tab.wait_for_selector(".prose p")
        wait_until(lambda: engine.written > 100)
        tab.reload()
        tab.wait_for_selector(".turn")
        assert "word word" in tab.inner_text(".prose") and "interrupted" in tab.inner_text(".notice")
        wait_until(lambda: server.service.metrics.running == 0)


def test_an_answer_goes_on_while_the_reader_looks_at_another_conversation(opened):
    engine = Typist("One.", FINAL.format("word " * 60 + "end."))
    with page_server(engine) as server:
        tab = opened(server.url)
        ask(tab, "First")
        answered(tab, "One.")
        engine.gate.clear()
        tab.keyboard.press("Control+Shift+o")
        ask(tab, "Second")
        tab.click("#conversations a:text-is('First')")
        tab.wait_for_selector("text=One.")
        assert tab.locator("#conversations li.busy").count() == 1
        engine.gate.set()
        eventually(tab, "!document.querySelector('#conversations li.busy')")
        tab.click("#conversations a:text-is('Second')")
        answered(tab, "end.")


def test_a_server_that_ends_and_comes_back(opened):
    engine = Typist(FINAL.format("word " * 400), "Back.", delay=0.02)
    with page_server(engine) as server:
        tab = opened(server.url)
        port = int(server.url.rpartition(":")[2])
        ask(tab, "Hi")
        tab.wait_for_selector(".prose p")
        server.abort()
    answered(tab, "The connection was lost while the answer was written.")
    assert "word" in tab.inner_text(".prose")
    tab.click("text=Try again")
    answered(tab, "The server cannot be reached.")
    tab.wait_for_selector("#banner:has-text('cannot be reached')")
    with page_server(engine, port=port):
        tab.wait_for_selector("#banner", state="hidden")
        tab.click("text=Try again")
        answered(tab, "Back.")


def test_an_error_of_the_model_is_shown_with_what_was_written(opened):
    ids = load_tokenizer().encode_with_specials("<|channel|>final<|message|>Hello there")
    engine = Typist([*ids, DeviceError("The memory is used up: close other programs.")], "Better.")
    with page_server(engine) as server:
        tab = opened(server.url)
        ask(tab, "Hi")
        answered(tab, "The memory is used up: close other programs.")
        assert tab.inner_text(".prose") == "Hello there"
        tab.click("text=Try again")
        answered(tab, "Better.")


def test_a_busy_server_is_asked_again(opened):
    engine = Typist(FINAL.format("word " * 50), "Mine.")
    engine.gate.clear()
    with page_server(engine, most_requests=1) as server:
        one, other = opened(server.url), opened(server.url)
        ask(one, "Hi")
        wait_until(lambda: server.service.metrics.running == 1)
        ask(other, "Me too")
        other.wait_for_selector("text=The server is busy")
        engine.gate.set()
        answered(other, "Mine.")


def test_the_key_is_asked_for_once(opened):
    with page_server(Typist("One."), key="secret") as server:
        tab = opened(f"{server.url}/")
        tab.fill("#key-text", "wrong")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#key[open]")
        tab.fill("#key-text", "secret")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("text=gpt-oss-20b is ready")
        ask(tab, "Hi")
        answered(tab, "One.")
        tab.reload()
        tab.wait_for_selector("text=One.")
        assert not tab.is_visible("#key")


def test_two_tabs_see_the_same_conversations_and_none_is_lost(opened):
    engine = Typist("One.", "Two.", "Three.")
    with page_server(engine) as server:
        tab = opened(server.url)
        ask(tab, "First")
        answered(tab, "One.")
        other = opened(tab.url, context=tab.context)
        other.wait_for_selector("text=One.")
        ask(other, "Second")
        answered(other, "Two.")
        tab.wait_for_selector("text=Two.")
        engine.gate.clear()
        ask(tab, "Third")  # both ask now
        wait_until(lambda: len(engine.requests) == 3)
        other.fill("#title", "Mine")
        other.keyboard.press("Enter")
        engine.gate.set()
        answered(tab, "Three.")
        eventually(tab, "document.querySelectorAll('#conversations a').length === 2")
        assert any(title.startswith("Mine") for title in titles(tab))  # which is the copy depends on who was first


def test_a_browser_that_keeps_nothing_still_chats(opened):
    with page_server(Typist("One.", "Two.")) as server:
        tab = opened(server.url)
        tab.evaluate(
            """() => {
                const error = new DOMException("full", "QuotaExceededError");
                IDBObjectStore.prototype.put = () => { throw error; };
            }"""
        )
        ask(tab, "First")
        answered(tab, "One.")
        assert "storage is full" in tab.inner_text("#toast")
        assert titles(tab) == ["First"]
        ask(tab, "Second")
        answered(tab, "Two.")


def test_a_private_window_without_a_database_still_chats(opened, browser):
    context = browser.new_context()
    context.add_init_script("Object.defineProperty(window, 'indexedDB', { get() { throw new Error('no'); } });")
    with page_server(Typist("One.")) as server:
        tab = opened(server.url, context=context)
        ask(tab, "First")
        answered(tab, "One.")
        assert titles(tab) == ["First"]
        context.close()


def test_a_long_answer_is_written_block_by_block(opened):
    """100 kB: the blocks that are done stay the same elements."""
    text = "\n\n".join(f"Paragraph {number}. " + "some words " * 8 for number in range(1000))
    with page_server(Typist(FINAL.format(text))) as server:
        tab = opened(server.url)
        ask(tab, "Much")
        tab.wait_for_selector(".prose > div:nth-child(3)")
        tab.evaluate("document.querySelector('.prose > div').isMarked = true")
        tab.wait_for_selector(".turn:last-child .answer .actions", timeout=60_000)
        assert tab.locator(".prose > div").count() == 1000
        assert tab.evaluate("document.querySelector('.prose > div').isMarked") is True


def test_the_page_follows_the_answer_only_if_the_reader_is_at_its_end(opened):
    text = "\n\n".join(f"Paragraph {number}." for number in range(200))
    engine = Typist(FINAL.format(text), delay=0.002)
    with page_server(engine) as server:
        tab = opened(server.url)
        ask(tab, "Much")
        tab.wait_for_selector(".prose > div:nth-child(40)")
        at_end = (
            "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight < 60)(scroller)"
        )
        eventually(tab, at_end)
        tab.hover("#scroller")
        tab.mouse.wheel(0, -400)
        tab.wait_for_selector("#to-end", state="visible")
        before = tab.evaluate("scroller.scrollTop")
        tab.wait_for_selector(".prose > div:nth-child(80)")
        assert abs(tab.evaluate("scroller.scrollTop") - before) < 5
        tab.click("#to-end")
        eventually(tab, at_end)
        answered(tab, "Paragraph 199.")
        eventually(tab, at_end)


def test_a_conversation_of_500_messages_is_shown_from_its_end(opened):
    with page_server(Typist(reply=lambda text: f"*{text}* it is.")) as server:
        tab = opened(server.url)
        ask(tab, "First")
        answered(tab, "First it is.")
        tab.evaluate(
            """async () => {
                const database = await new Promise((resolve) => {
                    indexedDB.open("mlx-oss").onsuccess = (event) => resolve(event.target.result);
                });
                const transaction = database.transaction("turns", "readwrite");
                const turns = transaction.objectStore("turns");
                const id = location.hash.slice(3);
                const [first] = await new Promise((resolve) => {
                    turns.get(id).onsuccess = (event) => resolve(event.target.result);
                });
                const turn = (_, number) => ({ ...first, id: `t${number}`, question: `Q${number}`,
                    answers: [{ parts: [{ kind: "answer", text: `**A${number}**` }], reason: "stop" }] });
                turns.put(Array.from({ length: 250 }, turn), id);
                await new Promise((resolve) => { transaction.oncomplete = resolve; });
                database.close();
            }"""
        )
        tab.reload()
        tab.wait_for_selector("text=A249")
        assert tab.locator(".turn").count() == 40
        tab.click(".earlier")
        tab.wait_for_selector("text=A170")
        assert tab.locator(".turn").count() == 80 and tab.inner_text(".turn .prose strong") == "A170"
        ask(tab, "Next")
        answered(tab, "Next it is.")
        assert len(load_tokenizer().decode(list(server.engine.requests[-1].prompt)).split("<|start|>user")) == 252


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(opened, width):
    text = f"{'x' * 3000}\n\n`{'y' * 500}`\n\n```\n{'z' * 500}\n```\n\n|{' a |' * 40}\n|{'---|' * 40}\n|{' b |' * 40}"
    with page_server(Typist(PYTHON.format("v" * 900), FINAL.format(text)), tools=True) as server:
        tab = opened(server.url, viewport={"width": width, "height": 700})
        ask(tab, "w" * 900)
        tab.click(".ask .main")
        answered(tab, "xxx")
        tab.click(".call summary")
        wide = tab.evaluate(
            """() => [document.documentElement, document.querySelector("#scroller")]
                .map((element) => element.scrollWidth - element.clientWidth)"""
        )
        assert wide == [0, 0]


def test_a_narrow_window_has_the_conversations_over_the_page(opened):
    with page_server(Typist("One.", "Two.")) as server:
        tab = opened(server.url, viewport={"width": 400, "height": 700})
        ask(tab, "First")
        answered(tab, "One.")
        assert not tab.is_visible("#sidebar")
        tab.click("#menu")
        assert tab.is_visible("#sidebar") and tab.evaluate("document.activeElement.id") == "new-chat"
        tab.keyboard.press("Escape")
        assert not tab.is_visible("#sidebar") and tab.evaluate("document.activeElement.id") == "menu"
        tab.click("#menu")
        tab.click("#new-chat")
        tab.wait_for_selector(".empty")
        assert not tab.is_visible("#sidebar") and tab.evaluate("document.activeElement.id") == "question"


def test_dark_and_light_are_those_of_the_system(opened):
    with page_server(Typist()) as server:
        shades = [
            opened(server.url, color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
            for scheme in ("dark", "light")
        ]
    dark, light = (sum(map(int, re.findall(r"\d+", shade)[:3])) for shade in shades)
    assert dark < 150 and light > 700


def test_all_can_be_done_with_the_keyboard_and_help_says_how(opened):
    with page_server(Typist("One.", "Two.")) as server:
        tab = opened(server.url)
        ask(tab, "First")
        answered(tab, "One.")
        tab.keyboard.press("Control+/")
        assert tab.is_visible("#help") and "new chat" in tab.inner_text("#help")
        tab.keyboard.press("Escape")
        assert not tab.is_visible("#help") and tab.evaluate("document.activeElement.id") == "question"
        tab.focus("[aria-label='Answer again']")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("text=Two.")
        tab.keyboard.press("Control+Shift+s")
        assert not tab.is_visible("#sidebar")


def test_a_screen_reader_hears_whole_blocks_and_the_end(opened):
    with page_server(Typist(FINAL.format("One two.\n\nThree four.\n\n```python\nx\ny\n```\n\nEnd."))) as server:
        tab = opened(server.url)
        tab.evaluate(
            """() => {
                window.heard = [];
                const hear = (change) => change.addedNodes.forEach((node) => window.heard.push(node.textContent));
                new MutationObserver((changes) => changes.forEach(hear)).observe(said, { childList: true });
            }"""
        )
        ask(tab, "Hi")
        answered(tab, "End.")
        assert tab.evaluate("window.heard") == [
            "The question was sent.",
            "One two.",
            "Three four.",
            "Code, 2 lines.",
            "End.",
            "The answer is complete.",
        ]


@pytest.mark.skipif(not AXE, reason="needs axe-core: MLX_OSS_AXE names its file")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_axe_finds_nothing(opened, scheme, width):
    with page_server(Typist(THINK.format("Hm.") + PYTHON.format("1"), FINAL.format(RICH)), tools=True) as server:
        tab = opened(server.url, color_scheme=scheme, viewport={"width": width, "height": 700})
        assert AXE is not None
        script = Path(AXE).read_text()

        def findings() -> list[str]:
            tab.evaluate(script)
            found = tab.evaluate("axe.run()")["violations"]
            return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]

        assert findings() == []
        ask(tab, "Hi")
        tab.wait_for_selector(".ask")
        assert findings() == []
        tab.click(".ask .main")
        answered(tab, "The end.")
        assert findings() == []
        for button in ("#open-help", "#open-instructions", "#tools summary"):
            tab.click(button)
            assert findings() == []
            tab.keyboard.press("Escape")
        if width < 800:
            tab.click("#menu")
            assert findings() == []
