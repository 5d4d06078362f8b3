"""Text to chunks, chunks to the fewest tokens, and tokens that span chunks: what a tokenizer does beside its table."""

import re
from collections import defaultdict

import numpy as np

MAX_CHUNK_LENGTH = 16
# GPT-2's way to cut text, with the character classes of Python: a word keeps the space before it.
PATTERN = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+")


def segments_of(text):
    """Cut a text before every space. What a segment becomes depends on nothing around it, and most come again."""
    first, *rest = text.split(" ")
    return [first, *[" " + part for part in rest]] if first else [" " + part for part in rest]


def chunks_of(text, longest=MAX_CHUNK_LENGTH):
    """Cut a text into chunks whose join is the text: words, numbers, signs and white space, longer ones cut further.

    Source: the pattern of Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.2, with the
    deviation that every space begins a chunk.

    Args:
        text (`str`).
        longest (`int`, defaults to 16): bytes of a chunk, at least 4; no character is ever cut.

    Returns:
        `list[str]`.
    """
    chunks = []
    for segment in segments_of(text):
        for chunk in PATTERN.findall(segment):
            # No character takes more than four bytes.
            if len(chunk) * 4 <= longest or len(chunk.encode("utf-8")) <= longest:
                chunks.append(chunk)
            else:
                chunks += cut(chunk, longest)
    return chunks


