"""Where a job runs. Knows nothing of what runs."""
