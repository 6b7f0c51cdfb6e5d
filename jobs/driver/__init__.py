"""The driver of a run: read tasks, resources, coordinator, supervision, lease, progress and metrics."""
