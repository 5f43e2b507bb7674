"""Find the tensors of a network in what another program saved: under which key, with which prefix.

Training programs put a state_dict into dictionaries (`{"state_dict": ..., "epoch": ...}`) and the
network into modules (`module.encoder_q.layer1...`), beside heads, projectors and averaged copies.
No list of programs is needed to find it: of all dictionaries of tensors and all prefixes in them,
the network is where most of its own names have its own shapes.

Where two places fit equally well, they are taken in this order: the network that was trained before
its moving average, except that the teacher comes before the student, as DINO's authors evaluate it;
then by the key (`WRAPPERS`). Two places that this does not decide are an error.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resnets.errors import UserError, one_line, shortened
from resnets.models.torch_file import StoredTensor, UnusableTensor

# Keys of a training program's checkpoint; plain weights before averaged ones.
WRAPPERS = ("state_dict", "model", "net", "state_dict_ema", "model_ema")
# Words, in keys and prefixes, for the copy that is not taken where two copies fit.
SECOND = re.compile(
    r"(?:^|[._])(?:ema|swa|averaged|encoder_k|key_encoder|momentum|target|student)(?:[._]|$)"
)
# Networks of self-supervised training: what is called `fc` in them is the projector.
PROJECTING = re.compile(
    r"(?:^|\.)(?:encoder_[qk]|(?:base|momentum|online|target|key|query)_encoder)\."
)
# Parts of pretraining beside the layers of a network, left out with a notice.
PRETRAINING = re.compile(
    r"(?:fc\.\d+|(?:projection_)?heads?|project(?:or|ion)|prototypes|predictor|mlp|queue(?:_ptr)?"
    r"|classifier|criterion|loss)(?:\.|$)"
)
# The classifiers of mmpretrain and of Hugging Face's ResNetForImageClassification, by the end of
# the prefix that they are beside.
CLASSIFIERS = {"backbone.": "head.fc.", "resnet.": "classifier.1."}
HEAD = ("fc.weight", "fc.bias")
STEM = ("conv1.weight", "conv1.0.weight")  # the second where the stem has three convolutions
COUNTER = ".num_batches_tracked"
MAX_NESTED = 8  # dictionaries in each other
MAX_TABLES = 1000
MAX_PREFIX = 6  # components
MAX_NAME = 200  # characters of a tensor's name
MAX_LISTED = 6  # parts in a notice

Table = dict[str, Any]
# A dictionary of tensors, and the keys that lead to it.
Found = tuple[tuple[str, ...], Table]
Rename = Callable[[str], str]


@dataclass(frozen=True)
class Layout:
    """Say where the tensors of a network are in what a program saved.

    Args:
        tensors: The tensors by the names of this package; also those that the network lacks.
        origins: The name of each in the file.
        place: Keys and prefix, such as `teacher: backbone.`; empty where there are none.
        left_out: The other parts, each with its number of tensors.
    """

    tensors: dict[str, Any]
    origins: dict[str, str]
    place: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """A prefix in a dictionary of tensors, and how much of the network is there."""

    path: tuple[str, ...]
    table: Table
    prefix: str
    names: dict[str, str]  # of this package: name in the table
    score: tuple[int, int]  # names with fitting shapes, names

    @property
    def place(self) -> str:
        return ": ".join(filter(None, [".".join(self.path), self.prefix]))

    @property
    def rank(self) -> tuple[bool, int]:
        path = ".".join(self.path)
        wrapper = self.path[0] if self.path else WRAPPERS[0]
        order = WRAPPERS.index(wrapper) if wrapper in WRAPPERS else len(WRAPPERS)
        return SECOND.search(f"{path}.{self.prefix}") is not None, order


def tensor_tables(content: object, *, source: str, most: int) -> list[Found]:
    """Return the dictionaries of tensors in a saved object, with the keys that lead to them.

    Raises:
        UserError: There is none, or one has more than `most` tensors or a name that is too long.
    """
    tables = []
    for path, table in _tables(content):
        if len(table) > most:
            raise UserError(f"{source} has {len(table):,} tensors, more than any network")
        if longest := next((key for key in table if len(key) > MAX_NAME), ""):
            raise UserError(f"{source} has a tensor whose name has {len(longest):,} characters")
        tables.append((path, table))
    if tables:
        return sorted(tables, key=lambda item: _Candidate(item[0], item[1], "", {}, (0, 0)).rank)
    for _ in range(MAX_NESTED):
        inner = content if isinstance(content, Mapping) else {}
        found = [inner[key] for key in WRAPPERS if isinstance(inner.get(key), Mapping)]
        content = found[0] if found else content
    names = [str(key) for key in content] if isinstance(content, Mapping) else []
    if not set(names) - {"n_averaged"}:
        raise UserError(f"{source} contains no state_dict (names and tensors)")
    raise UserError(
        f"{source} is not a state_dict and has none inside: these are not tensors: {few(names)}"
    )


def find_network(
    tables: Sequence[Found],
    own: Mapping[str, Tensor],
    *,
    rename: Rename,
    source: str,
) -> Layout:
    """Return where a network is.

    Args:
        tables: The dictionaries of tensors, from `tensor_tables`.
        own: The network's state_dict, for its names and shapes.
        rename: Returns this package's name for a name of another program.
        source: What messages call the file.

    Raises:
        UserError: Two places fit equally well, or two tensors have one name.
    """
    candidates = [
        candidate for path, table in tables for candidate in _candidates(path, table, own, rename)
    ]
    best = max(candidate.score for candidate in candidates)
    equal = [candidate for candidate in candidates if candidate.score == best]
    chosen = min(equal, key=lambda candidate: candidate.rank)
    for other in equal:
        if other.rank == chosen.rank and best[0] and not _same_tensors(chosen, other):
            raise UserError(
                f"{source} has two networks that fit, {chosen.place!r} and {other.place!r}: save "
                "the state_dict of one of them"
            )
    return _layout(chosen, tables, own, rename)


def _tables(content: object) -> Iterator[Found]:
    """Yield each dictionary that has tensors, the outermost first."""
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = []
    if isinstance(content, Mapping):
        level = [((), content)]
    seen = {id(content)}
    for _ in range(MAX_NESTED):
        inner: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = []
        for path, mapping in level:
            named = {key: value for key, value in mapping.items() if isinstance(key, str)}
            table = {key: value for key, value in named.items() if _shape(value) is not None}
            table.pop("n_averaged", None)
            if table:
                yield path, table
            for key, value in named.items():
                if isinstance(value, Mapping) and id(value) not in seen and len(seen) < MAX_TABLES:
                    seen.add(id(value))
                    inner.append(((*path, key), value))
        level = inner


def _candidates(
    path: tuple[str, ...], table: Table, own: Mapping[str, Tensor], rename: Rename
) -> Iterator[_Candidate]:
    """Yield the prefixes of a table under which at least half of the network can be."""
    under: dict[str, list[str]] = defaultdict(list)
    for name in table:
        end = 0
        under[""].append(name)
        for _ in range(MAX_PREFIX):
            end = name.find(".", end) + 1
            if not end:
                break
            under[name[:end]].append(name)
    body = [key for key in own if key not in HEAD and not key.endswith(COUNTER)]
    for prefix, names in under.items():
        if prefix and 2 * len(names) < len(body):
            continue
        found = {rename(name.removeprefix(prefix)): name for name in names}
        present = [key for key in body if key in found]
        fitting = sum(_fits(key, table[found[key]], own[key]) for key in present)
        yield _Candidate(path, table, prefix, found, (fitting, len(present)))


def _layout(
    chosen: _Candidate,
    tables: Sequence[Found],
    own: Mapping[str, Tensor],
    rename: Rename,
) -> Layout:
    table, prefix = chosen.table, chosen.prefix
    projecting = PROJECTING.search(f"{'.'.join(chosen.path)}.{prefix}")
    tensors: dict[str, Any] = {}
    origins: dict[str, str] = {}
    rest: list[str] = []
    for name, value in table.items():
        if not name.startswith(prefix):
            rest.append(name)
            continue
        key = rename(name.removeprefix(prefix))
        head = key in HEAD
        if (head and projecting) or (key not in own and not head and PRETRAINING.match(key)):
            rest.append(name)
            continue
        if key in tensors:
            raise UserError(f"it has {key} twice, as {few([origins[key], name])}")
        tensors[key], origins[key] = value, name
    for end, classifier in CLASSIFIERS.items():
        outer = prefix.removesuffix(end) + classifier
        if not prefix.endswith(end) or HEAD[0] in tensors:
            continue
        for key in HEAD:
            name = outer + key.removeprefix("fc.")
            shape = _shape(table.get(name))
            if shape is not None and len(shape) == (2 if key == HEAD[0] else 1):
                tensors[key], origins[key] = table[name], name
                rest.remove(name)
    others = [".".join(path) for path, other in tables if other is not table and _has_layers(other)]
    return Layout(tensors, origins, chosen.place, (*_parts(rest, table, prefix), *others))


def _parts(names: Sequence[str], table: Table, prefix: str) -> tuple[str, ...]:
    """Return what tensors that are left out belong to: the first component that differs."""
    numbers: Counter[str] = Counter()
    for name in names:
        if not _shape(table[name]):
            continue  # a counter
        end = 0
        while prefix and (dot := name.find(".", end) + 1) and name[:dot] == prefix[:dot]:
            end = dot
        stop = name.find(".", end)
        numbers[name if stop < 0 else name[:stop]] += 1
    return tuple(
        f"{part} ({number} tensors)" if number > 1 else part for part, number in numbers.items()
    )


def _has_layers(table: Table) -> bool:
    return any(len(_shape(value) or ()) > 1 for value in table.values())


def _fits(key: str, value: object, own: Tensor) -> bool:
    shape, wanted = _shape(value), tuple(own.shape)
    if key in STEM and shape is not None and len(shape) == len(wanted):
        shape, wanted = shape[:1] + shape[2:], wanted[:1] + wanted[2:]
    return shape == wanted


def _shape(value: object) -> tuple[int, ...] | None:
    """Return the shape of a tensor, read or not; None if a value is something else."""
    if isinstance(value, StoredTensor):
        return value.size
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return (1,) if isinstance(value, UnusableTensor) else None


def _same_tensors(one: _Candidate, other: _Candidate) -> bool:
    """Return whether two places hold the same tensors, as modules with two names do."""

    def same(a: object, b: object) -> bool:
        return a is b or (isinstance(a, StoredTensor) and a == b)

    names = one.names.keys() & other.names.keys()
    return all(same(one.table[one.names[key]], other.table[other.names[key]]) for key in names)


def few(texts: Sequence[str], separator: str = ", ") -> str:
    """Return the first texts, each in one line, and how many more there are."""
    lines = [one_line(text, length=MAX_NAME) for text in texts[:3]]
    return shortened(lines, shown=3, separator=separator, total=len(texts))
