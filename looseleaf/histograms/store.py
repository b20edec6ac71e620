"""Histograms on disk: UHI JSON, ROOT and correctionlib."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hist
import numpy as np
import uhi.io.json
from numpy.typing import NDArray

from looseleaf.errors import DataFileError, brief
from looseleaf.files import read_json, whole
from looseleaf.histograms.ratio import Ratio

FORMAT = "looseleaf-histograms/2"
# UHI's schema leaves this key to the library that writes
WRITER = "looseleaf"


def write_uhi(
    path: str | Path, histograms: Mapping[str, hist.Hist[Any]], metadata: Mapping[str, Any]
) -> None:
    """Write histograms by name as UHI-serialized JSON, with metadata.

    The file follows UHI's schema, a dictionary of histograms and nothing else, so that any library
    can read it: `metadata` is JSON text in `writer_info` of the first histogram.
    """
    value = json.loads(json.dumps(dict(histograms), default=uhi.io.json.default))
    first = next(iter(value.values()))
    about = {"format": FORMAT, "metadata": json.dumps(dict(metadata), allow_nan=False)}
    first["writer_info"] = {**first.get("writer_info", {}), WRITER: about}
    with whole(path) as part:
        part.write_text(json.dumps(value) + "\n")


def read_uhi(path: str | Path) -> tuple[dict[str, hist.Hist[Any]], dict[str, Any]]:
    """The histograms and metadata of a file that `write_uhi` wrote.

    Raises `DataFileError` naming the file if it is of another format or damaged.
    """
    value = read_json(path)
    try:
        about = next(iter(value.values()))["writer_info"][WRITER]
        ours = about["format"] == FORMAT
    except (AttributeError, KeyError, TypeError, StopIteration):
        ours = False
    if not ours:
        raise DataFileError(f"{path}: not a file of histograms (no format {FORMAT!r})")
    try:
        metadata = json.loads(about["metadata"])
        decoded = json.loads(json.dumps(value), object_hook=uhi.io.json.object_hook)
        return {name: hist.Hist(h) for name, h in decoded.items()}, metadata
    except Exception as problem:
        # libraries raise various exceptions
        raise DataFileError(
            f"{path}: damaged ({brief(problem)}); delete it, and run again"
        ) from None


def empty_bins(metadata: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which bins of a measured map are empty, as listed in its metadata; has the given shape."""
    empty = np.zeros(shape, bool)
    for index in metadata["empty_bins"]:
        empty[tuple(index)] = True
    return empty


def write_root(path: str | Path, histograms: Mapping[str, hist.Hist[Any]]) -> None:
    """Write histograms as TH1/TH2 with their variances."""
    import uproot  # noqa: PLC0415 - ratios alone need neither it nor correctionlib

    with whole(path) as part, uproot.recreate(part) as root:
        for name, histogram in histograms.items():
            root[name] = histogram


def write_correction(
    path: str | Path,
    name: str,
    description: str,
    ratio: Ratio,
    like: hist.Hist[Any],
    variations: Mapping[str, Any] | None = None,
) -> None:
    """Write a ratio as a correctionlib v2 file.

    Inputs are `systematic` (`nominal`, `stat_up`, `stat_down` and the names of `variations`, whose
    values have the shape of the axes), and the histogram's axes in their order. Values outside the
    edges take the outermost bins (flow `clamp`). correctionlib can't mark empty bins: they are 0,
    and the description has their number.

    Source of the format: correctionlib's schema v2.
    """
    from correctionlib import schemav2  # noqa: PLC0415 - as above

    contents = {
        "nominal": ratio.value,
        "stat_up": ratio.upper,
        "stat_down": np.maximum(ratio.lower, 0.0),
        **(variations or {}),
    }
    number = int(ratio.empty.sum())
    if number:
        description += f" {number} of {ratio.empty.size} bins are empty and hold 0."
    correction = schemav2.Correction(
        name=name,
        version=1,
        description=description,
        inputs=[
            schemav2.Variable(name="systematic", type="string", description="; ".join(contents)),
            *[
                schemav2.Variable(name=axis.name, type="real", description=axis.label)
                for axis in like.axes
            ],
        ],
        output=schemav2.Variable(name="rate", type="real"),
        data=schemav2.Category(
            nodetype="category",
            input="systematic",
            content=[
                schemav2.CategoryItem(
                    key=key,
                    value=schemav2.MultiBinning(
                        nodetype="multibinning",
                        inputs=[axis.name for axis in like.axes],
                        edges=[axis.edges.tolist() for axis in like.axes],
                        content=np.where(ratio.empty, 0.0, values).ravel().tolist(),
                        flow="clamp",
                    ),
                )
                for key, values in contents.items()
            ],
        ),
    )
    collection = schemav2.CorrectionSet(schema_version=2, corrections=[correction])
    with whole(path) as part:
        part.write_text(collection.model_dump_json(exclude_unset=True, indent=1) + "\n")
