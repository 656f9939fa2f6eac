"""The chat page in the browser: one page, one style sheet, one script, and what they ask of the server.

index.html, page.css, page.js   the page; conversations are kept in the browser
routes.py      its addresses
api.py         the question of the page, with the conversation so far
writer.py      the answer, as events for the page
approvals.py   whether a call may run, which only the reader can say
markdown.py    Markdown to HTML, block by block while the model writes
"""
