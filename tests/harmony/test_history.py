"""Tests which messages stay in the prompt of the next turn, and with which ids."""

import pytest
from hypothesis import given

from mlx_oss.harmony import (
    HarmonyParser,
    Message,
    conversation_for_next_turn,
    ids_in_history,
    parse_messages,
    render_conversation,
    render_message,
)
from mlx_oss.tokenizer import CALL as CALL_ID
from mlx_oss.tokenizer import END, RETURN, load_tokenizer

from . import oracle
from .strategies import examples, parsable_conversations

QUESTION = Message("user", "Is it warm?")
THOUGHT = Message("assistant", "I should look.", "analysis")
PREAMBLE = Message("assistant", "Looking it up.", "commentary")
CALL = Message("assistant", "{}", "commentary", "functions.weather", "<|constrain|>json")
RESULT = Message("tool", "20", "commentary", "assistant", name="functions.weather")
PYTHON_CALL = Message("assistant", "2 + 2", "analysis", "python", "code")
PYTHON_RESULT = Message("tool", "4", "analysis", "assistant", name="python")
ANSWER = Message("assistant", "Yes.", "final")


@pytest.mark.parametrize(
    ("messages", "kept"),
    [
        ([QUESTION, THOUGHT, ANSWER, QUESTION], [QUESTION, ANSWER, QUESTION]),
        # a running tool loop keeps its reasoning
        ([QUESTION, THOUGHT, CALL, RESULT], [QUESTION, THOUGHT, CALL, RESULT]),
        # preambles, calls and results of a finished turn stay
        (
            [QUESTION, THOUGHT, PREAMBLE, CALL, RESULT, THOUGHT, ANSWER, QUESTION],
            [QUESTION, PREAMBLE, CALL, RESULT, ANSWER, QUESTION],
        ),
        # a call on the channel for reasoning stays, with its result
        (
            [QUESTION, THOUGHT, PYTHON_CALL, PYTHON_RESULT, ANSWER],
            [QUESTION, PYTHON_CALL, PYTHON_RESULT, ANSWER],
        ),
        # every finished turn counts, not only the first, even while the next one runs
        (
            [QUESTION, THOUGHT, ANSWER, QUESTION, THOUGHT, ANSWER, QUESTION, THOUGHT, CALL, RESULT],
            [QUESTION, ANSWER, QUESTION, ANSWER, QUESTION, THOUGHT, CALL, RESULT],
        ),
        ([], []),
    ],
)
def test_reasoning_of_finished_turns_goes_and_all_else_stays(messages, kept):
    assert conversation_for_next_turn(messages) == kept


def test_first_turn_is_cut_as_openai_harmony_cuts_it():
    messages = [QUESTION, THOUGHT, PREAMBLE, THOUGHT, ANSWER]
    theirs = oracle.encoding().render_conversation(oracle.conversation(messages))
    assert render_conversation(conversation_for_next_turn(messages)) == theirs


@examples(50)
@given(parsable_conversations)
def test_dropping_twice_is_dropping_once(messages):
    once = conversation_for_next_turn(messages)
    assert conversation_for_next_turn(once) == once


@pytest.mark.parametrize("message", [THOUGHT, PREAMBLE, ANSWER, CALL])
def test_generated_ids_stand_in_history_as_they_were_written(message):
    prompt, ids = render_conversation([], next_role="assistant"), render_message(message)
    written = ids[len(prompt) :]
    (parsed,) = parse_messages(written)
    assert ids_in_history(parsed) == ids
    (later,) = parse_messages(ids, role=None)
    assert ids_in_history(later) == ids


def test_call_keeps_the_header_the_model_chose():
    """The renderer would write the recipient before the channel, and the cache after it would be useless."""
    text = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{}<|call|>"
    (parsed,) = parse_messages(load_tokenizer().encode_with_specials(text))
    assert parsed.message == CALL
    assert load_tokenizer().decode(ids_in_history(parsed)) == "<|start|>assistant" + text


def test_return_becomes_end():
    ids = render_message(ANSWER)
    (parsed,) = parse_messages([*ids[:-1], RETURN], role=None)
    assert ids_in_history(parsed) == ids
    assert parsed.ids[-1] == RETURN


@pytest.mark.parametrize("message", [ANSWER, CALL])
def test_message_that_was_cut_is_closed(message):
    ids = render_message(message)
    parser = HarmonyParser(None)
    for id_ in ids[:-1]:
        parser.feed(id_)
    (finished,) = parser.finish()
    assert finished.message.ending == "cut"
    assert ids_in_history(finished.message) == ids


def test_flawed_message_is_rendered_anew():
    (parsed,) = parse_messages([*load_tokenizer().encode("I must refuse."), RETURN])
    assert ids_in_history(parsed) == render_message(Message("assistant", "I must refuse."))
    assert ids_in_history(parsed)[-1] == END


@pytest.mark.parametrize(("ending", "wrote"), [(END, CALL), (RETURN, CALL), (CALL_ID, ANSWER)])
def test_a_message_has_the_end_that_the_renderer_gives_it_whatever_the_model_wrote(ending, wrote):
    ids = render_message(wrote)
    (parsed,) = parse_messages([*ids[:-1], ending], role=None)
    assert not parsed.notes and ids_in_history(parsed) == ids


def test_a_repaired_answer_to_somebody_is_no_call():
    (parsed,) = parse_messages(load_tokenizer().encode_with_specials("<|channel|>Final to=user<|message|>Hi<|return|>"))
    assert parsed.notes and not parsed.is_tool_call and ids_in_history(parsed)[-1] == END
