"""The values that all stages of an export share: options, checkpoint, model and samples."""

from dataclasses import dataclass

from internvl_edge.export.blockwise.model import BlockwiseModel
from internvl_edge.export.blockwise.sources import stored_shapes
from internvl_edge.export.canonical.quantized_kernels import require_quantized_kernels
from internvl_edge.export.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from internvl_edge.export.checkpoint.config.conversation import Conversation, read_conversation
from internvl_edge.export.checkpoint.required_tensors import require_tensors
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.export.models.families.language_model import LANGUAGE_MODEL
from internvl_edge.export.models.graphs import cut_for, graph_rows, needs_language
from internvl_edge.export.models.resolution import at_image_size, checked_feature_layers
from internvl_edge.export.run.options import DEFAULT_CONTEXT, ExportOptions
from internvl_edge.export.run.samples import Samples, load_samples
from internvl_edge.runtime.errors import ExportError
from internvl_edge.runtime.numbers.formats import DTYPES
from internvl_edge.runtime.progress import Progress
from internvl_edge.runtime.targets.targets import find_target, require_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRun:
    """One export, opened and checked."""

    options: ExportOptions
    checkpoint: Checkpoint
    feature_layers: tuple[int, ...]
    """Indexes of blocks whose patch maps are further outputs of `vision`."""
    graphs: tuple[str, ...]
    model: BlockwiseModel
    """The checkpoint in torch, at the picture size of this export."""
    samples: Samples
    """Pictures and texts that graphs are verified on."""
    conversation: Conversation | None
    """How a chat checkpoint converses; None if no graph is its language model."""
    max_context: int
    """Most positions of a request to the language model."""
    progress: Progress

    @property
    def config(self) -> ModelConfig:
        """Configuration of the model at the picture size of this export."""
        return self.model.config

    @property
    def accepted_fields(self) -> tuple[str, ...]:
        """Unknown fields in the checkpoint's files that the user accepted as having no effect."""
        more = self.conversation.accepted_fields if self.conversation is not None else ()
        return (*self.checkpoint.accepted_fields, *more)

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """Tensors that the graphs of this export may use; without a graph of it, the language model's are none."""
        spoken = needs_language(self.graphs)
        tensors = self.checkpoint.tensors
        return tuple(tensors[name] for name in tensors if spoken or not LANGUAGE_MODEL.owns(name))

    @property
    def dtype(self) -> str:
        """Type of the tensors that are not quantized, by its name in torch."""
        return DTYPES[self.options.dtype or "fp16"]

    @property
    def weights(self) -> str:
        """How weights get into the bundle; with quantization they are copied, since most are codes then."""
        return self.options.weights if self.options.precision is None else "copy"


def open_run(options: ExportOptions, progress: Progress) -> ExportRun:
    """Open the checkpoint and the samples of an export, and check them against its options.

    Raises:
        EdgeError: the checkpoint, an option or a sample is not valid.
    """
    if options.target is not None:
        require_precision(find_target(options.target), options.bundle_precision)
    if options.precision is not None:
        require_quantized_kernels()
    checkpoint = open_checkpoint(
        options.checkpoint,
        options.revision,
        options.accept_config,
        options.state_dict,
        needs_language(options.graphs),
    )
    require_tensors(checkpoint.tensors, stored_shapes(checkpoint.config))
    config = cut_for(at_image_size(checkpoint.config, options.image_size), options.graphs or ())
    graphs = _wanted_graphs(options, config)
    conversation = _conversation(checkpoint, config, graphs, options)
    return ExportRun(
        options=options,
        checkpoint=checkpoint,
        feature_layers=checked_feature_layers(options.feature_layers, config),
        graphs=graphs,
        model=BlockwiseModel(options.checkpoint, checkpoint, config),
        samples=load_samples(options.samples, config.pictures, options.sample_count, checkpoint.folder),
        conversation=conversation,
        max_context=_max_context(options, conversation),
        progress=progress,
    )


def _conversation(
    checkpoint: Checkpoint, config: ModelConfig, graphs: tuple[str, ...], options: ExportOptions
) -> Conversation | None:
    rows = graph_rows(config)
    if not any(rows[name].embeds is not None for name in graphs):
        return None
    return read_conversation(checkpoint.folder, config, FieldReader(frozenset(options.accept_config)))


def _max_context(options: ExportOptions, conversation: Conversation | None) -> int:
    most = conversation.max_length if conversation is not None else None
    if options.max_context is None:
        return min(DEFAULT_CONTEXT, most or DEFAULT_CONTEXT)
    if most is not None and options.max_context > most:
        raise ExportError(f"--max-context {options.max_context}: model_max_length of the tokenizer is {most}; lower it")
    return options.max_context


def _wanted_graphs(options: ExportOptions, config: ModelConfig) -> tuple[str, ...]:
    rows = graph_rows(config)
    absent = [name for name in options.graphs or () if name not in rows]
    if config.without_llm is not None and needs_language(absent):
        raise ExportError(
            f"--graphs {','.join(absent)}: the language model of {options.checkpoint} has no graph, as "
            f"{config.without_llm}; or export {', '.join(rows)} alone"
        )
    if absent:
        raise ExportError(
            f"--graphs {','.join(absent)}: {options.checkpoint} has no weights for it; it has {', '.join(rows)}"
        )
    return tuple(
        name for name, row in rows.items() if (row.by_default if options.graphs is None else name in options.graphs)
    )
