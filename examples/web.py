"""A chat server with server-sent events, without any framework: POST OpenAI-style messages, get the answer in pieces.

    python examples/web.py [FOLDER]
    curl -N localhost:8000 -d '{"id": "1", "messages": [{"role": "user", "content": "Hello!"}]}'

The browser keeps the conversation. The server keeps a few sessions, so that the model reads only what is new.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlx_oss

MOST_SESSIONS, MOST_BYTES = 8, 1_000_000


class Server(ThreadingHTTPServer):
    def __init__(self, model: mlx_oss.Engine, tokenizer: mlx_oss.Tokenizer, port: int = 8000) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.tokenizer = model, tokenizer
        self.sessions: dict[str, mlx_oss.ChatSession] = {}

    def session(self, id_: str) -> mlx_oss.ChatSession:
        """The session of a conversation; the one that was used least recently makes room for a new one."""
        session = self.sessions.pop(id_, None) or mlx_oss.ChatSession(self.model, self.tokenizer)
        self.sessions[id_] = session
        if len(self.sessions) > MOST_SESSIONS:
            del self.sessions[next(iter(self.sessions))]
        return session


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(min(int(self.headers["Content-Length"]), MOST_BYTES)))
            session = self.server.session(str(body["id"]))
            session.messages = body["messages"]
            events = session.resume(max_tokens=body.get("max_tokens"))
        except (mlx_oss.MlxOssError, ValueError, LookupError, TypeError) as error:
            return self.send_error(400, explain=str(error))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for event in events:
                match event:
                    case mlx_oss.AnswerDelta(text):
                        self.write("delta", text)
                    case mlx_oss.Finished(reason, usage):
                        self.write("finished", {"reason": reason, "reused_tokens": usage.reused_tokens})
        except mlx_oss.MlxOssError as error:
            self.write("error", str(error))
        except OSError:  # the browser has gone; leaving the loop ends the turn
            session.cancel()

    def write(self, event: str, data: object) -> None:
        self.wfile.write(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())


if __name__ == "__main__":
    try:
        Server(*mlx_oss.load(sys.argv[1] if len(sys.argv) > 1 else None)).serve_forever()
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass
