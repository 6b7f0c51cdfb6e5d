"""What a job stores: object names, footers, the ledger, the identity of a job, the summary."""
