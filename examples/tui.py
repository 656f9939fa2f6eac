"""A chat in the terminal with Textual: answers are Markdown that grows, Escape stops one.

pip install textual && python examples/tui.py [FOLDER]
"""

import sys
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import Input, Markdown, Static

import mlx_oss


class Chat(App[None]):
    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "stop", "Stop the answer")]

    def __init__(self, session: mlx_oss.ChatSession) -> None:
        super().__init__()
        self.session = session

    def compose(self) -> ComposeResult:
        yield VerticalScroll()
        yield Input(placeholder="Ask something")

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        if submitted.value.strip():
            submitted.input.disabled = True
            self.run_worker(self.answer(submitted.value))
            submitted.input.clear()

    async def answer(self, question: str) -> None:
        answer = Markdown()
        await self.query_one(VerticalScroll).mount(Static(question, markup=False), answer)
        text = ""
        try:
            async for event in self.session.asend(question):
                if isinstance(event, mlx_oss.AnswerDelta):
                    text += event.text
                    await answer.update(text)
        except mlx_oss.MlxOssError as error:
            self.notify(str(error), severity="error", markup=False)
        self.query_one(Input).disabled = False
        self.query_one(Input).focus()

    def action_stop(self) -> None:
        self.session.cancel()


if __name__ == "__main__":
    try:
        Chat(mlx_oss.ChatSession(*mlx_oss.load(sys.argv[1] if len(sys.argv) > 1 else None))).run()
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
