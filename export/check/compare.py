"""Compare a bundle with another or with a checkpoint, block by block: what `internvl-edge compare` does."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from internvl_edge.calib.data.dataset import DataSet, open_data
from internvl_edge.calib.data.synthetic import STOCK_TEXTS, synthetic_ids
from internvl_edge.export.check.block_runners import BlockRunner, BundleRunner, open_reference
from internvl_edge.export.check.differences import Difference, Divergence, difference, divergence
from internvl_edge.export.check.graph_inputs import GraphInputs, counting_rows
from internvl_edge.export.check.questions import seeded_questions
from internvl_edge.export.models.graphs import GRAPH_NAMES, GraphRow, unknown_graphs
from internvl_edge.runtime.bundle.manifest import ModelInfo
from internvl_edge.runtime.bundle.tokenizer import TEXT_PREFIX, Tokenizer
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.inputs.pictures.preprocess import preprocess
from internvl_edge.runtime.progress import Advance, Progress, Silent
from internvl_edge.runtime.tasks.captions import DEFAULT_PROMPT

_NOT_SIZES = ("max_text_length", "bos_token_id", "eos_token_id", "pad_token_id")
"""Fields of the text part that have no effect on the graphs."""
_RANDOM_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """Options of one comparison and their defaults."""

    data: Path
    """Folder of pictures, or JSONL with captions."""
    sample_count: int = 4
    graphs: tuple[str, ...] | None = None
    """Names of the graphs to compare; None takes those of the bundle, which the reference must have too."""
    threshold_db: float = 20.0
    """SQNR below which a block diverges; 20 dB is noise of a tenth of the signal's amplitude."""
    accept_config: tuple[str, ...] = ()
    """Unknown fields of a reference checkpoint's files that the user declares to have no effect."""
    state_dict: str | None = None
    """Name of the set of weights to read from a reference checkpoint that holds several."""

    def __post_init__(self) -> None:
        """Check the options as far as that needs no files.

        Raises:
            InputError: with all findings in one line.
        """
        wrong = []
        if self.sample_count < 1:
            wrong.append(f"--sample-count {self.sample_count}: nothing to compare on; give at least 1")
        wrong += unknown_graphs(self.graphs)
        if not np.isfinite(self.threshold_db):
            wrong.append(f"--threshold-db {self.threshold_db}: no level; give decibels, as 20")
        if wrong:
            raise InputError("; ".join(wrong))


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphComparison:
    """Comparison of one graph; both models ran it on the reference's inputs."""

    graph: str
    fed_by: str | None
    """Graph whose outputs, from the reference, were its inputs; None if it takes samples only."""
    blocks: tuple[Difference, ...]
    """Difference of the residual stream after each block, without rows of padding."""
    outputs: tuple[Difference, ...]
    caches: tuple[Difference, ...]
    """Difference of the keys and values of every layer, with smoothing undone; for information."""
    divergence: Divergence | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Comparison of bundle `a` with reference `b`."""

    a: str
    b: str
    """Path of the reference."""
    precision_a: str
    precision_b: str
    data: str
    pictures: int
    texts: str
    """Source of the token ids, in words."""
    threshold_db: float
    graphs: tuple[GraphComparison, ...]

    @property
    def first_divergence(self) -> Divergence | None:
        """First divergence below the threshold; if there is none, the one with the largest drop."""
        found = [graph.divergence for graph in self.graphs if graph.divergence is not None]
        below = next((item for item in found if item.below), None)
        return below or max(found, key=lambda item: item.drop_db, default=None)


def compare(a: Path, b: Path, options: CompareOptions, progress: Progress | None = None) -> Comparison:
    """Return the difference of bundle `a` to `b`, a bundle or a checkpoint, after every block of every graph.

    A graph that takes another's outputs gets those of `b` in both models, so that each graph is compared alone. Values
    of `b` are kept in a temporary folder, so that one block of one model is in memory at a time.

    Raises:
        EdgeError: a model cannot be opened, the two do not match, or the data are not valid.
    """
    bundle = BundleRunner(a)
    reference = open_reference(b, bundle, options.accept_config, options.state_dict)
    _check_sizes(bundle, reference)
    names = _graphs(bundle, reference, options)
    _check_blocks(bundle, reference, names)
    data = open_data(options.data).subsample(options.sample_count)
    inputs, texts = _samples(data, bundle, reference)
    with TemporaryDirectory(prefix="internvl-compare-") as folder:
        recorded = _RecordedReference(reference, inputs, Path(folder))
        compared = tuple(_compare_graph(name, bundle, recorded, options, progress or Silent()) for name in names)
    return Comparison(
        a=str(a),
        b=str(b),
        precision_a=bundle.precision,
        precision_b=reference.precision,
        data=str(options.data),
        pictures=len(data.rows),
        texts=texts,
        threshold_db=options.threshold_db,
        graphs=compared,
    )


def _graphs(bundle: BlockRunner, reference: BlockRunner, options: CompareOptions) -> tuple[str, ...]:
    """Return the names of the graphs to compare, in the order in which they feed each other."""
    both = [name for name in GRAPH_NAMES if name in bundle.graphs and name in reference.graphs]
    wanted = tuple(both) if options.graphs is None else tuple(name for name in GRAPH_NAMES if name in options.graphs)
    # A checkpoint has all graphs of its model; a bundle has those that were exported.
    extra = reference.graphs if options.graphs is None and isinstance(reference, BundleRunner) else ()
    needed = {*(bundle.graphs if options.graphs is None else wanted), *extra}
    lacking = [
        f"{one.path} has no {', '.join(absent)}, which {other.path} has"
        for one, other in ((bundle, reference), (reference, bundle))
        if (absent := [name for name in GRAPH_NAMES if name in needed and name not in one.graphs])
    ]
    if lacking:
        remedy = f"choose with --graphs {','.join(both)}" if both else "give two of one checkpoint"
        raise BundleError(f"{'; '.join(lacking)}; {remedy}")
    rows = {**bundle.rows, **reference.rows}
    feeders = _feeders(_closed(wanted, rows), rows)
    if absent := [name for name in GRAPH_NAMES if name in feeders and name not in reference.graphs]:
        raise BundleError(
            f"{reference.path}: has no {', '.join(absent)}, whose outputs {', '.join(wanted)} of {bundle.path} take; "
            "give a bundle with it, or the checkpoint"
        )
    return wanted


def _closed(names: Sequence[str], rows: Mapping[str, GraphRow]) -> set[str]:
    """Return `names` and all graphs that feed them, directly or not."""
    found = set(names)
    while more := _feeders(found, rows) - found:
        found |= more
    return found


def _feeders(names: set[str], rows: Mapping[str, GraphRow]) -> set[str]:
    return {feeder for name in names if name in rows and (feeder := rows[name].feeder(rows)) is not None}


def _check_sizes(bundle: BlockRunner, reference: BlockRunner) -> None:
    """Check that both are the same model at the same picture size; parts that only one of them has are left out.

    Raises:
        BundleError: with every size that differs.
    """
    one, other = _sizes(bundle.model), _sizes(reference.model)
    pairs: dict[str, tuple[object, object]] = {key: (one[key], other[key]) for key in one if key in other}
    mine, theirs = asdict(bundle.pictures), asdict(reference.pictures)
    prepared = {f"preparing pictures, {key}": (mine[key], theirs[key]) for key in mine if mine[key] != theirs[key]}
    _require_equal(bundle, reference, pairs | prepared)


def _sizes(model: ModelInfo) -> dict[str, int]:
    """Return the sizes of the parts that a model has, by name, without what has no effect on its graphs."""
    parts = {"vision": asdict(model.vision), "text": asdict(model.text) if model.text is not None else {}}
    sizes = {f"{part} {name}": size for part, found in parts.items() for name, size in found.items()}
    embedding = {"embed_dim": model.embed_dim} if model.embed_dim is not None else {}
    return {name: size for name, size in sizes.items() if name.split()[1] not in _NOT_SIZES} | embedding


def _check_blocks(bundle: BlockRunner, reference: BlockRunner, names: Sequence[str]) -> None:
    """Check that the graphs have equal numbers of blocks.

    Raises:
        BundleError: with every graph whose number differs.
    """
    counts = {f"blocks of {name}": (len(bundle.blocks(name)), len(reference.blocks(name))) for name in names}
    _require_equal(bundle, reference, counts)


def _require_equal(bundle: BlockRunner, reference: BlockRunner, pairs: Mapping[str, tuple[object, object]]) -> None:
    wrong = [f"{what}: {mine} and {theirs}" for what, (mine, theirs) in pairs.items() if mine != theirs]
    if wrong:
        raise BundleError(
            f"{bundle.path} and {reference.path} do not match ({', '.join(wrong)}); "
            "compare two of one checkpoint, at one picture size"
        )


def _samples(data: DataSet, bundle: BlockRunner, reference: BlockRunner) -> tuple[GraphInputs, str]:
    """Return pictures and token ids, and the source of the ids in words."""
    pixels = preprocess([data.picture(row) for row in data.rows], bundle.pictures)
    if (language := bundle.model.language) is not None:
        rows = reference.table_rows
        asked = seeded_questions(len(pixels), language.tokens_per_tile, language.vocab_size, rows)
        return GraphInputs(pixel_values=pixels, questions=asked), "random ids around a part of each tile"
    if bundle.model.text is None:
        return GraphInputs(pixel_values=pixels), "no texts"
    captions = [[text for _, text in row.captions()] for row in data.rows]
    texts = [own[i % len(own)] if own else STOCK_TEXTS[i % len(STOCK_TEXTS)] for i, own in enumerate(captions)]
    file = reference.tokenizer_file or bundle.tokenizer_file
    if file is None:
        ids = synthetic_ids(len(pixels), _RANDOM_LENGTH, bundle.model.text.vocab_size)
        return GraphInputs(pixel_values=pixels, text_ids=ids, match_ids=ids, prompt_ids=ids), "random ids"
    tokenizer = Tokenizer(file)
    inputs = GraphInputs(
        pixel_values=pixels,
        text_ids=tokenizer.encode_texts(texts, prefix=TEXT_PREFIX),
        match_ids=tokenizer.encode_texts(texts, prefix=""),
        prompt_ids=_prompted(tokenizer, texts),
    )
    return inputs, "captions of the data" if any(captions) else "stock texts"


def _prompted(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Return the prompt followed by captions cut to the shortest one, ``[B, n]``, so that there is no padding."""
    prompt = tokenizer.encode_prompt(DEFAULT_PROMPT)[0]
    captions = [tokenizer.encode_texts([text], prefix="")[0, 1:-1] for text in texts]
    shortest = min(map(len, captions))
    return np.stack([np.concatenate([prompt, ids[:shortest]]) for ids in captions])


