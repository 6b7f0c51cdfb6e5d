"""What goes on beside the pipeline: tasks, resources, the coordinator, supervision, the lease, progress and metrics."""
