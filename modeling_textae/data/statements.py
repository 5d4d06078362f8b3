"""Plain statements of facts, for models that learn them by heart: the text behind the card mlm-encoder-seed.

    python -m modeling_textae.data.statements FOLDER

Each topic has some phrasings and at least eight subjects with their answers; every subject is stated in every phrasing but one,
which is held out, another for each neighbour. So a held-out statement is in words that training had about others, of a fact that
training had in other words. The two sentences of the original system, "Transformers use self attention" and "Mars is called the
red planet", are among those that are trained on.
"""

import json
import sys
from pathlib import Path

# Topic: phrasings, of which {} is the subject and [] the answer; and the facts. No two facts of a topic share an answer.
TOPICS = [
    (
        ["{} is called the [] planet", "astronomers say {} is the [] planet", "the [] planet is known as {}",
         "of all planets {} is the [] one"],
        {"Mars": "red", "Earth": "blue", "Saturn": "ringed", "Jupiter": "giant", "Mercury": "swift", "Venus": "bright",
         "Uranus": "tilted", "Neptune": "windy", "Pluto": "dwarf"},
    ),
    (
        ["{} use [] attention", "what {} need is [] attention", "at the heart of {} is [] attention",
         "inside {} there is [] attention"],
        {"Transformers": "self", "Decoders": "causal", "Translators": "cross", "Longformers": "local",
         "Performers": "linear", "Reformers": "hashed", "BigBirds": "sparse", "Linformers": "projected"},
    ),
    (
        ["the capital of {} is []", "{} has its capital in []", "the city of [] governs all {}",
         "the rulers of {} sit in []"],
        {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Greece": "Athens",
         "Norway": "Oslo", "Peru": "Lima", "Cuba": "Havana", "Kenya": "Nairobi"},
    ),
    (
        ["a young {} is called a []", "the {} feeds its []", "every [] grows up to be a {}", "the child of a {} is a []"],
        {"cat": "kitten", "dog": "puppy", "cow": "calf", "horse": "foal", "sheep": "lamb", "goat": "kid",
         "bear": "cub", "deer": "fawn", "swan": "cygnet", "hare": "leveret"},
    ),
    (
        ["people in {} pay with the []", "the currency of {} is the []", "a bank in {} counts every []",
         "the [] is the money of {}"],
        {"Britain": "pound", "India": "rupee", "China": "yuan", "Russia": "rouble", "Poland": "zloty",
         "Turkey": "lira", "Mexico": "peso", "Brazil": "real", "Sweden": "krona"},
    ),
    (
        ["the opposite of {} is []", "what is not {} may be []", "{} and [] are opposites", "where one is {} the other is []"],
        {"hot": "cold", "high": "low", "fast": "slow", "hard": "soft", "light": "dark", "wet": "dry", "old": "new",
         "early": "late", "rich": "poor", "loud": "quiet"},
    ),
    (
        ["the symbol of {} is []", "chemists write {} as []", "the letters [] stand for {}", "in formulas {} becomes []"],
        {"iron": "Fe", "gold": "Au", "silver": "Ag", "copper": "Cu", "lead": "Pb", "tin": "Sn", "zinc": "Zn",
         "sodium": "Na", "helium": "He", "neon": "Ne"},
    ),
    (
        ["a {} works with a []", "the tool of a {} is the []", "no {} goes without a []", "hand the [] to the {}"],
        {"carpenter": "saw", "smith": "hammer", "painter": "brush", "writer": "pen", "barber": "razor",
         "gardener": "spade", "tailor": "needle", "fisher": "net", "surgeon": "scalpel"},
    ),
    (
        ["a {} lives in a []", "the home of the {} is a []", "look for the {} in its []", "a [] is where the {} sleeps"],
        {"bee": "hive", "bird": "nest", "lion": "den", "rabbit": "burrow", "spider": "web", "pig": "sty",
         "hen": "coop", "beaver": "lodge"},
    ),
    (
        ["{} wrote []", "the book [] is by {}", "the author of [] is {}", "readers know {} for []"],
        {"Melville": "Typee", "Austen": "Emma", "Thackeray": "Pendennis", "Scott": "Ivanhoe", "Eliot": "Romola",
         "Stoker": "Dracula", "Kipling": "Kim", "Barrie": "Peter", "Haggard": "She"},
    ),
]  # fmt: skip
FILES = ("statements", "validation", "paraphrases")


def statements(mask="[MASK]"):
    """All statements, split.

    Args:
        mask (`str`, defaults to `"[MASK]"`): what stands for the answer in a question.

    Returns:
        `tuple[list[dict], list[dict], list[dict]]`: the statements to train on, the third of the held-out ones by which a run is
        chosen, and those that are reported; each with its `text`, the same with the answer masked as `question`, and the
        `answer`.
    """
    train, held_out = [], []
    for phrasings, facts in TOPICS:
        for number, (subject, answer) in enumerate(facts.items()):
            # The first subject of a topic keeps the first phrasing: the original's two sentences are learned, not held out.
            out = number % len(phrasings) if number else 1
            for place, phrasing in enumerate(phrasings):
                stated = phrasing.replace("{}", subject)
                statement = {
                    "text": stated.replace("[]", answer),
                    "question": stated.replace("[]", mask),
                    "answer": answer,
                }
                (held_out if place == out else train).append(statement)
    return train, held_out[::3], [row for i, row in enumerate(held_out) if i % 3]


def main(arguments=None):
    """Write the three splits into a folder, a file each; exit 2 without one."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print("usage: python -m modeling_textae.data.statements FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    splits = statements()
    for name, rows in zip(FILES, splits, strict=True):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{' + '.join(str(len(rows)) for rows in splits)} statements: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
