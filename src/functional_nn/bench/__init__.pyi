from .benchmark import Benchmark as Benchmark
from .diagnose import Explanation as Explanation
from .diagnose import Finding as Finding
from .targets import TargetReport as TargetReport
from .targets import target as target
