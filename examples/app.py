"""A model inside a program that must not wait: a thread talks to it, a queue brings its events to the main loop.

    python examples/app.py [FOLDER]

The main loop here is a terminal's; a window's would look at the queue in a timer. Ctrl-C stops an answer.
"""

import queue
import sys
import threading

import mlx_oss

DONE = object()


class Assistant:
    """Owns the session. `ask` returns at once; events, and DONE after the last, arrive in `events`."""

    def __init__(self, folder: str | None = None) -> None:
        self.events: queue.Queue[object] = queue.Queue()
        self._questions: queue.Queue[str] = queue.Queue()
        self._session: mlx_oss.ChatSession | None = None
        threading.Thread(target=self._work, args=(folder,), daemon=True).start()

    def ask(self, question: str) -> None:
        self._questions.put(question)

    def stop(self) -> None:
        """Ends the answer that is being given; what was said is kept."""
        if self._session is not None:
            self._session.cancel()

    def _work(self, folder: str | None) -> None:
        try:
            self._session = mlx_oss.ChatSession(*mlx_oss.load(folder), reasoning_effort="low")
        except mlx_oss.MlxOssError as error:
            self.events.put(error)
            return
        while True:
            question = self._questions.get()
            try:
                for event in self._session.send(question):
                    self.events.put(event)
            except mlx_oss.MlxOssError as error:
                self.events.put(error)
            self.events.put(DONE)


def show(assistant: Assistant) -> None:
    """Shows events until the answer is complete."""
    while True:
        try:
            event = assistant.events.get()
        except KeyboardInterrupt:
            assistant.stop()
            continue
        match event:
            case mlx_oss.AnswerDelta(text):
                print(text, end="", flush=True)
            case mlx_oss.Finished(reason, usage):
                print(f"\n[{reason}, {usage.tokens_per_second:.0f} tokens a second]")
            case mlx_oss.MlxOssError():
                sys.exit(f"error: {event}")
        if event is DONE:
            return


if __name__ == "__main__":
    assistant = Assistant(sys.argv[1] if len(sys.argv) > 1 else None)  # loads while the user types
    try:
        for line in sys.stdin:
            if line.strip():
                assistant.ask(line.strip())
                show(assistant)
    except KeyboardInterrupt:  # between two answers
        pass