class _RecordedReference:
    """Values of the reference's blocks and outputs, kept on disk; a graph runs when it is first needed."""

    def __init__(self, runner: BlockRunner, inputs: GraphInputs, folder: Path) -> None:
        self.runner = runner
        self._inputs = inputs
        self._folder = folder

    def run(self, graph: str, advance: Advance) -> None:
        """Run `graph` unless it has run already."""
        place = self._folder / graph
        if place.exists():
            return
        inputs = self.inputs(graph)
        place.mkdir()
        blocks = set(self.runner.blocks(graph))

        def observe(name: str, value: np.ndarray) -> None:
            np.save(place / f"{name}.npy", value)
            advance(name in blocks)

        self.runner.run(graph, inputs, observe)

    def inputs(self, graph: str) -> dict[str, np.ndarray]:
        """Return the inputs of `graph` for the reference."""
        fed: dict[str, np.ndarray] = {}
        if (feeder := self.runner.rows[graph].feeder(self.runner.rows)) is not None:
            self.run(feeder, lambda _: None)
            fed = dict(self._outputs(feeder))
        return self._inputs.of(self.runner.rows[graph], self.runner.input_shapes(graph), fed)

    def value(self, graph: str, name: str) -> np.ndarray:
        """Return the value of a block or an output, memory-mapped."""
        mapped: np.ndarray = np.load(self._folder / graph / f"{name}.npy", mmap_mode="r")
        return mapped

    def forget_blocks(self, graph: str) -> None:
        """Delete the values of the blocks of `graph`; its outputs stay, as other graphs may need them."""
        for name in self.runner.blocks(graph):
            (self._folder / graph / f"{name}.npy").unlink()

    def _outputs(self, graph: str) -> Iterator[tuple[str, np.ndarray]]:
        blocks = set(self.runner.blocks(graph))
        for file in sorted((self._folder / graph).iterdir()):
            if file.stem not in blocks:
                yield file.stem, self.value(graph, file.stem)


