"""More streams, made for these tests: unknown ids, control tokens anywhere in a header, misspelt names, cut streams."""

from typing import NamedTuple

from mlx_oss.harmony import Role


class Oddity(NamedTuple):
    role: Role | None  # the role that the prompt ended with
    stream: str
    ours: str  # the parsed messages, as `shown` in the test formats them
    why: str


ODDITIES = (
    Oddity(
        "assistant",
        "Assistant cannot help with that.<|return|>",
        "assistant: Assistant cannot help with that. (return) MISSING_MESSAGE",
        "The first word of an answer is a role only if it is spelled exactly like one.",
    ),
    Oddity(
        "assistant",
        "<|channel|>fi<|reserved_200013|>nal<|message|>x<|return|>",
        "assistant final: x (return) STRAY_CONTROL",
        "A reserved token inside a name is left out; the letters around it are the name.",
    ),
    Oddity(
        "assistant",
        "<|channel|>{300000}final<|message|>x<|return|>",
        "assistant final: x (return) UNKNOWN_ID, MISSPELT_CHANNEL",
        "An id outside the vocabulary beside a name does not hide it.",
    ),
    Oddity(
        "assistant",
        "<|startoftext|><|channel|>final<|message|>x<|return|>",
        "assistant final: x (return) STRAY_CONTROL",
        "A control token without a meaning is left out.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final<|message|>a<|endofprompt|>b<|return|>",
        "assistant final: ab (return) STRAY_CONTROL",
        "Control tokens never become text.",
    ),
    Oddity(
        "assistant",
        "<|constrain|>json<|channel|>final<|message|>{}<|return|>",
        "assistant final type=<|constrain|>json: {} (return)",
        "A marked type is recognised at any place.",
    ),
    Oddity(
        "assistant",
        "<|constrain|><|channel|>final<|message|>{}<|return|>",
        "assistant final: {} (return) STRAY_CONTROL",
        "A mark without a type after it has no meaning.",
    ),
    Oddity(
        "assistant",
        "<|channel|><|constrain|>json<|message|>{}<|return|>",
        "assistant type=<|constrain|>json: {} (return) EMPTY_CHANNEL",
        "A marked type is not a channel.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x <|constrain|><|message|>{}<|call|>",
        "assistant commentary to=functions.x: {} (call) STRAY_CONTROL",
        "A mark without a type after it has no meaning; the call is complete.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x <|constrain|><|constrain|>json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=<|constrain|>json: {} (call) STRAY_CONTROL",
        "A repeated mark counts once.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary <|constrain|> to=functions.x<|message|>{}<|call|>",
        "assistant commentary to=functions.x: {} (call) STRAY_CONTROL",
        "A recipient is not a type; the call is complete.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=<|constrain|>json<|message|>{}<|call|>",
        "assistant commentary type=<|constrain|>json: {} (call) EXTRA_WORDS",
        "A marked type is not a recipient, and a message without a recipient is not a call.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=<|constrain|>json: {} (call) REPEATED_CHANNEL",
        "Each section has some of the fields.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.a-b.c_d json<|message|>{}<|call|>",
        "assistant commentary to=functions.a-b.c_d type=json: {} (call)",
        "Names of tools may have dots and dashes.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions. x json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=json: {} (call) SPACED_FIELD",
        "A name that ends with a dot continues after the space.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to = functions.x json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=json: {} (call) SPACED_FIELD",
        "Spaces around `=` cannot mean anything else.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentaryto=functions.x json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=json: {} (call) SPACED_FIELD",
        "No channel name contains `to=`.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x json code<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=json: {} (call) EXTRA_WORDS",
        "The first of two types counts.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x please json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=json: {} (call) EXTRA_WORDS",
        "Of several words, the one that is a usual type is the type.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x to=functions.y json<|message|>{}<|call|>",
        "assistant commentary to=functions.y type=json: {} (call) TWO_RECIPIENTS",
        "The model corrected itself.",
    ),
    Oddity(
        "assistant",
        '<|channel|>commentary to="functions.x"<|message|>{}<|call|>',
        "assistant commentary to=functions.x: {} (call) MISSPELT_RECIPIENT",
        "No tool name has quotes.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x,<|message|>{}<|call|>",
        "assistant commentary to=functions.x: {} (call) MISSPELT_RECIPIENT",
        "No tool name ends with a comma.",
    ),
    Oddity(
        "assistant",
        "<|channel|>analysis to=python code<|message|>1+1<|call|>",
        "assistant analysis to=python type=code: 1+1 (call)",
        "How the model was trained to run Python.",
    ),
    Oddity(
        "assistant",
        "<|channel|>analysis to=browser.search json<|message|>{}<|end|>",
        "assistant analysis to=browser.search type=json: {} (end)",
        "The recipient makes it a call, with any ending.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary functions.x<|message|>{}<|call|>",
        "assistant commentary type=functions.x: {} (call)",
        "One leftover word is a type, never a recipient, even if it looks like one.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final to=functions.x json<|message|>{}<|call|>",
        "assistant final to=functions.x type=json: {} (call)",
        "The recipient is reported, but a message on final is never a call.",
    ),
    Oddity(
        "assistant",
        '<|channel|>commentary to=functions.x json<|message|>{"a": 1}',
        'assistant commentary to=functions.x type=json: {"a": 1} (cut)',
        "The text that came before the cut is kept.",
    ),
    Oddity(
        "assistant",
        '<|channel|>commentary to=functions.x {"a": 1}<|call|>',
        'assistant commentary to=functions.x: {"a": 1} (call) MISSING_MESSAGE',
        "The arguments are found without `<|message|>`.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final<|message|>x<|endoftext|>tail<|return|>",
        "assistant final: x (return) ENDED_BY_ENDOFTEXT | assistant: tail (return) MISSING_START, MISSING_MESSAGE",
        "Text is never dropped, even after <|endoftext|>.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final<|message|>x<|return|><|start|>user<|message|>y<|end|>",
        "assistant final: x (return) | user: y (end)",
        "A message that the model wrote as the user is not read as the assistant's.",
    ),
    Oddity(
        "assistant",
        "<|endoftext|>",
        "assistant:  (return) MISSING_MESSAGE, ENDED_BY_ENDOFTEXT",
        "An empty turn.",
    ),
    Oddity(
        "assistant",
        "<|message|>",
        "assistant:  (cut)",
        "A message had begun.",
    ),
    Oddity(
        "assistant",
        "<|constrain|>",
        "assistant:  (cut) MISSING_MESSAGE, STRAY_CONTROL",
        "A header had begun.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final<|message|><|return|>",
        "assistant final:  (return)",
        "An empty answer is an answer.",
    ),
    Oddity(
        "assistant",
        "commentary to=functions.x json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=json: {} (call) UNMARKED_CHANNEL",
        "The channel's name stands where `<|channel|>` should have been.",
    ),
    Oddity(
        "assistant",
        "analysis to=python code<|message|>1+1<|call|>",
        "assistant analysis to=python type=code: 1+1 (call) UNMARKED_CHANNEL",
        "The channel's name stands where `<|channel|>` should have been.",
    ),
    Oddity(
        "assistant",
        "final<|message|>x<|return|>",
        "assistant final: x (return) UNMARKED_CHANNEL",
        "The channel's name stands where `<|channel|>` should have been.",
    ),
    Oddity(
        "assistant",
        "<|channel|>analysisWe refuse.<|end|>",
        "assistant analysis: We refuse. (end) MISSING_MESSAGE",
        "The capital letter begins the text; shown as an answer it would leak reasoning.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final: Sure.<|return|>",
        "assistant final: Sure. (return) MISSING_MESSAGE, MISSPELT_CHANNEL",
        "The colon belongs to the name.",
    ),
    Oddity(
        "assistant",
        "{spelled channel}final{spelled message}Hi<|return|>",
        "assistant final: Hi (return) MISSING_MESSAGE, SPELLED_CONTROL",
        "A whole header that is spelled out is read as a header.",
    ),
    Oddity(
        "assistant",
        "How to write {spelled message}: so.<|return|>",
        "assistant: How to write <|message|>: so. (return) MISSING_MESSAGE",
        "After prose, a spelled-out token is text.",
    ),
    Oddity(
        "assistant",
        "\nI refuse.\n\nReally.<|return|>",
        "assistant: \nI refuse.\n\nReally. (return) MISSING_MESSAGE",
        "Text without a header is returned unchanged, including whitespace.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final<|channel|>zzz<|message|>x<|end|>",
        "assistant final: x (end) REPEATED_CHANNEL",
        "A known channel wins over an unknown one.",
    ),
    Oddity(
        "assistant",
        '<|channel|>"final"<|message|>x<|end|>',
        "assistant final: x (end) MISSPELT_CHANNEL",
        "The letters tell which channel it is.",
    ),
    Oddity(
        "assistant",
        "<|channel|>thought<|message|>x<|end|>",
        "assistant thought: x (end) UNKNOWN_CHANNEL",
        "The channel is unknown: its name is kept and reported.",
    ),
    Oddity(
        "assistant",
        "assistant to=functions.x<|channel|>commentary<|message|>{}<|call|>",
        "assistant commentary to=functions.x: {} (call) REPEATED_ROLE",
        "The model repeated the prompt's last word.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final<|message|>{half emoji}x<|return|>",
        "assistant final: �x (return) INVALID_UTF8",
        "An incomplete character becomes a replacement character, in its place.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final<|message|>{half emoji}<|start|>assistant<|channel|>final<|message|>x<|return|>",
        "assistant final: � (cut) INTERRUPTED, INVALID_UTF8 | assistant final: x (return)",
        "The next message begins without the rest of the character.",
    ),
    Oddity(
        "assistant",
        "{half emoji}",
        "assistant: � (cut) MISSING_MESSAGE, INVALID_UTF8",
        "At the end of the stream, the character stays incomplete.",
    ),
    Oddity(
        None,
        "<|start|>Assistant<|channel|>analysis<|message|>x<|end|>",
        "assistant analysis: x (end) MISSPELT_ROLE",
        "A capital letter does not make it another role.",
    ),
    Oddity(
        None,
        "<|start|>assistantfinal<|message|>x<|end|>",
        "assistant final: x (end) UNMARKED_CHANNEL",
        "Role and channel without the token between them.",
    ),
    Oddity(
        None,
        "<|start|>analysis<|message|>x<|end|>",
        "assistant analysis: x (end) UNMARKED_CHANNEL, MISSING_ROLE",
        "The name of a channel is never a role.",
    ),
    Oddity(
        None,
        "<|start|>assistant<|channel|>final<|message|>x<|channel|>final<|message|>y<|return|>",
        "assistant final: x (cut) INTERRUPTED | assistant final: y (return) MISSING_START",
        "`<|channel|>` in content begins the next message.",
    ),
    Oddity(
        None,
        "<|start|>assistant<|start|>assistant<|channel|>final<|message|>y<|return|>",
        "assistant:  (cut) MISSING_MESSAGE, INTERRUPTED | assistant final: y (return)",
        "A message had begun; it is returned empty, with its ids.",
    ),
    Oddity(
        None,
        "Hello <|start|>assistant<|channel|>final<|message|>y<|return|>",
        "assistant: Hello  (cut) MISSING_START, MISSING_MESSAGE, INTERRUPTED | assistant final: y (return)",
        "Text before the first message is a message.",
    ),
    Oddity(
        None,
        "<|end|><|start|>assistant<|channel|>final<|message|>y<|return|>",
        "assistant final: y (return) STRAY_CONTROL",
        "There is no message that the stop token could end.",
    ),
    Oddity(
        None,
        "<|start|>browser.search to=assistant<|channel|>commentary<|message|>x<|end|>",
        "tool[browser.search] commentary to=assistant: x (end)",
        "Tool messages begin with the name of the tool.",
    ),
)
