"""Ray clusters: connections, nodes, claims and submissions. Does not import `jobs`."""
