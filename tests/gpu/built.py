"""Bundles with plans for the device at hand."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from internvl_edge.export.plans.build import BuildOptions, BuildReport, build_plans
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.engines import EngineRecord, require_engines
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.flavour import Flavour
from tests.gpu.plans import GraphPlans


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A bundle with plans that are for this device and library."""

    flavour: Flavour
    bundle: Path
    folder: Path
    """Of the plans."""
    record: EngineRecord
    model: InternVL
    """The same bundle on ONNX Runtime."""

    def load(self, graph: str, *, cuda_graph: bool = False) -> GraphPlans:
        """Return the plans of `graph`, on the device."""
        return GraphPlans(self.flavour, self.folder, self.record.graphs[graph], cuda_graph=cuda_graph)

    def plan_file(self, graph: str) -> Path:
        """Return the plan of a graph that is not cut."""
        (plan,) = self.record.graphs[graph].plans
        return self.folder / plan.file


def with_plans(folder: Path, target: Target, flavour: Flavour, options: BuildOptions) -> Built:
    """Build the plans of the bundle in `folder`."""
    return checked(folder, build_plans(Bundle.open(folder), target, flavour, options), flavour)


def checked(folder: Path, report: BuildReport, flavour: Flavour) -> Built:
    """Return the plans of a build, once their record says that they are for this bundle, library and device."""
    record = require_engines(
        Bundle.open(folder), report.folder, flavour=flavour.name, version=flavour.version, sm=report.target.sm
    )
    return Built(
        flavour=flavour, bundle=folder, folder=report.folder, record=record, model=InternVL.open(folder, "onnxruntime")
    )


def linked(bundle: Path, folder: Path) -> Path:
    """Return `folder`, made a bundle of the same files: plans of another library or option need one of their own."""
    shutil.copytree(bundle, folder, copy_function=os.link)
    return folder
