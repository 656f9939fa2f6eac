"""A model in a program whose main loop must not wait: a thread runs the session, and a queue brings its events back.

    python examples/app.py [FOLDER]

Here the main loop reads lines from a terminal. A program with a window would look at the queue in a timer. Ctrl-C stops
an answer.
"""

import queue
import sys
import threading

import mlx_oss

DONE = object()


class Assistant:
    """Owns the session. `ask` returns at once; the events of the answer arrive in `events`, and DONE after the last."""

    def __init__(self, folder: str | None = None) -> None:
        self.events: queue.Queue[object] = queue.Queue()
        self._questions: queue.Queue[str] = queue.Queue()
        self._session: mlx_oss.ChatSession | None = None
        threading.Thread(target=self._work, args=(folder,), daemon=True).start()

    def ask(self, question: str) -> None:
        self._questions.put(question)

    def stop(self) -> None:
        """Ends the current answer; what the model has said stays in the conversation."""
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
    """Prints events until the answer is complete."""
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
    assistant = Assistant(sys.argv[1] if len(sys.argv) > 1 else None)  # loads the model while the user types
    try:
        for line in sys.stdin:
            if line.strip():
                assistant.ask(line.strip())
                show(assistant)
    except KeyboardInterrupt:  # Ctrl-C between two answers
        pass
