"""From dialogues to batches: the boundary of the response, truncation, padding, and the order by seed."""

from dataclasses import replace

import pytest
import torch

from spt_core.batching import by_length, collate, epoch_batches, some_dialogues, template, to_decode, tokenise
from spt_core.conversations import load
from spt_core.dialogues import Conversation, Conversations, Turn
from tests.conftest import tokenizer

TOKENIZER = tokenizer()
DIALOGUE = Conversation(
    "7", ("i like tea.", "i am a cook."), (Turn("hi , who are you ?", "i am a cook ."), Turn("tea ?", "yes , please !"))
)
EXAMPLES = tokenise(load("sample:valid")[:20], TOKENIZER, max_tokens=512)


def decode(ids: tuple[int, ...]) -> str:
    return str(TOKENIZER.decode(list(ids)))


def test_the_template_is_the_released_one() -> None:
    assert template(["i like tea.", "i am a cook."], [("hi", "hello")], "tea ?") == (
        "given persona: i like tea. i am a cook.; context: Q: hi R: hello Q: tea ? R:"
    )
    assert template(["i like tea."], [("", "hello")], "hi") == "given persona: i like tea.; context: R: hello Q: hi R:"


def test_every_reply_is_an_example_with_its_full_history() -> None:
    first, second = tokenise(Conversations((DIALOGUE,), "here"), TOKENIZER, max_tokens=512)
    assert (first.turn, second.turn, second.dialogue) == (0, 1, "7")
    assert decode(second.context_ids) == (
        "<bos>given persona: i like tea. i am a cook.; context: Q: hi , who are you ? R: i am a cook . Q: tea ? R:"
    )
    assert decode(second.response_ids) == " yes , please !<eos>"
    assert second.context == "i like tea. i am a cook. hi , who are you ? i am a cook . tea ?"
    assert second.reference == "yes , please !"


def test_training_and_decoding_see_the_same_boundary() -> None:
    for example, conversation in zip(EXAMPLES[:1], load("sample:valid"), strict=False):
        alone = TOKENIZER(template(conversation.persona, [], conversation.turns[0].query), add_special_tokens=False)
        assert example.context_ids == (TOKENIZER.bos_token_id, *alone["input_ids"])


def test_a_long_context_is_cut_from_the_left_and_keeps_bos() -> None:
    whole = EXAMPLES[-1]
    (cut,) = [
        example
        for example in tokenise(load("sample:valid")[19:20], TOKENIZER, max_tokens=40)
        if example.turn == whole.turn
    ]
    assert cut.num_tokens == 40
    assert cut.response_ids == whole.response_ids
    assert cut.context_ids[0] == TOKENIZER.bos_token_id
    assert cut.context_ids[1:] == whole.context_ids[-(len(cut.context_ids) - 1) :]


def test_a_response_longer_than_the_limit_is_cut_from_the_right() -> None:
    talker = Conversation("0", ("hi.",), (Turn("q", "word " * 100),))
    (example,) = tokenise(Conversations((talker,), "here"), TOKENIZER, max_tokens=16)
    assert example.num_tokens <= 16
    assert len(example.response_ids) > 0


def test_collate_puts_contexts_left_and_responses_right() -> None:
    batch = collate(EXAMPLES[:5])
    for row, example in enumerate(EXAMPLES[:5]):
        context = batch.token_ids_BT[row, : batch.num_context][batch.context_mask_BM[row].bool()]
        response = batch.response_ids_BR[row][batch.response_mask_BR[row].bool()]
        assert tuple(context.tolist()) == example.context_ids
        assert tuple(response.tolist()) == example.response_ids
        assert batch.context_mask_BM[row, -1] == 1
        assert batch.response_mask_BR[row, 0] == 1


