"""Users' own metrics: a worker's snapshots of them, and all workers' snapshots made one."""
