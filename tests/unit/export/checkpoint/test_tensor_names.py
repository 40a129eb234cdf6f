"""Names come out official however often they were wrapped, and nothing else is taken for a wrapper."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.export.checkpoint.names import holds_a_tower, naming_of, official_names, unwrapped
from internvl_edge.runtime.errors import CheckpointError
from tests.unit.export.checkpoint.checkpoint_folders import language_model, tower

SEGMENTS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_model.model")
OFFICIAL = [*tower(prefix="vision_model."), *language_model(), "mlp1.0.weight", "logit_scale", "query_tokens"]


def _wrapped(name: str, wrappers: Sequence[tuple[str, int]]) -> str:
    """Return a name with each segment put in front of the part of the given number."""
    parts = name.split(".")
    for segment, place in wrappers:
        parts.insert(place % len(parts), segment)
    return ".".join(parts)


@given(
    wrappers=st.lists(st.tuples(st.sampled_from(SEGMENTS), st.integers(0, 9)), max_size=4),
    prefix=st.sampled_from(["", "model.", "ema_model.", "a.b.c."]),
)
def test_every_wrapping_comes_off(wrappers: list[tuple[str, int]], prefix: str) -> None:
    stored = {prefix + _wrapped(name, wrappers): name for name in OFFICIAL}
    naming = naming_of(stored, "w")
    assert official_names(stored, naming, "w") == stored


@given(st.lists(st.text(alphabet="abmodule_.", max_size=12), max_size=6))
def test_taking_wrappers_off_twice_changes_nothing_more(names: list[str]) -> None:
    for name in names:
        assert unwrapped(unwrapped(name)) == unwrapped(name) or "module.module" in name.replace("..", ".")


@pytest.mark.parametrize(
    "name",
    [
        "my_module.weight",
        "submodule.weight",
        "modules.weight",
        "language_model.model.layers.0.mlp.up_proj.weight",
        "qllama.model.embed_tokens.weight",
    ],
)
def test_a_part_of_a_word_is_no_wrapper(name: str) -> None:
    assert unwrapped(name) == name


def test_a_set_of_weights_that_does_not_exist_names_those_that_do() -> None:
    both = [f"{prefix}.{name}" for prefix in ("student", "teacher") for name in tower(prefix="vision_model.")]
    with pytest.raises(CheckpointError) as caught:
        naming_of(both, "w", "ema")
    assert str(caught.value) == "--state-dict ema: w has no weights of that name; it has student, teacher"
    with pytest.raises(CheckpointError, match=r"it has no tower$"):
        naming_of(["a.weight"], "w", "ema")


def test_a_tower_is_known_by_its_class_token() -> None:
    assert holds_a_tower(["model.vision_model.embeddings.class_embedding"])
    assert holds_a_tower(["backbone.cls_token"])
    assert not holds_a_tower(["vision_model.embeddings.patch_embedding.weight", "my_cls_token_count"])


@pytest.mark.parametrize(
    ("token", "vision_only", "plain"),
    [
        ("vision_model.embeddings.class_embedding", False, False),
        ("embeddings.class_embedding", True, False),
        ("cls_token", False, True),
    ],
)
@pytest.mark.parametrize("prefix", ["", "ema."])
def test_the_class_token_tells_which_layout_the_names_have(
    token: str, vision_only: bool, plain: bool, prefix: str
) -> None:
    naming = naming_of([f"{prefix}{token}", f"{prefix}other.weight"], "w")
    assert (naming.prefix, naming.vision_only, naming.plain) == (prefix, vision_only, plain)


def test_names_of_another_set_and_replaced_originals_are_left_out() -> None:
    mine = "a.vision_model.embeddings.class_embedding"
    left = ["a.vision_model.norm.original_module.weight", mine.replace("a.", "b.", 1), "b.mlp1.0.weight"]
    naming = naming_of([mine, *left], "w", "a")
    assert official_names([mine, *left], naming, "w") == {mine: "vision_model.embeddings.class_embedding"}
