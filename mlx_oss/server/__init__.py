"""The server: requests of other programs, answered by the APIs of OpenAI and Anthropic. Knows nothing of terminals.

fields             reads the fields of JSON, and says where a mistake is
asked              what all APIs have in common: what a request asks, and what writes its response
memory             what the model has written lately, so that conversations get their ids back
models             which models there are, and which are in memory
turn, service      runs what a request asks
toolbox            the tools that the server itself runs, for each conversation its own
metrics            counts what is done
connection         reads bodies, sends responses and streams, notices clients that leave
guard              refuses requests of other pages, without the key, or not in JSON
app, run           the paths, and the process

options            reads what several APIs ask in the same words
custom             tools that take a text instead of JSON
chat_completions   OpenAI's chat completions
responses          OpenAI's Responses
messages           Anthropic's Messages
page               the chat in the browser
batch              answers many requests at the same time
batch_files        files of requests, and the files of their responses
"""