def cut(chunk, longest=MAX_CHUNK_LENGTH):
    """Parts of a long chunk, each of as many whole characters as fit into `longest` bytes; raises `ValueError` below 4."""
    if longest < 4:
        raise ValueError(f"chunks of {longest} bytes cannot hold every character: accepted is 4 and above")
    data, parts, start = chunk.encode("utf-8"), [], 0
    while start < len(data):
        end = min(start + longest, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        parts.append(data[start:end].decode("utf-8"))
        start = end
    return parts


def fewest_parts(data, id_of, longest=MAX_CHUNK_LENGTH):
    """The fewest tokens that spell bytes; of equally few, those whose first is the longest, then whose second is, and so on.

    Args:
        data (`bytes`).
        id_of (`dict[bytes, int]`): the tokens, with all 256 single bytes.
        longest (`int`, defaults to 16): bytes of a token.

    Returns:
        `tuple[int, ...]`: their ids.
    """
    size = len(data)
    fewest, ends = [0] * (size + 1), [0] * size  # from each place on: how many tokens, and where the first of them ends
    for start in range(size - 1, -1, -1):
        least = size + 1
        for end in range(min(size, start + longest), start, -1):
            if fewest[end] < least and data[start:end] in id_of:
                least, ends[start] = fewest[end], end
        fewest[start] = least + 1
    ids, start = [], 0
    while start < size:
        ids.append(id_of[data[start : ends[start]]])
        start = ends[start]
    return tuple(ids)


def parts_of_chunks(data, id_of, longest=MAX_CHUNK_LENGTH):
    """The fewest tokens of each chunk of a string, end to end: more than one for a token that spans chunks.

    Args:
        data (`bytes`): of UTF-8.
        id_of, longest: as of [`fewest_parts`].

    Returns:
        `tuple[int, ...]`: their ids.
    """
    chunks = chunks_of(data.decode("utf-8"), longest)
    return tuple(i for chunk in chunks for i in fewest_parts(chunk.encode("utf-8"), id_of, longest))


class SpanTrie:
    """Tokens that span several others: replaces runs of ids by the one token that spells them, so that the fewest remain.

    Look-ups are vectorised; what is left to Python are spans that overlap.

    Args:
        spans (`dict[tuple[int, ...], int]`): each token's id by the ids, at least two, that spell it otherwise.
        vocab_size (`int`): ids are below it.

    Example:

    ```python
    >>> SpanTrie({(1, 2): 7, (2, 3, 1): 8}, vocab_size=9).merge(np.array([1, 2, 3, 1, 2]))
    array([1, 8, 2])
    ```
    """

    LONGEST = 1024  # more than the ids of any span
    SOLVED_SPANS, SOLVED_LAYOUTS = 8, 10_000  # groups of so many spans are remembered, so many of them

    def __init__(self, spans, vocab_size):
        self.vocab_size, self.solved = vocab_size, {}
        nodes = {}  # of each prefix: its number
        for path in sorted(spans, key=len):
            for depth in range(2, len(path) + 1):
                nodes.setdefault(path[:depth], len(nodes))
        self.first = np.zeros(vocab_size + 1, dtype=bool)
        self.second = np.zeros(vocab_size + 1, dtype=bool)
        keys, token = defaultdict(dict), np.full(max(len(nodes), 1), -1, dtype=np.int64)
        for path, node in nodes.items():
            parent = path[0] if len(path) == 2 else nodes[path[:-1]]
            keys[len(path)][parent * (vocab_size + 1) + path[-1]] = node
            token[node] = spans.get(path, -1)
            self.first[path[0]] = self.second[path[1]] = True
        # Of each depth from 2: sorted keys (parent, id), and the node that each leads to.
        self.depths = []
        for depth in sorted(keys):
            order = np.array(sorted(keys[depth]), dtype=np.int64)
            self.depths.append((order, np.array([keys[depth][key] for key in order.tolist()], dtype=np.int64)))
        self.token = token

    def __getstate__(self):
        return self.__dict__ | {"solved": {}}

    def candidates(self, ids):
        """All spans that occur.

        Args:
            ids (`np.ndarray` of int64 and shape `(n,)`): `vocab_size` stands between texts.

        Returns:
            `tuple[np.ndarray, ...]`: where each begins, how many ids it replaces, and its token; sorted by the first two.
        """
        found = []
        at = np.flatnonzero(self.first[ids[:-1]] & self.second[ids[1:]])
        node = ids[at]
        for depth, (keys, nodes) in enumerate(self.depths, start=2):
            inside = at + depth <= len(ids)
            at, node = at[inside], node[inside]
            key = node * (self.vocab_size + 1) + ids[at + depth - 1]
            place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
            known = keys[place] == key
            at, node = at[known], nodes[place[known]]
            whole = self.token[node] >= 0
            found.append((at[whole], np.full(int(whole.sum()), depth), self.token[node[whole]]))
            if not len(at):
                break
        if not found:
            return (np.zeros(0, dtype=np.int64),) * 3
        starts, lengths, tokens = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.lexsort((lengths, starts))
        return starts[order], lengths[order], tokens[order]

    def merge(self, ids):
        """Replace spans so that the fewest ids remain; of equally few, the first is the longest, then the second, and so on.

        Args:
            ids (`np.ndarray` of int64 and shape `(n,)`): `vocab_size` stands between texts.

        Returns:
            `np.ndarray` of shape `(m,)`, `m <= n`.
        """
        starts, lengths, tokens = self.candidates(ids)
        if not len(starts):
            return ids
        ends = starts + lengths
        # A group is of spans that overlap; where it begins, all before have ended.
        begins = np.append(True, starts[1:] >= np.maximum.accumulate(ends)[:-1])
        bounds = np.append(np.flatnonzero(begins), len(starts))
        sizes = np.diff(bounds)
        chosen = np.zeros(len(starts), dtype=bool)
        chosen[bounds[:-1][sizes == 1]] = True
        crowded = np.flatnonzero(sizes > 1)
        if len(crowded):
            # Which spans to take depends on how they lie, and few ways to lie are common.
            relative = ((starts - np.repeat(starts[bounds[:-1]], sizes)) * self.LONGEST + lengths).tolist()
            taken = []
            for low, high in zip(bounds[:-1][crowded].tolist(), bounds[1:][crowded].tolist(), strict=True):
                layout = tuple(relative[low:high])
                picks = self.solved.get(layout)
                if picks is None:
                    picks = fewest_spans([x // self.LONGEST for x in layout], [x % self.LONGEST for x in layout])
                    if len(layout) <= self.SOLVED_SPANS and len(self.solved) < self.SOLVED_LAYOUTS:
                        self.solved[layout] = picks
                taken += [low + pick for pick in picks]
            chosen[taken] = True
        starts, lengths = starts[chosen], lengths[chosen]
        merged, inside = ids.copy(), np.zeros(len(ids) + 1, dtype=np.int8)
        merged[starts] = tokens[chosen]
        inside[starts + 1] += 1
        inside[starts + lengths] -= 1
        return merged[np.cumsum(inside[:-1], dtype=np.int8) == 0]


def fewest_spans(starts, lengths):
    """Which of overlapping spans to take, so that the fewest tokens remain; of equally few, the first is the longest, and so on.

    Args:
        starts, lengths (`list[int]`): of each span, sorted.

    Returns:
        `list[int]`: their numbers.
    """
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    low, high = starts[0], max(ends)
    at = defaultdict(list)
    for number, start in enumerate(starts):
        at[start].append(number)
    fewest, choice = [0] * (high - low + 1), [None] * (high - low)
    for place in range(high - low - 1, -1, -1):
        least, pick = high - low + 1, None
        for number in reversed(at.get(low + place, ())):
            if fewest[ends[number] - low] < least:
                least, pick = fewest[ends[number] - low], number
        if fewest[place + 1] < least:
            least, pick = fewest[place + 1], None
        fewest[place], choice[place] = least + 1, pick
    taken, place = [], 0
    while place < high - low:
        if choice[place] is None:
            place += 1
        else:
            taken.append(choice[place])
            place = ends[choice[place]] - low
    return taken
