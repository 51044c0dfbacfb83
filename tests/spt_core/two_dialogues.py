"""Two dialogues, and the same two in every format that the readers know: the expected values of the reader tests."""

from spt_core.dialogues import Conversation, Conversations, Turn

FIRST = Conversation("0", ("i bake.", "i have a dog."), (Turn("hi !", "hello , you ?"), Turn("bye .", "bye ! 🥖")))
SECOND = Conversation("1", ("i sail.",), (Turn("", "anyone there ?"), Turn("me .", "ahoy .")))
TWO = Conversations((FIRST, SECOND), source="memory")
TWO_PARLAI = """\
1 your persona: i bake.
2 your persona: i have a dog.
3 hi !\thello , you ?
4 bye .\tbye ! 🥖
1 your persona: i sail.
2 __SILENCE__\tanyone there ?
3 me .\tahoy .
"""
TWO_ROWS = [
    {
        "persona": list(conversation.persona),
        "turns": [{"query": turn.query, "response": turn.response} for turn in conversation.turns],
    }
    for conversation in TWO
]


def exchange(*history: str, gold: str) -> dict[str, list[str]]:
    return {"history": list(history), "candidates": ["a distractor .", gold]}


UTTERANCES = [
    {
        "personality": ["i bake.", "i have a dog."],
        "utterances": [
            exchange("hi !", gold="hello , you ?"),
            exchange("hi !", "hello , you ?", "bye .", gold="bye ! 🥖"),
        ],
    },
    {
        "personality": ["i sail."],
        "utterances": [
            exchange("__ SILENCE __", gold="anyone there ?"),
            exchange("__ SILENCE __", "anyone there ?", "me .", gold="ahoy ."),
        ],
    },
]
REPLIES = [
    {"personality": row["personality"], "conv_id": number, "utterance_idx": index, **utterance}
    for number, row in enumerate(UTTERANCES)
    for index, utterance in enumerate(row["utterances"])
]
SCRIPTS = [
    {
        "user 1 personas": "i am a fish.",
        "user 2 personas": "i bake.\n \ni have a dog.",
        "Best Generated Conversation": "User 1: hi !\nUser 2: hello , you ?\n\nUser 1: bye .\nUser 2: bye ! 🥖",
    },
    {
        "user 1 personas": "i am a fish.",
        "user 2 personas": "i sail.\n",
        "Best Generated Conversation": "User 2: anyone\nthere ?\nUser 1: me .\nUser 2: ahoy .\nUser 1: oh .",
    },
]
