"""The grammar that the captions of the embedded data set share."""

from random import Random


def with_article(phrase: str) -> str:
    """Return the phrase after "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def plural(noun: str) -> str:
    """Return the plural of a shape's name."""
    return noun + ("es" if noun.endswith("s") else "s")


def vary_spelling(caption: str, rng: Random) -> str:
    """Start one caption in ten with a capital and end one in ten with a period."""
    caption = caption[0].upper() + caption[1:] if rng.random() < 0.1 else caption
    return caption + "." if rng.random() < 0.1 else caption
