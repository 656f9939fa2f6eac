"""Chats in an asyncio program: several sessions at once on one model, each with a time limit.

python examples/async_app.py [FOLDER]
"""

import asyncio
import sys

import mlx_oss

QUESTIONS = ("What is the capital of France?", "What is the opposite of cold?", "How many legs does a spider have?")


async def answer(session: mlx_oss.ChatSession, question: str, seconds: float) -> str:
    """Returns the answer, or the part of it that was written in time; the session keeps that part too."""
    text = ""
    try:
        async with asyncio.timeout(seconds):
            async for event in session.asend(question):
                if isinstance(event, mlx_oss.AnswerDelta):
                    text += event.text
    except TimeoutError:
        text += " ..."
    return text


async def main(folder: str | None) -> None:
    model, tokenizer = await asyncio.to_thread(mlx_oss.load, folder)
    options = mlx_oss.SamplingOptions(temperature=0)
    sessions = [mlx_oss.ChatSession(model, tokenizer, options=options) for _ in QUESTIONS]
    chats = (answer(session, question, 60) for session, question in zip(sessions, QUESTIONS, strict=True))
    for question, text in zip(QUESTIONS, await asyncio.gather(*chats), strict=True):
        print(f"{question}\n  {text}")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
