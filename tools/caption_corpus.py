"""Endless generated captions, on which the bundled text encoder is pre-trained.

A document describes one thing in one to three wordings. A span missing from one wording can be
filled in from another one, but only if it is known which thing an attribute belongs to: "the star
is ..." continues with the color of the star, not with that of the background. So span corruption
teaches a tiny encoder to bind words; single captions of independent attributes cannot.

Captions of the embedded data are drawn from its train split only.
"""

import random
from collections.abc import Callable

from minimagen.shapes import objects, scenes
from minimagen.shapes.wording import with_article

COLORS = """red orange yellow green cyan blue purple pink white black brown gray grey silver
golden beige turquoise violet""".split()
LOOKS = """large small big little tiny huge tall short long old new young round flat thick
thin narrow wide bright dark light shiny soft hot cold wet dry clean dirty broken open
closed empty full heavy colorful beautiful cute funny fast slow front double single striped
spotted checkered dotted plain""".split()
MATERIALS = """wooden metal glass plastic stone paper leather woolen cotton brick marble
concrete rubber ceramic steel golden silk sandy grassy woven knitted bumpy cracked braided
scaly fibrous wrinkled porous lined grooved""".split()
ANIMALS = """cat dog horse cow pig sheep goat mouse rat rabbit hamster squirrel hedgehog bat
bear panda koala tiger lion leopard wolf fox raccoon deer moose zebra giraffe elephant
rhinoceros hippopotamus kangaroo camel llama monkey gorilla orangutan otter beaver skunk
badger chicken rooster chick duck goose swan turkey eagle owl parrot penguin dove flamingo
peacock bird frog turtle crocodile lizard snake dragon dinosaur fish whale dolphin shark
seal octopus squid crab lobster shrimp snail butterfly bug ant bee beetle ladybug spider
scorpion fly worm cricket unicorn puppy kitten donkey ox ram buffalo mammoth jellyfish
mosquito""".split()
FOODS = """apple pear peach orange lemon lime banana melon watermelon grapes strawberry
blueberries cherries pineapple mango coconut kiwi tomato olive avocado potato carrot corn
pepper cucumber broccoli garlic onion mushroom peanuts chestnut bread croissant baguette
pretzel bagel pancakes waffle cheese meat bacon hamburger fries pizza sandwich taco burrito
egg soup salad popcorn butter rice noodles spaghetti sushi dumpling cookie cake cupcake pie
chocolate candy lollipop honey milk coffee tea juice beer wine donut bento""".split()
THINGS = """ball balloon bell book bottle box bowl bowtie cup plate spoon fork knife glass
vase pot pan table chair couch bed lamp door window mirror toilet shower bathtub clock watch
phone telephone computer laptop keyboard printer camera television radio battery candle
lantern key lock hammer axe saw wrench screw gear chain ladder rope hook magnet brush broom
basket bucket soap sponge pen pencil crayon paintbrush ruler scissors paper envelope letter
package mailbox newspaper notebook folder calendar map flag crown gem medal trophy coin
banknote wallet bag handbag backpack suitcase umbrella fan gift ribbon doll toy kite puzzle
dice card drum guitar violin trumpet piano saxophone microphone headphone car bus truck taxi
train tram bicycle motorcycle scooter tractor boat ship sailboat canoe airplane helicopter
rocket satellite wheel anchor tent bench fence bridge fountain statue sign lightbulb
telescope microscope syringe pill thermometer mask shield sword bow bomb volcano mountain
tree palm cactus flower rose tulip sunflower lotus leaf clover bouquet mushroom shell
feather bone skull tooth brain eye ear nose mouth tongue hand foot leg arm finger cloud sun
rainbow snowflake raindrop fire droplet wave planet comet globe button arrow symbol bubble
frisbee skateboard snowboard surfboard skis racket bat hydrant laptop remote oven stove
refrigerator sink teddy""".split()
GARMENTS = """hat cap helmet shirt t-shirt top pullover sweater coat jacket suit dress skirt
trousers jeans shorts socks shoe sneaker sandal boot boots scarf gloves tie glasses
sunglasses necklace kimono sari bikini uniform apron vest robe turban headscarf""".split()
PEOPLE = """man woman person boy girl child baby doctor teacher farmer cook mechanic
scientist singer artist pilot astronaut firefighter detective guard ninja prince princess
wizard fairy vampire superhero player worker student soldier judge king queen clown robot
pirate knight surfer skier dancer lady guy couple group nurse""".split()
HAIR = "red curly white bald blond brown black long short dark".split()
ACTIVITIES = """walking running standing sitting kneeling sleeping eating drinking reading
writing dancing swimming surfing skiing playing working cooking cycling climbing rowing
jumping smiling laughing crying waving flying riding shopping talking singing painting
waiting looking holding driving fishing""".split()
PLACES = """beach forest park garden street city village house room kitchen bathroom bedroom
office school hospital church castle temple farm field desert island lake river sea ocean
mountain hill bridge road station airport harbor market restaurant shop stadium playground
zoo museum tower factory hotel bank library cave snow grass sand""".split()
WEATHER = "sunny rainy cloudy snowy windy foggy stormy clear".split()
TIMES = "morning evening night sunrise sunset noon winter summer spring autumn day dusk".split()
FEELINGS = """grinning smiling laughing winking kissing thinking neutral frowning crying sad
happy angry worried tired sleepy sleeping hungry surprised astonished scared sick confused
cool silly shy proud bored excited screaming pouting relieved disappointed hugging yawning
nervous friendly""".split()
FACE_PARTS = """open mouth,tongue out,tears of joy,heart eyes,sunglasses,closed eyes,raised eyebrow,
a medical mask,a party hat,hand over mouth,rolling eyes,sweat,a halo,horns,a big smile""".split(",")
SYMBOLS = """button,arrow,sign,symbol,flag,mark,icon,sticker,emoji,logo,keycap,badge,stamp,card,
light,clock,bubble,box""".replace("\n", "").split(",")
DIRECTIONS = "up down left right forward back".split()
WORDS_OF_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FLOWERS = """daisy dandelion rose sunflower tulip lily orchid poppy iris lotus hibiscus
daffodil marigold violet camellia magnolia snapdragon carnation petunia""".split()
# Each relation with its converse: "a cup on a table" is "a table under a cup".
RELATIONS = (
    ("to the left of", "to the right of"), ("to the right of", "to the left of"),
    ("left of", "right of"), ("right of", "left of"), ("above", "below"), ("below", "above"),
    ("over", "under"), ("under", "on top of"), ("on top of", "under"), ("on", "under"),
    ("in front of", "behind"), ("behind", "in front of"), ("inside", "around"),
    ("around", "inside"), ("next to", "next to"), ("beside", "beside"), ("near", "near"),
    ("touching", "touching"), ("between two of", "around"), ("larger than", "smaller than"),
)  # fmt: skip
MEDIA = "photo,picture,drawing,painting,image,close up,sketch,cartoon,rendering".split(",")

