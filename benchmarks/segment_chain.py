"""The chain of segments against the whole model in one session, same threads, side by side in one run.

    python -m benchmarks.segment_chain [BUNDLE] [--threads N] [--rounds N]

Needs the extra `train`: onnx merges the segments into one model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime

from popexd import bundle
from popexd.bundle import Bundle
from popexd.runtime.segments import SegmentRunner, available_cores

GOAL = 1.08
WARM_UP = 5


@dataclass(frozen=True)
class ChainFigures:
    """Median seconds of a frame through the whole model and through the chain, and the median of their ratios.

    Where a session's memory happens to lie moves its time by several per cent, so both are loaded anew several times;
    `ratios` has one for each. In between they take turns, so that a busy machine slows both alike. `spinning_seconds`
    is the whole model under onnxruntime's default, which a daemon of many sessions cannot have.
    """

    model: str
    threads: int
    whole_seconds: float
    chain_seconds: float
    ratio: float
    ratios: tuple[float, ...]
    spinning_seconds: float
    goal: float = GOAL


def whole_model(source: Bundle) -> bytes:
    """Merge a bundle's segments into one ONNX model from "input" to the last segment's output."""
    import onnx
    from onnx import compose

    merged = None
    for index, segment in enumerate(source.segments):
        # Every segment may use the same names inside; only those of its inputs and output have a meaning outside.
        part = compose.add_prefix(onnx.load(segment.file), f"{index}/", rename_inputs=False, rename_outputs=False)
        joints = [(parent, parent) for parent in segment.after if parent != "input"]
        merged = part if merged is None else compose.merge_models(merged, part, io_map=joints)
    assert merged is not None
    serialised: bytes = merged.SerializeToString()
    return serialised


def measure(source: Bundle, threads: int = 0, rounds: int = 100, loads: int = 7) -> ChainFigures:
    """Time both, alternating, after checking that they agree."""
    model = whole_model(source)
    found = np.array([_medians(source, model, threads or available_cores(), rounds) for _ in range(loads)])
    ratios = found[:, 1] / found[:, 0]
    whole_seconds, chain_seconds, spinning_seconds = np.median(found, axis=0)
    return ChainFigures(
        model=source.name,
        threads=threads or available_cores(),
        whole_seconds=float(whole_seconds),
        chain_seconds=float(chain_seconds),
        ratio=float(np.median(ratios)),
        ratios=tuple(float(ratio) for ratio in ratios),
        spinning_seconds=float(spinning_seconds),
    )


def _medians(source: Bundle, model: bytes, threads: int, rounds: int) -> tuple[float, float, float]:
    """Load both and return the median seconds of the whole model, of the chain, and of the whole model spinning."""
    runner = SegmentRunner(source, threads)
    names = [segment.name for segment in source.segments]
    whole = _session(model, threads, spinning=False)
    spinning = _session(model, threads, spinning=True)
    shape = (1, source.input.height, source.input.width, source.input.channels)
    feeds = {"input": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)}

    def chain() -> Any:
        return runner.run(feeds, names)[names[-1]]

    def in_one_session() -> Any:
        return whole.run(None, feeds)[0]

    np.testing.assert_array_equal(chain(), in_one_session())
    whole_seconds, chain_seconds = [], []
    for _ in range((rounds + 1) // 2 + WARM_UP):
        whole_seconds.append(_seconds(in_one_session))
        chain_seconds += [_seconds(chain), _seconds(chain)]
        whole_seconds.append(_seconds(in_one_session))
    spun = [_seconds(lambda: spinning.run(None, feeds)) for _ in range(rounds // 2 + 2 * WARM_UP)]
    runner.close()
    medians = (float(np.median(times[2 * WARM_UP :])) for times in (whole_seconds, chain_seconds, spun))
    return next(medians), next(medians), next(medians)


def _session(model: bytes, threads: int, *, spinning: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Print the figures as one line and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="default")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    figures = measure(bundle.load(options.bundle), options.threads, options.rounds)
    print(
        f"{figures.model}, {figures.threads} threads: whole model {figures.whole_seconds * 1000:.3f} ms "
        f"(spinning {figures.spinning_seconds * 1000:.3f}), chain of segments {figures.chain_seconds * 1000:.3f} ms, "
        f"ratio {figures.ratio:.3f}, {min(figures.ratios):.3f} to {max(figures.ratios):.3f} over loads (at most {GOAL})"
    )
    print(json.dumps(asdict(figures)))


if __name__ == "__main__":
    main()