def _compare_graph(
    graph: str, bundle: BundleRunner, recorded: _RecordedReference, options: CompareOptions, progress: Progress
) -> GraphComparison:
    reference = recorded.runner
    order = bundle.blocks(graph)
    found: dict[str, Difference] = {}
    with progress.task(f"Comparing {graph}", 2 * len(order), "blocks") as advance:
        recorded.run(graph, advance)
        inputs = recorded.inputs(graph)
        rows = counting_rows(bundle.rows[graph], inputs, bundle.model.num_query_tokens)

        def observe(name: str, value: np.ndarray) -> None:
            theirs = recorded.value(graph, name)
            if name.startswith("present."):
                value, theirs = _plain(name, value, bundle), _plain(name, theirs, reference)
            found[name] = difference(name, value, theirs, rows if name in order else None)
            advance(name in order)

        bundle.run(graph, {name: _input_for(name, value, reference, bundle) for name, value in inputs.items()}, observe)
    recorded.forget_blocks(graph)
    blocks = tuple(found[name] for name in order)
    rest = [item for name, item in found.items() if name not in order]
    outputs = tuple(item for item in rest if not item.name.startswith("present."))
    return GraphComparison(
        graph=graph,
        fed_by=bundle.rows[graph].feeder(reference.rows),
        blocks=blocks,
        outputs=outputs,
        caches=tuple(item for item in rest if item.name.startswith("present.")),
        divergence=divergence(graph, blocks, outputs, options.threshold_db),
    )


def _input_for(name: str, value: np.ndarray, reference: BlockRunner, bundle: BlockRunner) -> np.ndarray:
    """Return an input of the reference as `bundle` expects it: cached values are divided by smoothing factors."""
    key = name.removeprefix("past_key_values.")
    factor = bundle.cache_factors.get(key)
    plain = _plain(name, value, reference)
    return plain if factor is None else plain / factor


def _plain(name: str, value: np.ndarray, runner: BlockRunner) -> np.ndarray:
    """Return a tensor of `runner` with smoothing factors undone, as the unchanged checkpoint computes it."""
    factors: Mapping[str, np.ndarray] = runner.cache_factors
    key = name.removeprefix("past_key_values.").removeprefix("present.")
    return value * factors[key] if key in factors else value