Wordings = list[str]


def document(rng: random.Random) -> Wordings:
    """Draw one document: one to three wordings of the same thing, in the order to be read."""
    kind = rng.choices(tuple(KINDS), weights=tuple(KINDS.values()))[0]
    wordings = kind(rng)
    rng.shuffle(wordings)
    count = rng.choices((1, 2, 3), weights=(15, 45, 40))[0]
    separator = rng.choice((".", ",", " ;"))
    return [wording + separator for wording in wordings[: count - 1]] + wordings[count - 1 : count]


def shape_captions(rng: random.Random) -> Wordings:
    """Describe an image of the embedded data's train split, and state its attributes one by one."""
    attributes = objects.attributes_for("train", rng)
    shape, color, size = (attributes[key] for key in ("shape", "color", "size"))
    ground, pattern = attributes["background"], attributes["pattern"]
    statements = [
        f"the {shape} is {color}",
        f"the {shape} is {size}",
        f"the shape is a {color} {shape}",
        f"the {color} thing is a {size} {shape}",
        f"the background is {ground}",
        f"the background is {pattern} and {ground}",
        f"the {shape} is {color} and the background is {ground}",
        f"the background is {ground} and {pattern} and the {shape} is {size}",
    ]
    captions = [objects.caption_for(attributes, rng) for _ in range(2)]
    return [*captions[: rng.choice((1, 2))], *rng.sample(statements, 2)]


def scene_captions(rng: random.Random) -> Wordings:
    """Describe a scene of the embedded data's train split, and state its attributes one by one."""
    attributes = scenes.attributes_for("train", rng)
    statements = [f"the background is {attributes['background']}"]
    if attributes["kind"] == "relation":
        one, other = attributes["shape"], attributes["other_shape"]
        statements += [f"the {one} is {attributes['relation']} the {other}"]
        if one != other:
            statements += [f"the {one} is {attributes['color']}"]
            statements += [f"the {other} is {attributes['other_color']}"]
    elif attributes["kind"] == "count":
        statements += [f"there are {attributes['count']} shapes", f"they are {attributes['color']}"]
    else:
        statements += [f"it is {attributes['glyph']}", f"it is {attributes['color']}"]
    captions = [scenes.caption_for(attributes, rng) for _ in range(2)]
    return [*captions[: rng.choice((1, 2))], *rng.sample(statements, 2)]


