"""Real engines, one adapter each: they run or attach to a workload and return a Run, a record of what they saw."""
