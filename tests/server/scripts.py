"""What a model may write, well and badly, for the tests of all APIs."""

from __future__ import annotations

REASONING = "<|channel|>analysis<|message|>I think.<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>'
ANSWER = "<|channel|>final<|message|>It is 18 \N{DEGREE SIGN}C.<|return|>"
NO_ANSWER = "<|channel|>analysis<|message|>Nothing to say.<|return|>"


def call_of(name: str, arguments: str, channel: str = "commentary") -> str:
    return f"<|channel|>{channel} to={name} <|constrain|>json<|message|>{arguments}<|call|>"


# By what is special: the rounds of a turn, each what the model writes.
SCRIPTS: dict[str, list[str]] = {
    "an answer": ["<|channel|>final<|message|>Hello.<|return|>"],
    "reasoning and an answer": [REASONING + ANSWER],
    "a call": [CALL],
    "reasoning and a call": [REASONING + CALL],
    "a preamble and a call": [REASONING + PREAMBLE + CALL],
    "reasoning, a preamble, reasoning, a call": [REASONING + PREAMBLE + REASONING + CALL],
    "a preamble and an answer": [PREAMBLE + REASONING + ANSWER],
    "two preambles": [PREAMBLE + PREAMBLE + ANSWER],
    "an empty answer": ["<|channel|>final<|message|><|return|>"],
    "empty reasoning": ["<|channel|>analysis<|message|><|end|><|start|>assistant" + ANSWER],
    "no answer": [NO_ANSWER, NO_ANSWER, "<|return|>"],
    "an answer at the second try": [NO_ANSWER, REASONING + ANSWER],
    "arguments that are no JSON": [call_of("functions.get_weather", '{"city": "Par')],
    "arguments that are no object": [call_of("functions.get_weather", "[1, 2]")],
    "no arguments": [call_of("functions.get_weather", "")],
    "half a character in arguments": [call_of("functions.get_weather", '{"city": "\\ud83d"}')],
    "a call on another channel": [REASONING + call_of("functions.get_weather", "{}", "analysis")],
    "a call of a tool that is not there": [call_of("functions.nothing", "{}")],
    "a call of a tool of the system": ["<|channel|>analysis to=python code<|message|>1 + 1<|call|>"],
    "a name that is none": [call_of('functions."get_weather"', "{}")],
    "text on no channel": ["<|message|>Hello.<|return|>"],
    "text without a header": ["Hello there.<|end|><|start|>assistant" + ANSWER],
    "an unknown channel": ["<|channel|>thoughts<|message|>Hm.<|end|><|start|>assistant" + ANSWER],
    "a channel twice": ["<|channel|>analysis<|channel|>final<|message|>Hello.<|return|>"],
    "a message of the user": [
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>user<|message|>Hi<|end|><|start|>assistant" + ANSWER
    ],
    "no end": ["<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>final<|message|>Hello.<|return|>"],
    "control tokens in the text": ["<|channel|>final<|message|>Hel<|constrain|>lo.<|return|>"],
    "emoji": ["<|channel|>final<|message|>\N{GRINNING FACE}\N{FAMILY}e\N{COMBINING ACUTE ACCENT}<|return|>"],
}
LONG = "<|channel|>analysis<|message|>" + "I think. " * 20 + "<|end|><|start|>assistant" + ANSWER
