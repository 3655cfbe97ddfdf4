from .diagnose.findings import Explanation as Explanation
from .diagnose.findings import Finding as Finding
from .measure.result import Benchmark as Benchmark
from .targets.report import TargetReport as TargetReport
from .targets.target import target as target
