"""Keeps conversations in a database, as plain JSON, and goes on with one in another run of the program.

    python examples/database.py chats.db "My name is Ann."
    python examples/database.py chats.db "What is my name?"

A third argument is the folder of a model.
"""

import json
import sqlite3
import sys
from contextlib import closing

import mlx_oss


def ask(session: mlx_oss.ChatSession, database: sqlite3.Connection, user: str, question: str) -> str:
    """Answers a question of a user after all that was said before, and keeps it."""
    database.execute("CREATE TABLE IF NOT EXISTS chats (user TEXT PRIMARY KEY, messages TEXT)")
    row = database.execute("SELECT messages FROM chats WHERE user = ?", (user,)).fetchone()
    session.messages = json.loads(row[0]) if row else []
    reply = session.ask(question)
    with database:
        database.execute("REPLACE INTO chats VALUES (?, ?)", (user, json.dumps(session.to_messages())))
    return reply.text


if __name__ == "__main__":
    try:
        path, question, *folder = sys.argv[1:]
        options = mlx_oss.SamplingOptions(temperature=0)
        session = mlx_oss.ChatSession(*mlx_oss.load(*folder), options=options, reasoning_effort="low")
        with closing(sqlite3.connect(path)) as connection:
            print(ask(session, connection, "ann", question))
    except ValueError:
        sys.exit(__doc__)
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
