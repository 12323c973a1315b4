"""Read, call the pure core, record in MLflow, write. The only part of `ml` that does I/O."""

from ml.pipelines.backtesting import BACKTESTS, backtest, newest_origins
from ml.pipelines.embedding import SEQUENCE, embed, explain, look_alikes
from ml.pipelines.policies import read_policy, try_policy
from ml.pipelines.registry import ALIAS, promote, rollback
from ml.pipelines.reporting import REPORTS, keep_report, reason_names
from ml.pipelines.scoring import score
from ml.pipelines.tracking import REGISTERED
from ml.pipelines.training import TUNINGS, Trained, train, tune

__all__ = [
    "ALIAS",
    "BACKTESTS",
    "REGISTERED",
    "REPORTS",
    "SEQUENCE",
    "TUNINGS",
    "Trained",
    "backtest",
    "embed",
    "explain",
    "keep_report",
    "look_alikes",
    "newest_origins",
    "promote",
    "read_policy",
    "reason_names",
    "rollback",
    "score",
    "train",
    "try_policy",
    "tune",
]
