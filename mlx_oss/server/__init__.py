"""Answers requests in the form of OpenAI's chat completions. Knows sessions; nothing of terminals.

chat_completions   a request as the arguments of a session, and a reply as a response; no input and output
messages           the messages of such a request
batch              answers many requests at the same time
batch_files        files of requests, and the files of their responses
"""
