"""Encode videos as the reference's retrieval does: average the raw features of evenly spaced frames (MODEL.md 4.2)."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl_edge.runtime.bundle.modes import Mode, mode_of
from internvl_edge.runtime.errors import BackendError, InputError, UnreadableError
from internvl_edge.runtime.inputs.files.formats import is_picture_name
from internvl_edge.runtime.inputs.files.names import is_folder, is_there, printable
from internvl_edge.runtime.inputs.files.sniff import head_of, picture_format, regular_file
from internvl_edge.runtime.inputs.pictures.arguments import Pictures
from internvl_edge.runtime.inputs.pictures.decode import decode, open_picture, within_limit
from internvl_edge.runtime.inputs.pictures.findings import reason
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.tasks.features import similarity_logits
from internvl_edge.runtime.tasks.opened import OpenedGraphs
from internvl_edge.runtime.tasks.retrieval import encode_image, encode_text

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

DEFAULT_FRAMES = 8
FrameRule = Callable[[int, int], Sequence[int]]
"""Function from the number of a video's frames and the number that is wanted to the indices of those to take."""


def encode_video(model: OpenedGraphs, frames: Pictures, mode: Mode = "c", monitor: Monitor = UNMONITORED) -> np.ndarray:
    """Return the raw feature ``[D]`` of a video, which is the mean of its frames' raw features.

    Frames are cropped as CLIPImageProcessor does, which the reference's video retrieval uses (MODEL.md 4). Arrays of
    floats are `pixel_values` ``[B, 3, S, S]``, as for `encode_image`.

    Raises:
        InputError: frames that cannot be read, or none.
    """
    ready = isinstance(frames, np.ndarray) and frames.dtype.kind == "f"
    pixels = frames if ready else model.preprocess(frames, model.preprocessing.geometry_of("clip"), monitor)
    mean: np.ndarray = encode_image(model, pixels, mode, monitor).mean(axis=0)
    return mean


def rank_texts(
    model: OpenedGraphs,
    videos: Sequence[Path],
    texts: Sequence[str],
    frames: int = DEFAULT_FRAMES,
    mode: Mode | None = None,
    monitor: Monitor = UNMONITORED,
) -> np.ndarray:
    """Return scaled cosines ``[videos, T]`` of videos and texts; with `mode` None in the bundle's default mode.

    Raises:
        InputError: videos that cannot be read or sampled.
        BundleError: the bundle has no logit scale.
    """
    scale = model.required(model.info.logit_scale, "logit scale")
    mode = mode_of(model.bundle, mode)
    features = np.stack([encode_video(model, sample_video(video, frames), mode, monitor) for video in videos])
    return similarity_logits(features, encode_text(model, texts, monitor), scale)


