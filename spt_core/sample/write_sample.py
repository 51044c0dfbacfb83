"""Writes the bundled sample: small talk in our own words, whose replies depend on a persona and on the stage.

A dialogue opens with a greeting, goes through topics (hobby, work, family, pet, taste) in an order that varies a
little, and ends with a farewell. A reply puts a clause that belongs to a fact of the persona between phrases that
belong to the stage. Greetings and farewells carry an emoji about half the time, topics seldom. Personas of the
validation split are all new, and some have a hobby or a job that training never shows.

    python -m spt_core.sample.write_sample            writes train.txt and valid.txt beside this file
    python -m spt_core.sample.write_sample --check    fails where they are not what it would write
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

SEED = 1
NUM_DIALOGUES = {"train": 440, "valid": 100}
NUM_PERSONAS = {"train": 330, "valid": 80}  # as in ConvAI2, one persona may meet several partners
MAX_WORDS = 16  # of a reply; punctuation marks count, an emoji does not

T = TypeVar("T")


class Fact(NamedTuple):
    """Something true of a person, and how they speak of it.

    Args:
        emoji: one that fits.
        sentences: two ways for a persona to state it.
        now: a clause for a greeting.
        leave: a clause that gives a reason to go.
        says: clauses that answer the topic's questions.
        more: clauses that answer its follow-ups.
    """

    emoji: str
    sentences: tuple[str, ...]
    now: str
    leave: str
    says: tuple[str, ...]
    more: tuple[str, ...]


class Topic(NamedTuple):
    """What two people may talk of between greeting and farewell.

    Args:
        facts: those a persona of either split may have, one of them at most.
        held_out: those only a persona of the validation split may have instead.
        questions: how the partner opens the topic.
        follow_ups: how the partner goes on with it.
        answers: what the partner says to a question back.
        reactions: what the partner says to anything else.
        leads: how a reply to a question begins.
        leads_on: how a reply to a follow-up begins.
        asks: how a reply ends with a question back.
        remarks: how a reply ends otherwise.
    """

    facts: tuple[Fact, ...]
    held_out: tuple[Fact, ...]
    questions: tuple[str, ...]
    follow_ups: tuple[str, ...]
    answers: tuple[str, ...]
    reactions: tuple[str, ...]
    leads: tuple[str, ...]
    leads_on: tuple[str, ...]
    asks: tuple[str, ...]
    remarks: tuple[str, ...]


class Persona(NamedTuple):
    """A person: one fact a topic, by the topic's name, and the sentences that state them."""

    facts: dict[str, Fact]
    sentences: tuple[str, ...]


class Dice:
    """Seeded choices, made of `random()` alone: the stream that every version of Python keeps for a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def happens(self, probability: float) -> bool:
        """Whether an event of this probability happens."""
        return self._random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self._random() * len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in random order."""
        places = sorted((self._random(), place) for place in range(len(options)))
        return [options[place] for _, place in places]


