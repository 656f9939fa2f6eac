"""More streams, of our own: unknown ids, control tokens in every place of a header, garbled names, cuts."""

from typing import NamedTuple

from mlx_oss.harmony import Role


class Oddity(NamedTuple):
    role: Role | None  # that the prompt ended with
    stream: str
    ours: str  # the messages, as `shown` in the test writes them
    why: str


ODDITIES = (
    Oddity(
        "assistant",
        "Assistant cannot help with that.<|return|>",
        "assistant: Assistant cannot help with that. (return) MISSING_MESSAGE",
        "A word that begins an answer is no role, unless it is spelled like one.",
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
        "A marked type says what it is wherever it stands.",
    ),
    Oddity(
        "assistant",
        "<|constrain|><|channel|>final<|message|>{}<|return|>",
        "assistant final: {} (return) STRAY_CONTROL",
        "A mark with no type behind it marks nothing.",
    ),
    Oddity(
        "assistant",
        "<|channel|><|constrain|>json<|message|>{}<|return|>",
        "assistant type=<|constrain|>json: {} (return) EMPTY_CHANNEL",
        "A marked type is no channel.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x <|constrain|><|message|>{}<|call|>",
        "assistant commentary to=functions.x: {} (call) STRAY_CONTROL",
        "A mark with no type behind it marks nothing; the call is whole.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x <|constrain|><|constrain|>json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=<|constrain|>json: {} (call) STRAY_CONTROL",
        "Marking twice is marking once.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary <|constrain|> to=functions.x<|message|>{}<|call|>",
        "assistant commentary to=functions.x: {} (call) STRAY_CONTROL",
        "A recipient is no type; the call is what matters.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=<|constrain|>json<|message|>{}<|call|>",
        "assistant commentary type=<|constrain|>json: {} (call) EXTRA_WORDS",
        "A marked type is no recipient, and a message without one is no call.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=<|constrain|>json: {} (call) REPEATED_CHANNEL",
        "Each section says a part.",
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
        "A name that ends in a dot is not finished.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to = functions.x json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=json: {} (call) SPACED_FIELD",
        "Blanks around `=` cannot mean anything else.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentaryto=functions.x json<|message|>{}<|call|>",
        "assistant commentary to=functions.x type=json: {} (call) SPACED_FIELD",
        "No channel's name holds `to=`.",
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
        "Of several words the usual type is the type.",
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
        "No tool's name has quotes.",
    ),
    Oddity(
        "assistant",
        "<|channel|>commentary to=functions.x,<|message|>{}<|call|>",
        "assistant commentary to=functions.x: {} (call) MISSPELT_RECIPIENT",
        "No tool's name ends in a comma.",
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
        "The recipient makes it a call, whatever ends it.",
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
        "The recipient is reported; nothing on final is a call.",
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
        "Text is never thrown away, not even behind the end of everything.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final<|message|>x<|return|><|start|>user<|message|>y<|end|>",
        "assistant final: x (return) | user: y (end)",
        "A model that plays the user is not taken for the assistant.",
    ),
    Oddity(
        "assistant",
        "<|endoftext|>",
        "assistant:  (return) MISSING_MESSAGE, ENDED_BY_ENDOFTEXT",
        "A turn of nothing.",
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
        "A whole header that was spelled out is meant as one.",
    ),
    Oddity(
        "assistant",
        "How to write {spelled message}: so.<|return|>",
        "assistant: How to write <|message|>: so. (return) MISSING_MESSAGE",
        "Behind prose a spelled token is text.",
    ),
    Oddity(
        "assistant",
        "\nI refuse.\n\nReally.<|return|>",
        "assistant: \nI refuse.\n\nReally. (return) MISSING_MESSAGE",
        "Text without a header is given as it is, blanks too.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final<|channel|>zzz<|message|>x<|end|>",
        "assistant final: x (end) REPEATED_CHANNEL",
        "A channel that exists wins over one that does not.",
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
        "Nobody knows which channel it meant: kept, reported.",
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
        "What cannot be completed becomes a replacement character, in its place.",
    ),
    Oddity(
        "assistant",
        "<|channel|>final<|message|>{half emoji}<|start|>assistant<|channel|>final<|message|>x<|return|>",
        "assistant final: � (cut) INTERRUPTED, INVALID_UTF8 | assistant final: x (return)",
        "The next message does not wait for the rest of a character.",
    ),
    Oddity(
        "assistant",
        "{half emoji}",
        "assistant: � (cut) MISSING_MESSAGE, INVALID_UTF8",
        "At the end it cannot be completed any more.",
    ),
    Oddity(
        None,
        "<|start|>Assistant<|channel|>analysis<|message|>x<|end|>",
        "assistant analysis: x (end) MISSPELT_ROLE",
        "A capital letter makes no other role.",
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
        "A channel's name is nobody's role.",
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
        "A message had begun; it is given back empty, and its ids with it.",
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
        "A stop ends nothing here.",
    ),
    Oddity(
        None,
        "<|start|>browser.search to=assistant<|channel|>commentary<|message|>x<|end|>",
        "tool[browser.search] commentary to=assistant: x (end)",
        "Tools sign with their own name.",
    ),
)
