"""The forms of profile and bundle files, as `popexd schema` prints them.

The files are read by `popexd.profile_file` and `popexd.bundle`, which say precisely what is wrong; these models only
describe the form, and a test holds them against what is read and written.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from popexd.protocol.payload import Payload

Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
SecondsByTier = dict[Literal["device", "edge", "cloud"], Seconds]


class Form(BaseModel):
    """A part of a file."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class LayerForm(Form):
    """One measured vertex."""

    name: str
    after: list[str] = Field(min_length=1, description="layers it reads, or 'input'; makes it a DAG")
    seconds: SecondsByTier
    output_bytes: Annotated[float, Field(ge=0)]


class ExitForm(Form):
    """One side branch."""

    name: str
    after: str
    seconds: SecondsByTier
    probability: Share = Field(default=0.0, description="of answering, given that it was evaluated")
    threshold: float | None = Field(default=None, description="from which, or for an entropy below which, it answers")
    threshold_by_quality: dict[str, float] = Field(default_factory=dict, description="by image-quality class")
    criterion: Literal["confidence", "entropy", "normalised-entropy"] = "confidence"
    classes: int = Field(default=2, ge=2, description="of the model; what an entropy is measured against")


class CodecForm(Form):
    """What it takes to ship one tensor with one codec."""

    bytes: Annotated[float, Field(ge=0)]
    encode_seconds: Seconds = 0.0
    decode_seconds: Seconds = 0.0
    accuracy: Share | None = None
    agreement: Share = 1.0


class JointForm(Form):
    """Per-sample confidences and correctness at every exit, `final` last."""

    exits: list[str]
    confidence: dict[str, list[float]]
    correct: dict[str, list[bool]]
    weights: list[float] | None = None
    quality: list[str] | None = Field(default=None, description="image-quality class of each sample")


class PowerForm(Form):
    """What the device draws above idle."""

    compute_watts: Annotated[float, Field(ge=0)] = 3.5
    transmit_watts: Annotated[float, Field(ge=0)] = 1.0


class ProfileFile(Payload):
    """A layer profile: input of `popexd plan`, `compare` and `simulate`."""

    SCHEMA: ClassVar[str] = "popexd/profile/1"
    model: str
    input_bytes: Annotated[float, Field(ge=0)]
    layers: list[LayerForm] = Field(min_length=1)
    exits: list[ExitForm] = Field(default_factory=list)
    input_seconds: SecondsByTier = Field(default_factory=dict)
    result_bytes: Annotated[float, Field(ge=0)] = 0.0
    codecs: dict[str, dict[str, CodecForm]] = Field(default_factory=dict, description="by 'input' or layer, and codec")
    joint: JointForm | None = None
    power: PowerForm | None = None


class TensorForm(Form):
    """Shape and type of a segment's output."""

    shape: list[int]
    dtype: str


class InputForm(Form):
    """What the first segment takes."""

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    channels: int = Field(gt=0)
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"


class SegmentForm(Form):
    """One ONNX file between two cut points."""

    name: str
    file: str
    after: list[str] = Field(min_length=1)
    output: TensorForm


class VariantForm(Form):
    """What a side branch has of its own for one image-quality class."""

    threshold: float | None = None
    temperature: float | None = Field(default=None, gt=0)
    file: str | None = Field(default=None, description="an expert branch")


class FinalForm(Form):
    """The network's own end."""

    temperature: float = Field(default=1.0, gt=0)


class QualityForm(Form):
    """A linear classifier of a frame's features."""

    classes: list[str]
    features: list[str]
    mean: list[float]
    scale: list[float]
    weights: list[list[float]]
    bias: list[float]
    agreement: Share
    shares: dict[str, Share] = Field(default_factory=dict, description="of a camera's frames, expected, by class")


class BranchForm(Form):
    """One side branch's ONNX file and when it answers."""

    name: str
    after: str
    file: str
    temperature: float = Field(default=1.0, gt=0)
    threshold: float
    criterion: Literal["confidence", "entropy", "normalised-entropy"] = "confidence"
    by_quality: dict[str, VariantForm] = Field(default_factory=dict)


class MeasuredCodecForm(Form):
    """A codec at a cut, measured on validation samples."""

    bytes: Annotated[float, Field(ge=0)]
    accuracy: Share
    agreement: Share


class BundleFile(Payload):
    """`bundle.json`: a model cut into segments, with what was measured of it."""

    SCHEMA: ClassVar[str] = "popexd/bundle/1"
    name: str
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 over the content")
    classes: list[str] = Field(min_length=2)
    input: InputForm
    segments: list[SegmentForm] = Field(min_length=1)
    exits: list[BranchForm] = Field(default_factory=list)
    final: FinalForm = Field(default_factory=FinalForm)
    quality: QualityForm | None = Field(default=None, description="how a frame's image-quality class is told")
    codecs: dict[str, dict[str, MeasuredCodecForm]] = Field(default_factory=dict)
    validation: dict[str, Any] = Field(description="file, samples, accuracy and shares per exit")
    training: dict[str, Any] = Field(default_factory=dict)


FILES: dict[str, type[Payload]] = {"profile": ProfileFile, "bundle": BundleFile}
