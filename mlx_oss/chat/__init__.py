"""Conversations with the model. Knows engines by their interface; nothing of MLX.

session       ChatSession, the public API: made, saved and loaded
editing       its part that reads and changes messages: undo, clear, messages
asking        its part that returns whole replies: ask, choose, fork
turns         its part that runs turns: send, resume, retry and edit
many          ask_many: the questions of a list, several at the same time
parallel      runs the turns of many sessions on one thread
configured    its options as attributes
settings      its options as a whole: checked when they are set, or given for one turn
message_writer, message_reader    messages as plain JSON, in the form of OpenAI's chat API
answer_text   the text of an answer, up to a stop string
driver        runs the generator of a turn for its caller, on threads or in an event loop
setup         what a turn is run with: the options, checked and rendered once
live          the conversation while turns change it, one at a time
tool_loop     what happens in a turn: rounds of generation, and the tools that run between them; can be cancelled
response      one round: one request to the engine, and the events of what the model writes
translation   translates parser events to the events of `mlx_oss.events`
history       the messages of a conversation with their token ids
session_file  the file of a saved session
saved         what such a file says, as JSON
recovery      what is readable of a damaged one
"""
