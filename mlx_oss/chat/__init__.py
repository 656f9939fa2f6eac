"""Conversations with the model.

session       ChatSession, the public API: turns, undo, retry, edit, fork, save and load
tool_loop     what happens in a turn: rounds of prefill and generation, and the tools that run between them
response      one round: prefill of the new part of the prompt, then generation
stream        translates parser events to the events of `mlx_oss.events`; times and token counts of a round
history       the messages of a conversation with their token ids
session_file  the file of a saved session
turn_lock     allows one turn at a time, which can be cancelled from any thread
"""
