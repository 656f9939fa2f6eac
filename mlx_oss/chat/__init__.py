"""Conversations: the session, the tool loop, one response, the history, and saved sessions."""