def thing_captions(rng: random.Random) -> Wordings:
    """One thing with a color, a look or a material."""
    noun = rng.choice(rng.choice((ANIMALS, FOODS, THINGS, GARMENTS, FLOWERS)))
    color, look, medium = rng.choice(COLORS), rng.choice(LOOKS + MATERIALS), rng.choice(MEDIA)
    return [
        f"{with_article(look)} {color} {noun}",
        f"{with_article(noun)} that is {look} and {color}",
        f"{with_article(medium)} of {with_article(look)} {noun} in {color}",
        f"{noun} : {color} , {look}",
        f"the {noun} is {rng.choice((color, look))}",
    ]


def pair_captions(rng: random.Random) -> Wordings:
    """Two things and their relation, described from either side."""
    nouns = rng.sample(rng.choice((ANIMALS + THINGS, FOODS, ANIMALS, THINGS)), 2)
    first, second = (f"{rng.choice(COLORS + LOOKS)} {noun}" for noun in nouns)
    relation, converse = rng.choice(RELATIONS)
    return [
        f"{with_article(first)} {relation} {with_article(second)}",
        f"{with_article(second)} {converse} {with_article(first)}",
        f"the {first} is {relation} the {nouns[1]}",
        f"{with_article(first)} and {with_article(second)}",
        f"there is {with_article(second)} , the {nouns[0]} is {relation} it",
    ]


def person_captions(rng: random.Random) -> Wordings:
    """A person with clothes, an activity and a place."""
    person, place, activity = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(ACTIVITIES)
    garment = f"{rng.choice(COLORS + MATERIALS)} {rng.choice(GARMENTS)}"
    hair, thing = rng.choice(HAIR), rng.choice(THINGS + ANIMALS)
    return [
        f"{with_article(person)} wearing {with_article(garment)}",
        f"{with_article(person)} in {with_article(garment)} {activity} at the {place}",
        f"{with_article(person)} with {hair} hair and {with_article(garment)}",
        f"{person} {activity} with {with_article(thing)} near a {place}",
        f"the {person} has {hair} hair and is {activity}",
    ]


def number_captions(rng: random.Random) -> Wordings:
    """Counts, and digits as images."""
    number = rng.randrange(13)
    word, noun = WORDS_OF_NUMBERS[number], rng.choice(ANIMALS + THINGS)
    color, plural = rng.choice(COLORS), noun if noun.endswith("s") else noun + "s"
    if rng.random() < 0.5:
        return [
            f"{word} {color} {plural}",
            f"{number} {plural} that are {color}",
            f"a {rng.choice(MEDIA)} of {word} {plural}",
            f"there are {number} {color} {plural}",
        ]
    return [
        f"the digit {number}",
        f"a handwritten {word}",
        f"the number {word}",
        f"a {rng.choice(MEDIA)} of the digit {word}",
        f"keycap {number}",
    ]


def letter_captions(rng: random.Random) -> Wordings:
    """Letters as images, and signs; colors of letters belong to the embedded data's scenes."""
    letter, medium = rng.choice(LETTERS), rng.choice(MEDIA)
    color, symbol, direction = rng.choice(COLORS), rng.choice(SYMBOLS), rng.choice(DIRECTIONS)
    if rng.random() < 0.5:
        return [f"the letter {letter}", f"{with_article(medium)} of {letter}", f"letter {letter}"]
    return [
        f"{color} {symbol} pointing {direction}",
        f"{with_article(symbol)} with {with_article(rng.choice(THINGS))}",
        f"{with_article(color)} {symbol} , {direction}",
    ]


def face_captions(rng: random.Random) -> Wordings:
    """Faces with a feeling."""
    feeling, part = rng.choice(FEELINGS), rng.choice(FACE_PARTS).strip()
    who = rng.choice(("face", "face", "cat", "person", "monkey", *PEOPLE[:6]))
    return [
        f"{feeling} {who} with {part}",
        f"{with_article(feeling)} {who}",
        f"{who} that is {feeling} , {part}",
        f"the {who} looks {feeling}",
    ]


def scenery_captions(rng: random.Random) -> Wordings:
    """A place, its weather and its time."""
    place, weather, time = rng.choice(PLACES), rng.choice(WEATHER), rng.choice(TIMES)
    look, animal = rng.choice(LOOKS + COLORS), rng.choice(ANIMALS + PEOPLE)
    return [
        f"{with_article(look)} {place} on a {weather} {time}",
        f"a {weather} {time} at {with_article(look)} {place}",
        f"{with_article(animal)} at the {place} , it is {weather}",
        f"{with_article(animal)} {rng.choice(ACTIVITIES)} in the {place} at {time}",
        f"the {place} is {look}",
    ]


KINDS: dict[Callable[[random.Random], Wordings], int] = {
    shape_captions: 35,
    scene_captions: 20,
    thing_captions: 12,
    pair_captions: 12,
    person_captions: 7,
    number_captions: 5,
    letter_captions: 2,
    face_captions: 3,
    scenery_captions: 4,
}
"""How a document is drawn, with its weight in percent."""