def frame_indices(count: int, frames: int) -> range:
    """Return the indices of the frames taken from `count`: every ceil(count / frames)-th, beginning with half of that.

    Raises:
        InputError: the rule does not give exactly `frames`, which happens in short clips.
    """
    if frames < 1:
        raise InputError(f"video: {frames} frames wanted; give 1 or more")
    interval = -(-count // frames)
    indices = range(interval // 2, count, max(interval, 1))
    if len(indices) != frames:
        fitting = _fitting(count, frames)
        raise InputError(
            f"video: {count} frames do not give {frames} by the reference's rule (one of every {interval} gives"
            f" {len(indices)}); " + (f"take {fitting}" if fitting else "give one with more frames")
        )
    return indices


def segment_indices(count: int, frames: int) -> list[int]:
    """Return the indices of the frames that chat models' cards take: the middle of each of `frames` equal segments.

    Short clips give frames more than once.

    Raises:
        InputError: there is no frame, or none is wanted.
    """
    if frames < 1:
        raise InputError(f"video: {frames} frames wanted; give 1 or more")
    if count < 1:
        raise InputError("video: no frames; give one that has some")
    segment = (count - 1) / frames
    return [int(segment / 2 + round(segment * index)) for index in range(frames)]


def sample_video(source: Path, frames: int = DEFAULT_FRAMES, rule: FrameRule = frame_indices) -> "list[Picture]":
    """Return the sampled frames of a folder of pictures in order of their names, an animation, or a video file.

    `rule` says which frames are taken; that of retrieval is the default, `segment_indices` is that of chat. Animations
    (GIF, WebP, APNG) are read by Pillow, video files by PyAV.

    Raises:
        InputError: the file or folder cannot be read, or has too few frames.
        BackendError: the source is a video file, and PyAV is not installed.
    """

    def take(count: int) -> Sequence[int]:
        try:
            return rule(count, frames)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    if is_folder(source):
        return _of_folder(source, take)
    if not is_there(source):
        raise InputError(f"{source}: no such file; give a video, an animation or a folder of frames")
    try:
        picture = open_picture(source)
    except UnreadableError as error:
        if _is_picture(source):
            raise InputError(f"{printable(source)}: {error}; give a video that is whole") from error
        return _of_container(source, take)
    with picture:
        return [_frame(source, picture, index) for index in take(getattr(picture, "n_frames", 1))]


def _of_folder(source: Path, take: Callable[[int], Sequence[int]]) -> "list[Picture]":
    paths = sorted(path for path in source.iterdir() if is_picture_name(path.name) and not path.name.startswith("."))
    taken = [paths[index] for index in take(len(paths))]
    try:
        return [decode(path) for path in taken]
    except Exception as error:  # decoders raise whatever the parser of their format does
        raise InputError(f"{source}: a frame cannot be read ({reason(error)}); repair it") from error


def _is_picture(source: Path) -> bool:
    try:
        return picture_format(head_of(regular_file(source))) is not None
    except (OSError, UnreadableError) as error:
        raise InputError(f"{printable(source)}: {reason(error)}; give a video that can be read") from error


def _frame(source: Path, picture: "Picture", index: int) -> "Picture":
    try:
        picture.seek(index)
        return decode(picture)
    except Exception as error:  # decoders raise whatever the parser of their format does
        raise InputError(f"{source}: frame {index} cannot be read ({reason(error)}); give a whole file") from error


def _of_container(source: Path, take: Callable[[int], Sequence[int]]) -> "list[Picture]":
    """Decode the video twice, first to count frames, since the count in the header is a guess in many containers."""
    try:
        import av
    except ImportError as error:
        raise BackendError(
            f"{source}: PyAV is not installed; pip install 'internvl-edge[video]', or give a folder of frames"
        ) from error
    try:
        wanted = take(sum(1 for _ in _decoded(av, source)))
        kept = set(wanted)
        found = {index: frame.to_image() for index, frame in enumerate(_decoded(av, source)) if index in kept}
        return [found[index] for index in wanted]
    except av.FFmpegError as error:
        raise InputError(f"{source}: neither picture nor video ({error.strerror}); give another file") from error


def _decoded(av: Any, source: Path) -> Iterator[Any]:
    """Yield the frames. The path is absolute, since FFmpeg takes `12:30.mp4` for a URL of the protocol `12`."""
    with av.open(str(source.absolute())) as container:
        if not container.streams.video:
            raise InputError(f"{source}: holds no video; give another file")
        stream = container.streams.video[0]
        if not within_limit(stream.width, stream.height):
            raise InputError(
                f"{source}: {stream.width} x {stream.height} pixels are more than the limit; scale it down"
            )
        stream.thread_type = "AUTO"
        yield from container.decode(video=0)


def _fitting(count: int, frames: int) -> int:
    """Return the largest number of frames below `frames` that the rule gives; 0 if none."""
    for fewer in range(min(frames - 1, count), 0, -1):
        interval = -(-count // fewer)
        if len(range(interval // 2, count, max(interval, 1))) == fewer:
            return fewer
    return 0
