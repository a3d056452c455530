"""What is learnt while running: the link, the exits, the machine. Pure: fed with samples, `now` is an argument."""

from popexd.estimators.budget import ByteBudget
from popexd.estimators.exit_rates import ExitRates
from popexd.estimators.link import LinkEstimator, LinkSample
from popexd.estimators.median import RunningMedian
from popexd.estimators.quality_mix import QualityMix

__all__ = ["ByteBudget", "ExitRates", "LinkEstimator", "LinkSample", "QualityMix", "RunningMedian"]
