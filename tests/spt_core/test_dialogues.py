"""A set of dialogues is a sequence, and its fingerprint depends on its contents alone."""

import pytest

from spt_core.dialogues import Conversation, Conversations, Turn
from tests.spt_core.two_dialogues import FIRST, SECOND, TWO


def test_is_a_sequence_whose_slices_keep_the_source() -> None:
    assert (len(TWO), TWO.num_responses) == (2, 4)
    assert list(TWO) == [FIRST, SECOND]
    assert TWO[-1] is SECOND
    assert TWO[1:] == Conversations((SECOND,), source="another source")
    assert TWO[1:].source == TWO.source
    assert "memory: 2 dialogues, 4 responses" in repr(TWO)


def test_the_fingerprint_has_the_recorded_value() -> None:
    """It is part of the trial key: a change would invalidate every finished trial."""
    assert TWO.fingerprint == "ecd9d08ceed48964ac235f52226cc2b110e0e3bd9ee9b8a42764f54339fd93a4"


@pytest.mark.parametrize(
    "changed",
    [
        (SECOND, FIRST),
        (FIRST,),
        (Conversation("0", ("i bake.",), FIRST.turns), SECOND),
        (Conversation("0", FIRST.persona[::-1], FIRST.turns), SECOND),
        (Conversation("0", FIRST.persona, (Turn("hi", "! hello , you ?"), FIRST.turns[1])), SECOND),
        (Conversation("0", FIRST.persona, FIRST.turns + SECOND.turns),),
    ],
    ids=["order", "fewer", "persona", "order of persona", "where the reply begins", "where the dialogue ends"],
)
def test_the_fingerprint_differs_for_different_contents(changed: tuple[Conversation, ...]) -> None:
    assert Conversations(changed, source="memory").fingerprint != TWO.fingerprint