class Chat:
    """Two people in one dialogue, who do not repeat a phrase while others are left."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._used: set[str] = set()

    def phrase(self, options: Sequence[str]) -> str:
        """One of the options, new to this dialogue if any is."""
        phrase = self._dice.pick([option for option in options if option not in self._used] or options)
        self._used |= {phrase} - {""}
        return phrase

    def reply(
        self, leads: Sequence[str], clauses: Sequence[str], *, asks: Sequence[str], remarks: Sequence[str]
    ) -> tuple[str, bool]:
        """A lead, a clause and perhaps a question back or a remark, in MAX_WORDS; and whether it asks."""
        clause = f"{self.phrase(clauses)} ."
        lead = self.phrase([lead for lead in leads if len(f"{lead} {clause}".split()) <= MAX_WORDS])
        reply = f"{lead} {clause}".strip()
        room = MAX_WORDS - len(reply.split())
        asking = bool(asks) and self._dice.happens(0.6)
        ends = [end for end in (asks if asking else remarks) if len(end.split()) <= room]
        if not ends or (room <= MAX_WORDS // 2 and self._dice.happens(0.4)):
            return reply, False
        return f"{reply} {self.phrase(ends)}", asking

    def emoji(self, probability: float, options: Sequence[str]) -> str:
        """A space and one of the options, or nothing."""
        return f" {self._dice.pick(options)}" if self._dice.happens(probability) else ""


def main() -> None:
    """Write the two files of the sample, or with --check exit with an error where they differ."""
    parser = argparse.ArgumentParser(prog="python -m spt_core.sample.write_sample", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="compare the files, and write nothing")
    check: bool = parser.parse_args().check
    for split, text in texts().items():
        path = Path(__file__).with_name(f"{split}.txt")
        if not check:
            path.write_bytes(text.encode())
        elif not path.is_file() or path.read_bytes() != text.encode():
            parser.exit(1, f"{path}: not what this program writes; run it without --check, or undo the edit\n")


def texts() -> dict[str, str]:
    """The ParlAI text of each split, by its name: train and valid."""
    dice = Dice(SEED)
    taken: set[frozenset[Fact]] = set()
    return {split: "".join(_dialogues(split, dice, taken)) for split in NUM_DIALOGUES}


def _dialogues(split: str, dice: Dice, taken: set[frozenset[Fact]]) -> Iterator[str]:
    personas: list[Persona] = []
    while len(personas) < NUM_PERSONAS[split]:
        persona = _persona(dice, may_hold_out=split == "valid")
        facts = frozenset(persona.facts.values())
        if facts not in taken:
            taken.add(facts)
            personas.append(persona)
    again = [dice.pick(personas) for _ in range(NUM_DIALOGUES[split] - len(personas))]
    for persona in dice.shuffled(personas + again):
        lines = [f"your persona: {sentence}" for sentence in persona.sentences]
        lines += [f"{query}\t{reply}" for query, reply in _turns(persona, dice)]
        yield "".join(f"{number} {line}\n" for number, line in enumerate(lines, start=1))


def _persona(dice: Dice, *, may_hold_out: bool) -> Persona:
    facts: dict[str, Fact] = {}
    for name, topic in TOPICS.items():
        if name in ("hobby", "work", "family") or dice.happens(0.6):
            held_out = may_hold_out and topic.held_out and dice.happens(0.35)
            facts[name] = dice.pick(topic.held_out if held_out else topic.facts)
    sentences = [dice.pick(fact.sentences) for fact in facts.values()]
    return Persona(facts, tuple(dice.shuffled(sentences)))


def _turns(persona: Persona, dice: Dice) -> Iterator[tuple[str, str]]:
    chat = Chat(dice)
    plan = _plan(list(persona.facts), dice)
    # A greeting does not give away what the partner is about to ask, but work and hobby come up anyway.
    fact = dice.pick([fact for name, fact in persona.facts.items() if name in ("hobby", "work") or name not in plan])
    reply, asked = chat.reply(HELLOS, (fact.now,), asks=HOW_ARE_YOU, remarks=())
    yield chat.phrase(GREETINGS), reply + chat.emoji(0.5, (*GREETING_EMOJI, fact.emoji))
    link = chat.phrase(HOW_I_AM if asked else NODS)
    last = ""
    for name in plan:
        topic, fact = TOPICS[name], persona.facts[name]
        if name == last:
            question = chat.phrase(topic.follow_ups)
            reply, asked = chat.reply(topic.leads_on, fact.more, asks=(), remarks=topic.remarks)
        else:
            question = chat.phrase(topic.questions)
            reply, asked = chat.reply(topic.leads, fact.says, asks=topic.asks, remarks=topic.remarks)
        yield f"{link} {question}", reply + chat.emoji(0.08, (fact.emoji,))
        link = chat.phrase(topic.answers if asked else topic.reactions)
        last = name
    leave = dice.pick(list(persona.facts.values())).leave
    reply, _ = chat.reply(CLOSINGS, (leave,), asks=(), remarks=GOODBYES)
    yield f"{link} {chat.phrase(FAREWELLS)}", reply + chat.emoji(0.6, FAREWELL_EMOJI)


def _plan(topics: list[str], dice: Dice) -> list[str]:
    """The topics of the 2 to 6 turns between greeting and farewell; one that comes twice is followed up."""
    num_turns = dice.pick(range(2, 7))
    num_topics = dice.pick(range((num_turns + 1) // 2, min(num_turns, len(topics)) + 1))
    chosen = sorted(dice.shuffled(topics)[:num_topics], key=topics.index)
    if num_topics > 1 and dice.happens(0.4):
        place = dice.pick(range(num_topics - 1))
        chosen[place], chosen[place + 1] = chosen[place + 1], chosen[place]
    followed_up = dice.shuffled(chosen)[: num_turns - num_topics]
    return [name for topic in chosen for name in [topic] * (1 + (topic in followed_up))]


# The phrases. A clause has no full stop, goes with any lead of its kind, and contradicts no fact of another topic.
# fmt: off

GREETINGS = (
    "hi , how are you today ?", "hello ! how is it going ?", "hey there , how are you ?",
    "hi ! how was your day ?", "hello , how are you doing ?", "hey , how are things ?",
    "hi there ! all good ?", "hello , how is your day so far ?", "hey ! how have you been ?",
    "hi , nice to meet you . how are you ?",
)

HELLOS = (
    "hi !", "hey there !", "hello !", "hi , doing great .", "hey , pretty good .", "hello , i am well .",
    "hi , not bad .", "good , thanks !", "oh hi !", "hey , nice to meet you .", "i am good !",
    "can not complain .",
)

HOW_ARE_YOU = (
    "how are you ?", "and you ?", "how about you ?", "how is your day ?", "what are you up to ?",
)

HOW_I_AM = (
    "i am good , just had lunch .", "a bit tired , but good .", "just relaxing on the couch .",
    "great , it is my day off .", "not bad , it is sunny here .", "all good , listening to the radio .",
    "a little bored , so i am glad to chat .", "pretty good , i am making soup .",
)

NODS = (
    "ha , nice .", "sounds like a day .", "that made me smile .", "oh wow .", "lol , i like that .",
    "never boring , huh ?",
)

GREETING_EMOJI = (
    "👋", "😊", "🙂", "😄",
)

FAREWELLS = (
    "well , i have to go , it was nice to meet you .", "i should get some sleep , good night !",
    "my lunch break is over , talk later ?", "i have to run , thanks for the chat !",
    "it was fun talking to you , bye for now .", "i need to head out , have a good one .",
    "my phone is dying , take care !", "gotta go , my ride is here .",
    "i better get back to work , see you !", "dinner is ready here , so bye for now !",
)

CLOSINGS = (
    "nice talking to you !", "this was fun !", "likewise !", "same here ,", "it was great to meet you .",
    "no problem ,", "perfect timing ,", "me too ,", "thanks for the chat !", "good timing ,", "of course ,",
)

GOODBYES = (
    "bye !", "take care !", "talk soon !", "have a good one !", "see you around .", "good night !",
    "until next time !", "be well .",
)

FAREWELL_EMOJI = (
    "👋", "😊", "🌙", "🙌", "💛",
)

HOBBIES = (
    Fact("🥖", ("i bake sourdough bread.", "baking sourdough is my favorite hobby."),
         now="i just took two loaves out of the oven", leave="my dough needs another fold",
         says=("i bake sourdough and give half of it away",
               "i bake , my sourdough starter is older than my car",
               "i am chasing the perfect crust , one loaf at a time"),
         more=("a neighbor gave me a jar of starter once",
               "one bad loaf made me stubborn about getting it right")),
    Fact("💪", ("i climb at the bouldering gym.", "i love rock climbing."),
         now="my arms are jelly after the climbing gym", leave="the climbing gym closes in an hour",
         says=("i boulder , so my hands are always covered in chalk",
               "i climb indoors and dream about real cliffs",
               "rock climbing , it is like chess for your fingers"),
         more=("a friend dragged me to the wall and i never left",
               "i was scared of heights and wanted to fix that")),
    Fact("🌱", ("i grow my own vegetables.", "i spend my weekends in the garden."),
         now="i just came in from weeding the tomatoes", leave="the beans need water before dark",
         says=("i garden , and grow more zucchini than anyone can eat",
               "i grow vegetables , my tomatoes are my pride and joy",
               "i garden , right now i am at war with the slugs"),
         more=("my grandpa let me have a corner of his garden",
               "it began with one basil plant on a windowsill")),
    Fact("🎣", ("i go fly fishing whenever i can.", "i tie my own fishing flies."),
         now="i was on the river at sunrise and caught nothing", leave="i want to tie a few flies tonight",
         says=("i fly fish , which mostly means standing in cold water",
               "i tie my own flies and lose them in trees",
               "i fish the same quiet river and let everything go"),
         more=("my uncle put a rod in my hand at six", "i wanted a reason to stand in a river all day")),
    Fact("🏆", ("i play chess in the park.", "i have played chess since i was little."),
         now="i just lost a chess game to a ten year old", leave="i have a chess game to finish",
         says=("i play chess with the old guys in the park",
               "i play chess , badly but with great confidence",
               "chess , i collect openings like other people collect stamps"),
         more=("i found an old set in the attic and got hooked",
               "my school had a chess club with free cookies")),
    Fact("🎸", ("i play bass in a garage band.", "i am the bass player in a small band."),
         now="my ears are still ringing from band practice", leave="band practice starts in ten minutes",
         says=("i play bass in a band nobody has heard of", "i am in a band , we rehearse in a garage",
               "i play loud bass lines and my neighbors are patient"),
         more=("the band had three guitars and needed a bass",
               "i bought a cheap bass with my first paycheck")),
    Fact("🐦", ("i am a bird watcher.", "i keep a list of every bird i see."),
         now="i spotted a barn owl on my way home", leave="the owls come out around now",
         says=("i watch birds , my list is at two hundred", "i sit in a marsh with binoculars and wait",
               "birds , i can tell a wren from its song alone"),
         more=("a kingfisher flew past me once and that was it",
               "i bought binoculars for a trip and kept looking")),
    Fact("🏺", ("i make pottery.", "i spend my evenings at the pottery wheel."),
         now="i am covered in clay from the pottery studio", leave="my bowls come out of the kiln tonight",
         says=("i throw pots , and most of my mugs lean left",
               "i make bowls , everyone i know has one by now",
               "pottery , nothing clears my head like wet clay"),
         more=("a birthday class turned into a wheel of my own",
               "i needed a hobby without a screen in it")),
    Fact("🏃", ("i run marathons.", "i am training for my next marathon."),
         now="i just got back from a very long run", leave="i have an early run tomorrow",
         says=("i run , slowly , but for a very long time",
               "i am training for a marathon and always hungry",
               "i run along the canal before anyone is awake"),
         more=("i lost a bet and had to run a ten k", "i could not run a mile , and that bugged me")),
    Fact("🧶", ("i love to knit.", "i knit sweaters for everyone i know."),
         now="i just finished the second sleeve of a sweater", leave="i have a sock to finish",
         says=("i knit , so everyone gets socks from me this year",
               "i knit sweaters and buy far too much yarn", "i knit on the train , it makes people smile"),
         more=("my great aunt taught me one rainy summer",
               "i wanted one scarf and now i own forty balls of wool")),
    Fact("🎲", ("i host a board game night.", "i collect board games."),
         now="i am setting up a board game for tonight", leave="my game night guests are at the door",
         says=("i host game nights and take the rules very seriously", "i own more board games than chairs",
               "i like long board games with tiny wooden pieces"),
         more=("a snowed in weekend and one old box did it",
               "my roommates in college played every single night")),
    Fact("🔭", ("i have a telescope on my roof.", "i love looking at the stars."),
         now="i was up late looking at saturn", leave="the sky just cleared up",
         says=("i look at planets from my roof , saturn is the best",
               "i chase clear skies with a heavy telescope",
               "stargazing , even if it means freezing until two"),
         more=("i saw the rings of saturn once and gasped",
               "a teacher showed our class the moon up close")),
    Fact("🌊", ("i surf all year round.", "i live to surf."),
         now="i still have sand in my hair from surfing", leave="the tide is turning and my board is waxed",
         says=("i surf , even in january when it is silly",
               "i surf , i check the waves before i check my mail",
               "i surf and wipe out in front of tourists a lot"),
         more=("i moved near the coast and bought a used board",
               "my first wave was tiny and i screamed all the way in")),
    Fact("🔧", ("i restore old motorcycles.", "i have three old motorcycles in my garage."),
         now="i have grease up to my elbows from an old bike",
         leave="there is a carburetor soaking in the garage",
         says=("i fix up motorcycles that are older than me",
               "i take old engines apart and hope they go back together",
               "motorcycles , there is always half of one in my garage"),
         more=("i bought a wreck for fifty bucks and had to learn", "the sound of one old engine got me")),
    Fact("📚", ("i read crime novels.", "i read two crime novels a week."),
         now="i stayed up too late with a murder mystery",
         leave="i am three chapters from finding out who did it",
         says=("i read crime novels and never guess the killer", "i read mysteries , mostly in the bath",
               "i have a stack of detective books by my bed"),
         more=("i found a box of old paperbacks at a yard sale",
               "one long train ride and one good detective did it")),
    Fact("💃", ("i dance salsa.", "i go salsa dancing on fridays."),
         now="my feet hurt from dancing salsa all night", leave="the salsa band starts soon",
         says=("i dance salsa and hardly step on toes now", "i dance salsa until the band goes home",
               "salsa , i am shy until the music starts"),
         more=("i took one free class and stayed for the music",
               "a wedding made me realize i could not dance")),
    Fact("📷", ("i take pictures with an old film camera.", "i develop my own photos."),
         now="i am waiting for a roll of film to dry", leave="i have wet prints hanging up to dry",
         says=("i shoot film and develop it in my bathroom",
               "i photograph old shop signs before they disappear",
               "i take one photo a day on a camera from 1970"),
         more=("i found a camera at a flea market and it worked",
               "phones made it too easy , i missed the waiting")),
    Fact("🔨", ("i build my own furniture.", "i like woodworking."),
         now="i am sweeping up sawdust in the shed", leave="the glue on my table should be dry",
         says=("i build chairs , and most of them hold a person",
               "i make little wooden boxes with hidden drawers",
               "woodworking , my shed smells of cedar all year"),
         more=("i could not find a table that fit , so i built one",
               "i inherited a chest of tools and felt guilty")),
    Fact("🎶", ("i sing in a choir.", "i am an alto in the town choir."),
         now="i have been humming choir parts all day", leave="i have choir in half an hour",
         says=("i sing alto in a choir of forty loud people", "i sing in a choir , we do a lot of bach",
               "choir , i sing until my voice gives up"),
         more=("they needed altos and i came for the snacks",
               "i sang in the car so much that a friend signed me up")),
    Fact("🏊", ("i swim in cold lakes.", "i swim outdoors even in winter."),
         now="i am still warming up from a swim in the lake", leave="i want one more dip before sunset",
         says=("i swim in the lake , even with ice at the edge",
               "cold water swimming , you scream once and then it is bliss",
               "i swim before breakfast , the ducks know me by now"),
         more=("someone dared me on new year and i loved it",
               "the pool closed for repairs so i tried the lake")),
    Fact("⛺", ("i love to hike and camp.", "i sleep in a tent every chance i get."),
         now="i am drying out a very wet tent", leave="i still have to pack my tent",
         says=("i hike until my phone has no signal", "i camp a lot , breakfast tastes better outdoors",
               "i am walking every trail in the county , slowly"),
         more=("i got lost on a day hike and liked it",
               "a summer job as a trail guide ruined hotels for me")),
    Fact("🎮", ("i collect old video games.", "i play video games from the nineties."),
         now="i just beat a game i have owned since third grade", leave="i paused a boss fight for this",
         says=("i play old video games on an even older tv", "i hunt for game cartridges at flea markets",
               "i race through one old game , my record is nine minutes"),
         more=("i never got to finish one game as a kid",
               "i found my old console in a box and it turned on")),
    Fact("🎨", ("i paint watercolors.", "i paint little landscapes."),
         now="i spilled blue paint on my desk this morning", leave="my paint is drying out",
         says=("i paint watercolors , mostly skies because they forgive you",
               "i paint on postcards and mail them to friends",
               "i sketch strangers on the bus and paint them later"),
         more=("a rainy vacation and a cheap paint set did it", "i wanted to look at things more slowly")),
    Fact("🚲", ("i ride my bike everywhere.", "i go on long bike rides."),
         now="i just rode my bike home in the pouring rain", leave="i have a flat tire to patch",
         says=("i ride my bike up hills for no good reason",
               "i cycle , last summer i crossed three countries",
               "i go on long rides with a stop for pie in the middle"),
         more=("my car broke down and i never replaced it",
               "i bought a bike to save money , that did not work")),
)

HELD_OUT_HOBBIES = (
    Fact("🐝", ("i keep bees.", "i have four beehives behind my house."),
         now="i only got stung once today", leave="the hives need a look before dark",
         says=("i keep bees , about forty thousand of them", "i keep bees and pay my friends in honey",
               "i wear a funny white suit and talk to bees"),
         more=("a swarm landed on my fence and i got curious",
               "i took a class because i wanted better plums")),
    Fact("🏹", ("i practice archery.", "i shoot a longbow."),
         now="i just lost three arrows in the long grass", leave="the archery range closes soon",
         says=("i shoot arrows at straw and sometimes hit it",
               "archery , i like how quiet it gets before the release",
               "i made my own bow and it almost shoots straight"),
         more=("i saw it at a fair and could not forget it", "i watched robin hood every week as a kid")),
    Fact("🤹", ("i can juggle five balls.", "i am teaching myself to juggle."),
         now="i just dropped a juggling ball on my foot",
         leave="i promised myself ten more minutes of juggling",
         says=("i juggle , up to five balls on a good day",
               "i practice juggling and pick things up off the floor",
               "juggling , my neighbors downstairs are very patient"),
         more=("a street performer taught me for a sandwich",
               "i was bored at a bus stop with three oranges")),
    Fact("⛵", ("i sail a small wooden boat.", "i love to go sailing."),
         now="i just tied up the boat after a windy sail", leave="the wind is finally picking up",
         says=("i sail a tiny boat that leaks a little",
               "i sail when it blows and varnish when it does not",
               "sailing , i like being somewhere without a road"),
         more=("i joined a crew without knowing a single knot",
               "i swapped an old car for an even older boat")),
)

JOBS = (
    Fact("🏥", ("i am a night nurse.", "i work nights at the hospital."),
         now="i just woke up after a night shift", leave="my shift at the hospital starts soon",
         says=("i am a nurse , mostly on nights", "i work nights on the children's ward",
               "i am a nurse , i live on snacks and comfortable shoes"),
         more=("when a patient walks out on their own two feet",
               "the quiet hour right before the sun comes up")),
    Fact("🚌", ("i drive a city bus.", "i am a bus driver."),
         now="i just parked the bus for the night", leave="my first bus leaves at five",
         says=("i drive the number nine bus across town", "i drive a bus , i know everyone on my route",
               "i am a bus driver and i am never late"),
         more=("the regulars , one lady brings me plums",
               "crossing the bridge at sunrise , every single morning")),
    Fact("🍎", ("i teach third grade.", "i am an elementary school teacher."),
         now="i have been grading spelling tests all afternoon",
         leave="i have twenty spelling tests left to grade",
         says=("i teach third grade , it is loud and wonderful",
               "i teach eight year olds how fractions work",
               "i am a teacher , there is glitter on everything i own"),
         more=("the moment a kid suddenly gets it", "the notes they leave on my desk")),
    Fact("📖", ("i work at the library.", "i am a librarian."),
         now="it was a slow day at the library", leave="i have to lock up the library",
         says=("i am a librarian , i say shh less than you think",
               "i run the children's corner at the library",
               "i work at the library , mostly i fix the printer"),
         more=("finding the one book someone half remembers", "story hour , i do all the voices")),
    Fact("🚿", ("i am a plumber.", "i fix pipes for a living."),
         now="i spent the morning under a kitchen sink", leave="someone's basement is filling with water",
         says=("i am a plumber , people are always happy to see me",
               "i fix pipes and find a lot of lost rings",
               "i run my own plumbing van , just me and the radio"),
         more=("finding the leak when two others could not", "being my own boss , with the radio on")),
    Fact("🍳", ("i am a cook in a small restaurant.", "i cook at a little place downtown."),
         now="i have been chopping onions since noon", leave="the dinner rush starts in an hour",
         says=("i cook in a tiny kitchen with five other people",
               "i am a cook , so i smell of garlic all week",
               "i do the soups and sauces at a little place downtown"),
         more=("an empty plate coming back , every time", "the meal we share after the last guest leaves")),
    Fact("🐾", ("i work for a vet.", "i am an assistant at an animal clinic."),
         now="i held a very angry cat all morning", leave="the animal clinic opens early tomorrow",
         says=("i work at an animal clinic and get scratched a lot",
               "i help a vet with everything from ferrets to cows",
               "i calm down nervous dogs for a living"),
         more=("sending a healthy puppy home", "the thank you cards with paw prints on them")),
    Fact("📬", ("i deliver the mail.", "i am a mail carrier."),
         now="i just walked nine miles with a mail bag", leave="my mail round starts at dawn",
         says=("i deliver mail , so i know every dog in town", "i am a mail carrier and my calves are huge",
               "i walk the same streets and bring people letters"),
         more=("kids who wait at the gate for a package", "being outside , even when it rains sideways")),
    Fact("🧮", ("i am an accountant.", "i do taxes for a living."),
         now="i have been staring at spreadsheets all day", leave="i still have a tax return to file",
         says=("i am an accountant , spring is a blur every year",
               "i do taxes , for bands and bakeries mostly", "i add up numbers and people thank me for it"),
         more=("when a column comes out right on the first try",
               "telling a nervous person they get money back")),
    Fact("💐", ("i own a flower shop.", "i am a florist."),
         now="i have been up since four for the flower market", leave="the flower market opens at four",
         says=("i own a flower shop the size of a closet", "i am a florist , i do weddings and apologies",
               "i sell flowers , so people tell me their secrets"),
         more=("the smell when i open the door in the morning",
               "the nervous ones who buy roses for the first time")),
    Fact("💻", ("i test software.", "i look for bugs in software."),
         now="i broke our app before lunch , so a good day",
         leave="a test run just failed and i have to look",
         says=("i test software , so i break things all day",
               "i find bugs and then convince people they are real",
               "i work from home and click buttons in the wrong order"),
         more=("finding the bug everyone swore was not there", "working in slippers , to be honest")),
    Fact("🥐", ("i am a barista.", "i work at a cafe by the station."),
         now="i have steamed about a hundred pints of milk today", leave="i open the cafe at six",
         says=("i am a barista , i can draw a swan in foam", "i work at a cafe by the station",
               "i work behind a coffee machine and remember everyone's order"),
         more=("the first regular of the day , same joke each time",
               "when the line is long and the music is right")),
    Fact("🚒", ("i am a firefighter.", "i work at the fire station."),
         now="it was a quiet night at the fire station", leave="i am on call tonight",
         says=("i am a firefighter , we mostly rescue cats and toast",
               "i work at the fire station , two days on , two off",
               "i drive the big ladder truck , and yes i love it"),
         more=("the crew , we cook huge dinners together", "when everybody gets out safe")),
    Fact("🚂", ("i am a train conductor.", "i work on the night train."),
         now="my train came in two hours late", leave="my train leaves at nine sharp",
         says=("i am a conductor on the night train to the coast",
               "i check tickets and wake people at their stop",
               "i work on trains , so i sleep in a lot of cities"),
         more=("breakfast in a new city twice a week", "the sound of the rails at night")),
    Fact("🦷", ("i clean teeth for a living.", "i work for a dentist."),
         now="i told twelve people to floss today", leave="my first patient is at eight",
         says=("i clean teeth and ask questions people can not answer",
               "i work for a dentist , please do not be scared", "i clean teeth , so i notice every smile"),
         more=("when a scared patient leaves laughing", "the kids who show me their wobbly teeth")),
    Fact("📝", ("i translate books.", "i am a translator."),
         now="i have been stuck on one sentence since breakfast", leave="i owe my editor a chapter tonight",
         says=("i translate novels from french , one comma at a time",
               "i am a translator , i argue with dictionaries",
               "i translate cookbooks and get hungry at my desk"),
         more=("the day a joke finally works in english", "seeing the finished book in a shop window")),
    Fact("🗿", ("i am a guard at a museum.", "i work at the art museum."),
         now="i stood next to a very old painting all day", leave="i have the early shift at the museum",
         says=("i guard paintings and tell people where the restrooms are",
               "i work at a museum , mostly in the egypt room",
               "i am a museum guard , i know when the light is best"),
         more=("the ten minutes before the doors open", "kids who ask if the mummy is real")),
    Fact("🐄", ("i have a dairy farm.", "i milk cows for a living."),
         now="the cows got me up at four again", leave="the cows will not milk themselves",
         says=("i milk sixty cows and they all have names",
               "i am a dairy farmer , i have not slept in for years",
               "i farm , so my alarm clock says moo"),
         more=("a calf standing up for the first time", "the fields in the fog before anyone is up")),
    Fact("💇", ("i cut hair.", "i am a hairdresser."),
         now="i have been on my feet in the salon all day", leave="i have a bride in my chair at seven",
         says=("i cut hair and hear all the gossip first", "i am a hairdresser , i talk for a living",
               "i do wedding hair , so my saturdays are wild"),
         more=("the smile when i turn the chair around", "my old ladies , they come every friday")),
    Fact("💡", ("i am an electrician.", "i wire houses."),
         now="i spent the day in a very dusty attic", leave="someone's lights are out and i promised",
         says=("i am an electrician , i talk to old wires",
               "i wire houses and find newspapers in the walls",
               "i put in solar panels , so i work on roofs"),
         more=("when the lights come on in an old house", "the view from the roofs , honestly")),
)

HELD_OUT_JOBS = (
    Fact("🧵", ("i am a tailor.", "i sew suits by hand."),
         now="i pricked my thumb twice today", leave="a groom needs his jacket tomorrow",
         says=("i am a tailor , i see the world in inches", "i sew suits by hand in a tiny shop",
               "i fix zippers , hems and the odd wedding dress"),
         more=("when a shy person stands up straight in a good suit",
               "old cloth , nobody weaves it like that now")),
    Fact("🛫", ("i am an air traffic controller.", "i work in an airport tower."),
         now="i landed forty planes before lunch", leave="my shift in the tower starts soon",
         says=("i tell planes when to land , calmly if possible",
               "i work in an airport tower with the best view",
               "i am an air traffic controller , so i talk fast"),
         more=("the hush in the tower when the fog lifts", "pilots who say good night on the radio")),
    Fact("🎹", ("i tune pianos.", "i am a piano tuner."),
         now="i tuned three pianos today and my ears are full", leave="a school piano needs me first thing",
         says=("i tune pianos , i find coins in most of them", "i am a piano tuner , so i hate doorbells",
               "i drive around and fix sad pianos"),
         more=("playing one song when the work is done", "an old piano that has been silent for years")),
    Fact("🚢", ("i am the captain of a ferry.", "i drive the island ferry."),
         now="i crossed the bay eight times today", leave="the last ferry goes at ten",
         says=("i drive a ferry back and forth all day", "i am a ferry captain , i wave at everybody",
               "i take people and their bikes to the island"),
         more=("dolphins off the bow on a calm day", "the last trip home with lights on the water")),
)

FAMILIES = (
    Fact("👯", ("i have a twin sister.", "my twin sister is my best friend."),
         now="my twin just sent me the joke i sent her", leave="my twin is honking outside",
         says=("i have a twin sister , people still mix us up",
               "my twin sister lives two doors down , on purpose",
               "there is my twin sister , she is older by six minutes"),
         more=("we talk every day , usually at the same time", "we finish each other's fries")),
    Fact("🍔", ("i have three older brothers.", "i grew up with three brothers."),
         now="my brothers have been calling me all day", leave="my brothers are waiting at the diner",
         says=("i have three big brothers , so i eat fast",
               "i am the youngest , my brothers still call me shrimp",
               "three brothers and one bathroom , that was my childhood"),
         more=("we meet every month and argue about cards", "they would drive all night if i asked")),
    Fact("👵", ("my grandmother raised me.", "i was raised by my grandma."),
         now="my grandma just beat me at cards again", leave="i promised to call my grandma",
         says=("my grandma raised me , she is ninety and still bossy",
               "it was just grandma and me in a little blue house",
               "i grew up with my grandma and her soap operas"),
         more=("i have lunch with her every single sunday", "she calls at eight to ask if i ate")),
    Fact("💍", ("i married my high school sweetheart.", "i have been married for ten years."),
         now="my other half just made me breakfast", leave="it is date night",
         says=("i married the person who sat behind me in math",
               "ten years married , and we still pass notes",
               "it is just the two of us , and it is never boring"),
         more=("we still have our friday dates , rain or shine",
               "we cook in one tiny kitchen and survive")),
    Fact("🧸", ("i have two little boys.", "i am raising two boys."),
         now="the boys painted the wall , but it is fine", leave="it is bath time for the boys",
         says=("two little boys , so four muddy boots by the door",
               "i have two boys who think they are pirates", "i have two sons and no clean furniture"),
         more=("every night is story night , they insist",
               "we make a huge breakfast together every saturday")),
    Fact("🚗", ("i have a teenage daughter.", "my daughter just turned fifteen."),
         now="my daughter is teaching me new slang", leave="my daughter needs a ride home",
         says=("i have a teenage daughter who is funnier than me",
               "my daughter is fifteen and knows everything",
               "my daughter and me , we share one good umbrella"),
         more=("we have a secret handshake , do not tell anyone",
               "she talks to me in the car , so i drive slowly")),
    Fact("👶", ("i just had a baby girl.", "my baby girl was born in may."),
         now="the baby slept four hours , so i feel new", leave="the baby is awake again",
         says=("we have a baby girl , she has my ears", "i have a new baby , i type this with one hand",
               "our baby just learned to laugh at spoons"),
         more=("she holds my thumb all day long", "her grandparents come by daily , with soup")),
    Fact("🍜", ("my parents run a noodle shop.", "my parents own a noodle shop."),
         now="i just had dinner at my parents' place", leave="my parents need a hand with the dinner crowd",
         says=("my parents run a noodle shop , i grew up in it",
               "mom cooks and dad sings , it is a real noodle shop",
               "my folks own a noodle shop , so holidays are busy"),
         more=("i wash dishes for them on holidays , happily",
               "i eat there twice a week , i can not help it")),
    Fact("📞", ("i am an only child.", "i have no brothers or sisters."),
         now="my mom called twice already today", leave="my mom is calling",
         says=("i am an only child , so i named my plants", "just my parents and me , we are a small team",
               "no siblings , but enough cousins to fill a bus"),
         more=("we talk on the phone on sundays , for hours",
               "my parents know far too much about my life")),
    Fact("🚚", ("my dad was a truck driver.", "my father drove trucks."),
         now="i just got a postcard from my dad", leave="my dad is picking me up",
         says=("my dad drove trucks and sent me postcards",
               "my father was always on the road , we wrote letters",
               "i grew up in the passenger seat of dad's truck"),
         more=("dad is retired now and calls me about the traffic",
               "we take one road trip together every fall")),
    Fact("🍕", ("i live with my brother.", "my brother is my roommate."),
         now="my brother ate my leftovers again", leave="my brother burned dinner",
         says=("i live with my brother , we split everything but dishes",
               "my brother and i share a flat and one good pan",
               "there is my brother , he is loud but he cooks"),
         more=("we see each other every day , like it or not",
               "we do movie night on mondays , his pick or mine")),
    Fact("💌", ("my family lives in portugal.", "my parents live far away in portugal."),
         now="i just had a video call with my family", leave="my parents are about to call from portugal",
         says=("they are all in portugal , i miss the noise", "my family is in portugal , an ocean away",
               "my parents are in portugal and mail me cookies"),
         more=("i visit every summer with an empty suitcase",
               "we have a call every sunday , all twelve of us")),
    Fact("🎂", ("i have eleven cousins.", "i come from a huge family."),
         now="i just survived a birthday party with all my cousins",
         leave="there is another cousin's birthday to get to",
         says=("huge family , eleven cousins and one small house",
               "we need three tables when we all eat together",
               "my family is so big that we wear name tags"),
         more=("we all meet at the beach every july", "there is a birthday nearly every week")),
    Fact("💒", ("i am getting married in june.", "i am planning my wedding."),
         now="i have been tasting wedding cake all day", leave="i have wedding invitations to write",
         says=("i am getting married in june , my mother has a binder",
               "soon my family doubles , the wedding is in june",
               "i am engaged , so it is all napkins and songs now"),
         more=("we all pick wedding songs together on weeknights",
               "both families get along , a small miracle")),
    Fact("🎈", ("i have four nephews.", "my nephews visit me every weekend."),
         now="my nephews just built a fort in my kitchen", leave="my nephews are at the door",
         says=("i have four nephews , my couch will never recover",
               "my sister has four boys and i am their favorite",
               "four nephews , so i always lose at hide and seek"),
         more=("they come over on weekends and empty my fridge",
               "we talk a lot , i help with their homework")),
)

PETS = (
    Fact("🐶", ("i have an old beagle.", "my beagle is fourteen years old."),
         now="my beagle dragged me around the block", leave="my beagle needs his walk",
         says=("i have a beagle called waffles , he is fourteen",
               "an old beagle , he follows his nose and i follow him",
               "just waffles , my beagle , he runs the house"),
         more=("he howls at sirens , but always in tune",
               "he sleeps twenty hours and snores for all of them")),
    Fact("🐱", ("i have two cats.", "i share my home with two cats."),
         now="my cats woke me up at five", leave="my cats are yelling for dinner",
         says=("i have two cats , salt and pepper", "two cats , one is sweet and one is plotting something",
               "two cats , they let me live here"),
         more=("one opens doors and the other one tells on her",
               "they fight over a box and ignore the bed i bought")),
    Fact("🦜", ("i have a parrot.", "my parrot knows fifty words."),
         now="my parrot has been ringing like a phone all day", leave="my parrot wants his grapes",
         says=("i have a parrot who says good night at noon", "a parrot , he is older than me",
               "a green parrot , and he swears in spanish"),
         more=("he imitates the microwave and it fools me daily", "he only dances to country music")),
    Fact("🐰", ("i have a pet rabbit.", "my rabbit lives in the living room."),
         now="my rabbit chewed my charger again", leave="my rabbit is eating the curtain",
         says=("i have a rabbit who thinks she is a dog", "a rabbit called button , she rules the carpet",
               "just a rabbit , and every cable i own is chewed"),
         more=("she thumps her foot when i come home late",
               "she runs in circles when she hears the fridge")),
    Fact("🐢", ("i have a tortoise.", "my tortoise is forty years old."),
         now="i spent an hour looking for my tortoise", leave="my tortoise is heading for the street",
         says=("a tortoise named turbo , he is forty", "i have a tortoise , he will outlive me",
               "a tortoise , we are both slow in the morning"),
         more=("he escapes , but never very far", "he comes when he hears me slice a cucumber")),
    Fact("🐔", ("i keep four hens.", "i have four hens in my yard."),
         now="i just collected three eggs from the hens", leave="i have to shut the hens in",
         says=("i keep four hens , named after queens", "four hens , i have not bought eggs in years",
               "four hens , and victoria is in charge"),
         more=("they line up at the back door like customers", "one of them only lays eggs in my boots")),
    Fact("🐕", ("i adopted a greyhound.", "i have a retired racing dog."),
         now="my greyhound took the whole couch again", leave="my greyhound wants her run",
         says=("i adopted a greyhound , she is retired like a queen",
               "a retired racing dog , she naps at full speed",
               "i have a greyhound , all legs and no brakes"),
         more=("she is afraid of trash bags and nothing else",
               "she steals socks and hides them in one place")),
    Fact("🐟", ("i have a goldfish.", "my goldfish is named admiral."),
         now="i just cleaned the fish tank", leave="i forgot to feed the fish",
         says=("a goldfish called admiral , i won him at a fair",
               "i have one goldfish , he is seven somehow", "just a goldfish , but he is a good listener"),
         more=("he swims up when i play the radio", "he has a tiny castle and never goes inside")),
    Fact("😺", ("i have a cat with three legs.", "my cat has three legs and no fear."),
         now="my cat is asleep on my keyboard", leave="my cat has decided it is dinner time",
         says=("a cat with three legs , she still outruns me",
               "i have a cat called tripod , with three legs",
               "one cat , three legs , and most of her nine lives"),
         more=("she climbs the curtains to prove a point", "she waits at the window for me every night")),
    Fact("🐹", ("i have a hamster.", "my hamster runs all night."),
         now="my hamster kept me up all night", leave="my hamster escaped again",
         says=("i have a hamster who trains for the olympics", "a hamster , her cheeks hold nine peanuts",
               "just a hamster , she lives like a rock star"),
         more=("she hides seeds in my slippers", "she washes her face whenever i talk to her")),
    Fact("🦎", ("i have a pet gecko.", "my gecko lives on my desk."),
         now="my gecko just smiled at me , i think", leave="my gecko is waiting for his crickets",
         says=("i have a gecko called steve , he licks his eyes", "a gecko , he watches me from the shelf",
               "a gecko , people expect a dog and get steve"),
         more=("he waves before he jumps , it kills me", "he only moves when i am not looking")),
    Fact("🐴", ("i have two donkeys.", "i keep two rescue donkeys."),
         now="my donkeys ate the neighbor's hedge", leave="my donkeys got out again",
         says=("two rescue donkeys , they hug better than people",
               "i have donkeys , to them a fence is a suggestion",
               "i keep two donkeys , thelma and louise"),
         more=("they bray at exactly six , better than a clock", "one of them unties shoelaces for fun")),
)

TASTES = (
    Fact("☕", ("i drink too much coffee.", "i can not start a day without coffee."),
         now="i am on my third coffee", leave="my coffee is getting cold",
         says=("coffee , i am not a person before my second cup",
               "i grind my own coffee and bore people about it", "i have a coffee mug for every mood"),
         more=("it is the smell , it means the day is mine",
               "ten quiet minutes , that is what i really drink")),
    Fact("🔥", ("i love spicy food.", "i put hot sauce on everything."),
         now="my mouth is on fire from lunch", leave="there is a very hot curry on the stove",
         says=("i put hot sauce on everything , even eggs", "i carry hot sauce in my bag , just in case",
               "spicy food , i like the kind that makes you cry"),
         more=("if i do not cry it does not count", "mild food tastes like a waiting room to me")),
    Fact("🥞", ("pancakes are my favorite food.", "i could eat pancakes every day."),
         now="i had pancakes for lunch , no regrets", leave="i have pancake batter waiting",
         says=("pancakes , i eat them at any hour and in any number",
               "i make a stack of pancakes when life is hard", "i have eaten pancakes in thirty states"),
         more=("they make any day feel like a sunday", "it is mostly about the butter , if i am honest")),
    Fact("🎷", ("i listen to jazz.", "i love old jazz records."),
         now="i have an old jazz record on", leave="my record just ran out",
         says=("old jazz records , i like the kind that crackle",
               "i play jazz so loud that the windows hum",
               "i own one good chair and four hundred jazz records"),
         more=("nobody knows what comes next , not even the band",
               "it makes washing dishes feel like a movie")),
    Fact("🤠", ("i love old western movies.", "i watch old westerns."),
         now="i am halfway through an old western", leave="there is a western on tv tonight",
         says=("old westerns , i know every line by heart", "i watch westerns and talk like a cowboy after",
               "give me a western and a bowl of popcorn"),
         more=("you always know who the bad guy is", "all that sky , and hardly any talking")),
    Fact("🍂", ("fall is my favorite season.", "i love the fall."),
         now="i have been kicking leaves all the way home",
         leave="i want to see the leaves before the rain",
         says=("i love the fall , all sweaters and soup and early lamps",
               "i wait all year for the first cold morning",
               "i collect red leaves and press them in books"),
         more=("everything smells like smoke and apples", "nobody expects you to go to the beach")),
    Fact("☔", ("i love thunderstorms.", "rainy days are my favorite."),
         now="it is finally raining and i am happy", leave="there is a storm coming in",
         says=("thunderstorms , i run to the window like a kid", "rain on a tin roof , nothing beats it",
               "i like rainy days , the more thunder the better"),
         more=("nobody can ask you to do anything outside", "the whole street goes quiet and then boom")),
    Fact("🌻", ("my favorite color is yellow.", "everything i own is yellow."),
         now="i just bought another yellow raincoat", leave="my yellow curtains just arrived",
         says=("i wear something yellow every single day", "my door is yellow , you can not miss it",
               "i love yellow , even my toaster is yellow"),
         more=("it is like carrying a bit of sun around", "winters are gray here , somebody has to do it")),
    Fact("🧀", ("i love cheese.", "cheese is my weakness."),
         now="i had cheese for breakfast again", leave="there is a cheese pie in the oven",
         says=("cheese , the smellier the better", "i plan trips around cheese , it is a problem",
               "i have a whole shelf of cheese and no shame"),
         more=("every village has its own , so you never finish",
               "it goes with bread , grapes and bad days")),
    Fact("👻", ("i believe in ghosts.", "i think my house is haunted."),
         now="something knocked on my wall last night", leave="the hallway light just went out",
         says=("i believe in ghosts , mine likes the hallway", "my house is haunted , but politely",
               "i leave the hall light on for the ghost"),
         more=("a door closed by itself , and it was not windy",
               "old houses remember things , that is all i will say")),
    Fact("🍵", ("i collect teapots.", "i drink tea all day."),
         now="i just put the kettle on", leave="the kettle is whistling",
         says=("tea , i have a pot for each day of the week", "i collect teapots , nineteen and counting",
               "i travel with my own tea bags"),
         more=("it fixes most things , or at least gives you time",
               "every pot has a story , one survived a fire")),
    Fact("🍦", ("i love ice cream, even in winter.", "mint ice cream is my favorite."),
         now="i just had ice cream for dinner", leave="the ice cream truck just turned the corner",
         says=("mint ice cream , i eat it in the snow", "i know every ice cream shop in the state",
               "i rate ice cream shops in a little notebook"),
         more=("it tastes like the last day of school", "nobody is ever sad in that line")),
)

TOPICS = {
    "hobby": Topic(
        facts=HOBBIES, held_out=HELD_OUT_HOBBIES,
        questions=("what do you do for fun ?", "do you have any hobbies ?", "what do you do on weekends ?",
                   "how do you relax ?", "what do you like to do in your free time ?",
                   "what are you into ?", "what is your favorite thing to do ?"),
        follow_ups=("how did you get into that ?", "what got you started ?", "how did that start ?",
                    "how does one end up doing that ?"),
        answers=("i watch a lot of movies .", "i mostly go to the gym .", "i play a bit of golf .",
                 "i like to cook .", "i just nap , to be honest .", "i go to concerts when i can .",
                 "i am trying to learn the drums .", "i do a lot of puzzles ."),
        reactions=("that sounds like fun .", "wow , i could never do that .", "very cool .",
                   "i should try that .", "ha , i love that .", "sounds like you found your thing ."),
        leads=("", "", "well ,", "oh ,", "honestly ,", "easy .", "ha ,", "let me think ."),
        leads_on=("", "", "well ,", "ha ,", "oh ,", "long story , but"),
        asks=("what about you ?", "and you ?", "do you have a hobby ?", "how about you ?"),
        remarks=("i love it .", "it keeps me sane .", "best part of my week .", "it never gets old .",
                 "i am hooked ."),
    ),
    "work": Topic(
        facts=JOBS, held_out=HELD_OUT_JOBS,
        questions=("what do you do for work ?", "what do you do for a living ?", "do you work or study ?",
                   "what is your job ?", "where do you work ?", "what keeps you busy during the week ?"),
        follow_ups=("what is the best part of it ?", "what do you like most about it ?",
                    "what is your favorite thing about it ?", "what keeps you going ?"),
        answers=("i work in a bank .", "i am between jobs right now .", "i sell shoes .",
                 "i have an office job , nothing exciting .", "i am still in school .",
                 "i run a little gift shop .", "i drive for a delivery company .",
                 "i work the front desk at a hotel ."),
        reactions=("that sounds like hard work .", "interesting !", "wow , respect .",
                   "i bet you have stories .", "that must be something .", "somebody has to do it ."),
        leads=("", "", "well ,", "oh ,", "ha ,", "believe it or not ,"),
        leads_on=("", "", "easy ,", "oh ,", "for me ,", "definitely", "i would say"),
        asks=("what about you ?", "and what do you do ?", "where do you work ?", "how about you ?"),
        remarks=("never a dull day .", "i got lucky there .", "i like it a lot .", "can not complain .",
                 "suits me fine ."),
    ),
    "family": Topic(
        facts=FAMILIES, held_out=(),
        questions=("what is your family like ?", "tell me about your family .", "do you have any family ?",
                   "do you have family around ?", "how about family ?", "who is in your family ?"),
        follow_ups=("do you spend much time together ?", "are you all close ?",
                    "sounds like you are close ?", "so you get along ?"),
        answers=("i have two sisters .", "my parents live close by .", "it is just me and my mom .",
                 "my family is all over the place .", "i have a brother in the army .",
                 "we are a small family ."),
        reactions=("aw , that is sweet .", "that is lovely .", "ha , i can picture it .", "lucky you .",
                   "i am a little jealous ."),
        leads=("", "", "well ,", "oh ,", "let me see ,", "ha ,"),
        leads_on=("", "", "yes ,", "oh yes ,"),
        asks=("and yours ?", "what is yours like ?", "how about your family ?", "what about you ?"),
        remarks=("i feel lucky .", "i would not change it .", "we laugh a lot .", "family first .",
                 "that is us ."),
    ),
    "pet": Topic(
        facts=PETS, held_out=(),
        questions=("do you have any pets ?", "any pets ?", "do you have animals at home ?",
                   "are you an animal person ?", "got any pets at home ?"),
        follow_ups=("any funny habits ?", "tell me more !", "what is that like ?", "any good stories ?"),
        answers=("i have a lazy cat .", "no pets here , i am allergic .", "i want a dog so badly .",
                 "we have a dog named max .", "my landlord says no pets ."),
        reactions=("that is so cute !", "aw , i love that .", "ha , what a character .", "i want one now .",
                   "oh that is adorable ."),
        leads=("", "yes !", "i do !", "sure do ,", "oh yes ,", "ha , yes .", "of course !"),
        leads_on=("", "well ,", "oh ,", "ha ,", "let me tell you ,"),
        asks=("do you have any ?", "what about you ?", "any pets yourself ?", "and you ?"),
        remarks=("very spoiled .", "total boss .", "best company there is .", "pure joy .",
                 "never a quiet house ."),
    ),
    "taste": Topic(
        facts=TASTES, held_out=(),
        questions=("tell me something random about you .", "tell me one more thing about you .",
                   "what else should i know about you ?", "any quirks ?", "surprise me , what else ?",
                   "what else makes you happy ?"),
        follow_ups=("but why is that ?", "oh , how come ?", "really ? why ?", "and why is that ?"),
        answers=("i am obsessed with bagels .", "i collect snow globes .",
                 "i can not whistle , that is my secret .", "i talk to my plants .",
                 "i like loud shirts ."),
        reactions=("ha , i get that .", "lol , fair enough .", "that is great .", "i respect that .",
                   "me too , actually ."),
        leads=("", "", "well ,", "ok ,", "let me think .", "fun fact ,", "do not laugh ,"),
        leads_on=("", "", "well ,", "i guess", "easy ,", "you know ,"),
        asks=("what about you ?", "and you ?", "your turn , anything odd ?", "how about you ?"),
        remarks=("do not judge me lol .", "simple pleasures .", "that is me .", "i stand by it .",
                 "no regrets ."),
    ),
}

# fmt: on

if __name__ == "__main__":
    main()
