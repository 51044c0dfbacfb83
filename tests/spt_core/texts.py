"""Texts that several tests score: replies with their references, and sentences of several lengths."""

PREDICTIONS = [
    "i like to read books . do you ?",
    "hello",
    "",
    "I'm a stunt double, and I've 2 dogs!",
    "nice . i work in a café \N{GRINNING FACE}",
]
REFERENCES = [
    "i love to read , do you like books ?",
    "hi there , how are you doing today ?",
    "no , i live alone .",
    "i am a stunt double and i have 2.5 dogs .",
    "nice , i work at a café too .",
]

SENTENCES = [
    "i like dogs . i have two of them .",
    "i love my puppies .",
    "what do you do for a living ?",
    "",
    "the stock market fell by 3 percent . " * 30,
]