@pytest.mark.parametrize("batch_size", [1, 4, 7, 1000])
def test_an_epoch_holds_every_example_once(batch_size: int) -> None:
    batches = epoch_batches(EXAMPLES, batch_size=batch_size, seed=3, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(len(EXAMPLES)))
    assert all(len(batch) <= batch_size for batch in batches)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return epoch_batches(EXAMPLES, batch_size=4, seed=seed, epoch=epoch)

    torch.manual_seed(99)
    first = order(0, 0)
    torch.manual_seed(1)
    assert order(0, 0) == first
    assert order(1, 0) != first
    assert order(0, 1) != first


def test_length_buckets_pad_less_than_random_batches() -> None:
    def padding(batches: list[list[int]]) -> float:
        masks = [collate([EXAMPLES[i] for i in batch]).mask_BT for batch in batches]
        return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    bucketed = padding(epoch_batches(EXAMPLES, batch_size=8, seed=0, epoch=0))
    in_order = padding([list(range(i, min(i + 8, len(EXAMPLES)))) for i in range(0, len(EXAMPLES), 8)])
    assert bucketed < 0.5 * in_order


def test_by_length_is_longest_first_and_complete() -> None:
    batches = list(by_length(EXAMPLES, batch_size=6))
    lengths = [EXAMPLES[index].num_tokens for batch in batches for index in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(index for batch in batches for index in batch) == list(range(len(EXAMPLES)))


def test_some_dialogues_takes_whole_dialogues_but_the_last() -> None:
    some = some_dialogues(EXAMPLES, most=20, seed=0)
    assert len(some) == 20
    assert some == [example for example in EXAMPLES if example in some]
    whole = [
        dialogue
        for dialogue in {example.dialogue for example in some}
        if sum(e.dialogue == dialogue for e in some) == sum(e.dialogue == dialogue for e in EXAMPLES)
    ]
    assert len(whole) >= len({example.dialogue for example in some}) - 1
    assert some_dialogues(EXAMPLES, most=20, seed=1) != some
    assert some_dialogues(EXAMPLES, most=None, seed=0) == EXAMPLES


def test_the_released_boundary_decodes_from_a_text_that_ends_in_a_space() -> None:
    released = tokenise(load("sample:valid")[:20], TOKENIZER, max_tokens=512, boundary="released")
    for example, plain in zip(released, EXAMPLES, strict=True):
        assert (example.context_ids, example.response_ids) == (plain.context_ids, plain.response_ids)
        assert plain.decoding_ids == plain.context_ids
        assert decode(example.decoding_ids).endswith("R: ")
        assert decode(example.context_ids).endswith("R:")
    batch = collate(EXAMPLES[:3])
    assert to_decode(batch) is batch
    asked = to_decode(collate(released[:3]))
    last = [asked.token_ids_BT[row, asked.num_context - 1].item() for row in range(3)]
    assert last == [example.decoding_ids[-1] for example in released[:3]]
    assert asked.examples == tuple(released[:3])


def test_the_end_of_sequence_can_be_left_out() -> None:
    without = tokenise(load("sample:valid")[:20], TOKENIZER, max_tokens=512, train_eos=False)
    for example, plain in zip(without, EXAMPLES, strict=True):
        assert plain.response_ids == (*example.response_ids, TOKENIZER.eos_token_id)
        assert example.response_ids


def test_stages_are_the_first_the_last_and_the_rest() -> None:
    dialogue = [example for example in EXAMPLES if example.dialogue == EXAMPLES[0].dialogue]
    assert [example.stage for example in dialogue] == ["opening", *["middle"] * (len(dialogue) - 2), "closing"]
    assert replace(dialogue[0], num_turns=1).stage == "opening"


def test_a_batch_can_be_repeated_row_by_row() -> None:
    batch = collate(EXAMPLES[:2]).repeat(3)
    assert batch.examples == tuple(EXAMPLES[row] for row in (0, 0, 0, 1, 1, 1))
    assert torch.equal(batch.token_ids_BT[2], batch.token_ids_BT[0])
    assert len(batch.mask_BT) == 6
